//! The decoder of masked tokens with its loss: logits, log-softmax, cross-entropy and all gradients.
//!
//! Owns the logits. The table is read where it lies, in blocks of words that stay in the second cache: once for the
//! logits, which leave that cache as exponentials, and once for both gradients, which are made of those. Tokens are
//! taken in blocks of a fixed number, so memory does not grow with the number of masked tokens. Loss sums leave
//! undivided; what a token counts in the gradient comes in as a scale.
//! Paper: [BERT, Devlin et al., 2018](https://arxiv.org/abs/1810.04805), the masked language model.

mod logits;
mod words;

use crate::gemm::{self, LeftScratch, Matrix, PackedB, Precision};
use crate::slices::{add_assign, fit};
use crate::threads::OverThreads;
use logits::{Logits, Losses};
use rayon::prelude::*;
use words::Words;

/// Masked tokens whose logits exist at the same time.
const BLOCK_ROWS: usize = 256;

/// The memory that the products with a table need.
#[derive(Clone, Debug)]
pub struct MlmHead {
    precision: Precision,
    /// `[hidden_size, num_masked]`
    hidden_turned: PackedB,
    /// `[num_masked, hidden_size]`
    hidden: PackedB,
    logits: Logits,
    /// The gradient of hidden by each part of the vocabulary: `[num_parts, num_masked, hidden_size]`.
    grad_hidden: Vec<f32>,
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
    /// `[vocab_size, hidden_size]`, overwritten.
    pub table: &'a mut [f32],
    /// `[vocab_size]`, overwritten.
    pub bias: &'a mut [f32],
}

/// What is decoded, and by what.
#[derive(Clone, Copy)]
struct Task<'a> {
    precision: Precision,
    table: &'a [f32],
    bias: &'a [f32],
    labels: &'a [u32],
    hidden_size: usize,
    hidden_turned: &'a PackedB,
    hidden: &'a PackedB,
}

