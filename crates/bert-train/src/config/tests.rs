//! Tests of the configuration: the files in `configs/`, overrides, and every refusal.

use std::{fs, path::PathBuf};

use super::{
    Config, ConfigError, TaskSection, Threads,
    fingerprint::{config_hash, differences, numeric_keys},
    load::parse,
    schema::SCHEMA,
    task::CLASSIFY_KEYS,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

fn demo() -> String {
    fs::read_to_string(folder().join("demo.toml")).unwrap()
}

fn load_demo(overrides: &[&str]) -> Result<Config, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    parse(&demo(), "demo.toml", &overrides)
}

#[track_caller]
fn check_refused(overrides: &[&str], expected: &[&str]) {
    let message = load_demo(overrides).unwrap_err().to_string();
    for part in expected {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

#[test]
fn every_file_in_configs_is_valid() {
    let mut num_files = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        super::load(&path, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        num_files += 1;
    }
    assert!(num_files >= 12, "only {num_files} files");
}

#[test]
fn the_list_of_keys_is_that_of_the_types() {
    let value = serde_json::to_value(load_demo(&[]).unwrap()).unwrap();
    let sections: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(sections, SCHEMA.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (section, keys) in SCHEMA {
        let found: Vec<&String> = value[*section].as_object().unwrap().keys().collect();
        assert_eq!(&found, keys, "[{section}]");
    }
}

#[test]
fn the_printed_configuration_reads_back_the_same() {
    let config = load_demo(&["run.threads_per_rank=3"]).unwrap();
    assert_eq!(config.run.threads_per_rank, Threads::Count(3));
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text, "printed", &[]).unwrap(), config);
}

#[test]
fn a_classifier_has_its_own_keys_and_may_leave_out_what_it_does_not_read() {
    let load = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        super::load(&folder().join("classify-rotten-tomatoes.toml"), &overrides)
    };
    let refused = |overrides: &[&str]| load(overrides).unwrap_err().to_string();
    let config = load(&["task.pooling=last2-mean", "task.labels=[\"a\", \"b\", \"c\"]"]).unwrap();
    let TaskSection::Classify(section) = &config.task else { panic!("another task") };
    assert_eq!((section.pooling.name(), section.labels.len()), ("last2-mean", 3));
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text, "printed", &[]).unwrap(), config);
    let keys: Vec<String> =
        serde_json::to_value(&config.task).unwrap().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys[1..], *CLASSIFY_KEYS);

    assert!(refused(&["task.text_colum=x"]).contains("`task.text_colum`; did you mean `text_column`?"));
    assert!(refused(&["task.pooling=middle"]).contains("first-last-mean"));
    assert!(refused(&["task.label_column="]).contains("task.label_column"));
    assert!(refused(&["train.eval_max_batches=3"]).contains("all validation rows"));
    assert!(refused(&["task.classifier_dropout=1.5"]).contains("task.classifier_dropout"));
    check_refused(&["task.train=x.tsv"], &["task.train"]);
    let hash = |overrides: &[&str]| config_hash(&load(overrides).unwrap()).unwrap();
    assert_eq!(hash(&["task.test=elsewhere.tsv"]), hash(&[]));
    assert_ne!(hash(&["task.pooling=cls"]), hash(&[]));
}

#[test]
fn a_classifier_without_one_of_its_keys_is_told_which() {
    let text = fs::read_to_string(folder().join("classify-rotten-tomatoes.toml")).unwrap();
    for (key, section) in [("select_by", "task"), ("max_seq_length", "data"), ("text_pair_column", "task")] {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        let message = parse(&text.replace(line, ""), "own.toml", &[]).unwrap_err().to_string();
        assert!(message.contains(&format!("`{section}.{key}` is missing")), "{message}");
    }
    let message =
        parse(&text.replace("seed = 1 ", "seed = \"many\" "), "own.toml", &[]).unwrap_err().to_string();
    assert!(message.contains("seed"), "{message}");
}

#[test]
fn overrides_replace_values_of_every_type() {
    let config = load_demo(&[
        "run.name=second",
        "schedule.total_steps=7",
        "schedule.peak_learning_rate=1",
        "masking.replace.mask=0.7",
        "masking.replace.keep=0.2",
        "data.lowercase=false",
        "masking.ngram_weights=[1.0, 2.0]",
        "checkpoint.resume=never",
    ])
    .unwrap();
    assert_eq!(config.run.name, "second");
    assert_eq!(config.schedule.total_steps, 7);
    assert_eq!(config.schedule.peak_learning_rate, 1.0);
    assert_eq!(config.masking.replace.mask, 0.7);
    assert!(!config.data.lowercase);
    assert_eq!(config.masking.ngram_weights, [1.0, 2.0]);
}

#[test]
fn weights_of_ngrams_are_a_list_or_a_name() {
    let albert = load_demo(&["masking.strategy=ngram", "masking.ngram_weights=albert"]).unwrap();
    assert_eq!(albert.masking.ngram_weights, [6.0, 3.0, 2.0]);
    let macbert = load_demo(&["masking.ngram_weights=\"macbert\""]).unwrap();
    assert_eq!(macbert.masking.ngram_weights, [0.4, 0.3, 0.2, 0.1]);
    let list = load_demo(&["masking.strategy=ngram", "masking.ngram_weights=[6, 3, 2]"]).unwrap();
    assert_eq!(config_hash(&albert).unwrap(), config_hash(&list).unwrap());
    let text = demo().replace("ngram_weights = [0.4, 0.3, 0.2, 0.1]", "ngram_weights = \"albert\"");
    assert_eq!(parse(&text, "demo.toml", &[]).unwrap().masking.ngram_weights, [6.0, 3.0, 2.0]);
    check_refused(&["masking.ngram_weights=bert"], &["masking.ngram_weights", "bert", "albert", "macbert"]);
    check_refused(&["masking.ngram_weights=3"], &["albert", "a list of weights"]);
}

