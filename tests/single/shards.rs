//! Shards on first use: several starts, one build.

use bert_data::shards::BuildLock;

use crate::support::{
    Workspace,
    process::{Running, run},
};

#[test]
fn starts_that_find_no_shards_build_them_once() {
    let workspace = Workspace::new();
    let names = ["first", "second", "third"];
    let all = names.map(|name| Running::start(workspace.solo(name, &["schedule.total_steps=2"])));
    for running in all {
        running.finish().expect_code(0);
    }
    let hashes = names.map(|name| workspace.hash(name, 2));
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert!(!workspace.path("shards.building").exists());
}

#[test]
fn a_start_waits_for_who_builds_and_gives_up_in_time() {
    let workspace = Workspace::new();
    let lock = BuildLock::take(&workspace.path("shards")).unwrap();
    let holder = format!("process {}", std::process::id());

    let short = ["schedule.total_steps=2", "distributed.timeout_seconds=1"];
    run(workspace.solo("impatient", &short)).expect_code(2).expect_error(&["are being built by", &holder]);
    assert!(!workspace.path("shards").exists());

    let mut running = Running::start(workspace.solo("patient", &["schedule.total_steps=2"]));
    running.wait_for_text(&format!("waiting for {holder}"));
    drop(lock);
    running.finish().expect_code(0);
}
