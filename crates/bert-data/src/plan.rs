//! The samples of an epoch: a linear pass over sentence lengths, one key per document.
//!
//! A sample is a stretch of one document, cut in two where there is a sentence objective. Which stretches a
//! document gives depends on its sentence lengths, its index and the key alone, so documents are independent
//! of each other and of every rank. No token is read here. Kept in memory: one number per run of some hundred
//! sentences.
//!
//! As in google-research/bert `create_pretraining_data.py`, with its defects mended:
//! - the target length is drawn per chunk, not per document;
//! - a chunk of one sentence is cut inside the sentence and is negative half of the time like every other one
//!   (Google: always negative); its negative partner begins inside a sentence too, so that the cut tells
//!   nothing;
//! - a sentence longer than a sample is cut into equal parts instead of being thrown away past its head.

mod blocks;
mod counts;

pub(crate) use blocks::Windows;

use crate::config::{SampleOrder, SentenceObjective};
use crate::corpus::Corpus;
use crate::error::DataError;
use crate::split::{Side, Split};
use bert_random::{Key, Permutation, Stream};
#[cfg(any(test, fuzzing))]
pub(crate) use counts::read_any as read_any_counts;
use counts::{CountsFile, Totals};
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

/// Token ranges of a document's sentences; sentences longer than `max_tokens` are cut into equal parts of at
/// most half of it.
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

/// Below the key of a plan: the site of the labels. No document has this index.
const LABEL_SITE: u64 = u64::MAX;

/// The labels of one document's samples: fair coins, independent of each other.
///
/// Documents `2k` and `2k + 1` use the same coins with opposite faces. Neither notices, but over an epoch the
/// two labels come out much closer to one half each than by chance.
struct Labels {
    stream: Stream,
    is_opposite: bool,
}

impl Labels {
    fn new(plan_key: Key, document: u64) -> Self {
        let stream = plan_key.with(LABEL_SITE).with(document / 2).stream();
        Self { stream, is_opposite: !document.is_multiple_of(2) }
    }

    fn next_is_positive(&mut self) -> bool {
        self.stream.chance(0.5) != self.is_opposite
    }
}

