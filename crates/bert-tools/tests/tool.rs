//! The tool `bert` as a process: what it prints, and its exit codes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

#[path = "tool/vectors.rs"]
mod vectors;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use bert_model::{HiddenAct, ModelConfig, ParameterLayout, hf, initial_bucket};
use bert_random::{Key, Purpose};
use serde_json::Value;
use tempfile::TempDir;

/// Twelve documents of a few sentences, the first lines of two Chinese classics among them.
const TEXT: &str = include_str!("text.txt");

/// The nine Chinese documents among them.
fn chinese_text() -> &'static str {
    TEXT.split("Four score").next().unwrap()
}

fn bert(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bert")).args(arguments).current_dir(dir).output().unwrap()
}

/// Runs the tool and returns what it printed.
#[track_caller]
fn succeeds(dir: &Path, arguments: &[&str]) -> String {
    let output = bert(dir, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bert {arguments:?} failed: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the tool, which must end with this exit code and one line of error that holds all `words`.
#[track_caller]
fn fails(dir: &Path, arguments: &[&str], exit_code: i32, words: &[&str]) {
    let output = bert(dir, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "bert {arguments:?}: {stderr}");
    assert_eq!(stderr.matches("error:").count(), 1, "one error, printed once: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "expected `{word}` in: {stderr}");
    }
}

/// A folder with text.txt and a vocabulary trained from it.
fn folder_with_vocabulary() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text.txt"), TEXT).unwrap();
    let train = [
        "vocab",
        "train",
        "--input",
        "text.txt",
        "--output",
        "vocab.txt",
        "--size",
        "300",
        "--lowercase",
        "true",
    ];
    let printed = succeeds(dir.path(), &train);
    assert!(printed.contains("wrote vocab.txt"), "{printed}");
    dir
}

const BUILD: [&str; 10] = [
    "shards",
    "build",
    "--input",
    "text.txt",
    "--output",
    "shards",
    "--tokenizer",
    "vocab.txt",
    "--language",
    "zh",
];

/// A configuration file over the text, from the one of the demo.
fn write_config(dir: &Path) -> PathBuf {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/demo.toml");
    let text = fs::read_to_string(demo).unwrap();
    let text = text.replace("data/demo/corpus.txt", "text.txt").replace("data/demo/", "");
    let path = dir.join("config.toml");
    fs::write(&path, text).unwrap();
    path
}

/// A model folder with initial weights for the vocabulary.
fn write_model(folder: &Path, vocabulary: &Path, seed: u64) {
    let config = ModelConfig {
        vocab_size: fs::read_to_string(vocabulary).unwrap().lines().count(),
        hidden_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        intermediate_size: 20,
        max_position_embeddings: 32,
        type_vocab_size: 2,
        hidden_act: HiddenAct::Gelu,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        layer_norm_eps: 1e-12,
        initializer_range: 0.02,
    };
    let layout = ParameterLayout::new(&config);
    let key = Key::new(seed, Purpose::Init);
    fs::create_dir_all(folder).unwrap();
    hf::save_folder(folder, &config, |bucket_idx, out| {
        out.copy_from_slice(&initial_bucket(&config, &layout.buckets[bucket_idx], key));
    })
    .unwrap();
    fs::copy(vocabulary, folder.join("vocab.txt")).unwrap();
}

#[test]
fn every_configuration_of_the_repository_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let config = bert_train::config::load(&path, &[]).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(config.run.name, name, "a run is named like its file");
        assert!(config.num_slots().is_power_of_two(), "{name}: equal bits at 1, 2, 4 .. ranks");
        names.push(name);
    }
    names.sort();
    let expected = [
        "base",
        "base-en",
        "classify-rotten-tomatoes",
        "demo",
        "large",
        "large-en",
        "mini",
        "mini-en",
        "small",
        "small-en",
        "tiny",
        "tiny-en",
    ];
    assert_eq!(names, expected);
}

