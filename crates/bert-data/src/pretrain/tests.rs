//! Tests of the whole pipeline: ratios, order, independence of slots and threads, evaluation.

use super::*;
use crate::Prefetcher;
use crate::config::MaskStrategy;
use crate::masking::ngram_preset;
use crate::testing::{config, corpus_of, text};
use std::collections::{BTreeMap, BTreeSet, HashSet};

fn data(text: &str, config: PretrainDataConfig) -> Result<PretrainData, DataError> {
    let dir = tempfile::tempdir().unwrap();
    PretrainData::new(corpus_of(&dir, text), config)
}

fn ordinary(objective: SentenceObjective) -> PretrainData {
    data(&text(200, 30), config(objective)).unwrap()
}

/// Every document's tokens, to look segments up in.
fn documents(data: &PretrainData) -> Vec<Vec<u32>> {
    let corpus = data.corpus();
    let read = |idx| {
        let document = corpus.document(idx).unwrap();
        let num_tokens = document.sentence_lengths.iter().map(|&l| u64::from(l)).sum();
        let (mut ids, mut starts) = (vec![], vec![]);
        corpus.read_tokens(&document, 0..num_tokens, &mut ids, &mut starts).unwrap();
        ids
    };
    (0..corpus.num_documents()).map(read).collect()
}

fn holds(document: &[u32], part: &[u32]) -> bool {
    document.windows(part.len()).any(|window| window == part)
}

/// The segments of a row, without special tokens.
fn segments(sample: &Sample) -> Vec<&[u32]> {
    let sep = crate::testing::tokenizer().special().sep;
    let inner = &sample.original_ids[1..sample.original_ids.len() - 1];
    inner.split(|&id| id == sep).collect()
}

#[test]
fn every_sample_comes_once_per_epoch_and_epochs_flow_into_each_other() {
    let data = ordinary(SentenceObjective::Nsp);
    let mut position = 0;
    let mut orders = vec![];
    for epoch in 0..4 {
        assert_eq!(data.position_of_epoch(epoch).unwrap(), position);
        let num_samples = data.num_samples(epoch).unwrap();
        let mut order = vec![];
        for index in 0..num_samples {
            let got = data.locate(position).unwrap();
            assert_eq!((got.epoch, got.index_in_epoch), (epoch, index));
            order.push(got.sample_idx);
            position += 1;
        }
        assert_eq!(order.iter().copied().collect::<BTreeSet<u64>>().len() as u64, num_samples);
        assert_eq!(order.iter().max(), Some(&(num_samples - 1)));
        orders.push(order);
    }
    assert_ne!(orders[0][..50], orders[1][..50]);
}

#[test]
fn positions_are_found_in_any_order() {
    let forward = ordinary(SentenceObjective::Nsp);
    let backward = ordinary(SentenceObjective::Nsp);
    let positions: Vec<u64> = (0..3000).step_by(37).collect();
    let expected: Vec<Sample> = positions.iter().map(|&p| forward.sample(p).unwrap()).collect();
    for (&position, expected) in positions.iter().zip(&expected).rev() {
        assert_eq!(&backward.sample(position).unwrap(), expected);
    }
    assert!(expected.iter().any(|sample| sample.epoch > 0));
}

/// The tokens of each row after masking.
fn rows_by_sample(batches: &[MicroBatch]) -> BTreeMap<u64, &[u32]> {
    let rows = batches.iter().flat_map(|batch| {
        let row = |(start, &length): (usize, &u32)| &batch.input_ids[start..start + length as usize];
        let starts = (0..).step_by(batch.row_len);
        batch.sample_idxs.iter().copied().zip(starts.zip(&batch.lengths).map(row))
    });
    rows.collect()
}

