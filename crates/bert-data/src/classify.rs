//! Labelled texts in, classification batches out.
//!
//! ```text
//! .tsv .csv .jsonl -> rows -> labels -> tokens          table, labels, rows
//! step -> positions -> epoch, permuted rows -> slots -> micro-batch
//! ```
//! The rows of an epoch are a keyed permutation of the training rows; the tail of an epoch flows into the next one.
//! Every arrow is a pure function of files, settings and seed, so rank counts, threads and restarts change no batch.
//! All rows are in memory, as tokens. Metrics are not here.

mod labels;
mod rows;
mod table;

pub use labels::LabelSet;
pub use rows::{EncodedRows, RowCounts};
pub use table::{Table, TableColumns, TextRow, read_table};

use crate::balance::{SlotGroup, share_rows};
use crate::batch::MicroBatch;
use crate::error::DataError;
use crate::prefetch::BatchSource;
use crate::pretrain::SamplePosition;
use bert_random::{Key, Permutation, Purpose};
use std::sync::atomic::AtomicBool;

/// Training rows with their order: share it between threads behind an [`std::sync::Arc`].
#[derive(Debug)]
pub struct ClassifyData {
    rows: EncodedRows,
    seed: u64,
    global_batch_size: usize,
    micro_batch_size: usize,
}

impl ClassifyData {
    /// Takes over labelled rows.
    ///
    /// # Errors
    ///
    /// [`DataError::NoSamples`] if there is no row.
    pub fn new(
        rows: EncodedRows,
        seed: u64,
        global_batch_size: usize,
        micro_batch_size: usize,
    ) -> Result<Self, DataError> {
        if rows.is_empty() {
            return Err(DataError::NoSamples { place: "training", expected: 1 });
        }
        Ok(Self { rows, seed, global_batch_size, micro_batch_size })
    }

    /// The rows.
    pub fn rows(&self) -> &EncodedRows {
        &self.rows
    }

    /// Epoch and row of a position of the endless sequence.
    pub fn locate(&self, position: u64) -> SamplePosition {
        let num_rows = self.rows.len() as u64;
        let (epoch, index_in_epoch) = (position / num_rows, position % num_rows);
        let order = Permutation::new(num_rows, Key::new(self.seed, Purpose::Order).with(epoch));
        SamplePosition { epoch, index_in_epoch, sample_idx: order.at(index_in_epoch) }
    }
}

impl BatchSource for ClassifyData {
    fn micro_batch(&self, step: u64, slot: usize) -> Result<MicroBatch, DataError> {
        let (global_batch_size, micro_batch_size) = (self.global_batch_size, self.micro_batch_size);
        let SlotGroup { slots, positions } =
            SlotGroup::of_slot(step, slot, global_batch_size, micro_batch_size);
        let row_idxs: Vec<_> = positions.map(|position| self.locate(position).sample_idx as usize).collect();
        let lengths: Vec<_> = row_idxs.iter().map(|&idx| self.rows.row_len(idx)).collect();
        let of_slots = share_rows(&lengths, slots.len());
        let of_slot: Vec<_> = of_slots[slot - slots.start].iter().map(|&row| row_idxs[row]).collect();
        let epoch = self.locate(step * global_batch_size as u64).epoch;
        Ok(MicroBatch { step, slot, epoch, ..self.rows.batch(&of_slot) })
    }

    /// Nothing: all rows are in memory, and their order is computed.
    fn look_ahead(&self, _: u64, _: &AtomicBool) -> Result<(), DataError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
