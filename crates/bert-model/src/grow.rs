//! More words for a model that is there: rows of the word table and elements of the decoder's bias.
//!
//! Ids stay what they were and every value that was there stays bit by bit; only the new ones are computed. Which
//! pieces make up a word is the business of a tokenizer.

use crate::{
    config::ModelConfig,
    hf::{DECODER_BIAS, WORD_TABLE},
    layout::ParameterLayout,
};

/// Adds one word per entry of `pieces`, after the existing ones.
///
/// A new row is the mean of the rows of its pieces, and so is its bias; without pieces, of all rows. That a new word
/// starts where its pieces are is what keeps the first losses near those of the model before.
///
/// # Shapes
///
/// - buckets, output: the buckets of the layout before and after, in layout order
///
/// # Panics
///
/// If `buckets` does not have the lengths of the layout, or a piece is no word of the model.
#[must_use]
pub fn grow_vocabulary(
    config: &ModelConfig,
    buckets: &[Vec<f32>],
    pieces: &[Vec<u32>],
) -> (ModelConfig, Vec<Vec<f32>>) {
    let grown = ModelConfig { vocab_size: config.vocab_size + pieces.len(), ..config.clone() };
    let (old_layout, new_layout) = (ParameterLayout::new(config), ParameterLayout::new(&grown));
    let grown_buckets = old_layout.buckets.iter().zip(&new_layout.buckets).zip(buckets);
    let values = grown_buckets.map(|((old, new), values)| {
        assert_eq!(values.len(), old.num_elements, "values of bucket `{}`", old.name);
        let mut grown_values = Vec::with_capacity(new.num_elements);
        for spec in &old.parameters {
            let table = &values[spec.range()];
            grown_values.extend_from_slice(table);
            if spec.name == WORD_TABLE || spec.name == DECODER_BIAS {
                let width = table.len() / config.vocab_size;
                pieces.iter().for_each(|pieces| grown_values.extend(mean_row(table, width, pieces)));
            }
        }
        grown_values
    });
    let values = values.collect();
    (grown, values)
}

/// The mean of some rows of a table, or of all of them.
fn mean_row(table: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    let mut sums = vec![0.0_f64; width];
    let mut add = |row: &[f32]| sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    if rows.is_empty() {
        table.chunks_exact(width).for_each(&mut add);
    } else {
        rows.iter().for_each(|&row| add(&table[row as usize * width..(row as usize + 1) * width]));
    }
    let count = if rows.is_empty() { table.len() / width } else { rows.len() };
    sums.into_iter().map(|sum| (sum / count as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    use bert_random::{Key, Purpose};

    use super::*;
    use crate::{initial_bucket, test_support::tiny_config};

    #[test]
    fn old_values_stay_and_new_ones_are_means() {
        let config = tiny_config();
        let layout = ParameterLayout::new(&config);
        let key = Key::new(3, Purpose::Init);
        let mut buckets: Vec<_> =
            layout.buckets.iter().map(|bucket| initial_bucket(&config, bucket, key)).collect();
        for (idx, bucket) in buckets.iter_mut().enumerate() {
            bucket.iter_mut().enumerate().for_each(|(at, value)| *value += ((at + idx) % 11) as f32);
        }
        let (grown, values) = grow_vocabulary(&config, &buckets, &[vec![7, 9, 9], vec![]]);
        assert_eq!(grown, ModelConfig { vocab_size: 39, ..config.clone() });

        let new_layout = ParameterLayout::new(&grown);
        for ((bucket_idx, old), (_, new)) in layout.by_name().into_iter().zip(new_layout.by_name()) {
            let (before, after) = (&buckets[bucket_idx][old.range()], &values[bucket_idx][new.range()]);
            assert_eq!(&after[..before.len()], before, "{}", old.name);
            let width = match old.name.as_str() {
                WORD_TABLE => 12,
                DECODER_BIAS => 1,
                _ => {
                    assert_eq!(after.len(), before.len(), "{}", old.name);
                    continue;
                }
            };
            for column in 0..width {
                let at = |row: usize| f64::from(before[row * width + column]);
                let added = |row: usize| f64::from(after[(37 + row) * width + column]);
                assert!((added(0) - (at(7) + 2.0 * at(9)) / 3.0).abs() < 1e-6, "{} {column}", old.name);
                let mean = (0..37).map(at).sum::<f64>() / 37.0;
                assert!((added(1) - mean).abs() < 1e-6, "{} {column}", old.name);
            }
        }
    }
}
