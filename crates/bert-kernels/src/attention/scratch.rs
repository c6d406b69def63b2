//! Memory of one thread for one head of one row.
//!
//! Owns packed operands, scores and factors of dropout, and keeps them from job to job. Rows of scores are padded to
//! whole lanes, so that no loop over them has a rest.

use crate::dropout::{self, Dropout};
use crate::gemm::{LeftScratch, Matrix, PackedB, Precision};
use crate::lanes::NUM_LANES;
use crate::simd::window::Window;
use std::cell::RefCell;

/// Values per cache line.
const LINE: usize = 16;

pub(super) struct Scratch {
    precision: Precision,
    pub(super) left: LeftScratch,
    pub(super) keys_turned: PackedB,
    pub(super) keys: PackedB,
    pub(super) values: PackedB,
    pub(super) block: PackedB,
    pub(super) probs: Scores,
    pub(super) grads: Scores,
    pub(super) factors: Factors,
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

/// Lends the memory of this thread to `work`.
pub(super) fn with_scratch(precision: Precision, work: impl FnOnce(&mut Scratch)) {
    let kept = SCRATCH.take().filter(|scratch| scratch.precision == precision);
    let mut scratch = kept.unwrap_or_else(|| {
        Box::new(Scratch {
            precision,
            left: LeftScratch::new(precision),
            keys_turned: PackedB::new(precision),
            keys: PackedB::new(precision),
            values: PackedB::new(precision),
            block: PackedB::new(precision),
            probs: Scores::default(),
            grads: Scores::default(),
            factors: Factors::default(),
        })
    });
    work(&mut scratch);
    SCRATCH.set(Some(scratch));
}

/// Memory of a matrix with one row per query and one column per key.
#[derive(Default)]
pub(super) struct Scores {
    memory: Vec<f32>,
}

/// A matrix with one row per query and one column per key; rows begin at cache lines.
pub(super) struct ScoresOf<'a> {
    values: &'a mut [f32],
    num_queries: usize,
    num_keys: usize,
    stride: usize,
}

impl Scores {
    /// Returns a matrix with unknown values, and with `padding` behind each row.
    pub(super) fn of_shape(&mut self, num_queries: usize, num_keys: usize, padding: f32) -> ScoresOf<'_> {
        let padded = num_keys.next_multiple_of(NUM_LANES);
        // An odd number of lines: the beginnings of rows fall into all sets of the first cache.
        let stride = padded + LINE;
        let len = num_queries * stride;
        if self.memory.len() < len + LINE {
            self.memory.resize(len + LINE, 0.0);
        }
        let start = self.memory.as_ptr().align_offset(64).min(LINE);
        let values = &mut self.memory[start..start + len];
        if padded > num_keys {
            values.chunks_exact_mut(stride).for_each(|row| row[num_keys..padded].fill(padding));
        }
        ScoresOf { values, num_queries, num_keys, stride }
    }
}

impl ScoresOf<'_> {
    pub(super) fn window(&mut self) -> Window<'_> {
        Window::new(self.values, self.num_queries, self.num_keys, self.stride)
    }

    pub(super) fn matrix(&self) -> Matrix<'_> {
        Matrix::strided(self.values, self.num_queries, self.num_keys, self.stride)
    }

    /// Returns a row with its padding: whole lanes.
    pub(super) fn row(&mut self, query: usize) -> &mut [f32] {
        &mut self.values[query * self.stride..][..self.stride - LINE]
    }
}

/// What dropout multiplies the probabilities of one query with.
#[derive(Default)]
pub(super) struct Factors {
    ones: Vec<f32>,
    factors: Vec<f32>,
    len: usize,
}

impl Factors {
    /// Makes room for a row of as many keys.
    pub(super) fn begin(&mut self, num_keys: usize) {
        self.len = num_keys.next_multiple_of(NUM_LANES);
        if self.ones.len() < self.len {
            self.ones.resize(self.len, 1.0);
            self.factors.resize(self.len, 1.0);
        }
    }

    /// Returns the factors of the elements from `first` on.
    pub(super) fn of(&mut self, dropout: Dropout, first: u64) -> &[f32] {
        let factors = &mut self.factors[..self.len];
        dropout::forward_at(dropout, first, &self.ones[..self.len], factors);
        factors
    }

    /// Returns the factors without dropout.
    pub(super) fn none(&self) -> &[f32] {
        &self.ones[..self.len]
    }
}
