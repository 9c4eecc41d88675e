//! See `bridge_user::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bridge_user::fuzz::run("undo", bytes));
