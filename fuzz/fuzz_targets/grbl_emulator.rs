//! libFuzzer into `targets::grbl_emulator`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::run("grbl_emulator", input));
