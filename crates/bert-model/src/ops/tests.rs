//! Each op against the same function composed from burn's operations: values and all gradients.

use bert_random::Purpose;
use burn::tensor::{TensorData, activation};

use super::*;
use crate::test_support::composed;

fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut stream = Key::new(seed, Purpose::Debug).stream();
    let values = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    raw::from_values(values, shape).autodiff().require_grad()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    raw::with_values(tensor, <[f32]>::to_vec)
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() < 2e-5 * expected.abs().max(1.0),
            "{idx}: {got} instead of {expected}"
        );
    }
}

/// Compares two functions of three tensors: outputs, and gradients under one random output gradient.
#[track_caller]
fn check<const A: usize, const B: usize, const C: usize, const O: usize>(
    (a, b, c): (Tensor<A>, Tensor<B>, Tensor<C>),
    op: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<O>,
    reference: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<O>,
) {
    let run = |f: &dyn Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<O>| {
        let output = f(a.clone(), b.clone(), c.clone());
        let weights = random(output.dims(), 99).without_autodiff();
        let gradients = (output.clone() * weights).sum().backward();
        let of = |gradient: Option<Vec<f32>>| gradient.unwrap_or_default();
        [
            values(output),
            of(a.grad(&gradients).map(values)),
            of(b.grad(&gradients).map(values)),
            of(c.grad(&gradients).map(values)),
        ]
    };
    for (got, expected) in run(&op).iter().zip(&run(&reference)) {
        assert_close(got, expected);
    }
}

#[test]
fn linear_equals_composed() {
    check(
        (random([5, 7], 1), random([3, 7], 2), random([3], 3)),
        linear,
        |x: Tensor<2>, w: Tensor<2>, b: Tensor<1>| x.matmul(w.transpose()) + b.unsqueeze(),
    );
}

#[test]
fn layer_norm_equals_composed() {
    check(
        (random([5, 12], 1), random([12], 2), random([12], 3)),
        |x, gamma, beta| layer_norm(x, gamma, beta, 1e-5),
        |x, gamma, beta| composed::layer_norm(x, gamma, beta, 1e-5),
    );
}

#[test]
fn layer_norm_of_a_strided_tensor_equals_composed() {
    check(
        (random([12, 5], 1), random([12], 2), random([12], 3)),
        |x: Tensor<2>, gamma, beta| layer_norm(x.transpose(), gamma, beta, 1e-5),
        |x: Tensor<2>, gamma, beta| composed::layer_norm(x.transpose(), gamma, beta, 1e-5),
    );
}

#[test]
fn attention_probs_equal_composed() {
    let lengths = [7, 1, 4, 6];
    check(
        (random([4, 2, 7, 7], 1), random([1], 2), random([1], 3)),
        |scores, _, _| attention_probs(scores, lengths.into()),
        |scores, _, _| composed::attention_probs(scores, &lengths),
    );
}

#[test]
fn attention_probs_of_padding_are_zero_and_the_rest_sums_to_one() {
    let probs = values(attention_probs(random([2, 3, 5, 5], 1), [5, 2].into()));
    for (query, probs) in probs.chunks_exact(5).enumerate() {
        let length = if query < 15 { 5 } else { 2 };
        assert!((probs.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(probs[length..].iter().all(|&prob| prob == 0.0));
    }
}

#[test]
fn gelu_equals_composed() {
    check(
        (random([6, 11], 1), random([1], 2), random([1], 3)),
        |x, _, _| gelu(x, GeluForm::Erf),
        |x, _, _| activation::gelu(x),
    );
    check(
        (random([6, 11], 1), random([1], 2), random([1], 3)),
        |x, _, _| gelu(x, GeluForm::Tanh),
        |x, _, _| activation::gelu_approximate(x),
    );
}

#[test]
fn dropout_equals_its_mask() {
    let key = Key::new(4, Purpose::Dropout);
    let (x, probability) = (random([7, 9], 1), 0.25);
    let ones = raw::from_values(vec![1.0; 63], [7, 9]);
    let mask = values(dropout(ones, key, probability));
    assert!(mask.iter().all(|&m| m == 0.0 || (m - 4.0 / 3.0).abs() < 1e-6));
    assert!((5..30).contains(&mask.iter().filter(|&&m| m == 0.0).count()));

    let data = TensorData::new(mask, [7, 9]);
    check(
        (x, random([1], 2), random([1], 3)),
        |x, _, _| dropout(x, key, probability),
        |x: Tensor<2>, _, _| x.clone() * Tensor::from_data(data.clone(), &x.device()),
    );
}

#[test]
fn gradient_root_starts_backward_with_its_gradient() {
    let x = random([3, 4], 1);
    let gradient = random([3, 4], 2).without_autodiff();
    let root = gradient_root(x.clone() * 2.0, gradient.clone());
    assert_eq!(values(root.clone()), [0.0]);
    let gradients = (root * 3.0).backward();
    assert_close(&values(x.grad(&gradients).unwrap()), &values(gradient * 6.0));
}

#[test]
fn ops_outside_of_autodiff_stay_outside() {
    let x = random([3, 4], 1).without_autodiff();
    assert!(!gelu(x.clone(), GeluForm::Erf).is_autodiff());
    assert!(!linear(x.clone(), x.clone(), raw::from_values(vec![0.0; 3], [3])).is_autodiff());
    let gelu_of_constant = gelu(x.autodiff(), GeluForm::Erf);
    assert!(!gelu_of_constant.is_tracked());
}
