//! Stopping and killing, and going on as if nothing had happened.

use std::process::Command;

use crate::support::{
    BERT_TRAIN, Running, Workspace, flip_bit,
    process::{has_mpirun, run},
};

/// Enough steps to be caught in the middle.
const STEPS: &str = "schedule.total_steps=600";

#[track_caller]
fn check_like_straight_run(workspace: &Workspace, name: &str) {
    workspace.check_same(name, "straight", 600);
}

/// Starts the run, stops it by a signal, checks how that ended, and goes on.
fn stop_and_go_on(command: fn(&Workspace) -> Command, signal: &str, exit_code: i32) {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    run(workspace.mpirun(2, "straight", &[STEPS])).expect_code(0);
    let mut running = Running::start(command(&workspace));
    running.wait_for_step(&workspace, "stopped", 5);
    running.signal(signal);
    let finished = running.finish().expect_code(exit_code);
    assert!(finished.stderr.contains("stopped after step"), "{}", finished.stderr);
    let num_done = workspace.curve("stopped").len();
    assert!((5..600).contains(&num_done), "{num_done} steps before the stop");
    run(workspace.mpirun(2, "stopped", &[STEPS])).expect_code(0);
    check_like_straight_run(&workspace, "stopped");
}

fn plain_mpirun(workspace: &Workspace) -> Command {
    workspace.mpirun(2, "stopped", &[STEPS])
}

/// Open MPI passes SIGTERM on after a second, and until then reads nothing: the log lines of faster steps would fill its pipe, and rank
/// 0 would wait there until it is killed.
fn mpirun_with_slow_steps(workspace: &Workspace) -> Command {
    let mut command = plain_mpirun(workspace);
    command.env("BERT_TRAIN_FAULT", "rank=1,step=1,kind=slow,seconds=0.005");
    command
}

fn launch_script(workspace: &Workspace) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../launch/local.sh");
    let mut command = Command::new(script);
    command.env("BERT_TRAIN", BERT_TRAIN).env("BIND", "none").arg("2");
    workspace.add_arguments(&mut command, "stopped", &[STEPS]);
    command
}

#[test]
fn sigusr1_to_mpirun_saves_and_the_run_goes_on() {
    stop_and_go_on(plain_mpirun, "USR1", 75);
}

#[test]
fn sigterm_to_mpirun_saves_and_the_run_goes_on() {
    // The ranks end with 75, but Open MPI's mpirun answers SIGTERM with an exit code of its own.
    stop_and_go_on(mpirun_with_slow_steps, "TERM", 1);
}

#[test]
fn sigterm_to_the_launch_script_ends_with_75() {
    stop_and_go_on(launch_script, "TERM", 75);
}

#[test]
fn a_lone_process_stops_on_sigterm_and_goes_on_with_two_ranks() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    run(workspace.solo("straight", &[STEPS])).expect_code(0);
    let mut running = Running::start(workspace.solo("stopped", &[STEPS]));
    running.wait_for_step(&workspace, "stopped", 5);
    running.signal("TERM");
    running.finish().expect_code(75);
    run(workspace.mpirun(2, "stopped", &[STEPS])).expect_code(0);
    check_like_straight_run(&workspace, "stopped");
}

#[test]
fn kill_9_loses_nothing_but_time() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = [STEPS, "checkpoint.every_steps=40"];
    run(workspace.mpirun(2, "straight", &overrides)).expect_code(0);
    for after in [50, 130, 300] {
        let mut running = Running::start(workspace.mpirun(2, "killed", &overrides));
        running.wait_for_step(&workspace, "killed", after);
        running.signal_group("KILL");
        running.finish();
    }
    run(workspace.mpirun(2, "killed", &overrides)).expect_code(0);
    check_like_straight_run(&workspace, "killed");
}

#[test]
fn every_way_to_end_and_every_number_of_ranks_in_one_run() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=300", "checkpoint.every_steps=20"];
    run(workspace.mpirun(2, "straight", &overrides)).expect_code(0);
    let mut eight = Running::start(workspace.mpirun(8, "changing", &overrides));
    eight.wait_for_step(&workspace, "changing", 45);
    eight.signal_group("KILL");
    eight.finish();
    let mut four = Running::start(workspace.mpirun(4, "changing", &overrides));
    four.wait_for_step(&workspace, "changing", 110);
    four.signal("USR1");
    four.finish().expect_code(75);
    let mut one = Running::start(workspace.solo("changing", &overrides));
    one.wait_for_step(&workspace, "changing", 180);
    one.signal("USR1");
    one.finish().expect_code(75);
    let finished = run(workspace.mpirun(2, "changing", &overrides)).expect_code(0);
    assert!(finished.stderr.contains("continuing after step"), "{}", finished.stderr);
    assert_eq!(workspace.metrics_text("changing"), workspace.metrics_text("straight"));
    assert_eq!(workspace.hash("changing", 300), workspace.hash("straight", 300));
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = [STEPS, "checkpoint.every_steps=250"];
    run(workspace.mpirun(2, "straight", &overrides)).expect_code(0);
    run(workspace.mpirun(2, "damaged", &overrides)).expect_code(0);
    let newest = workspace.checkpoint("damaged", 600);
    flip_bit(&newest.join("optimizer/rank-00001.safetensors"));
    let finished = run(workspace.mpirun(2, "damaged", &overrides)).expect_code(0);
    assert!(finished.stderr.contains("passed over a damaged checkpoint"), "{}", finished.stderr);
    assert!(finished.stderr.contains("continuing after step 500"), "{}", finished.stderr);
    check_like_straight_run(&workspace, "damaged");
}
