//! Slots of a step: which samples are in which, and their micro-batches.
//!
//! The samples of a step are consecutive positions. Those of a group of slots are shared out by their lengths, which are
//! known before a token is read.

use super::{PretrainData, SamplePosition, Workspace};
use crate::balance::{group_of_slot, share_rows};
use crate::batch::MicroBatch;
use crate::error::DataError;
use crate::pairs::row_len;
use crate::plan::PlannedSample;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

/// Groups kept at a time: those that the slots of one rank lie in, in the steps being made.
const MAX_CACHED_GROUPS: usize = 8;

/// Samples of the slots that are filled together.
pub(super) struct SlotGroup {
    step: u64,
    slots: Range<usize>,
    /// Epoch and sample, in the order of positions.
    samples: Vec<(u64, PlannedSample)>,
    /// Indices of the samples of each slot.
    rows_of_slots: Vec<Vec<usize>>,
}

/// Most recently filled groups.
pub(super) type SlotGroups = VecDeque<Arc<SlotGroup>>;

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
        let group = self.slot_group(step, slot)?;
        let rows = &group.rows_of_slots[slot - group.slots.start];
        let epoch = self.locate(step * self.config.global_batch_size as u64)?.epoch;
        let mut batch = self.start_batch(step, slot, rows.len());
        batch.epoch = epoch;
        let mut workspace = Workspace::default();
        for &row in rows {
            let (epoch, planned) = &group.samples[row];
            let keys = self.sample_keys(*epoch, planned.sample_idx);
            self.push_sample(planned, &keys, &mut workspace, &mut batch)?;
        }
        Ok(batch.finish())
    }

    /// The group that a slot is filled with. Threads that need the same one wait for the first of them.
    fn slot_group(&self, step: u64, slot: usize) -> Result<Arc<SlotGroup>, DataError> {
        let mut groups = self.slot_groups.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |group: &&Arc<SlotGroup>| group.step == step && group.slots.contains(&slot);
        if let Some(group) = groups.iter().find(is_wanted) {
            return Ok(group.clone());
        }
        let group = Arc::new(self.fill_group(step, slot)?);
        groups.push_back(group.clone());
        if groups.len() > MAX_CACHED_GROUPS {
            groups.pop_front();
        }
        Ok(group)
    }

    fn fill_group(&self, step: u64, slot: usize) -> Result<SlotGroup, DataError> {
        let rows_per_slot = self.config.micro_batch_size;
        let slots = group_of_slot(slot, self.config.num_slots(), rows_per_slot);
        let start = step * self.config.global_batch_size as u64 + (slots.start * rows_per_slot) as u64;
        let num_rows = slots.len() * rows_per_slot;
        let (mut samples, mut lengths) = (Vec::with_capacity(num_rows), Vec::with_capacity(num_rows));
        for position in start..start + num_rows as u64 {
            let (SamplePosition { epoch, .. }, planned) = self.find(position)?;
            // A single slot takes all rows, whatever their lengths.
            lengths.push(match slots.len() {
                1 => 0,
                _ => row_len(&self.context, &planned, self.sample_keys(epoch, planned.sample_idx).pair)?,
            });
            samples.push((epoch, planned));
        }
        let rows_of_slots = share_rows(&lengths, slots.len());
        Ok(SlotGroup { step, slots, samples, rows_of_slots })
    }
}
