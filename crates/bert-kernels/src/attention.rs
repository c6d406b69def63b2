//! Multi-head self-attention over rows of any length, forward and backward.
//!
//! Owns scores, softmax, dropout of the probabilities and the weighted sum. Rows stand one behind the other
//! without padding, so padding costs nothing and cannot be attended to, and only some of the tokens of a row may ask. One head
//! of one row is one piece of work on one thread; it goes over blocks of queries whose scores stay in the second cache, so nothing
//! that is quadratic in the length reaches main memory. Backward computes the probabilities again from two numbers per query.
//! Papers: [Attention Is All You Need, Vaswani et al., 2017](https://arxiv.org/abs/1706.03762);
//! [FlashAttention, Dao et al., 2022](https://arxiv.org/abs/2205.14135) for computing again.

mod backward;
mod scratch;
mod softmax;

pub use backward::{Gradients, backward};

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
    /// Where each row begins among the queries, and at last the number of queries; `[num_rows + 1]`. As `offsets`, if every token
    /// asks.
    pub query_offsets: &'a [usize],
    /// Where each query stands among the padded tokens, `row * padded_len + column`; `[num_queries]`.
    pub query_places: &'a [usize],
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
    first_query: usize,
    num_queries: usize,
}

/// What attention reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[num_queries, num_heads, head_size]`
    pub queries: &'a [f32],
    /// `[num_tokens, 2, num_heads, head_size]`: keys and values.
    pub keys_values: &'a [f32],
}

