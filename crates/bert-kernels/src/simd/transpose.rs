//! Transposing squares of words in registers.
//!
//! Owns this one permutation, which packing spends its time on. It never looks at what the words mean, except where it rounds
//! them on the way.

/// A square of words, row by row.
pub(crate) type Square = [[u32; 16]; 16];

/// Side of the square that [`transpose_narrow`] moves at a time.
pub(crate) const NARROW: usize = 8;

/// Writes `square` transposed into `out`.
#[inline]
pub(crate) fn transpose(square: &Square, out: &mut Square) {
    if !transpose_between(square.as_flattened(), 16, false, out.as_flattened_mut(), 16) {
        plain(square, out);
    }
}

/// Writes a square whose rows begin every `stride` words transposed into rows that begin every `out_stride` words, and
/// on the way rounds f32 to bf16 if `rounds`, ties to even. Returns false, having done nothing, where the processor has
/// no instructions for it.
///
/// # Panics
///
/// If a square reaches beyond its words.
#[inline]
pub(crate) fn transpose_between(
    words: &[u32],
    stride: usize,
    rounds: bool,
    out: &mut [u32],
    out_stride: usize,
) -> bool {
    assert!(15 * stride + 16 <= words.len(), "a square beyond its words");
    assert!(15 * out_stride + 16 <= out.len(), "a square beyond its words");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature was just detected, and all rows of 16 words are within the slices (asserted).
        #[expect(unsafe_code, reason = "calling code compiled for a feature that was just detected")]
        unsafe {
            avx512::transpose_between(words.as_ptr(), stride, rounds, out.as_mut_ptr(), out_stride);
        }
        return true;
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was just detected, and all rows of 16 words are within the slices (asserted).
        #[expect(unsafe_code, reason = "calling code compiled for a feature that was just detected")]
        unsafe {
            avx2::transpose_between(words.as_ptr(), stride, rounds, out.as_mut_ptr(), out_stride);
        }
        return true;
    }
    let _ = rounds;
    false
}

/// Writes `ROWS` rows of [`NARROW`] words, which begin every `stride` words, transposed into as many rows, which begin every
/// `ROWS` words, and rounds as [`transpose_between`] does. Up to a row behind the last one is overwritten. Returns
/// false, having done nothing, where the processor has no instructions for it.
///
/// # Panics
///
/// If the rows reach beyond the words, or what is written beyond `out`.
#[inline]
pub(crate) fn transpose_narrow<const ROWS: usize>(
    words: &[u32],
    stride: usize,
    rounds: bool,
    out: &mut [u32],
) -> bool {
    const { assert!(0 < ROWS && ROWS <= NARROW) };
    assert!((ROWS - 1) * stride + NARROW <= words.len(), "rows beyond their words");
    assert!((NARROW - 1) * ROWS + NARROW <= out.len(), "columns beyond their words");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was just detected; 8 words of each row, and of each row of the result, are within the slices (asserted).
        #[expect(unsafe_code, reason = "calling code compiled for a feature that was just detected")]
        unsafe {
            avx2::transpose_square::<ROWS>(words.as_ptr(), stride, rounds, out.as_mut_ptr(), ROWS);
        }
        return true;
    }
    let _ = rounds;
    false
}

