//! Where a staged backward pass enters a stage: a scalar whose derivative is a given gradient.
//!
//! `(output * gradient).sum()` would do the same with two more passes over memory and a sum nobody reads.

use burn::backend::{
    TensorMetadata,
    autodiff::{
        checkpoint::base::Checkpointer,
        grads::Gradients,
        ops::{Backward, Ops},
    },
    tensor::FloatTensor,
};
use burn::tensor::Shape;

use super::raw::Raw;

/// Returns a zero; only its backward pass means anything.
///
/// # Shapes
///
/// - output, gradient: the same, any
/// - result: `[1]`
///
/// # Panics
///
/// If the gradient has another shape than the output.
pub(super) fn forward<B: Raw>(output: &FloatTensor<B>, gradient: &FloatTensor<B>) -> FloatTensor<B> {
    assert_eq!(output.shape(), gradient.shape(), "a gradient has the shape of its tensor");
    B::from_values(vec![0.0], Shape::from([1]))
}

#[derive(Debug)]
pub(super) struct RootBackward;

impl<B: Raw> Backward<B, 1> for RootBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<FloatTensor<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad_root = B::contiguous(grads.consume::<B>(&ops.node)); // [1]
        let factor = B::values(&grad_root)[0];
        let [output_node] = ops.parents;
        if let Some(node) = output_node {
            let gradient =
                if factor == 1.0 { ops.state } else { B::float_mul_scalar(ops.state, factor.into()) };
            grads.register::<B>(node.id, gradient);
        }
    }
}
