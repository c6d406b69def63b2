//! Saves that are killed, fail or find a full disk at every one of their points; checkpoints that are damaged in every
//! one of their files. One process at a time.
//!
//! A point is an operation on the file system; `BERT_TRAIN_SAVE_FAULT` names one by its number.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use bert_train::checkpoint::{
    CheckpointState,
    manifest::{files_below, sorted_entries},
    read,
};

use crate::support::{
    Workspace, flip_bit,
    process::{Finished, run},
};

/// Two saves; the second one deletes the first.
const OVERRIDES: [&str; 3] = ["schedule.total_steps=2", "checkpoint.every_steps=1", "checkpoint.keep_last=1"];

fn with_fault(mut command: Command, fault: &str) -> Finished {
    command.env("BERT_TRAIN_SAVE_FAULT", fault);
    run(command)
}

/// What each point of a run does, from its log.
fn points(finished: &Finished) -> Vec<String> {
    let named = finished.stderr.lines().filter_map(|line| line.split_once("save point "));
    named.map(|(_, point)| point.split_once(": ").unwrap().1.to_string()).collect()
}

fn is_left_over(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    name.starts_with('.') || name.ends_with(".new")
}

/// Steps of the checkpoints, each of them verified.
fn verified_steps(checkpoints: &Path) -> Vec<u64> {
    let step = |path: &PathBuf| CheckpointState::verify(path).unwrap_or_else(|error| panic!("{error}")).step;
    read::list(checkpoints).unwrap().iter().map(step).collect()
}

/// Copies a run folder, links as links.
fn copy_run(workspace: &Workspace, from: &str, to: &str) {
    let _ = fs::remove_dir_all(workspace.run_dir(to));
    let status = Command::new("cp").arg("-a").args([workspace.run_dir(from), workspace.run_dir(to)]).status();
    assert!(status.unwrap().success());
}

/// A run that is done, and one that has done the first of its two steps; the points of the second step's save.
fn prepared() -> (Workspace, Vec<String>) {
    let workspace = Workspace::new();
    run(workspace.solo("straight", &OVERRIDES)).expect_code(0);
    let all = with_fault(workspace.solo("walked", &OVERRIDES), "list").expect_code(0);
    let all = points(&all);
    let is_rename = |point: &String| point.starts_with("rename to") && point.contains("step-000000001");
    let first_save = all.iter().position(is_rename).unwrap();
    // Killed once its first checkpoint has its name: the second save is still to come.
    let kill = with_fault(workspace.solo("half", &OVERRIDES), &format!("kill@{}", first_save + 2));
    kill.expect_code(137);
    assert_eq!(verified_steps(&workspace.run_dir("half").join("checkpoints")), [1]);
    copy_run(&workspace, "half", "walked");
    let rest = with_fault(workspace.solo("walked", &OVERRIDES), "list").expect_code(0);
    (workspace, points(&rest))
}

#[track_caller]
fn check_ends_like_the_straight_run(workspace: &Workspace, name: &str) -> Finished {
    let finished = run(workspace.solo(name, &OVERRIDES)).expect_code(0);
    workspace.check_same(name, "straight", 2);
    let checkpoints = workspace.run_dir(name).join("checkpoints");
    assert_eq!(verified_steps(&checkpoints), [2]);
    let left_over: Vec<_> =
        sorted_entries(&checkpoints).unwrap().into_iter().filter(|path| is_left_over(path)).collect();
    assert!(left_over.is_empty(), "{left_over:?}");
    assert_eq!(fs::read_link(checkpoints.join("latest")).unwrap(), Path::new("step-000000002"));
    finished
}

