//! Where the first weights of a run come from: the folder, its weights by hash, and what it descends from itself.
//!
//! Owns the meaning of `init.from` and the chain of ancestors that `run.json` and every `state.json` keep. Loads no
//! weight: that is the business of the task.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bert_model::ModelConfig;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{CheckpointError, CheckpointState, LATEST, STATE_FILE, hash::model_hash},
    config::InitSection,
    error::TrainError,
};

/// Value of `init.from` for weights keyed by the seed.
pub const SCRATCH: &str = "scratch";

/// A model that this one descends from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Its folder, as it was named.
    pub path: String,
    /// What `bert checkpoint hash` prints for it; of a folder without model.safetensors, the BLAKE3 of its weights' file.
    pub parameter_hash: String,
    /// Updates it had behind it, if it is a checkpoint of this program.
    pub step: Option<u64>,
    /// Fingerprint of what it was trained on, if it is a checkpoint.
    pub corpus_fingerprint: Option<String>,
    /// Hash of its configuration, if it is a checkpoint.
    pub config_hash: Option<String>,
}

/// The first weights of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The model folder to read; `None` for weights keyed by the seed, or if a checkpoint is to be continued.
    pub folder: Option<PathBuf>,
    /// Parent first, then its parent, and so on.
    pub lineage: Vec<Ancestor>,
}

/// Finds what `init.from` names: a checkpoint, a run folder (its newest checkpoint), or a Hugging Face folder. A
/// checkpoint is verified.
///
/// # Errors
///
/// [`TrainError`] if it is not there or damaged.
pub fn origin(init: &InitSection) -> Result<Origin, TrainError> {
    if init.from == SCRATCH {
        return Ok(Origin::default());
    }
    let path = Path::new(&init.from);
    let newest = path.join("checkpoints").join(LATEST);
    let path = if newest.join(STATE_FILE).exists() { newest } else { path.to_path_buf() };
    let state = path.join(STATE_FILE).exists().then(|| CheckpointState::verify(&path)).transpose()?;
    let folder = if state.is_some() { path.join("model") } else { path };
    if !folder.join("config.json").exists() {
        let message = format!(
            "init.from: no model in `{}`; expected \"{SCRATCH}\", a checkpoint, a run folder or a Hugging Face folder with config.json",
            init.from
        );
        return Err(TrainError::Usage(message));
    }
    let mut lineage = vec![Ancestor {
        path: init.from.clone(),
        parameter_hash: parameter_hash(&folder)?,
        step: state.as_ref().map(|state| state.step),
        corpus_fingerprint: state.as_ref().map(|state| state.corpus_fingerprint.clone()),
        config_hash: state.as_ref().map(|state| state.config_hash.clone()),
    }];
    lineage.extend(state.into_iter().flat_map(|state| state.lineage));
    Ok(Origin { folder: Some(folder), lineage })
}

fn parameter_hash(folder: &Path) -> Result<String, TrainError> {
    if folder.join("model.safetensors").exists() {
        return Ok(model_hash(folder)?);
    }
    let path = folder.join("pytorch_model.bin");
    let bytes = fs::read(&path).map_err(|source| CheckpointError::Io {
        step: "no model.safetensors beside its config.json; cannot read",
        path: path.clone(),
        source,
    })?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// Whether weights of `stored` mean the same in a model of `asked`. Dropout and initialisation may differ.
///
/// # Errors
///
/// [`CheckpointError::Mismatch`] names the first key that differs.
pub fn check_same_model(
    folder: &Path,
    stored: &ModelConfig,
    asked: &ModelConfig,
) -> Result<(), CheckpointError> {
    let keys = |config: &ModelConfig| {
        [
            ("model.hidden_size", config.hidden_size.to_string()),
            ("model.num_hidden_layers", config.num_hidden_layers.to_string()),
            ("model.num_attention_heads", config.num_attention_heads.to_string()),
            ("model.intermediate_size", config.intermediate_size.to_string()),
            ("model.max_position_embeddings", config.max_position_embeddings.to_string()),
            ("model.type_vocab_size", config.type_vocab_size.to_string()),
            ("model.hidden_act", format!("{:?}", config.hidden_act)),
            ("model.layer_norm_eps", config.layer_norm_eps.to_string()),
            ("size of the vocabulary", config.vocab_size.to_string()),
        ]
    };
    for ((what, got), (_, expected)) in keys(stored).into_iter().zip(keys(asked)) {
        if got != expected {
            return Err(CheckpointError::Mismatch { path: folder.to_path_buf(), what, expected, got });
        }
    }
    Ok(())
}

/// Says which parameters a folder did not have.
pub fn note_initialised(folder: &Path, names: &[String]) {
    if !names.is_empty() {
        tracing::warn!(
            "{} parameters are not in `{}` and start from initial values: {}",
            names.len(),
            folder.display(),
            names.join(", ")
        );
    }
}
