//! Tests of dropout: rates, independence, equal masks in both directions, and golden hashes.

use super::*;
use bert_random::Purpose;
use proptest::prelude::*;

fn dropout(part: u64, probability: f32) -> Dropout {
    Dropout::new(Key::new(42, Purpose::Dropout).with(part), probability)
}

fn num_kept(d: Dropout, indices: std::ops::Range<u64>) -> u64 {
    indices.filter(|i| d.keeps(*i)).count() as u64
}

/// Four standard deviations of the binomial.
#[track_caller]
fn check_rate(num_hits: u64, num_trials: u64, p: f64) {
    let mean = num_trials as f64 * p;
    let deviation = (mean * (1.0 - p)).sqrt();
    assert!((num_hits as f64 - mean).abs() < 4.0 * deviation, "{num_hits} of {num_trials} at {p}");
}

#[test]
fn the_share_of_kept_elements_is_what_was_asked() {
    for (part, p) in [0.001, 0.1, 0.25, 0.5, 0.9].into_iter().enumerate() {
        let d = dropout(part as u64, p);
        check_rate(num_kept(d, 0..1_000_000), 1_000_000, 1.0 - f64::from(p));
        let far = 1_u64 << 40;
        check_rate(num_kept(d, far - 500_000..far + 500_000), 1_000_000, 1.0 - f64::from(p));
    }
}

#[test]
fn nothing_is_dropped_at_zero() {
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let mut out = vec![f32::NAN; 1000];
    forward(dropout(0, 0.0), &x, &mut out);
    assert_eq!(out, x);
}

/// Pairs of neighbours, of elements a row apart, of the same element under two keys, and of the same element in
/// two regions of 2^32 elements are dropped together at the rate p².
#[test]
fn elements_are_dropped_independently() {
    let (d, p) = (dropout(7, 0.3), 0.3_f32);
    let num = 400_000;
    for distance in [1, 2, 64, 128, 768, 1 << 20, 1 << 31, 1 << 32, 3 << 38] {
        let both = (0..num).filter(|i| !d.keeps(*i) && !d.keeps(i + distance)).count() as u64;
        check_rate(both, num, f64::from(p).powi(2));
    }
    for other in
        [dropout(8, p), Dropout { key_bits: d.key_bits ^ 1, ..d }, Dropout { key_bits: d.key_bits + 1, ..d }]
    {
        let both = (0..num).filter(|i| !d.keeps(*i) && !other.keeps(*i)).count() as u64;
        check_rate(both, num, f64::from(p).powi(2));
    }
}

/// Rows and columns of a [512, 768] tensor are hit evenly: no row or column is spared.
#[test]
fn rows_and_columns_are_hit_evenly() {
    let (d, num_rows, num_columns) = (dropout(9, 0.1), 512, 768);
    let dropped = |row: u64, column: u64| u64::from(!d.keeps(row * num_columns + column));
    let deviations = |counts: Vec<u64>, trials: u64| -> f64 {
        let (mean, num) = (trials as f64 * 0.1, counts.len() as f64);
        counts.iter().map(|c| (*c as f64 - mean).powi(2) / (mean * 0.9)).sum::<f64>() / num
    };
    let by_row = (0..num_rows).map(|row| (0..num_columns).map(|column| dropped(row, column)).sum()).collect();
    let by_column =
        (0..num_columns).map(|column| (0..num_rows).map(|row| dropped(row, column)).sum()).collect();
    let (rows, columns) = (deviations(by_row, num_columns), deviations(by_column, num_rows));
    assert!((0.75..1.25).contains(&rows), "variance of rows over the binomial one: {rows}");
    assert!((0.8..1.2).contains(&columns), "variance of columns over the binomial one: {columns}");
}

#[test]
fn parts_make_the_whole_across_threads_and_across_the_32_bit_border() {
    let d = dropout(3, 0.4);
    let len = 5 * PARALLEL_CHUNK_LEN + 17;
    let first = (1_u64 << 32) - 1000;
    let x = vec![1.0; len];
    let mut out = vec![f32::NAN; len];
    forward_at(d, first, &x, &mut out);
    let mut in_place = x.clone();
    apply_in_place(d, first, &mut in_place);
    for (i, value) in out.iter().enumerate() {
        let expected = if d.keeps(first + i as u64) { 1.0 / (1.0 - 0.4_f32) } else { 0.0 };
        assert_eq!((*value, in_place[i]), (expected, expected), "element {i}");
    }
}

#[test]
fn a_dropped_infinity_is_zero() {
    let d = dropout(4, 0.5);
    let mut out = vec![0.0; 64];
    forward(d, &[f32::NAN; 64], &mut out);
    assert!((0..64).all(|i| out[i].is_nan() == d.keeps(i as u64)));
}

#[test]
#[should_panic(expected = "must be in [0, 1), got 1")]
fn probability_one_is_refused() {
    forward(dropout(0, 1.0), &[1.0], &mut [0.0]);
}

/// Origin: `tests/golden.py`, an independent transcription in Python. A changed mask would break the
/// resumption of every run.
#[test]
fn golden_hashes() {
    let hashes = |index: u64| hash(index as u32, region_keys(0x0123_4567_89ab_cdef, index >> 32));
    assert_eq!([0, 1, 768, u64::from(u32::MAX), 1 << 32, (1 << 40) + 5].map(hashes), GOLDEN_HASHES);
}

const GOLDEN_HASHES: [u32; 6] =
    [0x9b45_17f6, 0x2681_63ac, 0xd3a8_547b, 0x3309_df1e, 0x6146_bf3a, 0xf3ee_7e7b];

proptest! {
    #[test]
    fn agrees_with_the_reference_in_both_directions(key_bits: u64, p in 0.0_f32..0.95, len in 0_usize..300) {
        let d = Dropout { key_bits, probability: p };
        let x: Vec<f32> = (0..len).map(|i| i as f32 + 1.0).collect();
        let (mut out, mut expected, mut grad) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
        forward(d, &x, &mut out);
        backward(d, &x, &mut grad);
        reference::forward(d, &x, &mut expected);
        prop_assert_eq!(&out, &grad);
        for (got, expected) in out.iter().zip(&expected) {
            prop_assert!((got - expected).abs() <= 1e-6 * expected.abs(), "{} != {}", got, expected);
        }
    }
}
