//! Both heads of pre-training as one op: states in, the scaled loss out, parameters packed, their gradients in slots.
//!
//! The loss is linear in its scale, which is known beforehand: forward computes the gradients along with it.

use std::sync::{Arc, Mutex};

use burn::{
    backend::{
        TensorMetadata,
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
use crate::{
    fused::{FusedHeads, HeadsBatch, HeadsGradients},
    loss::{BatchLosses, LossScale},
};

/// One application of the heads.
#[derive(Clone, Debug)]
pub(crate) struct HeadsCall {
    pub(crate) heads: Arc<Mutex<FusedHeads>>,
    pub(crate) batch: Arc<HeadsBatch>,
    pub(crate) scale: LossScale,
    /// Of the bucket `heads`.
    pub(crate) gradients: GradientSlot,
    /// Of the bucket `embeddings`: the word table, which comes first in it, is the decoder.
    pub(crate) embedding_gradients: GradientSlot,
    /// Receives the unscaled figures.
    pub(crate) losses: Arc<Mutex<BatchLosses>>,
}

/// Computes the loss, and the gradient of the states; both are scaled.
///
/// # Shapes
///
/// - states, gradient: `[num_tokens, hidden]`; word_table: `[vocab, hidden]`
/// - loss: `[1]`
pub(super) fn forward_with_gradient<B: Raw>(
    states: &FloatTensor<B>,
    word_table: &FloatTensor<B>,
    call: &HeadsCall,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (values, word_table) = (B::values(states), B::values(word_table));
    let mut grad_states = vec![0.0; values.len()];
    let mut heads = lock(&call.heads);
    let mut embedding_gradients = call.embedding_gradients.lock();
    let gradients = HeadsGradients {
        hidden: &mut grad_states,
        bucket: &mut call.gradients.lock(),
        word_table: &mut embedding_gradients[..word_table.len()],
    };
    let losses = heads.train(values, word_table, &call.batch, call.scale, gradients);
    (scaled::<B>(losses, call), B::from_values(grad_states, states.shape()))
}

/// Computes the loss only.
///
/// # Shapes
///
/// - states: `[num_tokens, hidden]`; word_table: `[vocab, hidden]`
/// - output: `[1]`
pub(super) fn forward<B: Raw>(
    states: &FloatTensor<B>,
    word_table: &FloatTensor<B>,
    call: &HeadsCall,
) -> FloatTensor<B> {
    let losses = lock(&call.heads).evaluate(B::values(states), B::values(word_table), &call.batch);
    scaled::<B>(losses, call)
}

fn scaled<B: Raw>(losses: BatchLosses, call: &HeadsCall) -> FloatTensor<B> {
    *lock(&call.losses) = losses;
    let LossScale { mlm, nsp } = call.scale;
    let loss = f64::from(mlm) * losses.mlm_loss_sum + f64::from(nsp) * losses.nsp_loss_sum;
    B::from_values(vec![loss as f32], Shape::from([1]))
}

#[derive(Debug)]
pub(super) struct PretrainHeadsBackward;

impl<B: Raw> Backward<B, 1> for PretrainHeadsBackward {
    /// The gradient of the states.
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<FloatTensor<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad_loss = B::contiguous(grads.consume::<B>(&ops.node)); // [1]
        let factor = B::values(&grad_loss)[0];
        // Those of the parameters have left already, in the scale of the call.
        assert!(factor == 1.0, "the scale of a loss is part of the call");
        let [states_node] = ops.parents;
        if let Some(node) = states_node {
            grads.register::<B>(node.id, ops.state);
        }
    }
}
