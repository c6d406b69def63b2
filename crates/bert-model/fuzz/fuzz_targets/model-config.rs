//! The entry `model-config` of `bert_model::hf::fuzzing` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bert_model_fuzz::feed("model-config", data));
