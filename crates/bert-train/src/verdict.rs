//! Whether a step counts: decided from the gathered control words, so every rank decides alike.
//!
//! Owns the rules. Knows no rank of its own and sends nothing.

use crate::{
    control::ControlWord,
    error::{EXIT_FAILURE, TrainError},
};

/// The decision about a step, before its update.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Verdict {
    /// Update.
    Continue,
    /// A rank has no gradients: exit code and reason.
    Spoiled(i32, String),
    /// A gradient, summed over all slots, is not finite.
    NonFiniteGradient {
        /// The step.
        step: u64,
        /// Name of the first parameter whose gradient it is.
        parameter: String,
    },
    /// A loss or gradient is not finite.
    NonFinite {
        /// The step.
        step: u64,
        /// Which one.
        what: String,
    },
}

impl Verdict {
    /// Judges the words of a step; `block_names` are the parameters of `block_norms`.
    pub fn of(step: u64, words: &[ControlWord], block_norms: &[f64], block_names: &[&str]) -> Self {
        if let Some((rank, word)) = words.iter().enumerate().find(|(_, word)| word.is_spoiled) {
            let (exit_code, message) =
                word.failure.clone().unwrap_or((EXIT_FAILURE, "no reason given".to_string()));
            return Self::Spoiled(exit_code, format!("rank {rank}: {message}"));
        }
        for (rank, word) in words.iter().enumerate() {
            for (idx, slot) in word.slots.iter().enumerate() {
                if !slot.is_finite() {
                    let what = format!("the loss of slot {idx} on rank {rank}");
                    return Self::NonFinite { step, what };
                }
            }
        }
        match block_norms.iter().position(|norm| !norm.is_finite()) {
            None => Self::Continue,
            Some(idx) => {
                let name = block_names.get(idx).copied().unwrap_or("an unknown parameter");
                Self::NonFiniteGradient { step, parameter: name.to_string() }
            }
        }
    }

    /// The verdict as a result.
    ///
    /// # Errors
    ///
    /// Unless the step counts.
    pub fn into_result(self) -> Result<(), TrainError> {
        match self {
            Self::Continue => Ok(()),
            Self::Spoiled(exit_code, message) => {
                Err(TrainError::Agreed(bert_coordinator::Failure { exit_code, message }))
            }
            Self::NonFiniteGradient { step, parameter } => {
                Err(TrainError::NonFinite { step, what: format!("the gradient of `{parameter}`") })
            }
            Self::NonFinite { step, what } => Err(TrainError::NonFinite { step, what }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{ObjectiveSums, SlotFigures};

    fn word(loss_sum: f64) -> ControlWord {
        let tokens = ObjectiveSums { loss_sum, ..ObjectiveSums::default() };
        let slot = SlotFigures { tokens, ..SlotFigures::default() };
        ControlWord { slots: vec![slot], ..ControlWord::default() }
    }

    #[test]
    fn finite_words_continue() {
        assert_eq!(Verdict::of(1, &[word(1.0), word(2.0)], &[1.0, 0.0], &["a", "b"]), Verdict::Continue);
    }

    #[test]
    fn the_parameter_of_a_non_finite_gradient_is_named() {
        let verdict = Verdict::of(4, &[word(1.0)], &[1.0, f64::NAN], &["a", "b"]);
        assert_eq!(verdict, Verdict::NonFiniteGradient { step: 4, parameter: "b".to_string() });
        let error = verdict.into_result().unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("step 4: the gradient of `b` is not finite"), "{error}");
    }

    #[test]
    fn a_non_finite_loss_is_named_with_its_rank() {
        let verdict = Verdict::of(4, &[word(1.0), word(f64::INFINITY)], &[], &[]);
        assert!(matches!(verdict, Verdict::NonFinite { what, .. } if what.contains("rank 1")));
    }

    #[test]
    fn a_spoiled_rank_is_named_with_its_exit_code() {
        let mut spoiled = word(1.0);
        spoiled.is_spoiled = true;
        spoiled.failure = Some((3, "shard 7 is damaged".to_string()));
        let error = Verdict::of(4, &[word(1.0), spoiled], &[], &[]).into_result().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("rank 1: shard 7"), "{error}");
    }
}
