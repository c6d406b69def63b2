//! Tests of what is done ahead: it comes in time, only once, and changes nothing.

use super::*;
use crate::Prefetcher;
use crate::testing::{config, corpus_of};
use std::fs::File;
use std::sync::atomic::AtomicBool;

/// Enough documents that counts are kept: more than 64 runs.
fn corpus(dir: &tempfile::TempDir) -> Arc<Corpus> {
    let document = ["w1 w2 w3 w4 w5 w6 w7\n".repeat(30), "\n".to_owned()].concat();
    corpus_of(dir, &document.repeat(1500))
}

fn data(corpus: &Arc<Corpus>, order: SampleOrder) -> PretrainData {
    let config = PretrainDataConfig { order, ..config(SentenceObjective::Nsp) };
    PretrainData::new(corpus.clone(), config).unwrap()
}

fn positions(data: &PretrainData, epoch: u64) -> (u64, Vec<SamplePosition>) {
    let start = data.position_of_epoch(epoch).unwrap();
    (start, (start..start + 20).map(|position| data.locate(position).unwrap()).collect())
}

#[test]
fn the_next_epoch_is_planned_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let data = Arc::new(data(&corpus(&dir), SampleOrder::Global));
    let num_steps = data.num_samples(0).unwrap() / 16;
    assert!(num_steps > 100 && data.cached_plan(1).is_none());
    let mut prefetcher = Prefetcher::spawn(data.clone(), 0, 0..4, 1, 1).unwrap();
    let is_planned = |_| {
        prefetcher.next_step().unwrap();
        data.cached_plan(1).is_some()
    };
    assert!((0..num_steps - 2).any(is_planned), "not in {num_steps} steps");
}

#[test]
fn plans_made_ahead_are_the_plans_made_when_needed() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(&dir);
    let needed = positions(&data(&corpus, SampleOrder::Global), 1);
    std::fs::remove_dir_all(dir.path().join("shards/plans")).unwrap();
    let ahead = data(&corpus, SampleOrder::Global);
    ahead.plan_ahead(1, &AtomicBool::new(true)).unwrap();
    assert!(ahead.cached_plan(1).is_none(), "stopped");
    ahead.plan_ahead(1, &AtomicBool::new(false)).unwrap();
    assert!(ahead.cached_plan(1).is_some());
    assert_eq!(positions(&ahead, 1), needed);
}

#[test]
fn one_process_of_those_on_the_same_shards_counts_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(&dir);
    let (first, second) = (data(&corpus, SampleOrder::Global), data(&corpus, SampleOrder::Global));
    let other_process = File::open(dir.path().join("shards/plans")).unwrap();
    other_process.lock().unwrap();
    first.plan_ahead(1, &AtomicBool::new(false)).unwrap();
    assert!(first.cached_plan(1).is_none());
    // What is needed now is not waited for.
    positions(&second, 1);
    drop(other_process);
    first.plan_ahead(1, &AtomicBool::new(false)).unwrap();
    assert_eq!(positions(&first, 1), positions(&second, 1));
}

#[test]
fn a_folder_that_takes_no_counts_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(&dir);
    let expected = positions(&data(&corpus, SampleOrder::Global), 2);
    let plans = dir.path().join("shards/plans");
    std::fs::remove_dir_all(&plans).unwrap();
    std::fs::write(&plans, "a file where the folder would be").unwrap();
    let data = data(&corpus, SampleOrder::Global);
    data.plan_ahead(1, &AtomicBool::new(false)).unwrap();
    assert!(data.cached_plan(1).is_some());
    assert_eq!(positions(&data, 2), expected);
}

#[test]
fn the_next_window_is_read_once_and_across_the_end_of_an_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(&corpus(&dir), SampleOrder::Blocks { block_sentences: 1, window_blocks: 30 });
    let windows = data.windows(0, &data.plan(0).unwrap(), Key::new(42, Purpose::Order).with(0)).unwrap();
    assert!(windows.len() >= 3);
    let done = || data.read_windows.lock().unwrap().done();
    data.read_window_ahead().unwrap();
    assert_eq!(done(), []);
    data.sample(0).unwrap();
    assert_eq!(done(), [(0, 0)]);
    data.read_window_ahead().unwrap();
    data.read_window_ahead().unwrap();
    assert_eq!(done(), [(0, 0), (0, 1)]);
    data.sample(data.num_samples(0).unwrap() - 1).unwrap();
    data.look_ahead(0, &AtomicBool::new(false)).unwrap();
    assert_eq!(done().pop(), Some((1, 0)));
}
