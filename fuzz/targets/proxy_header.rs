#![no_main]

// The file alone: the gateway's crate would bring Pingora into every fuzzing build.
#[path = "../../proxy/src/listen/proxy_header.rs"]
mod proxy_header;

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy_header::check_any_bytes(data));
