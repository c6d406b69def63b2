//! The size and shape of a BERT, in the spelling of Hugging Face's `config.json`.
//!
//! A configuration is plain data that is checked once, by [`ModelConfig::validate`]; everything after it may rely
//! on what that promises. No file is read here (see [`crate::hf`]) and nothing that changes numbers has a default.

use serde::{Deserialize, Serialize};

use crate::layout::ParameterLayout;

/// Activation between the two halves of the feed-forward block and in the MLM head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x·Φ(x)` with the error function (Hugging Face `gelu`; <https://arxiv.org/abs/1606.08415>).
    Gelu,
    /// The tanh form of the original TensorFlow code (Hugging Face `gelu_new`).
    #[serde(alias = "gelu_new", alias = "gelu_pytorch_tanh")]
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// Configuration of a BERT; field names equal the keys of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Rows of the word table. Zero (or absent) means "not known yet": the caller takes it from the tokenizer
    /// before [`ModelConfig::validate`].
    #[serde(default)]
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of encoder layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads; must divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Rows of the position table: the longest sequence in tokens.
    pub max_position_embeddings: usize,
    /// Rows of the token type table (2: segments A and B).
    pub type_vocab_size: usize,
    /// Activation of the feed-forward block and of the MLM head.
    pub hidden_act: HiddenAct,
    /// Dropout after the embeddings and before each residual, in `[0, 1)`.
    pub hidden_dropout_prob: f64,
    /// Dropout on the attention probabilities, in `[0, 1)`.
    pub attention_probs_dropout_prob: f64,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_eps: f64,
    /// Standard deviation of the normal distribution, cut at two of them, that matrices and tables start from.
    pub initializer_range: f64,
}

/// A value that no BERT can be built from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model.{key}: expected {expected}, got {got}")]
pub struct ConfigError {
    /// Key of the configuration, in Hugging Face's spelling.
    pub key: &'static str,
    /// What would have been accepted.
    pub expected: String,
    /// What was given.
    pub got: String,
}

impl ModelConfig {
    /// Checks that a model can be built from this configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the first key, in the order of the fields, whose value is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let counts = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        for (key, count) in counts {
            check(
                key,
                (1..=MAX_COUNT).contains(&count),
                format!("a whole number from 1 to {MAX_COUNT}"),
                count,
            )?;
        }
        let expected = format!("at most {MAX_LAYERS}");
        check("num_hidden_layers", self.num_hidden_layers <= MAX_LAYERS, expected, self.num_hidden_layers)?;
        let divides = self.hidden_size.is_multiple_of(self.num_attention_heads);
        let expected = format!("a divisor of hidden_size = {}", self.hidden_size);
        check("num_attention_heads", divides, expected, self.num_attention_heads)?;
        check("type_vocab_size", self.type_vocab_size <= 256, "at most 256", self.type_vocab_size)?;

        for (key, probability) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ] {
            check(key, (0.0..1.0).contains(&probability), "a probability in [0, 1)", probability)?;
        }
        for (key, scale) in
            [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)]
        {
            check(key, scale > 0.0 && scale.is_finite(), "a positive finite number", scale)?;
        }
        Ok(())
    }

    /// Width of one attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Number of trained values; the tied decoder is counted once, as the word table.
    pub fn num_parameters(&self) -> usize {
        ParameterLayout::new(self).num_elements()
    }
}

/// Far above any BERT, and small enough that products of two counts cannot overflow.
const MAX_COUNT: usize = 1 << 28;

/// Far above any BERT, and few enough to list the parameters of a file that claims so many.
const MAX_LAYERS: usize = 4096;

fn check(
    key: &'static str,
    holds: bool,
    expected: impl Into<String>,
    got: impl ToString,
) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { key, expected: expected.into(), got: got.to_string() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::tiny_config;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut ModelConfig)) -> String {
        let mut config = tiny_config();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn error_names_key_expected_and_got() {
        assert_eq!(
            refused(|c| c.num_attention_heads = 5),
            "model.num_attention_heads: expected a divisor of hidden_size = 12, got 5"
        );
        assert_eq!(
            refused(|c| c.hidden_dropout_prob = 1.0),
            "model.hidden_dropout_prob: expected a probability in [0, 1), got 1"
        );
        assert!(
            refused(|c| c.vocab_size = 0).starts_with("model.vocab_size: expected a whole number from 1")
        );
        assert!(refused(|c| c.layer_norm_eps = f64::NAN).contains("got NaN"));
        assert!(refused(|c| c.initializer_range = -0.02).contains("got -0.02"));
    }

    #[test]
    fn activation_reads_the_names_of_hugging_face() {
        for (text, expected) in [
            ("\"gelu\"", HiddenAct::Gelu),
            ("\"gelu_new\"", HiddenAct::GeluTanh),
            ("\"gelu_tanh\"", HiddenAct::GeluTanh),
            ("\"relu\"", HiddenAct::Relu),
        ] {
            assert_eq!(serde_json::from_str::<HiddenAct>(text).unwrap(), expected);
        }
        assert!(serde_json::from_str::<HiddenAct>("\"swish\"").is_err());
    }

    #[test]
    fn bert_base_has_the_published_size() {
        let base = ModelConfig {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            hidden_act: HiddenAct::Gelu,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
        };
        base.validate().unwrap();
        // transformers: sum(p.numel() for p in BertForPreTraining(BertConfig()).parameters()) = 110_106_428.
        assert_eq!(base.num_parameters(), 110_106_428);
    }

    #[test]
    fn unknown_key_is_refused_by_name() {
        let mut value = serde_json::to_value(tiny_config()).unwrap();
        value["hidden_sise"] = 8.into();
        let message = serde_json::from_value::<ModelConfig>(value).unwrap_err().to_string();
        assert!(message.contains("hidden_sise"), "{message}");
    }
}
