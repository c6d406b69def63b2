//! One tiny model in every format that is read, and files that lie about themselves.
//!
//! The files and the expected logits were made by `golden/tiny/tiny.py` with torch 2.9.0 and transformers 4.57.6.
#![allow(clippy::unwrap_used, reason = "a test may fail in the shortest way")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use bert_model::{
    BackendKind, ModelConfig, PretrainBatch, PretrainModel, TokenBatch,
    hf::{self, Allowed, LoadedModel, Source},
};
use bert_random::{Key, Purpose};
use tempfile::TempDir;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny")
}

fn source(file: &str) -> Source {
    Source::file(&golden().join(file))
}

fn load(file: &str) -> LoadedModel {
    hf::load(&source(file), &Allowed::NOTHING).unwrap()
}

fn bits(buckets: &[Vec<f32>]) -> Vec<u32> {
    buckets.iter().flatten().map(|value| value.to_bits()).collect()
}

#[test]
fn every_format_gives_the_same_bits() {
    let expected = load("model.safetensors");
    assert_eq!(
        hf::load_folder(&golden()).unwrap(),
        (expected.config.model().clone(), expected.buckets.clone())
    );
    assert!(expected.buckets.iter().flatten().any(|&value| value > 1.5), "values as the script made them");
    for file in ["zip.bin", "legacy.bin", "strided.bin", "half.safetensors", "bf16.safetensors", "google.npz"]
    {
        let loaded = load(file);
        assert_eq!(bits(&loaded.buckets), bits(&expected.buckets), "{file}");
        assert!(loaded.initialised.is_empty() && loaded.left_out.is_empty(), "{file}");
    }
}

#[test]
fn the_configuration_of_google_lacks_only_what_its_code_fixes() {
    let google = Source { config: golden().join("bert_config.json"), tensors: golden().join("google.npz") };
    let loaded = hf::load(&google, &Allowed::NOTHING).unwrap();
    assert_eq!(loaded.config.model(), load("model.safetensors").config.model());
}

#[test]
fn logits_are_those_of_transformers() {
    let loaded = load("model.safetensors");
    let model =
        PretrainModel::from_buckets(loaded.config.model(), &loaded.buckets, BackendKind::Flex).unwrap();
    let (input_ids, token_type_ids, lengths) =
        ([2, 9, 4, 3, 8, 30, 3, 2, 5, 3, 7, 3, 0, 0], [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0], [7, 5]);
    let batch = PretrainBatch {
        num_rows: 2,
        row_len: 7,
        input_ids: &input_ids,
        token_type_ids: &token_type_ids,
        lengths: &lengths,
        mlm_positions: &[1, 4, 10],
        mlm_labels: &[0, 0, 0],
        nsp_labels: &[],
    };
    let tokens = TokenBatch {
        num_rows: 2,
        row_len: 7,
        input_ids: &input_ids,
        token_type_ids: &token_type_ids,
        lengths: &lengths,
    };
    let text = fs::read_to_string(golden().join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, got) in
        [("mlm", model.masked_logits(&batch).unwrap()), ("nsp", model.nsp_logits(&tokens).unwrap())]
    {
        let rows: Vec<Vec<f32>> = serde_json::from_value(expected[name].clone()).unwrap();
        let expected = rows.concat();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() < 2e-5, "{name}: {got} instead of {expected}");
        }
    }
}

#[test]
fn a_folder_with_pytorch_model_bin_alone_is_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden().join("config.json"), folder.path().join(hf::CONFIG_FILE)).unwrap();
    fs::copy(golden().join("zip.bin"), folder.path().join(hf::TORCH_FILE)).unwrap();
    assert_eq!(bits(&hf::load_folder(folder.path()).unwrap().1), bits(&load("zip.bin").buckets));
}

/// A changed copy of a golden file, beside a copy of its configuration.
fn changed(file: &str, change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, Source) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden().join("config.json"), folder.path().join(hf::CONFIG_FILE)).unwrap();
    let mut bytes = fs::read(golden().join(file)).unwrap();
    change(&mut bytes);
    let path = folder.path().join(file);
    fs::write(&path, bytes).unwrap();
    (folder, Source::file(&path))
}

#[track_caller]
fn refused(file: &str, change: impl FnOnce(&mut Vec<u8>), words: &str) {
    let (_folder, source) = changed(file, change);
    let error = hf::load(&source, &Allowed::NOTHING).unwrap_err();
    let message = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    assert!(message.contains(words), "expected `{words}` in: {message}");
}

