//! The same bits for every number of ranks.

use std::fs;

use crate::support::{
    Workspace, backend,
    process::{has_mpirun, run},
};

#[test]
fn one_two_and_four_ranks_train_the_same_weights() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    run(workspace.solo("alone", &[])).expect_code(0);
    let (curve, hash) = (workspace.curve("alone"), workspace.hash("alone", 30));
    assert_eq!(curve.len(), 30);
    for num_ranks in [1, 2, 4] {
        let name = format!("ranks-{num_ranks}");
        run(workspace.mpirun(num_ranks, &name, &[])).expect_code(0);
        assert_eq!(workspace.curve(&name), curve, "{num_ranks} ranks");
        assert_eq!(workspace.hash(&name, 30), hash, "{num_ranks} ranks");
        if let Some(printed) = workspace.printed_hash(&name, 30) {
            assert_eq!(printed, hash, "{num_ranks} ranks");
        }
        let figures = |name: &str| {
            let line = workspace.metrics(name, "eval").pop().unwrap();
            ["mlm_loss", "mlm_accuracy", "nsp_loss"].map(|key| line[key].to_string())
        };
        assert_eq!(figures(&name), figures("alone"), "{num_ranks} ranks");
    }
}

/// The order by blocks is as pure as the global one: ranks and a stop in the middle change nothing.
#[test]
fn blocks_train_the_same_weights_on_one_and_two_ranks_and_across_a_stop() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["data.order=blocks", "checkpoint.every_steps=10"];
    run(workspace.solo("global", &[])).expect_code(0);
    run(workspace.solo("alone", &overrides)).expect_code(0);
    let (curve, hash) = (workspace.curve("alone"), workspace.hash("alone", 30));
    assert_ne!(curve, workspace.curve("global"));
    run(workspace.mpirun(2, "ranks", &overrides)).expect_code(0);
    assert_eq!((workspace.curve("ranks"), workspace.hash("ranks", 30)), (curve.clone(), hash.clone()));
    fs::remove_dir_all(workspace.checkpoint("ranks", 30)).unwrap();
    let finished = run(workspace.mpirun(2, "ranks", &overrides)).expect_code(0);
    assert!(finished.stderr.contains("continuing after step 20"), "{}", finished.stderr);
    assert_eq!((workspace.curve("ranks"), workspace.hash("ranks", 30)), (curve, hash));
    run(workspace.mpirun(2, "ranks", &[])).expect_code(3).expect_error(&["data.order", "global"]);
}

#[test]
fn weighted_sources_train_the_same_weights_on_one_and_two_ranks() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    fs::write(workspace.path("more.txt"), crate::support::text::corpus(30)).unwrap();
    let sources =
        |weight: &str| format!("data.sources=[\"corpus.txt\", {{ path = \"more.txt\", weight = {weight} }}]");
    let finished = run(workspace.solo("alone", &[&sources("0.4")])).expect_code(0);
    assert!(finished.stderr.contains("source `more.txt` x 0.4: 30 documents"), "{}", finished.stderr);
    run(workspace.mpirun(2, "ranks", &[&sources("0.4")])).expect_code(0);
    assert_eq!(workspace.curve("ranks"), workspace.curve("alone"));
    assert_eq!(workspace.hash("ranks", 30), workspace.hash("alone", 30));
    // Another weight is another run, from the same shards.
    run(workspace.solo("alone", &[&sources("2")])).expect_code(3).expect_error(&["data.sources", "2.0"]);
    run(workspace.solo("other", &[&sources("2")])).expect_code(0);
    assert_ne!(workspace.curve("other"), workspace.curve("alone"));
    let absent = "data.sources=[\"corpus.txt\", { path = \"absent/*.txt\", weight = 2.0 }]";
    run(workspace.solo("absent", &[absent])).expect_code(2).expect_error(&["absent/*.txt"]);
}

#[test]
fn who_holds_the_moments_does_not_matter() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let steps = "schedule.total_steps=8";
    run(workspace.mpirun(2, "sharded", &[steps])).expect_code(0);
    let replicated = "distributed.optimizer_state=replicated";
    run(workspace.mpirun(2, "replicated", &[steps, replicated])).expect_code(0);
    assert_eq!(workspace.curve("replicated"), workspace.curve("sharded"));
    assert_eq!(workspace.hash("replicated", 8), workspace.hash("sharded", 8));
}

#[test]
fn lamb_knows_the_size_of_a_parameter_that_several_ranks_hold() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let lamb = ["schedule.total_steps=8", "optimizer.kind=lamb", "optimizer.bias_correction=true"];
    // Wide enough that slices of ranks begin inside of a parameter.
    let lamb = [&lamb[..], &["model.hidden_size=256", "model.intermediate_size=512"]].concat();
    run(workspace.solo("alone", &lamb)).expect_code(0);
    for (num_ranks, state) in [(2, "sharded"), (4, "sharded"), (2, "replicated")] {
        let name = format!("{state}-{num_ranks}");
        let state = format!("distributed.optimizer_state={state}");
        run(workspace.mpirun(num_ranks, &name, &[&lamb[..], &[&state]].concat())).expect_code(0);
        assert_eq!(workspace.curve(&name), workspace.curve("alone"), "{name}");
        assert_eq!(workspace.hash(&name, 8), workspace.hash("alone", 8), "{name}");
    }
}

#[test]
fn three_ranks_run_close_to_one() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=6", "train.global_batch_size=18", "train.micro_batch_size=3"];
    run(workspace.solo("alone", &overrides)).expect_code(0);
    run(workspace.mpirun(3, "three", &overrides)).expect_code(0);
    check_close(&workspace, "three", "alone");
}

/// The losses of two runs differ by rounding only.
#[track_caller]
fn check_close(workspace: &Workspace, name: &str, other: &str) {
    let losses = |name: &str| -> Vec<f64> {
        workspace.metrics(name, "train").iter().map(|line| line["loss"].as_f64().unwrap()).collect()
    };
    for (one, other) in losses(name).iter().zip(losses(other)) {
        assert!((one - other).abs() < 1e-4 * other, "{one} and {other}");
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let workspace = Workspace::new();
    let (steps, two) = ("schedule.total_steps=8", "run.threads_per_rank=2");
    run(workspace.solo("one-thread", &[steps])).expect_code(0);
    run(workspace.solo("two-threads", &[steps, two])).expect_code(0);
    if backend() == "flex" {
        assert_eq!(workspace.curve("two-threads"), workspace.curve("one-thread"));
        assert_eq!(workspace.hash("two-threads", 8), workspace.hash("one-thread", 8));
        return;
    }
    // Other libraries may split sums over threads: the same number of them gives the same bits.
    check_close(&workspace, "two-threads", "one-thread");
    run(workspace.solo("two-threads-again", &[steps, two])).expect_code(0);
    assert_eq!(workspace.curve("two-threads-again"), workspace.curve("two-threads"));
    assert_eq!(workspace.hash("two-threads-again", 8), workspace.hash("two-threads", 8));
}

#[test]
fn backends_train_close_to_each_other() {
    let workspace = Workspace::new();
    let steps = "schedule.total_steps=8";
    let flex = run(workspace.solo("on-flex", &[steps, "device.backend=flex"])).expect_code(0);
    let here = run(workspace.solo("here", &[steps])).expect_code(0);
    check_close(&workspace, "here", "on-flex");
    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_string();
    assert!(first_line(&flex.stderr).contains("backend flex: device.backend"), "{}", flex.stderr);
    let expected = format!("backend {}: device.backend", backend());
    assert!(first_line(&here.stderr).contains(&expected), "{}", here.stderr);
}
