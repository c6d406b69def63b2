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
        let rows = transpose_in_lanes(rows);
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
                // SAFETY: a row of the result is 64 bytes.
                unsafe { _mm512_storeu_si512(out[4 * lane + c].as_mut_ptr().cast(), column) };
            }
        }
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
