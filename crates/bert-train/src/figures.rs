//! Losses and right answers of a slot, whatever the task.
//!
//! A slot has at most two objectives: one over tokens (masked words) and one over rows (sentence pairs or classes).
//! Sums only; what they are divided by comes from the global batch.

use bert_model::{BatchLosses, ClassLosses};

/// Sums of one objective.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ObjectiveSums {
    /// Sum of the negative log-likelihoods, in nats.
    pub loss_sum: f64,
    /// Number of labels.
    pub count: u64,
    /// Labels with the highest logit.
    pub num_correct: u64,
}

/// Sums of a slot, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SlotFigures {
    /// Masked tokens.
    pub tokens: ObjectiveSums,
    /// Sentence pairs, or classes of rows.
    pub rows: ObjectiveSums,
}

impl ObjectiveSums {
    fn add(&mut self, other: &Self) {
        self.loss_sum += other.loss_sum;
        self.count += other.count;
        self.num_correct += other.num_correct;
    }

    /// Mean loss; 0 where nothing was counted.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        mean(self.loss_sum, self.count)
    }

    /// Share of right answers; 0 where nothing was counted.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        mean(self.num_correct as f64, self.count)
    }
}

impl SlotFigures {
    /// Whether no loss has become infinite or not a number.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.tokens.loss_sum.is_finite() && self.rows.loss_sum.is_finite()
    }
}

impl From<BatchLosses> for SlotFigures {
    fn from(losses: BatchLosses) -> Self {
        Self {
            tokens: ObjectiveSums {
                loss_sum: losses.mlm_loss_sum,
                count: losses.num_masked,
                num_correct: losses.mlm_correct,
            },
            rows: ObjectiveSums {
                loss_sum: losses.nsp_loss_sum,
                count: losses.num_pairs,
                num_correct: losses.nsp_correct,
            },
        }
    }
}

impl From<ClassLosses> for SlotFigures {
    fn from(losses: ClassLosses) -> Self {
        let rows = ObjectiveSums {
            loss_sum: losses.loss_sum,
            count: losses.num_rows,
            num_correct: losses.num_correct,
        };
        Self { tokens: ObjectiveSums::default(), rows }
    }
}

/// Adds up slots in the given order, so that the sum does not depend on the number of ranks.
#[must_use]
pub fn sum_figures<'a>(slots: impl IntoIterator<Item = &'a SlotFigures>) -> SlotFigures {
    let mut sum = SlotFigures::default();
    for slot in slots {
        sum.tokens.add(&slot.tokens);
        sum.rows.add(&slot.rows);
    }
    sum
}

/// `sum / count`, 0 where nothing was counted.
#[must_use]
pub fn mean(sum: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum / count as f64 }
}
