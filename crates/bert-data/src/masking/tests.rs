//! Tests of masking: budgets, units, borders, shares and realised lengths.

use super::*;
use crate::config::{MaskMode, MaskStrategy, ReplaceShares};
use bert_random::Purpose;
use proptest::prelude::*;

const VOCAB_SIZE: usize = 1000;
const SPECIAL: SpecialIds = SpecialIds { pad: 0, unk: 1, cls: 2, sep: 3, mask: 4 };

fn config(strategy: MaskStrategy) -> MaskingConfig {
    MaskingConfig {
        strategy,
        mlm_probability: 0.15,
        max_predictions_per_seq: 80,
        ngram_weights: vec![0.4, 0.3, 0.2, 0.1],
        replace: ReplaceShares { mask: 0.8, random: 0.1, keep: 0.1 },
        unit: ReplaceUnit::Token,
        mode: MaskMode::Dynamic,
    }
}

fn masker(config: &MaskingConfig) -> Masker {
    // 17 stands for another special token, as a tokenizer.json may add.
    Masker::new(config, SPECIAL, &[0, 1, 2, 3, 4, 17], VOCAB_SIZE).unwrap()
}

fn key(n: u64) -> Key {
    Key::new(5, Purpose::Mask).with(n)
}

/// `[CLS] A [SEP] B [SEP]` with words of random lengths.
fn sequence() -> impl Strategy<Value = (Vec<u32>, Vec<bool>)> {
    let token = prop_oneof![18 => 5u32..VOCAB_SIZE as u32, 1 => Just(SPECIAL.unk), 1 => Just(17u32)];
    let segment = || prop::collection::vec((token.clone(), prop::bool::weighted(0.6)), 1..90);
    (segment(), segment()).prop_map(|(a, b)| {
        let special = |id: u32| (id, true);
        let mut all = vec![special(SPECIAL.cls)];
        all.extend(a);
        all.push(special(SPECIAL.sep));
        all.extend(b);
        all.push(special(SPECIAL.sep));
        all.into_iter().unzip()
    })
}

fn any_config() -> impl Strategy<Value = MaskingConfig> {
    let strategy = prop::sample::select(vec![
        MaskStrategy::Token,
        MaskStrategy::WholeWord,
        MaskStrategy::Ngram,
        MaskStrategy::Span,
    ]);
    let unit = prop::sample::select(vec![ReplaceUnit::Token, ReplaceUnit::Span]);
    let weights = prop::sample::select(vec![vec![6.0, 3.0, 2.0], vec![0.0, 3.0, 1.0], vec![0.0, 0.0, 1.0]]);
    (strategy, unit, 0.01f64..0.9, 1usize..60, weights).prop_map(
        |(strategy, unit, mlm_probability, max, ngram_weights)| MaskingConfig {
            unit,
            mlm_probability,
            max_predictions_per_seq: max,
            ngram_weights,
            ..config(strategy)
        },
    )
}

