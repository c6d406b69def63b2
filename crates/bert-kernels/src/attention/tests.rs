//! Tests of attention: against the reference, central differences, any number of threads, and rows on their own.

use super::*;

const OFFSETS: [usize; 6] = [0, 17, 17, 18, 53, 57];

fn values(len: usize, part: u64) -> Vec<f32> {
    let mut stream = bert_random::Key::new(3, bert_random::Purpose::Debug).with(part).stream();
    (0..len).map(|_| stream.normal() as f32).collect()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn attention(offsets: &[usize], num_heads: usize, head_size: usize, probability: f32) -> Attention<'_> {
    let dropout = Dropout { key_bits: 99, probability };
    Attention {
        offsets,
        num_heads,
        head_size,
        padded_len: offsets.windows(2).map(|row| row[1] - row[0]).max().unwrap_or(0) + 3,
        precision: Precision::F32,
        dropout: (probability > 0.0).then_some(dropout),
    }
}

/// Inputs, and the outputs of both passes.
struct Case {
    qkv: Vec<f32>,
    grad_context: Vec<f32>,
    context: Vec<f32>,
    grad_qkv: Vec<f32>,
}

fn run(attention: Attention<'_>) -> Case {
    let num_tokens = *attention.offsets.last().unwrap();
    let len = num_tokens * attention.width();
    let mut case = Case {
        qkv: values(3 * len, 1),
        grad_context: values(len, 2),
        context: vec![f32::NAN; len],
        grad_qkv: vec![f32::NAN; 3 * len],
    };
    let mut statistics = vec![f32::NAN; num_tokens * attention.num_heads * 2];
    forward(attention, &case.qkv, &mut case.context, &mut statistics);
    backward(attention, &case.qkv, &statistics, &case.grad_context, &mut case.grad_qkv);
    case
}

#[test]
fn forward_agrees_with_the_reference() {
    for (num_heads, head_size) in [(1, 1), (3, 7), (2, 32), (2, 64), (1, 80)] {
        for (probability, precision, tolerance) in
            [(0.0, Precision::F32, 3e-6), (0.25, Precision::F32, 5e-6), (0.25, Precision::Bf16, 4e-2)]
        {
            let attention = Attention { precision, ..attention(&OFFSETS, num_heads, head_size, probability) };
            let case = run(attention);
            let expected = reference::forward(attention, &widened(&case.qkv));
            for (i, (got, expected)) in case.context.iter().zip(&expected).enumerate() {
                let error = (f64::from(*got) - expected).abs();
                assert!(error < tolerance, "{head_size} {precision:?} element {i}: {got}, not {expected}");
            }
        }
    }
}

/// The loss is the context weighted by its gradient; every 13th input is moved.
#[test]
fn backward_agrees_with_central_differences() {
    for (num_heads, head_size) in [(3, 7), (2, 32), (1, 64), (1, 80)] {
        for probability in [0.0, 0.25] {
            let attention = attention(&OFFSETS, num_heads, head_size, probability);
            let case = run(attention);
            let weights = widened(&case.grad_context);
            let loss = |qkv: &[f64]| -> f64 {
                reference::forward(attention, qkv).iter().zip(&weights).map(|(y, w)| y * w).sum()
            };
            for i in (0..case.qkv.len()).step_by(13) {
                let mut moved = widened(&case.qkv);
                moved[i] += 1e-5;
                let above = loss(&moved);
                moved[i] -= 2e-5;
                let expected = (above - loss(&moved)) / 2e-5;
                let got = f64::from(case.grad_qkv[i]);
                assert!((got - expected).abs() < 3e-5, "{head_size} element {i}: {got}, not {expected}");
            }
        }
    }
}

#[test]
fn bf16_gradients_stay_near_those_of_f32() {
    let exact = attention(&OFFSETS, 2, 64, 0.1);
    let (f32s, bf16s) = (run(exact), run(Attention { precision: Precision::Bf16, ..exact }));
    let largest = f32s.grad_qkv.iter().fold(0.0_f32, |max, g| max.max(g.abs()));
    for (exact, rounded) in f32s.grad_qkv.iter().zip(&bf16s.grad_qkv) {
        assert!((exact - rounded).abs() < 2e-2 * largest, "{rounded}, not {exact}");
    }
}

/// 600 tokens make several blocks of queries.
#[test]
fn long_rows_agree_with_the_reference() {
    let offsets = [0, 600];
    let attention = attention(&offsets, 1, 32, 0.1);
    assert!(attention.block_len(attention.jobs()[0]) < 300);
    let case = run(attention);
    let expected = reference::forward(attention, &widened(&case.qkv));
    for (got, expected) in case.context.iter().zip(&expected) {
        assert!((f64::from(*got) - expected).abs() < 1e-5, "{got}, not {expected}");
    }
    let weights = widened(&case.grad_context);
    for i in [5, 40, 64, 96 * 300 + 33, 96 * 300 + 70, 96 * 599, 96 * 599 + 95] {
        let at = |shift: f64| -> f64 {
            let mut moved = widened(&case.qkv);
            moved[i] += shift;
            reference::forward(attention, &moved).iter().zip(&weights).map(|(y, w)| y * w).sum()
        };
        let (got, expected) = (f64::from(case.grad_qkv[i]), (at(1e-4) - at(-1e-4)) / 2e-4);
        assert!((got - expected).abs() < 3e-5, "element {i}: {got}, not {expected}");
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for precision in [Precision::F32, Precision::Bf16] {
        let on = |num_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            pool.install(|| run(Attention { precision, ..attention(&OFFSETS, 3, 32, 0.1) }))
        };
        let single = on(1);
        for num_threads in [2, 3] {
            let several = on(num_threads);
            assert_eq!(several.context, single.context);
            assert_eq!(several.grad_qkv, single.grad_qkv);
        }
    }
}

/// Nothing of a neighbour enters: the last row alone gives the same bits (its dropout is numbered by row, so
/// without dropout).
#[test]
fn a_row_alone_has_the_same_bits() {
    let together = attention(&OFFSETS, 2, 32, 0.0);
    let all = run(together);
    let alone = attention(&[0, 4], 2, 32, 0.0);
    let qkv = &all.qkv[53 * 192..];
    let (mut context, mut statistics) = (vec![0.0; 4 * 64], vec![0.0; 4 * 2 * 2]);
    forward(alone, qkv, &mut context, &mut statistics);
    assert_eq!(context, &all.context[53 * 64..]);
}

#[test]
#[should_panic(expected = "within 3")]
fn a_row_longer_than_its_padding_is_refused() {
    let attention = Attention { padded_len: 3, ..attention(&[0, 4], 1, 2, 0.0) };
    forward(attention, &[0.0; 24], &mut [0.0; 8], &mut [0.0; 8]);
}