/// Calls `emit` for every sample of a document, in order.
pub(crate) fn plan_document(
    sentence_lengths: &[u32],
    rules: &PlanRules,
    plan_key: Key,
    document: u64,
    mut emit: impl FnMut(Chunk),
) {
    let mut pieces = pieces(sentence_lengths, rules.max_tokens);
    let mut stream = plan_key.with(document).stream();
    let mut labels = Labels::new(plan_key, document);
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
        let second = match (rules.objective, labels.next_is_positive()) {
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
    /// Index in the plan, in document order.
    pub(crate) sample_idx: u64,
    pub(crate) document: u64,
    pub(crate) chunk: Chunk,
}

impl Chunk {
    /// Whether the second segment is wrong: random or swapped.
    fn is_negative(&self) -> bool {
        matches!(self.second, Second::Random { .. } | Second::Swapped)
    }
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

    /// The run a document is in.
    fn of_document(&self, document: u64) -> usize {
        self.starts.partition_point(|&start| start <= document) - 1
    }
}

/// The plan of one side of the split under one key: how many samples of each label each run gives.
pub(crate) struct EpochPlan {
    side: Side,
    key: Key,
    /// Samples before each run, and at the end the number of samples.
    first_samples: Vec<u64>,
    /// The same, of negative samples only.
    first_negatives: Vec<u64>,
}

impl EpochPlan {
    /// The counts of every run: from the file beside the shards, or counted and written there.
    pub(crate) fn new(context: &PlanContext, side: Side, key: Key) -> Result<Self, DataError> {
        let file = CountsFile::new(context, side, key);
        let counts = match file.read() {
            Some(counts) => counts,
            None => {
                let counts = Self::count(context, side, key)?;
                file.write(&counts);
                counts
            }
        };
        let mut plan = Self { side, key, first_samples: vec![0], first_negatives: vec![0] };
        plan.first_samples.reserve_exact(counts.len());
        plan.first_negatives.reserve_exact(counts.len());
        for Totals { num_samples, num_negative } in counts {
            plan.first_samples.push(plan.num_samples() + num_samples);
            plan.first_negatives.push(plan.num_negative() + num_negative);
        }
        Ok(plan)
    }

    /// Samples of the plan, if they were counted before: costs one small read, where the plan takes a pass over
    /// all sentence lengths.
    pub(crate) fn known_num_samples(context: &PlanContext, side: Side, key: Key) -> Option<u64> {
        CountsFile::new(context, side, key).read_totals().map(|totals| totals.num_samples)
    }

    /// Counts the samples of every run, in parallel; the result does not depend on the number of threads.
    fn count(context: &PlanContext, side: Side, key: Key) -> Result<Vec<Totals>, DataError> {
        let count_run = |run_idx| {
            let mut totals = Totals::default();
            context.visit(run_idx, side, key, |_, chunk| {
                totals.num_samples += 1;
                totals.num_negative += u64::from(chunk.is_negative());
                true
            })?;
            Ok(totals)
        };
        (0..context.runs.len()).into_par_iter().map(count_run).collect()
    }

    pub(crate) fn num_samples(&self) -> u64 {
        self.first_samples[self.first_samples.len() - 1]
    }

    pub(crate) fn num_negative(&self) -> u64 {
        self.first_negatives[self.first_negatives.len() - 1]
    }

    /// The sample at a place of the epoch's order. Every sample has one place.
    ///
    /// The labels are spread evenly: the first `n` places hold `n * num_negative / num_samples` negative
    /// samples, rounded down. So every batch has both labels in the proportion of the epoch. Within a label
    /// the order is a permutation.
    pub(crate) fn at(
        &self,
        context: &PlanContext,
        order_key: Key,
        place: u64,
    ) -> Result<PlannedSample, DataError> {
        let totals = Totals { num_samples: self.num_samples(), num_negative: self.num_negative() };
        let (is_negative, rank) = totals.spread(place);
        let order = Permutation::new(totals.of_label(is_negative), order_key.with(u64::from(is_negative)));
        self.find(context, Some(is_negative), order.at(rank))
    }

    /// The sample with this index in document order.
    pub(crate) fn sample(&self, context: &PlanContext, sample_idx: u64) -> Result<PlannedSample, DataError> {
        self.find(context, None, sample_idx)
    }

    /// Samples before a run.
    fn before(&self, run_idx: usize) -> Totals {
        Totals { num_samples: self.first_samples[run_idx], num_negative: self.first_negatives[run_idx] }
    }

    /// The `rank`-th sample, in document order, among all or those of one label.
    fn find(
        &self,
        context: &PlanContext,
        label: Option<bool>,
        rank: u64,
    ) -> Result<PlannedSample, DataError> {
        let before = |run_idx: usize| match label {
            None => self.first_samples[run_idx],
            Some(label) => self.before(run_idx).of_label(label),
        };
        // The last run with no more than `rank` samples before it.
        let (mut run_idx, mut end) = (0, self.first_samples.len() - 1);
        while run_idx + 1 < end {
            let middle = usize::midpoint(run_idx, end);
            if before(middle) <= rank { run_idx = middle } else { end = middle }
        }
        let mut left = rank - before(run_idx);
        let mut sample_idx = self.first_samples[run_idx];
        let mut found = None;
        context.visit(run_idx, self.side, self.key, |document, chunk| {
            let counts = label.is_none_or(|label| label == chunk.is_negative());
            if counts && left == 0 {
                found = Some(PlannedSample { sample_idx, document, chunk });
                return false;
            }
            left -= u64::from(counts);
            sample_idx += 1;
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
    pub(crate) order: SampleOrder,
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
                plan_document(lengths, &self.rules, key, document, |chunk| {
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