#[test]
fn corpus_stats_counts_documents_sentences_and_unknown_tokens() {
    let dir = folder_with_vocabulary();
    let printed =
        succeeds(dir.path(), &["corpus", "stats", "--input", "text.txt", "--tokenizer", "vocab.txt"]);
    let value = |name: &str| {
        let line = printed.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].trim().to_string()
    };
    assert_eq!(value("documents"), "12");
    assert_eq!(value("sentences"), TEXT.lines().filter(|line| !line.is_empty()).count().to_string());
    assert!(value("[UNK]").starts_with("0 "), "{printed}");
}

#[test]
fn google_pairs_writes_an_instance_per_line() {
    let dir = folder_with_vocabulary();
    let pairs =
        ["corpus", "google-pairs", "--input", "text.txt", "--vocab", "vocab.txt", "--output", "pairs.jsonl"];
    let printed = succeeds(dir.path(), &pairs);
    let lines = fs::read_to_string(dir.path().join("pairs.jsonl")).unwrap();
    assert!(printed.contains(&format!("{} instances", lines.lines().count())), "{printed}");
    assert!(lines.lines().all(|line| line.starts_with("{\"tokens\": [\"[CLS]\", ")), "{lines}");
    fails(
        dir.path(),
        &[&pairs[..], &["--max-seq-length", "4"]].concat(),
        2,
        &["max_seq_length", "at least 5"],
    );
}

#[test]
fn shards_are_built_once_and_are_those_of_the_configuration() {
    let dir = folder_with_vocabulary();
    assert!(succeeds(dir.path(), &BUILD).starts_with("built"));
    assert!(succeeds(dir.path(), &BUILD).starts_with("already there"));
    let config = write_config(dir.path());
    let printed = succeeds(dir.path(), &["shards", "build", "--config", config.to_str().unwrap()]);
    assert!(
        printed.starts_with("already there"),
        "the options and the configuration mean the same: {printed}"
    );
    assert!(succeeds(dir.path(), &["shards", "verify", "shards"]).starts_with("whole"));
}

#[test]
fn shards_of_other_text_are_refused_unless_a_rebuild_is_asked_for() {
    let dir = folder_with_vocabulary();
    succeeds(dir.path(), &BUILD);
    fs::write(dir.path().join("text.txt"), format!("{TEXT}\n又一句。\n")).unwrap();
    fails(dir.path(), &BUILD, 3, &["shards", "text"]);
    let rebuild: Vec<&str> = BUILD.into_iter().chain(["--rebuild"]).collect();
    assert!(succeeds(dir.path(), &rebuild).starts_with("built"));
}

