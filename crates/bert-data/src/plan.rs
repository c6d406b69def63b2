//! The samples of an epoch: a linear pass over sentence lengths, one key per document.
//!
//! A sample is a stretch of one document, cut in two where there is a sentence objective. Which stretches a
//! document gives depends on its sentence lengths, its index and the key alone, so documents are independent
//! of each other and of every rank. No token is read here. Kept in memory: one number per run of some hundred
//! sentences, and the samples of the first runs.
//!
//! As in google-research/bert `create_pretraining_data.py`, with its defects mended:
//! - the target length is drawn per chunk, not per document;
//! - a chunk of one sentence is cut inside the sentence and is negative half of the time like every other one
//!   (Google: always negative); its negative partner begins inside a sentence too, so that the cut tells
//!   nothing;
//! - a sentence longer than a sample is cut into equal parts instead of being thrown away past its head.

mod blocks;
mod counts;
mod kept;
mod sources;

pub use sources::MAX_SOURCE_WEIGHT;

pub(crate) use blocks::Windows;
pub(crate) use sources::Sources;

use crate::config::{SampleOrder, SentenceObjective};
use crate::corpus::Corpus;
use crate::error::DataError;
use crate::split::{Side, Split};
use bert_random::{Key, Permutation, Stream};
#[cfg(any(test, fuzzing))]
pub(crate) use counts::read_any as read_any_counts;
use counts::{CountsFile, Totals};
use kept::KeptRuns;
use rayon::prelude::*;
use sources::Repeats;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sentences after which a new run of documents begins.
const RUN_SENTENCES: u64 = 512;
/// Runs whose sentence lengths are read at a time when counting: some ten thousand sentences.
const RUNS_AT_ONCE: usize = 32;
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

/// Where a document's pieces end, in tokens: its sentences, or equal parts of at most half of `max_tokens` of a
/// sentence that is longer than that.
pub(crate) fn piece_ends(sentence_lengths: &[u32], max_tokens: u64) -> Vec<u64> {
    let mut ends = Vec::with_capacity(sentence_lengths.len());
    fill_ends(sentence_lengths, max_tokens, &mut ends);
    ends
}

/// [`piece_ends`] into memory that is used again.
fn fill_ends(sentence_lengths: &[u32], max_tokens: u64, ends: &mut Vec<u64>) {
    ends.clear();
    let mut start = 0;
    for length in sentence_lengths.iter().map(|&length| u64::from(length)) {
        if length > max_tokens {
            let num_parts = length.div_ceil((max_tokens / 2).max(1));
            ends.extend((1..num_parts).map(|part| start + length * part / num_parts));
        }
        start += length;
        ends.push(start);
    }
}

/// Below the key of a plan: the site of the labels. No document has this index.
const LABEL_SITE: u64 = u64::MAX;

/// Below the key of a plan: the site of the second and further readings of a document. No document has this index.
const COPY_SITE: u64 = u64::MAX - 1;

/// The labels of one document's samples: fair coins, independent of each other.
///
/// Documents `2k` and `2k + 1` use the same coins with opposite faces. Neither notices, but over an epoch the
/// two labels come out much closer to one half each than by chance.
struct Labels {
    stream: Stream,
    is_opposite: bool,
}

impl Labels {
    fn new(label_key: Key, document: u64) -> Self {
        let stream = label_key.with(document / 2).stream();
        Self { stream, is_opposite: !document.is_multiple_of(2) }
    }

    fn next_is_positive(&mut self) -> bool {
        self.stream.chance(0.5) != self.is_opposite
    }
}

