//! `launch/slurm.sbatch` under a Slurm of its own, two nodes of one rank each: time limit, preemption, cancellation,
//! a rank that dies.

use std::{fs, process::Command};

use crate::support::{
    BERT_TRAIN, Workspace,
    process::{run, signal_pid},
    slurm::Slurm,
};

/// Enough steps to be caught in the middle; few, because both nodes may share a core and speak over TCP.
const STEPS: &str = "schedule.total_steps=200";

/// `sbatch launch/slurm.sbatch` of the run `name`.
fn sbatch(slurm: &Slurm, workspace: &Workspace, name: &str, overrides: &[&str]) -> Command {
    let mut command = slurm.command("sbatch");
    command.args(["--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=10"]);
    command.args(["--output", "job.log"]).env("BERT_TRAIN", BERT_TRAIN);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../launch/slurm.sbatch"));
    workspace.add_arguments(&mut command, name, overrides);
    command
}

/// Submits with `sbatch --parsable` and returns the job's number.
#[track_caller]
fn submit(sbatch: Command) -> String {
    run(sbatch).expect_code(0).stdout.trim().to_string()
}

/// Submits the run and waits until it has made a few steps.
#[track_caller]
fn started(slurm: &Slurm, workspace: &Workspace, name: &str, overrides: &[&str]) -> String {
    let job = submit(sbatch(slurm, workspace, name, overrides));
    slurm.wait_until("the run has made five steps", || workspace.has_logged(name, 5));
    job
}

fn log(workspace: &Workspace) -> String {
    fs::read_to_string(workspace.path("job.log")).unwrap()
}

/// The run has stopped by itself after some of its steps.
#[track_caller]
fn check_stopped_half_way(workspace: &Workspace, name: &str) {
    assert!(log(workspace).contains("stopped after step"), "{}", log(workspace));
    let num_done = workspace.curve(name).len();
    assert!((5..200).contains(&num_done), "{num_done} steps before the stop");
}

/// The job waits in the queue; lets it start again and compares its end with a straight run under mpirun.
#[track_caller]
fn check_goes_on(slurm: &Slurm, workspace: &Workspace, job: &str, name: &str) {
    slurm.wait_for_state(job, "PENDING");
    check_stopped_half_way(workspace, name);
    slurm.complete_soon(job);
    run(workspace.mpirun(2, "straight", &[STEPS])).expect_code(0);
    workspace.check_same(name, "straight", 200);
}

#[test]
fn before_its_time_limit_a_job_saves_and_requeues_itself() {
    let Some(slurm) = Slurm::start() else { return };
    let workspace = Workspace::new();
    let job = started(&slurm, &workspace, "limited", &[STEPS]);
    // What `#SBATCH --signal=B:USR1@120` does two minutes before the limit.
    slurm.tell("scancel", &["--batch", "--signal=USR1", &job]);
    check_goes_on(&slurm, &workspace, &job, "limited");
}

#[test]
fn a_preempted_job_saves_and_requeues_itself() {
    let Some(slurm) = Slurm::start() else { return };
    let workspace = Workspace::new();
    let job = started(&slurm, &workspace, "preempted", &[STEPS]);
    let mut urgent = slurm.command("sbatch");
    urgent.args(["--parsable", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=true"]);
    let urgent = submit(urgent);
    slurm.wait_for_state(&urgent, "COMPLETED");
    check_goes_on(&slurm, &workspace, &job, "preempted");
}

#[test]
fn a_cancelled_job_saves_and_does_not_come_back() {
    let Some(slurm) = Slurm::start() else { return };
    let workspace = Workspace::new();
    let job = started(&slurm, &workspace, "cancelled", &[STEPS]);
    slurm.tell("scancel", &[&job]);
    slurm.wait_until("the queue is empty", || slurm.ask("squeue", &["-h"]).is_empty());
    check_stopped_half_way(&workspace, "cancelled");
    let num_done = workspace.curve("cancelled").len();
    assert!(workspace.checkpoint("cancelled", num_done as u64).is_dir());
    assert_eq!(slurm.state(&job), "CANCELLED");
}

#[test]
fn a_job_ends_when_a_rank_is_killed() {
    let Some(slurm) = Slurm::start() else { return };
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=100000", "distributed.timeout_seconds=3.0"];
    let job = started(&slurm, &workspace, "killed", &overrides);
    let step = format!("{job}.0");
    let pids = || {
        let listed = slurm.ask("scontrol", &["listpids", &step, "n2"]);
        let ranks = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.parse().ok());
        ranks.collect::<Vec<u32>>()
    };
    slurm.wait_until("the rank of the second node is listed", || !pids().is_empty());
    pids().into_iter().for_each(|pid| signal_pid("KILL", pid));
    slurm.wait_for_state(&job, "FAILED");
    assert!(log(&workspace).contains("task 1: Killed"), "{}", log(&workspace));
}