#[test]
fn audit_prints_figures_and_verdicts_and_writes_them_as_json() {
    let dir = folder_with_vocabulary();
    fs::write(dir.path().join("text.txt"), chinese_text()).unwrap();
    let config = write_config(dir.path());
    let arguments =
        ["audit", "--config", config.to_str().unwrap(), "--samples", "2000", "--json", "audit.json"];
    let printed = succeeds(dir.path(), &arguments);
    for words in ["documents             9,", "masked units", "pass    pair_labels", "passed: "] {
        assert!(printed.contains(words), "expected `{words}` in: {printed}");
    }
    let json = fs::read_to_string(dir.path().join("audit.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&report["passed"], &report["language"]), (&true.into(), &"zh".into()));
    assert_eq!(report["samples"]["num_samples"], 2000);
}

#[test]
fn audit_names_planted_faults_and_ends_with_3() {
    fn audit<'a>(config: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
        [&["audit", "--config", config, "--samples", "500"][..], extra].concat()
    }
    let dir = folder_with_vocabulary();
    let config = write_config(dir.path());
    let config = config.to_str().unwrap();
    let write = |text: &str| {
        fs::write(dir.path().join("text.txt"), text).unwrap();
        let _ = fs::remove_dir_all(dir.path().join("shards"));
    };
    write(&chinese_text().repeat(2));
    fails(dir.path(), &audit(config, &[]), 3, &["duplicate_documents", "duplicate_sentences"]);
    write(&chinese_text().replace("\n\n", "\n"));
    fails(dir.path(), &audit(config, &["--set", "data.validation_fraction=0"]), 3, &["checks: documents"]);
    write(&format!("{}\n\n话说[MASK]下大势。\n", chinese_text()));
    fails(dir.path(), &audit(config, &[]), 3, &["special_tokens_in_text"]);
    write(chinese_text());
    fails(dir.path(), &audit(config, &["--set", "data.language=\"en\""]), 3, &["checks: language"]);
    fails(dir.path(), &audit(config, &["--set", "data.language=\"fr\""]), 2, &["language"]);
}

#[test]
fn damaged_shards_are_named_and_a_rebuild_mends_them() {
    let dir = folder_with_vocabulary();
    succeeds(dir.path(), &BUILD);
    let rebuild: Vec<&str> = BUILD.into_iter().chain(["--rebuild"]).collect();
    for name in ["shard-00000.bin", "shard-00000.idx", "shard-00000.words", "manifest.json"] {
        let file = dir.path().join("shards").join(name);
        let good = fs::read(&file).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 2]] {
            fs::write(&file, bad).unwrap();
            fails(dir.path(), &["shards", "verify", "shards"], 3, &[name, "expected", "--rebuild"]);
            assert!(succeeds(dir.path(), &rebuild).starts_with("built"), "{name}");
            assert_eq!(fs::read(&file).unwrap(), good);
        }
        fs::remove_file(&file).unwrap();
        fails(
            dir.path(),
            &["shards", "verify", "shards"],
            if name == "manifest.json" { 2 } else { 3 },
            &[name],
        );
        fs::write(&file, good).unwrap();
    }
    assert!(succeeds(dir.path(), &BUILD).starts_with("already there"));
}

#[test]
fn shards_of_another_tokenizer_language_or_lexicon_are_refused_by_name() {
    let dir = folder_with_vocabulary();
    succeeds(dir.path(), &BUILD);
    let other = |from: &str, to: &'static str| BUILD.map(|word| if word == from { to } else { word });
    fails(dir.path(), &other("zh", "en"), 3, &["language", "expected En, got Zh", "--rebuild"]);
    fs::write(dir.path().join("lexicon.txt"), "天下大势\n").unwrap();
    let lexicon: Vec<&str> = BUILD.into_iter().chain(["--lexicon", "lexicon.txt"]).collect();
    fails(dir.path(), &lexicon, 3, &["lexicon", "got none", "--rebuild"]);
    let vocabulary = fs::read_to_string(dir.path().join("vocab.txt")).unwrap();
    fs::write(dir.path().join("other.txt"), vocabulary + "zzz\n").unwrap();
    fails(dir.path(), &other("vocab.txt", "other.txt"), 3, &["tokenizer", "--rebuild"]);
    let newer = r#"{"format_version": 7}"#;
    fs::write(dir.path().join("shards/manifest.json"), newer).unwrap();
    fails(dir.path(), &["shards", "verify", "shards"], 3, &["version", "expected 2, got 7", "--rebuild"]);
}

