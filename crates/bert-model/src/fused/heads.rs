//! The heads as a whole: masked language model and next sentence prediction, with losses and gradients in one pass.
//!
//! Owns the parameters in packed form, and all memory in between. The word table, which is the decoder, is read where
//! it lies.

mod mlm;
mod nsp;

use bert_kernels::{
    gemm::{LeftScratch, Matrix, PackedB, Precision},
    mlm_head::MlmHead,
};

use super::{
    Activation,
    parameters::{Norm, PackedLinear},
    split, split_mut,
};
use crate::loss::{BatchLosses, LossScale};

/// What the heads look at, and the answers.
#[derive(Clone, Debug)]
pub(crate) struct HeadsBatch {
    /// `[num_masked]` tokens to predict, and what they are.
    pub(crate) masked: Vec<usize>,
    pub(crate) mlm_labels: Vec<u32>,
    /// `[num_rows]` first token of each row, and the sentence labels; empty without a sentence objective.
    pub(crate) firsts: Vec<usize>,
    pub(crate) nsp_labels: Vec<u8>,
}

/// Where gradients go; all are overwritten.
#[derive(Debug)]
pub(crate) struct HeadsGradients<'a> {
    /// `[num_tokens, hidden]`
    pub(crate) hidden: &'a mut [f32],
    /// The bucket `heads`.
    pub(crate) bucket: &'a mut [f32],
    /// `[vocab, hidden]`
    pub(crate) word_table: &'a mut [f32],
}

/// Both heads, ready for products.
#[derive(Debug)]
pub(crate) struct FusedHeads {
    hidden: usize,
    activation: Activation,
    layer_norm_eps: f32,
    pooler: PackedLinear,
    pooler_back: PackedB,
    transform: PackedLinear,
    transform_back: PackedB,
    norm: Norm,
    decoder_bias: Vec<f32>,
    seq_relationship: PackedLinear,
    seq_relationship_back: PackedB,
    decoder: MlmHead,
    left: LeftScratch,
    right: PackedB,
    mlm: mlm::Buffers,
    nsp: nsp::Buffers,
}

impl FusedHeads {
    /// Returns heads without parameters.
    pub(crate) fn new(hidden: usize, activation: Activation, eps: f32, precision: Precision) -> Self {
        // Eight rows or so: the sentence head costs nothing, so it is never rounded.
        let sentence_map = || PackedLinear::new(Precision::F32);
        Self {
            hidden,
            activation,
            layer_norm_eps: eps,
            pooler: sentence_map(),
            pooler_back: PackedB::new(Precision::F32),
            transform: PackedLinear::new(precision),
            transform_back: PackedB::new(precision),
            norm: Norm::default(),
            decoder_bias: Vec::new(),
            seq_relationship: sentence_map(),
            seq_relationship_back: PackedB::new(Precision::F32),
            decoder: MlmHead::new(precision),
            left: LeftScratch::new(precision),
            right: PackedB::new(precision),
            mlm: mlm::Buffers::default(),
            nsp: nsp::Buffers::default(),
        }
    }

    /// Packs the parameters of the bucket `heads`, in layout order.
    ///
    /// # Panics
    ///
    /// If the bucket does not have the length of the heads over `vocab_size` words.
    pub(crate) fn pack(&mut self, bucket: &[f32], vocab_size: usize) {
        let h = self.hidden;
        let [pooler, pooler_bias, decoder_bias, transform, transform_bias, gamma, beta, seq, seq_bias] =
            split(bucket, parameter_lens(h, vocab_size));
        self.pooler.pack(pooler, pooler_bias, h);
        self.transform.pack(transform, transform_bias, h);
        self.pooler_back.pack(Matrix::new(pooler, h, h));
        self.transform_back.pack(Matrix::new(transform, h, h));
        self.seq_relationship_back.pack(Matrix::new(seq, 2, h));
        self.norm.copy(gamma, beta);
        self.seq_relationship.pack(seq, seq_bias, h);
        self.decoder_bias.clear();
        self.decoder_bias.extend_from_slice(decoder_bias);
    }

    /// Computes losses, right answers and the gradients of `scale.mlm · Σ mlm loss + scale.nsp · Σ nsp loss`.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`; word_table: `[vocab, hidden]`
    pub(crate) fn train(
        &mut self,
        states: &[f32],
        word_table: &[f32],
        batch: &HeadsBatch,
        scale: LossScale,
        gradients: HeadsGradients<'_>,
    ) -> BatchLosses {
        let HeadsGradients { hidden, bucket, word_table: grad_table } = gradients;
        let lens = parameter_lens(self.hidden, self.decoder_bias.len());
        let [pooler, pooler_bias, decoder_bias, transform, transform_bias, gamma, beta, seq, seq_bias] =
            split_mut(bucket, lens);
        hidden.fill(0.0);
        let mlm =
            mlm::Gradients { transform, transform_bias, gamma, beta, decoder_bias, word_table: grad_table };
        let nsp = nsp::Gradients { pooler, pooler_bias, seq, seq_bias };
        let mlm = self.train_mlm((states, word_table), batch, scale.mlm, hidden, mlm);
        let nsp = self.train_nsp(states, batch, scale.nsp, hidden, nsp);
        BatchLosses::new(batch.masked.len(), batch.nsp_labels.len(), mlm, nsp)
    }

    /// Computes losses and right answers only.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`; word_table: `[vocab, hidden]`
    pub(crate) fn evaluate(&mut self, states: &[f32], word_table: &[f32], batch: &HeadsBatch) -> BatchLosses {
        let mlm = self.evaluate_mlm(states, word_table, batch);
        let nsp = self.evaluate_nsp(states, batch);
        BatchLosses::new(batch.masked.len(), batch.nsp_labels.len(), mlm, nsp)
    }
}

/// Lengths in layout order: pooler, bias of the decoder, transform, its LayerNorm, sentence relationship.
fn parameter_lens(hidden: usize, vocab_size: usize) -> [usize; 9] {
    [hidden * hidden, hidden, vocab_size, hidden * hidden, hidden, hidden, hidden, 2 * hidden, 2]
}

/// A matrix with rows of `num_cols` values.
fn rows(values: &[f32], num_cols: usize) -> Matrix<'_> {
    Matrix::new(values, values.len() / num_cols, num_cols)
}
