//! A classifier as a run: what it learns, what it leaves behind, and what it refuses.

use std::{fs, path::Path, process::Command};

use bert_train::class_metrics::ClassMetrics;
use serde_json::Value;

use crate::support::{BERT_TRAIN, Workspace, process::run};

/// Enough to tell Chinese sentences from English ones.
const LEARNS: [&str; 2] = ["schedule.total_steps=120", "train.eval_every_steps=20"];

fn json_lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn check_refused(workspace: &Workspace, overrides: &[&str], exit_code: i32, parts: &[&str]) {
    run(workspace.solo("refused", overrides)).expect_code(exit_code).expect_error(parts);
}

#[test]
fn the_best_checkpoint_is_kept_and_judged_on_the_test_rows() {
    let workspace = Workspace::labelled();
    run(workspace.solo("learns", &LEARNS)).expect_code(0);
    let evals = workspace.metrics("learns", "eval");
    assert_eq!(evals.len(), 6);
    let best = evals.iter().fold(&evals[0], |best, line| {
        if line["macro_f1"].as_f64() > best["macro_f1"].as_f64() { line } else { best }
    });
    let last = workspace.metrics("learns", "test").pop().unwrap();
    assert_eq!(last["best_step"], best["step"]);
    assert_eq!(last["rows"], 30);
    assert!(last["accuracy"].as_f64().unwrap() > 0.95, "{last}");
    assert!(last["accuracy"].as_f64() > last["majority_accuracy"].as_f64(), "{last}");

    let checkpoints = workspace.run_dir("learns").join("checkpoints");
    let state: Value =
        serde_json::from_str(&fs::read_to_string(checkpoints.join("best/state.json")).unwrap()).unwrap();
    assert_eq!((&state["step"], &state["best"]["step"]), (&best["step"], &best["step"]));
    // One is kept beside the best one.
    let num_kept =
        fs::read_dir(&checkpoints).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    let num_links = 2;
    assert!(num_kept - num_links <= 2, "{num_kept} entries");

    let predictions = json_lines(&workspace.run_dir("learns").join("predictions-test.jsonl"));
    let correct = predictions.iter().filter(|line| line["label"] == line["predicted"]).count();
    assert_eq!(correct as f64 / 30.0, last["accuracy"].as_f64().unwrap());
    assert!(predictions.iter().enumerate().all(|(idx, line)| line["index"] == idx));
    let metrics: ClassMetrics = serde_json::from_value(last).unwrap();
    assert_eq!(metrics.confusion.iter().flatten().sum::<u64>(), 30);

    // Once done, it stays done: no second line, the same predictions.
    run(workspace.solo("learns", &LEARNS)).expect_code(0);
    assert_eq!(workspace.metrics("learns", "test").len(), 1);
}

#[test]
fn empty_and_long_texts_are_read_counted_and_reported() {
    let workspace = Workspace::labelled();
    let path = workspace.path("validation.tsv");
    let text = fs::read_to_string(&path).unwrap() + "hanzi\t\nhanzi\t" + &"曹".repeat(50) + "\n";
    fs::write(&path, text).unwrap();
    let finished = run(workspace.solo("counted", &["schedule.total_steps=2"])).expect_code(0);
    for part in [
        "1 validation rows are longer than data.max_seq_length = 32: 20 tokens",
        "1 validation rows are empty",
    ] {
        assert!(finished.stderr.contains(part), "{part:?} is not in:\n{}", finished.stderr);
    }
    let line = workspace.metrics("counted", "eval").pop().unwrap();
    assert_eq!(
        (&line["rows"], &line["truncated_rows"], &line["empty_rows"]),
        (&42.into(), &1.into(), &1.into())
    );
}

#[test]
fn what_is_wrong_with_the_rows_is_said() {
    let workspace = Workspace::labelled();
    let append = |name: &str, line: &str| {
        let path = workspace.path(name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.clone() + line).unwrap();
        move || fs::write(&path, &text).unwrap()
    };
    let undo = append("test.tsv", "emoji\t曹操读了\n");
    check_refused(&workspace, &[], 3, &["test.tsv", "line 32", "`emoji`", "`hanzi`, `latin`"]);
    undo();
    let undo = append("train.tsv", "hanzi\t曹操\t读了\n");
    check_refused(&workspace, &[], 3, &["train.tsv", "line 152", "2 columns", "got 3"]);
    undo();
    check_refused(&workspace, &["task.text_column=body"], 2, &["train.tsv", "`body`", "`label`, `text`"]);
    check_refused(&workspace, &["task.labels=[\"hanzi\", \"hanzi\"]"], 2, &["task.labels", "hanzi", "twice"]);
    check_refused(&workspace, &["task.labels=[\"hanzi\"]"], 2, &["task.labels", "at least two classes"]);
    check_refused(&workspace, &["task.train=absent.tsv"], 2, &["absent.tsv"]);
    fs::write(workspace.path("one.tsv"), "label\ttext\na\tx\na\ty\n").unwrap();
    check_refused(&workspace, &["task.train=one.tsv"], 2, &["one.tsv", "all 2 rows", "`a`"]);
    fs::write(workspace.path("bad.jsonl"), "{\"text\": \"a\", \"label\": 1}\n{\"text\": \n").unwrap();
    check_refused(&workspace, &["task.train=bad.jsonl"], 3, &["bad.jsonl", "line 2"]);
}

