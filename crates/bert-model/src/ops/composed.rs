//! The same functions composed from burn's own operations: for devices whose memory the handwritten ops cannot
//! reach, and what tests compare the handwritten ops with.
//!
//! The mask of dropout is drawn here as there: by the same keyed kernel in main memory.

use bert_kernels::dropout::{self, Dropout};
use bert_random::Key;
use burn::{
    Tensor,
    tensor::{TensorData, activation},
};

use super::GeluForm;

/// Applies a linear map; shapes as in [`super::linear`].
pub(crate) fn linear(input: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    input.matmul(weight.transpose()) + bias.unsqueeze()
}

/// LayerNorm; shapes as in [`super::layer_norm`].
pub(crate) fn layer_norm(input: Tensor<2>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let centred = input.clone() - input.mean_dim(1); // [num_positions, hidden]
    let variance = centred.clone().powi_scalar(2).mean_dim(1); // [num_positions, 1]
    centred / (variance + epsilon).sqrt() * gamma.unsqueeze() + beta.unsqueeze()
}

/// Softmax with an additive mask; shapes as in [`super::attention_probs`].
pub(crate) fn attention_probs(scores: Tensor<4>, lengths: &[u32]) -> Tensor<4> {
    let row_len = scores.dims()[3];
    let mask: Vec<f32> = lengths
        .iter()
        .flat_map(|&length| (0..row_len).map(move |column| if column < length as usize { 0.0 } else { -1e9 }))
        .collect();
    let device = scores.device();
    let mask = Tensor::<1>::from_data(TensorData::new(mask, [lengths.len() * row_len]), &device);
    activation::softmax(scores + mask.reshape([lengths.len(), 1, 1, row_len]), 3)
}

/// Multiplication with the mask of a key; shapes as in [`super::dropout`].
pub(crate) fn dropout<const D: usize>(input: Tensor<D>, key: Key, probability: f32) -> Tensor<D> {
    let shape = input.dims();
    let mut mask = vec![1.0; shape.iter().product()];
    dropout::apply_in_place(Dropout { key_bits: key.bits(), probability }, 0, &mut mask);
    let device = input.device();
    input * Tensor::from_data(TensorData::new(mask, shape), &device)
}

/// GELU in one of its forms; shapes as in [`super::gelu`].
pub(crate) fn gelu<const D: usize>(input: Tensor<D>, form: GeluForm) -> Tensor<D> {
    match form {
        GeluForm::Erf => activation::gelu(input),
        GeluForm::Tanh => activation::gelu_approximate(input),
    }
}

/// A scalar whose backward pass enters the graph with `gradient`; shapes as in [`super::gradient_root`].
pub(crate) fn gradient_root<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    (output * gradient).sum()
}
