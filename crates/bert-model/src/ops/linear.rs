//! `input · weightᵀ + bias` with the weight stored `[out, in]`, as in Hugging Face files.

use burn::backend::{
    Backend, TensorMetadata,
    autodiff::{
        checkpoint::base::Checkpointer,
        grads::Gradients,
        ops::{Backward, Ops},
    },
    tensor::FloatTensor,
};
use burn::tensor::Shape;

use super::raw::Raw;

/// Computes `input · weightᵀ + bias`.
///
/// # Shapes
///
/// - input: `[num_positions, in]`
/// - weight: `[out, in]`, bias: `[out]`
/// - output: `[num_positions, out]`
pub(super) fn forward<B: Raw>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    let mut output = B::float_matmul(input, B::float_transpose(weight)); // [num_positions, out]
    let bias = B::contiguous(bias);
    let bias = B::values(&bias);
    for row in B::values_mut(&mut output).chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
    output
}

/// What backward needs: the two factors.
#[derive(Clone, Debug)]
pub(super) struct Saved<B: Backend> {
    pub(super) input: FloatTensor<B>,
    pub(super) weight: FloatTensor<B>,
}

#[derive(Debug)]
pub(super) struct LinearBackward;

impl<B: Raw> Backward<B, 3> for LinearBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad_output = B::contiguous(grads.consume::<B>(&ops.node)); // [num_positions, out]
        let [input_node, weight_node, bias_node] = ops.parents;
        let Saved { input, weight } = ops.state;
        if let Some(node) = bias_node {
            let num_out = grad_output.shape()[1];
            let sums = column_sums(B::values(&grad_output), num_out);
            grads.register::<B>(node.id, B::from_values(sums, Shape::from([num_out])));
        }
        if let Some(node) = input_node {
            grads.register::<B>(node.id, B::float_matmul(grad_output.clone(), weight)); // [num_positions, in]
        }
        if let Some(node) = weight_node {
            let grad_weight = B::float_matmul(B::float_transpose(grad_output), input); // [out, in]
            grads.register::<B>(node.id, grad_weight);
        }
    }
}

/// Sums over the rows of a matrix, in row order.
fn column_sums(matrix: &[f32], num_columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; num_columns];
    for row in matrix.chunks_exact(num_columns) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    sums
}
