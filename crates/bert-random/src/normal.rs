//! The inverse of the standard normal distribution function.
//!
//! Owns the rational approximations and a logarithm of its own: the one of the machine's library may round
//! differently elsewhere, and initial weights have to be the same bits on every machine.
//! Paper: Algorithm AS 241 (PPND16), Wichura, Applied Statistics 37, 1988; relative error about 1e-16.

#![expect(clippy::excessive_precision, reason = "the coefficients are written as the paper prints them")]

/// Numbers that are worked on together: many enough to keep the processor busy, few enough for its first cache.
pub(crate) const NUM_TOGETHER: usize = 256;

/// Distance from the median up to which the central approximation holds.
const CENTRAL_HALF_WIDTH: f64 = 0.425;

/// Square root of the logarithm up to which the approximation between centre and far tail holds.
const MIDDLE_END: f64 = 5.0;

/// Returns x with P(normal <= x) = `p`, for `p` in (0, 1).
pub(crate) fn inverse_cdf(p: f64) -> f64 {
    let from_median = p - 0.5;
    if from_median.abs() <= CENTRAL_HALF_WIDTH { central(from_median) } else { outer(p) }
}

/// Replaces every `p` by [`inverse_cdf`] of it: the same bits, sooner, because no number waits for the one before and
/// hardly a branch is guessed wrong. Inlined with all it calls, so that a caller compiled for wider vectors uses them.
#[inline(always)]
pub(crate) fn inverse_cdf_of_each(numbers: &mut [Lanes]) {
    assert!(numbers.len() * NUM_LANES <= NUM_TOGETHER, "at most {NUM_TOGETHER} numbers together");
    let (mut outer_idx, mut num_outer) = ([0; NUM_TOGETHER], 0);
    for (idx, p) in numbers.as_flattened().iter().enumerate() {
        outer_idx[num_outer] = idx;
        num_outer += usize::from((p - 0.5).abs() > CENTRAL_HALF_WIDTH);
    }
    let outer_idx = &outer_idx[..num_outer];
    // What is left over in the last lanes is any number that has an inverse.
    let mut outer = [[0.01; NUM_LANES]; NUM_TOGETHER / NUM_LANES];
    for (number, idx) in outer.as_flattened_mut().iter_mut().zip(outer_idx) {
        *number = numbers.as_flattened()[*idx];
    }
    // Loops, because `for_each` is compiled on its own, for narrow vectors.
    for lanes in &mut outer[..num_outer.div_ceil(NUM_LANES)] {
        outer_of_each(lanes);
    }
    for lanes in &mut *numbers {
        central_of_each(lanes);
    }
    for (number, idx) in outer.as_flattened().iter().zip(outer_idx) {
        numbers.as_flattened_mut()[*idx] = *number;
    }
}

/// Numbers in the vector registers at a time.
pub(crate) const NUM_LANES: usize = 8;
pub(crate) type Lanes = [f64; NUM_LANES];

#[inline(always)]
fn central_of_each(numbers: &mut Lanes) {
    let from_median = numbers.map(|p| p - 0.5);
    let r = from_median.map(|from_median| 0.180_625 - from_median * from_median);
    let (above, below) = (polynomials(&CENTRAL_NUMERATOR, &r), polynomials(&CENTRAL_DENOMINATOR, &r));
    for lane in 0..NUM_LANES {
        numbers[lane] = from_median[lane] * above[lane] / below[lane];
    }
}

#[inline(always)]
fn outer_of_each(numbers: &mut Lanes) {
    let from_median = numbers.map(|p| p - 0.5);
    let mut r = [0.0; NUM_LANES];
    for lane in 0..NUM_LANES {
        r[lane] = if from_median[lane] < 0.0 { numbers[lane] } else { 1.0 - numbers[lane] };
    }
    let r = ln_of_each(&r).map(|ln| (-ln).sqrt());
    if r.iter().any(|r| *r > MIDDLE_END) {
        // One number of 10^11.
        *numbers = numbers.map(outer);
        return;
    }
    let from_middle = r.map(|r| r - 1.6);
    let (above, below) =
        (polynomials(&MIDDLE_NUMERATOR, &from_middle), polynomials(&MIDDLE_DENOMINATOR, &from_middle));
    for lane in 0..NUM_LANES {
        let magnitude = above[lane] / below[lane];
        numbers[lane] = if from_median[lane] < 0.0 { -magnitude } else { magnitude };
    }
}

