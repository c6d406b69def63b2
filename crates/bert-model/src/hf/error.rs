//! Reasons why a folder or a file of tensors cannot be written or read, and the list of what does not fit.

use std::{io, path::PathBuf};

use safetensors::SafeTensorError;

use super::{TENSOR_FILE, TORCH_FILE};
use crate::config::ConfigError;

/// Reasons why a folder cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum HfError {
    /// The file system refused.
    #[error("failed to {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// `config.json` is not a configuration of a BERT.
    #[error("failed to understand `{}`", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// `config.json` names a model that this crate cannot be.
    #[error("`{}`: {key}: expected {expected}, got {got}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Key in the file.
        key: &'static str,
        /// What is supported.
        expected: String,
        /// What the file says.
        got: String,
    },
    /// `config.json` is complete, but no model can be built from it.
    #[error("`{}` describes no model", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The offending key.
        #[source]
        source: ConfigError,
    },
    /// The tensor file is not a whole safetensors file.
    #[error("`{}` is damaged or not a safetensors file", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the format says.
        #[source]
        source: SafeTensorError,
    },
    /// A tensor file of another format is not what its name or its first bytes promise.
    #[error("`{}` is damaged or not a file of tensors: expected {expected}, got {got}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the format demands.
        expected: String,
        /// What was found.
        got: String,
    },
    /// The folder holds no tensors.
    #[error("`{}` holds no weights: expected {TENSOR_FILE} or {TORCH_FILE}, got neither", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// The tensor file ends too early or too late.
    #[error(
        "`{}`: expected {expected} bytes from its header, got {got}: the file was cut or appended to",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes promised.
        expected: u64,
        /// Bytes found.
        got: u64,
    },
    /// Names, shapes or types do not fit `config.json`.
    #[error("`{}` does not fit its config.json:{mismatch}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every tensor that does not fit.
        mismatch: Mismatch,
    },
    /// The decoder is stored and differs from the word table it should be tied to.
    #[error(
        "`{}`: `{name}` differs from `{tied_to}`: expected a tied decoder, got one of its own",
        path.display()
    )]
    Untied {
        /// The file.
        path: PathBuf,
        /// The stored decoder tensor.
        name: String,
        /// The parameter it should repeat.
        tied_to: &'static str,
    },
}

/// Tensors of a file that do not fit a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters of the model that the file lacks.
    pub missing: Vec<String>,
    /// Tensors of the file that the model lacks.
    pub unexpected: Vec<String>,
    /// Tensors with another shape or type, each with expected and got.
    pub reshaped: Vec<String>,
}

impl Mismatch {
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.reshaped.is_empty()
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts =
            [("missing", &self.missing), ("unexpected", &self.unexpected), ("different", &self.reshaped)];
        for (what, names) in parts.into_iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "\n  {what} ({}): {}", names.len(), names.join(", "))?;
        }
        Ok(())
    }
}
