//! The micro-kernels in vector instructions.
//!
//! Owns one loop per instruction set, compiled for every number of rows and for both orders of the left operand.

#![expect(unsafe_code, reason = "vector instructions on panels whose lengths the caller has checked")]

use super::{Kernel, LeftPanel, Lines};
use std::arch::asm;
use std::arch::x86_64::*;

/// Words that the right panel is fetched ahead: eight steps of two lines, or sixteen of one.
const AHEAD: usize = 8 * 32;

/// The last column of the widest tile; behind that of a narrower one begins its neighbour.
const LAST_COL: usize = 31;

/// What a micro-kernel reads and writes.
pub(super) struct Operands<'a> {
    a: *const u32,
    /// The distance of lanes if neighbours in memory are neighbours along the depth, or else that of steps.
    stride: usize,
    by_rows: bool,
    b: *const u32,
    depth: usize,
    fresh: bool,
    ahead: (*const u32, usize),
    tiles: [&'a Lines; 2],
    out: *mut f32,
    out_stride: usize,
}

impl<'a> Operands<'a> {
    pub(super) fn new(
        a: LeftPanel<'_>,
        b: &[u32],
        depth: usize,
        fresh: bool,
        (ahead, tiles): ((*const u32, usize), [&'a Lines; 2]),
        (out, out_stride): (*mut f32, usize),
    ) -> Self {
        let by_rows = a.lane_stride != 1;
        let stride = if by_rows { a.lane_stride } else { a.depth_stride };
        Self {
            a: a.words.as_ptr(),
            stride,
            by_rows,
            b: b.as_ptr(),
            depth,
            fresh,
            ahead,
            tiles,
            out,
            out_stride,
        }
    }
}

/// Calls the micro-kernel of as many rows.
macro_rules! by_number_of_rows {
    ($kernel:ident, $operands:ident, $rows:ident: $($number:literal)*) => {
        match ($rows, $operands.by_rows) {
            $(($number, true) => $kernel::<$number, true>($operands),
            ($number, false) => $kernel::<$number, false>($operands),)*
            _ => unreachable!("a tile of {} rows", $rows),
        }
    };
}

/// Does the same for each of at most 14 rows, written out: the compiler leaves a loop over lanes that lie apart as it is,
/// and then the sums are in memory.
macro_rules! for_each_row {
    ($rows:ident, |$row:ident| $work:block) => {
        for_each_row!(@ $rows, $row, $work, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rows:ident, $row:ident, $work:block, $($number:literal)*) => {
        $(if $number < $rows {
            let $row: usize = $number;
            $work
        })*
    };
}

/// # Safety
///
/// The processor must have the kernel's instructions; `a` and `b` must have `depth` words in each of `rows` and of the
/// tile's columns, and `out` as many rows and columns.
pub(super) unsafe fn multiply(kernel: Kernel, rows: usize, operands: &Operands<'_>) {
    // SAFETY: as the caller promises.
    unsafe {
        match kernel {
            Kernel::Avx512 => by_number_of_rows!(avx512, operands, rows: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            Kernel::Avx512Bf16 => {
                by_number_of_rows!(avx512_bf16, operands, rows: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            }
            Kernel::Avx2 => by_number_of_rows!(avx2, operands, rows: 1 2 3 4 5 6),
            Kernel::Portable => unreachable!("the portable kernel has no instructions of its own"),
        }
    }
}

/// Does the same for every step of the depth, and asks for a line of the tiles that are fetched every four steps: the processor
/// can wait for a few lines at a time, and the right panel needs some of these places as well.
macro_rules! fetching {
    ($operands:ident, $step:block) => {
        let mut lines = FetchedLines::new($operands.tiles);
        for _ in 0..$operands.depth / 4 {
            _mm_prefetch::<_MM_HINT_T0>(lines.next().cast());
            $step
            $step
            $step
            $step
        }
        for _ in 0..$operands.depth % 4 $step
    };
}

/// The lines of two tiles, one after the other, and then the last one for ever. Without branches: they would be as many as
/// tiles, and each end of a short loop is one that the processor does not foresee.
struct FetchedLines<'a> {
    tiles: [&'a Lines; 2],
    line: usize,
}

impl<'a> FetchedLines<'a> {
    #[inline(always)]
    fn new(tiles: [&'a Lines; 2]) -> Self {
        Self { tiles, line: 0 }
    }

    #[inline(always)]
    fn next(&mut self) -> *const f32 {
        let [first, second] = self.tiles.map(|tile| 2 * tile.rows);
        let is_second = usize::from(self.line >= first);
        let (tile, line) = (self.tiles[is_second], self.line - is_second * first);
        self.line = (first + second).saturating_sub(1).min(self.line + 1);
        tile.start.wrapping_add(line / 2 * tile.stride + line % 2 * LAST_COL)
    }
}

/// Adds a word of lane `i` times a row of the right panel to the sums of row `i`, for lanes that lie apart. Written as
/// instructions: the compiler gathers the words of all lanes first, and has no registers left for the sums.
macro_rules! multiply_row {
    ($step:literal, $register:ident, $vector:ty, $lanes:ident, $i:ident, $low:ident, $high:ident, $sums:ident) => {
        match $i % 3 {
            0 => multiply_row!(@ concat!(" + 4 * ", $step), $register, $vector, $lanes, $i, $low, $high, $sums),
            1 => {
                multiply_row!(@ concat!(" + {stride} + 4 * ", $step), $register, $vector, $lanes, $i, $low, $high, $sums);
            }
            _ => {
                multiply_row!(@ concat!(" + 2 * {stride} + 4 * ", $step), $register, $vector, $lanes, $i, $low, $high, $sums);
            }
        }
    };
    (@ $offset:expr, $register:ident, $vector:ty, $lanes:ident, $i:ident, $low:ident, $high:ident, $sums:ident) => {
        asm!(
            concat!("vbroadcastss {factor}, dword ptr [{lane}", $offset, "]"),
            "vfmadd231ps {low_sum}, {factor}, {low}",
            "vfmadd231ps {high_sum}, {factor}, {high}",
            concat!("/* {stride} */"),
            factor = out($register) _,
            lane = in(reg) $lanes.thirds[$i / 3],
            stride = in(reg) 4 * $lanes.stride,
            low = in($register) $low,
            high = in($register) $high,
            low_sum = inout($register) $sums[$i][0],
            high_sum = inout($register) $sums[$i][1],
            options(pure, readonly, nostack, preserves_flags),
        )
    };
}

/// Where the present words of the lanes are. Of lanes that lie apart every third has a pointer of its own; with the
/// distance as an index those reach all lanes, and fit the registers.
struct Lanes<const BY_ROWS: bool> {
    thirds: [*const u32; 5],
    stride: usize,
}

impl<const BY_ROWS: bool> Lanes<BY_ROWS> {
    #[inline(always)]
    fn new(operands: &Operands<'_>) -> Self {
        let distance = if BY_ROWS { 3 * operands.stride } else { 0 };
        Self {
            thirds: std::array::from_fn(|i| operands.a.wrapping_add(i * distance)),
            stride: operands.stride,
        }
    }

    /// Returns where the word of lane `i` is, if lanes are neighbours.
    #[inline(always)]
    fn at(&self, i: usize) -> *const u32 {
        self.thirds[0].wrapping_add(i)
    }

    #[inline(always)]
    fn advance(&mut self, num_steps: usize) {
        if BY_ROWS {
            for lane in &mut self.thirds {
                *lane = lane.wrapping_add(num_steps);
            }
        } else {
            self.thirds[0] = self.thirds[0].wrapping_add(num_steps * self.stride);
        }
    }
}

/// # Safety
///
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize, const BY_ROWS: bool>(operands: &Operands<'_>) {
    let mut lanes = Lanes::<BY_ROWS>::new(operands);
    let mut b = operands.b.cast::<f32>();
    let (mut ahead, ahead_step) = operands.ahead;
    let (out, out_stride) = (operands.out, operands.out_stride);
    // SAFETY: reads stay in `depth` words of each lane, reads and writes of the tile in its rows of 32 elements;
    // a prefetch may name any address.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if !operands.fresh {
            for (i, sums) in sums.iter_mut().enumerate() {
                let out = out.add(i * out_stride);
                *sums = [_mm512_loadu_ps(out), _mm512_loadu_ps(out.add(16))];
            }
        }
        fetching!(operands, {
            let (low, high) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + 16).cast());
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_add(ahead_step);
            for_each_row!(ROWS, |i| {
                if BY_ROWS {
                    multiply_row!(0, zmm_reg, __m512, lanes, i, low, high, sums);
                } else {
                    let factor = _mm512_set1_ps(*lanes.at(i).cast());
                    sums[i][0] = _mm512_fmadd_ps(factor, low, sums[i][0]);
                    sums[i][1] = _mm512_fmadd_ps(factor, high, sums[i][1]);
                }
            });
            lanes.advance(1);
            b = b.add(32);
        });
        for (i, sums) in sums.iter().enumerate() {
            let out = out.add(i * out_stride);
            _mm512_storeu_ps(out, sums[0]);
            _mm512_storeu_ps(out.add(16), sums[1]);
        }
    }
}

/// # Safety
///
/// As [`multiply`]; a word holds a pair of bf16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn avx512_bf16<const ROWS: usize, const BY_ROWS: bool>(operands: &Operands<'_>) {
    let mut lanes = Lanes::<BY_ROWS>::new(operands);
    let mut b = operands.b;
    let (mut ahead, ahead_step) = operands.ahead;
    let (out, out_stride) = (operands.out, operands.out_stride);
    // SAFETY: as in `avx512`; `__m512bh` and `__m512i` are the same 64 bytes.
    unsafe {
        let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if !operands.fresh {
            for (i, sums) in sums.iter_mut().enumerate() {
                let out = out.add(i * out_stride);
                *sums = [_mm512_loadu_ps(out), _mm512_loadu_ps(out.add(16))];
            }
        }
        fetching!(operands, {
            let low = pairs(_mm512_loadu_si512(b.cast()));
            let high = pairs(_mm512_loadu_si512(b.add(16).cast()));
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + 16).cast());
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_add(ahead_step);
            for_each_row!(ROWS, |i| {
                let factors = pairs(_mm512_set1_epi32(*lanes.at(i).cast()));
                sums[i][0] = _mm512_dpbf16_ps(sums[i][0], factors, low);
                sums[i][1] = _mm512_dpbf16_ps(sums[i][1], factors, high);
            });
            lanes.advance(1);
            b = b.add(32);
        });
        for (i, sums) in sums.iter().enumerate() {
            let out = out.add(i * out_stride);
            _mm512_storeu_ps(out, sums[0]);
            _mm512_storeu_ps(out.add(16), sums[1]);
        }
    }
}

