//! Gradients, symmetries and poolings of the whole classifier.

use bert_random::Purpose;

use super::*;
use crate::{
    BackendKind, Pooling,
    config::ModelConfig,
    loss::LossScale,
    pretrain::PretrainModel,
    test_support::{OwnedBatch, tiny_config},
};

#[derive(Default)]
struct Collected(Vec<Vec<f32>>);

impl GradientSink for Collected {
    fn forward_done(&mut self) {
        assert!(self.0.is_empty(), "forward ends before the first gradient");
    }

    /// Full of what would be noticed if it were not overwritten.
    fn buffer(&mut self, bucket_idx: usize) -> Vec<f32> {
        vec![f32::NAN; 1000 * (bucket_idx % 2)]
    }

    fn bucket(&mut self, bucket_idx: usize, gradient: Vec<f32>) {
        assert_eq!(bucket_idx, self.0.len(), "buckets come in order");
        self.0.push(gradient);
    }
}

const SCALE: f32 = 0.25;

fn config(pooling: Pooling, dropout_prob: f64) -> ClassifierConfig {
    let model = ModelConfig {
        hidden_dropout_prob: dropout_prob,
        attention_probs_dropout_prob: dropout_prob,
        ..tiny_config()
    };
    ClassifierConfig { model, labels: ["a", "b", "c", "d"].map(String::from).to_vec(), pooling, dropout_prob }
}

/// Larger weights than the initial ones, so that no gradient drowns in rounding.
fn spread_out(config: &ClassifierConfig) -> ClassifyModel {
    let key = Key::new(5, Purpose::Init);
    let mut model = ClassifyModel::init(config, key, BackendKind::Flex).unwrap();
    for idx in 0..model.layout().buckets.len() {
        let mut stream = Key::new(6, Purpose::Debug).with(idx as u64).stream();
        let mut values = vec![0.0; model.layout().buckets[idx].num_elements];
        model.read_bucket(idx, &mut values);
        values.iter_mut().for_each(|value| *value += 0.3 * stream.truncated_normal(2.0) as f32);
        model.replace_bucket(idx, values.clone());
    }
    model
}

fn borrow<'a>(batch: &'a OwnedBatch, labels: &'a [u32]) -> ClassifyBatch<'a> {
    ClassifyBatch { tokens: batch.tokens(), labels }
}

const LABELS: [u32; 3] = [3, 0, 2];

fn train(model: &ClassifyModel, batch: &OwnedBatch, labels: &[u32]) -> (ClassLosses, Vec<Vec<f32>>) {
    let mut sink = Collected::default();
    let key = Key::new(9, Purpose::Dropout).with(3);
    let losses = model.train_micro_batch(&borrow(batch, labels), key, SCALE, &mut sink).unwrap();
    (losses, sink.0)
}

#[test]
fn gradients_equal_central_differences_for_every_pooling() {
    for (name, pooling) in Pooling::NAMES {
        let mut model = spread_out(&config(pooling, 0.1));
        let batch = OwnedBatch::tiny();
        let (_, gradients) = train(&model, &batch, &LABELS);
        for (bucket_idx, gradient) in gradients.iter().enumerate() {
            let bucket = model.layout().buckets[bucket_idx].clone();
            let mut values = vec![0.0; bucket.num_elements];
            model.read_bucket(bucket_idx, &mut values);
            for spec in &bucket.parameters {
                let idx =
                    spec.range().max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
                let mut loss_at = |shift: f32| {
                    let mut shifted = values.clone();
                    shifted[idx] += shift;
                    model.replace_bucket(bucket_idx, shifted.clone());
                    let loss = f64::from(SCALE) * train(&model, &batch, &LABELS).0.loss_sum;
                    model.replace_bucket(bucket_idx, values.clone());
                    loss
                };
                let expected = (loss_at(4e-3) - loss_at(-4e-3)) / 8e-3;
                let got = f64::from(gradient[idx]);
                let tolerance = 2e-2 * expected.abs() + 3e-4;
                assert!(
                    (got - expected).abs() < tolerance,
                    "{name} {}: {got}, expected {expected}",
                    spec.name
                );
            }
        }
    }
}

#[test]
fn the_pooler_is_trained_only_where_it_is_used() {
    for (name, pooling) in Pooling::NAMES {
        let model = spread_out(&config(pooling, 0.0));
        let (_, gradients) = train(&model, &OwnedBatch::tiny(), &LABELS);
        let pooler = &model.layout().buckets[0].parameters[0];
        assert_eq!(pooler.name, "bert.pooler.dense.weight");
        let is_trained = gradients[0][pooler.range()].iter().any(|value| *value != 0.0);
        assert_eq!(is_trained, pooling.uses_pooler(), "{name}");
    }
}

