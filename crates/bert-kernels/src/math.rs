//! `exp` and `erf` that the compiler can vectorise, with the same bits on every machine.
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

/// The error function; absolute error below 2e-7.
///
/// Rational approximation on [-4, 4] as used by XLA and Eigen; outside it erf is ±1 in `f32`.
#[must_use]
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let x2 = x * x;
    let mut p = -2.726_142_3e-10_f32;
    p = p.mul_add(x2, 2.770_681_4e-8);
    p = p.mul_add(x2, -2.101_024e-6);
    p = p.mul_add(x2, -5.692_506_4e-5);
    p = p.mul_add(x2, -7.349_906e-4);
    p = p.mul_add(x2, -2.954_6e-3);
    p = p.mul_add(x2, -1.609_603_3e-2);
    let mut q = -1.456_607_2e-5_f32;
    q = q.mul_add(x2, -2.133_740_6e-4);
    q = q.mul_add(x2, -1.682_827e-3);
    q = q.mul_add(x2, -7.373_329e-3);
    q = q.mul_add(x2, -1.426_474e-2);
    x * p / q
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
    fn erf_agrees_with_tabulated_values() {
        // Python 3.11: math.erf(x).
        for (x, expected) in [
            (0.0, 0.0),
            (0.125, 0.14031620480133384),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (1.75, 0.9866716712191824),
            (2.5, 0.999593047982555),
            (3.5, 0.9999992569016276),
            (5.0, 0.9999999999984626),
        ] {
            for sign in [1.0, -1.0] {
                let got = f64::from(erf(sign * x));
                assert!((got - f64::from(sign) * expected).abs() < 2e-7, "erf({x}) = {got}");
            }
        }
    }
}
