//! Fine-tuning gives the same bits for every number of ranks, and through kill and continuation.

use std::fs;

use crate::support::{
    Running, Workspace,
    process::{has_mpirun, run},
};

/// Everything that a run tells about its evaluations, but for the time that they took.
fn evaluations(workspace: &Workspace, name: &str) -> Vec<String> {
    let lines = ["eval", "test"].into_iter().flat_map(|kind| workspace.metrics(name, kind));
    let without_time = lines.map(|mut line| {
        line.as_object_mut().unwrap().remove("seconds");
        line.to_string()
    });
    without_time.collect()
}

fn predictions(workspace: &Workspace, name: &str) -> [String; 2] {
    ["validation", "test"].map(|set| {
        let path = workspace.run_dir(name).join(format!("predictions-{set}.jsonl"));
        fs::read_to_string(path).unwrap()
    })
}

#[track_caller]
fn check_like(workspace: &Workspace, name: &str, expected: &str, last_step: u64) {
    workspace.check_same(name, expected, last_step);
    assert_eq!(evaluations(workspace, name), evaluations(workspace, expected), "{name}");
    assert_eq!(predictions(workspace, name), predictions(workspace, expected), "{name}");
    let best = |name: &str| fs::read_link(workspace.run_dir(name).join("checkpoints/best")).unwrap();
    assert_eq!(best(name), best(expected), "{name}");
}

#[test]
fn one_two_and_four_ranks_fine_tune_the_same_weights() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::labelled();
    for pooling in ["pooler", "first-last-mean"] {
        let overrides = [format!("task.pooling={pooling}")];
        let overrides = overrides.each_ref().map(String::as_str);
        let alone = format!("alone-{pooling}");
        run(workspace.solo(&alone, &overrides)).expect_code(0);
        assert_eq!(workspace.curve(&alone).len(), 30);
        // Three of the validation rows, one of the test rows.
        assert_eq!(evaluations(&workspace, &alone).len(), 4);
        for num_ranks in [1, 2, 4] {
            let name = format!("ranks-{num_ranks}-{pooling}");
            run(workspace.mpirun(num_ranks, &name, &overrides)).expect_code(0);
            check_like(&workspace, &name, &alone, 30);
        }
    }
}

#[test]
fn kill_9_changes_neither_the_weights_nor_the_best_checkpoint() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::labelled();
    // A rank may outlive its launcher for a moment and remove old checkpoints: enough are kept for the next start.
    let overrides = [
        "schedule.total_steps=600",
        "train.eval_every_steps=30",
        "checkpoint.every_steps=40",
        "checkpoint.keep_last=4",
    ];
    run(workspace.mpirun(2, "straight", &overrides)).expect_code(0);
    for after in [50, 200, 390] {
        let mut running = Running::start(workspace.mpirun(2, "killed", &overrides));
        running.wait_for_step(&workspace, "killed", after);
        running.signal_group("KILL");
        running.finish();
    }
    run(workspace.mpirun(2, "killed", &overrides)).expect_code(0);
    check_like(&workspace, "killed", "straight", 600);
}

#[test]
fn a_stopped_run_goes_on_with_another_number_of_ranks() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::labelled();
    let overrides = ["schedule.total_steps=400", "train.eval_every_steps=100"];
    run(workspace.solo("straight", &overrides)).expect_code(0);
    let mut running = Running::start(workspace.mpirun(4, "stopped", &overrides));
    running.wait_for_step(&workspace, "stopped", 5);
    running.signal("USR1");
    running.finish().expect_code(75);
    run(workspace.mpirun(2, "stopped", &overrides)).expect_code(0);
    check_like(&workspace, "stopped", "straight", 400);
}
