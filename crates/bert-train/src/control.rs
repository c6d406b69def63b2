//! The control word: what every rank tells every other rank once a step.
//!
//! Owns the fields, their byte form and how words are combined. Every decision of a step (skip, save, stop)
//! is taken from the gathered words, so all ranks take it alike. Never sends anything itself.

use std::ops::Range;

pub use crate::phase::PhaseSeconds;
use crate::{
    figures::{ObjectiveSums, SlotFigures},
    saver::report::{SaveReport, SaveStage},
};

/// Length of a slot's figures in a word, in 64-bit units.
const SLOT_UNITS: usize = 6;
/// Length of the fixed part of a word, in 64-bit units.
const HEAD_UNITS: usize = 14 + PhaseSeconds::NUM_FIELDS;
/// Where the times are.
const SECONDS: Range<usize> = 8..8 + PhaseSeconds::NUM_FIELDS;

/// What the losses of a global batch are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// Masked tokens, which the MLM loss is divided by.
    pub num_masked: u64,
    /// Labelled rows, which the loss over sentence pairs or classes is divided by.
    pub num_rows: u64,
}

/// One rank's word of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlWord {
    /// The step that the word belongs to (1-based).
    pub step: u64,
    /// This rank could not compute its gradients; the update must not happen anywhere.
    pub is_spoiled: bool,
    /// A signal asked this rank to save and stop.
    pub wants_stop: bool,
    /// Real tokens of the own slots.
    pub num_tokens: u64,
    /// Positions of the own slots, padding included.
    pub num_positions: u64,
    /// Counts of the own slots of the *next* step.
    pub next_counts: BatchCounts,
    /// Peak resident memory of the process, in bytes.
    pub peak_rss_bytes: u64,
    /// Times of the previous step, whose end was not known when its own word was sent.
    pub seconds: PhaseSeconds,
    /// Losses of the own slots, in slot order.
    pub slots: Vec<SlotFigures>,
    /// Squared norms of the own gradient blocks, in block order.
    pub block_norms: Vec<f64>,
    /// Why this rank cannot go on, with the exit code.
    pub failure: Option<(i32, String)>,
    /// How far this rank is with the save in the background.
    pub save: SaveReport,
}

impl ControlWord {
    /// The word as bytes (little endian).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut units: Vec<u64> = vec![
            self.step,
            u64::from(self.is_spoiled),
            u64::from(self.wants_stop),
            self.num_tokens,
            self.num_positions,
            self.next_counts.num_masked,
            self.next_counts.num_rows,
            self.peak_rss_bytes,
        ];
        units.extend(self.seconds.to_array().map(f64::to_bits));
        units.extend([
            self.slots.len() as u64,
            self.block_norms.len() as u64,
            u64::from(self.failure.is_some()),
            self.failure.as_ref().map_or(0, |(exit_code, _)| u64::from(exit_code.unsigned_abs())),
            self.save.stage.tag(),
            self.save.text.len() as u64,
        ]);
        debug_assert_eq!(units.len(), HEAD_UNITS);
        for slot in &self.slots {
            for sums in [&slot.tokens, &slot.rows] {
                units.extend([sums.loss_sum.to_bits(), sums.count, sums.num_correct]);
            }
        }
        units.extend(self.block_norms.iter().map(|norm| norm.to_bits()));
        let mut bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        bytes.extend_from_slice(self.save.text.as_bytes());
        bytes.extend(self.failure.iter().flat_map(|(_, message)| message.as_bytes()));
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if the bytes are not a word.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head = units_of(bytes.get(..HEAD_UNITS * 8)?);
        let seconds = head.get(SECONDS)?.as_array()?.map(f64::from_bits);
        let &[num_slots, num_norms, has_failed, exit_code, save_tag, save_len] =
            head.get(SECONDS.end..)?.as_array()?;
        let (num_slots, num_norms) = (usize::try_from(num_slots).ok()?, usize::try_from(num_norms).ok()?);
        let norms_start = HEAD_UNITS.checked_add(num_slots.checked_mul(SLOT_UNITS)?)?;
        let text_start = norms_start.checked_add(num_norms)?.checked_mul(8)?;
        let slots = units_of(bytes.get(HEAD_UNITS * 8..norms_start * 8)?);
        let norms = units_of(bytes.get(norms_start * 8..text_start)?);
        let message_start = text_start.checked_add(usize::try_from(save_len).ok()?)?;
        let save_text = String::from_utf8_lossy(bytes.get(text_start..message_start)?).into_owned();
        let message = String::from_utf8_lossy(bytes.get(message_start..)?).into_owned();
        Some(Self {
            step: head[0],
            is_spoiled: head[1] != 0,
            wants_stop: head[2] != 0,
            num_tokens: head[3],
            num_positions: head[4],
            next_counts: BatchCounts { num_masked: head[5], num_rows: head[6] },
            peak_rss_bytes: head[7],
            seconds: PhaseSeconds::from_array(seconds),
            slots: slots.chunks_exact(SLOT_UNITS).map(decode_slot).collect(),
            block_norms: norms.into_iter().map(f64::from_bits).collect(),
            failure: (has_failed != 0).then_some((i32::try_from(exit_code).unwrap_or(1), message)),
            save: SaveReport { stage: SaveStage::from_tag(save_tag)?, text: save_text },
        })
    }
}

