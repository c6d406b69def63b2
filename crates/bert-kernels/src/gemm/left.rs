//! The left operand of a product: packed, or where it lies.
//!
//! Owns the distances at which a micro-kernel finds it. A micro-kernel reads one word of the left operand at a time, so
//! that f32 needs no packing when the matrix is used once or is in the cache already.

use super::cast::{Cast, round_rows};
use super::pack::{Matrix, PackedA};
use super::{Path, Precision};
use crate::simd::tile::{Kernel, LeftPanel, words_of};

/// Values of the longest rows that are read where they lie: at 2048 a fifth of the speed is lost, nothing at 1024.
const LONG_ROW: usize = 1024;

/// A left operand, `[rows, depth]`, ready to be multiplied: a [`PackedA`], or what [`LeftScratch`] returns.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    pub(super) kernel: Kernel,
    words: &'a [u32],
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) depth_words: usize,
    panel_stride: usize,
    lane_stride: usize,
    depth_stride: usize,
}

/// Memory for a left operand that cannot be read where it lies.
///
/// Packing pays where an operand is used several times, or is a transpose whose rows are a multiple of 512 bytes apart:
/// those fall into few sets of the first cache. So do rows of more than 1024 values. Otherwise this is faster.
#[derive(Clone, Debug)]
pub struct LeftScratch {
    packed: PackedA,
    rounded: Vec<f32>,
}

impl LeftScratch {
    /// Returns memory of no size; it grows with the first matrices and is kept.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self::for_path(precision.path())
    }

    /// Returns the same for a path that need not be the fastest.
    #[must_use]
    pub fn for_path(path: Path) -> Self {
        Self { packed: PackedA::for_path(path), rounded: Vec::new() }
    }

    /// Returns `matrix` as a left operand: where it lies if its rows are operands already, or else from the scratch.
    ///
    /// Transposes are packed: steps along their depth are whole rows apart, often a power of two, so that few of them
    /// would stay in a cache. So are long rows, which are as far apart. May use all threads.
    ///
    /// # Shapes
    ///
    /// - matrix: `[rows, depth]`
    pub fn operand<'a>(&'a mut self, matrix: Matrix<'a>) -> Left<'a> {
        let cast = self.packed.0.cast();
        if matrix.is_transposed() || matrix.shape().1 > LONG_ROW || cast == Cast::Pair {
            self.packed.pack(matrix);
            return Left::from(&self.packed);
        }
        let kernel = self.packed.0.kernel;
        let matrix = if cast == Cast::Round { round_rows(matrix, &mut self.rounded, true) } else { matrix };
        Left::in_place(kernel, matrix)
    }

    /// Returns `matrix` as a left operand: where it lies if that is possible, or else a copy. `is_cast` says that its
    /// values are operands already: where [`Self::rounds`] says so, somebody has rounded them.
    ///
    /// # Shapes
    ///
    /// - matrix: `[rows, depth]`
    pub fn take<'a>(&'a mut self, matrix: Matrix<'a>, is_cast: bool) -> Left<'a> {
        let kernel = self.packed.0.kernel;
        match self.packed.0.cast() {
            Cast::Round if is_cast => Left::in_place(kernel, matrix),
            Cast::Keep => Left::in_place(kernel, matrix),
            Cast::Round if !matrix.is_transposed() => {
                Left::in_place(kernel, round_rows(matrix, &mut self.rounded, false))
            }
            Cast::Round | Cast::Pair => {
                self.packed.pack_here(matrix);
                Left::from(&self.packed)
            }
        }
    }

    /// Returns whether operands are rounded values in f32: who computes one may round it on the way.
    #[must_use]
    pub fn rounds(&self) -> bool {
        self.packed.0.cast() == Cast::Round
    }
}

impl<'a> From<&'a PackedA> for Left<'a> {
    fn from(a: &'a PackedA) -> Self {
        let panels = &a.0;
        let width = panels.kernel.tile_rows();
        Self {
            kernel: panels.kernel,
            words: panels.all_words(),
            rows: panels.lanes,
            depth: panels.depth,
            depth_words: panels.depth_words,
            panel_stride: panels.panel_stride,
            lane_stride: 1,
            depth_stride: width,
        }
    }
}

impl<'a> Left<'a> {
    fn in_place(kernel: Kernel, matrix: Matrix<'a>) -> Self {
        let (values, stride) = (matrix.values, matrix.stride());
        let (lane_stride, depth_stride) = if matrix.is_transposed() { (1, stride) } else { (stride, 1) };
        let (rows, depth) = matrix.shape();
        Self {
            kernel,
            words: words_of(values),
            rows,
            depth,
            depth_words: depth,
            panel_stride: kernel.tile_rows() * lane_stride,
            lane_stride,
            depth_stride,
        }
    }

    pub(super) fn num_panels(&self) -> usize {
        self.rows.div_ceil(self.kernel.tile_rows())
    }

    /// Returns a panel from word `first` of the depth on.
    #[inline(always)]
    pub(super) fn panel(&self, panel_idx: usize, first: usize) -> LeftPanel<'a> {
        let start = panel_idx * self.panel_stride + first * self.depth_stride;
        let words = self.words.get(start..).unwrap_or_default();
        LeftPanel { words, lane_stride: self.lane_stride, depth_stride: self.depth_stride }
    }

    /// Returns words `first..last` (of the depth) of a panel, if they follow each other in memory.
    #[inline(always)]
    pub(super) fn stretch(&self, panel_idx: usize, first: usize, last: usize) -> Option<&'a [u32]> {
        let width = self.kernel.tile_rows();
        let start = panel_idx * self.panel_stride;
        if self.depth_stride == width {
            self.words.get(start + first * width..start + last * width)
        } else if self.depth_stride == 1 && self.lane_stride == last - first {
            self.words.get(start..start + width * (last - first))
        } else {
            None
        }
    }
}
