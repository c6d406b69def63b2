//! What ends each half of an encoder layer: bias, dropout, residual and LayerNorm in one pass over memory.
//!
//! Owns both passes. Rows need not be padded: the place of a row says which elements dropout decides about, so
//! that packed and padded rows are dropped alike. Gradients of bias, gamma and beta are summed over blocks of a
//! fixed number of rows, in block order.

use crate::dropout::{self, Dropout};
pub use crate::layer_norm::Saved;
use crate::layer_norm::{Block, NUM_BLOCK_ROWS, forward_row};
use crate::simd::widest;
use crate::threads::OverThreads;
use rayon::prelude::*;

/// The parameters of one pass.
#[derive(Clone, Copy, Debug)]
pub struct ResidualNorm<'a> {
    /// Added to the input first; `[row_len]`.
    pub bias: &'a [f32],
    /// `[row_len]`
    pub gamma: &'a [f32],
    /// `[row_len]`
    pub beta: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// Dropout of the input with its bias, before the residual is added.
    pub dropout: Option<Dropout>,
    /// Where each row stands among the padded rows; element j of it is number `place * row_len + j`. `[num_rows]`
    pub places: &'a [usize],
}

/// Gradients of the parameters, each `[row_len]`, overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the bias.
    pub bias: &'a mut [f32],
    /// Of gamma.
    pub gamma: &'a mut [f32],
    /// Of beta.
    pub beta: &'a mut [f32],
}

/// Turns `x` into `dropout(x + bias) + residual`, and writes its LayerNorm into `out`.
///
/// # Shapes
///
/// - residual, x, out: `[num_rows, row_len]`
/// - mean, rstd: `[num_rows]`
///
/// # Panics
///
/// If the lengths do not fit each other or rows are empty.
pub fn forward(
    norm: ResidualNorm<'_>,
    residual: &[f32],
    x: &mut [f32],
    out: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    norm.check(&[residual.len(), x.len(), out.len()], &[mean.len(), rstd.len()]);
    let block_len = NUM_BLOCK_ROWS * norm.gamma.len();
    x.par_chunks_mut(block_len)
        .zip(residual.par_chunks(block_len))
        .zip(out.par_chunks_mut(block_len))
        .zip(mean.par_chunks_mut(NUM_BLOCK_ROWS).zip(rstd.par_chunks_mut(NUM_BLOCK_ROWS)))
        .zip(norm.places.par_chunks(NUM_BLOCK_ROWS))
        .over_threads(|((((x, residual), out), statistics), places)| {
            norm.forward_block(places, residual, x, out, statistics);
        });
}

/// Writes the gradients of [`forward`]: of the residual into `grad_residual`, of `x` as it came in into `grad_x`, and
/// those of the parameters, given that of `out`.
///
/// # Shapes
///
/// - grad_out, grad_residual, grad_x: `[num_rows, row_len]`
///
/// # Panics
///
/// As [`forward`].
pub fn backward(
    norm: ResidualNorm<'_>,
    saved: Saved<'_>,
    grad_out: &[f32],
    grad_residual: &mut [f32],
    grad_x: &mut [f32],
    gradients: Gradients<'_>,
) {
    let row_len = norm.gamma.len();
    norm.check(
        &[saved.sum.len(), grad_out.len(), grad_residual.len(), grad_x.len()],
        &[saved.mean.len(), saved.rstd.len()],
    );
    let Gradients { bias, gamma, beta } = gradients;
    assert_eq!([bias.len(), gamma.len(), beta.len()], [row_len; 3], "a gradient per parameter");
    let block_len = NUM_BLOCK_ROWS * row_len;
    let num_blocks = norm.places.len().div_ceil(NUM_BLOCK_ROWS);
    let mut partial = vec![0.0; num_blocks * 3 * row_len]; // [num_blocks, 3, row_len]
    partial
        .par_chunks_exact_mut(3 * row_len)
        .zip(grad_residual.par_chunks_mut(block_len).zip(grad_x.par_chunks_mut(block_len)))
        .zip(norm.places.par_chunks(NUM_BLOCK_ROWS))
        .enumerate()
        .over_threads(|(block_idx, ((partial, (grad_residual, grad_x)), places))| {
            let rows = block_idx * NUM_BLOCK_ROWS..block_idx * NUM_BLOCK_ROWS + places.len();
            let elements = rows.start * row_len..rows.end * row_len;
            let block = Block {
                grad_out: &grad_out[elements.clone()],
                x: &saved.sum[elements],
                mean: &saved.mean[rows.clone()],
                rstd: &saved.rstd[rows],
            };
            norm.backward_block(places, &block, grad_residual, grad_x, partial);
        });
    for sums in [&mut *bias, &mut *gamma, &mut *beta] {
        sums.fill(0.0);
    }
    for block in partial.chunks_exact(3 * row_len) {
        for (sums, block) in [&mut *bias, &mut *gamma, &mut *beta].into_iter().zip(block.chunks(row_len)) {
            crate::slices::add_assign(sums, block);
        }
    }
}

