//! Bad input: one error that names the thing, the exit code of its kind, nothing half-written.

use std::{fs, path::Path};

use crate::support::{Workspace, flip_bit, process::run, text};

#[track_caller]
fn check_refused(workspace: &Workspace, overrides: &[&str], exit_code: i32, parts: &[&str]) {
    run(workspace.solo("refused", overrides)).expect_code(exit_code).expect_error(parts);
}

fn workspace_of(corpus: &str) -> Workspace {
    let workspace = Workspace::with_corpus(corpus);
    let whole = Workspace::new();
    fs::copy(whole.path("vocab.txt"), workspace.path("vocab.txt")).unwrap();
    workspace
}

#[test]
fn values_and_keys() {
    let workspace = Workspace::new();
    check_refused(&workspace, &["masking.mlm_probabilty=0.2"], 2, &["did you mean `mlm_probability`"]);
    check_refused(&workspace, &["masking.mlm_probability=2.0"], 2, &["masking.mlm_probability", "0.9"]);
    check_refused(&workspace, &["data.max_seq_length=65"], 2, &["max_position_embeddings = 64"]);
    check_refused(
        &workspace,
        &["train.global_batch_size=15"],
        2,
        &["multiple of train.micro_batch_size = 2"],
    );
}

#[test]
fn an_empty_corpus() {
    check_refused(&workspace_of("\n\n"), &[], 2, &["empty"]);
}

#[test]
fn a_corpus_of_one_document_has_no_negative_pairs() {
    let workspace = workspace_of("曹操读了三国演义。\n刘备写下一本书。\n孙权训练神经网络。\n");
    check_refused(&workspace, &[], 2, &["document", "sop"]);
}

#[test]
fn a_vocabulary_without_mask() {
    let workspace = Workspace::new();
    let path = workspace.path("vocab.txt");
    let without = fs::read_to_string(&path).unwrap().replace("[MASK]\n", "");
    fs::write(&path, without).unwrap();
    check_refused(&workspace, &[], 2, &["[MASK]", "vocab.txt"]);
}

#[test]
fn text_that_is_not_utf8() {
    let workspace = Workspace::new();
    let mut bytes = fs::read(workspace.path("corpus.txt")).unwrap();
    bytes[100] = 0xff;
    fs::write(workspace.path("corpus.txt"), bytes).unwrap();
    check_refused(&workspace, &[], 3, &["corpus.txt", "UTF-8", "offset 99"]);
    let lenient = ["data.strict=false", "schedule.total_steps=1"];
    let finished = run(workspace.solo("lenient", &lenient)).expect_code(0);
    assert!(finished.stderr.contains("1 lines are not UTF-8"), "{}", finished.stderr);
    check_refused(&workspace, &[], 3, &["number of invalid lines"]);
}

#[test]
fn a_folder_that_cannot_be_written() {
    let workspace = Workspace::new();
    fs::write(workspace.path("occupied"), "a file, not a folder").unwrap();
    check_refused(&workspace, &["run.dir=occupied"], 1, &["occupied", "run.dir"]);
}

#[test]
fn a_run_folder_of_another_configuration() {
    let workspace = Workspace::new();
    run(workspace.solo("refused", &["schedule.total_steps=1"])).expect_code(0);
    let before = fs::read(workspace.run_dir("refused").join("metrics.jsonl")).unwrap();
    check_refused(&workspace, &["schedule.total_steps=1", "run.seed=8"], 3, &["run.seed: 7 -> 8"]);
    assert_eq!(fs::read(workspace.run_dir("refused").join("metrics.jsonl")).unwrap(), before);
}

#[test]
fn starting_over_where_checkpoints_are() {
    let workspace = Workspace::new();
    run(workspace.solo("refused", &["schedule.total_steps=1"])).expect_code(0);
    let never = ["schedule.total_steps=1", "checkpoint.resume=never"];
    check_refused(&workspace, &never, 2, &["already holds checkpoints"]);
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn truncated_checkpoints() {
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=4", "checkpoint.every_steps=2"];
    run(workspace.solo("refused", &overrides)).expect_code(0);
    for step in [2, 4] {
        truncate(&workspace.checkpoint("refused", step).join("model/model.safetensors"));
    }
    check_refused(&workspace, &overrides, 3, &["step-000000002", "step-000000004", "number of bytes"]);
    let resume = "checkpoint.resume=runs/refused/checkpoints/step-000000004";
    check_refused(&workspace, &["schedule.total_steps=4", resume], 3, &["model.safetensors", "damaged"]);
}

#[test]
fn a_flipped_bit_in_any_file_of_a_checkpoint() {
    let workspace = Workspace::new();
    run(workspace.solo("refused", &["schedule.total_steps=1"])).expect_code(0);
    let folder = workspace.checkpoint("refused", 1);
    let files = bert_train::checkpoint::manifest::files_below(&folder).unwrap();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let intact = fs::read(&file).unwrap();
        flip_bit(&file);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        check_refused(&workspace, &["schedule.total_steps=1"], 3, &[&name]);
        fs::write(&file, intact).unwrap();
    }
    run(workspace.solo("refused", &["schedule.total_steps=1"])).expect_code(0);
}

#[test]
fn shards_of_another_text() {
    let workspace = Workspace::new();
    run(workspace.solo("refused", &["schedule.total_steps=1"])).expect_code(0);
    fs::write(workspace.path("corpus.txt"), text::corpus(61)).unwrap();
    check_refused(&workspace, &["schedule.total_steps=1"], 3, &["shards"]);
}

#[test]
fn damaged_shards() {
    let workspace = Workspace::new();
    run(workspace.solo("refused", &["schedule.total_steps=1"])).expect_code(0);
    for name in ["shard-00000.bin", "shard-00000.idx", "shard-00000.words", "manifest.json"] {
        let file = workspace.path("shards").join(name);
        let intact = fs::read(&file).unwrap();
        flip_bit(&file);
        check_refused(&workspace, &["schedule.total_steps=1"], 3, &[name, "expected", "--rebuild"]);
        fs::remove_file(&file).unwrap();
        check_refused(&workspace, &["schedule.total_steps=1"], 3, &[name]);
        fs::write(&file, intact).unwrap();
    }
}

#[test]
fn shards_of_another_tokenizer() {
    let workspace = Workspace::new();
    run(workspace.solo("refused", &["schedule.total_steps=1"])).expect_code(0);
    let path = workspace.path("vocab.txt");
    let grown = fs::read_to_string(&path).unwrap() + "zzz\n";
    fs::write(&path, grown).unwrap();
    let fresh = ["schedule.total_steps=1", "run.name=other"];
    check_refused(&workspace, &fresh, 3, &["shards", "another tokenizer", "--rebuild"]);
}
