//! Tests of layer normalisation: against the reference, central differences, and any number of threads.

use super::*;
use proptest::prelude::*;

const EPS: f32 = 1e-12;

fn values(len: usize, part: u64) -> Vec<f32> {
    let mut stream = bert_random::Key::new(42, bert_random::Purpose::Debug).with(part).stream();
    (0..len).map(|_| stream.normal() as f32).collect()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Inputs and both passes over `[num_rows, row_len]`.
struct Case {
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    grad_out: Vec<f32>,
    out: Vec<f32>,
    grad_x: Vec<f32>,
    grad_gamma: Vec<f32>,
    grad_beta: Vec<f32>,
}

fn run(num_rows: usize, row_len: usize) -> Case {
    let len = num_rows * row_len;
    let mut case = Case {
        x: values(len, 1).iter().map(|x| 3.0 * x + 0.5).collect(),
        gamma: values(row_len, 2),
        beta: values(row_len, 3),
        grad_out: values(len, 4),
        out: vec![f32::NAN; len],
        grad_x: vec![f32::NAN; len],
        grad_gamma: vec![f32::NAN; row_len],
        grad_beta: vec![f32::NAN; row_len],
    };
    let (mut mean, mut rstd) = (vec![0.0; num_rows], vec![0.0; num_rows]);
    forward(&case.x, &case.gamma, &case.beta, EPS, &mut case.out, &mut mean, &mut rstd);
    backward(
        &case.grad_out,
        &case.x,
        &case.gamma,
        &mean,
        &rstd,
        &mut case.grad_x,
        &mut case.grad_gamma,
        &mut case.grad_beta,
    );
    case
}

#[track_caller]
fn check_close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "element {i}: got {got}, expected {expected}");
    }
}

#[test]
fn forward_agrees_with_the_reference() {
    for (num_rows, row_len) in [(1, 2), (3, 31), (5, 32), (2, 33), (67, 768), (4, 1000)] {
        let case = run(num_rows, row_len);
        let expected = reference::forward(
            &widened(&case.x),
            &widened(&case.gamma),
            &widened(&case.beta),
            f64::from(EPS),
        );
        check_close(&case.out, &expected, 1e-5);
    }
}

/// The loss is the output weighted by `grad_out`; its central differences, by the reference in f64, are the
/// gradients.
#[test]
fn backward_agrees_with_central_differences() {
    let (num_rows, row_len, step) = (3, 37, 1e-5);
    let case = run(num_rows, row_len);
    let weights = widened(&case.grad_out);
    let inputs = [widened(&case.x), widened(&case.gamma), widened(&case.beta)];
    let loss = |inputs: &[Vec<f64>; 3]| -> f64 {
        let out = reference::forward(&inputs[0], &inputs[1], &inputs[2], f64::from(EPS));
        out.iter().zip(&weights).map(|(y, w)| y * w).sum()
    };
    for (input_idx, gradient) in [&case.grad_x, &case.grad_gamma, &case.grad_beta].into_iter().enumerate() {
        let difference = |i: usize| {
            let mut moved = inputs.clone();
            moved[input_idx][i] += step;
            let above = loss(&moved);
            moved[input_idx][i] -= 2.0 * step;
            (above - loss(&moved)) / (2.0 * step)
        };
        let expected: Vec<f64> = (0..gradient.len()).map(difference).collect();
        check_close(gradient, &expected, 5e-6);
    }
}

/// Rows over several blocks; the pools differ in size, the bits do not.
#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let bits = |case: &Case| -> Vec<u32> {
        let outputs = [&case.out, &case.grad_x, &case.grad_gamma, &case.grad_beta];
        outputs.into_iter().flatten().map(|v| v.to_bits()).collect()
    };
    let on = |num_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        pool.install(|| bits(&run(131, 65)))
    };
    let single = on(1);
    for num_threads in [2, 3, 8] {
        assert_eq!(on(num_threads), single, "{num_threads} threads");
    }
}

/// Sums over a gradient that is constant along the row vanish: layer norm ignores a shift of its input.
#[test]
fn a_shift_of_the_row_changes_nothing() {
    let case = run(40, 64);
    for row in case.grad_x.chunks(64) {
        let sum: f32 = row.iter().sum();
        assert!(sum.abs() < 1e-5, "gradient along a shift: {sum}");
    }
}

/// Origin: by hand. Rows [1, 3] and [-2, 2] have means 2 and 0, standard deviations 1 and 2.
#[test]
fn two_small_rows_by_hand() {
    let (mut out, mut mean, mut rstd) = ([0.0; 4], [0.0; 2], [0.0; 2]);
    forward(&[1.0, 3.0, -2.0, 2.0], &[2.0, 3.0], &[10.0, 20.0], 0.0, &mut out, &mut mean, &mut rstd);
    assert_eq!((out, mean, rstd), ([8.0, 23.0, 8.0, 23.0], [2.0, 0.0], [1.0, 0.5]));
}

#[test]
fn a_constant_row_stays_finite() {
    let (mut out, mut mean, mut rstd) = ([0.0; 5], [0.0], [0.0]);
    forward(&[7.0; 5], &[1.0; 5], &[0.25; 5], EPS, &mut out, &mut mean, &mut rstd);
    assert_eq!(out, [0.25; 5]);
    assert!(rstd[0].is_finite());
}

#[test]
#[should_panic(expected = "one statistic per row of 3 elements")]
fn lengths_that_do_not_fit_are_refused() {
    let (mut out, mut mean, mut rstd) = ([0.0; 6], [0.0; 3], [0.0; 3]);
    forward(&[0.0; 6], &[1.0; 3], &[0.0; 3], EPS, &mut out, &mut mean, &mut rstd);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_come_out_normalised(num_rows in 1_usize..70, row_len in 2_usize..100) {
        let x = values(num_rows * row_len, 9);
        let (mut out, mut mean, mut rstd) = (vec![0.0; x.len()], vec![0.0; num_rows], vec![0.0; num_rows]);
        forward(&x, &vec![1.0; row_len], &vec![0.0; row_len], EPS, &mut out, &mut mean, &mut rstd);
        for row in out.chunks(row_len) {
            let sum: f32 = row.iter().sum();
            let squares: f32 = row.iter().map(|y| y * y).sum();
            prop_assert!(sum.abs() < 1e-3, "sum {}", sum);
            prop_assert!((squares / row_len as f32 - 1.0).abs() < 1e-3, "mean square {}", squares / row_len as f32);
        }
    }
}