fn plain(square: &Square, out: &mut Square) {
    for (i, row) in square.iter().enumerate() {
        for (out, word) in out.iter_mut().zip(row) {
            out[i] = *word;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "unaligned vector loads and stores of whole rows")]
mod avx512 {
    use std::arch::x86_64::*;

    /// # Safety
    ///
    /// 16 words must be readable in each of 16 rows, and writable in those of `out`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose_between(
        words: *const u32,
        stride: usize,
        rounds: bool,
        out: *mut u32,
        out_stride: usize,
    ) {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            *row = unsafe { _mm512_loadu_si512(words.add(i * stride).cast()) };
        }
        if rounds {
            rows.iter_mut().for_each(|row| *row = rounded(*row));
        }
        for (i, column) in columns(rows).into_iter().enumerate() {
            // SAFETY: as the caller promises.
            unsafe { _mm512_storeu_si512(out.add(i * out_stride).cast(), column) };
        }
    }

    /// Rounds f32 to the nearest bf16, ties to even; a NaN stays one.
    #[target_feature(enable = "avx512f")]
    fn rounded(values: __m512i) -> __m512i {
        let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
        let is_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(values), _mm512_set1_epi32(1));
        let carried = _mm512_add_epi32(values, _mm512_add_epi32(is_odd, _mm512_set1_epi32(0x7fff)));
        let floats = _mm512_castsi512_ps(values);
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(floats, floats);
        let quiet = _mm512_or_si512(values, _mm512_set1_epi32(0x0040_0000));
        _mm512_and_si512(_mm512_mask_blend_epi32(is_nan, carried, quiet), upper)
    }

    /// Returns the columns of 16 rows.
    #[target_feature(enable = "avx512f")]
    fn columns(rows: [__m512i; 16]) -> [__m512i; 16] {
        let rows = transpose_in_lanes(rows);
        let mut out = rows;
        // Rows 4q + c hold column 4l + c of rows 4q..4q+4 in their 128-bit lane l.
        for c in 0..4 {
            let [q0, q1, q2, q3] = [rows[c], rows[4 + c], rows[8 + c], rows[12 + c]];
            let (even01, odd01) =
                (_mm512_shuffle_i32x4::<0x88>(q0, q1), _mm512_shuffle_i32x4::<0xdd>(q0, q1));
            let (even23, odd23) =
                (_mm512_shuffle_i32x4::<0x88>(q2, q3), _mm512_shuffle_i32x4::<0xdd>(q2, q3));
            let columns = [
                _mm512_shuffle_i32x4::<0x88>(even01, even23),
                _mm512_shuffle_i32x4::<0x88>(odd01, odd23),
                _mm512_shuffle_i32x4::<0xdd>(even01, even23),
                _mm512_shuffle_i32x4::<0xdd>(odd01, odd23),
            ];
            for (lane, column) in columns.into_iter().enumerate() {
                out[4 * lane + c] = column;
            }
        }
        out
    }

    /// Transposes the 4 x 4 words in each 128-bit lane of four neighbouring rows.
    #[target_feature(enable = "avx512f")]
    fn transpose_in_lanes(rows: [__m512i; 16]) -> [__m512i; 16] {
        let mut out = rows;
        for quarter in 0..4 {
            let first = 4 * quarter;
            let low01 = _mm512_unpacklo_epi32(rows[first], rows[first + 1]);
            let high01 = _mm512_unpackhi_epi32(rows[first], rows[first + 1]);
            let low23 = _mm512_unpacklo_epi32(rows[first + 2], rows[first + 3]);
            let high23 = _mm512_unpackhi_epi32(rows[first + 2], rows[first + 3]);
            out[first] = _mm512_unpacklo_epi64(low01, low23);
            out[first + 1] = _mm512_unpackhi_epi64(low01, low23);
            out[first + 2] = _mm512_unpacklo_epi64(high01, high23);
            out[first + 3] = _mm512_unpackhi_epi64(high01, high23);
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "unaligned vector loads and stores of whole rows")]
mod avx2 {
    use std::arch::x86_64::*;