/// Writes the context of every query, and what [`backward`] needs of the softmax.
///
/// The scores are `q · k / sqrt(head_size)`.
///
/// # Shapes
///
/// - context: `[num_queries, num_heads, head_size]`
/// - statistics: `[num_queries * num_heads * 2]`, in an order of its own
///
/// # Panics
///
/// If the lengths do not fit, the offsets descend, a row is longer than `padded_len`, or a query stands in no row.
pub fn forward(attention: Attention<'_>, inputs: Inputs<'_>, context: &mut [f32], statistics: &mut [f32]) {
    attention.check(inputs, &[context.len()], statistics.len());
    let jobs = attention.jobs();
    let contexts = attention.windows_of(&jobs, |job| job.num_queries, context).map(|[window]| window);
    let work: Vec<_> = contexts.zip(attention.statistics_of(&jobs, statistics)).enumerate().collect();
    for_each(work, |(i, (context, statistics))| {
        with_scratch(attention.precision, |scratch| {
            attention.forward_job(&jobs[i..], inputs, context, statistics, scratch);
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

    fn check(&self, inputs: Inputs<'_>, of_queries: &[usize], num_statistics: usize) {
        assert!(self.width() > 0, "attention needs at least one head of at least one number");
        assert_eq!(self.query_offsets.len(), self.offsets.len(), "attention needs the queries of every row");
        let rows = self.offsets.windows(2).zip(self.query_offsets.windows(2));
        for (row_idx, (row, queries)) in rows.enumerate() {
            let fits = row[0] <= row[1] && row[1] - row[0] <= self.padded_len;
            assert!(fits, "a row of attention from {} to {} within {}", row[0], row[1], self.padded_len);
            let first = row_idx * self.padded_len;
            let fits = |place: &usize| (first..first + row[1] - row[0]).contains(place);
            let fit = self.query_places[queries[0]..queries[1]].iter().all(fits);
            assert!(fit, "queries {} to {} of attention within row {row_idx}", queries[0], queries[1]);
        }
        let [num_tokens, num_queries] = [self.offsets, self.query_offsets].map(|offsets| {
            assert_eq!(offsets.first().copied().unwrap_or(0), 0, "the first row of attention begins at 0");
            offsets.last().copied().unwrap_or(0)
        });
        assert_eq!(self.query_places.len(), num_queries, "attention needs a place per query");
        for len in of_queries.iter().chain([&inputs.queries.len()]) {
            assert_eq!(*len, num_queries * self.width(), "attention needs {num_queries} queries everywhere");
        }
        let num_values = 2 * num_tokens * self.width();
        assert_eq!(inputs.keys_values.len(), num_values, "attention needs a key and a value per token");
        assert_eq!(
            num_statistics,
            num_queries * self.num_heads * 2,
            "attention keeps two numbers per query and head"
        );
    }

    /// Returns all heads of all rows that have tokens, row by row.
    fn jobs(&self) -> Vec<Job> {
        let rows = self.offsets.windows(2).zip(self.query_offsets.windows(2)).enumerate();
        rows.filter(|(_, (row, _))| row[0] < row[1])
            .flat_map(|(row_idx, (row, queries))| {
                let (first_token, num_tokens) = (row[0], row[1] - row[0]);
                let (first_query, num_queries) = (queries[0], queries[1] - queries[0]);
                (0..self.num_heads).map(move |head_idx| Job {
                    row_idx,
                    head_idx,
                    first_token,
                    num_tokens,
                    first_query,
                    num_queries,
                })
            })
            .collect()
    }

    /// Hands each job its columns in its `len_of` rows of `[num_tokens or num_queries, PARTS, num_heads, head_size]`.
    fn windows_of<'m, const PARTS: usize>(
        &self,
        jobs: &[Job],
        len_of: impl Fn(&Job) -> usize,
        matrix: &'m mut [f32],
    ) -> impl Iterator<Item = [Window<'m>; PARTS]> {
        let (width, head_size) = (self.width(), self.head_size);
        let num_rows = matrix.len() / (PARTS * width);
        let mut rest = Window::new(matrix, num_rows, PARTS * width, PARTS * width);
        let mut row: [Window<'m>; PARTS] = std::array::from_fn(|_| rest.cut_rows(0));
        jobs.iter().map(move |job| {
            if job.head_idx == 0 {
                let mut own = rest.cut_rows(len_of(job));
                row = std::array::from_fn(|_| own.cut_cols(width));
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
        let lens: Vec<usize> = jobs.iter().map(|job| 2 * job.num_queries).collect();
        lens.into_iter().map(move |len| {
            let (own, rest) = std::mem::take(&mut statistics).split_at_mut(len);
            statistics = rest;
            own.as_chunks_mut::<2>().0
        })
    }

    /// Returns the keys or the values of a job: part 0 or 1.
    fn part<'m>(&self, job: Job, keys_values: &'m [f32], part: usize) -> Matrix<'m> {
        let stride = 2 * self.width();
        let first = job.first_token * stride + part * self.width() + job.head_idx * self.head_size;
        Matrix::strided(&keys_values[first..], job.num_tokens, self.head_size, stride)
    }

    /// Returns a job's head in queries `from..` of `[num_queries, num_heads, head_size]`.
    fn head<'m>(&self, job: Job, states: &'m [f32], from: usize, len: usize) -> Matrix<'m> {
        let first = (job.first_query + from) * self.width() + job.head_idx * self.head_size;
        Matrix::strided(&states[first..], len, self.head_size, self.width())
    }

    /// Returns how many queries of a job are looked at together: whole tiles, in blocks of about equal size.
    fn block_len(&self, job: Job) -> usize {
        let num_blocks = job.num_queries.div_ceil((BLOCK_SCORES / job.num_tokens).max(TILE_ROWS));
        job.num_queries.div_ceil(num_blocks).next_multiple_of(TILE_ROWS).min(job.num_queries)
    }

    /// Returns what dropout multiplies the probabilities of one query with.
    fn drop_keys<'s>(&self, job: Job, query_idx: usize, factors: &'s mut Factors) -> &'s [f32] {
        if let Some(dropout) = self.dropout.filter(|dropout| dropout.probability > 0.0) {
            let column = self.query_places[job.first_query + query_idx] - job.row_idx * self.padded_len;
            let query = (job.row_idx * self.num_heads + job.head_idx) * self.padded_len + column;
            let first = query as u64 * self.padded_len as u64;
            return factors.of(dropout, first);
        }
        factors.none()
    }

    /// Asks for a share of what the second of `jobs` reads, with each query of the first; spread over a job, this costs nothing.
    fn fetch(&self, jobs: &[Job], query_idx: usize, inputs: Inputs<'_>, of_queries: &[&[f32]]) {
        let [job, next, ..] = jobs else { return };
        let share = |len: usize| query_idx * len / job.num_queries..(query_idx + 1) * len / job.num_queries;
        let (width, size) = (self.width(), self.head_size);
        let head = next.head_idx * size;
        for token in share(next.num_tokens) {
            for part in 0..2 {
                fetch(&inputs.keys_values[(2 * (next.first_token + token) + part) * width + head..][..size]);
            }
        }
        for query in share(next.num_queries) {
            for states in of_queries.iter().chain([&inputs.queries]) {
                fetch(&states[(next.first_query + query) * width + head..][..size]);
            }
        }
    }

    /// Does the first of `jobs`, of which the second comes next.
    fn forward_job(
        &self,
        jobs: &[Job],
        inputs: Inputs<'_>,
        mut context: Window<'_>,
        statistics: &mut [[f32; 2]],
        scratch: &mut Scratch,
    ) {
        let (job, num_tokens) = (jobs[0], jobs[0].num_tokens);
        if job.num_queries == 0 {
            return;
        }
        let Scratch { left, keys_turned, values, probs, factors, .. } = scratch;
        keys_turned.pack_here(self.part(job, inputs.keys_values, 0).transposed());
        values.pack_here(self.part(job, inputs.keys_values, 1));
        factors.begin(num_tokens);
        let (scale, rounds) = (self.scale(), left.rounds());
        let block_len = self.block_len(job);
        for (block_idx, statistics) in statistics.chunks_mut(block_len).enumerate() {
            let (from, len) = (block_idx * block_len, statistics.len());
            let mut scores = probs.of_shape(len, num_tokens, f32::NEG_INFINITY);
            let queries = left.take(self.head(job, inputs.queries, from, len), false);
            compute(queries, keys_turned, Region::whole(scores.window(), false));
            for (group_idx, statistics) in statistics.chunks_mut(GROUP_QUERIES).enumerate() {
                let queries = (group_idx * GROUP_QUERIES..).take(statistics.len());
                for (i, statistics) in queries.clone().zip(&mut *statistics) {
                    statistics[0] = softmax::max(scores.row(i), scale);
                }
                for (i, [max, factor]) in queries.zip(statistics) {
                    let factors = self.drop_keys(job, from + i, factors);
                    *factor = softmax::forward(scores.row(i), *max, scale, factors, rounds);
                    self.fetch(jobs, from + i, inputs, &[]);
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
    work.into_par_iter().over_threads(job);
}

/// The same results by the plainest loops, in f64.
pub mod reference {
    use super::Attention;

    /// Returns the context; see [`super::forward`]. The precision is ignored.
    ///
    /// # Shapes
    ///
    /// - queries, result: `[num_queries, num_heads, head_size]`
    /// - keys_values: `[num_tokens, 2, num_heads, head_size]`
    #[must_use]
    pub fn forward(attention: Attention<'_>, queries: &[f64], keys_values: &[f64]) -> Vec<f64> {
        let (size, heads) = (attention.head_size, attention.num_heads);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut context = vec![0.0; queries.len()];
        let heads_of_queries = queries.chunks_exact(size).zip(context.chunks_exact_mut(size));
        for (idx, (query, context)) in heads_of_queries.enumerate() {
            let (place, head) = (attention.query_places[idx / heads], idx % heads);
            let row_idx = place / attention.padded_len;
            let row = attention.offsets[row_idx]..attention.offsets[row_idx + 1];
            let at = |token: usize, part: usize| {
                &keys_values[((token * 2 + part) * heads + head) * size..][..size]
            };
            let scores = row.clone().map(|token| dot(query, at(token, 0)) / (size as f64).sqrt());
            let exps: Vec<f64> = scores.map(f64::exp).collect();
            let sum: f64 = exps.iter().sum();
            let first = ((row_idx * heads + head) * attention.padded_len + place % attention.padded_len)
                * attention.padded_len;
            for (key_idx, (token, exp)) in row.zip(&exps).enumerate() {
                let weight = attention.dropout.map_or(1.0, |dropout| {
                    let kept = dropout.keeps((first + key_idx) as u64);
                    f64::from(u8::from(kept)) / (1.0 - f64::from(dropout.probability))
                });
                let value = at(token, 1);
                context.iter_mut().zip(value).for_each(|(out, value)| *out += exp / sum * weight * value);
            }
        }
        context
    }
}

#[cfg(test)]
mod tests;
