//! Gradients, determinism and symmetries of the whole model.

use bert_random::Purpose;

use super::*;
use crate::{
    backend::BackendKind,
    config::HiddenAct,
    ops::raw,
    test_support::{OwnedBatch, backends, composed, tiny_config},
};

/// Keeps every bucket and counts the calls.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Collected {
    num_forward_done: usize,
    pub(super) buckets: Vec<Vec<f32>>,
}

impl GradientSink for Collected {
    fn forward_done(&mut self) {
        assert!(self.buckets.is_empty(), "forward ends before the first gradient");
        self.num_forward_done += 1;
    }

    /// Full of what would be noticed if it were not overwritten.
    fn buffer(&mut self, bucket_idx: usize) -> Vec<f32> {
        vec![f32::NAN; 1000 * (bucket_idx % 2)]
    }

    fn bucket(&mut self, bucket_idx: usize, gradient: Vec<f32>) {
        assert_eq!(bucket_idx, self.buckets.len(), "buckets come in order");
        self.buckets.push(gradient);
    }
}

const SCALE: LossScale = LossScale { mlm: 0.25, nsp: 0.5 };

pub(super) fn model(config: &ModelConfig, compute: impl Into<Compute>) -> PretrainModel {
    PretrainModel::init(config, Key::new(5, Purpose::Init), compute).unwrap()
}

/// Larger weights than the initial ones, so that no gradient drowns in rounding.
pub(super) fn spread_out(config: &ModelConfig, compute: impl Into<Compute>) -> PretrainModel {
    let mut model = model(config, compute);
    let layout = model.layout().clone();
    for (bucket_idx, bucket) in layout.buckets.iter().enumerate() {
        let mut stream = Key::new(6, Purpose::Debug).with(bucket_idx as u64).stream();
        let mut values = vec![0.0; bucket.num_elements];
        model.read_bucket(bucket_idx, &mut values);
        values.iter_mut().for_each(|value| *value += 0.3 * stream.truncated_normal(2.0) as f32);
        model.replace_bucket(bucket_idx, values.clone());
    }
    model
}

pub(super) fn without_dropout() -> ModelConfig {
    ModelConfig { hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0, ..tiny_config() }
}

pub(super) fn dropout_key() -> Key {
    Key::new(9, Purpose::Dropout).with(3).with(1)
}

pub(super) fn train(model: &PretrainModel, batch: &OwnedBatch) -> (BatchLosses, Collected) {
    let mut sink = Collected::default();
    let losses = model.train_micro_batch(&batch.borrow(), dropout_key(), SCALE, &mut sink).unwrap();
    (losses, sink)
}

pub(super) fn bits(buckets: &[Vec<f32>]) -> Vec<u32> {
    buckets.iter().flatten().map(|value| value.to_bits()).collect()
}

fn scaled_loss(model: &PretrainModel, batch: &OwnedBatch) -> f64 {
    let (losses, _) = train(model, batch);
    f64::from(SCALE.mlm) * losses.mlm_loss_sum + f64::from(SCALE.nsp) * losses.nsp_loss_sum
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance * largest, "{idx}: {got} instead of {expected}");
    }
}

#[test]
fn a_fresh_model_knows_nothing() {
    for backend in backends() {
        let config = ModelConfig { vocab_size: 1009, ..tiny_config() };
        let losses = model(&config, backend).evaluate(&OwnedBatch::tiny().borrow()).unwrap();
        assert!((losses.mlm_loss_sum / 4.0 - 1009f64.ln()).abs() < 0.1, "{losses:?}");
        assert!((losses.nsp_loss_sum / 3.0 - 2f64.ln()).abs() < 0.1, "{losses:?}");
        assert_eq!((losses.num_masked, losses.num_pairs), (4, 3));
    }
}

#[test]
fn a_model_may_move_to_another_thread() {
    fn check<T: Send + Sync>() {}
    check::<PretrainModel>();
}

