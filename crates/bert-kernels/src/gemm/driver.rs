//! Which tile is computed when, and by which thread.
//!
//! Owns blocking and the split over threads. A region of the result is walked in blocks over the depth; partial
//! sums wait in the result itself, in f32, so that a blocked sum has the bits of an unblocked one.

use super::PackedB;
use super::left::Left;
use crate::simd::tile::{CheckedKernel, Fetched, Kernel, MAX_TILE_LEN, words_of};
use crate::simd::widest;
use crate::simd::window::{Lines, Window};
use crate::threads::{OverThreads, share};
use rayon::prelude::*;
use std::ops::Range;

/// Words of the depth that are multiplied before the next tile. Half of that would keep a left panel in the first cache, but
/// panels of the right operand pass through it as well: fewer partial sums to read and write are worth more.
const DEPTH_BLOCK: usize = 1024;
/// Words of inner panels that stay in the second cache (1 MB of usually 1 to 2 MB) while outer panels pass.
const PASS_WORDS: usize = 256 * 1024;
/// Products below which a second thread is not worth waking.
const PARALLEL_PRODUCTS: usize = 1 << 19;

/// Where results go: `N` matrices of the shape of the product, of which the first receives the sums.
pub(crate) struct Output<'a, const N: usize> {
    pub(crate) rows: [&'a mut [f32]; N],
    /// Whether the sums go on from the values of the first matrix.
    pub(crate) continues: bool,
    /// A matrix of the same shape that is read when a tile is finished, or nothing.
    pub(crate) read: &'a [f32],
}

/// A rectangle of the result in all output matrices.
pub(crate) struct Region<'a, const N: usize> {
    pub(crate) first_row: usize,
    pub(crate) first_col: usize,
    pub(crate) outputs: [Window<'a>; N],
    pub(crate) continues: bool,
    /// What is needed after this product: it is fetched into the second cache meanwhile.
    pub(crate) next: &'a [f32],
    /// As in [`Output`].
    pub(crate) read: &'a [f32],
}

impl<'a> Region<'a, 1> {
    /// Returns the whole of one output.
    pub(crate) fn whole(output: Window<'a>, continues: bool) -> Self {
        Self { first_row: 0, first_col: 0, outputs: [output], continues, next: &[], read: &[] }
    }
}

/// What is done with a finished stretch of a row of one output.
type Finish = fn(usize, usize, [&mut [f32]; 1]);
/// Nothing is done with finished tiles.
pub(super) const NOTHING: Option<Finish> = None;

/// Multiplies, and calls `finish(row, first_col, stretches)` on every finished stretch of a row.
pub(super) fn run<const N: usize>(
    a: Left<'_>,
    b: &PackedB,
    output: Output<'_, N>,
    finish: Option<impl Fn(usize, usize, [&mut [f32]; N]) + Sync>,
) where
    for<'w> [Window<'w>; N]: Stretches<N>,
{
    check(a, b);
    for matrix in &output.rows {
        assert_eq!(
            matrix.len(),
            a.rows * b.cols(),
            "a product of {} x {} needs an output of that shape",
            a.rows,
            b.cols()
        );
    }
    let read_len = output.read.len();
    assert!(
        read_len == 0 || read_len == a.rows * b.cols(),
        "what a product finishes with is read at the places of its result: {read_len} values"
    );
    if a.rows == 0 || b.cols() == 0 {
        return;
    }
    let regions = regions(output, a, b).into_par_iter();
    regions.over_threads(|region| compute_then(a, b, region, finish.as_ref()));
}

fn check(a: Left<'_>, b: &PackedB) {
    assert_eq!(a.depth, b.depth(), "both operands of a product need the same depth");
    assert_eq!(a.kernel, b.0.kernel, "both operands must be packed for the same precision");
}

