//! Tests of the head: against the reference, central differences, several blocks, any number of threads.

use super::*;

fn values(len: usize, part: u64) -> Vec<f32> {
    let mut stream = bert_random::Key::new(5, bert_random::Purpose::Debug).with(part).stream();
    (0..len).map(|_| stream.normal() as f32).collect()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

struct Case {
    inputs: [Vec<f32>; 3],
    labels: Vec<u32>,
    loss: MlmLoss,
    /// Of hidden, table and bias.
    gradients: [Vec<f32>; 3],
}

/// Gradients begin as what would be noticed if it were not overwritten.
fn run(precision: Precision, num_masked: usize, vocab_size: usize, hidden_size: usize, scale: f32) -> Case {
    let inputs =
        [values(num_masked * hidden_size, 1), values(vocab_size * hidden_size, 2), values(vocab_size, 3)];
    let labels: Vec<u32> = (0..num_masked).map(|i| (i * 7919 % vocab_size) as u32).collect();
    let mut gradients = [
        vec![f32::NAN; num_masked * hidden_size],
        vec![f32::NAN; vocab_size * hidden_size],
        vec![f32::NAN; vocab_size],
    ];
    let mut head = MlmHead::new(precision);
    let [hidden, table, bias] = &mut gradients;
    let loss =
        head.train(&inputs[1], &inputs[0], &inputs[2], &labels, scale, MlmGradients { hidden, table, bias });
    assert_eq!(head.evaluate(&inputs[1], &inputs[0], &inputs[2], &labels), loss);
    Case { inputs, labels, loss, gradients }
}

fn reference_loss(inputs: &[Vec<f64>; 3], labels: &[u32]) -> (f64, u64) {
    reference::loss(&inputs[0], &inputs[1], &inputs[2], labels)
}

#[test]
fn losses_agree_with_the_reference() {
    for (num_masked, vocab_size, hidden_size) in
        [(0, 3, 2), (1, 1, 1), (1, 211, 64), (7, 33, 5), (40, 1000, 32), (300, 4099, 8)]
    {
        let case = run(Precision::F32, num_masked, vocab_size, hidden_size, 0.5);
        let (loss_sum, num_correct) =
            reference_loss(&case.inputs.each_ref().map(|v| widened(v)), &case.labels);
        assert!(
            (case.loss.loss_sum - loss_sum).abs() < 1e-5 * loss_sum.max(1.0),
            "{:?} {loss_sum}",
            case.loss
        );
        assert_eq!(case.loss.num_correct, num_correct);
    }
}

/// Two blocks of rows and two of words; some elements of each input are moved.
#[test]
fn gradients_agree_with_central_differences() {
    for (num_masked, vocab_size, hidden_size) in [(5, 33, 7), (270, 4099, 4)] {
        let case = run(Precision::F32, num_masked, vocab_size, hidden_size, 0.5);
        let inputs = case.inputs.each_ref().map(|v| widened(v));
        for (input_idx, input) in inputs.iter().enumerate() {
            let len = input.len();
            let last = len - 1;
            for i in (0..len).step_by(len / 9 + 1).chain([last]) {
                let at = |shift: f64| {
                    let mut moved = inputs.clone();
                    moved[input_idx][i] += shift;
                    reference_loss(&moved, &case.labels).0
                };
                let expected = 0.5 * (at(1e-5) - at(-1e-5)) / 2e-5;
                let got = f64::from(case.gradients[input_idx][i]);
                assert!(
                    (got - expected).abs() < 2e-5,
                    "input {input_idx} element {i}: {got}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn bf16_stays_near_f32() {
    let (exact, rounded) = (run(Precision::F32, 40, 500, 64, 1.0), run(Precision::Bf16, 40, 500, 64, 1.0));
    assert!((exact.loss.loss_sum / rounded.loss.loss_sum - 1.0).abs() < 1e-2);
    for (exact, rounded) in exact.gradients.iter().zip(&rounded.gradients) {
        let largest = exact.iter().fold(0.0_f32, |max, g| max.max(g.abs()));
        for (exact, rounded) in exact.iter().zip(rounded) {
            assert!((exact - rounded).abs() < 2e-2 * largest, "{rounded}, not {exact}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let on = |num_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        pool.install(|| run(Precision::F32, 270, 4099, 24, 0.1))
    };
    let single = on(1);
    for num_threads in [2, 3] {
        let several = on(num_threads);
        assert_eq!(several.loss, single.loss);
        assert_eq!(several.gradients, single.gradients);
    }
}

/// Of equal logits the first counts as the answer.
#[test]
fn the_first_of_equal_logits_is_the_answer() {
    let mut head = MlmHead::new(Precision::F32);
    assert_eq!(head.evaluate(&[1.0, 2.0, 2.0], &[1.0, 1.0, 1.0], &[0.0; 3], &[0, 1, 2]).num_correct, 1);
}

#[test]
#[should_panic(expected = "label 3 of 3 words")]
fn a_label_beyond_the_vocabulary_is_refused() {
    let mut head = MlmHead::new(Precision::F32);
    head.evaluate(&[0.0; 3], &[0.0], &[0.0; 3], &[3]);
}