#[test]
fn buckets_come_once_in_order_and_full() {
    for backend in backends() {
        let model = model(&tiny_config(), backend);
        let (_, sink) = train(&model, &OwnedBatch::tiny());
        assert_eq!(sink.num_forward_done, 1);
        let lens: Vec<_> = sink.buckets.iter().map(Vec::len).collect();
        let expected: Vec<_> = model.layout().buckets.iter().map(|bucket| bucket.num_elements).collect();
        assert_eq!(lens, expected);
    }
}

#[test]
fn gradients_equal_central_differences() {
    let configs = [tiny_config(), ModelConfig { hidden_act: HiddenAct::GeluTanh, ..without_dropout() }];
    for (config, backend) in
        configs.iter().flat_map(|config| backends().into_iter().map(move |b| (config, b)))
    {
        let mut model = spread_out(config, backend);
        let batch = OwnedBatch::tiny();
        let (_, sink) = train(&model, &batch);
        let layout = model.layout().clone();
        for (bucket_idx, bucket) in layout.buckets.iter().enumerate() {
            let gradient = &sink.buckets[bucket_idx];
            let mut values = vec![0.0; bucket.num_elements];
            model.read_bucket(bucket_idx, &mut values);
            for spec in &bucket.parameters {
                // The element with the largest gradient says most about the parameter.
                let idx =
                    spec.range().max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
                let mut loss_at = |shift: f32| {
                    let mut shifted = values.clone();
                    shifted[idx] += shift;
                    model.replace_bucket(bucket_idx, shifted.clone());
                    let loss = scaled_loss(&model, &batch);
                    model.replace_bucket(bucket_idx, values.clone());
                    loss
                };
                let step = 4e-3;
                let expected = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
                let got = f64::from(gradient[idx]);
                let tolerance = 2e-2 * expected.abs() + 3e-4;
                assert!((got - expected).abs() < tolerance, "{}: {got} instead of {expected}", spec.name);
            }
        }
    }
}

