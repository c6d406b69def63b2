//! GELU, `x·Φ(x)`, exactly or with its tanh form, forward and backward.
//!
//! Owns the function and its derivative over flat slices. Element-wise, so threads never show.
//! Paper: [Gaussian Error Linear Units, Hendrycks and Gimpel, 2016](https://arxiv.org/abs/1606.08415).

use crate::math::{exp_non_positive, normal_cdf};
use crate::simd::widest;
use crate::stretch;
use crate::threads::{OverThreads, PARALLEL_CHUNK_LEN};
use rayon::prelude::*;

/// 2·sqrt(2/π)
const TWO_SQRT_2_OVER_PI: f32 = 1.595_769;
/// Coefficient of the cubic term in the tanh form.
const CUBIC: f32 = 0.044_715;
/// 1 / sqrt(2π), the normal density at 0.
const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;

/// Which Φ is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluForm {
    /// The normal distribution, which the paper writes with the error function.
    Erf,
    /// `(1 + tanh(sqrt(2/π)·(x + 0.044715·x³))) / 2`.
    Tanh,
}

impl GeluForm {
    /// Writes the GELU of `sums + bias` into `out` and its derivative in place of `sums`, compiled for the vectors of whoever
    /// inlines it.
    #[inline(always)]
    pub(crate) fn finish(self, sums: &mut [f32], bias: &[f32], out: &mut [f32]) {
        match self {
            Self::Erf => finish(sums, bias, out, erf_both),
            Self::Tanh => finish(sums, bias, out, tanh_both),
        }
    }

    #[inline(always)]
    fn write(self, x: &[f32], out: &mut [f32]) {
        match self {
            Self::Erf => map(x, out, |x, _| x * normal_cdf(x).0),
            Self::Tanh => map(x, out, |x, _| x * tanh_cdf(x)),
        }
    }

    #[inline(always)]
    fn multiply_by_derivative(self, x: &[f32], gradient: &mut [f32]) {
        match self {
            Self::Erf => map(x, gradient, |x, gradient| gradient * erf_both(x).1),
            Self::Tanh => map(x, gradient, |x, gradient| gradient * tanh_both(x).1),
        }
    }
}

#[inline(always)]
fn finish(sums: &mut [f32], bias: &[f32], out: &mut [f32], both: impl Fn(f32) -> (f32, f32)) {
    stretch::split(
        sums,
        bias,
        out,
        #[inline(always)]
        |sum, bias| {
            let (gelu, derivative) = both(sum + bias);
            (derivative, gelu)
        },
    );
}

/// A loop and not an iterator's `for_each`: that is a function of its own, which the compiler may leave without the
/// caller's vectors.
#[inline(always)]
fn map(x: &[f32], out: &mut [f32], function: impl Fn(f32, f32) -> f32) {
    stretch::combine(
        out,
        x,
        #[inline(always)]
        |out, x| function(x, out),
    );
}

/// Writes `x·Φ(x)` of every element.
///
/// # Shapes
///
/// - x, out: any, of equal length
///
/// # Panics
///
/// If the lengths differ.
pub fn forward(form: GeluForm, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "GELU needs an output as long as its input");
    let chunks = out.par_chunks_mut(PARALLEL_CHUNK_LEN).zip(x.par_chunks(PARALLEL_CHUNK_LEN));
    chunks.over_threads(|(out, x)| {
        widest(
            #[inline(always)]
            || form.write(x, out),
        );
    });
}

/// Turns the gradient of the output of [`forward`] into that of its input `x`, in place.
///
/// # Shapes
///
/// - x, gradient: any, of equal length
///
/// # Panics
///
/// If the lengths differ.
pub fn backward(form: GeluForm, x: &[f32], gradient: &mut [f32]) {
    assert_eq!(x.len(), gradient.len(), "GELU needs a gradient as long as its input");
    let chunks = gradient.par_chunks_mut(PARALLEL_CHUNK_LEN).zip(x.par_chunks(PARALLEL_CHUNK_LEN));
    chunks.over_threads(|(gradient, x)| {
        widest(
            #[inline(always)]
            || form.multiply_by_derivative(x, gradient),
        );
    });
}

/// `x Φ(x)` and its derivative `Φ(x) + x φ(x)`.
#[inline(always)]
fn erf_both(x: f32) -> (f32, f32) {
    let (cdf, exp) = normal_cdf(x);
    (x * cdf, exp.mul_add(x * FRAC_1_SQRT_2PI, cdf))
}

/// The logistic function of `2·sqrt(2/π)·(x + 0.044715·x³)`: the same as the form with tanh.
#[inline(always)]
fn tanh_cdf(x: f32) -> f32 {
    let z = TWO_SQRT_2_OVER_PI * (x + CUBIC * x * x * x);
    let exp = exp_non_positive(-z.abs());
    let numerator = if z < 0.0 { exp } else { 1.0 };
    numerator / (1.0 + exp)
}

