//! Operands cut into panels as wide as a micro-kernel's tile.
//!
//! Owns the layout: `[num_panels, depth_words, width]`, zeros behind the last lane. A lane is a row of the left
//! operand or a column of the right one; a word is one f32, or a pair of bf16 where the micro-kernel takes pairs.

use super::{Path, Precision};
use crate::simd::tile::{Kernel, words_of};
use crate::simd::transpose::{Square, transpose, transpose_between};
use crate::simd::widest;
use crate::simd::window::fetch;
use crate::slices::fit;
use crate::threads::OverThreads;
use rayon::prelude::*;

/// Words of the shortest stretch of panels that is worth a second thread.
const PARALLEL_WORDS: usize = 1 << 16;
/// Panels that are filled together: reading a short stretch of each row for one panel at a time would wait for memory.
const GROUP_PANELS: usize = 8;
/// Rows that are asked for ahead of time where a panel takes a short stretch of each: they lie too far apart for the processor
/// to see the pattern.
const ROWS_AHEAD: usize = 8;
/// Words that are moved at a time.
const VECTOR: usize = 16;
/// Panels start at a multiple of this many words, the length of a cache line.
const ALIGNMENT: usize = 16;

/// A view of a matrix in row-major memory, or of its transpose.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
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

    /// Returns the values and the distance of neighbours that do not follow each other in memory.
    pub(super) fn memory(&self) -> (&'a [f32], usize) {
        (self.values, self.stride)
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
        self.0.pack(&LaneView::rows_of(matrix), true);
    }

    /// Does [`Self::pack`] on this thread alone.
    pub(crate) fn pack_here(&mut self, matrix: Matrix<'_>) {
        self.0.pack(&LaneView::rows_of(matrix), false);
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
        self.0.pack(&LaneView::rows_of(matrix.transposed()), true);
    }

    /// Does [`Self::pack`] on this thread alone.
    pub(crate) fn pack_here(&mut self, matrix: Matrix<'_>) {
        self.0.pack(&LaneView::rows_of(matrix.transposed()), false);
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
    words: Vec<u32>,
    /// Where the first panel begins, so that it is aligned.
    start: usize,
}

impl Panels {
    fn new(path: Path, width: usize) -> Self {
        let Path { precision, kernel } = path;
        Self { kernel, precision, width, lanes: 0, depth: 0, depth_words: 0, words: Vec::new(), start: 0 }
    }

    pub(super) fn num_panels(&self) -> usize {
        self.lanes.div_ceil(self.width)
    }

    /// Returns words `first..last` (of the depth) of a panel.
    #[inline(always)]
    pub(super) fn block(&self, panel_idx: usize, first: usize, last: usize) -> &[u32] {
        let panel = self.start + panel_idx * self.depth_words * self.width;
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
        let panel_len = self.depth_words * self.width;
        let num_words = self.num_panels() * panel_len;
        if self.words.len() < num_words + ALIGNMENT {
            // The old words need no copying: everything is written below.
            self.words = vec![0; num_words + ALIGNMENT];
        }
        self.start = self.words.as_ptr().align_offset(64).min(ALIGNMENT);
        if panel_len == 0 {
            return;
        }
        let (width, cast) = (self.width, self.cast());
        let words = &mut self.words[self.start..self.start + num_words];
        let pack = |(group_idx, words): (usize, &mut [u32])| {
            let first_panel = group_idx * GROUP_PANELS;
            match width {
                32 => pack_group::<32>(view, cast, first_panel, words, panel_len),
                16 => pack_group::<16>(view, cast, first_panel, words, panel_len),
                14 => pack_group::<14>(view, cast, first_panel, words, panel_len),
                _ => pack_group::<6>(view, cast, first_panel, words, panel_len),
            }
        };
        let group_len = GROUP_PANELS * panel_len;
        if num_words < PARALLEL_WORDS || !in_parallel {
            words.chunks_mut(group_len).enumerate().for_each(pack);
        } else {
            words.par_chunks_mut(group_len).enumerate().over_threads().for_each(pack);
        }
    }
}

/// An operand as lanes and a summed dimension.
struct LaneView<'a> {
    values: &'a [f32],
    lanes: usize,
    depth: usize,
    stride: usize,
    /// Whether neighbours in memory are neighbours along the depth, or along the lanes.
    depth_is_contiguous: bool,
}

