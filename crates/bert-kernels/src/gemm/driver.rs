//! Which tile is computed when, and by which thread.
//!
//! Owns blocking and the split over threads. A region of the result is walked in blocks over the depth; partial
//! sums wait in the result itself, in f32, so that a blocked sum has the bits of an unblocked one.

use super::{PackedA, PackedB};
use crate::simd::tile::{Kernel, MAX_TILE_LEN, Tile, prefetch_for_writing};
use crate::simd::widest;
use rayon::prelude::*;
use std::ops::Range;

/// Words of the depth that are multiplied before the next tile: a left panel of this depth fits the first cache.
const DEPTH_BLOCK: usize = 512;
/// Words of inner panels that stay in the second cache (1 MB of usually 1 to 2 MB) while outer panels pass.
const PASS_WORDS: usize = 256 * 1024;
/// Products below which a second thread is not worth waking.
const PARALLEL_PRODUCTS: usize = 1 << 19;
/// Regions per thread, so that a thread that is held up does not hold up the others.
const REGIONS_PER_THREAD: usize = 4;

/// Where results go: `N` matrices of the shape of the product, of which the first receives the sums.
pub(crate) struct Output<'a, const N: usize> {
    pub(crate) rows: [&'a mut [f32]; N],
    /// Whether the sums go on from the values of the first matrix.
    pub(crate) continues: bool,
}

/// A rectangle of the result, with the rows of all output matrices in it.
pub(crate) struct Region<'a, const N: usize> {
    pub(crate) first_row: usize,
    pub(crate) first_col: usize,
    pub(crate) rows: Vec<[&'a mut [f32]; N]>,
    pub(crate) continues: bool,
}

impl<'a> Region<'a, 1> {
    /// Returns the whole of a matrix with rows of `num_cols` values.
    pub(crate) fn whole(matrix: &'a mut [f32], num_cols: usize) -> Self {
        Self::of_rows(matrix.chunks_exact_mut(num_cols).map(|row| [row]).collect())
    }

    /// Returns a matrix whose rows lie anywhere.
    pub(crate) fn of_rows(rows: Vec<[&'a mut [f32]; 1]>) -> Self {
        Self { first_row: 0, first_col: 0, rows, continues: false }
    }
}

/// Multiplies, and calls `finish(row, first_col, stretches)` on every finished stretch of a row.
pub(super) fn run<const N: usize>(
    a: &PackedA,
    b: &PackedB,
    output: Output<'_, N>,
    finish: impl Fn(usize, usize, [&mut [f32]; N]) + Sync,
) {
    check(a, b);
    for matrix in &output.rows {
        assert_eq!(
            matrix.len(),
            a.rows() * b.cols(),
            "a product of {} x {} needs an output of that shape",
            a.rows(),
            b.cols()
        );
    }
    if a.rows() == 0 || b.cols() == 0 {
        return;
    }
    let regions = regions(output, a, b);
    if let [_] = regions[..] {
        regions.into_iter().for_each(|region| compute(a, b, region, &finish));
    } else {
        regions.into_par_iter().for_each(|region| compute(a, b, region, &finish));
    }
}

fn check(a: &PackedA, b: &PackedB) {
    assert_eq!(a.depth(), b.depth(), "both operands of a product need the same depth");
    assert_eq!(a.0.kernel, b.0.kernel, "both operands must be packed for the same precision");
}

/// Cuts the result along its longer side, at the borders of tiles.
fn regions<'a, const N: usize>(output: Output<'a, N>, a: &PackedA, b: &PackedB) -> Vec<Region<'a, N>> {
    let (num_rows, num_cols) = (a.rows(), b.cols());
    let kernel = a.0.kernel;
    let threads = rayon::current_num_threads();
    let is_small = num_rows * num_cols * a.depth() < PARALLEL_PRODUCTS;
    let num_regions = if threads == 1 || is_small { 1 } else { threads * REGIONS_PER_THREAD };
    let along_rows = a.0.num_panels() >= b.0.num_panels();
    let (row_len, col_len) = if along_rows {
        (share(a.0.num_panels(), num_regions) * kernel.tile_rows(), num_cols)
    } else {
        (num_rows, share(b.0.num_panels(), num_regions) * kernel.tile_cols())
    };
    let mut regions = Vec::new();
    for first_row in (0..num_rows).step_by(row_len) {
        for first_col in (0..num_cols).step_by(col_len) {
            let rows = Vec::with_capacity(row_len.min(num_rows - first_row));
            regions.push(Region { first_row, first_col, rows, continues: output.continues });
        }
    }
    let num_across = num_cols.div_ceil(col_len);
    let mut matrices = output.rows.map(|matrix| matrix.chunks_exact_mut(num_cols));
    for row in 0..num_rows {
        let mut pieces =
            matrices.each_mut().map(|rows| rows.next().into_iter().flat_map(|row| row.chunks_mut(col_len)));
        for across in 0..num_across {
            let region = &mut regions[row / row_len * num_across + across];
            region.rows.push(pieces.each_mut().map(|pieces| pieces.next().unwrap_or_default()));
        }
    }
    regions
}

fn share(num_panels: usize, num_regions: usize) -> usize {
    num_panels.div_ceil(num_regions).max(1)
}

