//! The products of a part of the vocabulary.
//!
//! Owns how the vocabulary is cut, which depends on its size alone: into parts that threads take, and each into blocks
//! whose words, logits and gradients stay in the second cache. A part sums its share of the gradient of the hidden
//! states, so that results do not depend on the number of threads.

use super::Task;
use super::logits::{Answer, PartOfLogits};
use crate::gemm::{LeftScratch, Matrix, PackedB, Precision, Region, compute, compute_then, round_to_bf16};
use crate::lanes;
use crate::simd::widest;
use crate::simd::window::Window;
use crate::slices::fit;
use crate::stretch;
use std::cell::RefCell;
use std::ops::Range;

/// Parts of the vocabulary: each costs one more gradient of the hidden states in memory.
const MAX_PARTS: usize = 8;
/// Words of the largest block.
const MAX_BLOCK: usize = 224;
/// Words of one tile; parts and blocks begin at tiles.
const TILE_ROWS: usize = 14;

/// The vocabulary in parts and blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    vocab_size: usize,
    part_len: usize,
    block_len: usize,
}

/// Where the gradients of one part go.
pub(super) struct Gradients<'a> {
    /// Added to, or overwritten.
    pub(super) table: &'a mut [f32],
    /// Added to, or overwritten.
    pub(super) bias: &'a mut [f32],
    /// Whether the sums of those two go on from what is there.
    pub(super) continues: bool,
    /// Overwritten.
    pub(super) hidden: &'a mut [f32],
}

/// Memory of one thread.
struct Scratch {
    precision: Precision,
    left: LeftScratch,
    table: PackedB,
    grads: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

impl Words {
    pub(super) fn new(vocab_size: usize) -> Self {
        let part_len = vocab_size.div_ceil(MAX_PARTS).next_multiple_of(TILE_ROWS);
        let block_len = part_len.div_ceil(part_len.div_ceil(MAX_BLOCK)).next_multiple_of(TILE_ROWS);
        Self { vocab_size, part_len, block_len }
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(super) fn part_len(&self) -> usize {
        self.part_len
    }

    pub(super) fn num_parts(&self) -> usize {
        self.vocab_size.div_ceil(self.part_len)
    }

    /// Returns the blocks of a part; the last part may use fewer.
    pub(super) fn blocks_per_part(&self) -> usize {
        self.part_len.div_ceil(self.block_len)
    }

    /// Returns the blocks of all parts.
    pub(super) fn num_blocks(&self) -> usize {
        let last_part = self.vocab_size - (self.num_parts() - 1) * self.part_len;
        (self.num_parts() - 1) * self.blocks_per_part() + last_part.div_ceil(self.block_len)
    }

    /// Returns the blocks of one part as words of the part.
    fn blocks_of(&self, part: usize) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let len = self.part_len.min(self.vocab_size - part * self.part_len);
        let block_len = self.block_len;
        (0..len).step_by(block_len).map(move |first| first..len.min(first + block_len)).enumerate()
    }
}

impl Task<'_> {
    fn num_tokens(&self) -> usize {
        self.labels.len()
    }

    /// Returns some words of the table.
    fn words(&self, words: Range<usize>) -> Matrix<'_> {
        let rows = &self.table[words.start * self.hidden_size..words.end * self.hidden_size];
        Matrix::new(rows, words.len(), self.hidden_size)
    }

    /// Returns the tokens whose label is one of these words, with the label counted from the first one.
    fn labels_in(&self, words: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let labels = self.labels.iter().map(|label| *label as usize).enumerate();
        let first = words.start;
        labels
            .filter(move |(_, label)| words.contains(label))
            .map(move |(token, label)| (token, label - first))
    }
}

