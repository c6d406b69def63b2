//! Lengths of units over a million draws: as first drawn they must follow the asked distribution.

use super::choose::{Choice, Chooser, Word, length_weights};
use crate::audit::statistics::chi_square;
use crate::config::*;
use bert_random::{Key, Purpose};

const NUM_UNITS: u64 = 1_000_000;

/// Two segments of words of 1 to 4 tokens.
fn words(n: u64) -> Vec<Word> {
    let mut stream = Key::new(n, Purpose::Debug).stream();
    let mut words = Vec::new();
    let mut start = 1;
    for idx in 0..60 {
        let num_tokens = 1 + stream.weighted(&[0.6, 0.2, 0.15, 0.05]);
        words.push(Word { start, end: start + num_tokens, num_tokens });
        start += num_tokens + usize::from(idx == 29);
    }
    words
}

/// Counts of lengths: as first drawn, and as realised.
fn draw(chooser: &Chooser, num_lengths: usize) -> (Vec<u64>, Vec<u64>) {
    let (mut drawn, mut realised) = (vec![0; num_lengths], vec![0; num_lengths]);
    let mut num_units = 0;
    for n in 0.. {
        let mut choice = Choice { words: words(n % 64), ..Choice::default() };
        let mut units = vec![];
        let key = Key::new(11, Purpose::Mask).with(n);
        chooser.choose(&mut choice, 19, &mut key.stream(), &mut units);
        for unit in units {
            drawn[unit.num_words_drawn - 1] += 1;
            realised[unit.num_words - 1] += 1;
            num_units += 1;
        }
        if num_units >= NUM_UNITS {
            break;
        }
    }
    (drawn, realised)
}

fn mean(counts: impl Iterator<Item = f64>) -> f64 {
    let (sum, weighted) = counts.zip(1..).fold((0.0, 0.0), |(sum, weighted), (count, words)| {
        (sum + count, weighted + count * f64::from(words))
    });
    weighted / sum
}

/// The number of units of a sequence depends on their lengths, but whether another one is drawn is decided before
/// its length is: the counts of all sequences together stay unbiased (Wald), and the test is valid.
fn check(strategy: MaskStrategy, ngram_weights: Vec<f64>) {
    let config =
        MaskingConfig { strategy, ngram_weights, ..crate::testing::config(SentenceObjective::Nsp).masking };
    let weights = length_weights(&config);
    let (drawn, realised) = draw(&Chooser::new(&config), weights.len());
    let (total, sum) = (drawn.iter().sum::<u64>() as f64, weights.iter().sum::<f64>());
    let expected: Vec<f64> = weights.iter().map(|weight| total * weight / sum).collect();
    let test = chi_square(&drawn, &expected);
    assert!(test.p_value > 0.001, "{weights:?}: {test:?}, {drawn:?}");
    // Realised lengths bend towards the short side where the budget ends; never the other way.
    let (asked, got) = (mean(expected.iter().copied()), mean(realised.iter().map(|&count| count as f64)));
    assert!(got <= asked + 0.01 && got > 0.6 * asked, "{weights:?}: asked {asked} words, got {got}");
}

#[test]
fn a_million_lengths_of_albert_follow_its_weights() {
    check(MaskStrategy::Ngram, vec![6.0, 3.0, 2.0]);
}

#[test]
fn a_million_lengths_of_macbert_follow_its_weights() {
    check(MaskStrategy::Ngram, vec![0.4, 0.3, 0.2, 0.1]);
}

#[test]
fn a_million_lengths_of_own_weights_follow_them() {
    check(MaskStrategy::Ngram, vec![0.0, 5.0, 0.0, 1.0, 2.0]);
}

#[test]
fn a_million_lengths_of_spanbert_follow_the_geometric_distribution() {
    check(MaskStrategy::Span, vec![]);
}
