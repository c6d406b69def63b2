//! The decoder of masked tokens with its loss: logits, log-softmax, cross-entropy and all gradients.
//!
//! Owns the packed table and the one matrix of logits, which turns into its own gradient in place. Rows are taken
//! in blocks of a fixed number, so memory does not grow with the number of masked tokens. Loss sums leave
//! undivided; what a row counts in the gradient comes in as a scale.
//! Paper: [BERT, Devlin et al., 2018](https://arxiv.org/abs/1810.04805), the masked language model.

use crate::gemm::{self, Matrix, PackedA, PackedB, Precision};
use crate::lanes::{self, NUM_LANES, fold};
use crate::math::exp_non_positive;
use crate::simd::widest;
use rayon::prelude::*;

/// Masked tokens whose logits exist at the same time.
const BLOCK_ROWS: usize = 256;
/// Words of the vocabulary whose gradients are packed at the same time.
const BLOCK_WORDS: usize = 4096;

/// The table, packed for all products of a step, and the memory that they need.
#[derive(Clone, Debug)]
pub struct MlmHead {
    vocab_size: usize,
    hidden_size: usize,
    /// `[hidden_size, vocab_size]`
    decoder: PackedB,
    /// `[BLOCK_WORDS, hidden_size]` each, the last one shorter.
    tables: Vec<PackedB>,
    precision: Precision,
    left: PackedA,
    hidden: PackedB,
    logits: Vec<f32>,
}

/// Loss and right answers of some masked tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MlmLoss {
    /// Sum of the negative log-likelihoods, in nats.
    pub loss_sum: f64,
    /// Tokens whose label is the first of the highest logits.
    pub num_correct: u64,
}

/// Where the gradients of one pass go.
#[derive(Debug)]
pub struct MlmGradients<'a> {
    /// `[num_masked, hidden_size]`, overwritten.
    pub hidden: &'a mut [f32],
    /// `[vocab_size, hidden_size]`, added to.
    pub table: &'a mut [f32],
    /// `[vocab_size]`, added to.
    pub bias: &'a mut [f32],
}

