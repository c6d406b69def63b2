//! Operands cut into panels as wide as a micro-kernel's tile.
//!
//! Owns the layout: `[num_panels, depth_words, width]`, zeros behind the last lane, and a line between panels. A lane is a row of the left
//! operand or a column of the right one; a word is one f32, or a pair of bf16 where the micro-kernel takes pairs.

use super::cast::Cast;
use super::fill::{LaneView, pack_group};
use super::{Path, Precision};
use crate::simd::tile::Kernel;
use crate::threads::OverThreads;
use rayon::prelude::*;

/// Words of the shortest stretch of panels that is worth a second thread.
const PARALLEL_WORDS: usize = 1 << 16;
/// Lanes that one thread fills together, at most. Of a row of the source as much is read at a time as they take, and a line of
/// each panel has to stay in the second cache until it is full.
const MAX_GROUP_LANES: usize = 4096;
/// Words of a cache line: panels start at a multiple.
pub(super) const LINE: usize = 16;

/// A view of a matrix in row-major memory, or of its transpose.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(super) values: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Returns a view of `[rows, cols]`.
    ///
    /// # Panics
    ///
    /// If there are not `rows * cols` values.
    #[must_use]
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "a matrix of {rows} x {cols} needs as many values");
        Self { values, rows, cols, stride: cols, transposed: false }
    }

    /// Returns a view of `[rows, cols]` whose rows begin every `stride` values, as the heads in a row of queries.
    ///
    /// # Panics
    ///
    /// If the rows overlap or reach beyond the values.
    #[must_use]
    pub fn strided(values: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(cols <= stride, "rows of {cols} values cannot begin every {stride} values");
        let needed = if rows == 0 { 0 } else { (rows - 1) * stride + cols };
        assert!(needed <= values.len(), "the matrix needs {needed} values, got {}", values.len());
        Self { values, rows, cols, stride, transposed: false }
    }

    /// Returns the transpose, without moving anything.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    pub(super) fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    pub(super) fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// Returns the distance of neighbours that do not follow each other in memory.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}

/// The left operand of a product, `[rows, depth]`, packed.
#[derive(Clone, Debug)]
pub struct PackedA(pub(super) Panels);

/// The right operand of a product, `[depth, cols]`, packed.
#[derive(Clone, Debug)]
pub struct PackedB(pub(super) Panels);

impl PackedA {
    /// Returns an operand of no rows; its memory grows with the first matrices and is kept.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self::for_path(precision.path())
    }

    /// Returns the same for a path that need not be the fastest.
    #[must_use]
    pub fn for_path(path: Path) -> Self {
        Self(Panels::new(path, path.kernel.tile_rows()))
    }

    /// Casts and packs `matrix` `[rows, depth]` in place of what was packed before.
    pub fn pack(&mut self, matrix: Matrix<'_>) {
        self.0.pack(&LaneView::rows_of(&matrix), true);
    }

    /// Does [`Self::pack`] on this thread alone.
    pub(crate) fn pack_here(&mut self, matrix: Matrix<'_>) {
        self.0.pack(&LaneView::rows_of(&matrix), false);
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.lanes
    }

    /// Returns the length of the summed dimension.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.depth
    }
}

impl PackedB {
    /// Returns an operand of no columns; its memory grows with the first matrices and is kept.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self::for_path(precision.path())
    }

    /// Returns the same for a path that need not be the fastest.
    #[must_use]
    pub fn for_path(path: Path) -> Self {
        Self(Panels::new(path, path.kernel.tile_cols()))
    }

    /// Casts and packs `matrix` `[depth, cols]` in place of what was packed before.
    pub fn pack(&mut self, matrix: Matrix<'_>) {
        self.0.pack(&LaneView::rows_of(&matrix.transposed()), true);
    }

    /// Casts and packs the transposes of `parts` side by side: linear maps of the same input.
    ///
    /// # Shapes
    ///
    /// - parts: `[num_out, depth]` each
    ///
    /// # Panics
    ///
    /// If a part has another shape.
    pub fn pack_maps(&mut self, parts: &[&[f32]], num_out: usize, depth: usize) {
        self.0.pack(&LaneView::stacked(parts, num_out, depth), true);
    }

    /// Does [`Self::pack`] on this thread alone.
    pub(crate) fn pack_here(&mut self, matrix: Matrix<'_>) {
        self.0.pack(&LaneView::rows_of(&matrix.transposed()), false);
    }

    /// Returns the number of columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.0.lanes
    }

    /// Returns the length of the summed dimension.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.depth
    }
}

