//! An encoder layer as one op: its input is a tensor, its parameters are packed, their gradients leave by a slot.

use std::sync::{Arc, Mutex};

use burn::{
    backend::{
        Backend, TensorMetadata,
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
    fused::{LayerDropout, LayerPass, LayerShape, LayerVectors, LayerWeights, LayerWorkspace, SavedLayer},
    rows::BatchTokens,
};

/// One application of a layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerCall {
    pub(crate) shape: LayerShape,
    pub(crate) vectors: Arc<LayerVectors>,
    pub(crate) tokens: BatchTokens,
    pub(crate) dropout: LayerDropout,
    pub(crate) workspace: Arc<Mutex<LayerWorkspace>>,
    /// Of the bucket of this layer.
    pub(crate) gradients: GradientSlot,
}

impl LayerCall {
    /// Takes the buffers of a forward pass back.
    pub(super) fn give_back(&self, saved: SavedLayer) {
        lock(&self.workspace).give_back(saved);
    }

    fn pass<'a, B: Raw>(&'a self, weights: &'a Weights<B>) -> LayerPass<'a> {
        let [query, key, value, attention_output, intermediate, output] = weights.each_ref().map(B::values);
        let qkv = [query, key, value];
        let weights = LayerWeights { qkv, attention_output, intermediate, output };
        let Self { shape, vectors, tokens, dropout, .. } = self;
        let BatchTokens { rows, read } = tokens;
        LayerPass { shape: *shape, vectors, weights, rows, read: read.as_deref(), dropout: *dropout }
    }
}

/// Applies the layer and hands out what it saved.
///
/// # Shapes
///
/// - input: `[num_tokens, hidden]`
/// - output: `[num_read, hidden]`
pub(super) fn forward<B: Raw>(
    input: &FloatTensor<B>,
    weights: &Weights<B>,
    call: &LayerCall,
) -> (FloatTensor<B>, SavedLayer) {
    let values = B::values(input);
    let shape = [call.tokens.last().num_tokens(), call.shape.hidden];
    let mut output = vec![0.0; shape[0] * shape[1]];
    let mut workspace = lock(&call.workspace);
    let mut saved = workspace.take_saved();
    call.pass::<B>(weights).forward(values, &mut output, &mut saved, &mut workspace);
    (B::from_values(output, Shape::from(shape)), saved)
}

/// The weights, `[out, in]`: query, key, value, output projection, both maps of the
/// feed-forward network.
pub(super) type Weights<B> = [FloatTensor<B>; 6];

/// What backward starts from.
#[derive(Clone, Debug)]
pub(super) struct Saved<B: Backend> {
    pub(super) call: LayerCall,
    pub(super) input: FloatTensor<B>,
    pub(super) weights: Weights<B>,
    pub(super) saved: Arc<SavedLayer>,
}

#[derive(Debug)]
pub(super) struct EncoderLayerBackward;

impl<B: Raw> Backward<B, 1> for EncoderLayerBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad_output = B::contiguous(grads.consume::<B>(&ops.node));
        let Saved { call, input, weights, saved } = ops.state;
        let mut grad_input = vec![0.0; B::values(&input).len()];
        let mut workspace = lock(&call.workspace);
        call.pass::<B>(&weights).backward(
            B::values(&input),
            &saved,
            B::values(&grad_output),
            &mut grad_input,
            &mut call.gradients.lock(),
            &mut workspace,
        );
        // Somebody who runs backward twice keeps what was saved.
        if let Some(saved) = Arc::into_inner(saved) {
            workspace.give_back(saved);
        }
        let [input_node] = ops.parents;
        if let Some(node) = input_node {
            grads.register::<B>(node.id, B::from_values(grad_input, input.shape()));
        }
    }
}