/// Rows of 64 tokens at most, and many that are shorter.
#[test]
fn slots_of_a_step_share_its_tokens_and_keep_their_number_of_rows() {
    let data = data(&text(400, 12), config(SentenceObjective::Nsp)).unwrap();
    let (mut spread, mut spread_in_turn) = (0, 0);
    let between = |tokens: &[u64]| tokens.iter().max().unwrap() - tokens.iter().min().unwrap();
    for step in 0..20 {
        let first = data.locate(step * 16).unwrap();
        let batches: Vec<MicroBatch> = (0..4).map(|slot| data.micro_batch(step, slot).unwrap()).collect();
        assert!(batches.iter().all(|batch| batch.num_rows == 4 && batch.epoch == first.epoch));
        spread += between(&batches.iter().map(MicroBatch::num_tokens).collect::<Vec<_>>());
        let positions = step * 16..step * 16 + 16;
        let mut lengths: Vec<u32> =
            positions.map(|position| data.sample(position).unwrap().input_ids.len() as u32).collect();
        let in_turn: Vec<u64> =
            lengths.chunks(4).map(|rows| rows.iter().copied().map(u64::from).sum()).collect();
        spread_in_turn += between(&in_turn);
        let mut got: Vec<u32> = batches.into_iter().flat_map(|batch| batch.lengths).collect();
        got.sort_unstable();
        lengths.sort_unstable();
        assert_eq!(got, lengths);
    }
    println!(
        "tokens between the fullest and the emptiest slot in 20 steps: {spread}; in turn {spread_in_turn}"
    );
    assert!(2 * spread < spread_in_turn, "{spread} {spread_in_turn}");
}

#[test]
fn the_global_batch_does_not_depend_on_slots_or_threads() {
    let whole =
        data(&text(60, 10), PretrainDataConfig { micro_batch_size: 16, ..config(SentenceObjective::Nsp) });
    let whole = whole.unwrap();
    let parts = Arc::new(data(&text(60, 10), config(SentenceObjective::Nsp)).unwrap());
    let mut prefetchers: Vec<Prefetcher> = [(1, 1), (3, 2)]
        .map(|(n, depth)| Prefetcher::spawn(parts.clone(), 0, 0..4, n, depth).unwrap())
        .into();
    for step in 0..12 {
        let expected = [whole.micro_batch(step, 0).unwrap()];
        let expected = rows_by_sample(&expected);
        let batches: Vec<MicroBatch> = (0..4).map(|slot| parts.micro_batch(step, slot).unwrap()).collect();
        assert_eq!(expected.len(), 16);
        assert_eq!(rows_by_sample(&batches), expected);
        let steps: Vec<_> = prefetchers.iter_mut().map(|p| p.next_step().unwrap()).collect();
        assert_eq!(steps[0], steps[1]);
        assert_eq!(steps[0].micro_batches, batches);
    }
}

#[test]
fn rows_have_the_form_bert_expects() {
    for objective in [SentenceObjective::Nsp, SentenceObjective::Sop, SentenceObjective::None] {
        let data = ordinary(objective);
        for step in 0..20 {
            let batch = data.micro_batch(step, 1).unwrap();
            let samples = (step * 16..step * 16 + 16).map(|position| data.sample(position).unwrap());
            let samples: BTreeMap<u64, Sample> = samples.map(|sample| (sample.sample_idx, sample)).collect();
            assert!(batch.row_len.is_multiple_of(8) && batch.row_len <= 64);
            assert_eq!(batch.input_ids.len(), batch.num_rows * batch.row_len);
            assert_eq!(batch.nsp_labels.len(), if objective == SentenceObjective::None { 0 } else { 4 });
            assert!(batch.mlm_positions.is_sorted_by(|a, b| a < b));
            for row in 0..4 {
                let sample = &samples[&batch.sample_idxs[row]];
                let length = sample.input_ids.len();
                assert_eq!(batch.lengths[row] as usize, length);
                let start = row * batch.row_len;
                assert_eq!(batch.input_ids[start..start + length], sample.input_ids);
                assert!(batch.input_ids[start + length..start + batch.row_len].iter().all(|&id| id == 0));
                let parts = segments(sample);
                assert_eq!(parts.len(), if objective == SentenceObjective::None { 1 } else { 2 });
                assert!(parts.iter().all(|part| !part.is_empty()));
                assert_eq!((sample.original_ids[0], sample.original_ids[length - 1]), (2, 3));
                let first = parts[0].len() + 2;
                assert!(sample.token_type_ids[..first].iter().all(|&t| t == 0));
                assert!(sample.token_type_ids[first..].iter().all(|&t| t == 1));
            }
        }
    }
}

