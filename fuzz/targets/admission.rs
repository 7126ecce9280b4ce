//! libFuzzer's way to [`conch_fuzz::admission`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| conch_fuzz::admission(input));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    conch_fuzz::mutate::json(data, size, max_size, seed)
        .unwrap_or_else(|| libfuzzer_sys::fuzzer_mutate(data, size, max_size))
});
