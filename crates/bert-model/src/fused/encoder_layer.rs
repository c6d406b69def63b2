//! One encoder layer as a whole: attention and feed-forward, each with dropout, residual and LayerNorm after it.
//!
//! Owns the order of the kernels and what forward keeps. Method: post-LN as in
//! [BERT](https://arxiv.org/abs/1810.04805); every matrix product runs on packed operands, everything between two
//! products in as few passes over memory as there are sums to wait for. A layer that is the last one computes the output of
//! those tokens only that are read: of the others it takes keys and values.

mod backward;
mod forward;
mod vectors;

use bert_kernels::{
    attention::Attention,
    dropout::Dropout,
    gemm::{LeftScratch, PackedB, Precision},
    residual::ResidualNorm,
    slices::fit,
};

use super::{Activation, gather, parameters::Norm};
use crate::rows::{ReadTokens, TokenRows};

pub(crate) use vectors::LayerVectors;

/// Sizes and constants of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayerShape {
    pub(crate) hidden: usize,
    pub(crate) num_heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) activation: Activation,
    pub(crate) layer_norm_eps: f32,
}

/// Dropout at the three sites of a layer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LayerDropout {
    pub(crate) attention_probs: Option<Dropout>,
    pub(crate) attention_output: Option<Dropout>,
    pub(crate) feed_forward_output: Option<Dropout>,
}

/// One application of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerPass<'a> {
    pub(crate) shape: LayerShape,
    pub(crate) vectors: &'a LayerVectors,
    pub(crate) weights: LayerWeights<'a>,
    pub(crate) rows: &'a TokenRows,
    /// The tokens that ask, and whose output there is; all if there is nothing.
    pub(crate) read: Option<&'a ReadTokens>,
    pub(crate) dropout: LayerDropout,
}

/// The weights of a layer as they are stored, `[out, in]` each. They are packed when they are used, into memory that all layers
/// share: panels of their own would be as much memory again, and come from there no faster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerWeights<'a> {
    pub(crate) qkv: [&'a [f32]; 3],
    pub(crate) attention_output: &'a [f32],
    pub(crate) intermediate: &'a [f32],
    pub(crate) output: &'a [f32],
}

/// What forward leaves for backward; its buffers are used again.
#[derive(Debug, Default)]
pub(crate) struct SavedLayer {
    /// `[num_read, hidden]`
    queries: Vec<f32>,
    /// `[num_tokens, 2, hidden]`
    keys_values: Vec<f32>,
    /// Two numbers per query and head.
    softmax: Vec<f32>,
    /// `[num_read, hidden]`
    context: Vec<f32>,
    attention_norm: SavedNorm,
    /// `[num_read, hidden]` output of the first half.
    attended: Vec<f32>,
    /// `[num_read, intermediate]` what comes out of the activation, and its derivative: computed together in the forward pass they
    /// take little longer than the first alone.
    inner: Vec<f32>,
    derivative: Vec<f32>,
    output_norm: SavedNorm,
}

/// What a LayerNorm normalised, and the statistics of its rows.
#[derive(Debug, Default)]
struct SavedNorm {
    /// `[num_read, hidden]`
    sum: Vec<f32>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
}

/// Memory that all layers of a model share, one after the other.
#[derive(Debug)]
pub(crate) struct LayerWorkspace {
    precision: Precision,
    left: LeftScratch,
    right: PackedB,
    /// `[num_read, hidden]` the input of the tokens that ask, where these are not all, and its gradient.
    asking: Vec<f32>,
    grad_asking: Vec<f32>,
    /// Gradients: of the output of the first half, of what a residual was added to, of the context, of queries, of keys
    /// and values.
    grad_attended: Vec<f32>,
    grad_branch: Vec<f32>,
    grad_context: Vec<f32>,
    grad_queries: Vec<f32>,
    grad_keys_values: Vec<f32>,
    /// `[num_read, intermediate]` of what goes into the activation.
    grad_inner: Vec<f32>,
    spare: Vec<SavedLayer>,
}

impl LayerShape {
    /// Lengths of the parameters of the first half in layout order: query, key, value and output projection, each
    /// with its bias, and the LayerNorm.
    fn attention_lens(&self) -> [usize; 10] {
        let h = self.hidden;
        [h * h, h, h * h, h, h * h, h, h * h, h, h, h]
    }

    /// Lengths of those of the second half: both maps, each with its bias, and the LayerNorm.
    fn feed_forward_lens(&self) -> [usize; 6] {
        let (h, i) = (self.hidden, self.intermediate);
        [i * h, i, h * i, h, h, h]
    }

    /// Lengths of both halves.
    fn half_lens(&self) -> [usize; 2] {
        [self.attention_lens().iter().sum(), self.feed_forward_lens().iter().sum()]
    }
}

impl<'a> LayerPass<'a> {
    /// The tokens whose output there is.
    fn asking_rows(&self) -> &'a TokenRows {
        self.read.map_or(self.rows, |read| &read.rows)
    }

    /// Their input: where it lies, or collected.
    fn asking<'m>(&self, input: &'m [f32], collected: &'m mut Vec<f32>) -> &'m [f32] {
        let Some(read) = self.read else { return input };
        gather(input, &read.tokens, self.shape.hidden, collected);
        collected
    }

    fn attention(&self, precision: Precision) -> Attention<'a> {
        let LayerShape { hidden, num_heads, .. } = self.shape;
        let asking = self.asking_rows();
        Attention {
            offsets: &self.rows.offsets,
            query_offsets: &asking.offsets,
            query_places: &asking.places,
            num_heads,
            head_size: hidden / num_heads,
            padded_len: self.rows.row_len,
            precision,
            dropout: self.dropout.attention_probs,
        }
    }

    fn attention_norm(&self) -> ResidualNorm<'a> {
        let LayerVectors { attention_output_bias, attention_norm, .. } = self.vectors;
        self.norm(self.dropout.attention_output, attention_output_bias, attention_norm)
    }

    fn output_norm(&self) -> ResidualNorm<'a> {
        let LayerVectors { output_bias, output_norm, .. } = self.vectors;
        self.norm(self.dropout.feed_forward_output, output_bias, output_norm)
    }

    fn norm(&self, dropout: Option<Dropout>, bias: &'a [f32], norm: &'a Norm) -> ResidualNorm<'a> {
        let (eps, places) = (self.shape.layer_norm_eps, &self.asking_rows().places[..]);
        ResidualNorm { bias, gamma: &norm.gamma, beta: &norm.beta, eps, dropout, places }
    }
}

impl SavedNorm {
    /// Makes room, and lends that of the sum.
    fn fit(&mut self, num_read: usize, hidden: usize) -> &mut [f32] {
        fit(&mut self.mean, num_read);
        fit(&mut self.rstd, num_read);
        fit(&mut self.sum, num_read * hidden)
    }
}

impl LayerWorkspace {
    pub(crate) fn new(precision: Precision) -> Self {
        Self {
            precision,
            left: LeftScratch::new(precision),
            right: PackedB::new(precision),
            asking: Vec::new(),
            grad_asking: Vec::new(),
            grad_attended: Vec::new(),
            grad_branch: Vec::new(),
            grad_context: Vec::new(),
            grad_queries: Vec::new(),
            grad_keys_values: Vec::new(),
            grad_inner: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Lends buffers for what a forward pass saves.
    pub(crate) fn take_saved(&mut self) -> SavedLayer {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes them back for the next step.
    pub(crate) fn give_back(&mut self, saved: SavedLayer) {
        self.spare.push(saved);
    }
}