    /// # Safety
    ///
    /// 16 words must be readable in each of 16 rows, and writable in those of `out`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose_between(
        words: *const u32,
        stride: usize,
        rounds: bool,
        out: *mut u32,
        out_stride: usize,
    ) {
        for [row, col] in [[0, 0], [8, 0], [0, 8], [8, 8]] {
            // SAFETY: as the caller promises; these are the four quarters of the square.
            unsafe {
                let (words, out) = (words.add(row * stride + col), out.add(col * out_stride + row));
                transpose_square::<8>(words, stride, rounds, out, out_stride);
            }
        }
    }

    /// Transposes `ROWS` rows of 8 words; what stands behind `ROWS` words in a row of `out` means nothing. The rows of `out` are
    /// written in their order.
    ///
    /// # Safety
    ///
    /// 8 words must be readable in each of `ROWS` rows, and writable in each of 8 rows of `out`.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) unsafe fn transpose_square<const ROWS: usize>(
        words: *const u32,
        stride: usize,
        rounds: bool,
        out: *mut u32,
        out_stride: usize,
    ) {
        // Word `i` of rows `row` and `row + 4`, in the two halves of a register: rows that there are none of repeat the first.
        let mut halves = [[_mm256_setzero_si256(); 2]; 4];
        for (row, halves) in halves.iter_mut().enumerate() {
            for (half, pair) in halves.iter_mut().enumerate() {
                let place = |row: usize| if row < ROWS { row * stride + 4 * half } else { 4 * half };
                // SAFETY: as the caller promises.
                let loaded = unsafe {
                    let low = _mm_loadu_si128(words.add(place(row)).cast());
                    let high = _mm_loadu_si128(words.add(place(row + 4)).cast());
                    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
                };
                *pair = if rounds { rounded(loaded) } else { loaded };
            }
        }
        for half in 0..2 {
            let [first, second, third, fourth] = halves.map(|halves| halves[half]);
            let (low01, high01) =
                (_mm256_unpacklo_epi32(first, second), _mm256_unpackhi_epi32(first, second));
            let (low23, high23) =
                (_mm256_unpacklo_epi32(third, fourth), _mm256_unpackhi_epi32(third, fourth));
            let columns = [
                _mm256_unpacklo_epi64(low01, low23),
                _mm256_unpackhi_epi64(low01, low23),
                _mm256_unpacklo_epi64(high01, high23),
                _mm256_unpackhi_epi64(high01, high23),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                // SAFETY: as the caller promises.
                unsafe { _mm256_storeu_si256(out.add((4 * half + i) * out_stride).cast(), column) };
            }
        }
    }

    /// Rounds f32 to the nearest bf16, ties to even; a NaN stays one.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn rounded(values: __m256i) -> __m256i {
        let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
        let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(values), _mm256_set1_epi32(1));
        let carried = _mm256_add_epi32(values, _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff)));
        let floats = _mm256_castsi256_ps(values);
        let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(floats, floats);
        let quiet = _mm256_or_si256(values, _mm256_set1_epi32(0x0040_0000));
        let chosen = _mm256_blendv_epi8(carried, quiet, _mm256_castps_si256(is_nan));
        _mm256_and_si256(chosen, upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_panels_are_transposed_and_rounded() {
        let value = |i: usize| if i == 3 { f32::NAN } else { i as f32 * 0.37 - 40.0 };
        let words: Vec<u32> = (0..5 * 20 + NARROW).map(|i| value(i).to_bits()).collect();
        for rounds in [false, true] {
            let mut out = vec![7; 52];
            if !transpose_narrow::<6>(&words, 20, rounds, &mut out[..50]) {
                println!("skipped: no AVX2 here");
                return;
            }
            for (i, word) in out[..48].iter().enumerate() {
                let word_there = words[i % 6 * 20 + i / 6];
                let rounded = crate::gemm::round_to_bf16(f32::from_bits(word_there)).to_bits();
                assert_eq!(*word, if rounds { rounded } else { word_there }, "word {i}, rounded {rounds}");
            }
            assert_eq!(out[50..], [7, 7], "behind the memory that was lent");
        }
    }

    /// Whatever this processor takes on its own, the narrower instructions do the same.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn quarters_make_the_whole() {
        if !is_x86_feature_detected!("avx2") {
            println!("skipped: no AVX2 here");
            return;
        }
        let words: Vec<u32> = (0..15 * 20 + 16).map(|i| (i as f32 * 0.37 - 40.0).to_bits()).collect();
        for rounds in [false, true] {
            let mut out = vec![7; 15 * 32 + 16];
            // SAFETY: the feature was just detected, and the last row of either side is whole.
            #[expect(unsafe_code, reason = "calling code compiled for a feature that was just detected")]
            unsafe {
                avx2::transpose_between(words.as_ptr(), 20, rounds, out.as_mut_ptr(), 32);
            }
            for (i, word) in out.iter().enumerate().filter(|(i, _)| i % 32 < 16) {
                let word_there = words[i % 32 * 20 + i / 32];
                let rounded = crate::gemm::round_to_bf16(f32::from_bits(word_there)).to_bits();
                assert_eq!(*word, if rounds { rounded } else { word_there }, "word {i}, rounded {rounds}");
            }
        }
    }

    #[test]
    fn between_memories_it_transposes_and_rounds() {
        let specials = [f32::NAN, f32::INFINITY, f32::MAX, -257.0, 257.001, 0.0];
        let value = |i: usize| *specials.get(i).unwrap_or(&(i as f32 * 0.37 - 40.0));
        let words: Vec<u32> = (0..15 * 20 + 16).map(|i| value(i).to_bits()).collect();
        for rounds in [false, true] {
            let mut out = vec![7; 15 * 32 + 16];
            if !transpose_between(&words, 20, rounds, &mut out, 32) {
                println!("skipped: neither AVX-512 nor AVX2 here");
                return;
            }
            for (i, word) in out.iter().enumerate() {
                let value = words.get(i % 32 * 20 + i / 32).map(|word| f32::from_bits(*word));
                let expected = match value {
                    _ if i % 32 >= 16 => 7,
                    Some(value) if rounds => crate::gemm::round_to_bf16(value).to_bits(),
                    value => value.map_or(7, f32::to_bits),
                };
                assert_eq!(*word, expected, "word {i}, rounded {rounds}");
            }
        }
    }

    #[test]
    fn rows_become_columns() {
        let mut square = [[0; 16]; 16];
        square.as_flattened_mut().iter_mut().enumerate().for_each(|(i, word)| *word = i as u32);
        let (mut fast, mut slow) = ([[0; 16]; 16], [[0; 16]; 16]);
        transpose(&square, &mut fast);
        plain(&square, &mut slow);
        assert_eq!(fast, slow);
        for (i, row) in fast.iter().enumerate() {
            let column: Vec<u32> = square.iter().map(|row| row[i]).collect();
            assert_eq!(row.as_slice(), column);
        }
    }
}
