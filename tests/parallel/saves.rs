//! Saves of several ranks: killed or failing on one of them, interrupted by signals, and a run that is killed again and
//! again at random moments.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bert_random::{Key, Purpose, Stream};
use bert_train::checkpoint::{CheckpointState, manifest::sorted_entries, read};

use crate::support::{
    Running, Workspace,
    process::{Finished, has_mpirun, run},
};

/// Two saves; the second one deletes the first.
const OVERRIDES: [&str; 3] = ["schedule.total_steps=8", "checkpoint.every_steps=4", "checkpoint.keep_last=1"];

fn with_fault(mut command: Command, fault: &str) -> Command {
    command.env("BERT_TRAIN_SAVE_FAULT", fault);
    command
}

/// Steps of the checkpoints, each of them verified.
fn verified_steps(workspace: &Workspace, name: &str) -> Vec<u64> {
    let step = |path: &PathBuf| CheckpointState::verify(path).unwrap_or_else(|error| panic!("{error}")).step;
    read::list(&workspace.run_dir(name).join("checkpoints")).unwrap().iter().map(step).collect()
}

/// Goes on with the run; it must end as the one that nobody disturbed, and leave nothing lying about.
#[track_caller]
fn check_ends_like_the_straight_run(workspace: &Workspace, name: &str, overrides: &[&str], last_step: u64) {
    run(workspace.mpirun(2, name, overrides)).expect_code(0);
    workspace.check_same(name, "straight", last_step);
    let entries = sorted_entries(&workspace.run_dir(name).join("checkpoints")).unwrap();
    let names: Vec<_> = entries.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let is_left_over = |name: &&str| name.starts_with('.') || name.ends_with(".new");
    assert!(!names.iter().any(is_left_over), "{names:?}");
}

/// Numbers of the points of a rank whose description holds all of these.
fn numbers(finished: &Finished, log: &Path, parts: &[&str]) -> Vec<u64> {
    let text = fs::read_to_string(log).unwrap_or_else(|error| panic!("{error}: {}", finished.stderr));
    let named = text.lines().filter_map(|line| line.split_once("save point "));
    let fitting = named.filter(|(_, point)| parts.iter().all(|part| point.contains(part)));
    fitting.map(|(_, point)| point.split_once(':').unwrap().0.parse().unwrap()).collect()
}

#[test]
fn a_rank_that_is_killed_in_a_save_loses_nothing() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let listed = run(with_fault(workspace.mpirun(2, "straight", &OVERRIDES), "list")).expect_code(0);
    let log = |rank: usize| workspace.run_dir("straight").join(format!("logs/rank-{rank}.jsonl"));
    // The second of the two: that of the second save.
    let second = |rank: usize, parts: &[&str]| numbers(&listed, &log(rank), parts)[1];
    let faults = [
        (0, second(0, &["write", "model.safetensors"])),
        (0, second(0, &["fsync", "state.json"])),
        (0, second(0, &["rename to", "latest"])),
        (1, second(1, &["write", "rank-00001"])),
        (1, second(1, &["fsync", "rank-00001"])),
    ];
    for (rank, number) in faults {
        let name = format!("killed-{rank}-{number}");
        let fault = format!("kill@{number}/rank{rank}");
        let finished = run(with_fault(workspace.mpirun(2, &name, &OVERRIDES), &fault));
        assert_ne!(finished.exit_code, Some(0), "{fault}");
        assert!(!verified_steps(&workspace, &name).is_empty(), "{fault}");
        check_ends_like_the_straight_run(&workspace, &name, &OVERRIDES, 8);
    }
}

/// A save that fails in the background on one rank: told at the next step, on all ranks, with that rank's name.
#[test]
fn a_failed_save_ends_the_run_on_all_ranks() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=100000", "checkpoint.every_steps=200"];
    for (rank, fault) in [(1, "eio@8/rank1"), (0, "enospc@50/rank0")] {
        let name = format!("failing-{rank}");
        let finished = run(with_fault(workspace.mpirun(2, &name, &overrides), fault)).expect_code(1);
        finished.expect_error(&[&format!("rank {rank}: the save after step 400 failed"), "cannot "]);
        assert_eq!(verified_steps(&workspace, &name), [200]);
        // Ended at one of the next steps; the next save would have waited for this one.
        let num_done = workspace.curve(&name).len();
        assert!((400..=600).contains(&num_done), "{num_done} steps");
        for other in 0..2 {
            let record =
                fs::read_to_string(workspace.run_dir(&name).join(format!("errors/rank-{other}.json")));
            assert!(record.unwrap().contains("the save after step 400 failed"));
        }
    }
}

