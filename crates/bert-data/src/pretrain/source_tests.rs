//! Tests of weighted sources: how often documents come, what weights leave alone, partners, kept counts.

use super::*;
use crate::testing::{config, corpus_of, corpus_of_sources, text};
use std::collections::BTreeMap;

/// Documents of the first source; twice as many are in the second.
const NUM_FIRST: u64 = 60;

fn corpus() -> Arc<Corpus> {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus_of_sources(&dir, &[&text(NUM_FIRST, 20), &text(2 * NUM_FIRST, 20)]);
    assert_eq!(corpus.source_borders(), [0, NUM_FIRST, 3 * NUM_FIRST]);
    corpus
}

fn data(corpus: &Arc<Corpus>, weights: &[f64]) -> PretrainData {
    let config = PretrainDataConfig { source_weights: weights.to_vec(), ..config(SentenceObjective::Nsp) };
    PretrainData::new(corpus.clone(), config).unwrap()
}

/// How often each document comes in an epoch: its samples that begin at its first token.
fn readings(data: &PretrainData, epoch: u64) -> BTreeMap<u64, u64> {
    let (plan, mut readings) = (data.plan(epoch).unwrap(), BTreeMap::new());
    for sample_idx in 0..plan.num_samples() {
        let sample = plan.sample(&data.context, sample_idx).unwrap();
        *readings.entry(sample.document).or_default() += u64::from(sample.chunk.first.start == 0);
    }
    readings
}

#[test]
fn training_documents_come_as_often_as_their_weight_says_and_held_out_ones_never() {
    let corpus = corpus();
    let weights = [2.25, 0.4];
    let data = data(&corpus, &weights);
    let mut counts = vec![0u64; corpus.num_documents() as usize];
    for epoch in 0..10 {
        readings(&data, epoch).into_iter().for_each(|(document, count)| counts[document as usize] += count);
        let sources = data.sources(epoch).unwrap();
        assert_eq!(sources.iter().map(|s| s.num_samples).sum::<u64>(), data.num_samples(epoch).unwrap());
        assert_eq!(sources.iter().map(|s| s.weight).collect::<Vec<_>>(), weights);
        for (document, &count) in (0..).zip(&counts) {
            let expected = weights[usize::from(document >= NUM_FIRST)] * (epoch + 1) as f64;
            match data.is_trained_on(document) {
                true => assert!((count as f64 - expected).abs() < 1.0, "document {document}: {count}"),
                false => assert_eq!(count, 0, "document {document}"),
            }
        }
    }
}

#[test]
fn weights_of_one_change_nothing_and_no_weight_changes_evaluation() {
    let corpus = corpus();
    let (plain, ones, weighted) =
        (data(&corpus, &[]), data(&corpus, &[1.0, 1.0]), data(&corpus, &[0.5, 3.0]));
    for position in 0..500 {
        assert_eq!(plain.sample(position).unwrap(), ones.sample(position).unwrap());
    }
    assert_ne!(plain.sample(0).unwrap(), weighted.sample(0).unwrap());
    assert_eq!(plain.num_eval_samples(), weighted.num_eval_samples());
    for idx in 0..plain.num_eval_samples() {
        assert_eq!(plain.eval_sample(idx).unwrap(), weighted.eval_sample(idx).unwrap());
    }
}

/// The first reading of a document is cut as without weights, the second one in another way.
#[test]
fn readings_of_one_epoch_are_cut_and_masked_anew() {
    let corpus = corpus();
    let (plain, twice) = (data(&corpus, &[]), data(&corpus, &[2.0, 1.0]));
    let chunks = |data: &PretrainData, document: u64| {
        let plan = data.plan(0).unwrap();
        let samples = (0..plan.num_samples()).map(|idx| plan.sample(&data.context, idx).unwrap());
        samples.filter(|sample| sample.document == document).map(|sample| sample.chunk).collect::<Vec<_>>()
    };
    let mut num_different = 0;
    for document in (0..20).filter(|&document| plain.is_trained_on(document)) {
        let (one, two) = (chunks(&plain, document), chunks(&twice, document));
        let (first, second) = two.split_at(one.len());
        assert_eq!(first, one);
        num_different += usize::from(second != one);
    }
    assert!(num_different > 10, "{num_different}");
}

