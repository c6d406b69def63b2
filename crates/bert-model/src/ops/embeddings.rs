//! The embeddings as one op: three look-ups, LayerNorm and dropout; gradients leave by a slot.

use std::sync::{Arc, Mutex};

use bert_kernels::{
    dropout::Dropout,
    embeddings::{self, Embeddings, Gradients as TableGradients, Saved as LentSum, Tokens},
    slices::fit,
};
use burn::{
    backend::{
        Backend,
        autodiff::{
            checkpoint::base::Checkpointer,
            grads::Gradients,
            ops::{Backward, Ops},
        },
        tensor::FloatTensor,
    },
    tensor::Shape,
};

use super::{
    raw::Raw,
    slot::{GradientSlot, lock},
};
use crate::rows::TokenRows;

/// The parameters, in layout order; tables are `[num_rows, hidden]`, the others `[hidden]`.
#[derive(Clone, Debug)]
pub(super) struct Parameters<B: Backend> {
    pub(super) words: FloatTensor<B>,
    pub(super) positions: FloatTensor<B>,
    pub(super) types: FloatTensor<B>,
    pub(super) gamma: FloatTensor<B>,
    pub(super) beta: FloatTensor<B>,
}

/// One application of the embeddings.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddingsCall {
    pub(crate) rows: Arc<TokenRows>,
    /// `[num_tokens]`
    pub(crate) ids: Arc<[u32]>,
    /// `[num_tokens]`
    pub(crate) types: Arc<[u8]>,
    /// `[num_tokens]`
    pub(crate) positions: Arc<[u32]>,
    pub(crate) layer_norm_eps: f32,
    pub(crate) dropout: Option<Dropout>,
    pub(crate) workspace: Arc<Mutex<EmbeddingsWorkspace>>,
    /// Of the bucket `embeddings`. The gradient of the word table is added to what the heads left there; the others
    /// are overwritten.
    pub(crate) gradients: GradientSlot,
}

/// Memory that is used again from step to step.
#[derive(Debug, Default)]
pub(crate) struct EmbeddingsWorkspace {
    /// `[num_tokens, hidden]` each.
    grad: Vec<f32>,
    scratch: Vec<f32>,
    spare: SavedSum,
}

/// What the LayerNorm normalised, and the statistics of its rows.
#[derive(Debug, Default)]
pub(super) struct SavedSum {
    /// `[num_tokens, hidden]`
    sum: Vec<f32>,
    /// `[num_tokens]` each.
    mean: Vec<f32>,
    rstd: Vec<f32>,
}

impl EmbeddingsCall {
    /// Takes the buffers of a forward pass back.
    pub(super) fn give_back(&self, saved: SavedSum) {
        lock(&self.workspace).spare = saved;
    }

    fn tokens(&self) -> Tokens<'_> {
        let EmbeddingsCall { rows, ids, types, positions, .. } = self;
        Tokens { ids, types, positions, places: &rows.places }
    }

    fn embeddings<'a, B: Raw>(&self, parameters: &'a Parameters<B>) -> Embeddings<'a> {
        Embeddings {
            words: B::values(&parameters.words),
            types: B::values(&parameters.types),
            positions: B::values(&parameters.positions),
            gamma: B::values(&parameters.gamma),
            beta: B::values(&parameters.beta),
            eps: self.layer_norm_eps,
            dropout: self.dropout,
        }
    }
}

/// Embeds the tokens.
///
/// # Shapes
///
/// - output: `[num_tokens, hidden]`
pub(super) fn forward<B: Raw>(
    parameters: &Parameters<B>,
    call: &EmbeddingsCall,
) -> (FloatTensor<B>, SavedSum) {
    let embeddings = call.embeddings(parameters);
    let (num_tokens, hidden) = (call.ids.len(), embeddings.gamma.len());
    let mut output = vec![0.0; num_tokens * hidden];
    let mut saved = std::mem::take(&mut lock(&call.workspace).spare);
    let SavedSum { sum, mean, rstd } = &mut saved;
    let (sum, mean, rstd) = (fit(sum, num_tokens * hidden), fit(mean, num_tokens), fit(rstd, num_tokens));
    embeddings::forward(embeddings, call.tokens(), sum, &mut output, mean, rstd);
    (B::from_values(output, Shape::from([num_tokens, hidden])), saved)
}

/// What backward starts from.
#[derive(Clone, Debug)]
pub(super) struct Saved<B: Backend> {
    pub(super) call: EmbeddingsCall,
    pub(super) parameters: Parameters<B>,
    pub(super) saved: Arc<SavedSum>,
}

#[derive(Debug)]
pub(super) struct EmbeddingsBackward;

impl<B: Raw> Backward<B, 5> for EmbeddingsBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad_output = B::contiguous(grads.consume::<B>(&ops.node));
        let Saved { call, parameters, saved } = ops.state;
        let embeddings = call.embeddings(&parameters);
        let mut workspace = lock(&call.workspace);
        let EmbeddingsWorkspace { grad, scratch, spare } = &mut *workspace;
        let grad_output = B::values(&grad_output);
        fit(grad, grad_output.len()).copy_from_slice(grad_output);
        fit(scratch, grad.len());
        let mut bucket = call.gradients.lock();
        let (words, rest) = bucket.split_at_mut(embeddings.words.len());
        rest.fill(0.0);
        let (positions, rest) = rest.split_at_mut(embeddings.positions.len());
        let (types, rest) = rest.split_at_mut(embeddings.types.len());
        let (gamma, beta) = rest.split_at_mut(embeddings.gamma.len());
        let gradients = TableGradients { words, types, positions, gamma, beta };
        let lent = LentSum { sum: &saved.sum, mean: &saved.mean, rstd: &saved.rstd };
        embeddings::backward(embeddings, call.tokens(), lent, grad, scratch, gradients);
        if let Ok(saved) = Arc::try_unwrap(saved) {
            *spare = saved;
        }
    }
}
