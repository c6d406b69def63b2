//! The order by blocks: blocks of neighbouring documents in a random order, samples shuffled in windows.
//!
//! As pure as the global order: a place gives a sample by arithmetic on the counts of the plan. Two numbers per
//! window are kept. Reads nothing itself, but says which documents a window needs.

use super::counts::Totals;
use super::{EpochPlan, PlanContext, PlannedSample, RUN_SENTENCES};
use crate::config::SampleOrder;
use crate::error::DataError;
use crate::split::Side;
use bert_random::{Key, Permutation, Stream};
use std::ops::Range;

/// Draws of another document of the block before one of the whole corpus is taken.
const MAX_PARTNER_DRAWS: u32 = 64;
/// Below the key of an order: the site of the order of the blocks. No window has this index.
const BLOCK_SITE: u64 = u64::MAX;

/// Blocks as groups of runs.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    runs_per_block: usize,
    num_runs: usize,
}

impl Blocks {
    fn new(block_sentences: u64, num_runs: usize) -> Self {
        let runs_per_block =
            block_sentences.div_ceil(RUN_SENTENCES).clamp(1, num_runs.max(1) as u64) as usize;
        Self { runs_per_block, num_runs }
    }

    fn len(&self) -> u64 {
        self.num_runs.div_ceil(self.runs_per_block) as u64
    }

    fn runs(&self, block: u64) -> Range<usize> {
        let start = block as usize * self.runs_per_block;
        start..(start + self.runs_per_block).min(self.num_runs)
    }
}

/// The windows of one epoch.
pub(crate) struct Windows {
    blocks: Blocks,
    window_blocks: u64,
    block_order: Permutation,
    order_key: Key,
    /// Samples before each window, and at the end the number of samples.
    first_samples: Vec<u64>,
}

impl Windows {
    /// The windows of a plan; `None` if the order is not by blocks.
    pub(crate) fn new(context: &PlanContext, plan: &EpochPlan, order_key: Key) -> Option<Self> {
        let SampleOrder::Blocks { block_sentences, window_blocks } = context.order else { return None };
        let blocks = Blocks::new(block_sentences, context.runs.len());
        let block_order = Permutation::new(blocks.len(), order_key.with(BLOCK_SITE));
        let mut windows = Self { blocks, window_blocks, block_order, order_key, first_samples: vec![0] };
        let mut first = 0;
        for window in 0..blocks.len().div_ceil(window_blocks) {
            first += windows.blocks_of(window).map(|b| windows.totals(plan, b).num_samples).sum::<u64>();
            windows.first_samples.push(first);
        }
        Some(windows)
    }

    /// Number of windows.
    pub(crate) fn len(&self) -> u64 {
        self.first_samples.len() as u64 - 1
    }

    /// The window a place is in.
    pub(crate) fn window_of(&self, place: u64) -> u64 {
        self.first_samples.partition_point(|&first| first <= place) as u64 - 1
    }

    /// The sample at a place of the epoch's order. Every sample has one place. Labels are spread evenly over
    /// each window.
    pub(crate) fn at(
        &self,
        context: &PlanContext,
        plan: &EpochPlan,
        place: u64,
    ) -> Result<PlannedSample, DataError> {
        let window = self.window_of(place);
        let first = self.first_samples[window as usize];
        let num_samples = self.first_samples[window as usize + 1] - first;
        let num_negative = self.blocks_of(window).map(|b| self.totals(plan, b).num_negative).sum();
        let totals = Totals { num_samples, num_negative };
        let (is_negative, rank) = totals.spread(place - first);
        let key = self.order_key.with(window).with(u64::from(is_negative));
        let mut left = Permutation::new(totals.of_label(is_negative), key).at(rank);
        let mut blocks = self.blocks_of(window);
        let block = blocks.find(|&block| {
            let num_here = self.totals(plan, block).of_label(is_negative);
            let is_here = left < num_here;
            left -= if is_here { 0 } else { num_here };
            is_here
        });
        let block = block.expect("a place of the window is in one of its blocks");
        let before = plan.before(self.blocks.runs(block).start).of_label(is_negative);
        plan.find(context, Some(is_negative), before + left)
    }

    /// The documents of a window, block after block in the order of the corpus.
    pub(crate) fn documents(&self, context: &PlanContext, window: u64) -> Vec<Range<u64>> {
        let mut blocks: Vec<u64> = self.blocks_of(window).collect();
        blocks.sort_unstable();
        blocks.into_iter().map(|block| context.documents_of(self.blocks.runs(block))).collect()
    }

    fn blocks_of(&self, window: u64) -> impl Iterator<Item = u64> {
        let start = window * self.window_blocks;
        (start..(start + self.window_blocks).min(self.blocks.len())).map(|place| self.block_order.at(place))
    }

    fn totals(&self, plan: &EpochPlan, block: u64) -> Totals {
        let runs = self.blocks.runs(block);
        plan.before(runs.end) - plan.before(runs.start)
    }
}

impl PlanContext {
    /// The document of a random second segment: uniform over the other documents of the side. In training, where
    /// samples are ordered by blocks, of its part in the own block; where sources have weights, each as likely as it
    /// is often read, so that first and second segments come from the same text. A block or source with hardly
    /// another document falls back to the whole side.
    pub(crate) fn partner(&self, own: u64, stream: &mut Stream) -> u64 {
        let is_uniform = self.order == SampleOrder::Global && self.sources.are_equal();
        if is_uniform || self.split.side(own) != Side::Training {
            return self.split.other_document(own, stream);
        }
        let block = self.block_documents(own);
        for _ in 0..MAX_PARTNER_DRAWS {
            let other = match &block {
                Some(documents) => documents.start + stream.below(documents.end - documents.start),
                None => self.sources.draw(stream),
            };
            if other != own && self.split.side(other) == Side::Training {
                return other;
            }
        }
        self.split.other_document(own, stream)
    }

    /// The documents of the block that a document is in; `None` if the order is not by blocks.
    fn block_documents(&self, document: u64) -> Option<Range<u64>> {
        let SampleOrder::Blocks { block_sentences, .. } = self.order else { return None };
        let blocks = Blocks::new(block_sentences, self.runs.len());
        let block = self.runs.of_document(document) / blocks.runs_per_block;
        Some(self.documents_of(blocks.runs(block as u64)))
    }

    pub(super) fn documents_of(&self, runs: Range<usize>) -> Range<u64> {
        self.runs.starts[runs.start]..self.runs.starts[runs.end]
    }
}