impl MlmHead {
    /// Returns a head without a table.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self {
            vocab_size: 0,
            hidden_size: 0,
            decoder: PackedB::new(precision),
            tables: Vec::new(),
            precision,
            left: PackedA::new(precision),
            hidden: PackedB::new(precision),
            logits: Vec::new(),
        }
    }

    /// Packs the table, which may be the word embeddings; once per step.
    ///
    /// # Shapes
    ///
    /// - table: `[vocab_size, hidden_size]`
    ///
    /// # Panics
    ///
    /// If the table has another size or rows of nothing.
    pub fn pack_table(&mut self, table: &[f32], vocab_size: usize, hidden_size: usize) {
        assert_eq!(table.len(), vocab_size * hidden_size, "the table needs a row per word");
        assert!(hidden_size > 0, "the table needs rows of at least one number");
        (self.vocab_size, self.hidden_size) = (vocab_size, hidden_size);
        self.decoder.pack(Matrix::new(table, vocab_size, hidden_size).transposed());
        self.tables.resize_with(vocab_size.div_ceil(BLOCK_WORDS), || PackedB::new(self.precision));
        for (packed, rows) in self.tables.iter_mut().zip(table.chunks(BLOCK_WORDS * hidden_size)) {
            packed.pack(Matrix::new(rows, rows.len() / hidden_size, hidden_size));
        }
    }

    /// Writes the logits.
    ///
    /// # Shapes
    ///
    /// - hidden: `[num_masked, hidden_size]`; bias: `[vocab_size]`; logits: `[num_masked, vocab_size]`
    ///
    /// # Panics
    ///
    /// If the lengths do not fit, or no table is packed.
    pub fn logits(&mut self, hidden: &[f32], bias: &[f32], logits: &mut [f32]) {
        assert!(self.hidden_size > 0, "the table must be packed before it is used");
        assert_eq!(bias.len(), self.vocab_size, "one bias per word");
        self.left.pack(Matrix::new(hidden, hidden.len() / self.hidden_size, self.hidden_size));
        gemm::multiply_bias(&self.left, &self.decoder, bias, logits);
    }

    /// Returns loss and right answers.
    ///
    /// # Shapes
    ///
    /// - hidden: `[num_masked, hidden_size]`; bias: `[vocab_size]`; labels: `[num_masked]`
    ///
    /// # Panics
    ///
    /// If the lengths do not fit, or a label is not below the vocabulary's size.
    pub fn evaluate(&mut self, hidden: &[f32], bias: &[f32], labels: &[u32]) -> MlmLoss {
        self.check(hidden, bias, labels);
        let mut total = MlmLoss::default();
        for (hidden, labels) in hidden.chunks(BLOCK_ROWS * self.hidden_size).zip(labels.chunks(BLOCK_ROWS)) {
            total.add(self.losses(hidden, bias, labels, 0.0));
        }
        total
    }

    /// Returns loss and right answers, and the gradients of `scale` times the loss sum.
    ///
    /// # Shapes
    ///
    /// - hidden: `[num_masked, hidden_size]`; bias: `[vocab_size]`; labels: `[num_masked]`
    /// - gradients: see [`MlmGradients`]
    ///
    /// # Panics
    ///
    /// As [`Self::evaluate`], or if a gradient has another length than what it belongs to.
    pub fn train(
        &mut self,
        hidden: &[f32],
        bias: &[f32],
        labels: &[u32],
        scale: f32,
        gradients: MlmGradients<'_>,
    ) -> MlmLoss {
        self.check(hidden, bias, labels);
        let table_len = self.vocab_size * self.hidden_size;
        let lens = [gradients.hidden.len(), gradients.table.len(), gradients.bias.len()];
        assert_eq!(lens, [hidden.len(), table_len, bias.len()], "a gradient for everything that has one");
        let block_len = BLOCK_ROWS * self.hidden_size;
        let blocks = hidden.chunks(block_len).zip(gradients.hidden.chunks_mut(block_len));
        let mut total = MlmLoss::default();
        for ((hidden, grad_hidden), labels) in blocks.zip(labels.chunks(BLOCK_ROWS)) {
            total.add(self.losses(hidden, bias, labels, scale));
            let logits = &self.logits[..labels.len() * self.vocab_size];
            sum_columns(logits, gradients.bias);
            self.products(hidden, labels.len(), grad_hidden, gradients.table);
        }
        total
    }

    fn check(&self, hidden: &[f32], bias: &[f32], labels: &[u32]) {
        assert!(self.hidden_size > 0, "the table must be packed before it is used");
        assert_eq!(hidden.len(), labels.len() * self.hidden_size, "one label per masked token");
        assert_eq!(bias.len(), self.vocab_size, "one bias per word");
        for label in labels {
            assert!((*label as usize) < self.vocab_size, "label {label} of {} words", self.vocab_size);
        }
    }

    /// Leaves the gradients of the logits of one block in `self.logits`.
    fn losses(&mut self, hidden: &[f32], bias: &[f32], labels: &[u32], scale: f32) -> MlmLoss {
        let num_logits = labels.len() * self.vocab_size;
        if self.logits.len() < num_logits {
            self.logits.resize(num_logits, 0.0);
        }
        let logits = &mut self.logits[..num_logits];
        self.left.pack(Matrix::new(hidden, labels.len(), self.hidden_size));
        gemm::multiply_bias(&self.left, &self.decoder, bias, logits);
        let rows = logits.par_chunks_exact_mut(self.vocab_size).zip(labels);
        let losses: Vec<MlmLoss> = rows.map(|(logits, label)| row_loss(logits, *label, scale)).collect();
        let mut total = MlmLoss::default();
        losses.into_iter().for_each(|loss| total.add(loss));
        total
    }

    /// Multiplies the gradients of the logits with the table and with the hidden states.
    fn products(&mut self, hidden: &[f32], num_rows: usize, grad_hidden: &mut [f32], grad_table: &mut [f32]) {
        let (vocab_size, hidden_size) = (self.vocab_size, self.hidden_size);
        self.hidden.pack(Matrix::new(hidden, num_rows, hidden_size));
        let grad_tables = grad_table.chunks_mut(BLOCK_WORDS * hidden_size);
        grad_hidden.fill(0.0);
        for (block_idx, (table, grad_table)) in self.tables.iter().zip(grad_tables).enumerate() {
            let grads = &self.logits[block_idx * BLOCK_WORDS..num_rows * vocab_size];
            let grads = Matrix::strided(grads, num_rows, grad_table.len() / hidden_size, vocab_size);
            self.left.pack(grads);
            gemm::multiply_add(&self.left, table, grad_hidden);
            self.left.pack(grads.transposed());
            gemm::multiply_add(&self.left, &self.hidden, grad_table);
        }
    }
}