/// Where the processor hands out six instructions in a cycle, or three because another thread shares its core, the loop has two
/// multiplications to start in each: what is not a load or a multiplication must be rare. So steps go in fours, and tiles are fetched in
/// loops of their own.
///
/// # Safety
///
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const ROWS: usize, const BY_ROWS: bool>(operands: &Operands<'_>) {
    let mut lanes = Lanes::<BY_ROWS>::new(operands);
    let mut b = operands.b.cast::<f32>();
    let (out, out_stride) = (operands.out, operands.out_stride);
    // SAFETY: reads stay in `depth` words of each lane, reads and writes of the tile in its rows of 16 elements; a prefetch may
    // name any address.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        if !operands.fresh {
            for (i, sums) in sums.iter_mut().enumerate() {
                let out = out.add(i * out_stride);
                *sums = [_mm256_loadu_ps(out), _mm256_loadu_ps(out.add(8))];
            }
        }
        macro_rules! step {
            ($step:literal) => {{
                let b = b.add(16 * $step);
                let (low, high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
                for_each_row!(ROWS, |i| {
                    if BY_ROWS {
                        multiply_row!($step, ymm_reg, __m256, lanes, i, low, high, sums);
                    } else {
                        let factor = &*lanes.at(i).wrapping_add($step * operands.stride).cast();
                        let factor = _mm256_broadcast_ss(factor);
                        sums[i][0] = _mm256_fmadd_ps(factor, low, sums[i][0]);
                        sums[i][1] = _mm256_fmadd_ps(factor, high, sums[i][1]);
                    }
                });
            }};
        }
        macro_rules! four_steps {
            () => {
                step!(0);
                step!(1);
                step!(2);
                step!(3);
                lanes.advance(4);
                b = b.add(4 * 16);
            };
        }
        let mut num_left = operands.depth / 4;
        for tile in operands.tiles {
            let mut row = tile.start;
            let num_rows = tile.rows.min(num_left);
            num_left -= num_rows;
            for _ in 0..num_rows {
                _mm_prefetch::<_MM_HINT_T0>(row.cast());
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(15).cast());
                row = row.wrapping_add(tile.stride);
                four_steps!();
            }
        }
        let (mut ahead, ahead_step) = operands.ahead;
        for _ in 0..num_left {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_add((4 * ahead_step).min(16));
            four_steps!();
        }
        for _ in 0..operands.depth % 4 {
            step!(0);
            lanes.advance(1);
            b = b.add(16);
        }
        for (i, sums) in sums.iter().enumerate() {
            let out = out.add(i * out_stride);
            _mm256_storeu_ps(out, sums[0]);
            _mm256_storeu_ps(out.add(8), sums[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_both_tiles_come_in_turn_and_then_the_last_one() {
        let values = [0.0; 400];
        let lines = |rows: [usize; 2], len: usize| -> Vec<usize> {
            let tiles = [Lines::of(&values, rows[0], 100), Lines::of(&values[200..], rows[1], 50)];
            let mut lines = FetchedLines::new([&tiles[0], &tiles[1]]);
            (0..len).map(|_| (lines.next().addr() - values.as_ptr().addr()) / size_of::<f32>()).collect()
        };
        assert_eq!(lines([2, 1], 8), [0, 31, 100, 131, 200, 231, 231, 231]);
        assert_eq!(lines([0, 2], 5), [200, 231, 250, 281, 281]);
        assert_eq!(lines([1, 0], 3), [0, 31, 31]);
        assert_eq!(lines([0, 0], 2), [200, 200]);
    }
}