/// Computes one region on this thread.
///
/// # Panics
///
/// If the operands do not fit each other, or the region does not begin at the corner of a tile.
pub(crate) fn compute<const N: usize>(
    a: &PackedA,
    b: &PackedB,
    mut region: Region<'_, N>,
    finish: &impl Fn(usize, usize, [&mut [f32]; N]),
) {
    check(a, b);
    let (kernel, depth) = (a.0.kernel, a.0.depth_words);
    let num_cols = region.rows.first().map_or(0, |row| row[0].len());
    let rows = panels(region.first_row, region.rows.len(), kernel.tile_rows());
    let cols = panels(region.first_col, num_cols, kernel.tile_cols());
    let num_blocks = depth.div_ceil(DEPTH_BLOCK).max(1);
    let mut tile = Tile([0.0; MAX_TILE_LEN]);
    for block_idx in 0..num_blocks {
        let words = block_idx * DEPTH_BLOCK..depth.min((block_idx + 1) * DEPTH_BLOCK);
        let block =
            Block { kernel, fresh: block_idx == 0 && !region.continues, last: block_idx + 1 == num_blocks };
        let (rows, cols) = (rows.clone(), cols.clone());
        let left = |panel: usize| (panel, a.0.block(panel, words.start, words.end));
        let right = |panel: usize| (panel, b.0.block(panel, words.start, words.end));
        if rows.len() > cols.len() {
            let passes = Passes { outer: rows, inner: cols, inner_words: words.len() * kernel.tile_cols() };
            passes.walk(words.len(), left, |row_panel, col_panel, ahead| {
                block.compute_tile(left(row_panel), right(col_panel), ahead, &mut tile, &mut region, finish);
            });
        } else {
            let passes = Passes { outer: cols, inner: rows, inner_words: words.len() * kernel.tile_rows() };
            passes.walk(words.len(), right, |col_panel, row_panel, ahead| {
                block.compute_tile(left(row_panel), right(col_panel), ahead, &mut tile, &mut region, finish);
            });
        }
    }
}

/// The order of the tiles: as many inner panels as stay in the second cache, against one outer panel after the other.
struct Passes {
    outer: Range<usize>,
    inner: Range<usize>,
    /// Words of one inner panel.
    inner_words: usize,
}

impl Passes {
    /// Calls `visit(outer panel, inner panel, words to be fetched meanwhile)`; those are a piece of the next outer
    /// panel, one line per word of the depth.
    #[inline(always)]
    fn walk<'w>(
        self,
        depth_words: usize,
        panel: impl Fn(usize) -> (usize, &'w [u32]),
        mut visit: impl FnMut(usize, usize, Option<&'w [u32]>),
    ) {
        let per_pass = (PASS_WORDS / self.inner_words.max(1)).max(1);
        for first in self.inner.clone().step_by(per_pass) {
            for outer in self.outer.clone() {
                let next = if outer + 1 < self.outer.end { panel(outer + 1).1 } else { &[] };
                for inner in first..self.inner.end.min(first + per_pass) {
                    let ahead =
                        next.get((inner - first) * depth_words * 16..).filter(|ahead| !ahead.is_empty());
                    visit(outer, inner, ahead);
                }
            }
        }
    }
}

/// Returns the panels of `len` lanes from `first` on.
fn panels(first: usize, len: usize, width: usize) -> Range<usize> {
    assert_eq!(first % width, 0, "a region begins at the border of a tile");
    first / width..(first + len).div_ceil(width)
}

/// One block of the depth.
struct Block {
    kernel: Kernel,
    /// Whether sums begin here.
    fresh: bool,
    /// Whether sums end here.
    last: bool,
}

impl Block {
    #[inline(always)]
    fn compute_tile<const N: usize>(
        &self,
        (row_panel, left): (usize, &[u32]),
        (col_panel, right): (usize, &[u32]),
        ahead: Option<&[u32]>,
        tile: &mut Tile,
        region: &mut Region<'_, N>,
        finish: &impl Fn(usize, usize, [&mut [f32]; N]),
    ) {
        let (height, width) = (self.kernel.tile_rows(), self.kernel.tile_cols());
        let (first_row, first_col) = (row_panel * height, col_panel * width);
        let from = first_row - region.first_row;
        let to = region.rows.len().min(from + height);
        let rows = &mut region.rows[from..to];
        let left_col = first_col - region.first_col;
        let right_col = rows[0][0].len().min(left_col + width);
        let cols = left_col..right_col;
        if !self.fresh {
            for (row, sums) in rows.iter().zip(tile.0.chunks_exact_mut(width)) {
                copy(&row[0][cols.clone()], &mut sums[..cols.len()]);
            }
        }
        rows.iter().for_each(|row| prefetch_for_writing(&row[0][cols.clone()]));
        self.kernel.multiply(left, right, self.fresh, ahead, tile);
        for (row, sums) in rows.iter_mut().zip(tile.0.chunks_exact(width)) {
            copy(&sums[..cols.len()], &mut row[0][cols.clone()]);
        }
        if self.last {
            widest(
                #[inline(always)]
                || {
                    for (i, row) in rows.iter_mut().enumerate() {
                        finish(first_row + i, first_col, row.each_mut().map(|row| &mut row[cols.clone()]));
                    }
                },
            );
        }
    }
}

/// Copies a stretch of a tile; whole ones, which are nearly all, without a call.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    match (from.as_array::<32>(), to.as_mut_array::<32>()) {
        (Some(from), Some(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}
