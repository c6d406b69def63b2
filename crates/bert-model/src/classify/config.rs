//! What a classifier is beside its BERT: labels, pooling, dropout.
//!
//! Plain data, checked once. Files are read and written in [`crate::hf`].

use crate::{
    config::{ConfigError, ModelConfig},
    pooling::Pooling,
};

/// Configuration of a BERT with one class per row.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifierConfig {
    /// The BERT below.
    pub model: ModelConfig,
    /// Name of each class; its place is its id.
    pub labels: Vec<String>,
    /// What the classifier reads.
    pub pooling: Pooling,
    /// Dropout on the pooled vector, in `[0, 1)` (Hugging Face `classifier_dropout`).
    pub dropout_prob: f64,
}

impl ClassifierConfig {
    /// Checks that a model can be built from this configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the first key whose value is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.model.validate()?;
        let refuse =
            |key, expected: &str, got: String| Err(ConfigError { key, expected: expected.to_owned(), got });
        if self.labels.len() < 2 {
            return refuse("labels", "at least two classes", self.labels.len().to_string());
        }
        let mut sorted: Vec<_> = self.labels.iter().collect();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse("labels", "every class once", format!("{:?} twice", twice[0]));
        }
        if !(0.0..1.0).contains(&self.dropout_prob) {
            return refuse("classifier_dropout", "a probability in [0, 1)", self.dropout_prob.to_string());
        }
        Ok(())
    }
}
