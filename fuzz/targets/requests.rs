//! libFuzzer's way to [`conch_fuzz::requests`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| conch_fuzz::requests(input));
