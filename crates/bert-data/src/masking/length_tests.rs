//! Masks over a million units: lengths as first drawn must follow the asked distribution, shares the asked ones.
//! Prints the table of docs/masking.md.

#![allow(clippy::print_stdout, reason = "the figures are documented")]

use super::choose::{length_weights, ngram_preset};
use super::*;
use crate::audit::statistics::chi_square;
use crate::config::*;
use bert_random::Purpose;

const NUM_UNITS: u64 = 1_000_000;
const SPECIAL: SpecialIds = SpecialIds { pad: 0, unk: 1, cls: 2, sep: 3, mask: 4 };
const VOCAB_SIZE: u64 = 1000;
/// Words of 1 to 4 tokens, as a segmenter leaves them; and single characters.
const WORDS: &[f64] = &[0.6, 0.2, 0.15, 0.05];
const CHARACTERS: &[f64] = &[1.0];

/// What a million units have come to.
struct Figures {
    /// Units by length in words: as first drawn, and as realised.
    drawn: Vec<u64>,
    realised: Vec<u64>,
    num_tokens: u64,
    num_budget: u64,
    kinds: [u64; 3],
}

/// `[CLS] A [SEP] B [SEP]` of 128 tokens, with words of random lengths.
fn sequence(n: u64, word_lengths: &[f64]) -> (Vec<u32>, Vec<bool>) {
    let mut stream = Key::new(n, Purpose::Debug).stream();
    let (mut tokens, mut starts) = (vec![SPECIAL.cls], vec![true]);
    let mut word_left = 0;
    for position in 1..128 {
        let is_sep = position == 60 || position == 127;
        tokens.push(if is_sep { SPECIAL.sep } else { 5 + stream.below(VOCAB_SIZE - 5) as u32 });
        starts.push(is_sep || word_left == 0);
        word_left = match word_left {
            _ if is_sep => 0,
            0 => stream.weighted(word_lengths),
            left => left - 1,
        };
    }
    (tokens, starts)
}

fn measure(config: &MaskingConfig, word_lengths: &[f64]) -> Figures {
    let masker = Masker::new(config, SPECIAL, &[0, 1, 2, 3, 4], VOCAB_SIZE as usize).unwrap();
    let sequences: Vec<_> = (0..64).map(|n| sequence(n, word_lengths)).collect();
    let num_lengths = length_weights(config).len();
    let mut figures = Figures {
        drawn: vec![0; num_lengths],
        realised: vec![0; num_lengths],
        num_tokens: 0,
        num_budget: 0,
        kinds: [0; 3],
    };
    let mut n = 0;
    while figures.realised.iter().sum::<u64>() < NUM_UNITS {
        let (tokens, starts) = &sequences[n % 64];
        let masked = masker.mask(tokens, starts, Key::new(11, Purpose::Mask).with(n as u64));
        for unit in &masked.units {
            figures.drawn[unit.num_words_drawn - 1] += 1;
            figures.realised[unit.num_words - 1] += 1;
        }
        for &replacement in &masked.replacements {
            figures.kinds[replacement as usize] += 1;
        }
        figures.num_tokens += tokens.len() as u64;
        figures.num_budget += masker.budget(tokens.len()) as u64;
        n += 1;
    }
    figures
}

fn shares(counts: &[u64]) -> Vec<f64> {
    let sum = counts.iter().sum::<u64>().max(1) as f64;
    counts.iter().map(|&count| count as f64 / sum).collect()
}

fn mean(shares: &[f64]) -> f64 {
    shares.iter().zip(1..).map(|(share, words)| share * f64::from(words)).sum()
}

