//! Each handwritten backward pass against central differences of its own forward pass, on every backend.

use bert_random::Purpose;
use burn::tensor::{Device, TensorData};

use super::*;
use crate::test_support::devices;

/// Step of the differences: large against the rounding of f32, small against the curvature of the ops.
const STEP: f32 = 1e-2;

fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut stream = Key::new(seed, Purpose::Debug).stream();
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// Makes tensors on one device.
#[derive(Clone, Copy)]
struct On<'a>(&'a Device);

impl On<'_> {
    fn tensor<const D: usize>(self, values: &[f32], shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), self.0)
    }
}

/// Compares the gradient of `Σ weights · op(x)` with respect to `x` with differences of that sum.
#[track_caller]
fn check<const D: usize, const O: usize>(shape: [usize; D], op: impl Fn(On<'_>, Tensor<D>) -> Tensor<O>) {
    for device in devices() {
        check_on(On(&device), shape, &op);
    }
}

#[track_caller]
fn check_on<const D: usize, const O: usize>(
    on: On<'_>,
    shape: [usize; D],
    op: impl Fn(On<'_>, Tensor<D>) -> Tensor<O>,
) {
    let len: usize = shape.iter().product();
    let values = random(len, 1);
    let input = on.tensor(&values, shape).autodiff().require_grad();
    let output = op(on, input.clone());
    let weights = random(output.dims().iter().product(), 2);
    let gradients = gradient_root(output.clone(), on.tensor(&weights, output.dims())).backward();
    let gradient = raw::with_values(input.grad(&gradients).unwrap(), <[f32]>::to_vec);
    let sum_at = |idx: usize, shift: f32| {
        let mut shifted = values.clone();
        shifted[idx] += shift;
        raw::with_values(op(on, on.tensor(&shifted, shape)), |output| {
            output.iter().zip(&weights).map(|(o, w)| f64::from(*o) * f64::from(*w)).sum::<f64>()
        })
    };
    assert!(gradient.iter().any(|value| value.abs() > 0.1), "the check sees something");
    for (idx, got) in gradient.iter().enumerate() {
        let expected = (sum_at(idx, STEP) - sum_at(idx, -STEP)) / (2.0 * f64::from(STEP));
        let error = (f64::from(*got) - expected).abs();
        assert!(error < 2e-3 * expected.abs().max(1.0), "{idx}: {got} instead of {expected}");
    }
}

#[test]
fn linear_in_all_operands() {
    let (x, w, b) = (random(5 * 7, 3), random(3 * 7, 4), random(3, 5));
    check([5, 7], |on, x| linear(x, on.tensor(&w, [3, 7]), on.tensor(&b, [3])));
    check([3, 7], |on, w| linear(on.tensor(&x, [5, 7]), w, on.tensor(&b, [3])));
    check([3], |on, b| linear(on.tensor(&x, [5, 7]), on.tensor(&w, [3, 7]), b));
}

#[test]
fn layer_norm_in_all_operands() {
    let (x, gamma, beta) = (random(5 * 7, 3), random(7, 4), random(7, 5));
    check([5, 7], |on, x| layer_norm(x, on.tensor(&gamma, [7]), on.tensor(&beta, [7]), 1e-12));
    check([7], |on, gamma| layer_norm(on.tensor(&x, [5, 7]), gamma, on.tensor(&beta, [7]), 1e-12));
    check([7], |on, beta| layer_norm(on.tensor(&x, [5, 7]), on.tensor(&gamma, [7]), beta, 1e-12));
}

#[test]
fn attention_probs_of_rows_with_padding() {
    check([2, 3, 5, 5], |_, scores| attention_probs(scores, Arc::from([5, 4])));
}

#[test]
fn both_forms_of_gelu() {
    for form in [GeluForm::Erf, GeluForm::Tanh] {
        check([5, 7], |_, x| gelu(x, form));
    }
}

#[test]
fn dropout_of_any_element() {
    check([5, 7], |_, x| dropout(x, Key::new(7, Purpose::Dropout), 0.3));
}
