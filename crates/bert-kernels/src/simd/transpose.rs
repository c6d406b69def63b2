//! Transposing a square of 16 x 16 words in registers.
//!
//! Owns this one permutation, which packing spends its time on. It never looks at what the words mean.

/// A square of words, row by row.
pub(crate) type Square = [[u32; 16]; 16];

/// Writes `square` transposed into `out`.
#[inline]
pub(crate) fn transpose(square: &Square, out: &mut Square) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature was just detected; both arguments are whole squares.
        #[expect(unsafe_code, reason = "calling code compiled for a feature that was just detected")]
        return unsafe { x86::transpose(square, out) };
    }
    plain(square, out);
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
            x86::transpose_between(words.as_ptr(), stride, rounds, out.as_mut_ptr(), out_stride);
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
mod x86 {
    use super::Square;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub(super) fn transpose(square: &Square, out: &mut Square) {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (row, words) in rows.iter_mut().zip(square) {
            // SAFETY: a row of the square is 64 bytes.
            *row = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        }
        let columns = columns(rows);
        for (out, column) in out.iter_mut().zip(columns) {
            // SAFETY: a row of the result is 64 bytes.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), column) };
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_memories_it_transposes_and_rounds() {
        let specials = [f32::NAN, f32::INFINITY, f32::MAX, -257.0, 257.001, 0.0];
        let value = |i: usize| *specials.get(i).unwrap_or(&(i as f32 * 0.37 - 40.0));
        let words: Vec<u32> = (0..15 * 20 + 16).map(|i| value(i).to_bits()).collect();
        for rounds in [false, true] {
            let mut out = vec![7; 15 * 32 + 16];
            if !transpose_between(&words, 20, rounds, &mut out, 32) {
                println!("skipped: no AVX-512 here");
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