/// The number of units of a sequence depends on their lengths, but whether another one is drawn is decided before
/// its length is: the counts of all sequences together stay unbiased (Wald), and the test is valid. Returns the
/// p-value of the realised lengths.
fn check(name: &str, strategy: MaskStrategy, ngram_weights: Vec<f64>, word_lengths: &[f64]) -> f64 {
    let config = MaskingConfig {
        strategy,
        ngram_weights,
        max_predictions_per_seq: 80,
        ..crate::testing::config(SentenceObjective::Nsp).masking
    };
    let weights = length_weights(&config);
    let sum: f64 = weights.iter().sum();
    let asked: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    let figures = measure(&config, word_lengths);
    let total = figures.drawn.iter().sum::<u64>() as f64;
    let expected: Vec<f64> = asked.iter().map(|share| share * total).collect();
    let (drawn, realised) = (chi_square(&figures.drawn, &expected), chi_square(&figures.realised, &expected));
    let num_masked = figures.kinds.iter().sum::<u64>() as f64;
    let mask_share = num_masked / figures.num_tokens as f64;
    let (kinds, realised_shares) = (shares(&figures.kinds), shares(&figures.realised));
    println!(
        "{name}: masked {:.3} %, kinds {kinds:.4?}, asked {asked:.3?}, realised {realised_shares:.3?}, p drawn {:.3}, \
         p realised {:.3}",
        100.0 * mask_share,
        drawn.p_value,
        realised.p_value
    );
    assert!(drawn.p_value > 0.001, "{name}: {drawn:?}, {:?}", figures.drawn);
    for (got, asked) in kinds.iter().zip([0.8, 0.1, 0.1]) {
        assert!((got - asked).abs() < 0.01, "{name}: {kinds:?}");
    }
    let budget_share = figures.num_budget as f64 / figures.num_tokens as f64;
    assert!((mask_share - budget_share).abs() < 0.002, "{name}: {mask_share} of {budget_share}");
    // Realised lengths bend towards the short side where the budget ends; never the other way.
    let (asked, got) = (mean(&asked), mean(&realised_shares));
    assert!(got <= asked + 0.01 && got > 0.6 * asked, "{name}: asked {asked} words, got {got}");
    realised.p_value
}

#[test]
fn a_million_lengths_of_albert_follow_its_weights() {
    check("albert", MaskStrategy::Ngram, ngram_preset("albert").unwrap(), WORDS);
}

#[test]
fn a_million_lengths_of_macbert_follow_its_weights() {
    check("macbert", MaskStrategy::Ngram, ngram_preset("macbert").unwrap(), WORDS);
}

#[test]
fn a_million_lengths_of_spanbert_follow_the_geometric_distribution() {
    check("span", MaskStrategy::Span, vec![], WORDS);
}

#[test]
fn single_tokens_and_whole_words_have_the_asked_shares() {
    check("token", MaskStrategy::Token, vec![], WORDS);
    check("whole_word", MaskStrategy::WholeWord, vec![], WORDS);
}

/// No single words: the budget is filled all the same, and the lengths are those asked for in the end too.
#[test]
fn a_million_lengths_without_single_words_follow_their_weights_to_the_end() {
    for (weights, word_lengths) in [
        (vec![0.0, 3.0, 1.0], WORDS),
        (vec![0.0, 3.0, 1.0], CHARACTERS),
        (vec![0.0, 5.0, 0.0, 1.0, 2.0], WORDS),
    ] {
        let name = format!("{weights:?} of words of {} lengths", word_lengths.len());
        let p_value = check(&name, MaskStrategy::Ngram, weights, word_lengths);
        assert!(p_value > 0.001, "{name}: {p_value}");
    }
}

/// Lengths win over the share: three tokens are not filled with units of two words of a token each.
#[test]
fn a_length_that_was_not_asked_for_is_never_chosen() {
    let config = MaskingConfig {
        strategy: MaskStrategy::Ngram,
        ngram_weights: vec![0.0, 1.0],
        mlm_probability: 3.0 / 128.0,
        ..crate::testing::config(SentenceObjective::Nsp).masking
    };
    let masker = Masker::new(&config, SPECIAL, &[0, 1, 2, 3, 4], VOCAB_SIZE as usize).unwrap();
    let (tokens, starts) = sequence(0, CHARACTERS);
    assert_eq!(masker.budget(tokens.len()), 3);
    for n in 0..100 {
        let masked = masker.mask(&tokens, &starts, Key::new(11, Purpose::Mask).with(n));
        assert_eq!(masked.units.iter().map(|unit| unit.num_words).collect::<Vec<_>>(), [2]);
    }
}
