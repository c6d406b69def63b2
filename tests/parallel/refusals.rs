//! Bad input under mpirun: one error, one exit code, no hang.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::support::{
    Running, Workspace, flip_bit,
    process::{has_mpirun, run},
};

/// A refusal comes long before any timeout of a communicator.
const SOON: Duration = Duration::from_secs(25);

#[track_caller]
fn check_refused(workspace: &Workspace, overrides: &[&str], exit_code: i32, parts: &[&str]) {
    let started = Instant::now();
    run(workspace.mpirun(2, "refused", overrides)).expect_code(exit_code).expect_error(parts);
    assert!(started.elapsed() < SOON, "took {:?}", started.elapsed());
}

#[test]
fn a_misspelt_key_is_refused_once() {
    if has_mpirun() {
        check_refused(
            &Workspace::new(),
            &["train.globl_batch_size=8"],
            2,
            &["did you mean `global_batch_size`"],
        );
    }
}

#[test]
fn a_missing_corpus_is_refused_once() {
    if has_mpirun() {
        let overrides = ["data.sources=[{ path = \"absent.txt\" }]", "data.shards=elsewhere"];
        check_refused(&Workspace::new(), &overrides, 2, &["absent.txt"]);
    }
}

#[test]
fn slots_that_the_ranks_cannot_share_are_refused() {
    if has_mpirun() {
        let workspace = Workspace::new();
        let finished = run(workspace.mpirun(3, "refused", &[])).expect_code(2);
        finished.expect_error(&["8 slots", "3 ranks"]);
    }
}

/// Two starts in one folder would take each other's checkpoints away. The first one does not notice the second.
#[test]
fn a_second_start_of_a_running_run_is_refused() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=100000", "distributed.timeout_seconds=8"];
    let mut running = Running::start(workspace.mpirun(2, "refused", &overrides));
    running.wait_for_step(&workspace, "refused", 5);
    check_refused(&workspace, &overrides, 2, &["is in use by another start", "process ", "run.name"]);
    let num_steps = workspace.curve("refused").len();
    running.wait_for_step(&workspace, "refused", num_steps + 5);
    running.signal("USR1");
    running.finish().expect_code(75);
}

/// After mpirun was killed its ranks live on for a while, and write lines and checkpoints.
#[test]
fn a_start_waits_for_ranks_whose_launcher_was_killed() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=100000", "checkpoint.every_steps=10"];
    let mut running = Running::start(workspace.mpirun(2, "killed", &overrides));
    running.wait_for_step(&workspace, "killed", 25);
    running.signal_group("KILL");
    running.finish();
    let mut next = Running::start(workspace.mpirun(2, "killed", &overrides));
    next.wait_for_text("continuing after step");
    let num_done = workspace.curve("killed").len();
    next.signal("USR1");
    let finished = next.finish().expect_code(75);
    assert!(finished.stderr.contains("continuing after step"), "{}", finished.stderr);
    let curve = workspace.curve("killed");
    let steps = curve.iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap());
    assert!(steps.eq(1..=curve.len()), "{num_done}: lines are missing or doubled");
}

#[test]
fn a_damaged_shard_is_refused_once() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    run(workspace.mpirun(2, "first", &["schedule.total_steps=1"])).expect_code(0);
    flip_bit(&shard_file(&workspace));
    check_refused(&workspace, &[], 3, &[".bin", "damaged"]);
}

fn shard_file(workspace: &Workspace) -> std::path::PathBuf {
    let entries = fs::read_dir(workspace.path("shards")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "bin")).unwrap()
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_its_own_code() {
    if has_mpirun() {
        let overrides = [
            "schedule.peak_learning_rate=10.0",
            "optimizer.max_grad_norm=0.0",
            "model.initializer_range=1.0",
            "optimizer.weight_decay=1.0",
            "schedule.warmup_steps=0",
            "schedule.kind=constant",
            "schedule.total_steps=400",
        ];
        check_refused(&Workspace::new(), &overrides, 4, &["not finite", "step"]);
    }
}
