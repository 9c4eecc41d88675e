//! See `bridge-common/tests/reference/fuzz.rs`.
#![no_main]

#[path = "../reference.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reference::run("decision", bytes));