impl MlmLoss {
    fn add(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.num_correct += other.num_correct;
    }
}

/// Turns the logits of one token into their gradients.
fn row_loss(logits: &mut [f32], label: u32, scale: f32) -> MlmLoss {
    widest(
        #[inline(always)]
        || {
            let label = label as usize;
            let max = lanes::max(logits);
            let own = logits[label];
            let is_first = own == max && logits[..label].iter().all(|logit| *logit != max);
            for logit in logits.iter_mut() {
                *logit = exp_non_positive(*logit - max);
            }
            let sum = sum(logits);
            let factor = (f64::from(scale) / sum) as f32;
            for exp in logits.iter_mut() {
                *exp *= factor;
            }
            logits[label] -= scale;
            MlmLoss {
                loss_sum: sum.ln() - (f64::from(own) - f64::from(max)),
                num_correct: u64::from(is_first),
            }
        },
    )
}

/// Adds up in f64, in lanes.
#[inline(always)]
fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0; NUM_LANES];
    let mut chunks = values.chunks_exact(NUM_LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f64::from(*value);
    }
    fold(lanes, |a, b| a + b)
}

/// Adds the sum over the rows of a matrix, in their order, to `sums`.
fn sum_columns(matrix: &[f32], sums: &mut [f32]) {
    const COLS: usize = 1024;
    let num_cols = sums.len();
    sums.par_chunks_mut(COLS).enumerate().for_each(|(chunk_idx, sums)| {
        widest(
            #[inline(always)]
            || {
                for row in matrix.chunks_exact(num_cols) {
                    for (sum, value) in sums.iter_mut().zip(&row[chunk_idx * COLS..]) {
                        *sum += value;
                    }
                }
            },
        );
    });
}

/// The same results by the plainest loops, in f64.
pub mod reference {
    /// Returns the loss sum and the number of right answers; see [`super::MlmHead::evaluate`].
    #[must_use]
    pub fn loss(hidden: &[f64], table: &[f64], bias: &[f64], labels: &[u32]) -> (f64, u64) {
        let hidden_size = table.len() / bias.len();
        let (mut loss_sum, mut num_correct) = (0.0, 0);
        for (hidden, label) in hidden.chunks(hidden_size).zip(labels) {
            let rows = table.chunks(hidden_size).zip(bias);
            let logits: Vec<f64> = rows
                .map(|(row, bias)| bias + row.iter().zip(hidden).map(|(a, b)| a * b).sum::<f64>())
                .collect();
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
            loss_sum += sum.ln() + max - logits[*label as usize];
            num_correct += u64::from(logits.iter().position(|logit| *logit == max) == Some(*label as usize));
        }
        (loss_sum, num_correct)
    }
}

#[cfg(test)]
mod tests;
