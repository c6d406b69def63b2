//! The inverse of the standard normal distribution function.
//!
//! Owns the rational approximations and a logarithm of its own: the one of the machine's library may round
//! differently elsewhere, and initial weights have to be the same bits on every machine.
//! Paper: Algorithm AS 241 (PPND16), Wichura, Applied Statistics 37, 1988; relative error about 1e-16.

#![expect(clippy::excessive_precision, reason = "the coefficients are written as the paper prints them")]

/// Returns x with P(normal <= x) = `p`, for `p` in (0, 1).
pub(crate) fn inverse_cdf(p: f64) -> f64 {
    let from_median = p - 0.5;
    if from_median.abs() <= 0.425 {
        let r = 0.180_625 - from_median * from_median;
        return from_median * polynomial(&CENTRAL_NUMERATOR, r) / polynomial(&CENTRAL_DENOMINATOR, r);
    }
    let tail = if from_median < 0.0 { p } else { 1.0 - p };
    let r = (-ln(tail)).sqrt();
    let magnitude = if r <= 5.0 {
        polynomial(&MIDDLE_NUMERATOR, r - 1.6) / polynomial(&MIDDLE_DENOMINATOR, r - 1.6)
    } else {
        polynomial(&FAR_NUMERATOR, r - 5.0) / polynomial(&FAR_DENOMINATOR, r - 5.0)
    };
    if from_median < 0.0 { -magnitude } else { magnitude }
}

/// Returns the natural logarithm of a positive normal number, by ln(m) = 2 artanh((m - 1) / (m + 1)).
fn ln(x: f64) -> f64 {
    const NUM_TERMS: u32 = 14; // the first term left out is below 1e-22
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52); // in [1, 2)
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..NUM_TERMS).rev().fold(0.0, |sum, k| sum * (s * s) + 1.0 / f64::from(2 * k + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

/// Evaluates a polynomial whose coefficients start at the constant term (Horner).
fn polynomial(coefficients: &[f64; 8], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

const CENTRAL_NUMERATOR: [f64; 8] = [
    3.387_132_872_796_366_608_0e0,
    1.331_416_678_917_843_774_5e2,
    1.971_590_950_306_551_442_7e3,
    1.373_169_376_550_946_112_5e4,
    4.592_195_393_154_987_145_7e4,
    6.726_577_092_700_870_085_3e4,
    3.343_057_558_358_812_810_5e4,
    2.509_080_928_730_122_672_7e3,
];
const CENTRAL_DENOMINATOR: [f64; 8] = [
    1.0,
    4.231_333_070_160_091_125_2e1,
    6.871_870_074_920_579_083_0e2,
    5.394_196_021_424_751_107_7e3,
    2.121_379_430_158_659_586_7e4,
    3.930_789_580_009_271_061_0e4,
    2.872_908_573_572_194_267_4e4,
    5.226_495_278_852_854_561_0e3,
];
const MIDDLE_NUMERATOR: [f64; 8] = [
    1.423_437_110_749_683_577_34e0,
    4.630_337_846_156_545_295_90e0,
    5.769_497_221_460_691_405_50e0,
    3.647_848_324_763_204_605_04e0,
    1.270_458_252_452_368_382_58e0,
    2.417_807_251_774_506_117_70e-1,
    2.272_384_498_926_918_458_33e-2,
    7.745_450_142_783_414_076_40e-4,
];
const MIDDLE_DENOMINATOR: [f64; 8] = [
    1.0,
    2.053_191_626_637_758_821_87e0,
    1.676_384_830_183_803_849_40e0,
    6.897_673_349_851_000_045_50e-1,
    1.481_039_764_274_800_745_90e-1,
    1.519_866_656_361_645_719_66e-2,
    5.475_938_084_995_344_946_00e-4,
    1.050_750_071_644_416_843_24e-9,
];
const FAR_NUMERATOR: [f64; 8] = [
    6.657_904_643_501_103_777_20e0,
    5.463_784_911_164_114_369_90e0,
    1.784_826_539_917_291_335_80e0,
    2.965_605_718_285_048_912_30e-1,
    2.653_218_952_657_612_309_30e-2,
    1.242_660_947_388_078_438_60e-3,
    2.711_555_568_743_487_578_15e-5,
    2.010_334_399_292_288_132_65e-7,
];
const FAR_DENOMINATOR: [f64; 8] = [
    1.0,
    5.998_322_065_558_879_376_90e-1,
    1.369_298_809_227_358_053_10e-1,
    1.487_536_129_085_061_485_25e-2,
    7.868_691_311_456_132_591_00e-4,
    1.846_318_317_510_054_681_80e-5,
    1.421_511_758_316_445_888_70e-7,
    2.044_263_103_389_939_785_64e-15,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Origin: Python 3.11 `statistics.NormalDist().inv_cdf(p)`, printed with `repr`.
    #[test]
    fn agrees_with_python() {
        for (p, expected) in PYTHON {
            let got = inverse_cdf(p);
            assert!(
                (got - expected).abs() <= 4e-15 * expected.abs().max(1.0),
                "p = {p}: {got} != {expected}"
            );
        }
    }

    #[test]
    fn logarithm_agrees_with_the_library() {
        for x in [1e-16, 1e-9, 0.003, 0.075, 0.5, 0.707, 0.999, 1.0, 1.414, 1.415, 2.0, 10.0, 1e200] {
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(0.5), "ln({x}) = {}", ln(x));
        }
    }

    const PYTHON: [(f64, f64); 14] = [
        (1e-300, -37.0470962993612),
        (1e-16, -8.222082216130435),
        (1e-09, -5.9978070150076865),
        (0.001, -3.090232306167813),
        (0.0228, -1.9990772149717695),
        (0.0749, -1.4402382675279632),
        (0.0751, -1.4388253927525398),
        (0.3, -0.5244005127080407),
        (0.5, 0.0),
        (0.51, 0.025068908258711057),
        (0.9249, 1.4388253927525403),
        (0.9251, 1.4402382675279632),
        (0.99, 2.3263478740408408),
        (0.9999999, 5.199337582290662),
    ];
}
