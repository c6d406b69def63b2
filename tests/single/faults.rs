//! `--debug` finds what was planted, and says what and where it is.

use crate::support::{
    Workspace,
    process::{Finished, run},
};

/// A debug run of three ranks with a fault; it ends with this code and one message.
#[track_caller]
fn check_found(fault: &str, exit_code: i32, parts: &[&str]) -> Finished {
    let workspace = Workspace::new();
    let mut command =
        workspace.solo("checked", &["train.global_batch_size=24", "distributed.timeout_seconds=5"]);
    command.args(["--debug", "--debug-ranks", "3"]).env("BERT_TRAIN_FAULT", fault);
    let finished = run(command).expect_code(exit_code).expect_error(parts);
    assert!(!finished.stdout.contains("every check held"), "{}", finished.stdout);
    finished
}

#[test]
fn unequal_parameters_are_found_with_tensor_and_ranks() {
    let tensor = "bert.encoder.layer.0.attention.self.query.weight";
    let fault = format!("rank=1,step=2,kind=other-parameters,tensor={tensor}");
    check_found(&fault, 1, &["step 2", &format!("`{tensor}` differs"), "[0, 2], [1]"]);
}

#[test]
fn a_skipped_collective_is_found_with_its_rank() {
    let parts = ["step 2", "ranks disagree on the call", "control word` on ranks 0, 2", "on rank 1"];
    check_found("rank=1,step=2,kind=skip-collective", 1, &parts);
}

#[test]
fn a_nan_is_found_in_its_tensor() {
    for tensor in ["cls.predictions.transform.dense.weight", "bert.embeddings.word_embeddings.weight"] {
        let fault = format!("rank=2,step=3,kind=nan,tensor={tensor}");
        check_found(&fault, 4, &["step 3", &format!("`{tensor}` in slot 8"), "on rank 2"]);
    }
}

#[test]
fn a_panic_is_the_cause_that_is_told() {
    let finished = check_found("rank=1,step=2,kind=panic", 1, &["rank 1 panicked"]);
    assert!(finished.stderr.contains("planted by BERT_TRAIN_FAULT in step 2"), "{}", finished.stderr);
}

#[test]
fn a_tensor_that_is_not_there_is_refused() {
    check_found("rank=1,kind=nan,tensor=bert.nose", 2, &["no parameter is called `bert.nose`"]);
}
