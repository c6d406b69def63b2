//! metrics.jsonl: one JSON object per logged step or evaluation, written by rank 0.
//!
//! Owns the keys and the file. Floats are printed in their shortest form that reads back to the same bits,
//! so equal text means equal bits.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{class_metrics::ClassMetrics, error::TrainError, phase::PhaseSeconds, run_dir::write_file};

/// A line of a training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are documented in docs/operating.md")]
pub struct StepLine {
    pub kind: String,
    pub step: u64,
    pub epoch: u64,
    #[serde(flatten)]
    pub figures: StepFigures,
    pub learning_rate: f64,
    pub grad_norm: f64,
    pub param_norm: f64,
    pub tokens_per_second: f64,
    pub padded_share: f64,
    /// Means over the steps since the last line, of rank 0.
    pub seconds: PhaseSeconds,
    pub peak_rss_bytes: u64,
    /// Mean over the steps since the last line, of rank 0; so is the next.
    #[serde(default)]
    pub minor_faults: u64,
    #[serde(default)]
    pub processor_seconds: f64,
    /// At the end of this step, of rank 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_since_start: Option<f64>,
}

/// What a step has learned, by task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the keys are documented in docs/operating.md")]
pub enum StepFigures {
    Pretrain {
        loss: f64,
        mlm_loss: f64,
        nsp_loss: f64,
        mlm_accuracy: f64,
        nsp_accuracy: f64,
        masked_tokens: u64,
    },
    Classify {
        loss: f64,
        accuracy: f64,
        rows: u64,
    },
}

impl StepFigures {
    /// The loss that was minimised.
    #[must_use]
    pub fn loss(&self) -> f64 {
        match self {
            Self::Pretrain { loss, .. } | Self::Classify { loss, .. } => *loss,
        }
    }
}

/// A line of an evaluation, by task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "one for each task")]
pub enum EvalLine {
    Pretrain(PretrainEvalLine),
    Classify(ClassEvalLine),
}

/// A line of an evaluation on the validation rows (`eval`), or of the best checkpoint on the test rows (`test`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are documented in docs/operating.md")]
pub struct ClassEvalLine {
    pub kind: String,
    pub step: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_step: Option<u64>,
    #[serde(flatten)]
    pub metrics: ClassMetrics,
    pub empty_rows: u64,
    pub truncated_rows: u64,
    pub train_empty_rows: u64,
    pub train_truncated_rows: u64,
    pub seconds: f64,
}

/// A line of an evaluation on the held-out documents, with the baselines beside the figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are documented in docs/operating.md")]
pub struct PretrainEvalLine {
    pub kind: String,
    pub step: u64,
    pub mlm_loss: f64,
    pub mlm_accuracy: f64,
    pub nsp_loss: f64,
    pub nsp_accuracy: f64,
    pub masked_tokens: u64,
    pub pairs: u64,
    pub ln_vocab_size: f64,
    pub unigram_entropy: f64,
    pub majority_nsp: Option<f64>,
    pub seconds: f64,
}

/// The open file.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file, keeping the lines up to `last_step`: those after it belong to work that is done again.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`].
    pub fn open(path: &Path, last_step: u64) -> Result<Self, TrainError> {
        let io_error =
            |source| TrainError::Io { step: "cannot open the metrics", path: path.to_path_buf(), source };
        if path.exists() {
            let text = fs::read_to_string(path).map_err(io_error)?;
            write_file(path, keep_until(&text, last_step).as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io_error)?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`].
    pub fn write<L: Serialize>(&mut self, line: &L) -> Result<(), TrainError> {
        let mut text = serde_json::to_string(line).map_err(|error| TrainError::Setup(error.to_string()))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|source| TrainError::Io {
            step: "cannot write the metrics",
            path: self.path.clone(),
            source,
        })
    }
}

/// The lines whose step is at most `last_step`; a line cut short by a kill is dropped.
fn keep_until(text: &str, last_step: u64) -> String {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    text.split_inclusive('\n')
        .filter(|line| serde_json::from_str::<Step>(line).is_ok_and(|line| line.step <= last_step))
        .filter(|line| line.ends_with('\n'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_checkpoint_and_cut_lines_are_dropped() {
        let text = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":2";
        assert_eq!(keep_until(text, 2), "{\"step\":1}\n{\"step\":2}\n");
    }

    #[test]
    fn reopening_continues_after_the_last_kept_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        fs::write(&path, "{\"step\":1}\n{\"step\":9}\n").unwrap();
        let mut metrics = MetricsFile::open(&path, 5).unwrap();
        metrics.write(&serde_json::json!({"step": 6})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":6}\n");
    }
}