/// Static copies are written once and repeated, fractional weights included.
#[test]
fn static_copies_repeat_what_they_read() {
    let mut config = PretrainDataConfig { source_weights: vec![0.5, 1.0], ..config(SentenceObjective::Nsp) };
    config.masking.mode = MaskMode::Static { num_copies: 2 };
    let data = PretrainData::new(corpus(), config).unwrap();
    let of = |epoch| readings(&data, epoch);
    assert_eq!((of(0), of(1)), (of(2), of(3)));
    assert_ne!(of(0), of(1));
}

#[test]
fn partners_come_as_often_as_their_documents() {
    let data = data(&corpus(), &[4.0, 0.5]);
    let (mut num_negative, mut num_first) = (0.0, 0.0);
    for position in 0..6000 {
        if let Some(other) = data.sample(position).unwrap().other_document {
            assert!(data.is_trained_on(other));
            num_negative += 1.0;
            num_first += f64::from(u8::from(other < NUM_FIRST));
        }
    }
    // 4 x 60 of 4 x 60 + 0.5 x 120 readings, but for the documents held out: 18 of 180.
    let num_trained = |documents: Range<u64>| documents.filter(|&d| data.is_trained_on(d)).count() as f64;
    let (first, second) = (4.0 * num_trained(0..NUM_FIRST), 0.5 * num_trained(NUM_FIRST..3 * NUM_FIRST));
    let expected: f64 = first / (first + second);
    let deviation = (expected * (1.0 - expected) / num_negative).sqrt();
    assert!((num_first / num_negative - expected).abs() < 5.0 * deviation, "{num_first} of {num_negative}");
}

#[test]
fn kept_counts_are_those_of_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let document = ["w1 w2 w3 w4 w5 w6 w7\n".repeat(30), "\n".to_owned()].concat();
    let corpus = corpus_of(&dir, &document.repeat(1500));
    let num_samples = |weight: f64| {
        let data = data(&corpus, &[weight]);
        (0..3).map(|epoch| data.num_samples(epoch).unwrap()).collect::<Vec<_>>()
    };
    let weights = [1.0, 2.0, 0.5, 0.25];
    let counted = weights.map(num_samples);
    let files = crate::files::sorted_entries(&dir.path().join("shards").join("plans")).unwrap();
    assert_eq!(files.len(), 1 + 3 * weights.len());
    assert_eq!(weights.map(num_samples), counted);
    for (weight, counts) in weights.iter().zip(&counted) {
        let expected = counted[0][0] as f64 * weight;
        assert!(counts.iter().all(|&n| (n as f64 / expected - 1.0).abs() < 0.05), "{weight}: {counts:?}");
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let corpus = corpus();
    for (weights, parts) in [
        (vec![1.0], ["each source of the shards, 2", "1"]),
        (vec![1.0, 0.0], ["above 0", "0"]),
        (vec![1.0, f64::NAN], ["above 0", "NaN"]),
        (vec![1000.0, 1.0], ["at most 100", "1000"]),
    ] {
        let config = PretrainDataConfig { source_weights: weights, ..config(SentenceObjective::Nsp) };
        let error = PretrainData::new(corpus.clone(), config).unwrap_err();
        assert!(matches!(error, DataError::Config { setting: "source_weights", .. }), "{error}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let with_empty = corpus_of_sources(&dir, &[&text(60, 10), "\n"]);
    assert_eq!(data(&with_empty, &[0.5, 1.0]).sources(0).unwrap()[1].num_samples, 0);
    let config = PretrainDataConfig { source_weights: vec![1.0, 0.5], ..config(SentenceObjective::Nsp) };
    let error = PretrainData::new(with_empty, config).unwrap_err();
    assert!(error.to_string().contains("source 2, which has no document"), "{error}");
}
