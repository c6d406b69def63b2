//! Training ops with handwritten backward, as extensions of the backend.
//!
//! Each op is one file: forward on a plain backend, what it saves, and its gradients. What an op saves for backward
//! is built only when somebody asked for gradients. Arithmetic on slices is the business of `bert-kernels`; access
//! to the slices that of [`raw`]. There is one implementation for all backends whose tensors lie in main memory, so
//! dropout masks and the order of sums are the same on each of them. Elsewhere the functions are composed from burn's
//! own operations.

// burn calls its LibTorch backend deprecated; it is named here, in `raw` and in the device factory only.
#![cfg_attr(feature = "libtorch", allow(deprecated))]

mod attention_probs;
#[cfg(any(test, feature = "libtorch-cuda"))]
pub(crate) mod composed;
mod dropout;
mod gelu;
mod gradient_root;
mod layer_norm;
mod linear;
pub(crate) mod raw;

use std::sync::Arc;

#[cfg(feature = "libtorch")]
use burn::backend::LibTorch;

use bert_random::Key;
use burn::{
    Tensor,
    backend::{
        Autodiff, Backend, Dispatch, Flex,
        autodiff::{
            checkpoint::strategy::CheckpointStrategy,
            ops::{Backward, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
};

pub(crate) use bert_kernels::gelu::GeluForm;
use raw::Raw;

/// The ops of this crate on primitives. Users call the functions of the same names on [`Tensor`]s.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Autodiff)]
pub(crate) trait BertOps: Backend {
    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    fn layer_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    fn dropout(input: FloatTensor<Self>, key_bits: u64, probability: f32) -> FloatTensor<Self>;
    fn attention_probs(scores: FloatTensor<Self>, row_lengths: Arc<[u32]>) -> FloatTensor<Self>;
    fn gelu_form(input: FloatTensor<Self>, form: GeluForm) -> FloatTensor<Self>;
    fn gradient_root(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The forward passes on slices, the same for each backend. (One `impl` for all would overlap with that of `Autodiff`.)
macro_rules! forward_on_slices {
    ($backend:ty) => {
        impl BertOps for $backend {
            fn linear(
                input: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: FloatTensor<Self>,
            ) -> FloatTensor<Self> {
                linear::forward::<Self>(input, weight, bias)
            }

            fn layer_norm(
                input: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                epsilon: f32,
            ) -> FloatTensor<Self> {
                layer_norm::forward::<Self>(&Self::contiguous(input), &gamma, &beta, epsilon).0
            }

            fn dropout(input: FloatTensor<Self>, key_bits: u64, probability: f32) -> FloatTensor<Self> {
                dropout::forward::<Self>(input, key_bits, probability)
            }

            fn attention_probs(scores: FloatTensor<Self>, row_lengths: Arc<[u32]>) -> FloatTensor<Self> {
                attention_probs::forward::<Self>(scores, &row_lengths)
            }

            fn gelu_form(input: FloatTensor<Self>, form: GeluForm) -> FloatTensor<Self> {
                gelu::forward::<Self>(&Self::contiguous(input), form)
            }

            fn gradient_root(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
                gradient_root::forward::<Self>(&output, &gradient)
            }
        }
    };
}

forward_on_slices!(Flex);
#[cfg(feature = "libtorch")]
forward_on_slices!(LibTorch);

impl<B: Raw + BertOps, C: CheckpointStrategy> BertOps for Autodiff<B, C> {
    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), weight.node(), bias.node()];
        let (input, weight) = (input.into_primitive(), weight.into_primitive());
        let bias = bias.into_primitive();
        match Backward::<B, 3>::prepare::<C>(linear::LinearBackward, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = linear::Saved { input: input.clone(), weight: weight.clone() };
                prep.finish(saved, <B as BertOps>::linear(input, weight, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(<B as BertOps>::linear(input, weight, bias)),
        }
    }

    fn layer_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), gamma.node(), beta.node()];
        let (gamma, beta) = (gamma.into_primitive(), beta.into_primitive());
        let input = B::contiguous(input.into_primitive());
        match Backward::<B, 3>::prepare::<C>(layer_norm::LayerNormBackward, nodes).compute_bound().stateful()
        {
            OpsKind::Tracked(prep) => {
                let (output, statistics) = layer_norm::forward::<B>(&input, &gamma, &beta, epsilon);
                prep.finish(layer_norm::Saved { input, gamma, statistics }, output)
            }
            OpsKind::UnTracked(prep) => prep.finish(<B as BertOps>::layer_norm(input, gamma, beta, epsilon)),
        }
    }

    fn dropout(input: FloatTensor<Self>, key_bits: u64, probability: f32) -> FloatTensor<Self> {
        let nodes = [input.node()];
        let output = B::dropout(input.into_primitive(), key_bits, probability);
        match Backward::<B, 1>::prepare::<C>(dropout::DropoutBackward, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((key_bits, probability), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn attention_probs(scores: FloatTensor<Self>, row_lengths: Arc<[u32]>) -> FloatTensor<Self> {
        let nodes = [scores.node()];
        let probs = B::attention_probs(scores.into_primitive(), row_lengths);
        let backward = attention_probs::AttentionProbsBackward;
        match Backward::<B, 1>::prepare::<C>(backward, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(probs.clone(), probs),
            OpsKind::UnTracked(prep) => prep.finish(probs),
        }
    }

    fn gelu_form(input: FloatTensor<Self>, form: GeluForm) -> FloatTensor<Self> {
        let nodes = [input.node()];
        let input = B::contiguous(input.into_primitive());
        match Backward::<B, 1>::prepare::<C>(gelu::GeluBackward, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((input.clone(), form), B::gelu_form(input, form)),
            OpsKind::UnTracked(prep) => prep.finish(B::gelu_form(input, form)),
        }
    }

    fn gradient_root(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [output.node()];
        let gradient = gradient.into_primitive();
        let root = B::gradient_root(output.into_primitive(), gradient.clone());
        match Backward::<B, 1>::prepare::<C>(gradient_root::RootBackward, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradient, root),
            OpsKind::UnTracked(prep) => prep.finish(root),
        }
    }
}

/// Applies a linear map.
///
/// # Shapes
///
/// - input: `[num_positions, in]`
/// - weight: `[out, in]`, bias: `[out]`
/// - output: `[num_positions, out]`
pub(crate) fn linear(input: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    #[cfg(feature = "libtorch-cuda")]
    if !raw::is_main_memory(&input.device()) {
        return composed::linear(input, weight, bias);
    }
    let output =
        <Dispatch as BertOps>::linear(input.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(output)
}

/// Normalises each row to mean 0 and variance 1, then scales by `gamma` and shifts by `beta`.
///
/// # Shapes
///
/// - input, output: `[num_positions, hidden]`
/// - gamma, beta: `[hidden]`
pub(crate) fn layer_norm(input: Tensor<2>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f32) -> Tensor<2> {
    #[cfg(feature = "libtorch-cuda")]
    if !raw::is_main_memory(&input.device()) {
        return composed::layer_norm(input, gamma, beta, epsilon.into());
    }
    let (gamma, beta) = (gamma.into_dispatch(), beta.into_dispatch());
    Tensor::from_dispatch(<Dispatch as BertOps>::layer_norm(input.into_dispatch(), gamma, beta, epsilon))
}

/// Zeroes each element with a probability, as a function of the key and the element's index; scales the others.
///
/// # Shapes
///
/// - input, output: any
pub(crate) fn dropout<const D: usize>(input: Tensor<D>, key: Key, probability: f32) -> Tensor<D> {
    #[cfg(feature = "libtorch-cuda")]
    if !raw::is_main_memory(&input.device()) {
        return composed::dropout(input, key, probability);
    }
    Tensor::from_dispatch(<Dispatch as BertOps>::dropout(input.into_dispatch(), key.bits(), probability))
}

/// Softmax over the real tokens of each sequence.
///
/// # Shapes
///
/// - scores, output: `[num_rows, heads, row_len, row_len]`
/// - row_lengths: `[num_rows]`
pub(crate) fn attention_probs(scores: Tensor<4>, row_lengths: Arc<[u32]>) -> Tensor<4> {
    #[cfg(feature = "libtorch-cuda")]
    if !raw::is_main_memory(&scores.device()) {
        return composed::attention_probs(scores, &row_lengths);
    }
    Tensor::from_dispatch(<Dispatch as BertOps>::attention_probs(scores.into_dispatch(), row_lengths))
}

/// GELU in one of its two forms.
///
/// # Shapes
///
/// - input, output: any
pub(crate) fn gelu<const D: usize>(input: Tensor<D>, form: GeluForm) -> Tensor<D> {
    #[cfg(feature = "libtorch-cuda")]
    if !raw::is_main_memory(&input.device()) {
        return composed::gelu(input, form);
    }
    Tensor::from_dispatch(<Dispatch as BertOps>::gelu_form(input.into_dispatch(), form))
}

/// A scalar whose backward pass enters the graph of `output` with `gradient`.
///
/// # Shapes
///
/// - output, gradient: the same, any
/// - result: `[1]`
pub(crate) fn gradient_root<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "libtorch-cuda")]
    if !raw::is_main_memory(&output.device()) {
        return composed::gradient_root(output, gradient);
    }
    Tensor::from_dispatch(<Dispatch as BertOps>::gradient_root(
        output.into_dispatch(),
        gradient.into_dispatch(),
    ))
}

#[cfg(test)]
mod finite_differences;
#[cfg(test)]
mod tests;
