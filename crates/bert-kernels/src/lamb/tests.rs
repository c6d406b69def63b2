//! Tests of LAMB: exact arithmetic, the size of a step, and what the trust ratio leaves alone.

use super::*;
use crate::slices::squared_norm;
use proptest::prelude::*;

fn rule(step: u64) -> LambStep {
    LambStep { beta1: 0.9, beta2: 0.999, epsilon: 1e-6, weight_decay: 0.01, step, grad_scale: 1.0 }
}

/// Both halves for one whole parameter.
fn whole_step(
    s: &LambStep,
    learning_rate: f64,
    params: &mut [f32],
    grads: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let mut updates = vec![0.0; params.len()];
    update(s, params, grads, first, second, &mut updates);
    let ratio = trust_ratio(squared_norm(params).sqrt(), squared_norm(&updates).sqrt());
    apply(learning_rate * if s.weight_decay == 0.0 { 1.0 } else { ratio }, params, &updates);
}

const PARAMS: [f32; 4] = [0.5, -0.25, 1.5, 0.007_812_5];
const GRADS: [[f32; 4]; 3] =
    [[0.125, -2.0, 0.000_976_562_5, 0.5], [0.25, 1.0, -0.001_953_125, 0.5], [-0.5, 0.75, 0.5, 0.5]];

/// Origin: `tests/golden.py`, the formulas of apex's FusedLAMB in 50 decimal digits.
#[test]
fn three_steps_equal_exact_arithmetic() {
    let (mut params, mut first, mut second) = (PARAMS, [0.0; 4], [0.0; 4]);
    for (grads, number) in GRADS.iter().zip(1..) {
        whole_step(&rule(number), 0.01, &mut params, grads, &mut first, &mut second);
    }
    let expected = [0.4839347040782222, -0.23917197952804206, 1.4871643880905625, -0.024170524894241516];
    for (got, expected) in params.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 4e-7, "got {params:?}, expected {expected:?}");
    }
}

/// The whole change has the size learning rate times parameter, whatever the gradient.
#[test]
fn a_step_is_as_long_as_the_learning_rate_says() {
    for scale in [1e-3_f32, 1.0, 1e3] {
        let (mut params, before) = (PARAMS, PARAMS);
        let grads = GRADS[1].map(|grad| grad * scale);
        whole_step(&rule(1), 0.01, &mut params, &grads, &mut [0.0; 4], &mut [0.0; 4]);
        let moved: Vec<f32> = params.iter().zip(before).map(|(p, b)| p - b).collect();
        let ratio = (squared_norm(&moved) / squared_norm(&before)).sqrt();
        assert!((ratio - 0.01).abs() < 1e-5, "{ratio}");
    }
}

#[test]
fn nothing_is_scaled_without_decay_or_from_zero() {
    assert_eq!(trust_ratio(0.0, 3.0), 1.0);
    assert_eq!(trust_ratio(3.0, 0.0), 1.0);
    assert_eq!(trust_ratio(3.0, 2.0), 1.5);
    // A first step of Adam moves every element by the learning rate.
    let mut params = [0.0; 2];
    whole_step(&rule(1), 0.01, &mut params, &[0.5, -4.0], &mut [0.0; 2], &mut [0.0; 2]);
    assert!((params[0] + 0.01).abs() < 1e-6 && (params[1] - 0.01).abs() < 1e-6, "{params:?}");
}

#[test]
#[should_panic(expected = "3 parameters, 2 gradients, 3 and 3 moments, 3 updates")]
fn unequal_lengths_are_refused() {
    update(&rule(1), &[0.0; 3], &[0.0; 2], &mut [0.0; 3], &mut [0.0; 3], &mut [0.0; 3]);
}

#[test]
#[should_panic(expected = "count from 1")]
fn step_zero_is_refused() {
    update(&rule(0), &[0.0], &[0.0], &mut [0.0], &mut [0.0], &mut [0.0]);
}

/// A long slice goes over several threads; each element comes out as if it were alone.
#[test]
fn long_slices_are_updated_like_single_elements() {
    let len = 3 * PARALLEL_CHUNK_LEN + 5;
    let grads: Vec<f32> = (0..len).map(|i| (i % 97) as f32 - 48.0).collect();
    let (params, mut first, mut second) = (vec![0.5; len], vec![0.1; len], vec![0.2; len]);
    let mut updates = vec![0.0; len];
    update(&rule(7), &params, &grads, &mut first, &mut second, &mut updates);
    for i in (0..len).step_by(61) {
        let (mut m, mut v, mut u) = ([0.1], [0.2], [0.0]);
        update(&rule(7), &[0.5], &grads[i..=i], &mut m, &mut v, &mut u);
        assert_eq!((first[i], second[i], updates[i]), (m[0], v[0], u[0]), "element {i}");
    }
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        elements in prop::collection::vec((-2.0_f32..2.0, -3.0_f32..3.0, -1.0_f32..1.0, 0.01_f32..2.0), 1..80),
        number in 1_u64..5000,
        decays in any::<bool>(),
    ) {
        let weight_decay = if decays { 0.01 } else { 0.0 };
        let s = LambStep { grad_scale: 0.75, weight_decay, ..rule(number) };
        let grads: Vec<f32> = elements.iter().map(|e| e.1).collect();
        let state = || -> [Vec<f32>; 3] {
            [elements.iter().map(|e| e.0).collect(), elements.iter().map(|e| e.2).collect(),
             elements.iter().map(|e| e.3).collect()]
        };
        let ([mut p, mut m, mut v], [mut p2, mut m2, mut v2]) = (state(), state());
        whole_step(&s, 0.01, &mut p, &grads, &mut m, &mut v);
        reference::step(&s, 0.01, &mut p2, &grads, &mut m2, &mut v2);
        for (got, expected) in p.iter().chain(&m).chain(&v).zip(p2.iter().chain(&m2).chain(&v2)) {
            prop_assert!((got - expected).abs() <= 3e-6 * expected.abs().max(1.0), "{} != {}", got, expected);
        }
    }
}