#[test]
fn labels_say_what_the_segments_are_and_held_out_text_stays_out() {
    for objective in [SentenceObjective::Nsp, SentenceObjective::Sop] {
        let data = ordinary(objective);
        let documents = documents(&data);
        let num_positions = data.num_samples(0).unwrap();
        let samples: Vec<Sample> = (0..num_positions).map(|p| data.sample(p).unwrap()).collect();
        for sample in &samples {
            let parts = segments(sample);
            let own = &documents[sample.document as usize];
            let label = sample.nsp_label.unwrap();
            assert!(holds(own, parts[0]));
            match sample.other_document {
                Some(other) => {
                    assert_eq!((objective, label), (SentenceObjective::Nsp, 1));
                    assert!(other != sample.document && holds(&documents[other as usize], parts[1]));
                }
                None if sample.num_truncated > 0 => assert!(holds(own, parts[1])),
                None if label == 0 => assert!(holds(own, &parts.concat()), "{sample:?}"),
                None => assert!(holds(own, &[parts[1], parts[0]].concat()), "{sample:?}"),
            }
        }
        let trained: HashSet<u64> =
            samples.iter().flat_map(|s| [Some(s.document), s.other_document]).flatten().collect();
        let held_out: Vec<Sample> =
            (0..data.num_eval_samples()).map(|idx| data.eval_sample(idx).unwrap()).collect();
        let evaluated: HashSet<u64> =
            held_out.iter().flat_map(|s| [Some(s.document), s.other_document]).flatten().collect();
        assert!(trained.is_disjoint(&evaluated));
        assert_eq!(held_out.iter().map(|s| s.document).collect::<HashSet<u64>>().len(), 20);
    }
}

#[test]
fn half_of_ten_thousand_pairs_are_negative() {
    // Ordinary documents, and documents of one or two sentences, where Google's script gives far more than
    // half.
    for max_sentences in [30, 2] {
        for seed in 0..4 {
            let config = PretrainDataConfig { seed, ..config(SentenceObjective::Nsp) };
            let data = data(&text(700, max_sentences), config).unwrap();
            let labels =
                (0..10_000).map(|position| u64::from(data.sample(position).unwrap().nsp_label.unwrap()));
            let share = labels.sum::<u64>() as f64 / 10_000.0;
            assert!((share - 0.5).abs() <= 0.01, "{max_sentences} sentences, seed {seed}: {share}");
        }
    }
}

#[test]
fn every_batch_has_both_labels_in_the_proportion_of_the_epoch() {
    for objective in [SentenceObjective::Nsp, SentenceObjective::Sop] {
        let data = ordinary(objective);
        let num_steps = data.num_samples(0).unwrap() / 16;
        for step in 0..num_steps {
            let labels = (0..4).flat_map(|slot| data.micro_batch(step, slot).unwrap().nsp_labels);
            let num_negative = labels.map(u64::from).sum::<u64>();
            assert!((7..=9).contains(&num_negative), "{num_negative} of 16");
        }
    }
}

#[test]
fn dynamic_masks_change_with_the_epoch_and_static_ones_repeat() {
    check_repetition(MaskStrategy::WholeWord, vec![]);
    check_repetition(MaskStrategy::Ngram, ngram_preset("albert").unwrap());
    check_repetition(MaskStrategy::Ngram, vec![0.0, 3.0, 1.0]);
}

fn check_repetition(strategy: MaskStrategy, ngram_weights: Vec<f64>) {
    let repeated = |mode| {
        let mut config = config(SentenceObjective::Nsp);
        config.masking.strategy = strategy;
        config.masking.ngram_weights = ngram_weights.clone();
        config.masking.mode = mode;
        let data = data(&text(40, 8), config).unwrap();
        let rows = |epoch| {
            let range = data.position_of_epoch(epoch).unwrap()..data.position_of_epoch(epoch + 1).unwrap();
            range.map(|p| data.sample(p).unwrap().input_ids).collect::<BTreeSet<_>>()
        };
        [0, 1, 2].map(rows)
    };
    let [first, second, third] = repeated(MaskMode::Static { num_copies: 2 });
    assert_eq!(first, third);
    assert_ne!(first, second);
    let [first, second, third] = repeated(MaskMode::Dynamic);
    assert!(first != second && first != third && second != third);
}

