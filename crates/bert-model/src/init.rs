//! Initial weights, each a pure function of (key, Hugging Face name, row).
//!
//! Matrices and tables start from a normal distribution cut at two standard deviations, as in the original code;
//! biases start at 0 and LayerNorm at the identity. No tensor and no generator state lives here.

use std::ops::Range;

use bert_kernels::widest;
use bert_random::Key;
use rayon::prelude::*;

use crate::{
    config::ModelConfig,
    layout::{BucketLayout, ParameterSpec},
};

/// Values are cut at this many standard deviations (`tf.truncated_normal_initializer`).
const LIMIT_SD: f64 = 2.0;

/// Computes the initial values of one bucket, in layout order.
///
/// The result depends on `init_key` and on the parameters' names, not on the order in which buckets are asked for.
pub fn initial_bucket(config: &ModelConfig, bucket: &BucketLayout, init_key: Key) -> Vec<f32> {
    let mut values = vec![0.0; bucket.num_elements];
    initial_range(config, bucket, init_key, 0..bucket.num_elements, &mut values);
    values
}

/// Computes a range of [`initial_bucket`], counted in layout order, into `values`.
///
/// # Panics
///
/// If `values` is not as long as the range, or the range is not within the bucket.
pub fn initial_range(
    config: &ModelConfig,
    bucket: &BucketLayout,
    init_key: Key,
    range: Range<usize>,
    values: &mut [f32],
) {
    assert_eq!(range.len(), values.len(), "initial values need memory as long as their range");
    assert!(range.end <= bucket.num_elements, "{range:?} of {} elements", bucket.num_elements);
    for spec in &bucket.parameters {
        let own = spec.range();
        let (start, end) = (own.start.max(range.start), own.end.min(range.end));
        if start < end {
            let values = &mut values[start - range.start..end - range.start];
            fill_parameter(config, spec, init_key, start - own.start, values);
        }
    }
}

/// Computes the initial values of one parameter.
pub(crate) fn initial_parameter(config: &ModelConfig, spec: &ParameterSpec, init_key: Key) -> Vec<f32> {
    let mut values = vec![0.0; spec.num_elements];
    fill_parameter(config, spec, init_key, 0, &mut values);
    values
}

/// Writes the initial values of one parameter from element `first` on.
fn fill_parameter(
    config: &ModelConfig,
    spec: &ParameterSpec,
    init_key: Key,
    first: usize,
    values: &mut [f32],
) {
    if !spec.decay {
        let value = if spec.name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        return values.fill(value);
    }
    let key = init_key.with_name(&spec.name);
    let row_len = spec.shape[spec.shape.len() - 1];
    let fill_row = |row_idx: usize, num_skipped: usize, row: &mut [f32]| {
        fill_row(config, key.with(row_idx as u64), num_skipped, row);
    };
    let (row_idx, num_skipped) = (first / row_len, first % row_len);
    let (rest_of_row, rows) = values.split_at_mut((row_len - num_skipped).min(values.len()));
    fill_row(row_idx, num_skipped, rest_of_row);
    rows.par_chunks_mut(row_len).enumerate().for_each(|(i, row)| fill_row(row_idx + 1 + i, 0, row));
}

/// Writes the deviates of a row's key but for the first `num_skipped`.
fn fill_row(config: &ModelConfig, key: Key, num_skipped: usize, row: &mut [f32]) {
    let (stream, count) = (key.stream(), num_skipped + row.len());
    let (mut num_left, mut places) = (num_skipped, row.iter_mut());
    let take = |deviate: f64| {
        if num_left > 0 {
            num_left -= 1;
        } else if let Some(place) = places.next() {
            *place = (deviate * config.initializer_range) as f32;
        }
    };
    widest(
        #[inline(always)]
        || stream.truncated_normals(LIMIT_SD, count, take),
    );
}

#[cfg(test)]
mod tests {
    use bert_random::Purpose;

    use super::*;
    use crate::{layout::ParameterLayout, test_support::tiny_config};

    #[test]
    fn matrices_follow_the_truncated_normal() {
        let config = ModelConfig { vocab_size: 1999, ..tiny_config() };
        let layout = ParameterLayout::new(&config);
        let bucket = &layout.buckets[layout.embeddings_idx()];
        let values = initial_bucket(&config, bucket, Key::new(7, Purpose::Init));
        let words = &values[bucket.parameters[0].range()];

        let count = words.len() as f64;
        let mean = words.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        let variance = words.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / count;
        // A standard normal cut at +-2 has the standard deviation sqrt(1 - 4*phi(2)/(2*Phi(2) - 1)) = 0.87963.
        assert!(mean.abs() < 4.0 * 0.02 / count.sqrt(), "mean {mean}");
        assert!((variance.sqrt() / 0.02 - 0.87963).abs() < 0.01, "sd {}", variance.sqrt());
        assert!(words.iter().all(|v| v.abs() <= 0.04));
    }

    #[test]
    fn a_range_is_a_part_of_the_bucket() {
        let config = tiny_config();
        let key = Key::new(7, Purpose::Init);
        for bucket in &ParameterLayout::new(&config).buckets {
            let whole = initial_bucket(&config, bucket, key);
            let borders =
                [0, 1, 5, bucket.num_elements / 3, bucket.num_elements / 2 + 1, bucket.num_elements];
            for pair in borders.windows(2) {
                let mut part = vec![f32::NAN; pair[1] - pair[0]];
                initial_range(&config, bucket, key, pair[0]..pair[1], &mut part);
                assert_eq!(part, whole[pair[0]..pair[1]], "{} {pair:?}", bucket.name);
            }
        }
    }

    #[test]
    fn biases_are_zero_and_layer_norm_is_the_identity() {
        let config = tiny_config();
        for bucket in &ParameterLayout::new(&config).buckets {
            let values = initial_bucket(&config, bucket, Key::new(7, Purpose::Init));
            for spec in bucket.parameters.iter().filter(|spec| !spec.decay) {
                let expected = if spec.name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
                assert!(values[spec.range()].iter().all(|&v| v == expected), "{}", spec.name);
            }
        }
    }

    #[test]
    fn values_depend_on_seed_and_name_only() {
        let config = tiny_config();
        let deeper = ModelConfig { num_hidden_layers: 5, ..tiny_config() };
        let layer_0 = |config: &ModelConfig, seed| {
            let layout = ParameterLayout::new(config);
            initial_bucket(config, &layout.buckets[layout.layer_idx(0)], Key::new(seed, Purpose::Init))
        };
        assert_eq!(layer_0(&config, 7), layer_0(&deeper, 7));
        assert_ne!(layer_0(&config, 7), layer_0(&config, 8));

        let bucket = &ParameterLayout::new(&config).buckets[1];
        let values = initial_bucket(&config, bucket, Key::new(7, Purpose::Init));
        let [query, key] = [0, 2].map(|idx| &values[bucket.parameters[idx].range()]);
        assert_ne!(query, key);
    }
}
