//! The samples of an epoch: a linear pass over sentence lengths, one key per document.
//!
//! A sample is a stretch of one document, cut in two where there is a sentence objective. Which stretches a
//! document gives depends on its sentence lengths and its key alone, so documents are independent of each other
//! and of every rank. No token is read here. Kept in memory: one number per run of some hundred sentences.
//!
//! As in google-research/bert `create_pretraining_data.py`, with its defects mended:
//! - the target length is drawn per chunk, not per document;
//! - a chunk of one sentence is cut inside the sentence and is negative half of the time like every other one
//!   (Google: always negative); its negative partner begins inside a sentence too, so that the cut tells nothing;
//! - a sentence longer than a sample is cut into equal parts instead of being thrown away past its head.

use crate::config::SentenceObjective;
use crate::corpus::Corpus;
use crate::error::DataError;
use crate::split::{Side, Split};
use bert_random::{Key, Stream};
use rayon::prelude::*;
use std::ops::Range;

/// Sentences after which a new run of documents begins.
const RUN_SENTENCES: u64 = 512;
/// Fewer tokens give no sample: they cannot be cut in two.
pub(crate) const MIN_SAMPLE_TOKENS: u64 = 2;

/// What a plan depends on besides lengths and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PlanRules {
    pub(crate) objective: SentenceObjective,
    /// Tokens of a full sample without special tokens.
    pub(crate) max_tokens: u64,
    pub(crate) short_seq_prob: f64,
}

/// What the second segment of a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    /// There is none.
    None,
    /// What follows the first.
    Next,
    /// About `target_tokens` tokens of another document.
    Random { target_tokens: u64, starts_inside: bool },
    /// What follows the first, and the two change places.
    Swapped,
}

/// One sample of a document, as token ranges counted from the document's first token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The first segment.
    pub(crate) first: Range<u64>,
    /// What follows it in the document; empty where the second segment is elsewhere or there is none.
    pub(crate) rest: Range<u64>,
    pub(crate) second: Second,
}

/// Token ranges of a document's sentences; sentences longer than `max_tokens` are cut into equal parts of at most
/// half of it.
pub(crate) fn pieces(sentence_lengths: &[u32], max_tokens: u64) -> Vec<Range<u64>> {
    let mut pieces = Vec::with_capacity(sentence_lengths.len());
    let mut start = 0;
    for &length in sentence_lengths {
        let length = u64::from(length);
        let num_parts = if length > max_tokens { length.div_ceil((max_tokens / 2).max(1)) } else { 1 };
        for part in 0..num_parts {
            pieces.push(start + length * part / num_parts..start + length * (part + 1) / num_parts);
        }
        start += length;
    }
    pieces
}

/// Calls `emit` for every sample of a document, in order.
pub(crate) fn plan_document(
    sentence_lengths: &[u32],
    rules: &PlanRules,
    key: Key,
    mut emit: impl FnMut(Chunk),
) {
    let mut pieces = pieces(sentence_lengths, rules.max_tokens);
    let mut stream = key.stream();
    let mut idx = 0;
    while idx < pieces.len() {
        let target = target_tokens(rules, &mut stream);
        let start = pieces[idx].start;
        let mut end_idx = idx + 1;
        while end_idx < pieces.len() && pieces[end_idx - 1].end - start < target {
            end_idx += 1;
        }
        let end = pieces[end_idx - 1].end;
        if end - start < MIN_SAMPLE_TOKENS {
            return;
        }
        if rules.objective == SentenceObjective::None {
            emit(Chunk { first: start..end, rest: end..end, second: Second::None });
            idx = end_idx;
            continue;
        }
        let num_pieces = (end_idx - idx) as u64;
        let is_cut_inside = num_pieces == 1;
        let (cut, num_first) = if is_cut_inside {
            (start + 1 + stream.below(end - start - 1), 0)
        } else {
            let num_first = 1 + stream.below(num_pieces - 1) as usize;
            (pieces[idx + num_first - 1].end, num_first)
        };
        let is_positive = stream.chance(0.5);
        let second = match (rules.objective, is_positive) {
            (_, true) => Second::Next,
            (SentenceObjective::Sop, false) => Second::Swapped,
            (_, false) => Second::Random {
                target_tokens: target.saturating_sub(cut - start).max(1),
                starts_inside: is_cut_inside,
            },
        };
        if !matches!(second, Second::Random { .. }) {
            emit(Chunk { first: start..cut, rest: cut..end, second });
            idx = end_idx;
            continue;
        }
        // What the second segment would have been goes back to the document.
        emit(Chunk { first: start..cut, rest: cut..cut, second });
        idx += num_first;
        if is_cut_inside {
            pieces[idx].start = cut;
        }
    }
}

