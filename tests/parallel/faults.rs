//! One rank of three fails: the run ends within its limit, on all ranks, with one message, the right exit code, a
//! record of the failure, and a checkpoint that loads.

use std::{
    fs::{self, OpenOptions},
    process::Command,
    time::Duration,
};

use bert_train::checkpoint::read::newest_verified;
use serde_json::Value;

use crate::support::{
    BERT_TRAIN, Running, Workspace,
    process::{Finished, has_ended, has_mpirun, is_alive, mpirun, run, signal_pid},
    text,
};

/// Far more steps than any of these runs makes, a checkpoint now and then, and a short patience with silent ranks.
const LONG: [&str; 4] = [
    "schedule.total_steps=100000",
    "train.global_batch_size=24",
    "checkpoint.every_steps=10",
    "distributed.timeout_seconds=3",
];
/// Start, the steps before the fault, the patience of the ranks and that of the launcher.
const LIMIT: Duration = Duration::from_secs(25);

/// Three ranks, of which one has a fault planted.
fn planted(workspace: &Workspace, fault: &str) -> Command {
    let mut command = workspace.mpirun(3, "faulty", &LONG);
    command.env("BERT_TRAIN_FAULT", fault);
    command
}

/// Three ranks, of which rank 1 has other values of the configuration.
fn odd_one(workspace: &Workspace, overrides: &[&str]) -> Command {
    let mut command = mpirun(1);
    for (rank, extra) in [&[], overrides, &[]].into_iter().enumerate() {
        if rank > 0 {
            command.args([":", "-n", "1"]);
        }
        command.arg(BERT_TRAIN);
        workspace.add_arguments(&mut command, "faulty", &[&LONG[..], extra].concat());
    }
    command
}

/// Runs to the end within the limit.
#[track_caller]
fn finish(running: Running) -> Finished {
    let started = running.started();
    let finished = running.finish();
    assert!(started.elapsed() < LIMIT, "took {:?}:\n{}", started.elapsed(), finished.stderr);
    println!("ended after {:.1} s, exit code {:?}", started.elapsed().as_secs_f64(), finished.exit_code);
    finished.stderr.lines().filter(|line| line.starts_with("error:")).for_each(|line| println!("{line}"));
    finished
}

/// The record of a rank's failure, with its message.
#[track_caller]
fn check_record(workspace: &Workspace, rank: usize, exit_code: i32, parts: &[&str]) {
    let path = workspace.run_dir("faulty").join(format!("errors/rank-{rank}.json"));
    let record: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(record["exit_code"], exit_code);
    for part in parts {
        assert!(record["message"].as_str().unwrap().contains(part), "{part:?} is not in {record}");
    }
}

/// Steps of the newest checkpoint, all of whose files have been compared with their hashes.
#[track_caller]
fn newest_step(workspace: &Workspace) -> u64 {
    let found = newest_verified(&workspace.run_dir("faulty").join("checkpoints")).unwrap().unwrap();
    assert!(found.passed_over.is_empty(), "{:?}", found.passed_over);
    found.state.step
}

/// A checkpoint of the ordinary rhythm is there.
#[track_caller]
fn check_periodic(workspace: &Workspace) {
    let step = newest_step(workspace);
    assert!(step >= 10 && step.is_multiple_of(10), "step {step}");
}

/// Runs with the fault and compares how it ends; `rank` is the one that speaks.
#[track_caller]
fn check_planted(fault: &str, rank: usize, exit_code: i32, parts: &[&str]) -> Workspace {
    let workspace = Workspace::new();
    let finished = finish(Running::start(planted(&workspace, fault)));
    let finished = finished.expect_code(exit_code).expect_error(parts);
    assert!(finished.stderr.contains("this run is made to fail"), "{}", finished.stderr);
    check_record(&workspace, rank, exit_code, parts);
    workspace
}

#[test]
fn a_panic_in_a_rank_ends_all() {
    if !has_mpirun() {
        return;
    }
    let workspace = check_planted(
        "rank=1,step=25,kind=panic",
        1,
        1,
        &["rank 1 panicked in step 25", "planted by BERT_TRAIN_FAULT"],
    );
    check_periodic(&workspace);
}

#[test]
fn a_gradient_that_is_not_finite_is_traced_to_its_rank_and_tensor() {
    if !has_mpirun() {
        return;
    }
    let tensor = "bert.encoder.layer.1.output.dense.weight";
    let fault = format!("rank=1,step=25,kind=nan,tensor={tensor}");
    let parts = ["step 25", tensor, "in slot 4 (epoch ", "on rank 1", "not finite"];
    let workspace = check_planted(&fault, 0, 4, &parts);
    check_record(&workspace, 2, 4, &parts);
    check_periodic(&workspace);
}

