//! `[task]`: what is trained, and what a classifier needs.
//!
//! Owns the two forms of the section, and which keys of other sections a classifier does not read: those may be
//! left out of its file and stand in the effective configuration with values that mean nothing.

use std::path::PathBuf;

use bert_model::Pooling;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// `[task]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskSection {
    /// Masked language model with the sentence objective of `[data]`.
    Pretrain,
    /// One class per text.
    Classify(ClassifySection),
}

/// `[task]` with `kind = "classify"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifySection {
    /// Rows to learn from: .tsv, .csv or .jsonl.
    pub train: PathBuf,
    /// Rows that choose the best checkpoint.
    pub validation: PathBuf,
    /// Rows that are looked at once, with the best checkpoint; empty for none.
    pub test: PathBuf,
    /// Column of the text.
    pub text_column: String,
    /// Column of a second text; empty for none.
    pub text_pair_column: String,
    /// Column of the class.
    pub label_column: String,
    /// The classes in the order of their ids; empty to take them from the training rows.
    pub labels: Vec<String>,
    /// What the classifier reads.
    pub pooling: Pooling,
    /// Dropout on the pooled vector.
    pub classifier_dropout: f64,
    /// Which figure on the validation rows makes a checkpoint the best one.
    pub select_by: SelectBy,
}

/// Value of `task.select_by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectBy {
    /// Share of right rows.
    Accuracy,
    /// Mean of the classes' F1.
    MacroF1,
    /// Matthews correlation coefficient.
    Mcc,
    /// Least mean loss.
    Loss,
}

/// The keys of [`ClassifySection`], in its order.
pub(super) const CLASSIFY_KEYS: &[&str] = &[
    "train",
    "validation",
    "test",
    "text_column",
    "text_pair_column",
    "label_column",
    "labels",
    "pooling",
    "classifier_dropout",
    "select_by",
];

/// Whether the file asks for a classifier.
pub(super) fn is_classify(table: &Table) -> bool {
    table.get("task").and_then(|task| task.get("kind")).and_then(Value::as_str) == Some("classify")
}

/// Puts what a classifier does not read into its table, where it is left out.
pub(super) fn fill_unread(table: &mut Table) -> Result<(), toml::de::Error> {
    let unread: Table = toml::from_str(include_str!("classify_unread.toml"))?;
    for (section, keys) in unread {
        let Value::Table(keys) = keys else { continue };
        let entries = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(entries) = entries {
            for (key, value) in keys {
                entries.entry(key).or_insert(value);
            }
        }
    }
    Ok(())
}
