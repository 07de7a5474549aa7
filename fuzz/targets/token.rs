#![no_main]

// The file alone: the gateway's crate would bring Pingora into every fuzzing build.
#[path = "../../proxy/src/authenticate/jwt_parts.rs"]
mod jwt_parts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| jwt_parts::check_any_bytes(data));
