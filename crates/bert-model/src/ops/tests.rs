//! Each op against the same function composed from burn's operations, on every backend: values and all gradients.

use bert_random::Purpose;
use burn::tensor::{Device, TensorData};

use super::*;
use crate::test_support::{backends, devices};

fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut stream = Key::new(seed, Purpose::Debug).stream();
    let values = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    raw::from_values(values, shape, device).autodiff().require_grad()
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
    shapes: ([usize; A], [usize; B], [usize; C]),
    op: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<O>,
    reference: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<O>,
) {
    for device in devices() {
        let a = random(shapes.0, 1, &device);
        let b = random(shapes.1, 2, &device);
        let c = random(shapes.2, 3, &device);
        let run = |f: &dyn Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<O>| {
            let output = f(a.clone(), b.clone(), c.clone());
            let weights = random(output.dims(), 99, &device).without_autodiff();
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
}

#[test]
fn linear_equals_composed() {
    check(([5, 7], [3, 7], [3]), linear, composed::linear);
}

#[test]
fn layer_norm_equals_composed() {
    check(
        ([5, 12], [12], [12]),
        |x, gamma, beta| layer_norm(x, gamma, beta, 1e-5),
        |x, gamma, beta| composed::layer_norm(x, gamma, beta, 1e-5),
    );
}

#[test]
fn layer_norm_of_a_strided_tensor_equals_composed() {
    check(
        ([12, 5], [12], [12]),
        |x: Tensor<2>, gamma, beta| layer_norm(x.transpose(), gamma, beta, 1e-5),
        |x: Tensor<2>, gamma, beta| composed::layer_norm(x.transpose(), gamma, beta, 1e-5),
    );
}

#[test]
fn attention_probs_equal_composed() {
    let lengths = [7, 1, 4, 6];
    check(
        ([4, 2, 7, 7], [1], [1]),
        |scores, _, _| attention_probs(scores, lengths.into()),
        |scores, _, _| composed::attention_probs(scores, &lengths),
    );
}

#[test]
fn attention_probs_of_padding_are_zero_and_the_rest_sums_to_one() {
    for device in devices() {
        let probs = values(attention_probs(random([2, 3, 5, 5], 1, &device), [5, 2].into()));
        for (query, probs) in probs.chunks_exact(5).enumerate() {
            let length = if query < 15 { 5 } else { 2 };
            assert!((probs.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(probs[length..].iter().all(|&prob| prob == 0.0));
        }
    }
}

#[test]
fn gelu_equals_composed() {
    for form in [GeluForm::Erf, GeluForm::Tanh] {
        check(([6, 11], [1], [1]), |x, _, _| gelu(x, form), |x, _, _| composed::gelu(x, form));
    }
}

#[test]
fn dropout_equals_its_mask() {
    let key = Key::new(4, Purpose::Dropout);
    let probability = 0.25;
    for device in devices() {
        let ones = raw::from_values(vec![1.0; 63], [7, 9], &device);
        let mask = values(dropout(ones, key, probability));
        assert!(mask.iter().all(|&m| m == 0.0 || (m - 4.0 / 3.0).abs() < 1e-6));
        assert!((5..30).contains(&mask.iter().filter(|&&m| m == 0.0).count()));
    }
    check(
        ([7, 9], [1], [1]),
        |x, _, _| dropout(x, key, probability),
        |x, _, _| composed::dropout(x, key, probability),
    );
}

#[test]
fn gradient_root_starts_backward_with_its_gradient() {
    for device in devices() {
        let x = random([3, 4], 1, &device);
        let gradient = random([3, 4], 2, &device).without_autodiff();
        for root in [gradient_root::<2> as fn(_, _) -> _, composed::gradient_root::<2>] {
            let root = root(x.clone() * 2.0, gradient.clone());
            let gradients = (root * 3.0).backward();
            assert_close(&values(x.grad(&gradients).unwrap()), &values(gradient.clone() * 6.0));
        }
        assert_eq!(values(gradient_root(x, gradient)), [0.0]);
    }
}

#[test]
fn ops_outside_of_autodiff_stay_outside() {
    for device in devices() {
        let x = random([3, 4], 1, &device).without_autodiff();
        assert!(!gelu(x.clone(), GeluForm::Erf).is_autodiff());
        let bias = raw::from_values(vec![0.0; 3], [3], &device);
        assert!(!linear(x.clone(), x.clone(), bias).is_autodiff());
        let gelu_of_constant = gelu(x.autodiff(), GeluForm::Erf);
        assert!(!gelu_of_constant.is_tracked());
    }
}

/// All that is no matrix product is our own arithmetic in a fixed order, whoever owns the memory.
#[test]
fn every_backend_computes_the_same_bits() {
    let key = Key::new(4, Purpose::Dropout);
    let run = |device: &Device| {
        let x = random([2, 3, 40, 40], 1, device);
        let (gamma, beta) = (random([40], 2, device), random([40], 3, device));
        let probs = dropout(attention_probs(x.clone(), [40, 17].into()), key, 0.1);
        let normal = layer_norm(probs.clone().reshape([240, 40]), gamma.clone(), beta.clone(), 1e-12);
        let output = gelu(normal, GeluForm::Erf);
        let start = random([240, 40], 5, device).without_autodiff();
        let gradients = gradient_root(output.clone(), start).backward();
        let all = [
            values(output),
            values(x.grad(&gradients).unwrap()),
            values(gamma.grad(&gradients).unwrap()),
            values(beta.grad(&gradients).unwrap()),
        ];
        all.concat().iter().map(|value| value.to_bits()).collect::<Vec<_>>()
    };
    let all: Vec<_> = devices().iter().map(run).collect();
    assert_eq!(all.len(), backends().len());
    assert!(all.iter().all(|bits| *bits == all[0]));
}

#[test]
fn values_of_views_are_those_of_the_view() {
    for device in devices() {
        let whole = Tensor::<2>::from_data(TensorData::from([[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]]), &device);
        assert_eq!(values(whole.clone().transpose()), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(values(whole.clone().slice([1..2, 0..3])), [4.0, 5.0, 6.0]);
        assert_eq!(values(whole.clone().slice([0..2, 1..3])), [2.0, 3.0, 5.0, 6.0]);
        assert!(values(raw::from_values(Vec::new(), [0, 3], &device)).is_empty());
    }
}

#[test]
fn writing_leaves_other_holders_of_the_memory_alone() {
    for device in devices() {
        let original = raw::from_values(vec![1.0, 2.0, 3.0, 4.0], [2, 2], &device);
        let view = original.clone().reshape([4]);
        let row = original.clone().slice([1..2, 0..2]);
        let written = raw::overwrite(original.clone(), &[5.0, 6.0, 7.0, 8.0]);
        let dropped = dropout(original.clone().autodiff(), Key::new(1, Purpose::Dropout), 0.99);
        assert_ne!(values(dropped), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(values(written), [5.0, 6.0, 7.0, 8.0]);
        assert_eq!(values(original), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(values(view), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(values(row), [3.0, 4.0]);
    }
}
