//! `exp` and the normal distribution that the compiler can vectorise, with the same bits on every machine.
//!
//! `f32` arithmetic in a fixed order, products and sums rounded once (`mul_add`); nothing of the C library whose results
//! differ between versions. Call these in [`crate::widest`]: elsewhere `mul_add` may be a function call.

use std::f32::consts::LOG2_E;

/// `e^x` for `x <= 0`, as softmax and the normal density need it; relative error below 3e-7, 0 below -87.
#[must_use]
#[inline(always)]
pub fn exp_non_positive(x: f32) -> f32 {
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 as a sum of a short and a small number: `n * LN2_HI` is exact.
    const LN2_HI: f32 = 355.0 / 512.0;
    const LN2_LO: f32 = -2.121_944_4e-4;

    // Written so that NaN fails both comparisons and stays NaN.
    let clamped = if x < -87.0 { -87.0 } else { x };
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, clamped));
    // Minimax polynomial of e^r on [-ln2/2, ln2/2] (Cephes expf).
    let mut p = 1.987_569_2e-4_f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 5e-1);
    let mantissa = p.mul_add(r * r, r) + 1.0;
    // The low bits of `shifted` are n; with the bias added and moved into the exponent they are 2^n.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { mantissa * power }
}

/// The standard normal distribution function `Φ(x)`, and `e^(-x²/2)`, which is its density times `sqrt(2π)`.
///
/// Absolute error of `Φ` below 2e-7; relative error below 1e-6 for `x > -4`, 1e-5 further out. So the tail on the left, which GELU
/// multiplies by its argument, is as precise as the rest; `1 + erf(x / sqrt 2)` loses it.
///
/// `Φ(-x) = e^(-x²/2) · P(x) / Q(x)` for `x >= 0`, with a rational function fitted to the ratio on [0, 13.5] to 5e-9; all
/// coefficients are positive, so nothing cancels. Made by `tests/normal_tail.py`.
#[must_use]
#[inline(always)]
pub fn normal_cdf(x: f32) -> (f32, f32) {
    let exp = exp_non_positive(-0.5 * x * x);
    // Where the exponential is 0 anyway. Written so that NaN stays NaN.
    let a = if x.abs() > 13.5 { 13.5 } else { x.abs() };
    let mut p = 4.037_018e-3_f32;
    p = p.mul_add(a, 4.009_818_7e-2);
    p = p.mul_add(a, 1.816_462e-1);
    p = p.mul_add(a, 4.361_467e-1);
    p = p.mul_add(a, 0.5);
    let mut q = 1.011_916_5e-2_f32;
    q = q.mul_add(a, 1.005_184_6e-1);
    q = q.mul_add(a, 4.652_761_9e-1);
    q = q.mul_add(a, 1.195_897_7);
    q = q.mul_add(a, 1.670_178_4);
    q = q.mul_add(a, 1.0);
    let tail = exp * p / q;
    (if x > 0.0 { 1.0 - tail } else { tail }, exp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_library() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp_non_positive(x)) - expected).abs() / expected;
            assert!(error < 3e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp_non_positive(0.0), 1.0);
        assert_eq!(exp_non_positive(-1e30), 0.0);
        assert_eq!(exp_non_positive(f32::NEG_INFINITY), 0.0);
        assert!(exp_non_positive(f32::NAN).is_nan());
    }

    #[test]
    fn normal_cdf_agrees_with_tabulated_values() {
        // Python 3.11: 0.5 * math.erfc(-x / math.sqrt(2)).
        for (x, expected) in [
            (-12.0, 1.776482112077702e-33),
            (-9.5, 1.0494515075362727e-21),
            (-6.0, 9.865876450377012e-10),
            (-4.0, 3.1671241833119965e-05),
            (-2.5, 0.006209665325776139),
            (-1.0, 0.15865525393145707),
            (-0.125, 0.4502617751698871),
            (0.0, 0.5),
            (0.5, 0.6914624612740131),
            (1.75, 0.9599408431361829),
            (3.0, 0.9986501019683699),
            (20.0, 1.0),
        ] {
            let (got, exp) = normal_cdf(x);
            let error = (f64::from(got) - expected).abs();
            let relative = if x < -4.0 { 1e-5 } else { 1e-6 };
            assert!(error < 2e-7 && error < relative * expected, "cdf({x}) = {got}");
            assert_eq!(exp, exp_non_positive(-0.5 * x * x));
        }
        assert_eq!(normal_cdf(-40.0).0, 0.0);
        assert!(normal_cdf(f32::NAN).0.is_nan());
    }
}