/// At every point of a start after a kill and of a save with its retention: whatever was complete stays complete, the
/// newest is found, what was left behind is removed, and the end is that of a run that nobody disturbed.
#[test]
fn a_kill_at_every_point_of_a_save_loses_nothing() {
    let started = Instant::now();
    let (workspace, points) = prepared();
    let kinds: BTreeSet<&str> = points.iter().map(|point| point.split(" `").next().unwrap()).collect();
    let all_kinds = [
        "create",
        "create folder",
        "fsync",
        "fsync folder",
        "link",
        "remove",
        "remove folder",
        "rename to",
        "write",
    ];
    assert_eq!(kinds, BTreeSet::from(all_kinds), "{points:#?}");
    let checkpoints = workspace.run_dir("walked").join("checkpoints");
    for (idx, point) in points.iter().enumerate() {
        copy_run(&workspace, "half", "walked");
        with_fault(workspace.solo("walked", &OVERRIDES), &format!("kill@{}", idx + 1)).expect_code(137);
        let steps = verified_steps(&checkpoints);
        assert!(!steps.is_empty(), "{point}: nothing is left");
        let newest = *steps.last().unwrap();
        let found = read::newest_verified(&checkpoints).unwrap().unwrap();
        assert_eq!((found.state.step, found.passed_over.len()), (newest, 0), "{point}");
        let finished = check_ends_like_the_straight_run(&workspace, "walked");
        let continued = format!("continuing after step {newest}");
        assert!(finished.stderr.contains(&continued), "{point}: {}", finished.stderr);
    }
    println!("{} points in {:.1} s", points.len(), started.elapsed().as_secs_f64());
}

/// The same for errors, at every sixth point (all of them are walked over in the tests of the library).
#[test]
fn an_error_in_a_save_ends_the_run_and_loses_nothing() {
    let (workspace, points) = prepared();
    let checkpoints = workspace.run_dir("walked").join("checkpoints");
    for (idx, point) in points.iter().enumerate().skip(4).step_by(6) {
        copy_run(&workspace, "half", "walked");
        let (kind, reason) = [("enospc", "No space left"), ("eio", "Input/output error")][idx / 6 % 2];
        let failed =
            with_fault(workspace.solo("walked", &OVERRIDES), &format!("{kind}@{}", idx + 1)).expect_code(1);
        let path = point.split('`').nth(1).unwrap();
        failed.expect_error(&[path, reason]);
        assert!(!verified_steps(&checkpoints).is_empty(), "{point}");
        check_ends_like_the_straight_run(&workspace, "walked");
    }
}

#[test]
fn a_fault_that_is_none_is_refused() {
    let workspace = Workspace::new();
    with_fault(workspace.solo("odd", &OVERRIDES), "stab@3")
        .expect_code(2)
        .expect_error(&["kill@N", "stab@3"]);
}

/// Training goes on while a save is written; the next save waits for it, and says so once.
#[test]
fn steps_go_on_during_a_save() {
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=12", "checkpoint.every_steps=4"];
    run(workspace.solo("straight", &overrides)).expect_code(0);
    let finished = with_fault(workspace.solo("slow", &overrides), "pause@5").expect_code(0);
    let at = |text: &str| {
        finished
            .stderr
            .lines()
            .position(|line| line.contains(text))
            .unwrap_or_else(|| panic!("{text}: {finished:?}"))
    };
    assert!(at("save point 5") < at("step 8:"), "{}", finished.stderr);
    assert!(at("step 8:") < at("step 8 waits for the save after step 4"), "{}", finished.stderr);
    assert!(at("step 8 waits") < at("step-000000004: training waited"), "{}", finished.stderr);
    assert_eq!(finished.stderr.matches("waits for the save").count(), 1, "{}", finished.stderr);
    assert_eq!(workspace.hash("slow", 12), workspace.hash("straight", 12));
    assert_eq!(verified_steps(&workspace.run_dir("slow").join("checkpoints")), [4, 8, 12]);
}

/// Files of the newest checkpoint, each damaged or gone.
#[test]
fn a_flipped_byte_or_a_missing_file_is_named_and_passed_over() {
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=4", "checkpoint.every_steps=2"];
    run(workspace.solo("damaged", &overrides)).expect_code(0);
    let checkpoints = workspace.run_dir("damaged").join("checkpoints");
    let files = files_below(&workspace.checkpoint("damaged", 4)).unwrap();
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    let expected = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "rank-00000.safetensors",
        "state.json",
    ];
    assert_eq!(names, expected);
    for (file, name) in files.iter().zip(names) {
        let intact = fs::read(file).unwrap();
        let damages: [&dyn Fn(); 3] =
            [&|| flip_bit(file), &|| fs::write(file, &intact[..intact.len() / 2]).unwrap(), &|| {
                fs::remove_file(file).unwrap()
            }];
        for damage in damages {
            damage();
            let found = read::newest_verified(&checkpoints).unwrap().unwrap();
            assert_eq!(found.state.step, 2);
            assert_eq!(found.passed_over.len(), 1);
            assert!(found.passed_over[0].contains("step-000000004"), "{:?}", found.passed_over);
            assert!(found.passed_over[0].contains(name), "{:?}", found.passed_over);
            fs::write(file, &intact).unwrap();
        }
        assert_eq!(read::newest_verified(&checkpoints).unwrap().unwrap().state.step, 4);
    }
}

