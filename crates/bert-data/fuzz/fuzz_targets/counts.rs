//! The entry `counts` of `bert_data::fuzzing` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bert_data_fuzz::feed("counts", data));
