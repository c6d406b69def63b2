//! Rectangles of one matrix that are written side by side.
//!
//! Owns cutting a matrix into parts that share no element, so that each may go to another thread; rows of a part do
//! not follow each other in memory. It never looks at what the elements mean.

use std::marker::PhantomData;
use std::ops::Range;

/// A rectangle of a row-major matrix, borrowed as exclusively as `&mut [f32]`.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    start: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a window is the only way to its elements, as a mutable slice is, which may be sent.
#[expect(unsafe_code, reason = "a pointer into a mutable slice whose parts are disjoint")]
unsafe impl Send for Window<'_> {}

impl<'a> Window<'a> {
    /// Returns the first `cols` columns of a matrix whose rows begin every `stride` values.
    ///
    /// # Panics
    ///
    /// If the rows overlap or reach beyond the values.
    pub(crate) fn new(values: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(cols <= stride, "rows of {cols} values cannot begin every {stride} values");
        let needed = if rows == 0 { 0 } else { (rows - 1) * stride + cols };
        assert!(needed <= values.len(), "the matrix needs {needed} values, got {}", values.len());
        Self { start: values.as_mut_ptr(), rows, cols, stride, matrix: PhantomData }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the first element and the distance of rows; elements `[row, col]` of the window may be written.
    pub(crate) fn raw(&mut self) -> (*mut f32, usize) {
        (self.start, self.stride)
    }

    /// Takes away and returns the first `len` rows.
    ///
    /// # Panics
    ///
    /// If there are not as many rows.
    pub(crate) fn cut_rows(&mut self, len: usize) -> Self {
        assert!(len <= self.rows, "a window of {} rows cannot be cut at {len}", self.rows);
        let cut = Self { rows: len, ..*self };
        self.start = self.start.wrapping_add(len * self.stride);
        self.rows -= len;
        cut
    }

    /// Takes away and returns the first `len` columns.
    ///
    /// # Panics
    ///
    /// If there are not as many columns.
    pub(crate) fn cut_cols(&mut self, len: usize) -> Self {
        assert!(len <= self.cols, "a window of {} columns cannot be cut at {len}", self.cols);
        let cut = Self { cols: len, ..*self };
        self.start = self.start.wrapping_add(len);
        self.cols -= len;
        cut
    }

    /// Lends the whole window.
    pub(crate) fn lend(&mut self) -> Window<'_> {
        Window { ..*self }
    }

    /// Lends a rectangle of the window.
    ///
    /// # Panics
    ///
    /// If it reaches beyond the window.
    #[inline(always)]
    pub(crate) fn part(&mut self, rows: Range<usize>, cols: Range<usize>) -> Window<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        let start = self.start.wrapping_add(rows.start * self.stride + cols.start);
        Window { start, rows: rows.len(), cols: cols.len(), stride: self.stride, matrix: PhantomData }
    }

    /// Lends one row.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        self.stretch(row, 0..self.cols)
    }

    /// Lends some columns of one row.
    ///
    /// # Panics
    ///
    /// If there are no such row and columns.
    #[inline(always)]
    pub(crate) fn stretch(&mut self, row: usize, cols: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        let start = self.start.wrapping_add(row * self.stride + cols.start);
        // SAFETY: `new` checked that the rows of the matrix lie in its values, and every other window has other
        // elements; the borrow of this window keeps it from lending a row twice.
        #[expect(unsafe_code, reason = "a stretch of the slice that the window was made from")]
        unsafe {
            std::slice::from_raw_parts_mut(start, cols.len())
        }
    }

    /// Returns the memory of all rows, to be fetched before they are written.
    #[inline(always)]
    pub(crate) fn lines(&self) -> Lines {
        Lines { start: self.start, rows: self.rows, stride: self.stride }
    }
}

/// Rows of a tile somewhere in memory, each at most two cache lines long: what is needed soon. Only an address, which may be
/// asked for and never read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    pub(crate) start: *const f32,
    pub(crate) rows: usize,
    pub(crate) stride: usize,
}

impl Lines {
    /// No rows; its address is one that is there, because looking for another takes time.
    pub(crate) const NONE: Self = Self { start: [0.0].as_ptr(), rows: 0, stride: 0 };

    /// Returns `rows` rows that begin every `stride` values, from the first of `values` on.
    #[inline(always)]
    pub(crate) fn of(values: &[f32], rows: usize, stride: usize) -> Self {
        Self { start: values.as_ptr(), rows, stride }
    }
}

/// Asks for the line of one word, which is written soon, to come into the first cache. There need be no such word.
#[inline(always)]
pub(crate) fn fetch_word(words: &[u32], idx: usize) {
    ask::<3>(words.as_ptr().wrapping_add(idx));
}

/// Asks for the memory of `values`, which are read soon, to come into the second cache.
#[inline(always)]
pub(crate) fn fetch(values: &[f32]) {
    values.chunks(16).for_each(|line| ask::<2>(line.as_ptr()));
}

/// Asks for the line of an address, where processors can be asked: `_MM_HINT_T0` is 3 and brings it into the first cache,
/// `_MM_HINT_T1` is 2 and into the second.
#[inline(always)]
fn ask<const HINT: i32>(address: *const impl Sized) {
    // SAFETY: a prefetch changes nothing and may name any address.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "a hint to the processor")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<HINT>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_no_element_and_miss_none() {
        let mut values = vec![0.0; 5 * 9];
        let mut right = Window::new(&mut values, 5, 7, 9);
        let mut above = right.cut_rows(2);
        let mut left = right.cut_cols(3);
        (0..2).for_each(|i| above.row(i).fill(1.0));
        (0..3).for_each(|i| left.row(i).fill(2.0));
        (0..3).for_each(|i| right.row(i).fill(3.0));
        right.part(1..2, 2..4).row(0).fill(4.0);
        let expected = [
            [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0],
            [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0],
            [2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 0.0, 0.0],
            [2.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 0.0, 0.0],
            [2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 0.0, 0.0],
        ];
        assert_eq!(values, expected.concat());
    }

    #[test]
    fn a_stretch_is_some_columns_of_a_row() {
        let mut values: Vec<f32> = (0..27).map(|i| i as f32).collect();
        let mut window = Window::new(&mut values, 3, 7, 9);
        assert_eq!(window.stretch(1, 2..5), [11.0, 12.0, 13.0]);
        assert_eq!(window.stretch(2, 7..7), []);
    }

    #[test]
    #[should_panic(expected = "columns 5..8 of 7")]
    fn a_stretch_beyond_the_window_is_refused() {
        Window::new(&mut [0.0; 27], 3, 7, 9).stretch(0, 5..8);
    }

    #[test]
    #[should_panic(expected = "needs 16 values")]
    fn a_window_beyond_its_values_is_refused() {
        Window::new(&mut [0.0; 15], 2, 7, 9);
    }
}
