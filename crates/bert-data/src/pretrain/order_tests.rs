//! Tests of the order: a log of samples over ranks and restarts, both orders, counts kept beside the shards.

use super::*;
use crate::testing::{config, corpus_of, corpus_of_sources, text};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Small enough that a test corpus has several windows: one block is one run of documents.
const SMALL_BLOCKS: SampleOrder = SampleOrder::Blocks { block_sentences: 1, window_blocks: 2 };

/// 24 slots of 2 rows, which 1, 2, 3, 4 and 8 ranks can share.
fn settings(order: SampleOrder) -> PretrainDataConfig {
    let objective = SentenceObjective::Nsp;
    PretrainDataConfig { order, global_batch_size: 48, micro_batch_size: 2, ..config(objective) }
}

/// About nine runs of documents.
fn corpus() -> Arc<Corpus> {
    corpus_of(&tempfile::tempdir().unwrap(), &text(300, 30))
}

/// About twelve runs of documents in two sources.
fn corpus_of_two() -> Arc<Corpus> {
    corpus_of_sources(&tempfile::tempdir().unwrap(), &[&text(100, 30), &text(250, 30)])
}

fn data(corpus: &Arc<Corpus>, order: SampleOrder) -> PretrainData {
    PretrainData::new(corpus.clone(), settings(order)).unwrap()
}

fn weighted(corpus: &Arc<Corpus>, order: SampleOrder, weights: &[f64]) -> PretrainData {
    let config = PretrainDataConfig { source_weights: weights.to_vec(), ..settings(order) };
    PretrainData::new(corpus.clone(), config).unwrap()
}

/// Samples of a step and slot, as a rank sees them.
type Log = BTreeMap<(u64, usize), Vec<u64>>;

fn log(data: &PretrainData, steps: Range<u64>, slots: Range<usize>, samples: &mut Log) {
    for (step, slot) in steps.flat_map(|step| slots.clone().map(move |slot| (step, slot))) {
        let batch = data.micro_batch(step, slot).unwrap();
        assert_eq!(batch.sample_idxs.len(), 2);
        assert_eq!(
            samples.insert((step, slot), batch.sample_idxs),
            None,
            "slot {slot} of {step} comes twice"
        );
    }
}

/// A step has the samples of its positions, and the positions of an epoch have each sample once.
fn check_each_sample_once(data: &PretrainData, num_epochs: u64, num_steps: u64, samples: &Log) {
    let at = |position| data.locate(position).unwrap().sample_idx;
    for epoch in 0..num_epochs {
        let positions = data.position_of_epoch(epoch).unwrap()..data.position_of_epoch(epoch + 1).unwrap();
        let num_samples = positions.end - positions.start;
        let seen: BTreeSet<u64> = positions.map(at).collect();
        assert!(seen.into_iter().eq(0..num_samples), "epoch {epoch}");
    }
    for step in 0..num_steps {
        let mut got: Vec<u64> = (0..24).flat_map(|slot| &samples[&(step, slot)]).copied().collect();
        let mut expected: Vec<u64> = (step * 48..(step + 1) * 48).map(at).collect();
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected, "step {step}");
    }
}

#[test]
fn each_sample_comes_once_per_epoch_on_any_ranks_and_across_restarts() {
    let (plain, of_two) = (corpus(), corpus_of_two());
    let cases: [(&Arc<Corpus>, SampleOrder, &[f64]); 4] = [
        (&plain, SampleOrder::Global, &[]),
        (&plain, SMALL_BLOCKS, &[]),
        (&of_two, SampleOrder::Global, &[0.3, 2.25]),
        (&of_two, SMALL_BLOCKS, &[1.5, 0.7]),
    ];
    for (corpus, order, weights) in cases {
        let data = || weighted(corpus, order, weights);
        let reference = data();
        let num_steps = reference.position_of_epoch(2).unwrap().div_ceil(48);
        let mut expected = BTreeMap::new();
        log(&reference, 0..num_steps, 0..24, &mut expected);
        check_each_sample_once(&reference, 2, num_steps, &expected);
        let mut stops = Key::new(5, Purpose::Debug).stream();
        for num_ranks in [1, 2, 3, 4, 8] {
            let stop = 1 + stops.below(num_steps - 1);
            let mut samples = BTreeMap::new();
            for rank in 0..num_ranks {
                let slots = rank * 24 / num_ranks..(rank + 1) * 24 / num_ranks;
                log(&data(), 0..stop, slots.clone(), &mut samples);
                log(&data(), stop..num_steps, slots, &mut samples);
            }
            assert_eq!(samples, expected, "{num_ranks} ranks, stopped at step {stop}, {order:?} {weights:?}");
        }
    }
}

