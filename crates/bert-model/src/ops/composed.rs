//! The same stages composed from burn's own operations: for devices whose memory the fused ops cannot reach, and what
//! tests compare the fused ops with.
//!
//! The mask of dropout is drawn here as there: by the same keyed kernel in main memory.

use bert_kernels::{
    dropout::{self, Dropout},
    gelu::GeluForm,
};
use burn::{
    Tensor,
    tensor::{Device, Int, TensorData, activation},
};

use crate::{fused::Activation, rows::TokenRows};

/// Applies a linear map.
///
/// # Shapes
///
/// - input: `[num_tokens, in]`; weight: `[out, in]`; bias: `[out]`
/// - output: `[num_tokens, out]`
pub(crate) fn linear(input: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    input.matmul(weight.transpose()) + bias.unsqueeze()
}

/// Normalises each row to mean 0 and variance 1, then scales by `gamma` and shifts by `beta`.
///
/// # Shapes
///
/// - input, output: `[num_tokens, hidden]`; gamma, beta: `[hidden]`
pub(crate) fn layer_norm(input: Tensor<2>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let centred = input.clone() - input.mean_dim(1); // [num_tokens, hidden]
    let variance = centred.clone().powi_scalar(2).mean_dim(1); // [num_tokens, 1]
    centred / (variance + epsilon).sqrt() * gamma.unsqueeze() + beta.unsqueeze()
}

/// Self-attention of the tokens of each row, by way of padded rows with an additive mask.
///
/// # Shapes
///
/// - query, key, value, output: `[num_tokens, num_heads * head_size]`
pub(crate) fn attention(
    [query, key, value]: [Tensor<2>; 3],
    rows: &TokenRows,
    num_heads: usize,
    dropout: Option<Dropout>,
) -> Tensor<2> {
    let ([_, width], device) = (query.dims(), query.device());
    let (num_rows, row_len, head_size) = (rows.num_rows(), rows.row_len, width / num_heads);
    // Any token will do for padding: nobody attends to it.
    let mut padded = vec![0; num_rows * row_len];
    rows.places.iter().enumerate().for_each(|(token, &place)| padded[place] = token as i64);
    let padded = indices(padded, &device);
    let heads = |states: Tensor<2>| {
        states.select(0, padded.clone()).reshape([num_rows, row_len, num_heads, head_size]).swap_dims(1, 2) // [num_rows, heads, row_len, head_size]
    };
    let scores = heads(query).matmul(heads(key).swap_dims(2, 3)) / (head_size as f64).sqrt(); // [num_rows, heads, row_len, row_len]
    let probs = activation::softmax(scores + mask(rows, &device), 3);
    let context = drop_elements(probs, dropout).matmul(heads(value)); // [num_rows, heads, row_len, head_size]
    let places = rows.places.iter().map(|&place| place as i64).collect();
    context.swap_dims(1, 2).reshape([num_rows * row_len, width]).select(0, indices(places, &device))
}

/// Zero for real keys, far below every score for padding: `[num_rows, 1, 1, row_len]`.
fn mask(rows: &TokenRows, device: &Device) -> Tensor<4> {
    let row_len = rows.row_len;
    let of_row = |length: usize| (0..row_len).map(move |column| if column < length { 0.0 } else { -1e9 });
    let mask: Vec<f32> = rows.rows().flat_map(|row| of_row(row.len())).collect();
    let mask = Tensor::<1>::from_data(TensorData::new(mask, [rows.num_rows() * row_len]), device);
    mask.reshape([rows.num_rows(), 1, 1, row_len])
}

/// Multiplies with the mask of a site, whose elements count in memory order.
///
/// # Shapes
///
/// - input, output: any
pub(crate) fn drop_elements<const D: usize>(input: Tensor<D>, dropout: Option<Dropout>) -> Tensor<D> {
    let Some(dropout) = dropout else { return input };
    let shape = input.dims();
    let mut mask = vec![1.0; shape.iter().product()];
    dropout::apply_in_place(dropout, 0, &mut mask);
    let device = input.device();
    input * Tensor::from_data(TensorData::new(mask, shape), &device)
}

/// Multiplies with the mask of a site whose elements are numbered as if the rows were padded.
///
/// # Shapes
///
/// - input, output: `[num_tokens, hidden]`
pub(crate) fn drop_tokens(input: Tensor<2>, dropout: Option<Dropout>, rows: &TokenRows) -> Tensor<2> {
    let Some(dropout) = dropout else { return input };
    let [num_tokens, hidden] = input.dims();
    let mut mask = vec![1.0; num_tokens * hidden];
    for (mask, &place) in mask.chunks_exact_mut(hidden).zip(&rows.places) {
        dropout::apply_in_place(dropout, (place * hidden) as u64, mask);
    }
    let device = input.device();
    input * Tensor::from_data(TensorData::new(mask, [num_tokens, hidden]), &device)
}

/// Applies an activation element by element.
///
/// # Shapes
///
/// - input, output: any
pub(crate) fn activate<const D: usize>(activation: Activation, input: Tensor<D>) -> Tensor<D> {
    match activation {
        Activation::Gelu(GeluForm::Erf) => activation::gelu(input),
        Activation::Gelu(GeluForm::Tanh) => activation::gelu_approximate(input),
        Activation::Relu => activation::relu(input),
    }
}

/// Picks rows of a matrix.
///
/// # Shapes
///
/// - states: `[num_tokens, hidden]`
/// - output: `[tokens.len(), hidden]`
pub(crate) fn gather(states: Tensor<2>, tokens: &[usize]) -> Tensor<2> {
    let tokens = tokens.iter().map(|&token| token as i64).collect();
    let device = states.device();
    states.select(0, indices(tokens, &device))
}

fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// A scalar whose backward pass enters the graph with `gradient`; shapes as in [`super::gradient_root`].
pub(crate) fn gradient_root<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    (output * gradient).sum()
}