#[test]
fn fill_mask_prints_the_guesses_of_every_mask() {
    let dir = folder_with_vocabulary();
    write_model(&dir.path().join("model"), &dir.path().join("vocab.txt"), 5);
    let text = "话说[MASK]下大势，分久必[MASK]。";
    let printed = succeeds(dir.path(), &["fill-mask", "--model", "model", "--top", "3", text]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    assert_eq!(lines[0], text);
    assert!(lines[1].starts_with("  [MASK] 1: ") && lines[2].starts_with("  [MASK] 2: "), "{printed}");
    assert_eq!(lines[1].matches('%').count(), 3, "{printed}");
}

#[test]
fn fill_mask_writes_the_same_guesses_as_json() {
    let dir = folder_with_vocabulary();
    write_model(&dir.path().join("model"), &dir.path().join("vocab.txt"), 5);
    let texts = ["话说[MASK]下大势，分久必[MASK]。", "[MASK]"];
    let arguments = ["fill-mask", "--model", "model", "--top-k", "2", texts[0], texts[1]];
    let printed = succeeds(dir.path(), &arguments);
    let json = succeeds(dir.path(), &[&arguments[..], &["--json"]].concat());
    let objects: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2);
    let mut masks = Vec::new();
    for (object, text) in objects.iter().zip(texts) {
        assert_eq!(object["text"], text);
        masks.extend(object["masks"].as_array().unwrap().clone());
    }
    let guesses: Vec<&str> = printed.lines().filter(|line| line.starts_with("  [MASK]")).collect();
    assert_eq!(guesses.len(), 3, "{printed}");
    for (line, mask) in guesses.iter().zip(&masks) {
        assert_eq!(mask.as_array().unwrap().len(), 2);
        let best = &mask[0];
        let expected = format!(
            ": {} {:.1} %,",
            best["token"].as_str().unwrap(),
            best["probability"].as_f64().unwrap() * 100.0
        );
        assert!(line.contains(&expected), "expected `{expected}` in `{line}`");
    }
}

#[test]
fn fill_mask_refuses_what_it_cannot_do() {
    let dir = folder_with_vocabulary();
    write_model(&dir.path().join("model"), &dir.path().join("vocab.txt"), 5);
    fails(dir.path(), &["fill-mask", "--model", "model", "没有"], 2, &["[MASK]"]);
    let long = format!("[MASK]{}", "下".repeat(40));
    fails(dir.path(), &["fill-mask", "--model", "model", &long], 2, &["43 tokens", "at most 32"]);
    fails(dir.path(), &["fill-mask", "--model", "absent", "[MASK]"], 3, &["absent"]);
    fs::write(dir.path().join("model/model.safetensors"), [7; 30]).unwrap();
    fails(dir.path(), &["fill-mask", "--model", "model", "[MASK]"], 3, &["model.safetensors"]);
}

#[test]
fn checkpoint_diff_tells_equal_from_different() {
    let dir = folder_with_vocabulary();
    let vocabulary = dir.path().join("vocab.txt");
    for (name, seed) in [("one", 5), ("same", 5), ("other", 6)] {
        write_model(&dir.path().join(name), &vocabulary, seed);
    }
    let printed = succeeds(dir.path(), &["checkpoint", "diff", "one", "same"]);
    assert!(printed.contains(", 0 differ"), "{printed}");
    fails(dir.path(), &["checkpoint", "diff", "one", "other"], 1, &["differ"]);
}

#[test]
fn report_needs_a_run_with_an_evaluation() {
    let dir = tempfile::tempdir().unwrap();
    fails(dir.path(), &["report", "--summary", "runs/none"], 2, &["runs/none", "metrics.jsonl"]);
    fs::write(dir.path().join("metrics.jsonl"), "{\"step\":").unwrap();
    fails(dir.path(), &["report", "--summary", "."], 3, &["line 1", "metrics.jsonl"]);
}

#[test]
fn usage_errors_end_with_2_and_name_what_is_wrong() {
    let dir = folder_with_vocabulary();
    assert_eq!(bert(dir.path(), &["vocab", "tarin"]).status.code(), Some(2));
    assert_eq!(bert(dir.path(), &["shards", "build", "--input", "text.txt"]).status.code(), Some(2));
    fails(dir.path(), &["checkpoint", "list", "absent"], 2, &["absent"]);
    fails(dir.path(), &["corpus", "stats", "--input", "absent.txt"], 2, &["absent.txt"]);
    let train =
        ["vocab", "train", "--input", "text.txt", "--output", "v.txt", "--size", "4", "--lowercase", "true"];
    fails(dir.path(), &train, 2, &["vocab_size"]);
    fs::write(dir.path().join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n下\n").unwrap();
    fails(dir.path(), &BUILD, 2, &["[MASK]", "vocab.txt"]);
}
