//! Reasons why the ranks cannot go on together, and the exit codes they map to.

use std::time::Duration;

use crate::comm::{CommError, group_by_value};
use crate::world::PlanError;

/// Exit codes of the program, as far as ranks decide them.
pub mod exit_code {
    /// A failure of its own kind: a broken invariant, a lost thread.
    pub const FAILURE: i32 = 1;
    /// Ranks were started with different or impossible settings.
    pub const CONFIGURATION: i32 = 2;
    /// A peer rank failed or froze.
    pub const PEER: i32 = 5;
}

/// What the coordinator reports. `Display` never repeats the source.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// A peer died, froze, left or aborted; or the library lost it.
    #[error("a peer rank failed or froze")]
    PeerFailed {
        /// What this rank was doing.
        phase: String,
        /// The ranks in question, where known.
        ranks: Vec<usize>,
        /// What was seen.
        #[source]
        source: CommError,
    },
    /// The ranks made different calls: an error of the program, not of a machine.
    #[error("the ranks do not do the same work")]
    RanksDisagree {
        /// What this rank was doing.
        phase: String,
        /// Which ranks did what.
        #[source]
        source: CommError,
    },
    /// The ranks were started with different settings, data or programs.
    #[error(
        "ranks disagree on {item}: {}; start all ranks with the same program, configuration and data",
        group_by_value(values)
    )]
    Handshake {
        /// The name of the item that differs.
        item: String,
        /// Every rank with its value.
        values: Vec<(usize, String)>,
    },
    /// A peer's message could not be read: other program versions, most likely.
    #[error("{phase}: the message of rank {rank} cannot be read; are all ranks the same program version?")]
    UnreadableMessage {
        /// What this rank was doing.
        phase: String,
        /// Whose message.
        rank: usize,
    },
    /// The communication thread panicked.
    #[error("{phase}: the communication thread of this rank has ended unexpectedly")]
    ThreadDied {
        /// What this rank was doing.
        phase: String,
    },
    /// The communication thread lives but does not come back from the library.
    #[error("{phase}: the communication thread of this rank has not moved for {} s", waited.as_secs_f32())]
    ThreadStuck {
        /// What this rank was doing.
        phase: String,
        /// How long nothing moved.
        waited: Duration,
    },
    /// The communication thread or the library could not be started.
    #[error("failed to start communication: {problem}")]
    Launch {
        /// What went wrong and what to do.
        problem: String,
    },
    /// A bucket was used that is not planned.
    #[error("bucket {bucket_idx} does not exist: {num_buckets} buckets are planned")]
    UnknownBucket {
        /// The index asked for.
        bucket_idx: usize,
        /// Buckets planned with `set_buckets`.
        num_buckets: usize,
    },
    /// A buffer does not fit its bucket.
    #[error("{phase}: expected {expected} elements, got {got}")]
    BucketLength {
        /// The failing step, with the bucket.
        phase: String,
        /// Elements by the plan.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// `start` twice, `finish` without `start`, or new plans while buckets are on their way.
    #[error("{phase}: {problem}")]
    Order {
        /// The failing step, with the bucket.
        phase: String,
        /// Which order was expected.
        problem: &'static str,
    },
    /// Work cannot be divided over the ranks.
    #[error("the work cannot be divided over the ranks")]
    Plan(#[from] PlanError),
}

impl CoordinatorError {
    /// The exit code of a run that ends with this error.
    pub fn exit_code(&self) -> i32 {
        match self {
            CoordinatorError::PeerFailed { .. } | CoordinatorError::ThreadStuck { .. } => exit_code::PEER,
            CoordinatorError::Handshake { .. } | CoordinatorError::Plan(_) => exit_code::CONFIGURATION,
            _ => exit_code::FAILURE,
        }
    }

    /// Whether every rank has this error, so that all of them can still leave in good order.
    pub fn is_shared(&self) -> bool {
        matches!(self, CoordinatorError::Handshake { .. } | CoordinatorError::Plan(_))
    }

    /// The ranks that are gone or silent, as far as known.
    pub fn lost_ranks(&self) -> &[usize] {
        match self {
            CoordinatorError::PeerFailed { ranks, .. } => ranks,
            _ => &[],
        }
    }

    /// The error and its sources on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(err) = source {
            text.push_str(": ");
            text.push_str(&err.to_string());
            source = err.source();
        }
        text
    }

    /// Sorts a communicator's error into the kinds that a run distinguishes.
    pub(crate) fn from_comm(phase: &str, source: CommError) -> CoordinatorError {
        let phase = phase.to_owned();
        let ranks = match &source {
            CommError::PeersMissing { missing, .. } => missing.clone(),
            CommError::PeerAborted { rank, .. } | CommError::PeerLeft { rank, .. } => vec![*rank],
            CommError::Library { .. } => Vec::new(),
            CommError::CallsDiffer { .. } | CommError::BufferLength { .. } | CommError::Argument { .. } => {
                return CoordinatorError::RanksDisagree { phase, source };
            }
        };
        CoordinatorError::PeerFailed { phase, ranks, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_map_to_exit_codes() {
        let phase = || "reduce".to_owned();
        let missing =
            CommError::PeersMissing { phase: phase(), missing: vec![2], waited: Duration::from_millis(1500) };
        let missing = CoordinatorError::from_comm("reduce", missing);
        assert_eq!(missing.exit_code(), 5);
        assert_eq!((missing.lost_ranks(), missing.is_shared()), (&[2][..], false));
        assert!(missing.chain().contains("no sign of rank 2 within 1.5 s"), "{}", missing.chain());
        let differ = CoordinatorError::from_comm("reduce", CommError::CallsDiffer { calls: Vec::new() });
        assert_eq!(differ.exit_code(), 1);
        let plan = PlanError::SlotsNotDivisible { num_slots: 8, num_ranks: 3 };
        let plan = CoordinatorError::from(plan);
        assert_eq!((plan.exit_code(), plan.is_shared()), (2, true));
        assert_eq!(CoordinatorError::ThreadDied { phase: phase() }.exit_code(), 1);
    }
}
