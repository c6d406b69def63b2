//! Layer normalisation over the rows of a matrix, forward and backward.
//!
//! Owns both passes; statistics are kept by the caller between them. Rows are independent of each other, and the
//! gradients of gamma and beta are summed over blocks of a fixed number of rows, in block order, so that no
//! result depends on the number of threads.
//! Paper: [Layer Normalization, Ba, Kiros and Hinton, 2016](https://arxiv.org/abs/1607.06450).

use crate::lanes::{self, NUM_LANES, fold};
use crate::simd::widest;
use crate::threads::OverThreads;
use rayon::prelude::*;

/// Rows whose gradients of gamma and beta are summed before the blocks are. Part of the result's bits.
pub(crate) const NUM_BLOCK_ROWS: usize = 32;

/// What a pass that ends in a LayerNorm (`residual`, `embeddings`) wrote on its way forward and reads on its way back.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The sum that was normalised; `[num_rows, row_len]`.
    pub sum: &'a [f32],
    /// `[num_rows]`
    pub mean: &'a [f32],
    /// `[num_rows]`
    pub rstd: &'a [f32],
}

/// Writes `(x - mean) / sqrt(variance + eps) * gamma + beta` of every row into `out`, and the statistics that
/// [`backward`] needs into `mean` and `rstd` (1 / standard deviation).
///
/// # Shapes
///
/// - x, out: `[num_rows, row_len]`
/// - gamma, beta: `[row_len]`
/// - mean, rstd: `[num_rows]`
///
/// # Panics
///
/// If the lengths do not fit each other or gamma is empty.
pub fn forward(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    out: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    let row_len = checked_row_len(gamma, x.len(), &[mean.len(), rstd.len()], &[out.len()]);
    assert_eq!(beta.len(), row_len, "layer norm needs as many betas as gammas");
    let block_len = NUM_BLOCK_ROWS * row_len;
    x.par_chunks(block_len)
        .zip(out.par_chunks_mut(block_len))
        .zip(mean.par_chunks_mut(NUM_BLOCK_ROWS))
        .zip(rstd.par_chunks_mut(NUM_BLOCK_ROWS))
        .over_threads(|(((x, out), mean), rstd)| forward_block(x, gamma, beta, eps, out, mean, rstd));
}

fn forward_block(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    out: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    widest(
        #[inline(always)]
        || {
            let rows = x.chunks_exact(gamma.len()).zip(out.chunks_exact_mut(gamma.len()));
            for ((x, out), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd)) {
                (*mean, *rstd) = forward_row(x, gamma, beta, eps, out);
            }
        },
    );
}

#[inline(always)]
pub(crate) fn forward_row(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, out: &mut [f32]) -> (f32, f32) {
    let row_len = x.len() as f32;
    let mean = lanes::sum(x, |x| x) / row_len;
    let variance = lanes::sum(x, |x| (x - mean) * (x - mean)) / row_len;
    let rstd = 1.0 / (variance + eps).sqrt();
    for ((out, x), (gamma, beta)) in out.iter_mut().zip(x).zip(gamma.iter().zip(beta)) {
        *out = (x - mean) * rstd * gamma + beta;
    }
    (mean, rstd)
}

/// Writes the gradients of the input, gamma and beta of [`forward`], given that of its output.
///
/// With `n = (x - mean) * rstd` and `g = grad_out * gamma`, row by row:
/// `grad_x = rstd * (g - average(g) - n * average(g * n))`; summed over the rows:
/// `grad_gamma = sum(grad_out * n)`, `grad_beta = sum(grad_out)`. All three are overwritten.
///
/// # Shapes
///
/// - grad_out, x, grad_x: `[num_rows, row_len]`
/// - gamma, grad_gamma, grad_beta: `[row_len]`
/// - mean, rstd: `[num_rows]`
///
/// # Panics
///
/// If the lengths do not fit each other or gamma is empty.
#[expect(clippy::too_many_arguments, reason = "plain slices in and out are the interface of every kernel")]
pub fn backward(
    grad_out: &[f32],
    x: &[f32],
    gamma: &[f32],
    mean: &[f32],
    rstd: &[f32],
    grad_x: &mut [f32],
    grad_gamma: &mut [f32],
    grad_beta: &mut [f32],
) {
    let row_len = checked_row_len(gamma, x.len(), &[mean.len(), rstd.len()], &[grad_out.len(), grad_x.len()]);
    assert_eq!(
        [grad_gamma.len(), grad_beta.len()],
        [row_len; 2],
        "layer norm needs a gradient per gamma and beta"
    );
    let num_blocks = mean.len().div_ceil(NUM_BLOCK_ROWS);
    let mut partial = vec![0.0; num_blocks * 2 * row_len]; // [num_blocks, 2, row_len]
    partial
        .par_chunks_mut(2 * row_len)
        .zip(grad_x.par_chunks_mut(NUM_BLOCK_ROWS * row_len))
        .enumerate()
        .over_threads(|(block_idx, (partial, grad_x))| {
            let rows = block_idx * NUM_BLOCK_ROWS..mean.len().min((block_idx + 1) * NUM_BLOCK_ROWS);
            let elements = rows.start * row_len..rows.end * row_len;
            let block = Block {
                grad_out: &grad_out[elements.clone()],
                x: &x[elements],
                mean: &mean[rows.clone()],
                rstd: &rstd[rows],
            };
            let (gamma_sum, beta_sum) = partial.split_at_mut(row_len);
            widest(
                #[inline(always)]
                || block.backward(gamma, grad_x, gamma_sum, beta_sum),
            );
        });
    sum_blocks(&partial, grad_gamma, grad_beta);
}