#[test]
fn two_classes_of_the_pooler_equal_the_sentence_head_of_pre_training() {
    // The same BERT under both models: the logits of a two-class classifier are those of the sentence objective.
    let labels = ["next", "random"].map(String::from).to_vec();
    let config = ClassifierConfig { labels, ..config(Pooling::Pooler, 0.0) };
    let classifier = spread_out(&config);
    let layout = ParameterLayout::new(&config.model);
    let mut buckets: Vec<Vec<f32>> = Vec::new();
    for (idx, bucket) in layout.buckets.iter().enumerate() {
        let mut values = vec![0.0; bucket.num_elements];
        if idx > 0 {
            classifier.read_bucket(idx, &mut values);
        }
        buckets.push(values);
    }
    let mut head = vec![0.0; classifier.layout().buckets[0].num_elements];
    classifier.read_bucket(0, &mut head);
    let (pooler, last) = head.split_at(12 * 12 + 12);
    buckets[0][..pooler.len()].copy_from_slice(pooler);
    let start = buckets[0].len() - last.len();
    buckets[0][start..].copy_from_slice(last);
    let pretrain = PretrainModel::from_buckets(&config.model, &buckets, BackendKind::Flex).unwrap();

    let mut batch = OwnedBatch::tiny();
    batch.mlm_positions.clear();
    batch.mlm_labels.clear();
    let (losses, gradients) = train(&classifier, &batch, &[0, 1, 1]);
    let mut sink = Collected::default();
    let scale = LossScale { mlm: 0.0, nsp: SCALE };
    let key = Key::new(9, Purpose::Dropout).with(3);
    let expected = pretrain.train_micro_batch(&batch.borrow(), key, scale, &mut sink).unwrap();
    // The sentence head of pre-training multiplies packed operands: the order of sums is another one.
    assert!((losses.loss_sum / expected.nsp_loss_sum - 1.0).abs() < 1e-6, "{losses:?} {expected:?}");
    assert_eq!(losses.num_correct, expected.nsp_correct);
    for (got, expected) in gradients[1..].iter().zip(&sink.0[1..]) {
        let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5 * largest));
    }
}

#[test]
fn logits_are_those_of_training_without_dropout_and_ignore_padding() {
    for (name, pooling) in Pooling::NAMES {
        let model = spread_out(&config(pooling, 0.0));
        let batch = OwnedBatch::tiny();
        let logits = model.logits(&batch.tokens()).unwrap();
        assert_eq!(model.losses(&logits, &LABELS), train(&model, &batch, &LABELS).0, "{name}");
        let padded = model.logits(&OwnedBatch::tiny_padded(11).tokens()).unwrap();
        for (padded, expected) in padded.iter().zip(&logits) {
            assert!((padded - expected).abs() < 1e-5, "{name}: {padded} instead of {expected}");
        }
    }
}

#[test]
fn a_batch_of_rows_equals_its_rows_alone() {
    let model = spread_out(&config(Pooling::FirstLastMean, 0.0));
    let batch = OwnedBatch::tiny();
    let (_, whole) = train(&model, &batch, &LABELS);
    let mut added: Vec<Vec<f32>> = whole.iter().map(|bucket| vec![0.0; bucket.len()]).collect();
    for row in 0..3 {
        let (_, gradients) = train(&model, &batch.row(row), &LABELS[row..=row]);
        for (sum, part) in added.iter_mut().flatten().zip(gradients.iter().flatten()) {
            *sum += part;
        }
    }
    for (sum, expected) in added.iter().flatten().zip(whole.iter().flatten()) {
        assert!((sum - expected).abs() < 1e-5, "{sum} instead of {expected}");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let model = spread_out(&config(Pooling::Mean, 0.1));
    let run = |num_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        pool.install(|| train(&model, &OwnedBatch::tiny(), &LABELS).1)
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn labels_and_configurations_that_fit_nothing_are_refused() {
    let model = spread_out(&config(Pooling::Mean, 0.0));
    let batch = OwnedBatch::tiny();
    let refused = |labels: &[u32]| {
        let mut sink = Collected::default();
        let key = Key::new(1, Purpose::Dropout);
        model.train_micro_batch(&borrow(&batch, labels), key, SCALE, &mut sink).unwrap_err().to_string()
    };
    assert_eq!(refused(&[0, 1, 4]), "batch.labels: expected values below 4, got 4");
    assert_eq!(refused(&[0, 1]), "batch.labels: expected 3 elements, got 2");

    let invalid = |change: fn(&mut ClassifierConfig)| {
        let mut config = config(Pooling::Mean, 0.0);
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    assert!(invalid(|c| c.labels.truncate(1)).contains("at least two classes, got 1"));
    assert!(invalid(|c| c.labels[2] = "a".into()).contains("every class once, got \"a\" twice"));
    assert!(invalid(|c| c.dropout_prob = 1.0).contains("classifier_dropout"));
}
