//! The left operand of a product: packed, or where it lies.
//!
//! Owns the distances at which a micro-kernel finds it. A micro-kernel reads one word of the left operand at a time, so
//! that f32 needs no packing when the matrix is used once or is in the cache already.

use super::pack::{Cast, Matrix, PackedA, round_rows};
use crate::simd::tile::{Kernel, LeftPanel, words_of};

/// A left operand, `[rows, depth]`, ready to be multiplied.
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

/// Memory for what cannot be read where it lies.
#[derive(Clone, Debug)]
pub struct LeftScratch {
    packed: PackedA,
    rounded: Vec<f32>,
}

impl LeftScratch {
    /// Returns a scratch for what a path cannot read where it lies; `packed` is its memory.
    #[must_use]
    pub fn new(packed: PackedA) -> Self {
        Self { packed, rounded: Vec::new() }
    }

    /// Returns `matrix` as a left operand: where it lies if its rows are operands already, or else from the scratch.
    ///
    /// Transposes are packed: steps along their depth are whole rows apart, often a power of two, so that few of them
    /// would stay in a cache.
    pub fn operand<'a>(&'a mut self, matrix: Matrix<'a>) -> Left<'a> {
        let cast = self.packed.0.cast();
        if matrix.is_transposed() || cast == Cast::Pair {
            self.packed.pack(matrix);
            return Left::packed(&self.packed);
        }
        let kernel = self.packed.0.kernel;
        let matrix = if cast == Cast::Round { round_rows(matrix, &mut self.rounded) } else { matrix };
        Left::in_place(kernel, matrix)
    }

    /// Returns `matrix` as a left operand: where it lies if its values are operands already (see [`Self::rounds`]), or
    /// else from the scratch, cast.
    pub(crate) fn take<'a>(&'a mut self, matrix: Matrix<'a>, is_cast: bool) -> Left<'a> {
        let kernel = self.packed.0.kernel;
        match self.packed.0.cast() {
            Cast::Round if is_cast => Left::in_place(kernel, matrix),
            Cast::Keep => Left::in_place(kernel, matrix),
            Cast::Round if !matrix.is_transposed() => {
                Left::in_place(kernel, round_rows(matrix, &mut self.rounded))
            }
            Cast::Round | Cast::Pair => {
                self.packed.pack_here(matrix);
                Left::packed(&self.packed)
            }
        }
    }

    /// Returns whether operands are rounded values in f32: who computes one may round it on the way.
    pub(crate) fn rounds(&self) -> bool {
        self.packed.0.cast() == Cast::Round
    }
}

impl<'a> From<&'a PackedA> for Left<'a> {
    fn from(packed: &'a PackedA) -> Self {
        Self::packed(packed)
    }
}

impl<'a> Left<'a> {
    pub(crate) fn packed(a: &'a PackedA) -> Self {
        let panels = &a.0;
        let width = panels.kernel.tile_rows();
        Self {
            kernel: panels.kernel,
            words: panels.all_words(),
            rows: panels.lanes,
            depth: panels.depth,
            depth_words: panels.depth_words,
            panel_stride: panels.depth_words * width,
            lane_stride: 1,
            depth_stride: width,
        }
    }

    fn in_place(kernel: Kernel, matrix: Matrix<'a>) -> Self {
        let (values, stride) = matrix.memory();
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
