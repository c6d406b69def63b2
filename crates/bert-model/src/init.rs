//! Initial weights, each a pure function of (key, Hugging Face name, row).
//!
//! Matrices and tables start from a normal distribution cut at two standard deviations, as in the original code;
//! biases start at 0 and LayerNorm at the identity. No tensor and no generator state lives here.

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
    for spec in &bucket.parameters {
        fill_parameter(config, spec, init_key, &mut values[spec.range()]);
    }
    values
}

/// Computes the initial values of one parameter.
pub(crate) fn initial_parameter(config: &ModelConfig, spec: &ParameterSpec, init_key: Key) -> Vec<f32> {
    let mut values = vec![0.0; spec.num_elements];
    fill_parameter(config, spec, init_key, &mut values);
    values
}

/// Writes the initial values of one parameter over zeros.
fn fill_parameter(config: &ModelConfig, spec: &ParameterSpec, init_key: Key, values: &mut [f32]) {
    if spec.name.ends_with("LayerNorm.weight") {
        values.fill(1.0);
    } else if spec.decay {
        let key = init_key.with_name(&spec.name);
        let row_len = spec.shape[spec.shape.len() - 1];
        values.par_chunks_mut(row_len).enumerate().for_each(|(row_idx, row)| {
            let stream = key.with(row_idx as u64).stream();
            let (len, mut places) = (row.len(), row.iter_mut());
            let take = |deviate: f64| {
                if let Some(place) = places.next() {
                    *place = (deviate * config.initializer_range) as f32;
                }
            };
            widest(
                #[inline(always)]
                || stream.truncated_normals(LIMIT_SD, len, take),
            );
        });
    }
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