#[test]
fn signals_during_a_save_stop_after_another_save() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=450", "checkpoint.every_steps=200"];
    run(workspace.mpirun(2, "straight", &overrides)).expect_code(0);
    // The first save pauses for a second.
    let mut running = Running::start(with_fault(workspace.mpirun(2, "stopped", &overrides), "pause@6/rank0"));
    let log = workspace.run_dir("stopped").join("logs/rank-0.jsonl");
    running
        .wait_until("the pause", || fs::read_to_string(&log).is_ok_and(|text| text.contains("save point 6")));
    running.signal("USR1");
    running.signal("USR1");
    let finished = running.finish().expect_code(75);
    assert!(finished.stderr.contains("waits for the save after step 200"), "{}", finished.stderr);
    let steps = verified_steps(&workspace, "stopped");
    assert!(steps.len() >= 2 && steps[0] == 200, "{steps:?}");
    check_ends_like_the_straight_run(&workspace, "stopped", &overrides, 450);
}

/// Ends every process that works in this folder, at once.
fn kill_all_in(folder: &Path) {
    let folder = folder.canonicalize().unwrap();
    let works_there = |process: &PathBuf| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder);
    let all = || sorted_entries(Path::new("/proc")).unwrap().into_iter().filter(works_there);
    for _ in 0..500 {
        let ids: Vec<_> = all().map(|path| path.file_name().unwrap().to_owned()).collect();
        if ids.is_empty() {
            return;
        }
        let _ = Command::new("kill").arg("-KILL").args(ids).output();
        pause(Duration::from_millis(10));
    }
    panic!("processes in {} do not end", folder.display());
}

#[expect(clippy::disallowed_methods, reason = "a test that waits for another process has to sleep")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

fn num_lines(path: &Path) -> u64 {
    fs::read_to_string(path).map_or(0, |text| text.lines().count() as u64)
}

/// Kills the whole run `num_kills` times, at random steps and random moments of them, with a save nearly always in
/// flight, and compares the end with a run that nobody killed.
fn kill_again_and_again(num_kills: u64, steps_per_kill: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = std::env::var("BERT_TRAIN_KILL_SEED").map_or(now, |seed| seed.parse().unwrap());
    println!("BERT_TRAIN_KILL_SEED={seed} repeats these {num_kills} kills");
    let mut stream: Stream = Key::new(seed, Purpose::Debug).stream();
    let workspace = Workspace::new();
    let last_step = num_kills * steps_per_kill;
    let total = format!("schedule.total_steps={last_step}");
    let overrides = [total.as_str(), "checkpoint.every_steps=7", "checkpoint.keep_last=2"];
    run(workspace.mpirun(2, "straight", &overrides)).expect_code(0);
    let metrics = workspace.run_dir("killed").join("metrics.jsonl");
    let (mut num_in_a_save, mut newest) = (0, 0);
    for _ in 0..num_kills {
        let before = newest;
        let num_steps = stream.below(steps_per_kill / 2);
        let delay = Duration::from_micros(stream.below(if num_steps == 0 { 800_000 } else { 40_000 }));
        // Beyond what was reached before: a run that goes on cuts the lines back to its checkpoint first.
        let wanted = num_lines(&metrics) + num_steps;
        let mut running = Running::start(workspace.mpirun(2, "killed", &overrides));
        running.wait_until("the step of the kill", || num_steps == 0 || num_lines(&metrics) >= wanted);
        pause(delay);
        running.signal_group("KILL");
        kill_all_in(&workspace.path(""));
        running.finish();
        let checkpoints = workspace.run_dir("killed").join("checkpoints");
        if !checkpoints.is_dir() {
            continue;
        }
        let is_hidden = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
        num_in_a_save += u64::from(sorted_entries(&checkpoints).unwrap().iter().any(is_hidden));
        // Every folder with a name is whole.
        newest = verified_steps(&workspace, "killed").last().copied().unwrap_or(0);
        assert!(newest >= before, "step {newest} after {before}: a checkpoint is lost");
    }
    println!(
        "{num_kills} kills, {num_in_a_save} of them in a save; the last one after step {newest} of {last_step}"
    );
    assert!(newest < last_step, "the run ended before the last kill");
    check_ends_like_the_straight_run(&workspace, "killed", &overrides, last_step);
}

#[test]
fn random_kills_change_nothing() {
    if has_mpirun() {
        kill_again_and_again(3, 80);
    }
}

#[test]
fn twenty_random_kills_change_nothing() {
    if std::env::var_os("BERT_TRAIN_SLOW_TESTS").is_none() {
        println!("skipped: twenty random kills; set BERT_TRAIN_SLOW_TESTS to run them");
        return;
    }
    if has_mpirun() {
        kill_again_and_again(20, 100);
    }
}
