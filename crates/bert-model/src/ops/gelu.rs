//! GELU as a backend operation; the function and its derivative are `bert_kernels::gelu`.

use bert_kernels::gelu::{self, GeluForm};
use burn::backend::{
    TensorMetadata,
    autodiff::{
        checkpoint::base::Checkpointer,
        grads::Gradients,
        ops::{Backward, Ops},
    },
    tensor::FloatTensor,
};

use super::raw::Raw;

/// Computes `x·Φ(x)` element by element.
///
/// # Shapes
///
/// - input, output: any
pub(super) fn forward<B: Raw>(input: &FloatTensor<B>, form: GeluForm) -> FloatTensor<B> {
    let values = B::values(input);
    let mut output = vec![0.0; values.len()];
    gelu::forward(form, values, &mut output);
    B::from_values(output, input.shape())
}

#[derive(Debug)]
pub(super) struct GeluBackward;

impl<B: Raw> Backward<B, 1> for GeluBackward {
    type State = (FloatTensor<B>, GeluForm);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = B::contiguous(grads.consume::<B>(&ops.node));
        let [input_node] = ops.parents;
        let (input, form) = ops.state;
        gelu::backward(form, B::values(&input), B::values_mut(&mut gradient));
        if let Some(node) = input_node {
            grads.register::<B>(node.id, gradient);
        }
    }
}
