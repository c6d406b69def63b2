//! Sums, norms and checks of flat slices, and memory that is used again.
//!
//! Owns what gradient accumulation and clipping need; it knows neither tensors nor buckets.

use crate::lanes::{NUM_LANES, fold};
use crate::simd::widest;
use crate::simd::window::fetch;
use crate::threads::{OverThreads, PARALLEL_CHUNK_LEN};
use rayon::prelude::*;

/// Sets the length of a buffer that is about to be overwritten. Its memory is kept if it is large enough; otherwise it is
/// given back first, and what comes instead is an eighth larger: batches differ by a few tokens, and a vector that grows on
/// its own takes twice what it had.
pub fn fit<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if len > buffer.capacity() {
        *buffer = Vec::new();
        buffer.reserve_exact(len + len / 8);
    }
    buffer.resize(len, T::default());
    buffer
}

/// Lends the beginning of a buffer that is about to be overwritten, and makes it longer where it is too short, as [`fit`] does.
/// For what is used by longer and shorter batches in turn: nothing is cleared on the way back to the longer one.
pub fn lend<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        fit(buffer, len);
    }
    &mut buffer[..len]
}

/// Adds `x` to `acc`, element by element.
///
/// # Panics
///
/// If the lengths differ.
pub fn add_assign(acc: &mut [f32], x: &[f32]) {
    assert_eq!(acc.len(), x.len(), "add_assign needs slices of equal length");
    if acc.len() <= 2 * PARALLEL_CHUNK_LEN {
        return add_chunk(acc, x);
    }
    let chunks = acc.par_chunks_mut(PARALLEL_CHUNK_LEN).zip(x.par_chunks(PARALLEL_CHUNK_LEN));
    chunks.over_threads(|(acc, x)| add_chunk(acc, x));
}

fn add_chunk(acc: &mut [f32], x: &[f32]) {
    widest(
        #[inline(always)]
        || {
            for (sum, value) in acc.iter_mut().zip(x) {
                *sum += value;
            }
        },
    );
}

/// Writes the sums over the rows of a matrix, in their order, into `sums`.
///
/// # Shapes
///
/// - matrix: `[num_rows, num_cols]`; sums: `[num_cols]`
///
/// # Panics
///
/// If the matrix does not consist of rows as long as `sums`.
pub fn sum_columns(matrix: &[f32], sums: &mut [f32]) {
    const MIN_COLS: usize = 256; // worth a second thread
    const MAX_COLS: usize = 4096; // sums that stay in the first cache while the rows pass
    let num_cols = sums.len();
    assert!(num_cols > 0 && matrix.len().is_multiple_of(num_cols), "rows of {num_cols} columns");
    // As much of a row as there is: memory is read fastest in one direction.
    let chunk_len = num_cols.div_ceil(rayon::current_num_threads()).clamp(MIN_COLS, MAX_COLS);
    sums.par_chunks_mut(chunk_len).enumerate().over_threads(|(chunk_idx, sums)| {
        sums.fill(0.0);
        widest(
            #[inline(always)]
            || {
                for row in matrix.chunks_exact(num_cols) {
                    for (sum, value) in sums.iter_mut().zip(&row[chunk_idx * chunk_len..]) {
                        *sum += value;
                    }
                }
            },
        );
    });
}

/// Returns the sum of squares, added up in f64 over fixed lanes: a function of the values alone.
#[must_use]
pub fn squared_norm(x: &[f32]) -> f64 {
    widest(
        #[inline(always)]
        || squared_norm_in_lanes(x),
    )
}

#[inline(always)]
fn squared_norm_in_lanes(x: &[f32]) -> f64 {
    const AHEAD: usize = 1024; // elements that are asked for ahead of time: a lone stream waits for memory otherwise
    let mut lanes = [[0.0; 8]; NUM_LANES / 8];
    let (chunks, rest) = x.as_chunks::<NUM_LANES>();
    for (i, chunk) in chunks.iter().enumerate() {
        fetch(x.get(i * NUM_LANES + AHEAD..i * NUM_LANES + AHEAD + NUM_LANES).unwrap_or_default());
        for (lanes, values) in lanes.iter_mut().zip(chunk.as_chunks::<8>().0) {
            let values = values.map(f64::from);
            *lanes = std::array::from_fn(|i| lanes[i] + values[i] * values[i]);
        }
    }
    for (lane, value) in lanes.as_flattened_mut().iter_mut().zip(rest) {
        *lane += f64::from(*value) * f64::from(*value);
    }
    let mut sums = [0.0; NUM_LANES];
    sums.copy_from_slice(lanes.as_flattened());
    fold(sums, |a, b| a + b)
}

