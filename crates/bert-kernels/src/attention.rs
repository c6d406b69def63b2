//! Multi-head self-attention over rows of any length, forward and backward.
//!
//! Owns scores, softmax, dropout of the probabilities and the weighted sum. Rows stand one behind the other
//! without padding, so padding costs nothing and cannot be attended to. One head of one row is one piece of work on
//! one thread; it goes over blocks of queries whose scores stay in the second cache, so nothing that is quadratic
//! in the length reaches main memory. Backward computes the probabilities again from two numbers per query.
//! Papers: [Attention Is All You Need, Vaswani et al., 2017](https://arxiv.org/abs/1706.03762);
//! [FlashAttention, Dao et al., 2022](https://arxiv.org/abs/2205.14135) for computing again.

mod backward;
mod scratch;
mod softmax;

pub use backward::backward;

use crate::dropout::Dropout;
use crate::gemm::{Matrix, Precision, Region, compute, compute_then};
use crate::simd::window::{Window, fetch};
use crate::stretch;
use crate::threads::OverThreads;
use rayon::prelude::*;
use scratch::{Factors, Scratch, with_scratch};

/// Scores of one block of queries: 256 KB, so that those and their gradients fit the second cache.
const BLOCK_SCORES: usize = 64 * 1024;

/// Queries whose maxima are looked for together: the processor works on several rows at the same time.
const GROUP_QUERIES: usize = 4;
/// Rows of the largest tile; blocks of queries are multiples of it.
const TILE_ROWS: usize = 14;

/// What is attended to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Where each row begins among the tokens, and at last the number of tokens; `[num_rows + 1]`.
    pub offsets: &'a [usize],
    /// Heads side by side.
    pub num_heads: usize,
    /// Numbers per head.
    pub head_size: usize,
    /// Length that rows would be padded to: it numbers the elements that dropout decides about, as those of
    /// `[num_rows, num_heads, padded_len, padded_len]`.
    pub padded_len: usize,
    /// What the operands of the products are rounded to.
    pub precision: Precision,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}

/// One head of one row.
#[derive(Clone, Copy)]
struct Job {
    row_idx: usize,
    head_idx: usize,
    first_token: usize,
    num_tokens: usize,
}

/// Writes the context of every token, and what [`backward`] needs of the softmax.
///
/// The scores are `q · k / sqrt(head_size)`.
///
/// # Shapes
///
/// - qkv: `[num_tokens, 3, num_heads, head_size]`: queries, keys and values
/// - context: `[num_tokens, num_heads, head_size]`
/// - statistics: `[num_tokens * num_heads * 2]`, in an order of its own
///
/// # Panics
///
/// If the lengths do not fit, the offsets descend, or a row is longer than `padded_len`.
pub fn forward(attention: Attention<'_>, qkv: &[f32], context: &mut [f32], statistics: &mut [f32]) {
    attention.check(&[qkv.len() / 3, context.len()], qkv.len(), statistics.len());
    let jobs = attention.jobs();
    let contexts = attention.windows_of(&jobs, context).map(|[window]| window);
    let work: Vec<_> = contexts.zip(attention.statistics_of(&jobs, statistics)).enumerate().collect();
    for_each(work, |(i, (context, statistics))| {
        with_scratch(attention.precision, |scratch| {
            attention.forward_job(&jobs[i..], qkv, context, statistics, scratch);
        });
    });
}