impl MlmHead {
    /// Returns a head without a table.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            hidden_turned: PackedB::new(precision),
            hidden: PackedB::new(precision),
            logits: Logits::default(),
            grad_hidden: Vec::new(),
        }
    }

    /// Writes the logits.
    ///
    /// # Shapes
    ///
    /// - table: `[vocab_size, hidden_size]`; hidden: `[num_masked, hidden_size]`; bias: `[vocab_size]`
    /// - logits: `[num_masked, vocab_size]`
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn logits(&mut self, table: &[f32], hidden: &[f32], bias: &[f32], logits: &mut [f32]) {
        let hidden_size = table.len() / bias.len();
        let mut left = LeftScratch::new(self.precision);
        let mut right = PackedB::new(self.precision);
        right.pack(Matrix::new(table, bias.len(), hidden_size).transposed());
        let hidden = left.operand(Matrix::new(hidden, hidden.len() / hidden_size, hidden_size));
        gemm::multiply_bias(hidden, &right, bias, logits);
    }

    /// Returns loss and right answers.
    ///
    /// # Shapes
    ///
    /// - table: `[vocab_size, hidden_size]`, which may be the word embeddings: it is read where it lies
    /// - hidden: `[num_masked, hidden_size]`; bias: `[vocab_size]`; labels: `[num_masked]`
    ///
    /// # Panics
    ///
    /// If the lengths do not fit, or a label is not below the vocabulary's size.
    pub fn evaluate(&mut self, table: &[f32], hidden: &[f32], bias: &[f32], labels: &[u32]) -> MlmLoss {
        let hidden_size = check(table, hidden, bias, labels);
        let mut total = MlmLoss::default();
        for (hidden, labels) in hidden.chunks(BLOCK_ROWS * hidden_size).zip(labels.chunks(BLOCK_ROWS)) {
            total.add(self.losses(table, hidden, bias, labels, 0.0));
        }
        total
    }

    /// Returns loss and right answers, and the gradients of `scale` times the loss sum.
    ///
    /// # Shapes
    ///
    /// - table, hidden, bias, labels: as [`Self::evaluate`]
    /// - gradients: see [`MlmGradients`]
    ///
    /// # Panics
    ///
    /// As [`Self::evaluate`], or if a gradient has another length than what it belongs to.
    pub fn train(
        &mut self,
        table: &[f32],
        hidden: &[f32],
        bias: &[f32],
        labels: &[u32],
        scale: f32,
        gradients: MlmGradients<'_>,
    ) -> MlmLoss {
        let hidden_size = check(table, hidden, bias, labels);
        let lens = [gradients.hidden.len(), gradients.table.len(), gradients.bias.len()];
        assert_eq!(lens, [hidden.len(), table.len(), bias.len()], "a gradient for everything that has one");
        let block_len = BLOCK_ROWS * hidden_size;
        let blocks = hidden.chunks(block_len).zip(gradients.hidden.chunks_mut(block_len));
        if labels.is_empty() {
            gradients.table.fill(0.0);
            gradients.bias.fill(0.0);
        }
        let mut total = MlmLoss::default();
        for (idx, ((hidden, grad_hidden), labels)) in blocks.zip(labels.chunks(BLOCK_ROWS)).enumerate() {
            total.add(self.losses(table, hidden, bias, labels, scale));
            self.hidden.pack(Matrix::new(hidden, labels.len(), hidden_size));
            let (gradients, out) = ((&mut *gradients.table, &mut *gradients.bias), grad_hidden);
            self.products((table, bias), labels, scale, idx > 0, gradients, out);
        }
        total
    }

    /// Leaves in `self.logits` what the gradients of the logits of one block of tokens are made of.
    fn losses(&mut self, table: &[f32], hidden: &[f32], bias: &[f32], labels: &[u32], scale: f32) -> MlmLoss {
        let hidden_size = table.len() / bias.len();
        self.hidden_turned.pack(Matrix::new(hidden, labels.len(), hidden_size).transposed());
        let words = Words::new(bias.len());
        let Self { precision, hidden_turned, hidden, .. } = self;
        let task = Task { precision: *precision, table, bias, labels, hidden_size, hidden_turned, hidden };
        let parts = self.logits.parts(&words, labels.len());
        let mut answers = vec![Vec::new(); words.num_parts()];
        parts.zip(answers.par_iter_mut()).over_threads(|((part, logits), answers)| {
            *answers = words::exponentials(&task, &words, part, logits);
        });
        Losses::new(labels.len(), answers).finish(&mut self.logits, scale)
    }

    /// Multiplies the gradients of the logits with the table and with the hidden states. Sums over tokens go on from what
    /// is there, or begin.
    fn products(
        &mut self,
        (table, bias): (&[f32], &[f32]),
        labels: &[u32],
        scale: f32,
        continues: bool,
        (grad_table, grad_bias): (&mut [f32], &mut [f32]),
        grad_hidden: &mut [f32],
    ) {
        let hidden_size = table.len() / bias.len();
        let words = Words::new(bias.len());
        let Self { precision, hidden_turned, hidden, .. } = self;
        let task = Task { precision: *precision, table, bias, labels, hidden_size, hidden_turned, hidden };
        let len = grad_hidden.len();
        fit(&mut self.grad_hidden, words.num_parts() * len);
        let part_len = words.part_len();
        let parts = self.logits.parts(&words, labels.len());
        let tables =
            grad_table.par_chunks_mut(part_len * hidden_size).zip(grad_bias.par_chunks_mut(part_len));
        let grads = tables.zip(self.grad_hidden.par_chunks_mut(len));
        parts.zip(grads).over_threads(|((part, logits), ((table, bias), hidden))| {
            words::gradients(
                &task,
                &words,
                part,
                logits,
                scale,
                words::Gradients { table, bias, hidden, continues },
            );
        });
        let mut sums = self.grad_hidden.chunks(len).take(words.num_parts());
        if let Some(first) = sums.next() {
            grad_hidden.copy_from_slice(first);
        }
        sums.for_each(|part| add_assign(grad_hidden, part));
    }
}

/// Returns the size of the hidden states.
fn check(table: &[f32], hidden: &[f32], bias: &[f32], labels: &[u32]) -> usize {
    assert!(!table.is_empty() && !bias.is_empty(), "the table needs a word, and rows of at least one number");
    let (vocab_size, hidden_size) = (bias.len(), table.len() / bias.len());
    assert_eq!(table.len(), vocab_size * hidden_size, "one bias per word");
    assert_eq!(hidden.len(), labels.len() * hidden_size, "one label per masked token");
    for label in labels {
        assert!((*label as usize) < vocab_size, "label {label} of {vocab_size} words");
    }
    hidden_size
}

impl MlmLoss {
    fn add(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.num_correct += other.num_correct;
    }
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