#[test]
fn what_lies_about_in_the_folder_is_named_and_put_right() {
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=4", "checkpoint.every_steps=2"];
    run(workspace.solo("untidy", &overrides)).expect_code(0);
    let hash = workspace.hash("untidy", 4);
    let checkpoints = workspace.run_dir("untidy").join("checkpoints");
    let latest = checkpoints.join("latest");
    let point_at = |target: &str| {
        let _ = fs::remove_file(&latest);
        std::os::unix::fs::symlink(target, &latest).unwrap();
    };
    let check = |parts: &[&str], step: u64| {
        let finished = run(workspace.solo("untidy", &overrides)).expect_code(0);
        parts.iter().for_each(|part| assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr));
        assert!(finished.stderr.contains(&format!("continuing after step {step}")), "{}", finished.stderr);
        assert_eq!(fs::read_link(&latest).unwrap(), Path::new("step-000000004"));
        assert_eq!(verified_steps(&checkpoints), [2, 4]);
        assert_eq!(workspace.hash("untidy", 4), hash);
        assert!(!sorted_entries(&checkpoints).unwrap().iter().any(|path| is_left_over(path)));
    };

    point_at("step-000000099");
    check(&["the link `latest` pointed at `step-000000099`"], 4);
    point_at("step-000000002");
    check(&["the link `latest` pointed at `step-000000002`"], 4);
    fs::remove_file(&latest).unwrap();
    check(&["the link `latest` pointed at nothing"], 4);

    fs::create_dir_all(checkpoints.join(".unfinished-step-000000003/model")).unwrap();
    fs::write(checkpoints.join(".unfinished-step-000000003/model/config.json"), "{").unwrap();
    fs::create_dir_all(checkpoints.join(".deleted-step-000000001/optimizer")).unwrap();
    check(&["removed `.unfinished-step-000000003`", "removed `.deleted-step-000000001`"], 4);

    // `latest` points at the damaged one: what is damaged is named, and made anew.
    flip_bit(&workspace.checkpoint("untidy", 4).join("model/vocab.txt"));
    check(&["passed over a damaged checkpoint", "vocab.txt", "pointed at `step-000000004`"], 2);
}

/// A file system of its own, taken away at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path);
        let mounted = command.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(path))
    }

    fn grow(&self, size: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,size={size}")]).arg(&self.0);
        assert!(command.status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_the_run_and_the_earlier_checkpoint_stands() {
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=30", "checkpoint.every_steps=10"];
    run(workspace.solo("straight", &overrides)).expect_code(0);
    let size: u64 = files_below(&workspace.checkpoint("straight", 10))
        .unwrap()
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .sum();
    let checkpoints = workspace.run_dir("full").join("checkpoints");
    // One checkpoint and a half.
    let Some(disk) = SmallDisk::mount(checkpoints.clone(), &(size * 3 / 2).to_string()) else {
        println!("skipped: a file system of its own for the full disk; mounting is not permitted");
        return;
    };
    let finished = run(workspace.solo("full", &overrides)).expect_code(1);
    finished.expect_error(&[
        "the save after step 20 failed",
        "cannot write",
        "No space left",
        "free space there",
    ]);
    assert_eq!(verified_steps(&checkpoints), [10]);
    assert!(!sorted_entries(&checkpoints).unwrap().iter().any(|path| is_left_over(path)));
    disk.grow("64m");
    run(workspace.solo("full", &overrides)).expect_code(0);
    workspace.check_same("full", "straight", 30);
}