proptest! {
    #[test]
    fn every_rule_holds_for_every_strategy((tokens, starts) in sequence(), config in any_config(), n in 0u64..1000) {
        let masker = masker(&config);
        let masked = masker.mask(&tokens, &starts, key(n));
        prop_assert!(masked.positions.len() <= masker.budget(tokens.len()));
        prop_assert!(masked.positions.is_sorted_by(|a, b| a < b));
        let num_maskable = tokens.iter().filter(|&&t| t > 4 && t != 17).count();
        if config.strategy == MaskStrategy::Token {
            prop_assert_eq!(masked.positions.len(), masker.budget(tokens.len()).min(num_maskable));
        }
        for (idx, &position) in masked.positions.iter().enumerate() {
            let position = position as usize;
            let (before, after) = (tokens[position], masked.input_ids[position]);
            prop_assert_eq!(masked.labels[idx], before);
            prop_assert!(before > 4 && before != 17, "special {} chosen", before);
            match masked.replacements[idx] {
                Replacement::Mask => prop_assert_eq!(after, SPECIAL.mask),
                Replacement::Keep => prop_assert_eq!(after, before),
                Replacement::Random => prop_assert!(after > 4 && after != 17 && (after as usize) < VOCAB_SIZE),
            }
        }
        let chosen: Vec<usize> = masked.positions.iter().map(|&p| p as usize).collect();
        for (position, (before, after)) in tokens.iter().zip(&masked.input_ids).enumerate() {
            prop_assert!(chosen.contains(&position) || before == after);
        }
        let mut covered = vec![];
        let mut end = 0;
        for unit in &masked.units {
            prop_assert!(unit.start >= end, "units overlap");
            end = unit.end;
            prop_assert!(unit.num_words >= 1 && unit.num_words <= unit.num_words_drawn);
            if config.strategy == MaskStrategy::Ngram {
                prop_assert!(config.ngram_weights[unit.num_words - 1] > 0.0, "a length nobody asked for");
            }
            covered.extend((unit.start..unit.end).filter(|&p| tokens[p] != SPECIAL.unk));
            let is_plain = |token: &u32| *token == SPECIAL.unk || (*token > 4 && *token != 17);
            prop_assert!(tokens[unit.start..unit.end].iter().all(is_plain));
            if config.strategy != MaskStrategy::Token {
                let is_border = |p: usize| (tokens[p] <= 4 && tokens[p] != SPECIAL.unk) || tokens[p] == 17;
                prop_assert!(starts[unit.start] || is_border(unit.start - 1), "a word's head is cut");
                prop_assert!(starts[unit.end] || is_border(unit.end), "a word's tail is cut");
            }
            if config.unit == ReplaceUnit::Span {
                let inside: Vec<_> = masked.positions.iter().zip(&masked.replacements)
                    .filter(|(p, _)| (unit.start..unit.end).contains(&(**p as usize))).map(|(_, r)| *r).collect();
                prop_assert!(inside.windows(2).all(|w| w[0] == w[1]), "{:?}", inside);
            }
        }
        prop_assert_eq!(covered, chosen);
        prop_assert_eq!(masker.mask(&tokens, &starts, key(n)), masked);
    }
}

/// google-research/bert rounds with Python 3: half to even. len -> masks at 0.15: 10 -> 2, 30 -> 4, 50 -> 8,
/// 70 -> 10, 128 -> 19, 512 -> 77.
#[test]
fn budgets_are_those_of_google() {
    let masker = masker(&config(MaskStrategy::Token));
    for (len, expected) in [(1, 1), (10, 2), (30, 4), (50, 8), (70, 10), (128, 19), (512, 77)] {
        assert_eq!(masker.budget(len), expected, "{len}");
    }
    let capped = MaskingConfig { max_predictions_per_seq: 20, ..config(MaskStrategy::Token) };
    assert_eq!(super::tests::masker(&capped).budget(512), 20);
}

fn long_sequence(seed: u64) -> (Vec<u32>, Vec<bool>) {
    let mut stream = Key::new(seed, Purpose::Debug).stream();
    let mut tokens = vec![SPECIAL.cls];
    let mut starts = vec![true];
    for position in 1..128 {
        let is_sep = position == 60 || position == 127;
        tokens.push(if is_sep { SPECIAL.sep } else { 18 + stream.below(VOCAB_SIZE as u64 - 18) as u32 });
        starts.push(is_sep || stream.chance(0.7));
    }
    (tokens, starts)
}

/// Whether `got` of `total` is within five standard deviations of the share `p`.
#[track_caller]
fn check_share(got: u64, total: u64, p: f64, what: &str) {
    let bound = 5.0 * (p * (1.0 - p) / total as f64).sqrt();
    let share = got as f64 / total as f64;
    assert!((share - p).abs() <= bound, "{what}: {share} for {p}, bound {bound}");
}

#[test]
fn replacements_and_positions_have_the_asked_shares() {
    let masker = masker(&config(MaskStrategy::Token));
    let num_sequences = 4000;
    let mut kinds = [0u64; 3];
    let mut at_position = [0u64; 128];
    let mut random_tokens = vec![0u64; VOCAB_SIZE];
    for n in 0..num_sequences {
        let (tokens, starts) = long_sequence(n);
        let masked = masker.mask(&tokens, &starts, key(n));
        assert_eq!(masked.positions.len(), 19);
        for (&position, &replacement) in masked.positions.iter().zip(&masked.replacements) {
            kinds[replacement as usize] += 1;
            at_position[position as usize] += 1;
            if replacement == Replacement::Random {
                random_tokens[masked.input_ids[position as usize] as usize] += 1;
            }
        }
    }
    let total: u64 = kinds.iter().sum();
    for (kind, p) in [0.8, 0.1, 0.1].into_iter().enumerate() {
        check_share(kinds[kind], total, p, "replacement");
    }
    for (position, &got) in at_position.iter().enumerate() {
        let is_special = [0, 60, 127].contains(&position);
        check_share(got, num_sequences, if is_special { 0.0 } else { 19.0 / 125.0 }, "position");
    }
    let num_random = random_tokens.iter().sum();
    let plain = |id: &usize| *id > 4 && *id != 17;
    for id in (0..VOCAB_SIZE).filter(plain) {
        check_share(random_tokens[id], num_random, 1.0 / 994.0, "random token");
    }
}