#[test]
fn evaluation_is_fixed_and_has_baselines() {
    let data = ordinary(SentenceObjective::Nsp);
    let batches: Vec<MicroBatch> = data.eval_batches(7).map(|batch| batch.unwrap()).collect();
    data.micro_batch(100, 0).unwrap();
    assert_eq!(data.eval_batches(7).map(|batch| batch.unwrap()).collect::<Vec<_>>(), batches);
    assert_eq!(batches.iter().map(|b| b.num_rows as u64).sum::<u64>(), data.num_eval_samples());
    assert!(data.eval_batch(batches.len() as u64, 7).is_err());
    let baselines = data.baselines().unwrap();
    assert!(
        baselines.unigram_entropy_nats > 4.0 && baselines.unigram_entropy_nats < baselines.uniform_nats()
    );
    let ones = batches.iter().flat_map(|b| &b.nsp_labels).filter(|&&label| label == 1).count() as u64;
    let majority = ones.max(data.num_eval_samples() - ones);
    assert_eq!(baselines.majority_nsp, Some(majority as f64 / data.num_eval_samples() as f64));
}

#[test]
fn other_seeds_give_other_batches() {
    let first = ordinary(SentenceObjective::Nsp).micro_batch(0, 0).unwrap();
    let other = data(&text(200, 30), PretrainDataConfig { seed: 43, ..config(SentenceObjective::Nsp) });
    assert_ne!(first.input_ids, other.unwrap().micro_batch(0, 0).unwrap().input_ids);
}

#[test]
fn too_few_documents_are_refused_and_what_works_instead_is_named() {
    let one = text(1, 30);
    let error = data(&one, PretrainDataConfig { validation_fraction: 0.0, ..config(SentenceObjective::Nsp) });
    let error = error.unwrap_err();
    assert!(matches!(&error, DataError::TooFewDocuments { objective: "nsp", got: 1, .. }), "{error}");
    assert!(error.to_string().contains("\"sop\""), "{error}");
    assert_eq!(error.kind(), crate::DataErrorKind::Config);
    for objective in [SentenceObjective::Sop, SentenceObjective::None] {
        let config = PretrainDataConfig { validation_fraction: 0.0, ..config(objective) };
        let data = data(&one, config).unwrap();
        data.micro_batch(50, 3).unwrap();
        assert_eq!(data.num_eval_samples(), 0);
        assert!(data.baselines().is_err());
    }
    assert!(data(&text(3, 30), config(SentenceObjective::Nsp)).is_err());
    let short = PretrainDataConfig { validation_fraction: 0.0, ..config(SentenceObjective::None) };
    assert!(matches!(data("w1\n\nw2\n", short), Err(DataError::NoSamples { .. })));
}

#[test]
fn bad_settings_are_named() {
    let bad = [
        (PretrainDataConfig { max_seq_length: 7, ..config(SentenceObjective::Nsp) }, "max_seq_length"),
        (PretrainDataConfig { short_seq_prob: 1.5, ..config(SentenceObjective::Nsp) }, "short_seq_prob"),
        (PretrainDataConfig { micro_batch_size: 5, ..config(SentenceObjective::Nsp) }, "global_batch_size"),
        (
            PretrainDataConfig { validation_fraction: 1.0, ..config(SentenceObjective::Nsp) },
            "validation_fraction",
        ),
    ];
    for (config, name) in bad {
        let error = data("w1 w2\n\nw3 w4\n", config).unwrap_err();
        assert!(matches!(&error, DataError::Config { setting, .. } if *setting == name), "{error}");
    }
    let data = ordinary(SentenceObjective::Nsp);
    assert!(data.micro_batch(0, 4).is_err());
}