/// Computes the logits of one part and turns them into exponentials.
pub(super) fn exponentials(
    task: &Task<'_>,
    words: &Words,
    part: usize,
    mut logits: PartOfLogits<'_>,
) -> Vec<Answer> {
    let mut answers = Vec::new();
    let (first, stride) = (part * words.part_len, logits.stride);
    with_scratch(task.precision, |scratch| {
        for (block, rows) in words.blocks_of(part) {
            let in_vocabulary = first + rows.start..first + rows.end;
            let bias = &task.bias[in_vocabulary.clone()];
            let out = &mut logits.exps[rows.start * stride..rows.end * stride];
            let out = Region::whole(Window::new(out, rows.len(), task.num_tokens(), stride), false);
            let left = scratch.left.take(task.words(in_vocabulary.clone()), false);
            let add_bias = |row: usize, _: usize, [logits]: [&mut [f32]; 1]| {
                let bias = bias[row];
                stretch::change(logits, |logit| logit + bias);
            };
            compute_then(left, task.hidden_turned, out, Some(&add_bias));
            let labels = task.labels_in(in_vocabulary);
            let place = part * words.blocks_per_part() + block;
            logits.exponentiate(block, rows, labels, &mut |token, own, is_first| {
                answers.push(Answer::new(token, place, own, is_first));
            });
        }
    });
    answers
}

/// Turns the exponentials of one part into gradients, and multiplies those.
pub(super) fn gradients(
    task: &Task<'_>,
    words: &Words,
    part: usize,
    logits: PartOfLogits<'_>,
    scale: f32,
    out: Gradients<'_>,
) {
    let (first, stride, num_tokens, size) =
        (part * words.part_len, logits.stride, task.num_tokens(), task.hidden_size);
    if !out.continues {
        out.bias.fill(0.0);
    }
    let mut grad_hidden = Window::new(out.hidden, num_tokens, size, size);
    with_scratch(task.precision, |scratch| {
        let Scratch { left, table, grads, .. } = scratch;
        for (block, rows) in words.blocks_of(part) {
            let in_vocabulary = first + rows.start..first + rows.end;
            let exps = &logits.exps[rows.start * stride..rows.end * stride];
            let factors = &logits.factors[block * stride..(block + 1) * stride];
            let grads = fit(grads, exps.len());
            multiply_rows(exps, factors, grads);
            for (token, word) in task.labels_in(in_vocabulary.clone()) {
                grads[word * stride + token] -= scale;
            }
            sum_rows(grads, stride, num_tokens, &mut out.bias[rows.clone()], left.rounds());
            let grads = Matrix::strided(grads, rows.len(), num_tokens, stride);

            let grad_table = &mut out.table[rows.start * size..rows.end * size];
            let grad_table = Window::new(grad_table, rows.len(), size, size);
            let next = &task.table[in_vocabulary.start * size..in_vocabulary.end * size];
            let grad_table = Region { next, ..Region::whole(grad_table, out.continues) };
            compute(left.take(grads, true), task.hidden, grad_table);
            table.pack_here(task.words(in_vocabulary));
            let grad_hidden = Region::whole(grad_hidden.lend(), block > 0);
            compute(left.take(grads.transposed(), true), table, grad_hidden);
        }
    });
}

/// Multiplies every row with the same factors.
fn multiply_rows(rows: &[f32], factors: &[f32], out: &mut [f32]) {
    widest(
        #[inline(always)]
        || {
            let rows = rows.chunks_exact(factors.len()).zip(out.chunks_exact_mut(factors.len()));
            for (row, out) in rows {
                for ((out, value), factor) in out.iter_mut().zip(row).zip(factors) {
                    *out = value * factor;
                }
            }
        },
    );
}

/// Adds the sum of every row to `sums`, and then rounds its values if they are to be rounded.
fn sum_rows(rows: &mut [f32], stride: usize, len: usize, sums: &mut [f32], rounds: bool) {
    widest(
        #[inline(always)]
        || {
            for (row, sum) in rows.chunks_exact_mut(stride).zip(sums) {
                *sum += lanes::sum(&row[..len], |value| value);
                if rounds {
                    row.iter_mut().for_each(|value| *value = round_to_bf16(*value));
                }
            }
        },
    );
}

/// Lends the memory of this thread to `work`.
fn with_scratch(precision: Precision, work: impl FnOnce(&mut Scratch)) {
    let kept = SCRATCH.take().filter(|scratch| scratch.precision == precision);
    let mut scratch = kept.unwrap_or_else(|| {
        let (left, table) = (LeftScratch::new(precision), PackedB::new(precision));
        Box::new(Scratch { precision, left, table, grads: Vec::new() })
    });
    work(&mut scratch);
    SCRATCH.set(Some(scratch));
}
