//! The same bits for every number of ranks.

use crate::support::{
    Workspace,
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
    let losses = |name: &str| -> Vec<f64> {
        workspace.metrics(name, "train").iter().map(|line| line["loss"].as_f64().unwrap()).collect()
    };
    for (three, one) in losses("three").iter().zip(losses("alone")) {
        assert!((three - one).abs() < 1e-4 * one, "{three} and {one}");
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let workspace = Workspace::new();
    let steps = "schedule.total_steps=8";
    run(workspace.solo("one-thread", &[steps])).expect_code(0);
    run(workspace.solo("two-threads", &[steps, "run.threads_per_rank=2"])).expect_code(0);
    assert_eq!(workspace.curve("two-threads"), workspace.curve("one-thread"));
    assert_eq!(workspace.hash("two-threads", 8), workspace.hash("one-thread", 8));
}
