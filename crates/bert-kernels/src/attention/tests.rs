//! Tests of attention: against the reference, central differences, any number of threads, and rows on their own.

use super::*;

const OFFSETS: [usize; 6] = [0, 17, 17, 18, 53, 57];

fn values(len: usize, part: u64) -> Vec<f32> {
    let mut stream = bert_random::Key::new(3, bert_random::Purpose::Debug).with(part).stream();
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// Some tokens of some rows of [`OFFSETS`], and none of the third.
fn some(token: usize) -> bool {
    token % 5 < 2 && token != 17
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Rows, and which of their tokens ask.
struct Rows {
    offsets: Vec<usize>,
    query_offsets: Vec<usize>,
    query_places: Vec<usize>,
    padded_len: usize,
}

impl Rows {
    /// Rows at `offsets`, of whose tokens those ask that `asks` names.
    fn new(offsets: &[usize], asks: impl Fn(usize) -> bool) -> Self {
        let padded_len = offsets.windows(2).map(|row| row[1] - row[0]).max().unwrap_or(0) + 3;
        let (mut query_offsets, mut query_places) = (vec![0], Vec::new());
        for (row_idx, row) in offsets.windows(2).enumerate() {
            let asking = (row[0]..row[1]).filter(|&token| asks(token));
            query_places.extend(asking.map(|token| row_idx * padded_len + token - row[0]));
            query_offsets.push(query_places.len());
        }
        Self { offsets: offsets.to_vec(), query_offsets, query_places, padded_len }
    }

    fn all(offsets: &[usize]) -> Self {
        Self::new(offsets, |_| true)
    }

    fn attention(&self, num_heads: usize, head_size: usize, probability: f32) -> Attention<'_> {
        let dropout = Dropout { key_bits: 99, probability };
        Attention {
            offsets: &self.offsets,
            query_offsets: &self.query_offsets,
            query_places: &self.query_places,
            num_heads,
            head_size,
            padded_len: self.padded_len,
            precision: Precision::F32,
            dropout: (probability > 0.0).then_some(dropout),
        }
    }
}

/// Inputs, and the outputs of both passes. Queries stand before keys and values.
struct Case {
    inputs: Vec<f32>,
    num_queries: usize,
    grad_context: Vec<f32>,
    context: Vec<f32>,
    gradients: Vec<f32>,
}

fn run(attention: Attention<'_>) -> Case {
    let num_queries = attention.query_places.len() * attention.width();
    let num_tokens = *attention.offsets.last().unwrap() * attention.width();
    run_on(attention, values(num_queries + 2 * num_tokens, 1), values(num_queries, 2))
}

fn run_on(attention: Attention<'_>, inputs: Vec<f32>, grad_context: Vec<f32>) -> Case {
    let num_queries = grad_context.len();
    let mut case = Case {
        context: vec![f32::NAN; num_queries],
        gradients: vec![f32::NAN; inputs.len()],
        inputs,
        num_queries,
        grad_context,
    };
    let (queries, keys_values) = case.inputs.split_at(num_queries);
    let inputs = Inputs { queries, keys_values };
    let mut statistics = vec![f32::NAN; attention.query_places.len() * attention.num_heads * 2];
    forward(attention, inputs, &mut case.context, &mut statistics);
    let (queries, keys_values) = case.gradients.split_at_mut(num_queries);
    let gradients = Gradients { queries, keys_values };
    backward(attention, inputs, &statistics, &case.grad_context, gradients);
    case
}

impl Case {
    /// The context by the reference, with one input moved.
    fn expected(&self, attention: Attention<'_>, moved: usize, by: f64) -> Vec<f64> {
        let mut inputs = widened(&self.inputs);
        inputs[moved] += by;
        let (queries, keys_values) = inputs.split_at(self.num_queries);
        reference::forward(attention, queries, keys_values)
    }

    /// The loss is the context weighted by its gradient.
    #[track_caller]
    fn check_gradient(&self, attention: Attention<'_>, moved: usize, by: f64) {
        let loss = |by: f64| -> f64 {
            let context = self.expected(attention, moved, by);
            context.iter().zip(&self.grad_context).map(|(y, w)| y * f64::from(*w)).sum()
        };
        let (got, expected) = (f64::from(self.gradients[moved]), (loss(by) - loss(-by)) / (2.0 * by));
        let size = attention.head_size;
        assert!((got - expected).abs() < 3e-5, "{size} element {moved}: {got}, not {expected}");
    }
}

#[test]
fn forward_agrees_with_the_reference() {
    for (num_heads, head_size) in [(1, 1), (3, 7), (2, 32), (2, 64), (1, 80)] {
        for (probability, precision, tolerance) in
            [(0.0, Precision::F32, 3e-6), (0.25, Precision::F32, 5e-6), (0.25, Precision::Bf16, 4e-2)]
        {
            for rows in [Rows::all(&OFFSETS), Rows::new(&OFFSETS, some)] {
                let attention = Attention { precision, ..rows.attention(num_heads, head_size, probability) };
                let case = run(attention);
                for (i, (got, expected)) in
                    case.context.iter().zip(case.expected(attention, 0, 0.0)).enumerate()
                {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(
                        error < tolerance,
                        "{head_size} {precision:?} element {i}: {got}, not {expected}"
                    );
                }
            }
        }
    }
}

/// Every 13th input is moved.
#[test]
fn backward_agrees_with_central_differences() {
    for (num_heads, head_size) in [(3, 7), (2, 32), (1, 64), (1, 80)] {
        for probability in [0.0, 0.25] {
            for rows in [Rows::all(&OFFSETS), Rows::new(&OFFSETS, some)] {
                let attention = rows.attention(num_heads, head_size, probability);
                let case = run(attention);
                for i in (0..case.inputs.len()).step_by(13) {
                    case.check_gradient(attention, i, 1e-5);
                }
            }
        }
    }
}

/// Those that ask get the same bits as where all ask, and so do keys and values where the others have no gradient.
#[test]
fn bits_do_not_depend_on_which_other_tokens_ask() {
    let (all, some_rows) = (Rows::all(&OFFSETS), Rows::new(&OFFSETS, some));
    for precision in [Precision::F32, Precision::Bf16] {
        let of = |rows| Attention { precision, ..Rows::attention(rows, 2, 32, 0.1) };
        let asked = run(of(&all));
        let (queries, keys_values) = asked.inputs.split_at(asked.num_queries);
        let asking: Vec<usize> = (0..57).filter(|&token| some(token)).collect();
        let pick = |states: &[f32]| -> Vec<f32> {
            asking.iter().flat_map(|token| states[token * 64..][..64].to_vec()).collect()
        };
        let inputs = [&pick(queries)[..], keys_values].concat();
        let case = run_on(of(&some_rows), inputs, pick(&asked.grad_context));
        assert_eq!(case.context, pick(&asked.context), "{precision:?}");
        assert_eq!(case.gradients[..case.num_queries], pick(&asked.gradients[..asked.num_queries]));
    }
}

#[test]
fn keys_that_nobody_asks_have_no_gradient() {
    let rows = Rows::new(&OFFSETS, |token| token < 17);
    let case = run(rows.attention(2, 32, 0.1));
    let of_keys = &case.gradients[case.num_queries..];
    assert!(of_keys[..17 * 128].iter().all(|gradient| *gradient != 0.0));
    assert!(of_keys[17 * 128..].iter().all(|gradient| *gradient == 0.0));
}

#[test]
fn bf16_gradients_stay_near_those_of_f32() {
    let rows = Rows::all(&OFFSETS);
    let exact = rows.attention(2, 64, 0.1);
    let (f32s, bf16s) = (run(exact), run(Attention { precision: Precision::Bf16, ..exact }));
    let largest = f32s.gradients.iter().fold(0.0_f32, |max, g| max.max(g.abs()));
    for (exact, rounded) in f32s.gradients.iter().zip(&bf16s.gradients) {
        assert!((exact - rounded).abs() < 2e-2 * largest, "{rounded}, not {exact}");
    }
}

/// 600 tokens make several blocks of queries.
#[test]
fn long_rows_agree_with_the_reference() {
    for rows in [Rows::all(&[0, 600]), Rows::new(&[0, 600], |token| token % 3 < 2)] {
        let attention = rows.attention(1, 32, 0.1);
        assert!(attention.block_len(attention.jobs()[0]) < 300);
        let case = run(attention);
        for (got, expected) in case.context.iter().zip(case.expected(attention, 0, 0.0)) {
            assert!((f64::from(*got) - expected).abs() < 1e-5, "{got}, not {expected}");
        }
        let queries = [5, 40, 300 * 32 + 1, case.num_queries - 1];
        let keys_values = [0, 33, 64 * 300 + 5, 64 * 300 + 40, 64 * 599, 64 * 599 + 63];
        for i in queries.into_iter().chain(keys_values.map(|i| case.num_queries + i)) {
            case.check_gradient(attention, i, 1e-4);
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for precision in [Precision::F32, Precision::Bf16] {
        let on = |num_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            let rows = Rows::new(&OFFSETS, some);
            pool.install(|| run(Attention { precision, ..rows.attention(3, 32, 0.1) }))
        };
        let single = on(1);
        for num_threads in [2, 3] {
            let several = on(num_threads);
            assert_eq!(several.context, single.context);
            assert_eq!(several.gradients, single.gradients);
        }
    }
}

/// Nothing of a neighbour enters: the last row alone gives the same bits (its dropout is numbered by row, so
/// without dropout).
#[test]
fn a_row_alone_has_the_same_bits() {
    let together = Rows::all(&OFFSETS);
    let all = run(together.attention(2, 32, 0.0));
    let alone = Rows::all(&[0, 4]);
    let (queries, keys_values) = all.inputs.split_at(all.num_queries);
    let inputs = Inputs { queries: &queries[53 * 64..], keys_values: &keys_values[53 * 128..] };
    let (mut context, mut statistics) = (vec![0.0; 4 * 64], vec![0.0; 4 * 2 * 2]);
    forward(alone.attention(2, 32, 0.0), inputs, &mut context, &mut statistics);
    assert_eq!(context, &all.context[53 * 64..]);
}

fn forward_on_zeros(attention: Attention<'_>) {
    let inputs = Inputs { queries: &[0.0; 8], keys_values: &[0.0; 16] };
    forward(attention, inputs, &mut [0.0; 8], &mut [0.0; 8]);
}

#[test]
#[should_panic(expected = "within 3")]
fn a_row_longer_than_its_padding_is_refused() {
    forward_on_zeros(Attention { padded_len: 3, ..Rows::all(&[0, 4]).attention(1, 2, 0.0) });
}

#[test]
#[should_panic(expected = "queries 0 to 4 of attention within row 0")]
fn a_query_behind_its_row_is_refused() {
    forward_on_zeros(Attention { query_places: &[0, 1, 2, 4], ..Rows::all(&[0, 4]).attention(1, 2, 0.0) });
}
