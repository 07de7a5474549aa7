#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfygate_policy::fuzzing::expression(data));
