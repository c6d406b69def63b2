//! A model folder with its tokenizer, whatever heads it has.
//!
//! Owns what a folder may lack: an encoder alone is enough for sentence vectors. What a head that is not there means
//! is said by whoever needs it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bert_data::Tokenizer;
use bert_model::{
    BackendKind, PretrainModel,
    hf::{self, Allowed, Source},
};
use bert_random::{Key, Purpose};
use bert_train::device;

use crate::{checkpoint::model_folder_of, cli::Opening, failure::ToolError, predict::recorded_lowercase};

/// What a model folder holds.
pub struct ModelFolder {
    /// The model. Heads that the folder lacks have initial values, which nobody may use.
    pub model: PretrainModel,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Names of the parameters that the folder lacks, ascending.
    pub missing: Vec<String>,
}

impl ModelFolder {
    /// Loads a model folder.
    ///
    /// # Errors
    ///
    /// If the folder is not a BERT, its vocabulary does not fit the model, or this program lacks the backend.
    pub fn load(folder: &Path, opening: &Opening) -> anyhow::Result<Self> {
        let backend = chosen_backend(opening)?;
        let step = || format!("cannot load the model in `{}`", folder.display());
        let is_head = |name: &str| name.starts_with("cls.") || name.starts_with("bert.pooler.");
        let is_classifier = |name: &str| name.starts_with("classifier.");
        // The values behind the key are never looked at; a fixed one makes equal folders equal models.
        let key = Key::new(0, Purpose::Init);
        let allowed = Allowed { missing: &is_head, unexpected: &is_classifier, init_key: Some(key) };
        let source = Source::folder(folder).with_context(step)?;
        let loaded = hf::load(&source, &allowed).with_context(step)?;
        let config = loaded.config.model();

        let lowercase = opening.lowercase.unwrap_or_else(|| recorded_lowercase(folder));
        let tokenizer = Tokenizer::from_vocab_file(folder, lowercase)?;
        if tokenizer.vocab_size() > config.vocab_size {
            let message = format!(
                "the vocabulary in `{}` has {} entries, the model only {}",
                folder.display(),
                tokenizer.vocab_size(),
                config.vocab_size
            );
            return Err(ToolError::Damaged(message).into());
        }
        let model = PretrainModel::from_buckets(config, &loaded.buckets, backend)?;
        Ok(Self { model, tokenizer, missing: loaded.initialised })
    }

    /// The parameters whose names begin so and that the folder lacks.
    pub fn missing_of(&self, prefix: &str) -> Vec<&str> {
        self.missing.iter().map(String::as_str).filter(|name| name.starts_with(prefix)).collect()
    }
}

/// The backend to compute with, set to use every core.
///
/// # Errors
///
/// If this program was built without it.
pub fn chosen_backend(opening: &Opening) -> anyhow::Result<BackendKind> {
    let chosen = device::choose(opening.backend, 0).map_err(|error| ToolError::Usage(error.to_string()))?;
    chosen.kind.set_num_threads(std::thread::available_parallelism().map_or(1, usize::from));
    Ok(chosen.kind)
}

/// The model folder that `--model` or `--run` means.
///
/// # Errors
///
/// If neither is given, or there is no model.
pub fn chosen(model: Option<&Path>, run: Option<&Path>) -> anyhow::Result<PathBuf> {
    match model.or(run) {
        Some(path) => model_folder_of(path),
        None => Err(ToolError::Usage("expected --model or --run".to_string()).into()),
    }
}