/// [`ln`] of every lane.
#[inline(always)]
fn ln_of_each(numbers: &Lanes) -> Lanes {
    let parts = numbers.map(exponent_and_mantissa);
    let s = parts.map(|(_, mantissa)| (mantissa - 1.0) / (mantissa + 1.0));
    let mut series = [0.0; NUM_LANES];
    for k in (0..NUM_TERMS).rev() {
        let coefficient = 1.0 / f64::from(2 * k + 1);
        for lane in 0..NUM_LANES {
            series[lane] = series[lane] * (s[lane] * s[lane]) + coefficient;
        }
    }
    let mut sums = [0.0; NUM_LANES];
    for lane in 0..NUM_LANES {
        sums[lane] = parts[lane].0 * std::f64::consts::LN_2 + 2.0 * s[lane] * series[lane];
    }
    sums
}

/// [`polynomial`] of every lane.
#[inline(always)]
fn polynomials(coefficients: &[f64; 8], x: &Lanes) -> Lanes {
    let mut sums = [0.0; NUM_LANES];
    for coefficient in coefficients.iter().rev() {
        for lane in 0..NUM_LANES {
            sums[lane] = sums[lane] * x[lane] + coefficient;
        }
    }
    sums
}

#[inline]
fn central(from_median: f64) -> f64 {
    let r = 0.180_625 - from_median * from_median;
    from_median * polynomial(&CENTRAL_NUMERATOR, r) / polynomial(&CENTRAL_DENOMINATOR, r)
}

/// The inverse further than [`CENTRAL_HALF_WIDTH`] from the median.
#[inline]
fn outer(p: f64) -> f64 {
    let from_median = p - 0.5;
    let tail = if from_median < 0.0 { p } else { 1.0 - p };
    let r = (-ln(tail)).sqrt();
    let magnitude = if r <= MIDDLE_END {
        polynomial(&MIDDLE_NUMERATOR, r - 1.6) / polynomial(&MIDDLE_DENOMINATOR, r - 1.6)
    } else {
        polynomial(&FAR_NUMERATOR, r - 5.0) / polynomial(&FAR_DENOMINATOR, r - 5.0)
    };
    if from_median < 0.0 { -magnitude } else { magnitude }
}

/// Terms of the series of [`ln`]; the first one left out is below 1e-22.
const NUM_TERMS: u32 = 14;

/// Returns the natural logarithm of a positive normal number, by ln(m) = 2 artanh((m - 1) / (m + 1)).
fn ln(x: f64) -> f64 {
    let (exponent, mantissa) = exponent_and_mantissa(x);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..NUM_TERMS).rev().fold(0.0, |sum, k| sum * (s * s) + 1.0 / f64::from(2 * k + 1));
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

/// Returns e and m with x = m 2^e and m between the root of a half and that of two.
#[inline(always)]
fn exponent_and_mantissa(x: f64) -> (f64, f64) {
    let bits = x.to_bits();
    let exponent = (((bits >> 52) & 0x7ff) as i32 - 1023) as f64;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52); // in [1, 2)
    if mantissa > std::f64::consts::SQRT_2 { (exponent + 1.0, mantissa * 0.5) } else { (exponent, mantissa) }
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

    /// In every place among the others, the far tails and both borders of the approximations too.
    #[test]
    fn together_they_have_the_bits_of_one_alone() {
        let border = [0.5 - CENTRAL_HALF_WIDTH, 0.5 + CENTRAL_HALF_WIDTH];
        let edges = [1e-300, 1.4e-11, 1.3e-11, 0.5, 1.0 - 1e-16, border[0], border[1], border[0].next_down()];
        let numbers: Vec<f64> = (0..8000).map(|i| f64::from(i * 2 + 1) / 16_000.0).chain(edges).collect();
        for len in [8, 40, NUM_TOGETHER] {
            for chunk in numbers.chunks_exact(len).chain([&numbers[numbers.len() - len..]]) {
                let mut together = chunk.to_vec();
                inverse_cdf_of_each(together.as_chunks_mut().0);
                for (p, got) in chunk.iter().zip(&together) {
                    assert_eq!(got.to_bits(), inverse_cdf(*p).to_bits(), "p = {p}");
                }
            }
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
