//! The logits of a block of masked tokens, word by word, and their losses.
//!
//! Owns softmax over the vocabulary in blocks of words: every block has a maximum and a sum per token, and those are
//! joined in the order of the blocks. It knows neither hidden states nor the table.

use super::MlmLoss;
use super::words::Words;
use crate::lanes::NUM_LANES;
use crate::math::exp_non_positive;
use crate::simd::widest;
use crate::slices::fit;
use rayon::prelude::*;

/// Values per cache line.
const LINE: usize = 16;

/// One row of tokens per word. First logits, then their exponentials above the maximum of their block of words.
#[derive(Clone, Debug, Default)]
pub(super) struct Logits {
    /// `[vocab_size, stride]`
    exps: Vec<f32>,
    /// Maximum per block of words and token, later what turns exponentials into gradients; `[num_blocks, stride]`.
    factors: Vec<f32>,
    /// Sum of the exponentials; `[num_blocks, stride]`.
    sums: Vec<f64>,
    stride: usize,
}

/// The logits of one part of the vocabulary.
pub(super) struct PartOfLogits<'a> {
    pub(super) exps: &'a mut [f32],
    pub(super) factors: &'a mut [f32],
    sums: &'a mut [f64],
    pub(super) stride: usize,
}

/// What the block of words with a token's label says about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) token: usize,
    /// Its block among all blocks of words.
    pub(super) block: usize,
    /// The logit of the label.
    own: f32,
    /// Whether no other logit of the block is higher, and none before it is equal.
    is_first_of_block: bool,
}

impl Logits {
    /// Returns the parts of the vocabulary for as many tokens, with their numbers.
    pub(super) fn parts<'a>(
        &'a mut self,
        words: &Words,
        num_tokens: usize,
    ) -> impl IndexedParallelIterator<Item = (usize, PartOfLogits<'a>)> {
        // An odd number of lines: the beginnings of rows fall into all sets of the first cache.
        let stride = num_tokens.next_multiple_of(NUM_LANES) + LINE;
        self.stride = stride;
        let (num_logits, num_sums) = (words.vocab_size() * stride, words.num_blocks() * stride);
        fit(&mut self.exps, num_logits);
        fit(&mut self.factors, num_sums);
        fit(&mut self.sums, num_sums);
        let blocks_len = words.blocks_per_part() * stride;
        let sums = self.factors.par_chunks_mut(blocks_len).zip(self.sums.par_chunks_mut(blocks_len));
        let exps = self.exps[..num_logits].par_chunks_mut(words.part_len() * stride);
        exps.zip(sums)
            .map(move |(exps, (factors, sums))| PartOfLogits { exps, factors, sums, stride })
            .enumerate()
    }
}

impl PartOfLogits<'_> {
    /// Turns the logits of one block of words into exponentials. Labels say which word of the block counts, if one does.
    pub(super) fn exponentiate(
        &mut self,
        block: usize,
        rows: std::ops::Range<usize>,
        labels: impl Iterator<Item = (usize, usize)>,
        answer: &mut impl FnMut(usize, f32, bool),
    ) {
        let stride = self.stride;
        let logits = &mut self.exps[rows.start * stride..rows.end * stride];
        let maxima = &mut self.factors[block * stride..(block + 1) * stride];
        let sums = &mut self.sums[block * stride..(block + 1) * stride];
        maxima.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        widest(
            #[inline(always)]
            || {
                for row in logits.chunks_exact(stride) {
                    for (max, logit) in maxima.iter_mut().zip(row) {
                        *max = if *logit > *max { *logit } else { *max };
                    }
                }
            },
        );
        for (token, word) in labels {
            let own = logits[word * stride + token];
            let mut before = logits[..word * stride].chunks_exact(stride);
            let is_first = own == maxima[token] && before.all(|row| row[token] != own);
            answer(token, own, is_first);
        }
        widest(
            #[inline(always)]
            || {
                for row in logits.chunks_exact_mut(stride) {
                    for (exp, max) in row.iter_mut().zip(&*maxima) {
                        *exp = exp_non_positive(*exp - max);
                    }
                    for (sum, exp) in sums.iter_mut().zip(&*row) {
                        *sum += f64::from(*exp);
                    }
                }
            },
        );
    }
}

/// What all blocks of words together say.
pub(super) struct Losses {
    answers: Vec<Answer>,
}

impl Losses {
    /// Returns the answers of as many tokens, in their order.
    pub(super) fn new(num_tokens: usize, parts: Vec<Vec<Answer>>) -> Self {
        let mut answers: Vec<Answer> = parts.into_iter().flatten().collect();
        answers.sort_by_key(|answer| answer.token);
        assert_eq!(answers.len(), num_tokens, "every token has one label");
        Self { answers }
    }

    /// Joins the blocks of words: leaves the factors that turn exponentials into gradients of `scale` times the loss.
    pub(super) fn finish(self, logits: &mut Logits, scale: f32) -> MlmLoss {
        let stride = logits.stride;
        let mut total = MlmLoss::default();
        for answer in self.answers {
            let token = answer.token;
            let (mut max, mut first_block) = (f32::NEG_INFINITY, 0);
            for (block, maxima) in logits.factors.chunks_exact(stride).enumerate() {
                if maxima[token] > max {
                    (max, first_block) = (maxima[token], block);
                }
            }
            let mut sum = 0.0;
            for (factors, sums) in
                logits.factors.chunks_exact_mut(stride).zip(logits.sums.chunks_exact(stride))
            {
                factors[token] = exp_non_positive(factors[token] - max);
                sum += sums[token] * f64::from(factors[token]);
            }
            let factor = (f64::from(scale) / sum) as f32;
            logits.factors.chunks_exact_mut(stride).for_each(|factors| factors[token] *= factor);
            total.add(MlmLoss {
                loss_sum: sum.ln() - (f64::from(answer.own) - f64::from(max)),
                num_correct: u64::from(answer.is_first_of_block && answer.block == first_block),
            });
        }
        total
    }
}

impl Answer {
    pub(super) fn new(token: usize, block: usize, own: f32, is_first_of_block: bool) -> Self {
        Self { token, block, own, is_first_of_block }
    }
}
