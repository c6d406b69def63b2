//! The form that gradients have between ranks: f32 as they are, or rounded once to bf16.
//!
//! Pure arithmetic on slices. Who sends what, and the order of sums, is elsewhere. bf16 is the upper half of an f32: its
//! sign, its 8 bits of exponent and 7 of the 23 of its fraction.

use crate::slot_tree::{PASS_LEN, rank_tree_sum};

/// The form of gradients between ranks. Parameters always travel as f32: bf16 would lose bits of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// As they are.
    #[default]
    F32,
    /// Every rank's partial sum is rounded once, its own slice too, and the rounded values are added in f32. So a sum
    /// does not depend on who owns it; it does depend on the number of partial sums, which is that of the ranks.
    Bf16,
}

/// Rounds to the nearest bf16, to the even one of two equally near; returns its bits.
///
/// A NaN stays a NaN of the same sign (made quiet), an infinity stays itself, and what is nearer to 2^128 than to the
/// largest bf16 becomes an infinity, as IEEE 754 has it.
#[must_use]
pub fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

/// The value of a bf16 given by its bits; exact.
#[must_use]
pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Replaces the content of `out` by the rounded `values`.
pub(crate) fn pack(values: &[f32], out: &mut Vec<u16>) {
    out.clear();
    out.extend(values.iter().map(|value| to_bf16(*value)));
}

/// Rounds every value to the nearest bf16.
pub(crate) fn round_in_place(values: &mut [f32]) {
    for value in values {
        *value = from_bf16(to_bf16(*value));
    }
}

/// [`rank_tree_sum`] over bf16 parts: the values are added in f32 and the sums are not rounded.
///
/// # Panics
///
/// As [`rank_tree_sum`].
pub(crate) fn rank_tree_sum_bf16(parts: &[u16], num_ranks: usize, out: &mut [f32]) {
    let part_len = out.len();
    assert_eq!(parts.len(), num_ranks * part_len, "one part of {part_len} elements per rank");
    let mut wide = vec![0.0; num_ranks * part_len.min(PASS_LEN)];
    for (pass_idx, out) in out.chunks_mut(PASS_LEN).enumerate() {
        let wide = &mut wide[..num_ranks * out.len()];
        for (rank, wide) in wide.chunks_exact_mut(out.len()).enumerate() {
            let part = &parts[rank * part_len + pass_idx * PASS_LEN..][..out.len()];
            for (wide, bits) in wide.iter_mut().zip(part) {
                *wide = from_bf16(*bits);
            }
        }
        rank_tree_sum(wide, num_ranks, out);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    /// The definition: of the two neighbours among all finite bf16 and 2^128, the nearer one; of two, the even one.
    fn by_definition(value: f32) -> u16 {
        let below = (value.to_bits() >> 16) as u16;
        let wide = |bits: u16| {
            if bits & 0x7fff == 0x7f80 { 2f64.powi(128) } else { f64::from(from_bf16(bits)).abs() }
        };
        let (low, high) = (f64::from(value).abs() - wide(below), wide(below + 1) - f64::from(value).abs());
        match low.partial_cmp(&high) {
            Some(std::cmp::Ordering::Less) => below,
            Some(std::cmp::Ordering::Greater) => below + 1,
            _ => below + (below & 1),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn every_finite_number_goes_to_the_nearest_and_ties_to_even(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assert_eq!(to_bf16(value), bf16::from_f32(value).to_bits());
            if value.is_finite() {
                prop_assert_eq!(to_bf16(value), by_definition(value));
            }
        }

        #[test]
        fn ties_and_their_neighbours_round_as_defined(upper in any::<u16>(), lower in 0x7ffeu32..0x8003) {
            let value = f32::from_bits(u32::from(upper) << 16 | lower);
            prop_assert_eq!(to_bf16(value), bf16::from_f32(value).to_bits());
            if value.is_finite() {
                prop_assert_eq!(to_bf16(value), by_definition(value));
            }
        }

        #[test]
        fn a_rounded_number_stays(bits in any::<u16>()) {
            let back = to_bf16(from_bf16(bits));
            prop_assert!(back == bits || from_bf16(bits).is_nan() && back == bits | 0x40);
        }
    }

    #[test]
    fn every_nan_stays_one_and_every_infinity_itself() {
        for fraction in (1..1u32 << 23).step_by(257).chain([1, 0xffff, 0x7f_ffff]) {
            for sign in [0, 1u32 << 31] {
                let rounded = from_bf16(to_bf16(f32::from_bits(sign | 0x7f80_0000 | fraction)));
                assert!(rounded.is_nan() && rounded.to_bits() >> 31 == sign >> 31, "fraction {fraction:x}");
            }
        }
        for value in [f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1.0, -1.0] {
            assert_eq!(from_bf16(to_bf16(value)).to_bits(), value.to_bits());
        }
        // Halfway between the largest bf16 and 2^128.
        assert_eq!(from_bf16(to_bf16(f32::from_bits(0x7f7f_8000))), f32::INFINITY);
        assert_eq!(to_bf16(f32::from_bits(0x7f7f_7fff)), 0x7f7f);
        assert_eq!(to_bf16(f32::MAX), 0x7f80);
    }

    #[test]
    fn sums_are_those_of_the_rounded_parts_in_f32() {
        for (num_ranks, len) in [(1, 5), (3, 7), (4, 2 * PASS_LEN + 3), (2, 0)] {
            let values: Vec<f32> =
                (0..num_ranks * len).map(|i| (i * 7919 % 65_521) as f32 * 0.001 - 31.0).collect();
            let mut packed = vec![7; 3];
            pack(&values, &mut packed);
            let mut rounded = values.clone();
            round_in_place(&mut rounded);
            assert!(packed.iter().zip(&rounded).all(|(bits, value)| from_bf16(*bits) == *value));
            let (mut sum, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
            rank_tree_sum_bf16(&packed, num_ranks, &mut sum);
            rank_tree_sum(&mut rounded, num_ranks, &mut expected);
            assert_eq!(sum, expected);
        }
    }
}