#[test]
fn a_misspelt_key_is_named_with_its_nearest_neighbour() {
    let text = demo().replace("hidden_size =", "hiden_size =");
    let message = parse(&text, "demo.toml", &[]).unwrap_err().to_string();
    assert!(message.contains("`model.hiden_size`; did you mean `hidden_size`?"), "{message}");
    check_refused(&["train.globl_batch_size=8"], &["train.globl_batch_size", "`global_batch_size`"]);
    check_refused(&["trian.global_batch_size=8"], &["[trian]", "`train`"]);
}

#[test]
fn a_missing_key_is_named() {
    let text = demo().replace("seed = 12345", "");
    let message = parse(&text, "demo.toml", &[]).unwrap_err().to_string();
    assert!(message.contains("`run.seed` is missing"), "{message}");
}

#[test]
fn a_wrong_type_is_reported_with_its_line() {
    let text = demo().replace("seed = 12345", "seed = \"many\"");
    let message = parse(&text, "demo.toml", &[]).unwrap_err().to_string();
    assert!(message.contains("line ") && message.contains("seed"), "{message}");
    check_refused(&["train.precision=f16"], &["f16", "f32"]);
}

#[test]
fn values_out_of_range_are_refused_with_what_is_expected() {
    check_refused(&["masking.mlm_probability=1.5"], &["masking.mlm_probability", "1.5", "0.9"]);
    check_refused(
        &["train.global_batch_size=65"],
        &["train.global_batch_size", "65", "multiple of train.micro_batch_size"],
    );
    check_refused(&["data.max_seq_length=513"], &["data.max_seq_length", "513", "512"]);
    check_refused(&["model.num_attention_heads=3"], &["model.num_attention_heads", "divisor", "128"]);
    check_refused(&["masking.replace.mask=0.9"], &["masking.replace", "add up to 1"]);
    check_refused(&["run.name=a/b"], &["run.name", "plain folder name"]);
    check_refused(&["schedule.total_steps=0"], &["schedule.total_steps", "above 0"]);
    check_refused(&["train.micro_batch_size=0"], &["train.micro_batch_size", "above 0"]);
    check_refused(&["model.hidden_act=swish"], &["model.hidden_act", "swish", "relu"]);
    check_refused(&["data.order=random"], &["random", "global", "blocks"]);
    check_refused(&["data.sources=[]"], &["data.sources", "at least one"]);
    check_refused(&["data.sources=[7]"], &["expected a path"]);
    for weight in ["0", "-1.0", "nan", "inf", "1000.0"] {
        let sources = format!("data.sources=[\"a\", {{ path = \"b\", weight = {weight} }}]");
        check_refused(&[&sources], &["data.sources", "for `b`", "from 0.000001 to 100"]);
    }
    check_refused(&["data.sources=[{ path = \"a\", wieght = 2.0 }]"], &["expected a path", "weight = 2.0"]);
}

#[test]
fn overrides_that_are_none_are_refused() {
    check_refused(&["run.name"], &["--set run.name", "section.key=value"]);
    check_refused(&["name=x"], &["--set name=x", "section.key=value"]);
    check_refused(&["masking.replace.mass=0.5"], &["no part `mass`"]);
}

#[test]
fn only_keys_that_change_numbers_are_hashed() {
    let hash = |overrides: &[&str]| config_hash(&load_demo(overrides).unwrap()).unwrap();
    let base = hash(&[]);
    for free in [
        "run.name=x",
        "run.threads_per_rank=1",
        "checkpoint.keep_last=9",
        "distributed.overlap=false",
        "distributed.optimizer_state=replicated",
        "distributed.timeout_seconds=7",
        "log.level=debug",
    ] {
        assert_eq!(hash(&[free]), base, "{free}");
    }
    for binding in [
        "run.seed=1",
        "train.micro_batch_size=16",
        "optimizer.epsilon=1e-8",
        "schedule.total_steps=9",
        "data.order=blocks",
        "distributed.wire=bf16",
    ] {
        assert_ne!(hash(&[binding]), base, "{binding}");
    }
}

#[test]
fn weights_of_sources_are_compared_and_their_places_are_not() {
    let load = |sources: &str| load_demo(&[&format!("data.sources={sources}")]).unwrap();
    let config = load("[\"a.txt\", { path = \"b/*.jsonl\", weight = 2 }, { path = \"c\" }]");
    let found: Vec<_> = config.data.sources.iter().map(|source| (source.path(), source.weight())).collect();
    assert_eq!(found, [("a.txt", 1.0), ("b/*.jsonl", 2.0), ("c", 1.0)]);
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text, "printed", &[]).unwrap(), config);
    let keys = |sources: &str| numeric_keys(&load(sources)).unwrap();
    assert_eq!(keys("[\"x\", { path = \"y\", weight = 1.0 }]"), keys("[\"p\", \"q\"]"));
    let found = differences(&keys("[\"x\"]"), &keys("[{ path = \"x\", weight = 0.5 }]"));
    assert_eq!(found, ["data.sources: [{\"weight\":1.0}] -> [{\"weight\":0.5}]"]);
}

#[test]
fn differences_name_the_keys() {
    let keys = |overrides: &[&str]| numeric_keys(&load_demo(overrides).unwrap()).unwrap();
    let found = differences(&keys(&[]), &keys(&["run.seed=1", "optimizer.epsilon=1e-8"]));
    assert_eq!(found, ["run.seed: 12345 -> 1", "optimizer.epsilon: 1e-6 -> 1e-8"]);
}