impl<'a> LaneView<'a> {
    fn rows_of(matrix: Matrix<'a>) -> Self {
        Self {
            values: matrix.values,
            lanes: matrix.rows,
            depth: matrix.cols,
            stride: matrix.stride,
            depth_is_contiguous: !matrix.transposed,
        }
    }
}

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
    fn new(precision: Precision, kernel: Kernel) -> Self {
        match (precision, kernel.values_per_word()) {
            (Precision::F32, _) => Self::Keep,
            (Precision::Bf16, 1) => Self::Round,
            (Precision::Bf16, _) => Self::Pair,
        }
    }

    #[inline(always)]
    fn values_per_word(self) -> usize {
        if self == Self::Pair { 2 } else { 1 }
    }

    /// Casts words whose values are neighbours in memory; a missing half counts as 0.
    #[inline(always)]
    fn along_depth(self, values: &[f32], words: &mut [u32]) {
        match self {
            Self::Keep => words.iter_mut().zip(values).for_each(|(word, value)| *word = value.to_bits()),
            Self::Round => {
                words.iter_mut().zip(values).for_each(|(word, value)| *word = bf16_in_upper_half(*value));
            }
            Self::Pair => {
                let (pairs, rest) = values.as_chunks::<2>();
                for (word, pair) in words.iter_mut().zip(pairs) {
                    *word = pair_of(pair[0], pair[1]);
                }
                if let [last] = rest {
                    words[pairs.len()] = pair_of(*last, 0.0);
                }
            }
        }
    }

    /// Casts one word per lane: from one row of the source, or from two.
    #[inline(always)]
    fn along_lanes(self, first: &[f32], second: Option<&[f32]>, words: &mut [u32]) {
        match (self, second) {
            (Self::Keep, _) => {
                words.iter_mut().zip(first).for_each(|(word, value)| *word = value.to_bits());
            }
            (Self::Round, _) => {
                words.iter_mut().zip(first).for_each(|(word, value)| *word = bf16_in_upper_half(*value));
            }
            (Self::Pair, Some(second)) => {
                for (word, (first, second)) in words.iter_mut().zip(first.iter().zip(second)) {
                    *word = pair_of(*first, *second);
                }
            }
            (Self::Pair, None) => {
                words.iter_mut().zip(first).for_each(|(word, value)| *word = pair_of(*value, 0.0));
            }
        }
    }
}

impl Cast {
    /// Casts one word per lane from copies of the source: by reference the compiler could not know that source and
    /// panel do not overlap, and would move word by word.
    #[inline(always)]
    fn lanes<const N: usize>(self, first: [f32; N], second: Option<[f32; N]>) -> [u32; N] {
        let mut words = [0; N];
        let second = second.unwrap_or([0.0; N]);
        for (word, (first, second)) in words.iter_mut().zip(first.iter().zip(&second)) {
            *word = match self {
                Self::Keep => first.to_bits(),
                Self::Round => bf16_in_upper_half(*first),
                Self::Pair => pair_of(*first, *second),
            };
        }
        words
    }

