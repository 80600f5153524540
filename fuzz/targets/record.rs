//! See `entries::record`.

#![no_main]

#[path = "../../crates/snapshot/tests/entries/mod.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::record(bytes));