/// What both operands are.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    pub(super) kernel: Kernel,
    precision: Precision,
    width: usize,
    pub(super) lanes: usize,
    pub(super) depth: usize,
    pub(super) depth_words: usize,
    /// Words from the beginning of a panel to that of the next one.
    pub(super) panel_stride: usize,
    words: Vec<u32>,
    /// Where the first panel begins, so that it is aligned.
    start: usize,
}

impl Panels {
    fn new(path: Path, width: usize) -> Self {
        let Path { precision, kernel } = path;
        Self {
            kernel,
            precision,
            width,
            lanes: 0,
            depth: 0,
            depth_words: 0,
            panel_stride: 0,
            words: Vec::new(),
            start: 0,
        }
    }

    pub(super) fn num_panels(&self) -> usize {
        self.lanes.div_ceil(self.width)
    }

    /// Returns words `first..last` (of the depth) of a panel.
    #[inline(always)]
    pub(super) fn block(&self, panel_idx: usize, first: usize, last: usize) -> &[u32] {
        let panel = self.start + panel_idx * self.panel_stride;
        &self.words[panel + first * self.width..panel + last * self.width]
    }

    pub(super) fn cast(&self) -> Cast {
        Cast::new(self.precision, self.kernel)
    }

    pub(super) fn all_words(&self) -> &[u32] {
        &self.words[self.start..]
    }

    fn pack(&mut self, view: &LaneView<'_>, in_parallel: bool) {
        self.lanes = view.lanes;
        self.depth = view.depth;
        self.depth_words = view.depth.div_ceil(self.kernel.values_per_word());
        // A line more than a panel needs: panels are often a power of two long, and then the places that are written one after
        // the other would share few sets of the caches.
        self.panel_stride = (self.depth_words * self.width).next_multiple_of(LINE) + LINE;
        let (panel_len, num_panels) = (self.panel_stride, self.num_panels());
        let num_words = num_panels * panel_len;
        if self.words.len() < num_words + LINE {
            // The old words need no copying: everything is written below.
            self.words = vec![0; num_words + LINE];
        }
        self.start = self.words.as_ptr().align_offset(64).min(LINE);
        if self.depth_words == 0 {
            return;
        }
        let (width, cast) = (self.width, self.cast());
        let words = &mut self.words[self.start..self.start + num_words];
        let in_parallel = in_parallel && num_words >= PARALLEL_WORDS;
        let num_threads = if in_parallel { rayon::current_num_threads() } else { 1 };
        let group_panels = num_panels.div_ceil(num_threads).clamp(1, MAX_GROUP_LANES / width);
        let pack = |(group_idx, words): (usize, &mut [u32])| {
            let first_panel = group_idx * group_panels;
            match width {
                32 => pack_group::<32>(view, cast, first_panel, words, panel_len),
                16 => pack_group::<16>(view, cast, first_panel, words, panel_len),
                14 => pack_group::<14>(view, cast, first_panel, words, panel_len),
                _ => pack_group::<6>(view, cast, first_panel, words, panel_len),
            }
        };
        let group_len = group_panels * panel_len;
        if in_parallel {
            words.par_chunks_mut(group_len).enumerate().over_threads(pack);
        } else {
            words.chunks_mut(group_len).enumerate().for_each(pack);
        }
    }
}