/// Returns the [`squared_norm`] of each of several slices.
#[must_use]
pub fn squared_norms(slices: &[&[f32]]) -> Vec<f64> {
    let mut norms = vec![0.0; slices.len()];
    norms.par_iter_mut().zip(slices).over_threads(|(norm, values)| *norm = squared_norm(values));
    norms
}

/// Returns whether no element is infinite or NaN.
#[must_use]
pub fn all_finite(x: &[f32]) -> bool {
    const BLOCK_LEN: usize = 1024; // how far a scan runs past the first bad element
    const EXPONENT: u32 = 0x7f80_0000;
    widest(
        #[inline(always)]
        || {
            x.chunks(BLOCK_LEN).all(|block| {
                let num_bad: u32 = block.iter().map(|v| u32::from(v.to_bits() & EXPONENT == EXPONENT)).sum();
                num_bad == 0
            })
        },
    )
}

/// The same results by the plainest loops.
pub mod reference {
    /// See [`super::add_assign`].
    pub fn add_assign(acc: &mut [f32], x: &[f32]) {
        for i in 0..acc.len() {
            acc[i] += x[i];
        }
    }

    /// See [`super::squared_norm`]; added up from the first to the last element.
    #[must_use]
    pub fn squared_norm(x: &[f32]) -> f64 {
        x.iter().map(|v| f64::from(*v).powi(2)).sum()
    }

    /// See [`super::all_finite`].
    #[must_use]
    pub fn all_finite(x: &[f32]) -> bool {
        x.iter().all(|v| v.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(len: usize, seed: u64) -> Vec<f32> {
        let mut stream = bert_random::Key::new(seed, bert_random::Purpose::Debug).stream();
        (0..len).map(|_| stream.normal() as f32).collect()
    }

    #[test]
    fn long_slices_are_added_like_short_ones() {
        let (mut acc, x) = (values(100_003, 1), values(100_003, 2));
        let mut expected = acc.clone();
        reference::add_assign(&mut expected, &x);
        add_assign(&mut acc, &x);
        assert_eq!(acc, expected);
    }

    #[test]
    #[should_panic(expected = "equal length")]
    fn unequal_lengths_are_refused() {
        add_assign(&mut [0.0; 3], &[0.0; 2]);
    }

    /// Squares of 1e30 overflow f32; the sum is kept in f64.
    #[test]
    fn a_large_gradient_has_a_finite_norm() {
        let norm = squared_norm(&[3e30, 4e30]).sqrt();
        assert!((norm / 5e30 - 1.0).abs() < 1e-7, "norm {norm}");
    }

    #[test]
    fn slices_have_their_own_norms_in_order_on_any_number_of_threads() {
        let x = values(10_000, 4);
        let slices: Vec<&[f32]> = x.chunks(333).collect();
        let expected: Vec<f64> = slices.iter().map(|slice| squared_norm(slice)).collect();
        for num_threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            assert_eq!(pool.install(|| squared_norms(&slices)), expected);
        }
    }

    #[test]
    fn one_bad_element_anywhere_is_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 1, 31, 1023, 1024, 2999] {
                let mut x = values(3000, 3);
                assert!(all_finite(&x));
                x[place] = bad;
                assert!(!all_finite(&x), "{bad} at {place}");
            }
        }
        assert!(all_finite(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE / 2.0, -0.0]));
        assert!(all_finite(&[]));
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(len in 0_usize..300, seed: u64) {
            let x = values(len, seed);
            let mut acc = values(len, seed ^ 1);
            let mut expected = acc.clone();
            reference::add_assign(&mut expected, &x);
            add_assign(&mut acc, &x);
            prop_assert_eq!(acc, expected);
            let (got, plain) = (squared_norm(&x), reference::squared_norm(&x));
            prop_assert!((got - plain).abs() <= 1e-13 * plain, "{} != {}", got, plain);
            prop_assert_eq!(all_finite(&x), reference::all_finite(&x));
        }
    }
}
