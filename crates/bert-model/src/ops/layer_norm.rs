//! LayerNorm over the last dimension (<https://arxiv.org/abs/1607.06450>).

use std::sync::Arc;

use bert_kernels::layer_norm;
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

/// Mean and reciprocal standard deviation of each row.
#[derive(Clone, Debug)]
pub(super) struct RowStatistics {
    mean: Arc<[f32]>,
    rstd: Arc<[f32]>,
}

/// Computes `(input - mean) * rstd * gamma + beta` row by row.
///
/// # Shapes
///
/// - input, output: `[num_positions, hidden]`
/// - gamma, beta: `[hidden]`
pub(super) fn forward<B: Raw>(
    input: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &FloatTensor<B>,
    epsilon: f32,
) -> (FloatTensor<B>, RowStatistics) {
    let (gamma, beta) = (B::values(gamma), B::values(beta));
    let values = B::values(input);
    let num_rows = values.len() / gamma.len();
    let mut output = vec![0.0; values.len()];
    let (mut mean, mut rstd) = (vec![0.0; num_rows], vec![0.0; num_rows]);
    layer_norm::forward(values, gamma, beta, epsilon, &mut output, &mut mean, &mut rstd);
    let statistics = RowStatistics { mean: mean.into(), rstd: rstd.into() };
    (B::from_values(output, input.shape()), statistics)
}

/// What backward needs: the operands and the statistics of forward.
#[derive(Clone, Debug)]
pub(super) struct Saved<B: Backend> {
    pub(super) input: FloatTensor<B>,
    pub(super) gamma: FloatTensor<B>,
    pub(super) statistics: RowStatistics,
}

#[derive(Debug)]
pub(super) struct LayerNormBackward;

impl<B: Raw> Backward<B, 3> for LayerNormBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad_output = B::contiguous(grads.consume::<B>(&ops.node));
        let Saved { input, gamma, statistics } = ops.state;
        let hidden = B::values(&gamma).len();
        let mut grad_input = vec![0.0; B::values(&input).len()];
        let (mut grad_gamma, mut grad_beta) = (vec![0.0; hidden], vec![0.0; hidden]);
        layer_norm::backward(
            B::values(&grad_output),
            B::values(&input),
            B::values(&gamma),
            &statistics.mean,
            &statistics.rstd,
            &mut grad_input,
            &mut grad_gamma,
            &mut grad_beta,
        );
        let gradients =
            [(grad_input, input.shape()), (grad_gamma, gamma.shape()), (grad_beta, Shape::from([hidden]))];
        for (node, (values, shape)) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, B::from_values(values, shape));
            }
        }
    }
}
