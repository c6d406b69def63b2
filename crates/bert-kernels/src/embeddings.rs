//! The sum of three looked-up rows per token, its LayerNorm and dropout, in one pass.
//!
//! Owns both passes. The tables' gradients are added row by row in the order of the tokens, by one thread per
//! table, so that repeated tokens always add up alike. Tokens need not be padded; their places number the elements
//! that dropout decides about.

use crate::dropout::{self, Dropout};
pub use crate::layer_norm::Saved;
use crate::layer_norm::{self, NUM_BLOCK_ROWS, forward_row};
use crate::simd::widest;
use crate::threads::{OverThreads, join};
use rayon::prelude::*;

/// The tokens of a batch; all slices are `[num_tokens]`.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Row of the word table.
    pub ids: &'a [u32],
    /// Row of the token type table.
    pub types: &'a [u8],
    /// Row of the position table.
    pub positions: &'a [u32],
    /// Where each token stands among the padded ones; element j of it is number `place * row_len + j`.
    pub places: &'a [usize],
}

/// The parameters; rows of the tables are as long as gamma.
#[derive(Clone, Copy, Debug)]
pub struct Embeddings<'a> {
    /// `[vocab_size, row_len]`
    pub words: &'a [f32],
    /// `[num_types, row_len]`
    pub types: &'a [f32],
    /// `[num_positions, row_len]`
    pub positions: &'a [f32],
    /// `[row_len]`
    pub gamma: &'a [f32],
    /// `[row_len]`
    pub beta: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// Dropout of the normalised rows.
    pub dropout: Option<Dropout>,
}

/// Gradients of the parameters; those of the tables are added to, the others overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the word table.
    pub words: &'a mut [f32],
    /// Of the token type table.
    pub types: &'a mut [f32],
    /// Of the position table.
    pub positions: &'a mut [f32],
    /// Of gamma.
    pub gamma: &'a mut [f32],
    /// Of beta.
    pub beta: &'a mut [f32],
}

/// Writes word + token type + position into `sum`, and its LayerNorm after dropout into `out`.
///
/// # Shapes
///
/// - sum, out: `[num_tokens, row_len]`
/// - mean, rstd: `[num_tokens]`
///
/// # Panics
///
/// If the lengths do not fit each other, or a token has no row in a table.
pub fn forward(
    embeddings: Embeddings<'_>,
    tokens: Tokens<'_>,
    sum: &mut [f32],
    out: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    embeddings.check(tokens, &[sum.len(), out.len()], &[mean.len(), rstd.len()]);
    let row_len = embeddings.gamma.len();
    let block_len = NUM_BLOCK_ROWS * row_len;
    sum.par_chunks_mut(block_len)
        .zip(out.par_chunks_mut(block_len))
        .zip(mean.par_chunks_mut(NUM_BLOCK_ROWS).zip(rstd.par_chunks_mut(NUM_BLOCK_ROWS)))
        .enumerate()
        .over_threads(|(block_idx, ((sum, out), (mean, rstd)))| {
            let rows = sum.chunks_exact_mut(row_len).zip(out.chunks_exact_mut(row_len));
            for (i, ((sum, out), (mean, rstd))) in rows.zip(mean.iter_mut().zip(rstd)).enumerate() {
                let token = block_idx * NUM_BLOCK_ROWS + i;
                (*mean, *rstd) = embeddings.forward_token(tokens, token, sum, out);
            }
        });
}

/// Adds the gradients of the tables of [`forward`] and writes those of gamma and beta. `grad_out` becomes the
/// gradient of the sum.
///
/// # Shapes
///
/// - grad_out, scratch: `[num_tokens, row_len]`; what comes out in `scratch` is the gradient before dropout
///
/// # Panics
///
/// As [`forward`].
pub fn backward(
    embeddings: Embeddings<'_>,
    tokens: Tokens<'_>,
    saved: Saved<'_>,
    grad_out: &mut [f32],
    scratch: &mut [f32],
    gradients: Gradients<'_>,
) {
    let matrices = [saved.sum.len(), grad_out.len(), scratch.len()];
    embeddings.check(tokens, &matrices, &[saved.mean.len(), saved.rstd.len()]);
    let tables = [embeddings.words.len(), embeddings.types.len(), embeddings.positions.len()];
    let Gradients { words, types, positions, gamma, beta } = gradients;
    assert_eq!([words.len(), types.len(), positions.len()], tables, "a gradient per row of each table");
    let row_len = embeddings.gamma.len();
    let rows = scratch.par_chunks_exact_mut(row_len).zip(grad_out.par_chunks_exact(row_len));
    rows.zip(tokens.places).over_threads(|((scratch, grad_out), place)| {
        scratch.copy_from_slice(grad_out);
        dropout::drop_row(embeddings.dropout, *place as u64, row_len, scratch);
    });
    let (mean, rstd) = (saved.mean, saved.rstd);
    layer_norm::backward(scratch, saved.sum, embeddings.gamma, mean, rstd, grad_out, gamma, beta);
    let grads = &*grad_out;
    join(
        || add_rows(words, row_len, grads, tokens.ids.iter().map(|id| *id as usize)),
        || {
            add_rows(positions, row_len, grads, tokens.positions.iter().map(|position| *position as usize));
            add_rows(types, row_len, grads, tokens.types.iter().map(|kind| usize::from(*kind)));
        },
    );
}