/// The length a chunk is filled up to.
fn target_tokens(rules: &PlanRules, stream: &mut Stream) -> u64 {
    if stream.chance(rules.short_seq_prob) {
        2 + stream.below(rules.max_tokens - 1)
    } else {
        rules.max_tokens
    }
}

/// A document, and one of its samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedSample {
    pub(crate) document: u64,
    pub(crate) chunk: Chunk,
}

/// Borders of the runs of documents that plans are counted by; the same for every epoch.
pub(crate) struct Runs {
    starts: Vec<u64>,
}

impl Runs {
    pub(crate) fn new(corpus: &Corpus) -> Result<Self, DataError> {
        Ok(Self { starts: corpus.document_runs(RUN_SENTENCES)? })
    }

    fn documents(&self, run_idx: usize) -> Range<u64> {
        self.starts[run_idx]..self.starts[run_idx + 1]
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }
}

/// The plan of one side of the split under one key: how many samples each run gives.
pub(crate) struct EpochPlan {
    side: Side,
    key: Key,
    /// Samples before each run, and at the end the number of samples.
    first_samples: Vec<u64>,
    /// Samples whose second segment is wrong: random or swapped.
    num_negative: u64,
}

impl EpochPlan {
    /// Counts the samples of every run, in parallel; the result does not depend on the number of threads.
    pub(crate) fn new(context: &PlanContext, side: Side, key: Key) -> Result<Self, DataError> {
        let counts: Vec<(u64, u64)> = (0..context.runs.len())
            .into_par_iter()
            .map(|run_idx| {
                let (mut num_samples, mut num_negative) = (0, 0);
                context.visit(run_idx, side, key, |_, chunk| {
                    num_samples += 1;
                    num_negative +=
                        u64::from(matches!(chunk.second, Second::Random { .. } | Second::Swapped));
                    true
                })?;
                Ok((num_samples, num_negative))
            })
            .collect::<Result<_, DataError>>()?;
        let mut first_samples = Vec::with_capacity(counts.len() + 1);
        let mut num_samples = 0;
        first_samples.push(0);
        for (num, _) in &counts {
            num_samples += num;
            first_samples.push(num_samples);
        }
        let num_negative = counts.iter().map(|(_, num)| num).sum();
        Ok(Self { side, key, first_samples, num_negative })
    }

    pub(crate) fn num_samples(&self) -> u64 {
        self.first_samples[self.first_samples.len() - 1]
    }

    pub(crate) fn num_negative(&self) -> u64 {
        self.num_negative
    }

    /// The sample with this index in document order.
    pub(crate) fn sample(&self, context: &PlanContext, sample_idx: u64) -> Result<PlannedSample, DataError> {
        assert!(sample_idx < self.num_samples(), "sample {sample_idx} of {}", self.num_samples());
        let run_idx = self.first_samples.partition_point(|&first| first <= sample_idx) - 1;
        let mut left = sample_idx - self.first_samples[run_idx];
        let mut found = None;
        context.visit(run_idx, self.side, self.key, |document, chunk| {
            if left == 0 {
                found = Some(PlannedSample { document, chunk });
                return false;
            }
            left -= 1;
            true
        })?;
        found.ok_or_else(|| {
            let what = "samples planned from its sentence lengths";
            DataError::damaged(
                context.corpus.dir(),
                what,
                self.num_samples(),
                "fewer than were counted before",
            )
        })
    }
}

/// What planning reads.
pub(crate) struct PlanContext {
    pub(crate) corpus: std::sync::Arc<Corpus>,
    pub(crate) runs: Runs,
    pub(crate) split: Split,
    pub(crate) rules: PlanRules,
}

impl PlanContext {
    /// Plans the documents of one run that are on `side`, until `visitor` returns false.
    fn visit(
        &self,
        run_idx: usize,
        side: Side,
        key: Key,
        mut visitor: impl FnMut(u64, Chunk) -> bool,
    ) -> Result<(), DataError> {
        let run = self.corpus.run(self.runs.documents(run_idx))?;
        let mut is_wanted = true;
        for (document, lengths) in run.iter() {
            if self.split.side(document) == side {
                plan_document(lengths, &self.rules, key.with(document), |chunk| {
                    if is_wanted {
                        is_wanted = visitor(document, chunk);
                    }
                });
            }
            if !is_wanted {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
