//! Tests of the embeddings: against the reference, central differences, any number of threads.

use super::*;

const VOCAB: usize = 11;
const NUM_POSITIONS: usize = 9;

fn values(len: usize, part: u64) -> Vec<f32> {
    let mut stream = bert_random::Key::new(6, bert_random::Purpose::Debug).with(part).stream();
    (0..len).map(|_| stream.normal() as f32).collect()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Rows of up to nine tokens without their padding.
struct Batch {
    ids: Vec<u32>,
    types: Vec<u8>,
    positions: Vec<u32>,
    places: Vec<usize>,
}

impl Batch {
    fn new(num_tokens: usize) -> Self {
        Self {
            ids: (0..num_tokens).map(|i| (i * i % VOCAB) as u32).collect(),
            types: (0..num_tokens).map(|i| u8::from(i % 7 > 3)).collect(),
            positions: (0..num_tokens).map(|i| (i % 7) as u32).collect(),
            places: (0..num_tokens).map(|i| i / 7 * NUM_POSITIONS + i % 7).collect(),
        }
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens { ids: &self.ids, types: &self.types, positions: &self.positions, places: &self.places }
    }
}

fn embeddings(parameters: &[Vec<f32>; 5], probability: f32) -> Embeddings<'_> {
    let dropout = (probability > 0.0).then_some(Dropout { key_bits: 23, probability });
    let [words, types, positions, gamma, beta] = parameters;
    Embeddings { words, types, positions, gamma, beta, eps: 1e-12, dropout }
}

/// Parameters, and the outputs of both passes; gradients of tables begin at 1.
struct Case {
    parameters: [Vec<f32>; 5],
    grad_out: Vec<f32>,
    out: Vec<f32>,
    gradients: [Vec<f32>; 5],
}

fn run(batch: &Batch, row_len: usize, probability: f32) -> Case {
    let num_tokens = batch.ids.len();
    let lens = [VOCAB, 2, NUM_POSITIONS, 1, 1].map(|rows| rows * row_len);
    let len = num_tokens * row_len;
    let mut case = Case {
        parameters: std::array::from_fn(|i| values(lens[i], i as u64)),
        grad_out: values(len, 9),
        out: vec![f32::NAN; len],
        gradients: lens.map(|len| vec![1.0; len]),
    };
    let embeddings = embeddings(&case.parameters, probability);
    let (mut mean, mut rstd) = (vec![0.0; num_tokens], vec![0.0; num_tokens]);
    let mut sum = vec![f32::NAN; len];
    forward(embeddings, batch.tokens(), &mut sum, &mut case.out, &mut mean, &mut rstd);
    let [words, types, positions, gamma, beta] = &mut case.gradients;
    let gradients = Gradients { words, types, positions, gamma, beta };
    let saved = Saved { sum: &sum, mean: &mean, rstd: &rstd };
    let (mut grad_out, mut scratch) = (case.grad_out.clone(), vec![f32::NAN; len]);
    backward(embeddings, batch.tokens(), saved, &mut grad_out, &mut scratch, gradients);
    case
}

fn expected(case: &Case, batch: &Batch, parameters: &[Vec<f64>; 5], probability: f32) -> Vec<f64> {
    let parameters = parameters.each_ref().map(Vec::as_slice);
    reference::forward(embeddings(&case.parameters, probability), batch.tokens(), parameters)
}

#[test]
fn forward_agrees_with_the_reference() {
    for (num_tokens, row_len) in [(1, 5), (40, 33), (70, 96)] {
        for probability in [0.0, 0.25] {
            let batch = Batch::new(num_tokens);
            let case = run(&batch, row_len, probability);
            let parameters = case.parameters.each_ref().map(|v| widened(v));
            let expected = expected(&case, &batch, &parameters, probability);
            for (got, expected) in case.out.iter().zip(&expected) {
                let error = (f64::from(*got) - expected).abs();
                assert!(error < 1e-5 * expected.abs().max(1.0), "{got}, not {expected}");
            }
        }
    }
}

#[test]
fn backward_agrees_with_central_differences() {
    for (num_tokens, row_len, probability) in [(1, 5, 0.0), (40, 7, 0.25)] {
        let batch = Batch::new(num_tokens);
        let case = run(&batch, row_len, probability);
        let parameters = case.parameters.each_ref().map(|v| widened(v));
        let weights = widened(&case.grad_out);
        for (input_idx, gradients) in case.gradients.iter().enumerate() {
            let start = if input_idx < 3 { 1.0 } else { 0.0 };
            for (i, got) in gradients.iter().enumerate() {
                let at = |shift: f64| -> f64 {
                    let mut moved = parameters.clone();
                    moved[input_idx][i] += shift;
                    expected(&case, &batch, &moved, probability)
                        .iter()
                        .zip(&weights)
                        .map(|(y, w)| y * w)
                        .sum()
                };
                let expected = start + (at(1e-5) - at(-1e-5)) / 2e-5;
                let error = (f64::from(*got) - expected).abs();
                assert!(
                    error < 3e-5 * expected.abs().max(1.0),
                    "parameter {input_idx} element {i}: {got}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let batch = Batch::new(131);
    let on = |num_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        pool.install(|| run(&batch, 65, 0.1))
    };
    let single = on(1);
    for num_threads in [2, 3] {
        let several = on(num_threads);
        assert_eq!(several.out, single.out);
        assert_eq!(several.gradients, single.gradients);
    }
}

#[test]
#[should_panic(expected = "one type, position and place per token")]
fn lengths_that_do_not_fit_are_refused() {
    let mut batch = Batch::new(3);
    batch.types.pop();
    run(&batch, 4, 0.0);
}
