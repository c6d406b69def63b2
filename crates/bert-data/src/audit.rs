//! The audit of pre-training data: what the samples really are, beside what was asked for, with verdicts.
//!
//! Two passes: over all tokens of the corpus, and over the first samples of training exactly as they are trained
//! on. Changes nothing, prints nothing; the bounds are constants of [`checks`], stated in every verdict.

mod checks;
mod corpus_pass;
mod duplicates;
mod raw_text;
mod sample_pass;
pub(crate) mod statistics;

pub use checks::{Check, Verdict};
pub use corpus_pass::{CorpusFigures, SpecialInText};
pub use duplicates::Duplicates;
pub use sample_pass::{LengthBin, LengthFigures, PairFigures, SampleFigures};
pub use statistics::ChiSquare;

use crate::config::PretrainDataConfig;
use crate::corpus::Corpus;
use crate::error::DataError;
use crate::pretrain::{PretrainData, SourceFigures};
use crate::text::TextSources;
use crate::tokenizer::Tokenizer;
use serde::Serialize;
use std::sync::Arc;

/// Everything an audit has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditReport {
    /// Whether no check failed.
    pub passed: bool,
    /// Names the corpus.
    pub fingerprint: String,
    /// How words were found: "en", "zh" or "auto".
    pub language: crate::Language,
    /// "nsp", "sop" or "none".
    pub sentence_objective: &'static str,
    /// The checks, failed or not.
    pub checks: Vec<Check>,
    /// Figures of the text.
    pub corpus: CorpusFigures,
    /// The sources with their weights in the first epoch; empty if the corpus gives no samples.
    pub sources: Vec<SourceFigures>,
    /// Figures of the samples; absent if the corpus gives none under these settings.
    pub samples: Option<SampleFigures>,
}

impl AuditReport {
    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.verdict == Verdict::Fail)
    }
}

/// Audits a corpus and the first `num_samples` training samples under `config`.
///
/// `text` is what the shards were built from: special tokens written in it are looked for there. Without it they
/// are looked for among the tokens, where only a vocabulary that can spell them shows them.
///
/// A corpus too small for the settings is a failed check, not an error.
///
/// # Errors
///
/// [`DataError::Stale`] if the shards were built with another tokenizer; [`DataError::Config`] for a setting out
/// of range; [`DataError::Io`] if shards or text cannot be read.
pub fn audit(
    corpus: &Arc<Corpus>,
    tokenizer: &Tokenizer,
    text: Option<&TextSources>,
    config: &PretrainDataConfig,
    num_samples: u64,
) -> Result<AuditReport, DataError> {
    corpus.check_tokenizer(tokenizer)?;
    config.validate()?;
    let language = corpus.manifest().language;
    let mut figures = corpus_pass::measure(corpus, tokenizer)?;
    if let Some(text) = text {
        figures.special_tokens = raw_text::special_tokens(text)?;
    }
    let mut all = checks::of_corpus(&figures, language, config.objective);
    let data = match PretrainData::new(corpus.clone(), config.clone()) {
        Ok(data) => Some(data),
        Err(error @ (DataError::TooFewDocuments { .. } | DataError::NoSamples { .. })) => {
            all.insert(0, checks::no_samples(&error, figures.num_documents));
            None
        }
        Err(error) => return Err(error),
    };
    let sources = data.as_ref().map(|data| data.sources(0)).transpose()?.unwrap_or_default();
    let samples = data.map(|data| sample_pass::measure(&data, num_samples)).transpose()?;
    if let Some(samples) = &samples {
        all.extend(checks::of_samples(samples, config));
    }
    Ok(AuditReport {
        passed: all.iter().all(|check| check.verdict != Verdict::Fail),
        fingerprint: corpus.fingerprint().to_owned(),
        language,
        sentence_objective: config.objective.name(),
        checks: all,
        corpus: figures,
        sources,
        samples,
    })
}

#[cfg(test)]
mod tests;
