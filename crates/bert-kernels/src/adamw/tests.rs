//! Tests of AdamW: both presets against exact arithmetic, the size of the first step, and decay.

use super::*;
use proptest::prelude::*;

/// BERT's own form, as in the preset "bert".
fn bert(learning_rate: f64) -> AdamWStep {
    AdamWStep {
        learning_rate,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-6,
        weight_decay: 0.01,
        bias_correction: None,
        grad_scale: 1.0,
    }
}

/// The form of `torch.optim.AdamW`, as in the preset "torch".
fn torch(learning_rate: f64, step: u64) -> AdamWStep {
    AdamWStep { epsilon: 1e-8, bias_correction: Some(step), ..bert(learning_rate) }
}

const PARAMS: [f32; 4] = [0.5, -0.25, 1.5, 0.007_812_5];
const GRADS: [[f32; 4]; 3] =
    [[0.125, -2.0, 0.000_976_562_5, 0.5], [0.25, 1.0, -0.001_953_125, 0.5], [-0.5, 0.75, 0.5, 0.5]];

/// [`super::step`] with new parameters where the old ones were.
fn step(rule: &AdamWStep, params: &mut [f32], grads: &[f32], first: &mut [f32], second: &mut [f32]) {
    let mut places = grads.to_vec();
    super::step(rule, params, &mut places, first, second);
    params.copy_from_slice(&places);
}

/// Three steps of rounding to f32 on values up to 1.5.
const TOLERANCE: f64 = 4e-7;

#[track_caller]
fn check_three_steps(rule: impl Fn(u64) -> AdamWStep, expected: [f64; 4]) {
    let (mut params, mut first, mut second) = (PARAMS, [0.0; 4], [0.0; 4]);
    for (grads, number) in GRADS.iter().zip(1..) {
        step(&rule(number), &mut params, grads, &mut first, &mut second);
    }
    for (got, expected) in params.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < TOLERANCE, "got {params:?}, expected {expected:?}");
    }
}

/// Origin of both: `tests/golden.py`, the papers' formulas in 50 decimal digits.
#[test]
fn three_steps_of_both_presets() {
    check_three_steps(
        |_| bert(0.01),
        [0.43682675740646143, -0.20739467143405135, 1.4527002042503567, -0.11579460808359698],
    );
    check_three_steps(
        |number| torch(0.01, number),
        [0.4821391056028635, -0.23734522612028486, 1.4868370697567488, -0.022186843015692823],
    );
}

/// Without bias correction the first step is (1 - beta1) / sqrt(1 - beta2) = 3.162 learning rates long, with it
/// exactly one, whatever the gradient (as long as it is large against epsilon).
#[test]
fn the_first_step_has_the_known_size() {
    for (rule, expected) in [(bert(1e-3), 3.162_28e-3), (torch(1e-3, 1), 1e-3)] {
        for grad in [-7.0, 3.0, 12.0] {
            let mut param = [0.0];
            step(&rule, &mut param, &[grad], &mut [0.0], &mut [0.0]);
            let expected = expected as f32;
            assert!((param[0] + expected * grad.signum()).abs() < 1e-4 * expected, "moved by {param:?}");
        }
    }
}

#[test]
fn decay_pulls_by_learning_rate_times_decay_and_only_where_asked() {
    let mut params = [2.0];
    step(&bert(0.5), &mut params, &[0.0], &mut [0.0], &mut [0.0]);
    assert_eq!(params, [2.0 - 2.0 * 0.005]);
    let mut params = [2.0];
    step(&AdamWStep { weight_decay: 0.0, ..bert(0.5) }, &mut params, &[0.0], &mut [0.0], &mut [0.0]);
    assert_eq!(params, [2.0]);
}

#[test]
fn grad_scale_scales_the_gradient_before_the_moments() {
    let (mut first, mut second) = ([0.0], [0.0]);
    step(&AdamWStep { grad_scale: 0.5, ..bert(0.1) }, &mut [0.0], &[4.0], &mut first, &mut second);
    assert!((first[0] - 0.2).abs() < 1e-6 && (second[0] - 0.004).abs() < 1e-6, "{first:?} {second:?}");
}

#[test]
#[should_panic(expected = "3 parameters, 2 gradients, 3 and 3 moments")]
fn unequal_lengths_are_refused() {
    step(&bert(0.1), &mut [0.0; 3], &[0.0; 2], &mut [0.0; 3], &mut [0.0; 3]);
}

#[test]
#[should_panic(expected = "count from 1")]
fn step_zero_is_refused() {
    step(&torch(0.1, 0), &mut [0.0], &[0.0], &mut [0.0], &mut [0.0]);
}

/// A long slice goes over several threads; each element comes out as if it were alone.
#[test]
fn long_slices_are_stepped_like_single_elements() {
    let len = 3 * PARALLEL_CHUNK_LEN + 5;
    let grads: Vec<f32> = (0..len).map(|i| (i % 97) as f32 - 48.0).collect();
    let (mut params, mut first, mut second) = (vec![0.5; len], vec![0.1; len], vec![0.2; len]);
    step(&bert(0.01), &mut params, &grads, &mut first, &mut second);
    for i in (0..len).step_by(61) {
        let (mut p, mut m, mut v) = ([0.5], [0.1], [0.2]);
        step(&bert(0.01), &mut p, &grads[i..=i], &mut m, &mut v);
        assert_eq!((params[i], first[i], second[i]), (p[0], m[0], v[0]), "element {i}");
    }
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        elements in prop::collection::vec((-2.0_f32..2.0, -3.0_f32..3.0, -1.0_f32..1.0, 0.01_f32..2.0), 1..80),
        number in prop::option::of(1_u64..5000),
    ) {
        let rule = AdamWStep { bias_correction: number, grad_scale: 0.75, ..bert(0.01) };
        let grads: Vec<f32> = elements.iter().map(|e| e.1).collect();
        let state = || -> [Vec<f32>; 3] {
            [elements.iter().map(|e| e.0).collect(), elements.iter().map(|e| e.2).collect(),
             elements.iter().map(|e| e.3).collect()]
        };
        let ([mut p, mut m, mut v], [mut p2, mut m2, mut v2]) = (state(), state());
        step(&rule, &mut p, &grads, &mut m, &mut v);
        reference::step(&rule, &mut p2, &grads, &mut m2, &mut v2);
        for (got, expected) in p.iter().chain(&m).chain(&v).zip(p2.iter().chain(&m2).chain(&v2)) {
            prop_assert!((got - expected).abs() <= 2e-6 * expected.abs().max(1.0), "{} != {}", got, expected);
        }
    }

    #[test]
    fn power_agrees_with_the_library(base in 0.5_f64..1.0, exponent in 0_u64..2_000_000) {
        let expected = base.powf(exponent as f64);
        prop_assert!((power(base, exponent) - expected).abs() <= 1e-10 * expected.max(1e-300));
    }
}
