//! The file of predictions: one JSON object per row.
//!
//! Owns the form of a line. Probabilities stand by the name of their class, in the order of the ids.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    class_metrics::{predicted, probabilities},
    error::TrainError,
    run_dir::write_file,
};

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Row of its file, from 0.
    pub index: u64,
    /// The true class, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// The class with the highest probability.
    pub predicted: String,
    /// Probability of each class.
    pub probabilities: Map<String, Value>,
}

impl Prediction {
    /// The prediction for one row of logits.
    #[must_use]
    pub fn new(index: u64, logits: &[f32], label: Option<u32>, names: &[String]) -> Self {
        let shares = probabilities(logits);
        Self {
            index,
            label: label.and_then(|label| names.get(label as usize)).cloned(),
            predicted: names[predicted(logits)].clone(),
            probabilities: names.iter().cloned().zip(shares.into_iter().map(Value::from)).collect(),
        }
    }
}

/// The predictions for rows of logits, in row order.
pub(super) fn of(logits: &[f32], labels: Option<&[u32]>, names: &[String]) -> Vec<Prediction> {
    let rows = logits.chunks_exact(names.len()).enumerate();
    rows.map(|(row, logits)| Prediction::new(row as u64, logits, labels.map(|ids| ids[row]), names)).collect()
}

/// Writes the file; it is never seen half-written.
///
/// # Errors
///
/// [`TrainError::Io`].
pub fn write_predictions(path: &Path, predictions: &[Prediction]) -> Result<(), TrainError> {
    let mut text = String::new();
    for prediction in predictions {
        text += &serde_json::to_string(prediction).map_err(|error| TrainError::Setup(error.to_string()))?;
        text.push('\n');
    }
    write_file(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_classes_and_probabilities() {
        let names = ["neg", "pos"].map(String::from);
        let line = Prediction::new(4, &[0.0, 3.0f32.ln()], Some(0), &names);
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(
            (&json["index"], &json["label"], &json["predicted"]),
            (&4.into(), &"neg".into(), &"pos".into())
        );
        assert!((json["probabilities"]["pos"].as_f64().unwrap() - 0.75).abs() < 1e-6);
        let text = serde_json::to_string(&Prediction::new(0, &[0.0, 0.0], None, &names)).unwrap();
        assert_eq!(text, r#"{"index":0,"predicted":"neg","probabilities":{"neg":0.5,"pos":0.5}}"#);
    }
}
