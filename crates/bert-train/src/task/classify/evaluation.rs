//! Logits of many rows, computed by all ranks together.
//!
//! Owns the split of batches over ranks and the way back into row order. Batches depend on the rows alone, so the
//! logits do not depend on the number of ranks.

use std::time::Instant;

use bert_coordinator::Coordinator;
use bert_data::classify::EncodedRows;
use bert_model::ClassifyModel;

use super::view;
use crate::{error::TrainError, ranks::together};

/// Logits of all rows in row order, the same on every rank, and the seconds it took.
pub(super) fn logits(
    coordinator: &Coordinator,
    model: &ClassifyModel,
    rows: &EncodedRows,
    num_rows: usize,
) -> Result<(Vec<f32>, f64), TrainError> {
    let started = Instant::now();
    let batches = rows.batches_by_length(num_rows);
    let world = coordinator.world();
    let own = together(coordinator, "evaluation", || {
        let mut own = Vec::new();
        for batch in batches.iter().skip(world.rank()).step_by(world.num_ranks()) {
            let batch = rows.batch(batch);
            let logits = model.logits(&view(&batch))?;
            own.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        }
        Ok(own)
    })?;
    let gathered = coordinator.all_gather_bytes("evaluation", &own)?;
    let num_classes = model.config().labels.len();
    let logits = in_row_order(&batches, &gathered, rows.len(), num_classes)
        .ok_or_else(|| TrainError::Setup("a rank sent no figures of its evaluation".to_string()))?;
    Ok((logits, started.elapsed().as_secs_f64()))
}

/// Batch `b` is the next one of rank `b mod p`.
fn in_row_order(
    batches: &[Vec<usize>],
    gathered: &[Vec<u8>],
    num_rows: usize,
    num_classes: usize,
) -> Option<Vec<f32>> {
    let mut logits = vec![0.0; num_rows * num_classes];
    let mut unread: Vec<_> = gathered.iter().map(|bytes| bytes.as_chunks::<4>().0.iter()).collect();
    for (batch_idx, batch) in batches.iter().enumerate() {
        let source = &mut unread[batch_idx % gathered.len()];
        for &row in batch {
            for logit in &mut logits[row * num_classes..(row + 1) * num_classes] {
                *logit = f32::from_le_bytes(*source.next()?);
            }
        }
    }
    Some(logits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_their_order_whoever_computed_them() {
        let batches = [vec![3, 0], vec![2, 4], vec![1]];
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let of_batch = |batch: &[usize]| -> Vec<f32> {
            batch.iter().flat_map(|row| [*row as f32, 10.0 + *row as f32]).collect()
        };
        let expected: Vec<f32> = of_batch(&[0, 1, 2, 3, 4]);
        let [a, b, c] = [0, 1, 2].map(|idx| of_batch(&batches[idx]));
        let alone = bytes(&[a.clone(), b.clone(), c.clone()].concat());
        assert_eq!(in_row_order(&batches, &[alone], 5, 2).unwrap(), expected);
        let two = [bytes(&[a, c].concat()), bytes(&b)];
        assert_eq!(in_row_order(&batches, &two, 5, 2).unwrap(), expected);
        assert_eq!(in_row_order(&batches, &[two[0].clone(), Vec::new()], 5, 2), None);
    }
}