    /// Casts a whole vector of words whose values are neighbours in memory.
    #[inline(always)]
    fn vector(self, values: &[f32]) -> [u32; VECTOR] {
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
fn move_lanes<const N: usize>(cast: Cast, first: &[f32], second: Option<&[f32]>, words: &mut [u32]) {
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

/// Returns `matrix`, which is not transposed, with its values rounded to bf16, from `memory`.
pub(super) fn round_rows<'m>(matrix: Matrix<'_>, memory: &'m mut Vec<f32>) -> Matrix<'m> {
    let (rows, cols) = matrix.shape();
    let memory = fit(memory, rows * cols);
    widest(
        #[inline(always)]
        || {
            let places = memory.chunks_exact_mut(cols.max(1)).zip(matrix.values.chunks(matrix.stride.max(1)));
            for (out, values) in places {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = f32::from_bits(bf16_in_upper_half(*value));
                }
            }
        },
    );
    Matrix::new(memory, rows, cols)
}

/// Fills a few neighbouring panels of `W` lanes.
fn pack_group<const W: usize>(
    view: &LaneView<'_>,
    cast: Cast,
    first_panel: usize,
    words: &mut [u32],
    panel_len: usize,
) {
    widest(
        #[inline(always)]
        || {
            if view.depth_is_contiguous {
                for (i, words) in words.chunks_exact_mut(panel_len).enumerate() {
                    transpose_panel::<W>(view, cast, (first_panel + i) * W, words);
                }
            } else {
                interleave_panels::<W>(view, cast, first_panel * W, words, panel_len);
            }
        },
    );
}

#[inline(always)]
fn interleave_panels<const W: usize>(
    view: &LaneView<'_>,
    cast: Cast,
    first_lane: usize,
    words: &mut [u32],
    panel_len: usize,
) {
    let per_word = cast.values_per_word();
    let (num_panels, num_steps) = (words.len() / panel_len, panel_len / W);
    let num_lanes = (num_panels * W).min(view.lanes - first_lane);
    for step_idx in 0..num_steps {
        let depth = step_idx * per_word;
        let at = |depth: usize| &view.values[depth * view.stride + first_lane..][..num_lanes];
        if let Some(later) = view.values.get((depth + ROWS_AHEAD) * view.stride + first_lane..) {
            fetch(&later[..num_lanes.min(later.len())]);
        }
        let first = at(depth);
        let second = (per_word == 2 && depth + 1 < view.depth).then(|| at(depth + 1));
        for panel_idx in 0..num_panels {
            let (lane, place) = (panel_idx * W, panel_idx * panel_len + step_idx * W);
            let next =
                |len: usize| (&first[lane..lane + len], second.map(|second| &second[lane..lane + len]));
            if W < VECTOR && VECTOR < 2 * W && lane + VECTOR <= num_lanes && step_idx + 1 < num_steps {
                // What a whole vector writes behind this step is overwritten by the next step of this panel.
                let (first, second) = next(VECTOR);
                move_lanes::<VECTOR>(cast, first, second, &mut words[place..]);
            } else if lane + W <= num_lanes {
                let (first, second) = next(W);
                move_lanes::<W>(cast, first, second, &mut words[place..]);
            } else {
                let (first, second) = next(num_lanes - lane);
                let (step, behind) = words[place..place + W].split_at_mut(num_lanes - lane);
                cast.along_lanes(first, second, step);
                behind.fill(0);
            }
        }
    }
}

#[inline(always)]
fn transpose_panel<const W: usize>(view: &LaneView<'_>, cast: Cast, first_lane: usize, words: &mut [u32]) {
    let per_word = cast.values_per_word();
    let num_lanes = W.min(view.lanes - first_lane);
    let (steps, _) = words.as_chunks_mut::<W>();
    for group in (0..W).step_by(16) {
        // Rows behind the last lane stay zero; columns behind the last word are never read.
        let mut square: Square = [[0; 16]; 16];
        let width = 16.min(W - group);
        let is_whole = width == VECTOR && group + VECTOR <= num_lanes && cast != Cast::Pair;
        for (block_idx, block) in steps.chunks_mut(16).enumerate() {
            let first = 16 * block_idx * per_word;
            let len = (16 * per_word).min(view.depth - first);
            if is_whole && len == VECTOR {
                let values = words_of(&view.values[(first_lane + group) * view.stride + first..]);
                let out = &mut block.as_flattened_mut()[group..];
                if transpose_between(values, view.stride, cast == Cast::Round, out, W) {
                    continue;
                }
            }
            for (row, lane) in square.iter_mut().zip(group..num_lanes.min(group + 16)) {
                let values = &view.values[(first_lane + lane) * view.stride + first..][..len];
                if values.len() == VECTOR * per_word {
                    *row = cast.vector(values);
                } else {
                    cast.along_depth(values, row);
                }
            }
            let mut columns: Square = [[0; 16]; 16];
            transpose(&square, &mut columns);
            for (step, column) in block.iter_mut().zip(&columns) {
                if width == 14 {
                    step[group..group + 14].copy_from_slice(&column[..14]);
                } else if width == VECTOR {
                    step[group..group + VECTOR].copy_from_slice(column);
                } else {
                    step[group..group + width].copy_from_slice(&column[..width]);
                }
            }
        }
    }
}
