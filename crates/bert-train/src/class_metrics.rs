//! How well classes are told apart: accuracy, macro-F1, Matthews correlation, loss, confusion matrix.
//!
//! Owns the formulas, on counts and logits. Knows no model and no file. Figures that are 0 / 0 are 0, as in
//! scikit-learn.

use serde::{Deserialize, Serialize};

/// Figures of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Rows.
    pub rows: u64,
    /// Mean negative log-likelihood of the labels, in nats.
    pub loss: f64,
    /// Share of rows whose label has the highest probability.
    pub accuracy: f64,
    /// Mean of the F1 of all classes that are a label or a prediction of some row.
    pub macro_f1: f64,
    /// Matthews correlation coefficient over all classes (R_K of Gorodkin 2004); 0 where only one class is predicted.
    pub mcc: f64,
    /// Accuracy of always answering the most frequent label.
    pub majority_accuracy: f64,
    /// Rows by `[label][prediction]`.
    pub confusion: Vec<Vec<u64>>,
}

/// Probabilities of one row of logits, in 64 bits.
#[must_use]
pub fn probabilities(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) - f64::from(max)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// The first class with the highest logit.
#[must_use]
pub fn predicted(logits: &[f32]) -> usize {
    let later_only = |best: usize, idx: usize| if logits[idx] > logits[best] { idx } else { best };
    (1..logits.len()).fold(0, later_only)
}

impl ClassMetrics {
    /// Computes the figures of some rows, in row order.
    ///
    /// # Panics
    ///
    /// If there are not `num_classes` logits for each label.
    #[must_use]
    pub fn new(logits: &[f32], labels: &[u32], num_classes: usize) -> Self {
        assert_eq!(logits.len(), labels.len() * num_classes, "a row of logits for each label");
        let mut confusion = vec![vec![0; num_classes]; num_classes];
        let mut loss_sum = 0.0;
        for (row, &label) in logits.chunks_exact(num_classes).zip(labels) {
            confusion[label as usize][predicted(row)] += 1;
            loss_sum += negative_log_likelihood(row, label as usize);
        }
        Self::from_confusion(confusion, loss_sum)
    }

    fn from_confusion(confusion: Vec<Vec<u64>>, loss_sum: f64) -> Self {
        let num_classes = confusion.len();
        let of_label: Vec<u64> = confusion.iter().map(|row| row.iter().sum()).collect();
        let of_prediction: Vec<u64> =
            (0..num_classes).map(|class| confusion.iter().map(|row| row[class]).sum()).collect();
        let correct: Vec<u64> = (0..num_classes).map(|class| confusion[class][class]).collect();
        let rows: u64 = of_label.iter().sum();
        let f1: Vec<f64> = (0..num_classes)
            .filter(|&class| of_label[class] + of_prediction[class] > 0)
            .map(|class| ratio(2.0 * correct[class] as f64, (of_label[class] + of_prediction[class]) as f64))
            .collect();
        Self {
            rows,
            loss: ratio(loss_sum, rows as f64),
            accuracy: ratio(correct.iter().sum::<u64>() as f64, rows as f64),
            macro_f1: ratio(f1.iter().sum(), f1.len() as f64),
            mcc: matthews(rows, correct.iter().sum(), &of_label, &of_prediction),
            majority_accuracy: ratio(of_label.iter().copied().max().unwrap_or(0) as f64, rows as f64),
            confusion,
        }
    }
}

fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 { 0.0 } else { numerator / denominator }
}

/// From the logits, so that a probability that rounds to 0 has a finite loss.
fn negative_log_likelihood(logits: &[f32], label: usize) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
    sum.ln() - (f64::from(logits[label]) - max)
}