#[test]
fn debug_and_dry_run_know_classifiers() {
    let workspace = Workspace::labelled();
    let mut command = workspace.solo("checked", &[]);
    command.args(["--debug", "--debug-ranks", "2"]);
    let finished = run(command).expect_code(0);
    assert!(finished.stdout.contains("every check held"), "{}", finished.stdout);
    assert!(finished.stdout.contains("label `hanzi`"), "{}", finished.stdout);
    assert!(!workspace.run_dir("checked-debug").join("predictions-test.jsonl").exists());
    let mut command = workspace.solo("planned", &[]);
    command.arg("--dry-run");
    assert!(run(command).expect_code(0).stdout.contains("bucket `heads`"));
}

#[test]
fn new_texts_are_classified_as_in_the_run() {
    let workspace = Workspace::labelled();
    run(workspace.solo("learns", &LEARNS)).expect_code(0);
    let tool = Path::new(BERT_TRAIN).with_file_name("bert");
    if !tool.is_file() {
        println!("skipped: `bert classify`; build the whole workspace");
        return;
    }
    let classify = |arguments: &[&str]| {
        let mut command = Command::new(&tool);
        let model = workspace.run_dir("learns").join("checkpoints/best/model");
        command.current_dir(workspace.path("")).args(["classify", "--model"]).arg(model).args(arguments);
        run(command)
    };
    let one = classify(&["诸葛亮写下一本书"]).expect_code(0).stdout;
    assert!(one.starts_with("hanzi\t") && one.contains("诸葛亮"), "{one}");
    classify(&["test.tsv", "--output", "out.jsonl", "--batch-size", "2"]).expect_code(0);
    let (new, run) = (json_lines(&workspace.path("out.jsonl")), workspace.run_dir("learns"));
    let old = json_lines(&run.join("predictions-test.jsonl"));
    assert_eq!(new.len(), 30);
    for (new, old) in new.iter().zip(&old) {
        assert_eq!((&new["index"], &new["predicted"]), (&old["index"], &old["predicted"]));
        for (label, probability) in old["probabilities"].as_object().unwrap() {
            let difference = new["probabilities"][label].as_f64().unwrap() - probability.as_f64().unwrap();
            // The tool computes on flex, the run on the backend that is tested.
            assert!(difference.abs() < 1e-5, "{label}: {difference}");
        }
    }
    classify(&["test.tsv", "--text-column", "body"]).expect_code(2).expect_error(&["`body`"]);
    let mut command = Command::new(&tool);
    command.args(["classify", "--model"]).arg(workspace.path("")).arg("text");
    assert_ne!(process_code(command), Some(0));
}

fn process_code(command: Command) -> Option<i32> {
    run(command).exit_code
}

/// Prints for each text of a table the logits of transformers, one row a line.
const TRANSFORMERS: &str = r#"
import sys, torch
from transformers import BertForSequenceClassification, BertTokenizerFast
folder, table = sys.argv[1:]
model, info = BertForSequenceClassification.from_pretrained(folder, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
assert model.config.problem_type == "single_label_classification", model.config
model.eval()
tokenizer = BertTokenizerFast.from_pretrained(folder)
for line in open(table, encoding="utf-8").read().splitlines()[1:]:
    label, text = line.split("\t")
    with torch.no_grad():
        row = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).logits[0]
    shares = torch.softmax(row.double(), 0).tolist()
    print(model.config.id2label[int(row.argmax())], *shares)
"#;

#[test]
fn transformers_gives_the_same_probabilities() {
    let Some(python) = std::env::var_os("BERT_TRAIN_ORACLE_PYTHON") else {
        println!("skipped: no BERT_TRAIN_ORACLE_PYTHON, a python with torch and transformers");
        return;
    };
    let workspace = Workspace::labelled();
    for pooling in ["cls", "pooler"] {
        let overrides = [LEARNS[0], LEARNS[1], &format!("task.pooling={pooling}")];
        run(workspace.solo(pooling, &overrides)).expect_code(0);
        let mut command = Command::new(&python);
        command.args(["-c", TRANSFORMERS]);
        command
            .arg(workspace.run_dir(pooling).join("checkpoints/best/model"))
            .arg(workspace.path("test.tsv"));
        let printed = run(command).expect_code(0).stdout;
        let own = json_lines(&workspace.run_dir(pooling).join("predictions-test.jsonl"));
        assert_eq!(printed.lines().count(), own.len());
        let mut largest = 0.0f64;
        for (theirs, own) in printed.lines().zip(&own) {
            let mut parts = theirs.split(' ');
            assert_eq!(own["predicted"], parts.next().unwrap());
            let shares = own["probabilities"].as_object().unwrap().values();
            for (theirs, own) in parts.zip(shares) {
                largest = largest.max((theirs.parse::<f64>().unwrap() - own.as_f64().unwrap()).abs());
            }
        }
        assert!(largest < 2e-6, "{pooling}: probabilities differ by up to {largest}");
    }
}
