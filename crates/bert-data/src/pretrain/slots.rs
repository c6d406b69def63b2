//! Slots of a step: which samples are in which, and their micro-batches.
//!
//! The samples of a step are consecutive positions. Those of a group of slots are shared out by their lengths, which are
//! known before a token is read.

use super::{PretrainData, SamplePosition, Workspace};
use crate::balance::{SlotGroup, share_rows};
use crate::batch::MicroBatch;
use crate::error::DataError;
use crate::pairs::row_len;
use crate::plan::PlannedSample;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

/// Groups kept at a time: those that the slots of one rank lie in, in the steps being made.
const MAX_CACHED_GROUPS: usize = 8;

/// The samples of a group of slots.
pub(super) struct FilledSlots {
    step: u64,
    group: SlotGroup,
    /// Epoch and sample, in the order of positions.
    samples: Vec<(u64, PlannedSample)>,
    /// Indices of the samples of each slot.
    rows_of_slots: Vec<Vec<usize>>,
}

/// Most recently filled groups.
pub(super) type SlotGroups = VecDeque<Arc<FilledSlots>>;

impl PretrainData {
    /// The rows of one slot of one step. A step has the samples at positions `step * global_batch_size` and on; each slot
    /// gets `micro_batch_size` of them and an even share of the tokens.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] if there is no such slot; [`DataError::Io`] if the shards cannot be read.
    pub fn micro_batch(&self, step: u64, slot: usize) -> Result<MicroBatch, DataError> {
        let num_slots = self.config.num_slots();
        if slot >= num_slots {
            return Err(DataError::config("slot", &format!("below {num_slots}"), slot));
        }
        let filled = self.filled_slots(step, slot)?;
        let rows = &filled.rows_of_slots[slot - filled.group.slots.start];
        let mut batch = self.start_batch(step, slot, rows.len());
        (batch.epoch, _) = self.find_epoch(step * self.config.global_batch_size as u64)?;
        let mut workspace = Workspace::default();
        for &row in rows {
            let (epoch, planned) = &filled.samples[row];
            let keys = self.sample_keys(*epoch, planned.sample_idx);
            self.push_sample(planned, &keys, &mut workspace, &mut batch)?;
        }
        Ok(batch.finish())
    }

    /// The group that a slot is filled with. Threads that need the same one wait for the first of them.
    fn filled_slots(&self, step: u64, slot: usize) -> Result<Arc<FilledSlots>, DataError> {
        let mut groups = self.slot_groups.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted =
            |filled: &&Arc<FilledSlots>| filled.step == step && filled.group.slots.contains(&slot);
        if let Some(filled) = groups.iter().find(is_wanted) {
            return Ok(filled.clone());
        }
        let filled = Arc::new(self.fill_slots(step, slot)?);
        groups.push_back(filled.clone());
        if groups.len() > MAX_CACHED_GROUPS {
            groups.pop_front();
        }
        Ok(filled)
    }

    fn fill_slots(&self, step: u64, slot: usize) -> Result<FilledSlots, DataError> {
        let config = &self.config;
        let group = SlotGroup::of_slot(step, slot, config.global_batch_size, config.micro_batch_size);
        let num_rows = group.slots.len() * config.micro_batch_size;
        let (mut samples, mut lengths) = (Vec::with_capacity(num_rows), Vec::with_capacity(num_rows));
        for position in group.positions.clone() {
            let (SamplePosition { epoch, .. }, planned) = self.find(position)?;
            // A single slot takes all rows, whatever their lengths.
            lengths.push(match group.slots.len() {
                1 => 0,
                _ => row_len(&self.context, &planned, self.sample_keys(epoch, planned.sample_idx).pair)?,
            });
            samples.push((epoch, planned));
        }
        let rows_of_slots = share_rows(&lengths, group.slots.len());
        Ok(FilledSlots { step, group, samples, rows_of_slots })
    }
}
