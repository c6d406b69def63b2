//! How values become the words of an operand: as they are, or rounded to bf16.

use super::Precision;
use super::pack::Matrix;
use crate::simd::tile::Kernel;
use crate::simd::widest;
use crate::slices::fit;
use crate::threads::{OverThreads, PARALLEL_CHUNK_LEN};
use rayon::prelude::*;

/// Words that are moved at a time.
pub(super) const VECTOR: usize = 16;

/// How values become words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cast {
    Keep,
    /// To the nearest bf16, kept in f32.
    Round,
    /// To pairs of the nearest bf16, the first in the lower half.
    Pair,
}

impl Cast {
    pub(super) fn new(precision: Precision, kernel: Kernel) -> Self {
        match (precision, kernel.values_per_word()) {
            (Precision::F32, _) => Self::Keep,
            (Precision::Bf16, 1) => Self::Round,
            (Precision::Bf16, _) => Self::Pair,
        }
    }

    #[inline(always)]
    pub(super) fn values_per_word(self) -> usize {
        if self == Self::Pair { 2 } else { 1 }
    }

    /// Casts one word; the second value counts for pairs only.
    #[inline(always)]
    fn word(self, first: f32, second: f32) -> u32 {
        match self {
            Self::Keep => first.to_bits(),
            Self::Round => bf16_in_upper_half(first),
            Self::Pair => pair_of(first, second),
        }
    }

    /// Casts words whose values are neighbours in memory; a missing half counts as 0.
    #[inline(always)]
    pub(super) fn along_depth(self, values: &[f32], words: &mut [u32]) {
        for (word, values) in words.iter_mut().zip(values.chunks(self.values_per_word())) {
            *word = self.word(values[0], values.get(1).copied().unwrap_or(0.0));
        }
    }

    /// Casts one word per lane: from one row of the source, or from two.
    #[inline(always)]
    pub(super) fn along_lanes(self, first: &[f32], second: Option<&[f32]>, words: &mut [u32]) {
        for (lane, (word, first)) in words.iter_mut().zip(first).enumerate() {
            *word = self.word(*first, second.map_or(0.0, |second| second[lane]));
        }
    }

    /// Casts one word per lane from copies of the source: by reference the compiler could not know that source and
    /// panel do not overlap, and would move word by word.
    #[inline(always)]
    fn lanes<const N: usize>(self, first: [f32; N], second: Option<[f32; N]>) -> [u32; N] {
        let mut words = [0; N];
        let second = second.unwrap_or([0.0; N]);
        for (word, (first, second)) in words.iter_mut().zip(first.iter().zip(&second)) {
            *word = self.word(*first, *second);
        }
        words
    }

    /// Casts a whole vector of words whose values are neighbours in memory.
    #[inline(always)]
    pub(super) fn vector(self, values: &[f32]) -> [u32; VECTOR] {
        if self == Self::Pair {
            let values: [f32; 2 * VECTOR] = copied(values);
            let half = |odd: usize| std::array::from_fn(|i| values[2 * i + odd]);
            self.lanes(half(0), Some(half(1)))
        } else {
            self.lanes(copied(values), None)
        }
    }
}

/// Casts the first `N` lanes of one row of the source, or of two.
#[inline(always)]
pub(super) fn move_lanes<const N: usize>(
    cast: Cast,
    first: &[f32],
    second: Option<&[f32]>,
    words: &mut [u32],
) {
    words[..N].copy_from_slice(&cast.lanes::<N>(copied(first), second.map(copied)));
}

#[inline(always)]
fn copied<const N: usize>(values: &[f32]) -> [f32; N] {
    let mut copy = [0.0; N];
    copy.copy_from_slice(&values[..N]);
    copy
}

#[inline(always)]
fn pair_of(first: f32, second: f32) -> u32 {
    bf16_in_upper_half(first) >> 16 | bf16_in_upper_half(second)
}

/// Returns the bits of the nearest bf16 (ties to even) as f32; a NaN stays one.
#[inline(always)]
pub(super) fn bf16_in_upper_half(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    if value.is_nan() { bits & 0xffff_0000 | 0x0040_0000 } else { rounded }
}

/// Returns `matrix`, which is not transposed, with its values rounded to bf16, from `memory`. Not in parallel it stays on this
/// thread.
pub(super) fn round_rows<'m>(matrix: Matrix<'_>, memory: &'m mut Vec<f32>, in_parallel: bool) -> Matrix<'m> {
    let ((rows, cols), stride) = (matrix.shape(), matrix.stride().max(1));
    let memory = fit(memory, rows * cols);
    let rows_at_a_time = if in_parallel { (PARALLEL_CHUNK_LEN / cols.max(1)).max(1) } else { rows };
    let chunks = memory.par_chunks_mut((rows_at_a_time * cols).max(1)).enumerate();
    chunks.over_threads(|(idx, out)| {
        let values = &matrix.values[idx * rows_at_a_time * stride..];
        widest(
            #[inline(always)]
            || {
                for (out, values) in out.chunks_exact_mut(cols).zip(values.chunks(stride)) {
                    for (out, value) in out.iter_mut().zip(values) {
                        *out = f32::from_bits(bf16_in_upper_half(*value));
                    }
                }
            },
        );
    });
    Matrix::new(memory, rows, cols)
}