#[test]
fn ranks_that_disagree_on_a_length_are_told_apart() {
    if !has_mpirun() {
        return;
    }
    let parts =
        ["step 25", "ranks disagree on the call", "reduction of bucket 0` on ranks 0, 2", "on rank 1"];
    let workspace = check_planted("rank=1,step=25,kind=other-length", 0, 1, &parts);
    check_periodic(&workspace);
}

#[test]
fn a_rank_that_skips_an_exchange_is_told_apart() {
    if !has_mpirun() {
        return;
    }
    let parts = ["step 25", "ranks disagree on the call", "control word` on ranks 0, 2", "on rank 1"];
    let workspace = check_planted("rank=1,step=25,kind=skip-collective", 0, 1, &parts);
    check_periodic(&workspace);
}

#[test]
fn a_rank_of_another_version_is_refused() {
    if has_mpirun() {
        let parts = ["ranks disagree on program version", "another version (planted)", "on rank 1"];
        check_planted("rank=1,kind=other-version", 0, 2, &parts);
    }
}

#[test]
fn text_that_names_no_fault_is_refused_once() {
    if has_mpirun() {
        let workspace = Workspace::new();
        let finished = finish(Running::start(planted(&workspace, "rank=1,kind=sulk")));
        finished.expect_code(2).expect_error(&["BERT_TRAIN_FAULT", "sulk", "skip-collective"]);
    }
}

#[test]
fn a_rank_with_another_configuration_vocabulary_corpus_or_precision_is_refused() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let vocabulary = fs::read_to_string(workspace.path("vocab.txt")).unwrap();
    fs::write(workspace.path("other-vocab.txt"), vocabulary + "龘\n").unwrap();
    fs::write(workspace.path("other.txt"), text::corpus(50)).unwrap();
    let other = ["schedule.total_steps=1", "data.shards=other-shards", "data.sources=[\"other.txt\"]"];
    run(workspace.solo("other", &other)).expect_code(0);
    run(workspace.solo("builder", &["schedule.total_steps=1"])).expect_code(0);
    let cases: [(&str, i32, &[&str]); 4] = [
        (
            "optimizer.epsilon=1e-8",
            2,
            &["configuration: `that of rank 0` on ranks 0, 2", "optimizer.epsilon"],
        ),
        ("data.tokenizer=other-vocab.txt", 3, &["ranks disagree on tokenizer", "on rank 1"]),
        ("data.shards=other-shards", 3, &["ranks disagree on corpus", "on rank 1"]),
        ("train.precision=f64", 2, &["rank 1", "precision", "f64"]),
    ];
    for (value, exit_code, parts) in cases {
        let finished = finish(Running::start(odd_one(&workspace, &[value])));
        finished.expect_code(exit_code).expect_error(parts);
        if !value.contains("precision") {
            check_record(&workspace, 0, exit_code, parts);
        }
    }
}

#[test]
fn shards_of_one_rank_that_vanish_while_it_runs_end_all_after_a_save() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    for shards in ["data.shards=shards", "data.shards=own-shards"] {
        run(workspace.solo(&shards[12..], &["schedule.total_steps=1", shards])).expect_code(0);
    }
    let mut running = Running::start(odd_one(&workspace, &["data.shards=own-shards"]));
    running.wait_for_step(&workspace, "faulty", 22);
    for entry in fs::read_dir(workspace.path("own-shards")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(8).unwrap();
        }
    }
    let parts = ["rank 1: ", "own-shards", ".bin"];
    let finished = finish(running).expect_code(3).expect_error(&parts);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    check_record(&workspace, 2, 3, &parts);
    assert!(newest_step(&workspace) >= 22, "saved after the last whole step");
}

#[test]
fn an_unreadable_batch_of_one_rank_ends_all_after_a_save() {
    if has_mpirun() {
        let parts = ["rank 1: failed to read the next batch", "planted input/output error"];
        let workspace = check_planted("rank=1,step=25,kind=io-error", 0, 1, &parts);
        assert_eq!(newest_step(&workspace), 25);
    }
}

/// A process that is killed at the end of the test, whatever became of its run.
struct Victim(u32);

impl Drop for Victim {
    fn drop(&mut self) {
        if is_alive(self.0) {
            signal_pid("KILL", self.0);
        }
    }
}

#[track_caller]
fn check_frozen(frozen: usize, speaker: usize) {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let mut running = Running::start(workspace.mpirun(3, "faulty", &LONG));
    running.wait_for_step(&workspace, "faulty", 22);
    let victim = Victim(running.rank_pid(frozen));
    signal_pid("STOP", victim.0);
    let stopped = std::time::Instant::now();
    let silence = format!("no sign of rank {frozen} within 3 s");
    let known = format!("process {} of rank {frozen} on ", victim.0);
    let parts = ["step ", &silence, &known, "is stopped"];
    let finished = finish(running).expect_code(5).expect_error(&parts);
    println!("named and ended {:.1} s after SIGSTOP", stopped.elapsed().as_secs_f64());
    assert!(has_ended(victim.0), "the frozen rank stays behind:\n{}", finished.stderr);
    check_record(&workspace, speaker, 5, &["step ", &silence]);
    check_periodic(&workspace);
}