/// The rows that one thread takes at a time.
pub(crate) struct Block<'a> {
    pub(crate) grad_out: &'a [f32],
    pub(crate) x: &'a [f32],
    pub(crate) mean: &'a [f32],
    pub(crate) rstd: &'a [f32],
}

impl Block<'_> {
    #[inline(always)]
    pub(crate) fn backward(
        &self,
        gamma: &[f32],
        grad_x: &mut [f32],
        gamma_sum: &mut [f32],
        beta_sum: &mut [f32],
    ) {
        let row_len = gamma.len();
        let rows = self.grad_out.chunks_exact(row_len).zip(self.x.chunks_exact(row_len));
        let statistics = self.mean.iter().zip(self.rstd);
        for (((grad_out, x), grad_x), (mean, rstd)) in
            rows.zip(grad_x.chunks_exact_mut(row_len)).zip(statistics)
        {
            backward_row(grad_out, x, gamma, (*mean, *rstd), grad_x);
            let sums = gamma_sum.iter_mut().zip(beta_sum.iter_mut());
            for ((gamma_sum, beta_sum), (grad_out, x)) in sums.zip(grad_out.iter().zip(x)) {
                *gamma_sum += grad_out * ((x - mean) * rstd);
                *beta_sum += grad_out;
            }
        }
    }
}

#[inline(always)]
fn backward_row(grad_out: &[f32], x: &[f32], gamma: &[f32], (mean, rstd): (f32, f32), grad_x: &mut [f32]) {
    let [sum, sum_normalised] = weighted_sums(grad_out, x, gamma, mean, rstd);
    let row_len = x.len() as f32;
    let (average, average_normalised) = (sum / row_len, sum_normalised / row_len);
    for ((grad_x, grad_out), (x, gamma)) in grad_x.iter_mut().zip(grad_out).zip(x.iter().zip(gamma)) {
        let normalised = (x - mean) * rstd;
        *grad_x = rstd * (grad_out * gamma - average - normalised * average_normalised);
    }
}

/// Returns the sums over a row of `g` and of `g * n`, in lanes.
#[inline(always)]
fn weighted_sums(grad_out: &[f32], x: &[f32], gamma: &[f32], mean: f32, rstd: f32) -> [f32; 2] {
    let mut sums = [0.0; NUM_LANES];
    let mut sums_normalised = [0.0; NUM_LANES];
    let mut add = |i: usize, grad_out: f32, x: f32, gamma: f32| {
        let g = grad_out * gamma;
        sums[i] += g;
        sums_normalised[i] += g * ((x - mean) * rstd);
    };
    let (grads, grads_rest) = grad_out.as_chunks::<NUM_LANES>();
    let ((xs, xs_rest), (gammas, gammas_rest)) = (x.as_chunks::<NUM_LANES>(), gamma.as_chunks::<NUM_LANES>());
    for ((grads, xs), gammas) in grads.iter().zip(xs).zip(gammas) {
        for i in 0..NUM_LANES {
            add(i, grads[i], xs[i], gammas[i]);
        }
    }
    for (i, ((grad, x), gamma)) in grads_rest.iter().zip(xs_rest).zip(gammas_rest).enumerate() {
        add(i, *grad, *x, *gamma);
    }
    [fold(sums, |a, b| a + b), fold(sums_normalised, |a, b| a + b)]
}

/// Adds up the blocks of `partial` (`[num_blocks, 2, row_len]`) in block order.
fn sum_blocks(partial: &[f32], grad_gamma: &mut [f32], grad_beta: &mut [f32]) {
    let row_len = grad_gamma.len();
    grad_gamma.fill(0.0);
    grad_beta.fill(0.0);
    for block in partial.chunks_exact(2 * row_len) {
        let (gamma_sum, beta_sum) = block.split_at(row_len);
        crate::slices::add_assign(grad_gamma, gamma_sum);
        crate::slices::add_assign(grad_beta, beta_sum);
    }
}

fn checked_row_len(gamma: &[f32], num_elements: usize, num_rows: &[usize], matrices: &[usize]) -> usize {
    let row_len = gamma.len();
    assert!(row_len > 0, "layer norm needs rows of at least one element");
    for rows in num_rows {
        assert_eq!(
            rows * row_len,
            num_elements,
            "layer norm needs one statistic per row of {row_len} elements"
        );
    }
    for len in matrices {
        assert_eq!(*len, num_elements, "layer norm needs matrices of equal length");
    }
    row_len
}

/// The same results by the plainest loops, in f64.
pub mod reference {
    /// Returns the normalised rows; see [`super::forward`].
    ///
    /// # Shapes
    ///
    /// - x, result: `[num_rows, row_len]`
    /// - gamma, beta: `[row_len]`
    #[must_use]
    pub fn forward(x: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks(gamma.len()) {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
            let normalise = |(i, x): (usize, &f64)| (x - mean) / (variance + eps).sqrt() * gamma[i] + beta[i];
            out.extend(row.iter().enumerate().map(normalise));
        }
        out
    }
}

#[cfg(test)]
mod tests;
