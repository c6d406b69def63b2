//! Tests of the streams: distributions, edges, and the golden values that pin the numbers.

use crate::{Key, Purpose, Stream};
use proptest::prelude::*;

fn stream(part: u64) -> Stream {
    Key::new(42, Purpose::Debug).with(part).stream()
}

/// Returns the chi-square statistic of `counts` against the `expected` shares.
fn chi_square(counts: &[u64], expected: &[f64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let term = |(count, share): (&u64, &f64)| (*count as f64 - share * total).powi(2) / (share * total);
    counts.iter().zip(expected).map(term).sum()
}

#[test]
fn below_is_uniform_for_ranges_that_do_not_divide_two_to_the_64() {
    for n in [2, 3, 6, 7, 10, 97] {
        let mut stream = stream(n);
        let mut counts = vec![0; n as usize];
        for _ in 0..100_000 {
            counts[stream.below(n) as usize] += 1;
        }
        let statistic = chi_square(&counts, &vec![1.0 / n as f64; n as usize]);
        let degrees = n as f64 - 1.0;
        assert!(statistic < degrees + 5.0 * (2.0 * degrees).sqrt(), "n = {n}: chi-square {statistic}");
    }
}

/// With n = 3 * 2^62 a quarter of all draws must be thrown away; keeping them would give every third result
/// twice the weight.
#[test]
fn below_rejects_what_would_be_biased() {
    let n = 3 << 62;
    let mut stream = stream(0);
    let mut residues = [0; 3];
    for _ in 0..60_000 {
        residues[(stream.below(n) % 3) as usize] += 1;
    }
    let statistic = chi_square(&residues, &[1.0 / 3.0; 3]);
    assert!(statistic < 13.8, "chi-square with 2 degrees of freedom: {statistic}"); // p = 0.001
}

/// The words are those of blocks 0, 1, 2, ..; also behind 2^32 blocks.
#[test]
fn words_are_those_of_the_blocks_in_order() {
    use crate::key::Domain;
    let key = Key::new(42, Purpose::Debug).with(3);
    let words = |blocks: std::ops::Range<u64>| -> Vec<u32> {
        blocks.flat_map(|counter| key.block(Domain::Stream, counter)).collect()
    };
    let mut stream = key.stream();
    let got: Vec<u32> = (0..400).map(|_| stream.next_u32()).collect();
    assert_eq!(got, words(0..100));
    let mut stream = key.stream();
    stream.next_block = (1 << 32) - 6;
    let got: Vec<u32> = (0..60).map(|_| stream.next_u32()).collect();
    assert_eq!(got, words((1 << 32) - 6..(1 << 32) + 9));
}

/// Pairs of words may begin anywhere, also in the last word computed.
#[test]
fn numbers_of_64_bits_take_the_next_two_words() {
    for num_before in 0..40 {
        let (mut words, mut numbers) = (stream(9), stream(9));
        for _ in 0..num_before {
            assert_eq!(words.next_u32(), numbers.next_u32());
        }
        for _ in 0..20 {
            let low = u64::from(words.next_u32());
            assert_eq!(numbers.next_u64(), u64::from(words.next_u32()) << 32 | low);
        }
    }
}

#[test]
fn truncated_normals_are_those_of_single_calls() {
    for (limit_sd, num_before) in [(0.3, 0), (2.0, 0), (2.0, 3), (40.0, 1)] {
        for count in [0, 1, 7, 8, 244, 257, 1000] {
            let (mut single, mut many) = (stream(11), stream(11));
            for _ in 0..num_before {
                assert_eq!(single.next_u32(), many.next_u32());
            }
            let mut got = Vec::new();
            many.truncated_normals(limit_sd, count, |deviate| got.push(deviate.to_bits()));
            let expected = (0..count).map(|_| single.truncated_normal(limit_sd).to_bits());
            assert_eq!(got, expected.collect::<Vec<u64>>(), "limit {limit_sd}, {count} behind {num_before}");
        }
    }
}

#[test]
#[should_panic(expected = "needs n > 0")]
fn below_zero_is_refused() {
    stream(0).below(0);
}

#[test]
fn chance_keeps_its_promise_at_the_edges_and_in_between() {
    let mut stream = stream(1);
    assert!((0..1000).all(|_| !stream.chance(0.0)));
    assert!((0..1000).all(|_| stream.chance(1.0)));
    let num_hits = (0..100_000).filter(|_| stream.chance(0.15)).count() as f64;
    assert!((num_hits / 100_000.0 - 0.15).abs() < 0.005, "{num_hits} of 100,000 at 0.15");
}

#[test]
fn weighted_follows_the_weights_and_never_takes_a_zero() {
    let weights = [0.4, 0.0, 0.3, 0.2, 0.1, 0.0];
    let mut counts = [0; 6];
    let mut stream = stream(2);
    for _ in 0..100_000 {
        counts[stream.weighted(&weights)] += 1;
    }
    assert_eq!((counts[1], counts[5]), (0, 0));
    let positive = |values: &[u64]| [values[0], values[2], values[3], values[4]];
    let statistic = chi_square(&positive(&counts), &[0.4, 0.3, 0.2, 0.1]);
    assert!(statistic < 16.3, "chi-square with 3 degrees of freedom: {statistic}"); // p = 0.001
}

#[test]
#[should_panic(expected = "positive weight")]
fn weights_that_are_all_zero_are_refused() {
    stream(0).weighted(&[0.0, 0.0]);
}

#[test]
fn shuffle_draws_all_orders_of_four_equally() {
    let mut counts = std::collections::BTreeMap::new();
    let mut stream = stream(3);
    for _ in 0..48_000 {
        let mut items = [0, 1, 2, 3];
        stream.shuffle(&mut items);
        *counts.entry(items).or_insert(0_u64) += 1;
    }
    assert_eq!(counts.len(), 24);
    let statistic = chi_square(&counts.into_values().collect::<Vec<_>>(), &[1.0 / 24.0; 24]);
    assert!(statistic < 49.7, "chi-square with 23 degrees of freedom: {statistic}"); // p = 0.001
}

#[test]
fn normal_has_the_moments_of_a_standard_normal() {
    let mut stream = stream(4);
    let draws: Vec<f64> = (0..200_000).map(|_| stream.normal()).collect();
    let moment = |power| draws.iter().map(|x: &f64| x.powi(power)).sum::<f64>() / draws.len() as f64;
    assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
    assert!((moment(2) - 1.0).abs() < 0.015, "variance {}", moment(2));
    assert!((moment(4) - 3.0).abs() < 0.12, "fourth moment {}", moment(4));
}

/// Origin of the variance: 1 - 2 a phi(a) / (2 Phi(a) - 1) at a = 2, that is 0.773741.
#[test]
fn truncated_normal_stays_inside_and_has_the_smaller_variance() {
    let mut stream = stream(5);
    let draws: Vec<f64> = (0..200_000).map(|_| stream.truncated_normal(2.0)).collect();
    assert!(draws.iter().all(|x| x.abs() <= 2.0));
    let variance = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
    assert!((variance - 0.773_741).abs() < 0.01, "variance {variance}");
}

/// Origin: `tests/golden.py`, an independent transcription in Python. A change here breaks the resumption of
/// every run.
#[test]
fn golden_numbers() {
    let key = Key::new(42, Purpose::Mask).with(3);
    let mut words = key.stream();
    let first: Vec<u32> = (0..6).map(|_| words.next_u32()).collect();
    assert_eq!(first, GOLDEN_WORDS);
    let mut stream = key.stream();
    let below: Vec<u64> = (0..6).map(|_| stream.below(30_522)).collect();
    assert_eq!(below, GOLDEN_BELOW);
    assert_eq!(stream.unit_f64(), GOLDEN_UNIT);
    let normal: Vec<f64> = (0..4).map(|_| stream.normal()).collect();
    assert_eq!(normal, GOLDEN_NORMAL);
    let mut items: Vec<u32> = (0..8).collect();
    stream.shuffle(&mut items);
    assert_eq!(items, GOLDEN_SHUFFLE);
}

const GOLDEN_WORDS: [u32; 6] = [0x0df0_951b, 0xb228_cdde, 0x0dc4_622c, 0x592a_47d0, 0x100c_4709, 0xb56e_b680];
const GOLDEN_BELOW: [u64; 6] = [21241, 10630, 21631, 48, 9681, 5227];
const GOLDEN_UNIT: f64 = 0.43718679916479086;
const GOLDEN_NORMAL: [f64; 4] =
    [0.5269353989300967, 0.34456008848537045, 0.24290977529510255, -0.799191085039688];
const GOLDEN_SHUFFLE: [u32; 8] = [4, 5, 0, 6, 2, 7, 3, 1];

proptest! {
    #[test]
    fn results_stay_in_their_ranges(seed: u64, n in 1..=u64::MAX) {
        let mut stream = Key::new(seed, Purpose::Pair).stream();
        prop_assert!(stream.below(n) < n);
        let (x, y) = (stream.unit_f64(), stream.unit_f32());
        prop_assert!((0.0..1.0).contains(&x) && (0.0..1.0).contains(&y));
        prop_assert!(stream.normal().is_finite());
    }

    #[test]
    fn a_stream_is_a_pure_function_of_its_key(seed: u64, part: u64) {
        let key = Key::new(seed, Purpose::Pair).with(part);
        let mut shuffled: Vec<u64> = (0..50).collect();
        key.stream().shuffle(&mut shuffled);
        let mut again: Vec<u64> = (0..50).collect();
        key.stream().shuffle(&mut again);
        prop_assert_eq!(&shuffled, &again);
        again.sort_unstable();
        prop_assert_eq!(again, (0..50).collect::<Vec<u64>>());
    }
}
