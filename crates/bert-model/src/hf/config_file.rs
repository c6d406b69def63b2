//! `config.json` of a Hugging Face BERT.
//!
//! Keys that describe the model are required and checked; keys about anything else (tokenizer, generation, versions)
//! are left alone.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use super::{HfError, tensor_file::write_synced};
use crate::config::{HiddenAct, ModelConfig};

/// Keys that would make another network; each with the only value this crate builds.
const FIXED: [(&str, &str); 3] =
    [("model_type", "bert"), ("position_embedding_type", "absolute"), ("tie_word_embeddings", "true")];

/// Reads a configuration and checks that a model can be built from it.
pub(super) fn read(path: &Path) -> Result<ModelConfig, HfError> {
    model_of(path, read_object(path)?)
}

/// Reads all keys of the file and checks that they describe a BERT.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>, HfError> {
    let text = fs::read_to_string(path).map_err(|source| HfError::Io {
        action: "read",
        path: path.into(),
        source,
    })?;
    let all: Map<String, Value> =
        serde_json::from_str(&text).map_err(|source| HfError::Json { path: path.into(), source })?;
    for (key, expected) in FIXED {
        let got = all.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        if let Some(got) = got.filter(|got| got != expected) {
            return Err(HfError::Unsupported { path: path.into(), key, expected: expected.into(), got });
        }
    }
    Ok(all)
}

/// The model that the keys describe.
pub(super) fn model_of(path: &Path, all: Map<String, Value>) -> Result<ModelConfig, HfError> {
    let known = all.into_iter().filter(|(key, _)| MODEL_KEYS.contains(&key.as_str())).collect();
    let config: ModelConfig = serde_json::from_value(Value::Object(known))
        .map_err(|source| HfError::Json { path: path.into(), source })?;
    config.validate().map_err(|source| HfError::Config { path: path.into(), source })?;
    Ok(config)
}

/// Writes a configuration that `transformers` reads as the given architecture, with `more` keys at its end.
pub(super) fn write(
    path: &Path,
    config: &ModelConfig,
    architecture: &str,
    more: Map<String, Value>,
) -> Result<(), HfError> {
    let mut all = json!({ "architectures": [architecture], "model_type": "bert" });
    let object = all.as_object_mut().expect("built as an object");
    let fields =
        serde_json::to_value(config).map_err(|source| HfError::Json { path: path.into(), source })?;
    object.extend(fields.as_object().cloned().unwrap_or_default());
    object.insert("hidden_act".into(), stored_name(config.hidden_act).into());
    object.insert("position_embedding_type".into(), "absolute".into());
    object.insert("tie_word_embeddings".into(), true.into());
    object.insert("torch_dtype".into(), "float32".into());
    object.extend(more);
    let text =
        serde_json::to_string_pretty(&all).map_err(|source| HfError::Json { path: path.into(), source })?;
    write_synced(path, |file| {
        use std::io::Write;
        writeln!(file, "{text}")
    })
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
