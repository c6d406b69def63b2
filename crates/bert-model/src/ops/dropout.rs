//! Dropout whose mask is a function of (key, element index): nothing is saved, backward draws it again.

use burn::backend::{
    autodiff::{
        checkpoint::base::Checkpointer,
        grads::Gradients,
        ops::{Backward, Ops},
    },
    tensor::FloatTensor,
};

use bert_kernels::dropout::{self, Dropout};

use super::raw::Raw;

/// Zeroes elements with the given probability and scales the others by `1 / (1 - probability)`.
///
/// # Shapes
///
/// - input, output: any
pub(super) fn forward<B: Raw>(input: FloatTensor<B>, key_bits: u64, probability: f32) -> FloatTensor<B> {
    let mut output = B::contiguous(input);
    dropout::apply_in_place(Dropout { key_bits, probability }, 0, B::values_mut(&mut output));
    output
}

/// Key bits and probability; the mask is drawn again.
#[derive(Debug)]
pub(super) struct DropoutBackward;

impl<B: Raw> Backward<B, 1> for DropoutBackward {
    type State = (u64, f32);

    fn backward(self, ops: Ops<(u64, f32), 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad_output = grads.consume::<B>(&ops.node);
        let [input_node] = ops.parents;
        let (key_bits, probability) = ops.state;
        if let Some(node) = input_node {
            // The derivative is the mask with its scale: the same map as forward.
            grads.register::<B>(node.id, forward::<B>(grad_output, key_bits, probability));
        }
    }
}