/// (c·s - Σ t_k p_k) / sqrt((s² - Σ p_k²)(s² - Σ t_k²)); <https://doi.org/10.1016/j.compbiolchem.2004.09.006>.
fn matthews(rows: u64, correct: u64, of_label: &[u64], of_prediction: &[u64]) -> f64 {
    let dot =
        |a: &[u64], b: &[u64]| a.iter().zip(b).map(|(a, b)| i128::from(*a) * i128::from(*b)).sum::<i128>();
    let rows = i128::from(rows);
    let covariance = i128::from(correct) * rows - dot(of_label, of_prediction);
    let spread = |counts: &[u64]| (rows * rows - dot(counts, counts)) as f64;
    ratio(covariance as f64, (spread(of_label) * spread(of_prediction)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(confusion: &[&[u64]]) -> ClassMetrics {
        ClassMetrics::from_confusion(confusion.iter().map(|row| row.to_vec()).collect(), 0.0)
    }

    #[track_caller]
    fn check(confusion: &[&[u64]], [accuracy, macro_f1, mcc, majority]: [f64; 4]) {
        let got = of(confusion);
        for (name, got, expected) in [
            ("accuracy", got.accuracy, accuracy),
            ("macro-F1", got.macro_f1, macro_f1),
            ("MCC", got.mcc, mcc),
            ("majority", got.majority_accuracy, majority),
        ] {
            assert!((got - expected).abs() < 1e-12, "{name}: {got}, expected {expected}");
        }
    }

    #[test]
    fn figures_equal_those_by_hand() {
        // TN 50, FP 10, FN 5, TP 35. F1: 100/115 and 70/85. MCC: (35·50 - 10·5) / sqrt(45·40·60·55).
        let mcc = 1700.0 / (45.0f64 * 40.0 * 60.0 * 55.0).sqrt();
        check(&[&[50, 10], &[5, 35]], [0.85, (100.0 / 115.0 + 70.0 / 85.0) / 2.0, mcc, 0.6]);
        // Three classes, s = 10, c = 6; labels 4, 3, 3; predictions 5, 3, 2. F1: 6/9, 4/6, 2/5.
        // Σ t·p = 20 + 9 + 6 = 35; s² - Σ p² = 100 - 38 = 62; s² - Σ t² = 100 - 34 = 66.
        let confusion: [&[u64]; 3] = [&[3, 0, 1], &[1, 2, 0], &[1, 1, 1]];
        let macro_f1 = (6.0 / 9.0 + 4.0 / 6.0 + 2.0 / 5.0) / 3.0;
        check(&confusion, [0.6, macro_f1, 25.0 / (62.0f64 * 66.0).sqrt(), 0.4]);
    }

    #[test]
    fn perfect_and_opposite_answers_are_the_ends_of_the_scale() {
        check(&[&[7, 0], &[0, 3]], [1.0, 1.0, 1.0, 0.7]);
        check(&[&[0, 7], &[3, 0]], [0.0, 0.0, -1.0, 0.7]);
    }

    #[test]
    fn a_class_that_is_never_predicted_counts_with_f1_zero() {
        // scikit-learn 1.9.1: f1_score([0]*6 + [1]*4, [0]*10, average="macro") = 0.375, matthews_corrcoef = 0.
        check(&[&[6, 0], &[4, 0]], [0.6, 0.375, 0.0, 0.6]);
    }

    #[test]
    fn one_class_only_and_no_row_have_figures_too() {
        // A class that is neither label nor prediction is left out of the mean, as in scikit-learn.
        check(&[&[5, 0], &[0, 0]], [1.0, 1.0, 0.0, 1.0]);
        check(&[&[0, 0], &[0, 0]], [0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn logits_become_figures() {
        let logits = [0.0, 1.0, 2.0, 0.0, -1.0, -1.0];
        let metrics = ClassMetrics::new(&logits, &[1, 1, 0], 2);
        // Ties go to the first class. Losses: ln(1 + e^-1), ln(1 + e^2), ln 2.
        assert_eq!(metrics.confusion, [[1, 0], [1, 1]]);
        let expected = ((1.0 + (-1.0f64).exp()).ln() + (1.0 + 2.0f64.exp()).ln() + 2.0f64.ln()) / 3.0;
        assert!((metrics.loss - expected).abs() < 1e-12, "{}", metrics.loss);
        assert_eq!(ClassMetrics::new(&[0.0, 2000.0], &[0], 2).loss, 2000.0);
    }

    #[test]
    fn probabilities_add_up_to_one_however_large_the_logits() {
        assert_eq!(probabilities(&[1e30, 1e30]), [0.5, 0.5]);
        let sum: f64 = probabilities(&[-700.0, 3.0, 88.0, 5.5]).iter().sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }
}
