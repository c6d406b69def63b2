//! Whole stages on plain slices, forward and backward, made of the kernels of `bert-kernels`.
//!
//! Owns which kernel follows which, what forward keeps for backward, and the memory in between, which is used again
//! from step to step. Knows slices and nothing of burn; [`crate::ops`] makes operations of a backend of it. Tokens
//! are packed: there is no padding here.

mod activation;
mod encoder_layer;
mod heads;
mod parameters;

pub(crate) use activation::Activation;
pub(crate) use encoder_layer::{
    LayerDropout, LayerPass, LayerShape, LayerVectors, LayerWeights, LayerWorkspace, SavedLayer,
};
pub(crate) use heads::{FusedHeads, HeadsBatch, HeadsGradients};

/// Splits a bucket, or a part of one, into pieces of the given lengths.
///
/// # Panics
///
/// If the lengths do not add up to that of the bucket.
fn split<const N: usize>(mut bucket: &[f32], lens: [usize; N]) -> [&[f32]; N] {
    let pieces = lens.map(|len| bucket.split_off(..len).expect("a bucket holds its parameters"));
    assert!(bucket.is_empty(), "a bucket holds nothing but its parameters");
    pieces
}

/// [`split`] for writing.
fn split_mut<const N: usize>(mut bucket: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    let pieces = lens.map(|len| bucket.split_off_mut(..len).expect("a bucket holds its parameters"));
    assert!(bucket.is_empty(), "a bucket holds nothing but its parameters");
    pieces
}

/// Collects some states, one below the other.
fn gather(states: &[f32], tokens: &[usize], hidden: usize, out: &mut Vec<f32>) {
    out.clear();
    for &token in tokens {
        out.extend_from_slice(&states[token * hidden..(token + 1) * hidden]);
    }
}

/// Adds gradients of collected states to those of all.
fn scatter_add(gradients: &[f32], tokens: &[usize], hidden: usize, out: &mut [f32]) {
    for (gradient, &token) in gradients.chunks_exact(hidden).zip(tokens) {
        let out = &mut out[token * hidden..(token + 1) * hidden];
        out.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
    }
}