impl<'a> Attention<'a> {
    /// Returns the width of all heads together.
    fn width(&self) -> usize {
        self.num_heads * self.head_size
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_size as f32).sqrt()
    }

    fn check(&self, states: &[usize], qkv_len: usize, num_statistics: usize) {
        let num_tokens = self.offsets.last().copied().unwrap_or(0);
        let first = self.offsets.first().copied().unwrap_or(0);
        assert_eq!(first, 0, "the first row of attention begins at token 0");
        for row in self.offsets.windows(2) {
            let fits = row[0] <= row[1] && row[1] - row[0] <= self.padded_len;
            assert!(fits, "a row of attention from {} to {} within {}", row[0], row[1], self.padded_len);
        }
        assert!(self.width() > 0, "attention needs at least one head of at least one number");
        for len in states {
            assert_eq!(*len, num_tokens * self.width(), "attention needs {num_tokens} tokens everywhere");
        }
        assert_eq!(qkv_len, 3 * num_tokens * self.width(), "attention needs queries, keys and values");
        assert_eq!(
            num_statistics,
            num_tokens * self.num_heads * 2,
            "attention keeps two numbers per query and head"
        );
    }

    /// Returns all heads of all rows that have tokens, row by row.
    fn jobs(&self) -> Vec<Job> {
        let rows = self.offsets.windows(2).enumerate().filter(|(_, row)| row[0] < row[1]);
        rows.flat_map(|(row_idx, row)| {
            let (first_token, num_tokens) = (row[0], row[1] - row[0]);
            (0..self.num_heads).map(move |head_idx| Job { row_idx, head_idx, first_token, num_tokens })
        })
        .collect()
    }

    /// Hands each job its columns in its tokens of `[num_tokens, PARTS, num_heads, head_size]`.
    fn windows_of<'m, const PARTS: usize>(
        &self,
        jobs: &[Job],
        matrix: &'m mut [f32],
    ) -> impl Iterator<Item = [Window<'m>; PARTS]> {
        let (width, head_size) = (self.width(), self.head_size);
        let num_tokens = matrix.len() / (PARTS * width);
        let mut rest = Window::new(matrix, num_tokens, PARTS * width, PARTS * width);
        let mut row: [Window<'m>; PARTS] = std::array::from_fn(|_| rest.cut_rows(0));
        jobs.iter().map(move |job| {
            if job.head_idx == 0 {
                let mut tokens = rest.cut_rows(job.num_tokens);
                row = std::array::from_fn(|_| tokens.cut_cols(width));
            }
            row.each_mut().map(|part| part.cut_cols(head_size))
        })
    }

    /// Hands each job its two numbers per query.
    fn statistics_of<'m>(
        &self,
        jobs: &[Job],
        mut statistics: &'m mut [f32],
    ) -> impl Iterator<Item = &'m mut [[f32; 2]]> {
        let lens: Vec<usize> = jobs.iter().map(|job| 2 * job.num_tokens).collect();
        lens.into_iter().map(move |len| {
            let (own, rest) = std::mem::take(&mut statistics).split_at_mut(len);
            statistics = rest;
            own.as_chunks_mut::<2>().0
        })
    }

    /// Returns queries, keys or values (part 0, 1 or 2) of tokens `from..` of a job.
    fn part<'m>(&self, job: Job, qkv: &'m [f32], part: usize, from: usize, len: usize) -> Matrix<'m> {
        let stride = 3 * self.width();
        let first = (job.first_token + from) * stride + part * self.width() + job.head_idx * self.head_size;
        Matrix::strided(&qkv[first..], len, self.head_size, stride)
    }

    /// Returns a job's head in tokens `from..` of `[num_tokens, num_heads, head_size]`.
    fn head<'m>(&self, job: Job, states: &'m [f32], from: usize, len: usize) -> Matrix<'m> {
        let first = (job.first_token + from) * self.width() + job.head_idx * self.head_size;
        Matrix::strided(&states[first..], len, self.head_size, self.width())
    }

    /// Returns how many queries of a job are looked at together: whole tiles, in blocks of about equal size.
    fn block_len(&self, job: Job) -> usize {
        let num_blocks = job.num_tokens.div_ceil((BLOCK_SCORES / job.num_tokens).max(TILE_ROWS));
        job.num_tokens.div_ceil(num_blocks).next_multiple_of(TILE_ROWS).min(job.num_tokens)
    }

    /// Returns what dropout multiplies the probabilities of one query with.
    fn drop_keys<'s>(&self, job: Job, query_idx: usize, factors: &'s mut Factors) -> &'s [f32] {
        if let Some(dropout) = self.dropout.filter(|dropout| dropout.probability > 0.0) {
            let query = (job.row_idx * self.num_heads + job.head_idx) * self.padded_len + query_idx;
            let first = query as u64 * self.padded_len as u64;
            return factors.of(dropout, first);
        }
        factors.none()
    }

    /// Asks for what the next job needs of the token as far from its first one; spread over a job, this costs nothing.
    fn fetch(&self, next: Option<&Job>, token: usize, qkv: &[f32], states: &[&[f32]]) {
        if let Some(next) = next.filter(|next| token < next.num_tokens) {
            let (token, width, size) = (next.first_token + token, self.width(), self.head_size);
            let head = next.head_idx * size;
            for part in 0..3 {
                fetch(&qkv[(3 * token + part) * width + head..][..size]);
            }
            for states in states {
                fetch(&states[token * width + head..][..size]);
            }
        }
    }

    /// Does the first of `jobs`, of which the second comes next.
    fn forward_job(
        &self,
        jobs: &[Job],
        qkv: &[f32],
        mut context: Window<'_>,
        statistics: &mut [[f32; 2]],
        scratch: &mut Scratch,
    ) {
        let (job, num_tokens) = (jobs[0], jobs[0].num_tokens);
        let Scratch { left, keys_turned, values, probs, factors, .. } = scratch;
        keys_turned.pack_here(self.part(job, qkv, 1, 0, num_tokens).transposed());
        values.pack_here(self.part(job, qkv, 2, 0, num_tokens));
        factors.begin(num_tokens);
        let (scale, rounds) = (self.scale(), left.rounds());
        let block_len = self.block_len(job);
        for (block_idx, statistics) in statistics.chunks_mut(block_len).enumerate() {
            let (from, len) = (block_idx * block_len, statistics.len());
            let mut scores = probs.of_shape(len, num_tokens, f32::NEG_INFINITY);
            let queries = left.take(self.part(job, qkv, 0, from, len), false);
            compute(queries, keys_turned, Region::whole(scores.window(), false));
            for (group_idx, statistics) in statistics.chunks_mut(GROUP_QUERIES).enumerate() {
                let queries = (group_idx * GROUP_QUERIES..).take(statistics.len());
                for (i, statistics) in queries.clone().zip(&mut *statistics) {
                    statistics[0] = softmax::max(scores.row(i), scale);
                }
                for (i, [max, factor]) in queries.zip(statistics) {
                    let factors = self.drop_keys(job, from + i, factors);
                    *factor = softmax::forward(scores.row(i), *max, scale, factors, rounds);
                    self.fetch(jobs.get(1), from + i, qkv, &[]);
                }
            }
            let normalise = |row: usize, _: usize, [context]: [&mut [f32]; 1]| {
                let factor = statistics[row][1];
                stretch::change(context, |value| value * factor);
            };
            let exps = left.take(scores.matrix(), true);
            compute_then(exps, values, Region::whole(context.cut_rows(len), false), Some(&normalise));
        }
    }
}

