//! Pearson's chi-square test of counts against expected counts.
//!
//! Knows nothing of text.

use serde::Serialize;

/// Bins with a smaller expected count are joined with their neighbours: below it the test is not valid.
const MIN_EXPECTED: f64 = 5.0;

/// The outcome of a chi-square test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ChiSquare {
    /// Sum of (observed - expected)^2 / expected.
    pub statistic: f64,
    /// Bins minus one.
    pub degrees_of_freedom: usize,
    /// Probability of a statistic at least this large if the expectation is true.
    pub p_value: f64,
}

/// Tests counts against expected counts of the same sum, one per bin.
pub(crate) fn chi_square(observed: &[u64], expected: &[f64]) -> ChiSquare {
    let mut bins: Vec<(f64, f64)> = Vec::with_capacity(expected.len());
    for (&observed, &expected) in observed.iter().zip(expected) {
        if expected <= 0.0 && observed > 0 {
            return ChiSquare { statistic: f64::MAX, degrees_of_freedom: 0, p_value: 0.0 };
        }
        match bins.last_mut() {
            Some(last) if last.1 < MIN_EXPECTED => *last = (last.0 + observed as f64, last.1 + expected),
            _ => bins.push((observed as f64, expected)),
        }
    }
    if let Some((observed, expected)) = bins.pop_if(|bin| bin.1 < MIN_EXPECTED) {
        match bins.last_mut() {
            Some(last) => *last = (last.0 + observed, last.1 + expected),
            None => bins.push((observed, expected)),
        }
    }
    let terms = bins.iter().map(|(observed, expected)| (observed - expected).powi(2) / expected);
    let degrees_of_freedom = bins.len().saturating_sub(1);
    if degrees_of_freedom == 0 {
        return ChiSquare { statistic: 0.0, degrees_of_freedom, p_value: 1.0 };
    }
    let statistic = terms.sum::<f64>();
    let p_value = upper_gamma(degrees_of_freedom as f64 / 2.0, statistic / 2.0);
    ChiSquare { statistic, degrees_of_freedom, p_value }
}

/// The regularized upper incomplete gamma function Q(a, x), as in Numerical Recipes section 6.2: a series below
/// a + 1, a continued fraction (modified Lentz) above.
fn upper_gamma(a: f64, x: f64) -> f64 {
    const MAX_TERMS: usize = 100_000;
    const PRECISION: f64 = 1e-14;
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let mut term = 1.0 / a;
        let mut sum = term;
        for n in 1..MAX_TERMS {
            term *= x / (a + n as f64);
            sum += term;
            if term < sum * PRECISION {
                break;
            }
        }
        return 1.0 - sum * scale;
    }
    let mut b = x + 1.0 - a;
    let mut c = f64::MAX;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for n in 1..MAX_TERMS {
        let factor = -(n as f64) * (n as f64 - a);
        b += 2.0;
        d = 1.0 / (factor * d + b);
        c = b + factor / c;
        fraction *= d * c;
        if (d * c - 1.0).abs() < PRECISION {
            break;
        }
    }
    fraction * scale
}

/// Logarithm of the gamma function above 0: Stirling's series where it is exact to 1e-12, reached by recurrence.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5))
        - 1.0 / (1680.0 * x.powi(7))
        + 1.0 / (1188.0 * x.powi(9));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles at 0.1 % and 5 % from the NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.4.
    #[test]
    fn p_values_are_those_of_the_table() {
        for (degrees, at_a_thousandth, at_five_percent) in [
            (1, 10.828, 3.841),
            (2, 13.816, 5.991),
            (3, 16.266, 7.815),
            (9, 27.877, 16.919),
            (100, 149.449, 124.342),
        ] {
            let p = |statistic: f64| upper_gamma(f64::from(degrees) / 2.0, statistic / 2.0);
            assert!((p(at_a_thousandth) - 0.001).abs() < 1e-6, "{degrees}: {}", p(at_a_thousandth));
            assert!((p(at_five_percent) - 0.05).abs() < 2e-5, "{degrees}: {}", p(at_five_percent));
        }
    }

    #[test]
    fn small_bins_are_joined_and_impossible_counts_refused() {
        // (60 - 50)^2 / 50 + (40 - 50)^2 / 50 = 4.
        let test = chi_square(&[60, 38, 1, 1], &[50.0, 47.0, 2.0, 1.0]);
        assert_eq!((test.degrees_of_freedom, test.statistic), (1, 4.0));
        assert!((test.p_value - 0.0455).abs() < 1e-4, "{test:?}");
        assert_eq!(chi_square(&[10, 1], &[11.0, 0.0]).p_value, 0.0);
        assert_eq!(chi_square(&[100], &[100.0]).p_value, 1.0);
        assert_eq!(chi_square(&[], &[]).p_value, 1.0);
    }
}
