//! Whole stages with handwritten backward, as extensions of the backend.
//!
//! Each op is one file: forward on a plain backend, what it saves, and its gradients. What an op saves for backward
//! is kept only when somebody asked for gradients. Arithmetic on slices is the business of [`crate::fused`] and
//! `bert-kernels`; access to the slices that of [`raw`]. There is one implementation for all backends whose tensors
//! lie in main memory, so results are the same on each of them. Gradients of parameters do not pass through tensors:
//! they leave by a [`GradientSlot`]. Elsewhere stages are [`composed`] from burn's own operations.

// burn calls its LibTorch backend deprecated; it is named here, in `raw` and in the device factory only.
#![cfg_attr(feature = "libtorch", allow(deprecated))]

pub(crate) mod composed;
mod embeddings;
mod encoder_layer;
mod gradient_root;
mod pretrain_heads;
pub(crate) mod raw;
mod slot;

use std::sync::Arc;

#[cfg(feature = "libtorch")]
use burn::backend::LibTorch;
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

pub(crate) use embeddings::{EmbeddingsCall, EmbeddingsWorkspace};
pub(crate) use encoder_layer::LayerCall;
pub(crate) use pretrain_heads::HeadsCall;
use raw::Raw;
pub(crate) use slot::{GradientSlot, lock};