/// Replaces the first occurrence of some bytes by as many others.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the bytes are there");
    bytes[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn a_pickle_that_would_run_code_is_refused() {
    let rename = |from: &'static [u8], to: &'static [u8]| move |bytes: &mut Vec<u8>| replace(bytes, from, to);
    for file in ["zip.bin", "legacy.bin"] {
        let to = b"ctorch._utils\n_rebuild_evil____v2\n";
        let from = b"ctorch._utils\n_rebuild_tensor_v2\n";
        refused(file, rename(from, &to[..from.len()]), "no code to run");
        refused(
            file,
            rename(b"ccollections\nOrderedDict\n", b"ccollections\nOrderedEvil\n"),
            "got collections",
        );
        // The opcode of a call by keyword, and that of an unknown one.
        refused(file, rename(b"ccollections", b"\x92collections"), "opcode 0x92");
    }
}

#[test]
fn a_pickle_that_lies_about_sizes_is_refused() {
    // `BININT1 37, BININT1 12, TUPLE2`: the shape of the word table.
    let grow = |bytes: &mut Vec<u8>| replace(bytes, b"K%K\x0c\x86", b"K\xffK\xff\x86");
    for file in ["zip.bin", "legacy.bin"] {
        refused(file, grow, "inside of a storage of 1776 bytes");
        // The length of the first text: larger than the file, than memory, and than any name.
        let text = |bytes: &mut Vec<u8>| replace(bytes, b"X\x07\0\0\0storage", b"X\xff\xff\xff\xffstorage");
        refused(file, text, "text of at most 4096 bytes, got 4294967295 bytes");
        // A memo entry far beyond the last one.
        let memo = |bytes: &mut Vec<u8>| replace(bytes, b"storageq", b"storager");
        refused(file, memo, "memo entry");
    }
    refused("zip.bin", |bytes| replace(bytes, b"PK\x01\x02", b"PK\x01\x03"), "an entry of a ZIP directory");
    refused("zip.bin", |bytes| bytes.truncate(20_000), "was it cut?");
    refused("legacy.bin", |bytes| bytes.truncate(20_000), "up to byte");
    refused("legacy.bin", |bytes| bytes.truncate(300), "a whole pickle");
    refused("legacy.bin", |bytes| bytes[4] ^= 1, "expected a file of torch.save, got another pickle");
}

#[test]
fn an_archive_that_lies_about_sizes_is_refused() {
    let end = |bytes: &[u8]| bytes.windows(4).rposition(|window| window == b"PK\x05\x06").unwrap();
    let first = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    for file in ["zip.bin", "google.npz"] {
        let directory = |bytes: &mut Vec<u8>| {
            let at = end(bytes);
            bytes[at + 12..at + 16].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
        };
        refused(file, directory, "a directory inside of the archive");
        let entry = |bytes: &mut Vec<u8>| {
            let at = first(bytes);
            bytes[at + 20..at + 24].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
        };
        refused(file, entry, "with 2147483647 bytes at");
        let compressed = |bytes: &mut Vec<u8>| {
            let at = first(bytes);
            bytes[at + 10] = 8;
        };
        refused(file, compressed, "compressed");
    }
    refused(
        "google.npz",
        |bytes| replace(bytes, b"(37, 12)", b"(37, 99)"),
        "as many bytes as the shape needs",
    );
    let overflow = |bytes: &mut Vec<u8>| replace(bytes, b"(37, 12), }   ", b"(999999999,9)}");
    refused("google.npz", overflow, "as many bytes as the shape needs");
}

#[test]
fn a_safetensors_header_that_lies_is_refused() {
    let edit = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| replace(bytes, from.as_bytes(), to.as_bytes())
    };
    refused("model.safetensors", edit("[37,12]", "[99,99]"), "is damaged or not a safetensors file");
    refused("model.safetensors", |bytes| bytes[7] = 0x7f, "header too large");
    refused("model.safetensors", |bytes| bytes[2] = 0x7f, "invalid header length");
    refused("half.safetensors", edit("\"F16\"", "\"F32\""), "is damaged or not a safetensors file");
    refused("half.safetensors", edit("\"F16\"", "\"I16\""), "got another type of 2 bytes");
}

#[test]
fn a_configuration_that_lies_is_refused_before_anything_is_allocated() {
    for (from, to, words) in [
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 200000000", "at most 4096"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4096", "missing (65504)"),
        ("\"vocab_size\": 37", "\"vocab_size\": 268435456", "expected F32 [268435456, 12], got F32 [37, 12]"),
        ("\"model_type\": \"bert\"", "\"model_type\": \"albert\"", "model_type: expected bert, got albert"),
        ("\"hidden_act\": \"gelu\"", "\"hidden_act\": \"swish\"", "unknown variant `swish`"),
    ] {
        let (folder, source) = changed("model.safetensors", |_| {});
        let path = folder.path().join(hf::CONFIG_FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let key = Key::new(1, Purpose::Init);
        // The heads may be missing: their sizes come from the configuration alone.
        let allowed =
            Allowed { missing: &|name| name.starts_with("cls."), init_key: Some(key), ..Allowed::NOTHING };
        let error = hf::load(&source, &allowed).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{error}: {cause}").contains(words), "{error}: {cause}");
    }
}

#[test]
fn a_configuration_is_written_as_it_was_read() {
    let read = hf::ConfigFile::read(&golden().join("config.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let buckets = load("model.safetensors").buckets;
    let save = |config: &hf::ConfigFile| {
        hf::save_folder_as(folder.path(), config, |idx, out| out.copy_from_slice(&buckets[idx])).unwrap();
        fs::read_to_string(folder.path().join(hf::CONFIG_FILE)).unwrap()
    };
    let original = fs::read_to_string(golden().join("config.json")).unwrap();
    let vocab_size = read.model().vocab_size;
    assert_eq!(save(&read.for_pretraining(vocab_size)), original);

    // Keys of which nothing is known here stay, in their order, when others change.
    fs::write(folder.path().join("odd.json"), original.replace("\"BertForPreTraining\"", "\"BertModel\""))
        .unwrap();
    let odd = hf::ConfigFile::read(&folder.path().join("odd.json")).unwrap().for_pretraining(vocab_size);
    let written: serde_json::Value = serde_json::from_str(&save(&odd)).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(&original).unwrap());
    let first_key = |text: &str| text.split('"').nth(1).unwrap().to_owned();
    assert_eq!(first_key(&save(&odd)), first_key(&original));
}

#[test]
fn a_layout_depends_on_nothing_but_the_configuration() {
    let config: ModelConfig = hf::load_config(&golden()).unwrap();
    assert_eq!((config.vocab_size, config.hidden_size, config.num_hidden_layers), (37, 12, 2));
    assert_eq!((config.intermediate_size, config.max_position_embeddings), (20, 11));
}
