//! Why a run ends early, and with which exit code.
//!
//! Owns the one table from causes to exit codes. Never prints: the binary does.

use std::{error::Error, io, path::PathBuf};

use bert_coordinator::{CoordinatorError, Failure};
use bert_data::{DataError, DataErrorKind};
use bert_model::{ModelError, hf::HfError};

use crate::{checkpoint::CheckpointError, config::ConfigError};

/// Exit code: done.
pub const EXIT_DONE: i32 = 0;
/// Exit code: failure of the machine or of the program.
pub const EXIT_FAILURE: i32 = 1;
/// Exit code: usage or configuration.
pub const EXIT_CONFIG: i32 = 2;
/// Exit code: damaged or mismatching data or checkpoint.
pub const EXIT_DAMAGED: i32 = 3;
/// Exit code: non-finite loss or gradient.
pub const EXIT_NON_FINITE: i32 = 4;
/// Exit code: a peer rank failed or froze.
pub const EXIT_PEER: i32 = 5;
/// Exit code: stopped on a signal after saving; run again to continue.
pub const EXIT_STOPPED: i32 = 75;

/// Reasons for a run to end early.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum TrainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Hf(#[from] HfError),
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    #[error("step {step}")]
    InStep {
        step: u64,
        #[source]
        source: Box<CoordinatorError>,
    },
    #[error("rank {rank} panicked; what it said is above")]
    Panicked { rank: usize },
    #[error(
        "step {step}: the ranks do not hold the same parameters: {what} differs between the ranks {groups}; this is an error of the program or of a machine's memory"
    )]
    UnequalParameters { step: u64, what: String, groups: String },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{step}: `{path}`")]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "run folder `{path}` belongs to another configuration ({differences}); choose another run.name or restore the values"
    )]
    OtherRun { path: PathBuf, differences: String },
    #[error(
        "run folder `{path}` already holds checkpoints; choose another run.name, or continue with --resume auto"
    )]
    Occupied { path: PathBuf },
    #[error(
        "run folder `{path}` is in use by another start ({holder}); wait until it has ended or stop it, or choose another run.name"
    )]
    InUse { path: PathBuf, holder: String },
    #[error(
        "step {step}: {what} is not finite; nothing was saved, the last checkpoint stands; lower schedule.peak_learning_rate or look at the data of this step with --debug"
    )]
    NonFinite { step: u64, what: String },
    #[error("{0}")]
    Setup(String),
    #[error("{0}")]
    Usage(String),
    #[error("{}", .0.message)]
    Agreed(Failure),
}

impl TrainError {
    /// The exit code of the program.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Config(_) => EXIT_CONFIG,
            Self::Data(error) => match error.kind() {
                DataErrorKind::Config => EXIT_CONFIG,
                DataErrorKind::Damaged => EXIT_DAMAGED,
                DataErrorKind::Other => EXIT_FAILURE,
            },
            Self::Coordinator(CoordinatorError::Handshake { item, .. })
                if ["corpus", "tokenizer"].contains(&item.as_str()) =>
            {
                EXIT_DAMAGED
            }
            Self::Coordinator(error) => error.exit_code(),
            Self::InStep { source, .. } => source.exit_code(),
            Self::Hf(HfError::Io { .. }) => EXIT_FAILURE,
            Self::Hf(_) | Self::OtherRun { .. } => EXIT_DAMAGED,
            Self::Checkpoint(error) => error.exit_code(),
            Self::Occupied { .. } | Self::InUse { .. } | Self::Usage(_) => EXIT_CONFIG,
            Self::NonFinite { .. } => EXIT_NON_FINITE,
            Self::Model(_)
            | Self::Io { .. }
            | Self::Setup(_)
            | Self::Panicked { .. }
            | Self::UnequalParameters { .. } => EXIT_FAILURE,
            Self::Agreed(failure) => failure.exit_code,
        }
    }

    /// What broke the exchange between ranks, if that is what happened: the ranks cannot leave together any more.
    #[must_use]
    pub fn broken_exchange(&self) -> Option<&CoordinatorError> {
        let error = match self {
            Self::Coordinator(error) => error,
            Self::InStep { source, .. } => source,
            _ => return None,
        };
        Some(error).filter(|error| !error.is_shared())
    }

    /// The same error with the step in which it happened, where it would not say so itself.
    #[must_use]
    pub fn in_step(self, step: u64) -> Self {
        match self {
            Self::Coordinator(source) => Self::InStep { step, source: Box::new(source) },
            other => other,
        }
    }

    /// This error as words and exit code, to be told to the other ranks.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        Failure { exit_code: self.exit_code(), message: chain_of(self) }
    }
}

/// The message of an error with those of its sources, each once.
#[must_use]
pub fn chain_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
