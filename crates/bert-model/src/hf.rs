//! Hugging Face folders: `config.json` and `model.safetensors` of a `BertForPreTraining`.
//!
//! The only module of this crate that touches files. Tensors are `F32` under the names and in the orientation of
//! [`ParameterLayout`]; the tied decoder is not written, as in `save_pretrained`. Reading trusts nothing: names,
//! shapes and sizes are checked against the configuration and the length of the file before anything is allocated.

mod classifier;
mod config_file;
mod names;
mod tensor_file;

use std::{
    io,
    path::{Path, PathBuf},
};

use bert_random::Key;
use safetensors::SafeTensorError;

use crate::{
    config::{ConfigError, ModelConfig},
    layout::ParameterLayout,
};

pub use classifier::{
    load_classifier_config, load_classifier_folder, load_folder_below_classifier, save_classifier_folder,
};
use tensor_file::Reading;

/// Name of the configuration inside of a folder.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the tensors inside of a folder.
pub const TENSOR_FILE: &str = "model.safetensors";

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
    fn is_empty(&self) -> bool {
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

/// Writes `config.json` and `model.safetensors` into an existing folder and syncs both files.
///
/// `read_bucket` is called once per bucket, in layout order, with a buffer of the bucket's length to fill. Equal
/// parameters give equal bytes. Making the folder appear at once is the caller's business.
///
/// # Errors
///
/// [`HfError::Config`] if the configuration is not valid, [`HfError::Io`] if a file cannot be written.
pub fn save_folder(
    folder: &Path,
    config: &ModelConfig,
    mut read_bucket: impl FnMut(usize, &mut [f32]),
) -> Result<(), HfError> {
    let config_path = folder.join(CONFIG_FILE);
    config.validate().map_err(|source| HfError::Config { path: config_path.clone(), source })?;
    config_file::write(&config_path, config, "BertForPreTraining", serde_json::Map::new())?;
    tensor_file::write(&folder.join(TENSOR_FILE), &ParameterLayout::new(config), &mut read_bucket)
}

/// Reads a folder: the configuration and the values of every bucket, in layout order.
///
/// Accepted beside what [`save_folder`] writes: names without the prefix `bert.`, `LayerNorm.gamma` and
/// `LayerNorm.beta`, a stored decoder equal to what it is tied to, and `position_ids` buffers.
///
/// # Errors
///
/// Any [`HfError`]; a refusal lists every tensor that is missing, unexpected or has another shape or type.
pub fn load_folder(folder: &Path) -> Result<(ModelConfig, Vec<Vec<f32>>), HfError> {
    let config = load_config(folder)?;
    let reading = Reading { fill_missing: &|_| None, is_ignored: &|_| false };
    let buckets = tensor_file::read(&folder.join(TENSOR_FILE), &ParameterLayout::new(&config), reading)?;
    Ok((config, buckets))
}

/// A folder whose missing parameters were initialised.
#[derive(Clone, Debug)]
pub struct CompletedFolder {
    /// The configuration.
    pub config: ModelConfig,
    /// The values of every bucket, in layout order.
    pub buckets: Vec<Vec<f32>>,
    /// Names of the parameters that the folder lacked, ascending.
    pub initialised: Vec<String>,
}

/// As [`load_folder`], but parameters whose name `may_be_missing` start from initial values if the file lacks them.
///
/// For checkpoints without (all of) the pre-training heads; a classifier on top of them is passed over.
///
/// # Errors
///
/// As [`load_folder`].
pub fn load_folder_with_initial(
    folder: &Path,
    init_key: Key,
    may_be_missing: impl Fn(&str) -> bool,
) -> Result<CompletedFolder, HfError> {
    let config = load_config(folder)?;
    let layout = ParameterLayout::new(&config);
    let is_classifier = |name: &str| name.starts_with("classifier.");
    classifier::complete(folder, config, &layout, init_key, &may_be_missing, &is_classifier)
}

/// Reads the configuration of a folder only.
///
/// # Errors
///
/// [`HfError::Io`], [`HfError::Json`], [`HfError::Unsupported`] or [`HfError::Config`].
pub fn load_config(folder: &Path) -> Result<ModelConfig, HfError> {
    config_file::read(&folder.join(CONFIG_FILE))
}

/// Calls `feed` with name, shape and little-endian bytes of every parameter, by ascending name.
///
/// What `bert checkpoint hash` hashes: it depends on the parameters alone, not on files, buckets or ranks.
///
/// # Panics
///
/// If `buckets` does not have the lengths of `layout`.
pub fn parameter_hash_input(
    layout: &ParameterLayout,
    buckets: &[Vec<f32>],
    mut feed: impl FnMut(&str, &[usize], &[u8]),
) {
    for (bucket_idx, spec) in layout.by_name() {
        let values = &buckets[bucket_idx][spec.range()];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        feed(&spec.name, &spec.shape, &bytes);
    }
}

#[cfg(test)]
mod tests;
