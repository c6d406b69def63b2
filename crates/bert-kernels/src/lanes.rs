//! Sums in a fixed order that vectorises.
//!
//! Owns the lane count and the order: element i goes to lane i modulo [`NUM_LANES`], and the lanes are added
//! pairwise. The result is a function of the values alone.

/// Two AVX-512 or four AVX2 vectors of f32: enough to hide the latency of an addition.
pub(crate) const NUM_LANES: usize = 32;

/// Adds up `term(x)` over a slice.
#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; NUM_LANES];
    let mut chunks = values.chunks_exact(NUM_LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += term(*value);
    }
    fold(lanes, |a, b| a + b)
}

/// Returns the largest value, or minus infinity; what is no number does not count.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; NUM_LANES];
    let (chunks, rest) = values.as_chunks::<NUM_LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, *value);
    }
    fold(lanes, larger)
}

/// Folds the lanes pairwise: the upper half onto the lower half, until one is left.
#[inline(always)]
pub(crate) fn fold<T: Copy>(mut lanes: [T; NUM_LANES], add: impl Fn(T, T) -> T) -> T {
    let mut num_left = NUM_LANES / 2;
    while num_left > 0 {
        for i in 0..num_left {
            lanes[i] = add(lanes[i], lanes[i + num_left]);
        }
        num_left /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Integers of this size add exactly in f32, so that every order gives the same sum.
        #[test]
        fn every_element_counts_once(values in prop::collection::vec(-1000_i16..1000, 0..200)) {
            let floats: Vec<f32> = values.iter().map(|v| f32::from(*v)).collect();
            let expected: i32 = values.iter().map(|v| 2 * i32::from(*v)).sum();
            prop_assert_eq!(sum(&floats, |x| 2.0 * x), expected as f32);
            prop_assert_eq!(max(&floats), floats.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
