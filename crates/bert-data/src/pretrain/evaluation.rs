//! Held-out documents: fixed batches with fixed masks, and what a model that knows nothing would reach.
//!
//! Keyed by (seed, EvalMask, sample) alone, so every step, rank count and restart evaluates on the same rows.

use super::{PretrainData, SampleKeys, Workspace};
use crate::batch::{MicroBatch, Sample};
use crate::error::DataError;
use crate::plan::{EpochPlan, MIN_SAMPLE_TOKENS, PlanContext, PlanSite, PlannedSample};
use crate::split::Side;
use bert_random::{Key, Purpose};

/// Sites below (seed, EvalMask): what the key is used for.
const PLAN_SITE: u64 = 0;
const PAIR_SITE: u64 = 1;
const MASK_SITE: u64 = 2;

/// Marks that need no model. A trained model must be better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalBaselines {
    /// Number of token ids; guessing uniformly has a loss of its logarithm.
    pub vocab_size: usize,
    /// Entropy of the token frequencies of the held-out text, in nats: the loss of knowing frequencies only.
    pub unigram_entropy_nats: f64,
    /// Share of the more frequent label of the sentence objective among the evaluation samples.
    pub majority_nsp: Option<f64>,
}

impl EvalBaselines {
    /// Loss of guessing uniformly, in nats.
    pub fn uniform_nats(&self) -> f64 {
        (self.vocab_size as f64).ln()
    }
}

/// Plans the samples of the held-out documents; `None` if none are held out.
pub(super) fn plan_held_out(context: &PlanContext, seed: u64) -> Result<Option<EpochPlan>, DataError> {
    if context.split.num_documents(Side::HeldOut) == 0 {
        return Ok(None);
    }
    let plan =
        EpochPlan::new(context, PlanSite::held_out(Key::new(seed, Purpose::EvalMask).with(PLAN_SITE)))?;
    if plan.num_samples() == 0 {
        return Err(DataError::NoSamples { place: "held-out", expected: MIN_SAMPLE_TOKENS });
    }
    Ok(Some(plan))
}

impl PretrainData {
    /// Evaluation samples; 0 if no document is held out.
    pub fn num_eval_samples(&self) -> u64 {
        self.held_out.as_ref().map_or(0, EpochPlan::num_samples)
    }

    /// Evaluation batches of `num_rows` rows; the last one may have fewer.
    ///
    /// # Panics
    ///
    /// If `num_rows` is 0.
    pub fn num_eval_batches(&self, num_rows: usize) -> u64 {
        self.num_eval_samples().div_ceil(num_rows as u64)
    }

    /// One evaluation sample, the same at every call.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] if there is no such sample; [`DataError::Io`].
    pub fn eval_sample(&self, sample_idx: u64) -> Result<Sample, DataError> {
        let (planned, keys) = self.find_held_out(sample_idx)?;
        self.realize(&planned, 0, &keys)
    }

    fn find_held_out(&self, sample_idx: u64) -> Result<(PlannedSample, SampleKeys), DataError> {
        let num_samples = self.num_eval_samples();
        let Some(plan) = self.held_out.as_ref().filter(|_| sample_idx < num_samples) else {
            return Err(DataError::config("evaluation sample", &format!("below {num_samples}"), sample_idx));
        };
        let planned = plan.sample(&self.context, sample_idx)?;
        let key = |site| Key::new(self.config.seed, Purpose::EvalMask).with(site).with(sample_idx);
        Ok((planned, SampleKeys { pair: key(PAIR_SITE), mask: key(MASK_SITE) }))
    }

    /// One evaluation batch: samples `batch_idx * num_rows` and on, in document order.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] if there is no such batch; [`DataError::Io`].
    pub fn eval_batch(&self, batch_idx: u64, num_rows: usize) -> Result<MicroBatch, DataError> {
        let num_batches = self.num_eval_batches(num_rows);
        if batch_idx >= num_batches {
            return Err(DataError::config("evaluation batch", &format!("below {num_batches}"), batch_idx));
        }
        let first = batch_idx * num_rows as u64;
        let end = (first + num_rows as u64).min(self.num_eval_samples());
        let mut batch = self.start_batch(batch_idx, 0, (end - first) as usize);
        let mut workspace = Workspace::default();
        for sample_idx in first..end {
            let (planned, keys) = self.find_held_out(sample_idx)?;
            self.push_sample(&planned, &keys, &mut workspace, &mut batch)?;
        }
        Ok(batch.finish())
    }

    /// All evaluation batches in order.
    pub fn eval_batches(&self, num_rows: usize) -> impl Iterator<Item = Result<MicroBatch, DataError>> + '_ {
        (0..self.num_eval_batches(num_rows)).map(move |batch_idx| self.eval_batch(batch_idx, num_rows))
    }

    /// What a model that knows nothing would reach on the held-out documents. Reads all of them.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] if no document is held out; [`DataError::Io`].
    pub fn baselines(&self) -> Result<EvalBaselines, DataError> {
        let Some(plan) = &self.held_out else {
            let got = self.config.validation_fraction;
            return Err(DataError::config("validation_fraction", "above 0 for an evaluation", got));
        };
        let corpus = &self.context.corpus;
        let vocab_size = corpus.manifest().vocab_size as usize;
        let mut counts = vec![0u64; vocab_size];
        let (mut ids, mut word_starts) = (Vec::new(), Vec::new());
        for idx in 0..self.context.split.num_documents(Side::HeldOut) {
            let document = corpus.document(self.context.split.document(Side::HeldOut, idx))?;
            let num_tokens = document.sentence_lengths.iter().map(|&length| u64::from(length)).sum();
            ids.clear();
            word_starts.clear();
            corpus.read_tokens(&document, 0..num_tokens, &mut ids, &mut word_starts)?;
            for &id in &ids {
                counts[id as usize] += 1;
            }
        }
        let (num_samples, num_negative) = (plan.num_samples(), plan.num_negative());
        let num_majority = num_negative.max(num_samples - num_negative);
        let has_labels = self.config.objective != crate::SentenceObjective::None;
        let majority_nsp = has_labels.then(|| num_majority as f64 / num_samples as f64);
        Ok(EvalBaselines { vocab_size, unigram_entropy_nats: entropy_nats(&counts), majority_nsp })
    }
}

/// Entropy of the distribution behind counts.
fn entropy_nats(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let terms = counts.iter().filter(|&&count| count > 0).map(|&count| {
        let p = count as f64 / total;
        -p * p.ln()
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_known_distributions() {
        assert_eq!(entropy_nats(&[0, 7, 0]), 0.0);
        assert!((entropy_nats(&[5, 5, 0, 5, 5]) - 4f64.ln()).abs() < 1e-12);
        // H(3/4, 1/4) = 2 ln 2 - 3/4 ln 3.
        assert!((entropy_nats(&[3, 1]) - (2.0 * 2f64.ln() - 0.75 * 3f64.ln())).abs() < 1e-12);
    }
}