fn for_each<T: Send>(work: Vec<T>, job: impl Fn(T) + Send + Sync) {
    work.into_par_iter().with_max_len(1).over_threads().for_each(job);
}

/// The same results by the plainest loops, in f64.
pub mod reference {
    use super::Attention;

    /// Returns the context; see [`super::forward`]. The precision is ignored.
    ///
    /// # Shapes
    ///
    /// - qkv: `[num_tokens, 3, num_heads, head_size]`
    /// - result: `[num_tokens, num_heads, head_size]`
    #[must_use]
    pub fn forward(attention: Attention<'_>, qkv: &[f64]) -> Vec<f64> {
        let (size, heads) = (attention.head_size, attention.num_heads);
        let padded_len = attention.padded_len;
        let at = |token: usize, part: usize, head: usize| {
            &qkv[((token * 3 + part) * heads + head) * size..][..size]
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut context = Vec::with_capacity(qkv.len() / 3);
        for (row_idx, row) in attention.offsets.windows(2).enumerate() {
            for (query_idx, query) in (row[0]..row[1]).enumerate() {
                for head in 0..heads {
                    let scores = (row[0]..row[1])
                        .map(|key| dot(at(query, 0, head), at(key, 1, head)) / (size as f64).sqrt());
                    let exps: Vec<f64> = scores.map(f64::exp).collect();
                    let sum: f64 = exps.iter().sum();
                    let mut out = vec![0.0; size];
                    for (key_idx, exp) in exps.iter().enumerate() {
                        let index =
                            ((row_idx * heads + head) * padded_len + query_idx) * padded_len + key_idx;
                        let weight = attention.dropout.map_or(1.0, |dropout| {
                            if dropout.keeps(index as u64) {
                                1.0 / (1.0 - f64::from(dropout.probability))
                            } else {
                                0.0
                            }
                        });
                        let value = at(row[0] + key_idx, 2, head);
                        out.iter_mut().zip(value).for_each(|(out, value)| *out += exp / sum * weight * value);
                    }
                    context.extend(out);
                }
            }
        }
        context
    }
}

#[cfg(test)]
mod tests;