#[test]
fn a_frozen_rank_is_named() {
    check_frozen(1, 0);
}

#[test]
fn a_frozen_first_rank_is_named_by_the_next() {
    check_frozen(0, 1);
}

#[test]
fn a_killed_rank_ends_all() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let mut running = Running::start(workspace.mpirun(3, "faulty", &LONG));
    running.wait_for_step(&workspace, "faulty", 22);
    let victims = [0, 1, 2].map(|rank| Victim(running.rank_pid(rank)));
    signal_pid("KILL", victims[1].0);
    // Open MPI ends with 128 and the signal of the first rank that died, whatever the others say.
    let parts = ["step ", "rank 1 was killed", "is gone"];
    let finished = finish(running).expect_code(137).expect_error(&parts);
    assert!(victims.iter().all(|victim| has_ended(victim.0)), "{}", finished.stderr);
    check_record(&workspace, 0, 5, &parts);
    check_periodic(&workspace);
}

#[test]
fn a_missing_rank_is_named() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let mut command = mpirun(1);
    // Rank 0, which speaks if it is there, never joins.
    command.args(["sleep", "60", ":", "-n", "2", BERT_TRAIN]);
    workspace.add_arguments(&mut command, "faulty", &LONG);
    let finished = finish(Running::start(command)).expect_code(5);
    finished.expect_error(&["waits for all ranks of the launcher", "3 s", "; rank 0 did not come"]);
}

/// Starts three ranks, does something to them in the middle, and expects them to save and stop.
#[track_caller]
fn check_stops(overrides: &[&str], exit_code: i32, interfere: impl FnOnce(&mut Running)) {
    let workspace = Workspace::new();
    let mut running = Running::start(workspace.mpirun(3, "faulty", &[&LONG[..], overrides].concat()));
    running.wait_for_step(&workspace, "faulty", 22);
    interfere(&mut running);
    let finished = finish(running).expect_code(exit_code);
    let said = finished.stderr.matches("stopped after step").count();
    assert_eq!(said, 1, "{}", finished.stderr);
    assert!(!finished.stderr.contains("error:"), "{}", finished.stderr);
    let num_steps = workspace.curve("faulty").len() as u64;
    assert_eq!(newest_step(&workspace), num_steps, "saved where it stopped");
}

#[test]
fn sigusr1_to_one_rank_stops_all() {
    if has_mpirun() {
        check_stops(&[], 75, |running| signal_pid("USR1", running.rank_pid(2)));
    }
}

#[test]
fn sigterm_to_mpirun_is_no_death_of_a_rank() {
    if has_mpirun() {
        // The ranks end with 75, but Open MPI's mpirun answers SIGTERM with an exit code of its own.
        check_stops(&[], 1, |running| running.signal("TERM"));
    }
}

#[test]
fn sigusr1_twice_stops_once() {
    if has_mpirun() {
        check_stops(&[], 75, |running| {
            running.signal("USR1");
            running.signal("USR1");
            signal_pid("USR1", running.rank_pid(1));
        });
    }
}

#[test]
fn sigusr1_and_sigterm_during_saves_stop_after_them() {
    if has_mpirun() {
        // With a save after every step, most of the time goes into saves.
        let overrides = ["checkpoint.every_steps=1"];
        check_stops(&overrides, 75, |running| running.signal("USR1"));
        check_stops(&overrides, 75, |running| signal_pid("TERM", running.rank_pid(0)));
    }
}

#[test]
fn a_slow_rank_is_named_with_its_phase() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=60", "train.global_batch_size=24", "checkpoint.every_steps=20"];
    let mut command = workspace.mpirun(3, "faulty", &overrides);
    command.env("BERT_TRAIN_FAULT", "rank=1,step=1,kind=slow,seconds=0.05");
    let finished = finish(Running::start(command)).expect_code(0);
    let named = finished.stderr.lines().find(|line| line.contains("straggler: rank 1 on "));
    println!("{named:?}");
    let forward = named.and_then(|line| line.split("slowest phase forward: ").nth(1)?.split(' ').next());
    let forward: f64 = forward.unwrap_or_else(|| panic!("{}", finished.stderr)).parse().unwrap();
    assert!(forward >= 0.05, "{named:?}");
    let lines = workspace.metrics("faulty", "train");
    let saved: Vec<u64> = lines
        .iter()
        .filter(|line| line["seconds"]["save"].as_f64().unwrap() > 0.0)
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(saved, [21, 41], "the step after a save carries its time");
}
