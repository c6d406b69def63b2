//! Tests of the fused end of a half layer: against the reference, central differences, any number of threads.

use super::*;

fn values(len: usize, part: u64) -> Vec<f32> {
    let mut stream = bert_random::Key::new(4, bert_random::Purpose::Debug).with(part).stream();
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// Residual, x, bias, gamma, beta, and the outputs of both passes.
struct Case {
    inputs: [Vec<f32>; 5],
    places: Vec<usize>,
    grad_out: Vec<f32>,
    out: Vec<f32>,
    gradients: [Vec<f32>; 5],
}

fn norm<'a>(inputs: &'a [Vec<f32>; 5], places: &'a [usize], probability: f32) -> ResidualNorm<'a> {
    let dropout = (probability > 0.0).then_some(Dropout { key_bits: 17, probability });
    ResidualNorm { bias: &inputs[2], gamma: &inputs[3], beta: &inputs[4], eps: 1e-12, dropout, places }
}

/// Every third row is missing from the packed ones.
fn run(num_rows: usize, row_len: usize, probability: f32) -> Case {
    let len = num_rows * row_len;
    let lens = [len, len, row_len, row_len, row_len];
    let mut case = Case {
        inputs: std::array::from_fn(|i| values(lens[i], i as u64)),
        places: (0..num_rows).map(|row| row + row / 2).collect(),
        grad_out: values(len, 9),
        out: vec![f32::NAN; len],
        gradients: lens.map(|len| vec![f32::NAN; len]),
    };
    let norm = norm(&case.inputs, &case.places, probability);
    let (mut mean, mut rstd) = (vec![0.0; num_rows], vec![0.0; num_rows]);
    let mut sum = case.inputs[1].clone();
    forward(norm, &case.inputs[0], &mut sum, &mut case.out, &mut mean, &mut rstd);
    let [residual, x, bias, gamma, beta] = &mut case.gradients;
    let saved = Saved { sum: &sum, mean: &mean, rstd: &rstd };
    backward(norm, saved, &case.grad_out, residual, x, Gradients { bias, gamma, beta });
    case
}

fn expected(case: &Case, inputs: &[Vec<f64>; 5], probability: f32) -> Vec<f64> {
    let norm = norm(&case.inputs, &case.places, probability);
    reference::forward(norm, &inputs[0], &inputs[1], [&inputs[2], &inputs[3], &inputs[4]])
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn forward_agrees_with_the_reference() {
    for (num_rows, row_len) in [(1, 2), (3, 31), (67, 80), (40, 768)] {
        for probability in [0.0, 0.25] {
            let case = run(num_rows, row_len, probability);
            let expected = expected(&case, &case.inputs.each_ref().map(|v| widened(v)), probability);
            for (got, expected) in case.out.iter().zip(&expected) {
                let error = (f64::from(*got) - expected).abs();
                assert!(error < 1e-5 * expected.abs().max(1.0), "{got}, not {expected}");
            }
        }
    }
}

#[test]
fn backward_agrees_with_central_differences() {
    for (num_rows, row_len, probability) in [(1, 5, 0.0), (3, 37, 0.25), (70, 6, 0.25)] {
        let case = run(num_rows, row_len, probability);
        let inputs = case.inputs.each_ref().map(|v| widened(v));
        let weights = widened(&case.grad_out);
        for (input_idx, gradients) in case.gradients.iter().enumerate() {
            for (i, got) in gradients.iter().enumerate() {
                let at = |shift: f64| -> f64 {
                    let mut moved = inputs.clone();
                    moved[input_idx][i] += shift;
                    expected(&case, &moved, probability).iter().zip(&weights).map(|(y, w)| y * w).sum()
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                let error = (f64::from(*got) - expected).abs();
                assert!(
                    error < 2e-5 * expected.abs().max(1.0),
                    "input {input_idx} element {i}: {got}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let on = |num_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        pool.install(|| run(131, 65, 0.1))
    };
    let single = on(1);
    for num_threads in [2, 3] {
        let several = on(num_threads);
        assert_eq!(several.out, single.out);
        assert_eq!(several.gradients, single.gradients);
    }
}

/// The fused pass rounds as the separate kernels do.
#[test]
fn the_bits_are_those_of_the_separate_kernels() {
    let case = run(40, 96, 0.1);
    let biased: Vec<f32> =
        case.inputs[1].iter().enumerate().map(|(i, x)| x + case.inputs[2][i % 96]).collect();
    let norm = norm(&case.inputs, &case.places, 0.1);
    let mut sum = vec![0.0; 40 * 96];
    for (row, place) in case.places.iter().enumerate() {
        let own = row * 96..(row + 1) * 96;
        dropout::forward_at(norm.dropout.unwrap(), *place as u64 * 96, &biased[own.clone()], &mut sum[own]);
    }
    crate::slices::add_assign(&mut sum, &case.inputs[0]);
    let (mut out, mut mean, mut rstd) = (vec![0.0; 40 * 96], vec![0.0; 40], vec![0.0; 40]);
    crate::layer_norm::forward(&sum, norm.gamma, norm.beta, norm.eps, &mut out, &mut mean, &mut rstd);
    assert_eq!(case.out, out);
}

#[test]
#[should_panic(expected = "matrices of 2 rows of 3 elements")]
fn lengths_that_do_not_fit_are_refused() {
    let inputs: [Vec<f32>; 5] = std::array::from_fn(|_| vec![0.0; 3]);
    let norm = norm(&inputs, &[0, 1], 0.0);
    forward(norm, &[0.0; 6], &mut [0.0; 6], &mut [0.0; 5], &mut [0.0; 2], &mut [0.0; 2]);
}