#[test]
fn staged_gradients_equal_one_whole_backward_of_composed_ops() {
    for backend in backends() {
        let model = spread_out(&without_dropout(), backend);
        let batch = OwnedBatch::tiny();
        let (losses, sink) = train(&model, &batch);
        let (loss, gradients) = composed::loss_and_gradients(&model, &batch.borrow(), SCALE, backend);
        let expected =
            f64::from(SCALE.mlm) * losses.mlm_loss_sum + f64::from(SCALE.nsp) * losses.nsp_loss_sum;
        assert!((loss - expected).abs() < 1e-5 * expected, "{loss} instead of {expected}");
        for (bucket_idx, bucket) in model.layout().buckets.iter().enumerate() {
            for spec in &bucket.parameters {
                // The true gradient of key biases is 0: a constant shift of all scores of a query changes nothing.
                if !spec.name.ends_with("self.key.bias") {
                    assert_close(&sink.buckets[bucket_idx][spec.range()], &gradients[&spec.name], 2e-5);
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_repetition() {
    // Large enough for every parallel path: GEMM from 192³, row blocks of LayerNorm, chunks of dropout.
    let config = ModelConfig {
        vocab_size: 1013,
        hidden_size: 128,
        num_attention_heads: 2,
        intermediate_size: 512,
        max_position_embeddings: 128,
        ..tiny_config()
    };
    for backend in backends() {
        let model = model(&config, backend);
        let batch = OwnedBatch::large(&config, 8, 120);
        let run = |num_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            let (losses, sink) = pool.install(|| train(&model, &batch));
            (losses, bits(&sink.buckets))
        };
        // The threads of libtorch's own operations are part of what its bits depend on.
        backend.set_num_threads(2);
        let alone = run(1);
        for num_threads in [1, 2, 3] {
            assert!(run(num_threads) == alone, "{backend}: {num_threads} threads change the result");
        }
    }
}

#[test]
fn padding_changes_no_bit() {
    for backend in backends() {
        let model = spread_out(&without_dropout(), backend);
        let padded = OwnedBatch::tiny_padded(10);
        assert!(train(&model, &padded) == train(&model, &OwnedBatch::tiny()), "{backend}");

        // What stands at padded positions is never seen.
        let mut scribbled = padded.clone();
        scribbled.input_ids[7..10].copy_from_slice(&[12, 13, 14]);
        assert_eq!(
            model.masked_logits(&scribbled.borrow()).unwrap(),
            model.masked_logits(&padded.borrow()).unwrap()
        );
    }
}

#[test]
fn a_batch_of_rows_equals_its_rows_alone() {
    for backend in backends() {
        let model = spread_out(&without_dropout(), backend);
        let batch = OwnedBatch::tiny();
        let (losses, sink) = train(&model, &batch);
        let rows: Vec<_> = (0..batch.num_rows).map(|row| train(&model, &batch.row(row))).collect();
        let sum = |of: fn(&BatchLosses) -> f64| rows.iter().map(|(losses, _)| of(losses)).sum::<f64>();
        assert!((losses.mlm_loss_sum - sum(|l| l.mlm_loss_sum)).abs() < 1e-5);
        assert!((losses.nsp_loss_sum - sum(|l| l.nsp_loss_sum)).abs() < 1e-5);
        for (bucket_idx, whole) in sink.buckets.iter().enumerate() {
            let mut added = vec![0.0; whole.len()];
            for (_, row) in &rows {
                added.iter_mut().zip(&row.buckets[bucket_idx]).for_each(|(sum, value)| *sum += value);
            }
            assert_close(&added, whole, 1e-5);
        }
    }
}

#[test]
fn permuted_rows_permute_the_logits() {
    for backend in backends() {
        let model = spread_out(&tiny_config(), backend);
        let batch = OwnedBatch::tiny();
        let permuted = batch.permuted(&[2, 0, 1]);
        let logits = model.masked_logits(&batch.borrow()).unwrap();
        let permuted_logits = model.masked_logits(&permuted.borrow()).unwrap();
        let rows: Vec<_> = logits.chunks_exact(37).collect();
        // Row 0 masks two tokens, rows 1 and 2 one each.
        let expected = [rows[3], rows[0], rows[1], rows[2]].concat();
        assert_close(&permuted_logits, &expected, 1e-5);
    }
}

#[test]
fn the_decoder_is_the_word_table() {
    for backend in backends() {
        let mut model = spread_out(&without_dropout(), backend);
        let embeddings_idx = model.layout().embeddings_idx();
        let words = model.layout().buckets[embeddings_idx].parameters[0].clone();
        let names: Vec<_> = model.layout().by_name().into_iter().map(|(_, spec)| spec.name.clone()).collect();
        assert!(!names.iter().any(|name| name.contains("decoder")), "{names:?}");

        // Word 33 is in no input: only the decoder can give its row a gradient and change its logit.
        let batch = OwnedBatch::tiny();
        let (_, sink) = train(&model, &batch);
        let row = words.offset + 33 * 12..words.offset + 34 * 12;
        assert!(sink.buckets[embeddings_idx][row.clone()].iter().any(|&value| value != 0.0));

        let before = model.masked_logits(&batch.borrow()).unwrap();
        let mut values = vec![0.0; model.layout().buckets[embeddings_idx].num_elements];
        model.read_bucket(embeddings_idx, &mut values);
        values[row].iter_mut().for_each(|value| *value += 1.0);
        model.replace_bucket(embeddings_idx, values.clone());
        let after = model.masked_logits(&batch.borrow()).unwrap();
        for (before, after) in before.chunks_exact(37).zip(after.chunks_exact(37)) {
            let changed: Vec<_> = (0..37).filter(|&word| before[word] != after[word]).collect();
            assert_eq!(changed, [33]);
        }
    }
}

#[test]
fn evaluation_equals_training_without_dropout() {
    for backend in backends() {
        let model = spread_out(&without_dropout(), backend);
        let batch = OwnedBatch::tiny();
        assert_eq!(model.evaluate(&batch.borrow()).unwrap(), train(&model, &batch).0);
    }
}

#[test]
fn dropout_depends_on_its_key_only() {
    for backend in backends() {
        let model = spread_out(&tiny_config(), backend);
        let batch = OwnedBatch::tiny();
        let run = |key| {
            let mut sink = Collected::default();
            model.train_micro_batch(&batch.borrow(), key, SCALE, &mut sink).unwrap();
            bits(&sink.buckets)
        };
        assert_eq!(run(dropout_key()), run(dropout_key()));
        assert_ne!(run(dropout_key()), run(dropout_key().with(1)));
    }
}

#[test]
fn each_objective_works_alone() {
    for backend in backends() {
        let model = spread_out(&without_dropout(), backend);
        let mut no_pairs = OwnedBatch::tiny();
        no_pairs.nsp_labels.clear();
        let (losses, sink) = train(&model, &no_pairs);
        assert_eq!((losses.nsp_loss_sum, losses.num_pairs, losses.nsp_correct), (0.0, 0, 0));
        let heads = &model.layout().buckets[0];
        for spec in &heads.parameters {
            let is_zero = sink.buckets[0][spec.range()].iter().all(|&value| value == 0.0);
            let is_unused = spec.name.contains("pooler") || spec.name.contains("seq_relationship");
            assert_eq!(is_zero, is_unused, "{}", spec.name);
        }

        let mut no_masks = OwnedBatch::tiny();
        no_masks.mlm_positions.clear();
        no_masks.mlm_labels.clear();
        let (losses, sink) = train(&model, &no_masks);
        assert_eq!((losses.mlm_loss_sum, losses.num_masked), (0.0, 0));
        assert!(sink.buckets.iter().all(|bucket| bucket.iter().any(|&value| value != 0.0)));
        assert!(model.masked_logits(&no_masks.borrow()).unwrap().is_empty());

        no_masks.nsp_labels.clear();
        let error = model.evaluate(&no_masks.borrow()).unwrap_err();
        assert!(error.to_string().contains("expected a masked position or a sentence label"), "{error}");
    }
}

#[test]
fn written_buckets_are_read_back_and_trained_in_place() {
    for backend in backends() {
        let mut model = model(&tiny_config(), backend);
        for bucket_idx in 0..model.layout().buckets.len() {
            let values: Vec<f32> =
                (0..model.layout().buckets[bucket_idx].num_elements).map(|idx| idx as f32 * 1e-4).collect();
            model.replace_bucket(bucket_idx, values.clone());
            let mut read = vec![0.0; values.len()];
            model.read_bucket(bucket_idx, &mut read);
            assert_eq!(read, values, "bucket {bucket_idx}");
        }
        let address =
            |model: &PretrainModel| raw::with_values(model.stages.embeddings.word_table(), <[f32]>::as_ptr);
        let (_, sink) = train(&model, &OwnedBatch::tiny());
        let (values, old_table) = (sink.buckets[3].clone(), address(&model));
        let start = values.as_ptr();
        let left = model.replace_bucket(3, values);
        // The parameters move, or their values do: never both.
        let expected = match backend {
            BackendKind::Flex => [start, old_table],
            _ => [old_table, start],
        };
        assert_eq!([address(&model), left.as_ptr()], expected, "{backend}: the table was copied");
    }
}

#[test]
fn a_model_from_buckets_is_the_same_model() {
    let config = tiny_config();
    let model = spread_out(&config, BackendKind::Flex);
    let buckets: Vec<_> = model
        .layout()
        .buckets
        .iter()
        .enumerate()
        .map(|(bucket_idx, bucket)| {
            let mut values = vec![0.0; bucket.num_elements];
            model.read_bucket(bucket_idx, &mut values);
            values
        })
        .collect();
    let batch = OwnedBatch::tiny();
    for backend in backends() {
        let copy = PretrainModel::from_buckets(&config, &buckets, backend).unwrap();
        let same = spread_out(&config, backend);
        assert_eq!(copy.evaluate(&batch.borrow()).unwrap(), same.evaluate(&batch.borrow()).unwrap());
    }

    let error = PretrainModel::from_buckets(&config, &buckets[..3], BackendKind::Flex).unwrap_err();
    assert_eq!(error.to_string(), "bucket `embeddings`: expected 624 values, got 0");
}
