//! The forms of a stage against each other: fused and composed, f32 and bf16, backend and backend, company and none.

use super::{
    tests::{bits, dropout_key, model, spread_out, train, without_dropout},
    *,
};
use crate::{
    Precision,
    backend::BackendKind,
    config::HiddenAct,
    test_support::{OwnedBatch, backends, tiny_config},
};

/// Shapes at the edges of tiles, lanes and rows, with dropout at every site.
fn edge_cases() -> Vec<(ModelConfig, OwnedBatch)> {
    let with_heads = |num_attention_heads: usize, head_size: usize, hidden_act| ModelConfig {
        vocab_size: 61,
        hidden_size: num_attention_heads * head_size,
        num_attention_heads,
        intermediate_size: 3 * head_size + 1,
        max_position_embeddings: 40,
        hidden_act,
        ..tiny_config()
    };
    let mut one_token = OwnedBatch::tiny().row(1);
    one_token.row_len = 1;
    one_token.input_ids.truncate(1);
    one_token.token_type_ids.truncate(1);
    one_token.lengths[0] = 1;
    one_token.mlm_positions[0] = 0;
    [
        (2, 32, HiddenAct::Gelu),
        (1, 64, HiddenAct::Relu),
        (1, 80, HiddenAct::GeluTanh),
        (3, 5, HiddenAct::Gelu),
    ]
    .into_iter()
    .flat_map(|(heads, size, act)| {
        let config = with_heads(heads, size, act);
        let large = OwnedBatch::large(&config, 3, 37);
        [large, OwnedBatch::tiny_padded(9), one_token.clone()].map(|batch| (config.clone(), batch))
    })
    .collect()
}

/// The distance of two vectors, relative to the second; of nearly nothing, relative to little.
fn relative_distance(got: &[f32], expected: &[f32]) -> f64 {
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied()).max(1e-6)
}

/// Losses within 1e-6, gradients stage by stage within 1e-5 and parameter by parameter within `tolerance`, which is given for
/// those of scores and for all others, on every edge and backend.
fn fused_equals_composed(
    model: impl Fn(&ModelConfig, Compute) -> PretrainModel,
    tolerance: impl Fn(bool) -> f64,
) {
    for (backend, (config, batch)) in
        backends().into_iter().flat_map(|backend| edge_cases().into_iter().map(move |case| (backend, case)))
    {
        let fused = Compute::from(backend);
        let composed = Compute { form: StageForm::Composed, ..fused };
        let layout = ParameterLayout::new(&config);
        let (expected_losses, expected) = train(&model(&config, composed), &batch);
        let (losses, sink) = train(&model(&config, fused), &batch);
        let sum = |losses: BatchLosses| losses.mlm_loss_sum + losses.nsp_loss_sum;
        let difference = (sum(losses) - sum(expected_losses)).abs() / sum(expected_losses);
        assert!(difference < 1e-6, "{backend}: {difference}");
        for (bucket_idx, bucket) in layout.buckets.iter().enumerate() {
            let gradients = [&sink, &expected].map(|sink| &sink.buckets[bucket_idx]);
            let difference = relative_distance(gradients[0], gradients[1]);
            assert!(difference < 1e-5, "{backend}, {}: {difference}", bucket.name);
            for spec in &bucket.parameters {
                let difference = relative_distance(&gradients[0][spec.range()], &gradients[1][spec.range()]);
                // The true gradient of key biases is 0, and of queries and keys too where there is one key.
                let of_scores = spec.name.contains("query") || spec.name.contains("key");
                let is_zero = spec.name.contains("self.key.bias") || batch.row_len == 1 && of_scores;
                let is_close = difference < tolerance(of_scores) || is_zero;
                assert!(is_close, "{backend}, {}: {difference}", spec.name);
            }
        }
    }
}

/// Weights as training begins with them.
#[test]
fn fused_equals_composed_at_initial_weights() {
    fused_equals_composed(model, |_| 1e-5);
}

