//! From the kind of an error to the exit code of the program.
//!
//! Owns the errors that the tool itself finds; those of the libraries carry their own kinds.

use bert_data::{DataError, DataErrorKind};
use bert_model::hf::HfError;
use bert_train::{
    checkpoint::CheckpointError,
    config::ConfigError,
    error::{EXIT_CONFIG, EXIT_DAMAGED, EXIT_FAILURE, TrainError},
};

/// What the tool itself refuses.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// Arguments that make no sense together, or that name something which is not there.
    #[error("{0}")]
    Usage(String),
    /// A file that is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// Two things that were compared are not equal.
    #[error("{0}")]
    Differs(String),
}

/// The exit code for an error: the first cause with a kind decides.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let code = error.chain().find_map(code_of).unwrap_or(EXIT_FAILURE);
    u8::try_from(code).unwrap_or(1)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<i32> {
    if let Some(error) = cause.downcast_ref::<ToolError>() {
        return Some(match error {
            ToolError::Usage(_) => EXIT_CONFIG,
            ToolError::Damaged(_) => EXIT_DAMAGED,
            ToolError::Differs(_) => EXIT_FAILURE,
        });
    }
    if let Some(error) = cause.downcast_ref::<DataError>() {
        return Some(match error.kind() {
            DataErrorKind::Config => EXIT_CONFIG,
            DataErrorKind::Damaged => EXIT_DAMAGED,
            DataErrorKind::Other => EXIT_FAILURE,
        });
    }
    if cause.is::<ConfigError>() {
        return Some(EXIT_CONFIG);
    }
    if cause.is::<HfError>() {
        return Some(EXIT_DAMAGED);
    }
    if let Some(error) = cause.downcast_ref::<CheckpointError>() {
        return Some(error.exit_code());
    }
    cause.downcast_ref::<TrainError>().map(TrainError::exit_code)
}