#[test]
fn orders_by_blocks_are_exact_for_any_sizes() {
    let corpus = corpus();
    let check = |block_sentences, window_blocks| {
        let data = data(&corpus, SampleOrder::Blocks { block_sentences, window_blocks });
        for epoch in [0, 1] {
            let positions =
                data.position_of_epoch(epoch).unwrap()..data.position_of_epoch(epoch + 1).unwrap();
            let num_samples = positions.end - positions.start;
            let order: Vec<u64> = positions.map(|p| data.locate(p).unwrap().sample_idx).collect();
            prop_assert!(BTreeSet::from_iter(order).into_iter().eq(0..num_samples));
        }
        Ok(())
    };
    let sizes = (prop_oneof![1u64..6000, Just(u64::MAX)], prop_oneof![1u64..12, Just(u64::MAX)]);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(12));
    runner.run(&sizes, |(block_sentences, window_blocks)| check(block_sentences, window_blocks)).unwrap();
}

/// A stretch of the order stays within its blocks, partners included, and is shuffled there; the next epoch goes
/// another way.
#[test]
fn samples_in_order_of_blocks_stay_in_their_window() {
    let data = data(&corpus(), SMALL_BLOCKS);
    let (context, plan) = (&data.context, data.plan(0).unwrap());
    let key = |epoch| Key::new(42, Purpose::Order).with(epoch);
    let windows = Windows::new(context, &plan, key(0)).unwrap();
    let mut seen = BTreeMap::<u64, Vec<u64>>::new();
    for place in 0..plan.num_samples() {
        let sample = data.sample(place).unwrap();
        let window = windows.window_of(place);
        let documents = windows.documents(context, window);
        let block = documents.iter().find(|range| range.contains(&sample.document)).unwrap();
        assert!(sample.other_document.is_none_or(|other| block.contains(&other)), "{sample:?}");
        seen.entry(window).or_default().push(sample.sample_idx);
    }
    assert!(seen.len() > 3 && seen.values().all(|order| !order.is_sorted()));
    let next = Windows::new(context, &plan, key(1)).unwrap();
    let order = |windows: &Windows| (0..4).map(|w| windows.documents(context, w)).collect::<Vec<_>>();
    assert_ne!(order(&windows), order(&next));
}

#[test]
fn positions_in_blocks_do_not_depend_on_what_was_asked_before() {
    let corpus = corpus();
    let (forward, backward) = (data(&corpus, SMALL_BLOCKS), data(&corpus, SMALL_BLOCKS));
    let positions: Vec<u64> = (0..8000).step_by(61).collect();
    let expected: Vec<Sample> = positions.iter().map(|&p| forward.sample(p).unwrap()).collect();
    for (&position, expected) in positions.iter().zip(&expected).rev() {
        assert_eq!(&backward.sample(position).unwrap(), expected);
    }
    assert!(expected.iter().any(|sample| sample.epoch > 0));
}

/// The order changes no evaluation, and empty blocks or windows are refused.
#[test]
fn evaluation_does_not_depend_on_the_order() {
    let corpus = corpus();
    let (global, blocks) = (data(&corpus, SampleOrder::Global), data(&corpus, SMALL_BLOCKS));
    for idx in 0..global.num_eval_samples() {
        assert_eq!(global.eval_sample(idx).unwrap(), blocks.eval_sample(idx).unwrap());
    }
    for (block_sentences, window_blocks) in [(0, 1), (1, 0)] {
        let order = SampleOrder::Blocks { block_sentences, window_blocks };
        let error = PretrainData::new(corpus.clone(), settings(order)).unwrap_err();
        assert!(matches!(error, DataError::Config { setting: "order", .. }), "{error}");
    }
}

/// A corpus of more than 64 runs keeps counts beside its shards. With them, without them and with damaged ones,
/// a position is the same.
#[test]
fn kept_counts_change_no_position() {
    let dir = tempfile::tempdir().unwrap();
    let corpus =
        corpus_of(&dir, &["w1 w2 w3 w4 w5 w6 w7\n".repeat(30), "\n".to_owned()].concat().repeat(1500));
    let plans = dir.path().join("shards").join("plans");
    let locate = || {
        let data = data(&corpus, SampleOrder::Global);
        let start = data.position_of_epoch(3).unwrap();
        let found: Vec<SamplePosition> = (start..start + 20).map(|p| data.locate(p).unwrap()).collect();
        (start, found)
    };
    let counted = locate();
    let files = crate::files::sorted_entries(&plans).unwrap();
    assert_eq!(files.len(), 5, "held-out documents and epochs 0 to 3");
    assert_eq!(locate(), counted);
    for file in &files {
        std::fs::write(file, b"BERTPLN1 and no more").unwrap();
    }
    assert_eq!(locate(), counted);
    assert!(files.iter().all(|file| std::fs::metadata(file).unwrap().len() > 100));
}

/// A change here means that planning changed: raise the version in the magic of the kept counts.
#[test]
fn golden_counts_of_a_plan() {
    let data = data(&corpus(), SampleOrder::Global);
    let counts = [0, 1, 2].map(|epoch| data.num_samples(epoch).unwrap());
    assert_eq!((counts, data.num_eval_samples()), ([2245, 2243, 2250], 281));
}