impl ResidualNorm<'_> {
    fn check(&self, matrices: &[usize], rows: &[usize]) {
        let (row_len, num_rows) = (self.gamma.len(), self.places.len());
        assert!(row_len > 0, "layer norm needs rows of at least one element");
        assert_eq!([self.bias.len(), self.beta.len()], [row_len; 2], "as many biases and betas as gammas");
        for len in matrices {
            assert_eq!(*len, num_rows * row_len, "matrices of {num_rows} rows of {row_len} elements");
        }
        for len in rows {
            assert_eq!(*len, num_rows, "one statistic per row of {num_rows}");
        }
    }

    fn forward_block(
        &self,
        places: &[usize],
        residual: &[f32],
        x: &mut [f32],
        out: &mut [f32],
        (mean, rstd): (&mut [f32], &mut [f32]),
    ) {
        let row_len = self.gamma.len();
        let rows = x.chunks_exact_mut(row_len).zip(residual.chunks_exact(row_len));
        let rows = rows.zip(out.chunks_exact_mut(row_len)).zip(mean.iter_mut().zip(rstd)).zip(places);
        for ((((x, residual), out), (mean, rstd)), place) in rows {
            widest(
                #[inline(always)]
                || add(x, self.bias),
            );
            dropout::drop_row(self.dropout, *place as u64, row_len, x);
            widest(
                #[inline(always)]
                || {
                    add(x, residual);
                    (*mean, *rstd) = forward_row(x, self.gamma, self.beta, self.eps, out);
                },
            );
        }
    }

    fn backward_block(
        &self,
        places: &[usize],
        block: &Block<'_>,
        grad_residual: &mut [f32],
        grad_x: &mut [f32],
        partial: &mut [f32],
    ) {
        let row_len = self.gamma.len();
        let (bias_sum, sums) = partial.split_at_mut(row_len);
        let (gamma_sum, beta_sum) = sums.split_at_mut(row_len);
        widest(
            #[inline(always)]
            || block.backward(self.gamma, grad_residual, gamma_sum, beta_sum),
        );
        let rows = grad_x.chunks_exact_mut(row_len).zip(grad_residual.chunks_exact(row_len)).zip(places);
        for ((grad_x, grad_residual), place) in rows {
            grad_x.copy_from_slice(grad_residual);
            dropout::drop_row(self.dropout, *place as u64, row_len, grad_x);
            widest(
                #[inline(always)]
                || add(bias_sum, grad_x),
            );
        }
    }
}

#[inline(always)]
fn add(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// The same results by the plainest loops, in f64.
pub mod reference {
    use super::ResidualNorm;
    use crate::layer_norm;

    /// Returns the normalised rows; see [`super::forward`]. `parameters` are bias, gamma and beta; those of `norm`
    /// are ignored.
    ///
    /// # Shapes
    ///
    /// - residual, x, result: `[num_rows, row_len]`
    /// - parameters: `[row_len]` each
    #[must_use]
    pub fn forward(norm: ResidualNorm<'_>, residual: &[f64], x: &[f64], parameters: [&[f64]; 3]) -> Vec<f64> {
        let [bias, gamma, beta] = parameters;
        let row_len = gamma.len();
        let element = |i: usize| {
            let value = x[i] + bias[i % row_len];
            let kept = match norm.dropout {
                Some(d) if d.keeps((norm.places[i / row_len] * row_len + i % row_len) as u64) => {
                    value / (1.0 - f64::from(d.probability))
                }
                Some(_) => 0.0,
                None => value,
            };
            kept + residual[i]
        };
        let sum: Vec<f64> = (0..x.len()).map(element).collect();
        layer_norm::reference::forward(&sum, gamma, beta, f64::from(norm.eps))
    }
}

#[cfg(test)]
mod tests;
