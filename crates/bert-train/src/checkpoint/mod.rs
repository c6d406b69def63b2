//! Checkpoints: complete or not there.
//!
//! Owns the folder `checkpoints/step-NNNNNNNNN`: [`manifest`] says what is in it and proves it, [`write`](mod@write)
//! makes it through [`disk`], [`read`] finds and loads it, [`hash`] names the weights independently of files and ranks. Knows no
//! communicator: who writes what is decided in [`crate::saver`].

pub mod disk;
pub mod hash;
pub mod manifest;
pub mod moments;
pub mod read;
pub mod write;

use std::{io, path::PathBuf};

pub use manifest::{CheckpointState, FileEntry};

use crate::error::{EXIT_CONFIG, EXIT_DAMAGED, EXIT_FAILURE};

/// Name of the manifest, written last.
pub const STATE_FILE: &str = "state.json";
/// Name of the link to the newest complete checkpoint.
pub const LATEST: &str = "latest";

/// Name of the link to the checkpoint that did best on the validation rows.
pub const BEST: &str = "best";

/// Reasons to refuse a checkpoint, or to fail to write one.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each field is")]
pub enum CheckpointError {
    #[error("{step} `{path}`{}", advice(source))]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("checkpoint file `{path}` is damaged: {what}, expected {expected}, got {got}")]
    Damaged { path: PathBuf, what: &'static str, expected: String, got: String },
    #[error(
        "checkpoint file `{path}` is not where rank 0 looks for it ({problem}); all ranks must share the file system of run.dir"
    )]
    NotShared { path: PathBuf, problem: String },
    #[error("checkpoint file `{path}` cannot be read: {message}")]
    Format { path: PathBuf, message: String },
    #[error(
        "`{path}` is not a checkpoint (no {STATE_FILE} in it); give a folder such as runs/NAME/checkpoints/step-000000100"
    )]
    NotThere { path: PathBuf },
    #[error(
        "no checkpoint in `{dir}` can be trusted, so nothing was trained over them: {details}; move them aside to start anew, or restore one"
    )]
    NoneVerified { dir: PathBuf, details: String },
    #[error("checkpoint `{path}` does not fit this run: {what} is {got}, expected {expected}")]
    Mismatch { path: PathBuf, what: &'static str, expected: String, got: String },
}

impl CheckpointError {
    /// The exit code of the program.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Io { .. } | Self::NotShared { .. } => EXIT_FAILURE,
            Self::NotThere { .. } => EXIT_CONFIG,
            Self::Damaged { .. }
            | Self::Format { .. }
            | Self::NoneVerified { .. }
            | Self::Mismatch { .. } => EXIT_DAMAGED,
        }
    }
}

/// What to do about an I/O error, where that is known.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free space there or lower checkpoint.keep_last, then run the same command again)"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (check the permissions of run.dir, then run the same command again)"
        }
        _ => "",
    }
}

/// Attaches step and path to an I/O error.
pub(crate) fn io_error(
    step: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.into();
    move |source| CheckpointError::Io { step, path, source }
}