/// Forward and backward pass through weights so large that rounding grows from stage to stage; the composed forms of two
/// backends are as far from each other.
#[test]
fn fused_equals_composed_with_dropout_on_every_edge() {
    fused_equals_composed(spread_out, |of_scores| if of_scores { 1.5e-5 } else { 1.1e-5 });
}

#[test]
fn bf16_stays_close_to_f32() {
    let config = ModelConfig {
        vocab_size: 211,
        hidden_size: 128,
        num_attention_heads: 2,
        intermediate_size: 512,
        max_position_embeddings: 64,
        ..tiny_config()
    };
    let layout = ParameterLayout::new(&config);
    let batch = OwnedBatch::large(&config, 6, 60);
    for backend in backends() {
        let f32 = Compute::from(backend);
        let bf16 = Compute { precision: Precision::Bf16, ..f32 };
        let [expected, got] = [f32, bf16].map(|compute| train(&model(&config, compute), &batch));
        assert_ne!(bits(&got.1.buckets), bits(&expected.1.buckets), "bf16 rounds");
        let difference = (got.0.mlm_loss_sum / expected.0.mlm_loss_sum - 1.0).abs();
        assert!(difference < 1e-3, "{backend}: loss {difference}");
        for (bucket_idx, bucket) in layout.buckets.iter().enumerate() {
            for spec in bucket.parameters.iter().filter(|spec| !spec.name.ends_with("self.key.bias")) {
                let gradients = [&got, &expected].map(|(_, sink)| &sink.buckets[bucket_idx][spec.range()]);
                let distance = relative_distance(gradients[0], gradients[1]);
                assert!(distance < 2e-2, "{backend}, {}: {distance}", spec.name);
            }
        }
    }
}

#[test]
fn backends_in_main_memory_give_the_same_bits() {
    let config = tiny_config();
    let batch = OwnedBatch::tiny();
    let expected = train(&spread_out(&config, BackendKind::Flex), &batch);
    for backend in backends() {
        assert!(train(&spread_out(&config, backend), &batch) == expected, "{backend}");
    }
}

/// A row alone gets the bits that it has in any company: no element of a product depends on how the product is cut.
#[test]
fn company_changes_no_bit_of_a_row() {
    let config =
        ModelConfig { hidden_size: 64, num_attention_heads: 2, intermediate_size: 160, ..without_dropout() };
    let model = spread_out(&config, BackendKind::Flex);
    let batch = OwnedBatch::tiny();
    let together = model.hidden_states(&batch.tokens()).unwrap();
    for row in 0..batch.num_rows {
        let alone = model.hidden_states(&batch.row(row).tokens()).unwrap();
        for (alone, together) in alone.iter().zip(&together) {
            let len = batch.row_len * config.hidden_size;
            assert!(alone[..] == together[row * len..(row + 1) * len], "row {row}");
        }
    }
}

/// The last layer computes the tokens that are read as it would among all.
#[test]
fn tokens_that_nobody_reads_change_no_bit_of_the_others() {
    let config =
        ModelConfig { hidden_size: 64, num_attention_heads: 2, intermediate_size: 160, ..tiny_config() };
    let batch = OwnedBatch::tiny();
    let (batch, flex) = (batch.borrow(), Compute::from(BackendKind::Flex));
    let bf16 = Compute { precision: Precision::Bf16, ..flex };
    for compute in [flex, bf16, Compute { form: StageForm::Composed, ..flex }] {
        let model = spread_out(&config, compute);
        let last_states = |tokens: &BatchTokens| {
            let (_, states) = model.stages.forward(&batch, tokens, dropout_key(), |_, _| {});
            raw::with_values(states, <[f32]>::to_vec)
        };
        let tokens = tokens_of_heads(&batch);
        let all = last_states(&BatchTokens::all(batch.lengths, batch.row_len));
        let read = tokens.read.as_ref().unwrap();
        let expected = read.tokens.iter().flat_map(|token| &all[token * 64..(token + 1) * 64]);
        assert!(last_states(&tokens).iter().eq(expected), "{compute:?}");
    }
}
