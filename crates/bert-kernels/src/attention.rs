//! Multi-head self-attention over rows of any length, forward and backward.
//!
//! Owns scores, softmax, dropout of the probabilities and the weighted sum. Rows stand one behind the other
//! without padding, so padding costs nothing and cannot be attended to. One head of one row is one piece of work on
//! one thread; it goes over blocks of queries whose scores stay in the second cache, so nothing that is quadratic
//! in the length reaches main memory. Backward computes the probabilities again from two numbers per query.
//! Papers: [Attention Is All You Need, Vaswani et al., 2017](https://arxiv.org/abs/1706.03762);
//! [FlashAttention, Dao et al., 2022](https://arxiv.org/abs/2205.14135) for computing again.

mod backward;
mod softmax;

pub use backward::backward;

use crate::dropout::{self, Dropout};
use crate::gemm::{Matrix, PackedA, PackedB, Precision, Region, compute};
use rayon::prelude::*;
use std::cell::RefCell;

/// Scores of one block of queries: 256 KB, so that those and their gradients fit the second cache.
const BLOCK_SCORES: usize = 64 * 1024;

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

/// Memory of one thread, kept from job to job.
struct Scratch {
    precision: Precision,
    left: PackedA,
    keys_turned: PackedB,
    keys: PackedB,
    values: PackedB,
    block: PackedB,
    probs: Vec<f32>,
    grads: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
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
    let contexts = attention.rows_by_head(&jobs, context, 1).into_iter().map(|[rows]| rows);
    let work: Vec<_> = jobs.iter().zip(contexts).zip(attention.statistics_of(&jobs, statistics)).collect();
    for_each(work, |((job, context), statistics)| {
        with_scratch(attention.precision, |scratch| {
            attention.forward_job(*job, qkv, context, statistics, scratch);
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

    /// Hands each job its stretches of the rows of `[num_tokens, PARTS, num_heads, head_size]`.
    fn rows_by_head<'m, const PARTS: usize>(
        &self,
        jobs: &[Job],
        matrix: &'m mut [f32],
        parts: usize,
    ) -> Vec<[Vec<[&'m mut [f32]; 1]>; PARTS]> {
        let mut by_job: Vec<[Vec<_>; PARTS]> =
            jobs.iter().map(|job| std::array::from_fn(|_| Vec::with_capacity(job.num_tokens))).collect();
        let mut tokens = matrix.chunks_exact_mut(parts * self.width());
        for (row_jobs, jobs) in by_job.chunks_mut(self.num_heads).zip(jobs.chunks(self.num_heads)) {
            for token in tokens.by_ref().take(jobs[0].num_tokens) {
                let mut heads = token.chunks_exact_mut(self.head_size);
                for part in 0..PARTS {
                    for (job, head) in row_jobs.iter_mut().zip(heads.by_ref().take(self.num_heads)) {
                        job[part].push([head]);
                    }
                }
            }
        }
        by_job
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

    /// Returns how many queries of a job are looked at together.
    fn block_len(&self, job: Job) -> usize {
        let fitting = BLOCK_SCORES / job.num_tokens;
        let whole_tiles = fitting / 42 * 42; // 14 and 6 rows divide 42
        whole_tiles.max(42).min(job.num_tokens)
    }

    /// Drops probabilities, or their gradients, of one query.
    fn drop_keys(&self, job: Job, query_idx: usize, keys: &mut [f32]) {
        let query = (job.row_idx * self.num_heads + job.head_idx) * self.padded_len + query_idx;
        dropout::drop_row(self.dropout, query as u64, self.padded_len, keys);
    }

    fn forward_job(
        &self,
        job: Job,
        qkv: &[f32],
        context: Vec<[&mut [f32]; 1]>,
        statistics: &mut [[f32; 2]],
        scratch: &mut Scratch,
    ) {
        let num_tokens = job.num_tokens;
        let mut context = context.into_iter();
        scratch.keys_turned.pack_here(self.part(job, qkv, 1, 0, num_tokens).transposed());
        scratch.values.pack_here(self.part(job, qkv, 2, 0, num_tokens));
        for (block_idx, statistics) in statistics.chunks_mut(self.block_len(job)).enumerate() {
            let (from, len) = (block_idx * self.block_len(job), statistics.len());
            self.scores(job, qkv, from, len, scratch);
            let probs = &mut scratch.probs[..len * num_tokens];
            for ((i, query), statistics) in
                probs.chunks_exact_mut(num_tokens).enumerate().zip(statistics.iter_mut())
            {
                *statistics = softmax::forward(query);
                self.drop_keys(job, from + i, query);
            }
            scratch.left.pack_here(Matrix::new(probs, len, num_tokens));
            let rows = Region::of_rows(context.by_ref().take(len).collect());
            compute(&scratch.left, &scratch.values, rows, &|_, _, _| {});
        }
    }

    /// Computes the scores of queries `from..from + len` into the scratch; the keys are packed there.
    fn scores(&self, job: Job, qkv: &[f32], from: usize, len: usize, scratch: &mut Scratch) {
        let scale = self.scale();
        scratch.left.pack_here(self.part(job, qkv, 0, from, len));
        let scores = grown(&mut scratch.probs, len * job.num_tokens);
        compute(
            &scratch.left,
            &scratch.keys_turned,
            Region::whole(scores, job.num_tokens),
            &|_, _, [scores]: [&mut [f32]; 1]| {
                for score in scores {
                    *score *= scale;
                }
            },
        );
    }
}

/// Returns the first `len` elements of a buffer that grows and never shrinks.
fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

fn for_each<T: Send>(work: Vec<T>, job: impl Fn(T) + Send + Sync) {
    if rayon::current_num_threads() == 1 {
        work.into_iter().for_each(job);
    } else {
        work.into_par_iter().with_max_len(1).for_each(job);
    }
}

/// Lends the memory of this thread to `work`.
fn with_scratch(precision: Precision, work: impl FnOnce(&mut Scratch)) {
    let kept = SCRATCH.take().filter(|scratch| scratch.precision == precision);
    let mut scratch = kept.unwrap_or_else(|| {
        Box::new(Scratch {
            precision,
            left: PackedA::new(precision),
            keys_turned: PackedB::new(precision),
            keys: PackedB::new(precision),
            values: PackedB::new(precision),
            block: PackedB::new(precision),
            probs: Vec::new(),
            grads: Vec::new(),
        })
    });
    work(&mut scratch);
    SCRATCH.set(Some(scratch));
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
