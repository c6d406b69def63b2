//! Hugging Face folders: `config.json` and the tensors of a `BertForPreTraining`.
//!
//! The only module of this crate that touches files. Tensors are written as `F32` under the names and in the
//! orientation of [`ParameterLayout`]; the tied decoder is not written, as in `save_pretrained`. They are read from
//! safetensors, from `pytorch_model.bin` (without running any of its pickle code) and from numpy archives, also in
//! half precision and under the names of older checkpoints. Reading trusts nothing: names, shapes and sizes are
//! checked against the configuration and the length of the file before anything is allocated.

mod assign;
mod classifier;
mod config_file;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod names;
mod npz_file;
mod pickle;
mod safetensors_file;
mod sink;
mod tensor_index;
mod torch_file;
mod zip;

use std::path::{Path, PathBuf};

use bert_random::Key;

pub use self::{
    classifier::{
        ClassifierStart, load_classifier_config, load_classifier_folder, load_folder_below_classifier,
        save_classifier_folder, save_classifier_folder_to,
    },
    config_file::ConfigFile,
    error::{HfError, Mismatch},
    sink::{FileSink, Fill, PlainFiles},
};
use crate::{config::ModelConfig, init::initial_parameter, layout::ParameterLayout};
use assign::Rules;
pub(crate) use names::{DECODER_BIAS, WORD_TABLE};
use tensor_index::TensorIndex;

/// Name of the configuration inside of a folder.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the tensors inside of a folder.
pub const TENSOR_FILE: &str = "model.safetensors";
/// Name of the tensors inside of a folder that torch wrote; read where [`TENSOR_FILE`] is not there.
pub const TORCH_FILE: &str = "pytorch_model.bin";

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
    read_bucket: impl FnMut(usize, &mut [f32]),
) -> Result<(), HfError> {
    save_folder_to(&mut PlainFiles, folder, config, read_bucket)
}

/// As [`save_folder`], with files that `sink` makes.
///
/// # Errors
///
/// As [`save_folder`].
pub fn save_folder_to(
    sink: &mut dyn FileSink,
    folder: &Path,
    config: &ModelConfig,
    mut read_bucket: impl FnMut(usize, &mut [f32]),
) -> Result<(), HfError> {
    let path = folder.join(CONFIG_FILE);
    config.validate().map_err(|source| HfError::Config { path: path.clone(), source })?;
    write_folder(sink, folder, &ConfigFile::of_model(&path, config)?, &mut read_bucket)
}

fn write_folder(
    sink: &mut dyn FileSink,
    folder: &Path,
    config: &ConfigFile,
    read_bucket: &mut dyn FnMut(usize, &mut [f32]),
) -> Result<(), HfError> {
    config.write(&folder.join(CONFIG_FILE), sink)?;
    let layout = ParameterLayout::new(config.model());
    safetensors_file::write(&folder.join(TENSOR_FILE), &layout, read_bucket, sink)
}

/// As [`save_folder`], with a `config.json` that was read before: what it says about other things is kept.
///
/// # Errors
///
/// [`HfError::Io`] if a file cannot be written.
pub fn save_folder_as(
    folder: &Path,
    config: &ConfigFile,
    mut read_bucket: impl FnMut(usize, &mut [f32]),
) -> Result<(), HfError> {
    write_folder(&mut PlainFiles, folder, config, &mut read_bucket)
}

/// Reads a folder: the configuration and the values of every bucket, in layout order.
///
/// Accepted beside what [`save_folder`] writes: `pytorch_model.bin`, half precision, names without the prefix
/// `bert.`, `LayerNorm.gamma` and `LayerNorm.beta`, a stored decoder equal to what it is tied to, and `position_ids`
/// buffers.
///
/// # Errors
///
/// Any [`HfError`]; a refusal lists every tensor that is missing, unexpected or has another shape or type.
pub fn load_folder(folder: &Path) -> Result<(ModelConfig, Vec<Vec<f32>>), HfError> {
    let loaded = load(&Source::folder(folder)?, &Allowed::NOTHING)?;
    Ok((loaded.config.model().clone(), loaded.buckets))
}

/// Files that a model is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `config.json`, or Google's `bert_config.json`.
    pub config: PathBuf,
    /// `.safetensors`, `.npz`, or a file of `torch.save`.
    pub tensors: PathBuf,
}

impl Source {
    /// The files of a Hugging Face folder.
    ///
    /// # Errors
    ///
    /// [`HfError::NoWeights`] if it has no file of tensors.
    pub fn folder(folder: &Path) -> Result<Self, HfError> {
        Ok(Self { config: folder.join(CONFIG_FILE), tensors: assign::tensor_file_in(folder)? })
    }

    /// A file of tensors with the `config.json` or `bert_config.json` beside it.
    #[must_use]
    pub fn file(tensors: &Path) -> Self {
        Self { config: config_file::beside(tensors), tensors: tensors.into() }
    }
}

/// What a source may lack or have too much.
#[derive(Clone, Copy)]
pub struct Allowed<'a> {
    /// Parameters that start from initial values, keyed by `init_key`, if the source lacks them.
    pub missing: &'a dyn Fn(&str) -> bool,
    /// Tensors that are left out if the model has no use for them.
    pub unexpected: &'a dyn Fn(&str) -> bool,
    /// Key of initial values; `None` if nothing may be missing.
    pub init_key: Option<Key>,
}

impl Allowed<'_> {
    /// The source is exactly the model.
    pub const NOTHING: Self = Self { missing: &|_| false, unexpected: &|_| false, init_key: None };
}

/// A model that was read.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    /// The configuration with everything that it says.
    pub config: ConfigFile,
    /// The values of every bucket, in layout order.
    pub buckets: Vec<Vec<f32>>,
    /// Names of the parameters that the source lacked, ascending.
    pub initialised: Vec<String>,
    /// Stored names of the tensors that were left out, ascending.
    pub left_out: Vec<String>,
}

/// Reads a model from any of the known formats.
///
/// # Errors
///
/// Any [`HfError`]; a refusal lists every tensor that is missing, unexpected or has another shape or type.
pub fn load(source: &Source, allowed: &Allowed<'_>) -> Result<LoadedModel, HfError> {
    let config = ConfigFile::read(&source.config)?;
    let index = TensorIndex::open(&source.tensors)?;
    let layout = ParameterLayout::new(config.model());
    let rules = Rules {
        may_be_missing: &|name| allowed.init_key.is_some() && (allowed.missing)(name),
        may_be_unexpected: allowed.unexpected,
        initial: &|spec| {
            let key = allowed.init_key.expect("without a key nothing may be missing");
            initial_parameter(config.model(), spec, key)
        },
    };
    let assign::Assigned { buckets, initialised, left_out } = assign::read(&index, &layout, &rules)?;
    Ok(LoadedModel { config, buckets, initialised, left_out })
}

/// Reads the configuration of a folder only.
///
/// # Errors
///
/// [`HfError::Io`], [`HfError::Json`], [`HfError::Unsupported`] or [`HfError::Config`].
pub fn load_config(folder: &Path) -> Result<ModelConfig, HfError> {
    Ok(ConfigFile::read(&folder.join(CONFIG_FILE))?.model().clone())
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