/// Cuts the result along its longer side, at the borders of tiles.
fn regions<'a, const N: usize>(output: Output<'a, N>, a: Left<'_>, b: &PackedB) -> Vec<Region<'a, N>> {
    let (num_rows, num_cols) = (a.rows, b.cols());
    let is_small = num_rows * num_cols * a.depth < PARALLEL_PRODUCTS;
    let num_shares = if is_small { 1 } else { rayon::current_num_threads() };
    let along_rows = a.num_panels() >= b.0.num_panels();
    let (len, tile, num_panels) = if along_rows {
        (num_rows, a.kernel.tile_rows(), a.num_panels())
    } else {
        (num_cols, a.kernel.tile_cols(), b.0.num_panels())
    };
    let mut rest = output.rows.map(|matrix| Window::new(matrix, num_rows, num_cols, num_cols));
    let region = |panels: Range<usize>| {
        let (first, end) = (panels.start * tile, len.min(panels.end * tile));
        let len = end - first;
        let cut = |rest: &mut Window<'a>| if along_rows { rest.cut_rows(len) } else { rest.cut_cols(len) };
        let (first_row, first_col) = if along_rows { (first, 0) } else { (0, first) };
        Region {
            first_row,
            first_col,
            outputs: rest.each_mut().map(cut),
            continues: output.continues,
            next: &[],
            read: output.read,
        }
    };
    shares(num_panels, num_shares).map(region).collect()
}

/// Cuts panels into a share per thread, and each share into regions of half, a quarter, an eighth and so on of it: the long
/// ones are computed as fast as the whole, the short ones are there for a thread that is done while another was held up.
fn shares(num_panels: usize, num_shares: usize) -> impl Iterator<Item = Range<usize>> {
    const NUM_HALVINGS: u32 = 4;
    let num_halvings = if num_shares == 1 { 0 } else { NUM_HALVINGS };
    let mut begin = 0;
    let ends = (0..num_shares).flat_map(move |idx| {
        let own = share(num_panels, idx, num_shares);
        let (len, end) = (own.len(), own.end);
        (1..=num_halvings).map(move |halvings| end - (len >> halvings)).chain([end])
    });
    ends.map(move |end| std::mem::replace(&mut begin, end)..end).filter(|panels| !panels.is_empty())
}

/// Computes the only output of a region on this thread.
///
/// # Panics
///
/// As [`compute_then`].
pub(crate) fn compute(a: Left<'_>, b: &PackedB, region: Region<'_, 1>) {
    compute_then(a, b, region, NOTHING.as_ref());
}