#[test]
fn first_drawn_lengths_follow_the_weights_and_the_budget_is_nearly_filled() {
    for (strategy, weights) in
        [(MaskStrategy::Ngram, vec![6.0, 3.0, 2.0]), (MaskStrategy::Span, span_weights())]
    {
        let config = MaskingConfig { ngram_weights: vec![6.0, 3.0, 2.0], ..config(strategy) };
        let masker = masker(&config);
        let (mut first, mut num_masked) = (vec![0u64; weights.len()], 0);
        let num_sequences = 4000;
        for n in 0..num_sequences {
            let (tokens, starts) = long_sequence(n);
            let (mut choice, mut units) = (Choice::default(), vec![]);
            masker.chooser.words(&tokens, &starts, &masker.is_special, SPECIAL.unk, &mut choice.words);
            // The first unit of a sequence is the only one whose length nothing else has bent.
            masker.chooser.choose(&mut choice, 77, &mut key(n).stream(), &mut units);
            first[units[0].num_words - 1] += 1;
            num_masked += masker.mask(&tokens, &starts, key(n)).positions.len() as u64;
        }
        let sum: f64 = weights.iter().sum();
        for (idx, weight) in weights.iter().enumerate() {
            check_share(first[idx], num_sequences, weight / sum, "length");
        }
        assert!(num_masked * 100 >= num_sequences * 19 * 98, "{strategy:?}: {num_masked}");
    }
}

/// Geometric(0.2) truncated at 10 and renormalised, to three digits, as SpanBERT states it in its section 3.1
/// figure.
#[test]
fn span_weights_are_those_of_spanbert() {
    let expected = [0.224, 0.179, 0.143, 0.115, 0.092, 0.073, 0.059, 0.047, 0.038, 0.030];
    for (got, expected) in span_weights().into_iter().zip(expected) {
        assert!((got - expected).abs() < 0.0006, "{got} {expected}");
    }
}

#[test]
fn a_word_longer_than_the_budget_is_skipped_and_unknown_tokens_sit_out() {
    let masker = masker(&config(MaskStrategy::WholeWord));
    let tokens = [2, 20, 21, 22, 23, 3];
    let one_word = [true, true, false, false, false, true];
    assert_eq!(
        masker.mask(&tokens, &one_word, key(0)),
        Masked { input_ids: tokens.to_vec(), ..Masked::default() }
    );
    let tokens = [2, 20, SPECIAL.unk, 22, SPECIAL.unk, 3];
    let starts = [true, true, false, false, true, true];
    let wide = MaskingConfig { mlm_probability: 0.5, ..config(MaskStrategy::WholeWord) };
    let masked = super::tests::masker(&wide).mask(&tokens, &starts, key(0));
    assert_eq!(masked.positions, [1, 3]);
    assert_eq!(masked.units, [MaskedUnit { start: 1, end: 4, num_words: 1, num_words_drawn: 1 }]);
}

#[test]
fn settings_out_of_range_are_named() {
    let bad = [
        (MaskingConfig { mlm_probability: 0.0, ..config(MaskStrategy::Token) }, "mlm_probability"),
        (
            MaskingConfig { max_predictions_per_seq: 0, ..config(MaskStrategy::Token) },
            "max_predictions_per_seq",
        ),
        (MaskingConfig { ngram_weights: vec![], ..config(MaskStrategy::Ngram) }, "ngram_weights"),
        (MaskingConfig { ngram_weights: vec![1.0, -0.5], ..config(MaskStrategy::Ngram) }, "ngram_weights"),
        (MaskingConfig { mode: MaskMode::Static { num_copies: 0 }, ..config(MaskStrategy::Token) }, "mode"),
    ];
    for (config, name) in bad {
        let error = config.validate().unwrap_err();
        assert!(matches!(&error, DataError::Config { setting, .. } if *setting == name), "{error}");
    }
    let mut shares = config(MaskStrategy::Token);
    shares.replace.keep = 0.2;
    assert!(shares.validate().is_err());
}