#[inline(always)]
fn tanh_both(x: f32) -> (f32, f32) {
    let cdf = tanh_cdf(x);
    (x * cdf, cdf + x * cdf * (1.0 - cdf) * TWO_SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x))
}

/// The same results by library functions, in f64.
pub mod reference {
    use super::GeluForm;
    use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

    /// Returns `x·Φ(x)`; the error function by its Taylor series, and by its continued fraction from 3 on.
    #[must_use]
    pub fn gelu(form: GeluForm, x: f64) -> f64 {
        match form {
            GeluForm::Erf => x * 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)),
            GeluForm::Tanh => x * 0.5 * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        }
    }

    fn erf(x: f64) -> f64 {
        if x.abs() > 3.0 {
            let fraction = (1..60).rev().fold(x.abs(), |tail, k| x.abs() + f64::from(k) / 2.0 / tail);
            return (1.0 - (-x * x).exp() / (std::f64::consts::PI.sqrt() * fraction)).copysign(x);
        }
        let (mut term, mut sum) = (x, x);
        for k in 1..100 {
            term *= -x * x / f64::from(k);
            sum += term / f64::from(2 * k + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [GeluForm; 2] = [GeluForm::Erf, GeluForm::Tanh];

    fn points() -> Vec<f32> {
        (-24_000..=24_000).map(|i| i as f32 / 3000.0).collect()
    }

    /// Origin: Python 3.11, `x * 0.5 * (1 + math.erf(x / math.sqrt(2)))` and the tanh form by `math.tanh`.
    #[test]
    fn the_reference_has_tabulated_values() {
        for (form, x, expected) in [
            (GeluForm::Erf, 1.0, 0.8413447460685429),
            (GeluForm::Erf, -2.5, -0.015524163314440398),
            (GeluForm::Tanh, 5.0, 4.999999770820381),
            (GeluForm::Tanh, 1.0, 0.8411919906082768),
            (GeluForm::Tanh, -2.5, -0.015084266089998577),
        ] {
            let got = reference::gelu(form, x);
            assert!((got - expected).abs() < 1e-12, "{form:?}({x}) = {got}");
        }
    }

    #[test]
    fn forward_agrees_with_the_reference() {
        let x = points();
        for form in FORMS {
            let mut out = vec![f32::NAN; x.len()];
            forward(form, &x, &mut out);
            for (x, out) in x.iter().zip(&out) {
                let expected = reference::gelu(form, f64::from(*x));
                let error = (f64::from(*out) - expected).abs();
                assert!(error < 3e-7 * f64::from(x.abs().max(1.0)), "{form:?}({x}) = {out}, not {expected}");
            }
        }
    }

    #[test]
    fn backward_agrees_with_central_differences() {
        let x = points();
        for form in FORMS {
            let mut gradient = vec![-2.0; x.len()];
            backward(form, &x, &mut gradient);
            for (x, gradient) in x.iter().zip(&gradient) {
                let at = |shift: f64| reference::gelu(form, f64::from(*x) + shift);
                let expected = -2.0 * (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((f64::from(*gradient) - expected).abs() < 5e-6, "{form:?}'({x}) = {gradient}");
            }
        }
    }

    #[test]
    fn both_at_once_are_each_on_its_own() {
        for form in FORMS {
            let x = points();
            let (mut expected, mut derivative) = (vec![f32::NAN; x.len()], vec![1.0; x.len()]);
            forward(form, &x, &mut expected);
            backward(form, &x, &mut derivative);
            let (mut in_place, mut out) = (x.clone(), vec![f32::NAN; x.len()]);
            // Stretches as wide as tiles, and others.
            for len in [16, 32, 1000] {
                in_place.copy_from_slice(&x);
                for (x, out) in in_place.chunks_mut(len).zip(out.chunks_mut(len)) {
                    form.finish(x, &vec![0.0; len], out);
                }
                assert!(out == expected && in_place == derivative, "{form:?}, {len} at a time");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for form in FORMS {
            let (mut out, mut gradient) = ([0.0; 3], [1.0; 3]);
            forward(form, &[f32::NAN, 50.0, -50.0], &mut out);
            backward(form, &[f32::NAN, 50.0, -50.0], &mut gradient);
            assert!(out[0].is_nan() && gradient[0].is_nan());
            assert!((out[1] - 50.0).abs() < 1e-5 && out[2].abs() < 1e-5, "{out:?}");
            assert!((gradient[1] - 1.0).abs() < 1e-6 && gradient[2].abs() < 1e-6, "{gradient:?}");
        }
    }

    #[test]
    #[should_panic(expected = "as long as its input")]
    fn unequal_lengths_are_refused() {
        forward(GeluForm::Erf, &[0.0; 3], &mut [0.0; 2]);
    }
}