fn units_of(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|unit| u64::from_le_bytes(*unit)).collect()
}

fn decode_slot(units: &[u64]) -> SlotFigures {
    let sums = |units: &[u64]| ObjectiveSums {
        loss_sum: f64::from_bits(units[0]),
        count: units[1],
        num_correct: units[2],
    };
    SlotFigures { tokens: sums(&units[..3]), rows: sums(&units[3..]) }
}

/// Adds up the counts of all ranks.
#[must_use]
pub fn sum_counts(counts: impl IntoIterator<Item = BatchCounts>) -> BatchCounts {
    counts.into_iter().fold(BatchCounts::default(), |sum, counts| BatchCounts {
        num_masked: sum.num_masked + counts.num_masked,
        num_rows: sum.num_rows + counts.num_rows,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn losses()(mlm in any::<f64>(), nsp in any::<f64>(), counts in any::<[u64; 4]>()) -> SlotFigures {
            let sums = |loss_sum, count, num_correct| ObjectiveSums { loss_sum, count, num_correct };
            SlotFigures { tokens: sums(mlm, counts[0], counts[1]), rows: sums(nsp, counts[2], counts[3]) }
        }
    }

    proptest! {
        #[test]
        fn decode_reads_what_encode_wrote(
            step in any::<u64>(), flags in any::<[bool; 2]>(), slots in prop::collection::vec(losses(), 0..5),
            block_norms in prop::collection::vec(0.0_f64..1e30, 0..7),
            failure in prop::option::of((0_i32..256, ".{0,40}")), tag in 0_u64..4, text in ".{0,40}",
        ) {
            let word = ControlWord { step, is_spoiled: flags[0], wants_stop: flags[1], slots, block_norms,
                failure, num_tokens: 7, num_positions: 11, peak_rss_bytes: 13,
                save: SaveReport { stage: SaveStage::from_tag(tag).unwrap(), text },
                next_counts: BatchCounts { num_masked: 17, num_rows: 19 },
                seconds: PhaseSeconds { step: 1.5, data_wait: 0.25, forward: 3.0, backward: 5.0,
                    communication_exposed: 6.0, optimizer: 9.0, save: 12.0 } };
            prop_assert_eq!(ControlWord::decode(&word.encode()), Some(word));
        }

        #[test]
        fn foreign_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = ControlWord::decode(&bytes);
        }
    }

    #[test]
    fn a_truncated_word_is_no_word() {
        let word = ControlWord { block_norms: vec![1.0, 2.0], ..ControlWord::default() };
        let bytes = word.encode();
        assert_eq!(ControlWord::decode(&bytes[..bytes.len() - 1]), None);
    }
}