/// The ops of this crate on primitives. Users call the functions of the same names on [`Tensor`]s.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Autodiff)]
pub(crate) trait BertOps: Backend {
    fn embeddings(
        words: FloatTensor<Self>,
        positions: FloatTensor<Self>,
        types: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        call: EmbeddingsCall,
    ) -> FloatTensor<Self>;
    #[allow(
        clippy::too_many_arguments,
        reason = "the macro wants tensors one by one, and copies the attribute"
    )]
    fn encoder_layer(
        input: FloatTensor<Self>,
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        attention_output: FloatTensor<Self>,
        intermediate: FloatTensor<Self>,
        output: FloatTensor<Self>,
        call: LayerCall,
    ) -> FloatTensor<Self>;
    fn pretrain_heads(
        states: FloatTensor<Self>,
        word_table: FloatTensor<Self>,
        call: HeadsCall,
    ) -> FloatTensor<Self>;
    fn gradient_root(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The forward passes on slices, the same for each backend. (One `impl` for all would overlap with that of `Autodiff`.)
macro_rules! forward_on_slices {
    ($backend:ty) => {
        impl BertOps for $backend {
            fn embeddings(
                words: FloatTensor<Self>,
                positions: FloatTensor<Self>,
                types: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                call: EmbeddingsCall,
            ) -> FloatTensor<Self> {
                let parameters = embeddings::Parameters::<Self> { words, positions, types, gamma, beta };
                let (output, saved) = embeddings::forward::<Self>(&parameters, &call);
                call.give_back(saved);
                output
            }

            fn encoder_layer(
                input: FloatTensor<Self>,
                query: FloatTensor<Self>,
                key: FloatTensor<Self>,
                value: FloatTensor<Self>,
                attention_output: FloatTensor<Self>,
                intermediate: FloatTensor<Self>,
                output: FloatTensor<Self>,
                call: LayerCall,
            ) -> FloatTensor<Self> {
                let weights = [query, key, value, attention_output, intermediate, output];
                let weights = weights.map(Self::contiguous);
                let input = Self::contiguous(input);
                let (output, saved) = encoder_layer::forward::<Self>(&input, &weights, &call);
                call.give_back(saved);
                output
            }

            fn pretrain_heads(
                states: FloatTensor<Self>,
                word_table: FloatTensor<Self>,
                call: HeadsCall,
            ) -> FloatTensor<Self> {
                let (states, word_table) = (Self::contiguous(states), Self::contiguous(word_table));
                pretrain_heads::forward::<Self>(&states, &word_table, &call)
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
    fn embeddings(
        words: FloatTensor<Self>,
        positions: FloatTensor<Self>,
        types: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        call: EmbeddingsCall,
    ) -> FloatTensor<Self> {
        let nodes = [words.node(), positions.node(), types.node(), gamma.node(), beta.node()];
        let parameters = embeddings::Parameters::<B> {
            words: words.into_primitive(),
            positions: positions.into_primitive(),
            types: types.into_primitive(),
            gamma: gamma.into_primitive(),
            beta: beta.into_primitive(),
        };
        let (output, saved) = embeddings::forward::<B>(&parameters, &call);
        let backward = embeddings::EmbeddingsBackward;
        match Backward::<B, 5>::prepare::<C>(backward, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(embeddings::Saved { call, parameters, saved: Arc::new(saved) }, output)
            }
            OpsKind::UnTracked(prep) => {
                call.give_back(saved);
                prep.finish(output)
            }
        }
    }

    fn encoder_layer(
        input: FloatTensor<Self>,
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        attention_output: FloatTensor<Self>,
        intermediate: FloatTensor<Self>,
        output: FloatTensor<Self>,
        call: LayerCall,
    ) -> FloatTensor<Self> {
        let nodes = [input.node()];
        let weights = [query, key, value, attention_output, intermediate, output]
            .map(|weight| B::contiguous(weight.into_primitive()));
        let input = B::contiguous(input.into_primitive());
        let (output, saved) = encoder_layer::forward::<B>(&input, &weights, &call);
        let backward = encoder_layer::EncoderLayerBackward;
        match Backward::<B, 1>::prepare::<C>(backward, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(encoder_layer::Saved { call, input, weights, saved: Arc::new(saved) }, output)
            }
            OpsKind::UnTracked(prep) => {
                call.give_back(saved);
                prep.finish(output)
            }
        }
    }

    fn pretrain_heads(
        states: FloatTensor<Self>,
        word_table: FloatTensor<Self>,
        call: HeadsCall,
    ) -> FloatTensor<Self> {
        let nodes = [states.node()];
        let states = B::contiguous(states.into_primitive());
        let word_table = B::contiguous(word_table.into_primitive());
        let backward = pretrain_heads::PretrainHeadsBackward;
        match Backward::<B, 1>::prepare::<C>(backward, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (loss, gradient) =
                    pretrain_heads::forward_with_gradient::<B>(&states, &word_table, &call);
                prep.finish(gradient, loss)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(pretrain_heads::forward::<B>(&states, &word_table, &call))
            }
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

/// Embeds tokens: word + position + token type, LayerNorm, dropout. Tracked if a parameter is.
///
/// # Shapes
///
/// - words, positions, types: `[num_entries, hidden]`; gamma, beta: `[hidden]`
/// - output: `[num_tokens, hidden]`
pub(crate) fn embeddings(
    [words, positions, types]: [Tensor<2>; 3],
    [gamma, beta]: [Tensor<1>; 2],
    call: EmbeddingsCall,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as BertOps>::embeddings(
        words.into_dispatch(),
        positions.into_dispatch(),
        types.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        call,
    ))
}

/// Applies an encoder layer.
///
/// # Shapes
///
/// - input, output: `[num_tokens, hidden]`
/// - weights: `[out, in]` each, as they are stored: query, key, value, output projection, both maps of the feed-forward
///   network
pub(crate) fn encoder_layer(input: Tensor<2>, weights: [Tensor<2>; 6], call: LayerCall) -> Tensor<2> {
    let [query, key, value, attention_output, intermediate, output] = weights.map(Tensor::into_dispatch);
    let input = input.into_dispatch();
    Tensor::from_dispatch(<Dispatch as BertOps>::encoder_layer(
        input,
        query,
        key,
        value,
        attention_output,
        intermediate,
        output,
        call,
    ))
}

/// Computes the scaled loss of both heads; figures and gradients of the parameters leave by the call.
///
/// # Shapes
///
/// - states: `[num_tokens, hidden]`; word_table: `[vocab, hidden]`
/// - output: `[1]`
pub(crate) fn pretrain_heads(states: Tensor<2>, word_table: Tensor<2>, call: HeadsCall) -> Tensor<1> {
    let (states, word_table) = (states.into_dispatch(), word_table.into_dispatch());
    Tensor::from_dispatch(<Dispatch as BertOps>::pretrain_heads(states, word_table, call))
}

/// A scalar whose backward pass enters the graph of `output` with `gradient`.
///
/// # Shapes
///
/// - output, gradient: the same, any
/// - result: `[1]`
pub(crate) fn gradient_root<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    if !raw::is_main_memory(&output.device()) {
        return composed::gradient_root(output, gradient);
    }
    Tensor::from_dispatch(<Dispatch as BertOps>::gradient_root(
        output.into_dispatch(),
        gradient.into_dispatch(),
    ))
}