impl Embeddings<'_> {
    fn check(&self, tokens: Tokens<'_>, matrices: &[usize], rows: &[usize]) {
        let (row_len, num_tokens) = (self.gamma.len(), tokens.ids.len());
        assert!(row_len > 0, "embeddings need rows of at least one element");
        assert_eq!(self.beta.len(), row_len, "embeddings need as many betas as gammas");
        let lens = [tokens.types.len(), tokens.positions.len(), tokens.places.len()];
        assert_eq!(lens, [num_tokens; 3], "one type, position and place per token");
        for len in matrices {
            assert_eq!(*len, num_tokens * row_len, "matrices of {num_tokens} rows of {row_len} elements");
        }
        for len in rows {
            assert_eq!(*len, num_tokens, "one statistic per token of {num_tokens}");
        }
    }

    fn forward_token(
        &self,
        tokens: Tokens<'_>,
        token: usize,
        sum: &mut [f32],
        out: &mut [f32],
    ) -> (f32, f32) {
        let word = row(self.words, tokens.ids[token] as usize, sum.len());
        let kind = row(self.types, tokens.types[token].into(), sum.len());
        let position = row(self.positions, tokens.positions[token] as usize, sum.len());
        let statistics = widest(
            #[inline(always)]
            || {
                for ((sum, word), (kind, position)) in sum.iter_mut().zip(word).zip(kind.iter().zip(position))
                {
                    *sum = word + kind + position;
                }
                forward_row(sum, self.gamma, self.beta, self.eps, out)
            },
        );
        dropout::drop_row(self.dropout, tokens.places[token] as u64, out.len(), out);
        statistics
    }
}

fn row(table: &[f32], idx: usize, row_len: usize) -> &[f32] {
    &table[idx * row_len..(idx + 1) * row_len]
}

fn add_rows(table: &mut [f32], row_len: usize, grads: &[f32], rows: impl Iterator<Item = usize>) {
    for (grad, idx) in grads.chunks_exact(row_len).zip(rows) {
        crate::slices::add_assign(&mut table[idx * row_len..(idx + 1) * row_len], grad);
    }
}

/// The same results by the plainest loops, in f64.
pub mod reference {
    use super::{Embeddings, Tokens};
    use crate::layer_norm;

    /// Returns the rows that come out; see [`super::forward`]. `parameters` are words, types, positions, gamma and
    /// beta; those of `embeddings` are ignored.
    ///
    /// # Shapes
    ///
    /// - parameters: as the fields of [`Embeddings`]
    /// - result: `[num_tokens, row_len]`
    #[must_use]
    pub fn forward(embeddings: Embeddings<'_>, tokens: Tokens<'_>, parameters: [&[f64]; 5]) -> Vec<f64> {
        let [words, types, positions, gamma, beta] = parameters;
        let row_len = gamma.len();
        let mut sum = Vec::new();
        for (token, id) in tokens.ids.iter().enumerate() {
            for j in 0..row_len {
                sum.push(
                    words[*id as usize * row_len + j]
                        + types[usize::from(tokens.types[token]) * row_len + j]
                        + positions[tokens.positions[token] as usize * row_len + j],
                );
            }
        }
        let mut out = layer_norm::reference::forward(&sum, gamma, beta, f64::from(embeddings.eps));
        if let Some(dropout) = embeddings.dropout {
            for (i, out) in out.iter_mut().enumerate() {
                let index = tokens.places[i / row_len] * row_len + i % row_len;
                let scale = 1.0 / (1.0 - f64::from(dropout.probability));
                *out *= if dropout.keeps(index as u64) { scale } else { 0.0 };
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