/// Cuts documents into samples under one key.
pub(crate) struct Planner<'a> {
    rules: &'a PlanRules,
    key: Key,
    label_key: Key,
    /// Ends of the pieces of the current document.
    ends: Vec<u64>,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(rules: &'a PlanRules, key: Key) -> Self {
        Self { rules, key, label_key: key.with(LABEL_SITE), ends: Vec::new() }
    }

    /// Calls `emit` for every sample of a document, in order, until it returns false. Returns whether it never did.
    #[inline]
    pub(crate) fn plan(
        &mut self,
        sentence_lengths: &[u32],
        document: u64,
        mut emit: impl FnMut(Chunk) -> bool,
    ) -> bool {
        fill_ends(sentence_lengths, self.rules.max_tokens, &mut self.ends);
        let ends = self.ends.as_slice();
        let mut stream = self.key.with(document).stream();
        let mut labels = None;
        // The next piece, and the first token of it that is not used yet.
        let (mut idx, mut start) = (0, 0);
        while idx < ends.len() {
            let target = target_tokens(self.rules, &mut stream);
            let mut end_idx = idx + 1;
            while end_idx < ends.len() && ends[end_idx - 1] - start < target {
                end_idx += 1;
            }
            let end = ends[end_idx - 1];
            if end - start < MIN_SAMPLE_TOKENS {
                return true;
            }
            if self.rules.objective == SentenceObjective::None {
                if !emit(Chunk { first: start..end, rest: end..end, second: Second::None }) {
                    return false;
                }
                (idx, start) = (end_idx, end);
                continue;
            }
            let num_pieces = (end_idx - idx) as u64;
            let is_cut_inside = num_pieces == 1;
            let (cut, num_first) = if is_cut_inside {
                (start + 1 + stream.below(end - start - 1), 0)
            } else {
                let num_first = 1 + stream.below(num_pieces - 1) as usize;
                (ends[idx + num_first - 1], num_first)
            };
            let labels = labels.get_or_insert_with(|| Labels::new(self.label_key, document));
            let second = match (self.rules.objective, labels.next_is_positive()) {
                (_, true) => Second::Next,
                (SentenceObjective::Sop, false) => Second::Swapped,
                (_, false) => Second::Random {
                    target_tokens: target.saturating_sub(cut - start).max(1),
                    starts_inside: is_cut_inside,
                },
            };
            // What the second segment would have been goes back to the document if it is a random one.
            let is_random = matches!(second, Second::Random { .. });
            let rest = if is_random { cut..cut } else { cut..end };
            if !emit(Chunk { first: start..cut, rest, second }) {
                return false;
            }
            (idx, start) = if is_random { (idx + num_first, cut) } else { (end_idx, end) };
        }
        true
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

    /// Runs that are read and counted together, each group in one shard.
    fn groups(&self, corpus: &Corpus) -> Vec<Range<usize>> {
        let (mut groups, mut start) = (Vec::new(), 0);
        while start < self.len() {
            let border = corpus.shard_end(self.starts[start]);
            let end = self.starts.partition_point(|&first| first < border).min(start + RUNS_AT_ONCE);
            groups.push(start..end);
            start = end;
        }
        groups
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The run a document is in.
    fn of_document(&self, document: u64) -> usize {
        self.starts.partition_point(|&start| start <= document) - 1
    }
}

/// Which documents a plan is about, how often, and what keys it.
pub(crate) struct PlanSite {
    side: Side,
    key: Key,
    repeats: Repeats,
}

impl PlanSite {
    /// The held-out documents, each once.
    pub(crate) fn held_out(key: Key) -> Self {
        Self { side: Side::HeldOut, key, repeats: Repeats::once() }
    }

    /// The training documents of an epoch, each as often as the weight of its source says.
    pub(crate) fn training(context: &PlanContext, key: Key, epoch: u64) -> Self {
        Self { side: Side::Training, key, repeats: context.sources.repeats(epoch) }
    }

    /// The key of a second or further reading of a document.
    fn key_of_copy(&self, copy: u64) -> Key {
        self.key.with(COPY_SITE).with(copy)
    }
}

/// The plan of a site: how many samples of each label each run gives.
pub(crate) struct EpochPlan {
    site: PlanSite,
    /// Samples before each run, and at the end the number of samples.
    first_samples: Vec<u64>,
    /// The same, of negative samples only.
    first_negatives: Vec<u64>,
    kept: KeptRuns,
}

impl EpochPlan {
    /// The counts of every run: from the file beside the shards, or counted and written there.
    pub(crate) fn new(context: &PlanContext, site: PlanSite) -> Result<Self, DataError> {
        let file = CountsFile::new(context, &site);
        let counts = match file.read() {
            Some(counts) => counts,
            None => {
                let groups = context.runs.groups(&context.corpus);
                let count = |runs: Range<usize>| Self::count(context, &site, runs);
                let counts: Vec<Vec<Totals>> = groups.into_par_iter().map(count).collect::<Result<_, _>>()?;
                let counts = counts.concat();
                file.write(&counts);
                counts
            }
        };
        Ok(Self::of_counts(site, counts))
    }

    /// The same on this thread alone, for a plan that is needed later. `None` if another process on these shards is
    /// counting ahead too, or as soon as `is_stopped`.
    pub(crate) fn ahead(
        context: &PlanContext,
        site: PlanSite,
        is_stopped: &AtomicBool,
    ) -> Result<Option<Self>, DataError> {
        let file = CountsFile::new(context, &site);
        let Ok(_lock) = file.try_lock() else { return Ok(None) };
        let counts = match file.read() {
            Some(counts) => counts,
            None => {
                let mut counts = Vec::with_capacity(context.runs.len());
                for runs in context.runs.groups(&context.corpus) {
                    if is_stopped.load(Ordering::Relaxed) {
                        return Ok(None);
                    }
                    counts.extend(Self::count(context, &site, runs)?);
                }
                file.write(&counts);
                counts
            }
        };
        Ok(Some(Self::of_counts(site, counts)))
    }

    fn of_counts(site: PlanSite, counts: Vec<Totals>) -> Self {
        let mut plan =
            Self { site, first_samples: vec![0], first_negatives: vec![0], kept: KeptRuns::new(&[0]) };
        plan.first_samples.reserve_exact(counts.len());
        plan.first_negatives.reserve_exact(counts.len());
        for Totals { num_samples, num_negative } in counts {
            plan.first_samples.push(plan.num_samples() + num_samples);
            plan.first_negatives.push(plan.num_negative() + num_negative);
        }
        plan.kept = KeptRuns::new(&plan.first_samples);
        plan
    }

    /// Samples of the plan, if they were counted before: costs one small read, where the plan takes a pass over
    /// all sentence lengths.
    pub(crate) fn known_num_samples(context: &PlanContext, site: &PlanSite) -> Option<u64> {
        CountsFile::new(context, site).read_totals().map(|totals| totals.num_samples)
    }

    /// Counts the samples of each of these runs of one shard.
    fn count(context: &PlanContext, site: &PlanSite, runs: Range<usize>) -> Result<Vec<Totals>, DataError> {
        let mut counts = vec![Totals::default(); runs.len()];
        context.visit(runs.clone(), site, |run_idx, _, chunk| {
            let totals = &mut counts[run_idx - runs.start];
            totals.num_samples += 1;
            totals.num_negative += u64::from(chunk.is_negative());
            true
        })?;
        Ok(counts)
    }

    pub(crate) fn num_samples(&self) -> u64 {
        self.first_samples[self.first_samples.len() - 1]
    }

    /// Samples of documents that begin and end a run, such as those of a source.
    pub(crate) fn num_samples_of(&self, context: &PlanContext, documents: &Range<u64>) -> u64 {
        let run_idx = |document| context.runs.starts.partition_point(|&start| start < document);
        self.first_samples[run_idx(documents.end)] - self.first_samples[run_idx(documents.start)]
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
        let plan = |visitor: &mut dyn FnMut(u64, Chunk) -> bool| {
            context.visit(run_idx..run_idx + 1, &self.site, |_, document, chunk| visitor(document, chunk))
        };
        let first_document = context.runs.starts[run_idx];
        self.kept.visit(run_idx, first_document, plan, |document, chunk| {
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
    pub(crate) sources: Sources,
    pub(crate) rules: PlanRules,
    pub(crate) order: SampleOrder,
}

impl PlanContext {
    /// Plans the documents of runs of one shard that belong to `site`, until `visitor` returns false. It is told the
    /// run, the document and the sample.
    fn visit(
        &self,
        runs: Range<usize>,
        site: &PlanSite,
        mut visitor: impl FnMut(usize, u64, Chunk) -> bool,
    ) -> Result<(), DataError> {
        let documents = self.documents_of(runs.clone());
        let window = site.repeats.window(documents.start);
        let content = self.corpus.run(documents)?;
        let mut planner = Planner::new(&self.rules, site.key);
        let mut run_idx = runs.start;
        for (document, lengths) in content.iter() {
            while document >= self.runs.starts[run_idx + 1] {
                run_idx += 1;
            }
            if self.split.side(document) != site.side {
                continue;
            }
            let mut emit = |chunk| visitor(run_idx, document, chunk);
            let num_copies = window.map_or(1, |window| window.num_copies(document));
            let is_wanted = (0..num_copies).all(|copy| match copy {
                0 => planner.plan(lengths, document, &mut emit),
                _ => Planner::new(&self.rules, site.key_of_copy(copy)).plan(lengths, document, &mut emit),
            });
            if !is_wanted {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