/// Computes one region on this thread, and calls `finish(row, first_col, stretches)` as [`run`] does.
///
/// # Panics
///
/// If the operands do not fit each other, or the region does not begin at the corner of a tile.
pub(crate) fn compute_then<const N: usize>(
    a: Left<'_>,
    b: &PackedB,
    mut region: Region<'_, N>,
    finish: Option<&impl Fn(usize, usize, [&mut [f32]; N])>,
) where
    for<'w> [Window<'w>; N]: Stretches<N>,
{
    check(a, b);
    let (kernel, checked, depth) = (a.kernel, a.kernel.checked(), a.depth_words);
    let Some((num_rows, num_cols)) = region.outputs.first().map(|out| (out.rows(), out.cols())) else {
        return;
    };
    let rows = panels(region.first_row, num_rows, kernel.tile_rows());
    let cols = panels(region.first_col, num_cols, kernel.tile_cols());
    let num_blocks = depth.div_ceil(DEPTH_BLOCK).max(1);
    let num_tiles = num_blocks * rows.len() * cols.len();
    let mut later = words_of(region.next).chunks(region.next.len().div_ceil(num_tiles.max(1)).max(1));
    for block_idx in 0..num_blocks {
        let words = block_idx * DEPTH_BLOCK..depth.min((block_idx + 1) * DEPTH_BLOCK);
        let block = Block {
            kernel: checked,
            a,
            b,
            words: words.clone(),
            fresh: block_idx == 0 && !region.continues,
            last: block_idx + 1 == num_blocks,
        };
        let (rows, cols) = (rows.clone(), cols.clone());
        if rows.len() >= cols.len() {
            let passes = Passes { outer: rows, inner: cols, inner_words: words.len() * kernel.tile_cols() };
            let panel = |panel: usize| a.stretch(panel, words.start, words.end).unwrap_or_default();
            passes.walk(panel, |[row, col], next, ahead| {
                let ahead = ahead.or_else(|| later.next());
                block.compute_tile([row, col], next, ahead, &mut region, finish);
            });
        } else {
            let passes = Passes { outer: cols, inner: rows, inner_words: words.len() * kernel.tile_rows() };
            let panel = |panel: usize| b.0.block(panel, words.start, words.end);
            passes.walk(panel, |[col, row], [next_col, next_row], ahead| {
                let ahead = ahead.or_else(|| later.next());
                block.compute_tile([row, col], [next_row, next_col], ahead, &mut region, finish);
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
    /// Calls `visit([outer panel, inner panel], those after it, words to be fetched meanwhile)`; the words are a share
    /// of the next outer panel.
    #[inline(always)]
    fn walk<'w>(
        self,
        panel: impl Fn(usize) -> &'w [u32],
        mut visit: impl FnMut([usize; 2], [usize; 2], Option<&'w [u32]>),
    ) {
        let per_pass = (PASS_WORDS / self.inner_words.max(1)).max(1);
        for first in self.inner.clone().step_by(per_pass) {
            let last = self.inner.end.min(first + per_pass);
            for outer in self.outer.clone() {
                let next = if outer + 1 < self.outer.end { panel(outer + 1) } else { &[] };
                let mut shares = next.chunks(next.len().div_ceil(last - first).max(1));
                for inner in first..last {
                    let ahead = shares.next();
                    let after = if inner + 1 < last { [outer, inner + 1] } else { [outer + 1, first] };
                    visit([outer, inner], after, ahead);
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

/// One row of all outputs. Written out for each number of them: the compiler does not always inline what makes an array of any
/// length, and this is called for every row of every tile.
pub(crate) trait Stretches<const N: usize> {
    /// Lends some columns of one row of each.
    fn stretches(&mut self, row: usize, cols: &Range<usize>) -> [&mut [f32]; N];
}

impl Stretches<1> for [Window<'_>; 1] {
    #[inline(always)]
    fn stretches(&mut self, row: usize, cols: &Range<usize>) -> [&mut [f32]; 1] {
        let [out] = self;
        [out.stretch(row, cols.clone())]
    }
}

impl Stretches<2> for [Window<'_>; 2] {
    #[inline(always)]
    fn stretches(&mut self, row: usize, cols: &Range<usize>) -> [&mut [f32]; 2] {
        let [first, second] = self;
        [first.stretch(row, cols.clone()), second.stretch(row, cols.clone())]
    }
}

/// One block of the depth.
struct Block<'a> {
    kernel: CheckedKernel,
    a: Left<'a>,
    b: &'a PackedB,
    words: Range<usize>,
    /// Whether sums begin here.
    fresh: bool,
    /// Whether sums end here.
    last: bool,
}

/// Part of a tile's columns.
#[repr(align(64))]
struct Tile([f32; MAX_TILE_LEN]);

impl Block<'_> {
    /// Computes the tile of a row panel and a column panel; `next` is the one after it.
    #[inline(always)]
    fn compute_tile<const N: usize>(
        &self,
        [row_panel, col_panel]: [usize; 2],
        next: [usize; 2],
        ahead: Option<&[u32]>,
        region: &mut Region<'_, N>,
        finish: Option<&impl Fn(usize, usize, [&mut [f32]; N])>,
    ) where
        for<'w> [Window<'w>; N]: Stretches<N>,
    {
        let kernel = self.a.kernel;
        let width = kernel.tile_cols();
        let Some((rows, cols)) = place(kernel, [row_panel, col_panel], region) else { return };
        let next_tile = match place(kernel, next, region) {
            Some((rows, cols)) => region.outputs[0].part(rows, cols).lines(),
            None => Lines::NONE,
        };
        let finish_lines = self.lines_to_finish([row_panel, col_panel], [&rows, &cols], region);
        let fetched = Fetched { ahead, tiles: [&next_tile, &finish_lines] };
        let left = self.a.panel(row_panel, self.words.start);
        let right = self.b.0.block(col_panel, self.words.start, self.words.end);
        let mut out = region.outputs[0].part(rows.clone(), cols.clone());
        if cols.len() == width {
            self.kernel.multiply(left, right, self.fresh, &fetched, out);
        } else {
            let mut tile = Tile([0.0; MAX_TILE_LEN]);
            if !self.fresh {
                for (row, sums) in tile.0.chunks_exact_mut(width).take(rows.len()).enumerate() {
                    sums[..cols.len()].copy_from_slice(out.row(row));
                }
            }
            let window = Window::new(&mut tile.0, rows.len(), width, width);
            self.kernel.multiply(left, right, self.fresh, &fetched, window);
            for (row, sums) in tile.0.chunks_exact(width).take(rows.len()).enumerate() {
                out.row(row).copy_from_slice(&sums[..cols.len()]);
            }
        }
        if let (true, Some(finish)) = (self.last, finish) {
            let (first_row, first_col) = (row_panel * kernel.tile_rows(), col_panel * width);
            widest(
                #[inline(always)]
                || {
                    for row in 0..rows.len() {
                        let stretches = region.outputs.stretches(rows.start + row, &cols);
                        finish(first_row + row, first_col, stretches);
                    }
                },
            );
        }
    }

    /// Returns what is needed to finish this tile, besides its sums.
    #[inline(always)]
    fn lines_to_finish<const N: usize>(
        &self,
        [row_panel, col_panel]: [usize; 2],
        [rows, cols]: [&Range<usize>; 2],
        region: &mut Region<'_, N>,
    ) -> Lines {
        if !self.last {
            Lines::NONE
        } else if let Some(second) = region.outputs.get_mut(1) {
            second.part(rows.clone(), cols.clone()).lines()
        } else if region.read.is_empty() {
            Lines::NONE
        } else {
            let (kernel, num_cols) = (self.a.kernel, self.b.cols());
            let first = row_panel * kernel.tile_rows() * num_cols + col_panel * kernel.tile_cols();
            Lines::of(&region.read[first..], rows.len(), num_cols)
        }
    }
}

/// Returns where in the region a tile is.
#[inline(always)]
fn place<const N: usize>(
    kernel: Kernel,
    [row_panel, col_panel]: [usize; 2],
    region: &Region<'_, N>,
) -> Option<(Range<usize>, Range<usize>)> {
    let clip = |panel: usize, width: usize, first: usize, len: usize| {
        let from = panel * width - first;
        (from < len).then(|| from..len.min(from + width))
    };
    let (num_rows, num_cols) = (region.outputs[0].rows(), region.outputs[0].cols());
    let rows = clip(row_panel, kernel.tile_rows(), region.first_row, num_rows)?;
    Some((rows, clip(col_panel, kernel.tile_cols(), region.first_col, num_cols)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_follow_each_other_and_cover_all_panels(num_panels in 0usize..400, num_shares in 1usize..70) {
            let regions: Vec<_> = shares(num_panels, num_shares).collect();
            let mut next = 0;
            for region in &regions {
                prop_assert_eq!(region.start, next);
                prop_assert!(!region.is_empty());
                next = region.end;
            }
            prop_assert_eq!(next, num_panels);
        }
    }

    #[test]
    fn regions_get_shorter_and_one_thread_has_one() {
        let lens = |num_panels, num_shares| {
            shares(num_panels, num_shares).map(|region| region.len()).collect::<Vec<_>>()
        };
        assert_eq!(lens(32, 1), [32]);
        assert_eq!(lens(64, 2), [16, 8, 4, 2, 2, 16, 8, 4, 2, 2]);
        assert_eq!(lens(5, 2), [1, 1, 2, 1]);
    }
}
