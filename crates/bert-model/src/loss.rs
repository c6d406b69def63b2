//! Cross-entropy on plain slices: sums, correct answers and gradients in one pass.
//!
//! Losses are sums; whoever knows the counts of the global batch divides, through [`LossScale`]. A mean of means
//! never appears.

use bert_kernels::{math::exp_non_positive, widest};
use rayon::prelude::*;

/// Class labels: `u32` token ids or `u8` sentence labels.
pub(crate) trait Label: Copy + Into<u32> + Sync {}

impl Label for u32 {}
impl Label for u8 {}

/// What each summand of the two losses counts in the gradient.
///
/// Both losses enter one backward pass: the gradient is that of `mlm · Σ mlm_loss + nsp · Σ nsp_loss`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    /// 1 / masked tokens of the global batch.
    pub mlm: f32,
    /// 1 / pairs of the global batch; 0 without a sentence objective.
    pub nsp: f32,
}

/// Unscaled sums over one micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchLosses {
    /// Sum of the negative log-likelihoods (nats) of the masked tokens.
    pub mlm_loss_sum: f64,
    /// Sum of the negative log-likelihoods (nats) of the sentence labels.
    pub nsp_loss_sum: f64,
    /// Number of masked tokens.
    pub num_masked: u64,
    /// Number of sentence labels.
    pub num_pairs: u64,
    /// Masked tokens whose label has the highest logit.
    pub mlm_correct: u64,
    /// Rows whose sentence label has the higher logit.
    pub nsp_correct: u64,
}

impl BatchLosses {
    /// Joins the figures of the two objectives.
    pub(crate) fn new(num_masked: usize, num_pairs: usize, mlm: CrossEntropy, nsp: CrossEntropy) -> Self {
        Self {
            mlm_loss_sum: mlm.loss_sum,
            nsp_loss_sum: nsp.loss_sum,
            num_masked: num_masked as u64,
            num_pairs: num_pairs as u64,
            mlm_correct: mlm.num_correct,
            nsp_correct: nsp.num_correct,
        }
    }
}

/// Cross-entropy of some rows of logits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CrossEntropy {
    pub(crate) loss_sum: f64,
    pub(crate) num_correct: u64,
}

/// Computes loss and correct answers, and writes `scale * d loss / d logits`.
///
/// # Shapes
///
/// - logits, gradient: `[labels.len() * num_classes]`, row-major
pub(crate) fn cross_entropy_with_gradient<L: Label>(
    logits: &[f32],
    labels: &[L],
    scale: f32,
    gradient: &mut [f32],
) -> CrossEntropy {
    let num_classes = logits.len() / labels.len();
    let rows: Vec<_> = logits
        .par_chunks_exact(num_classes)
        .zip(gradient.par_chunks_exact_mut(num_classes))
        .zip(labels.par_iter())
        .map(|((logits, gradient), &label)| row_with_gradient(logits, label.into() as usize, scale, gradient))
        .collect();
    CrossEntropy::sum(&rows)
}

/// Computes loss and correct answers only.
///
/// # Shapes
///
/// - logits: `[labels.len() * num_classes]`, row-major
pub(crate) fn cross_entropy<L: Label>(logits: &[f32], labels: &[L]) -> CrossEntropy {
    cross_entropy_with_gradient(logits, labels, 0.0, &mut vec![0.0; logits.len()])
}

fn row_with_gradient(logits: &[f32], label: usize, scale: f32, gradient: &mut [f32]) -> CrossEntropy {
    let (best, max) = argmax(logits);
    widest(
        #[inline(always)]
        || {
            for (exp, &logit) in gradient.iter_mut().zip(logits) {
                *exp = exp_non_positive(logit - max);
            }
        },
    );
    let sum: f64 = gradient.iter().map(|&exp| f64::from(exp)).sum();
    let factor = (f64::from(scale) / sum) as f32;
    gradient.iter_mut().for_each(|exp| *exp *= factor);
    gradient[label] -= scale;
    CrossEntropy {
        loss_sum: sum.ln() - (f64::from(logits[label]) - f64::from(max)),
        num_correct: u64::from(best == label),
    }
}

impl CrossEntropy {
    /// Adds up rows, in their order.
    fn sum(rows: &[Self]) -> Self {
        rows.iter().fold(Self::default(), |total, row| Self {
            loss_sum: total.loss_sum + row.loss_sum,
            num_correct: total.num_correct + row.num_correct,
        })
    }
}

/// The first highest element and its index.
fn argmax(values: &[f32]) -> (usize, f32) {
    values.iter().enumerate().fold(
        (0, f32::NEG_INFINITY),
        |best, (idx, &value)| {
            if value > best.1 { (idx, value) } else { best }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.5, -1.0, 2.0, 0.0, 0.0, -3.0];

    #[test]
    fn loss_equals_the_closed_form() {
        let got = cross_entropy(&LOGITS, &[2u32, 0]);
        // Python 3.11: math.log(sum(map(math.exp, row))) - row[label] for both rows.
        assert!((got.loss_sum - (0.241311296656 + 0.717735918666)).abs() < 1e-6, "{got:?}");
        assert_eq!(got.num_correct, 2);
        assert_eq!(cross_entropy(&LOGITS, &[0u32, 2]).num_correct, 0);
    }

    #[test]
    fn gradient_equals_central_differences() {
        let (labels, scale, step) = ([1u8, 2], 0.25, 1e-2);
        let mut gradient = [0.0; 6];
        let with_gradient = cross_entropy_with_gradient(&LOGITS, &labels, scale, &mut gradient);
        assert_eq!(with_gradient, cross_entropy(&LOGITS, &labels));
        for idx in 0..LOGITS.len() {
            let loss_at = |shift: f32| {
                let mut logits = LOGITS;
                logits[idx] += shift;
                cross_entropy(&logits, &labels).loss_sum
            };
            let expected = f64::from(scale) * (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
            assert!(
                (f64::from(gradient[idx]) - expected).abs() < 1e-4,
                "{idx}: {} {expected}",
                gradient[idx]
            );
        }
    }

    #[test]
    fn not_a_number_is_not_hidden() {
        assert!(cross_entropy(&[f32::NAN, 1.0], &[1u8]).loss_sum.is_nan());
        assert!(cross_entropy(&[1.0, f32::INFINITY], &[0u8]).loss_sum.is_nan());
    }
}
