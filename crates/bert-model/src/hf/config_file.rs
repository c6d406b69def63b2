//! `config.json` of a Hugging Face BERT, and Google's `bert_config.json`.
//!
//! Keys that describe the model are required and checked; keys about anything else (tokenizer, generation, versions)
//! are kept as they are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{FileSink, HfError, safetensors_file::write_synced};
use crate::config::{HiddenAct, ModelConfig};

/// Keys that would make another network; each with the only value this crate builds.
const FIXED: [(&str, &str); 4] = [
    ("model_type", "bert"),
    ("position_embedding_type", "absolute"),
    ("tie_word_embeddings", "true"),
    ("is_decoder", "false"),
];

/// A `config.json`, with everything that it says.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigFile {
    text: String,
    all: Map<String, Value>,
    model: ModelConfig,
}

impl ConfigFile {
    /// Reads a configuration and checks that a model can be built from it.
    ///
    /// # Errors
    ///
    /// [`HfError::Io`], [`HfError::Json`], [`HfError::Unsupported`] or [`HfError::Config`].
    pub fn read(path: &Path) -> Result<Self, HfError> {
        let text = fs::read_to_string(path).map_err(|source| HfError::Io {
            action: "read",
            path: path.into(),
            source,
        })?;
        let all: Map<String, Value> =
            serde_json::from_str(&text).map_err(|source| HfError::Json { path: path.into(), source })?;
        for (key, expected) in FIXED {
            let got =
                all.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            if let Some(got) = got.filter(|got| got != expected) {
                return Err(HfError::Unsupported { path: path.into(), key, expected: expected.into(), got });
            }
        }
        let model = model_config(path, &all)?;
        Ok(Self { text, all, model })
    }

    /// What a model is built from.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// The same file for a pre-training model with `vocab_size` words; unchanged if that is what it says already.
    ///
    /// Other keys keep their values and their order.
    #[must_use]
    pub fn for_pretraining(&self, vocab_size: usize) -> Self {
        let mut all = self.all.clone();
        all.insert("architectures".into(), json!(["BertForPreTraining"]));
        all.insert("model_type".into(), "bert".into());
        all.insert("vocab_size".into(), vocab_size.into());
        all.insert("layer_norm_eps".into(), self.model.layer_norm_eps.into());
        // What is written is f32, whatever was read.
        for key in ["torch_dtype", "dtype"].into_iter().filter(|key| self.all.contains_key(*key)) {
            all.insert(key.into(), "float32".into());
        }
        if all == self.all {
            return self.clone();
        }
        let text = format!("{:#}\n", Value::Object(all.clone()));
        Self { text, all, model: ModelConfig { vocab_size, ..self.model.clone() } }
    }

    /// Everything that the file says.
    pub(super) fn all(&self) -> &Map<String, Value> {
        &self.all
    }

    /// The same file for another architecture, with more keys at its end.
    pub(super) fn for_architecture(self, architecture: &str, more: &Map<String, Value>) -> Self {
        let mut all = self.all;
        all.insert("architectures".into(), json!([architecture]));
        all.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
        let text = format!("{:#}\n", Value::Object(all.clone()));
        Self { text, all, model: self.model }
    }

    /// Writes the file and syncs it; a file that was read and not changed is written byte by byte as it was.
    pub(crate) fn write(&self, path: &Path, sink: &mut dyn FileSink) -> Result<(), HfError> {
        write_synced(sink, path, &mut |file| file.write_all(self.text.as_bytes()))
    }

    /// A configuration that `transformers` reads as `BertForPreTraining`.
    pub(super) fn of_model(path: &Path, config: &ModelConfig) -> Result<Self, HfError> {
        let json_error = |source| HfError::Json { path: path.into(), source };
        let mut all = Map::new();
        all.insert("architectures".into(), json!(["BertForPreTraining"]));
        all.insert("model_type".into(), "bert".into());
        let fields = serde_json::to_value(config).map_err(json_error)?;
        all.extend(fields.as_object().cloned().unwrap_or_default());
        all.insert("hidden_act".into(), stored_name(config.hidden_act).into());
        all.insert("position_embedding_type".into(), "absolute".into());
        all.insert("tie_word_embeddings".into(), true.into());
        all.insert("torch_dtype".into(), "float32".into());
        let text = serde_json::to_string_pretty(&all).map_err(json_error)? + "\n";
        Ok(Self { text, all, model: config.clone() })
    }
}

fn model_config(path: &Path, all: &Map<String, Value>) -> Result<ModelConfig, HfError> {
    let mut known: Map<String, Value> = all
        .iter()
        .filter(|(key, _)| MODEL_KEYS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    // Google's files do not say it, because google-research/bert has no other.
    known.entry("layer_norm_eps").or_insert_with(|| 1e-12.into());
    let config: ModelConfig = serde_json::from_value(Value::Object(known))
        .map_err(|source| HfError::Json { path: path.into(), source })?;
    config.validate().map_err(|source| HfError::Config { path: path.into(), source })?;
    Ok(config)
}

fn stored_name(activation: HiddenAct) -> &'static str {
    match activation {
        HiddenAct::Gelu => "gelu",
        HiddenAct::GeluTanh => "gelu_new",
        HiddenAct::Relu => "relu",
    }
}

/// The fields of [`ModelConfig`].
const MODEL_KEYS: [&str; 12] = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
    "initializer_range",
];

/// The configuration that belongs to a file of tensors: `config.json` or `bert_config.json` beside it.
pub(super) fn beside(tensors: &Path) -> PathBuf {
    let folder = tensors.parent().unwrap_or(Path::new(""));
    let google = folder.join("bert_config.json");
    let own = folder.join(super::CONFIG_FILE);
    if !own.exists() && google.exists() { google } else { own }
}
