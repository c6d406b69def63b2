//! Tests of the sample plan: every sentence is used, documents are independent, counts hold.

use super::*;
use bert_random::Purpose;
use proptest::prelude::*;

fn rules(objective: SentenceObjective) -> PlanRules {
    PlanRules { objective, max_tokens: 125, short_seq_prob: 0.1 }
}

fn plan(lengths: &[u32], rules: &PlanRules, n: u64) -> Vec<Chunk> {
    let mut chunks = vec![];
    let is_whole = Planner::new(rules, Key::new(11, Purpose::SamplePlan)).plan(lengths, n, |chunk| {
        chunks.push(chunk);
        true
    });
    assert!(is_whole);
    chunks
}

fn any_objective() -> impl Strategy<Value = SentenceObjective> {
    prop::sample::select(vec![SentenceObjective::Nsp, SentenceObjective::Sop, SentenceObjective::None])
}

proptest! {
    #[test]
    fn samples_follow_each_other_without_gap(
        lengths in prop::collection::vec(1u32..300, 1..40),
        objective in any_objective(),
        n in 0u64..100,
    ) {
        let num_tokens: u64 = lengths.iter().map(|&l| u64::from(l)).sum();
        let chunks = plan(&lengths, &rules(objective), n);
        let mut position = 0;
        for chunk in &chunks {
            prop_assert_eq!(chunk.first.start, position);
            prop_assert!(chunk.first.start < chunk.first.end);
            prop_assert_eq!(chunk.rest.start, chunk.first.end);
            let has_rest = matches!(chunk.second, Second::Next | Second::Swapped);
            prop_assert_eq!(has_rest, chunk.rest.start < chunk.rest.end);
            position = chunk.rest.end;
        }
        // All of the document is in a sample, but for one token that cannot be cut in two.
        prop_assert!(num_tokens - position < MIN_SAMPLE_TOKENS, "{} of {}", position, num_tokens);
        prop_assert_eq!(chunks.is_empty(), num_tokens < MIN_SAMPLE_TOKENS);
    }

    #[test]
    fn pieces_are_sentences_or_parts_of_long_ones(lengths in prop::collection::vec(1u32..1000, 1..30)) {
        let borders = piece_ends(&lengths, 125);
        let total: u64 = lengths.iter().map(|&l| u64::from(l)).sum();
        prop_assert_eq!(borders[borders.len() - 1], total);
        prop_assert!((1..=125).contains(&borders[0]));
        prop_assert!(borders.windows(2).all(|w| w[0] < w[1] && w[1] - w[0] <= 125));
        let mut end = 0;
        for length in lengths {
            end += u64::from(length);
            prop_assert!(borders.contains(&end));
        }
    }
}

/// By hand: without short samples, sentences of 50 tokens fill a target of 125 three at a time.
#[test]
fn whole_sentences_fill_the_target() {
    let rules = PlanRules { short_seq_prob: 0.0, ..rules(SentenceObjective::None) };
    let ranges: Vec<_> = plan(&[50; 7], &rules, 0).into_iter().map(|chunk| chunk.first).collect();
    assert_eq!(ranges, [0..150, 150..300, 300..350]);
}

#[test]
fn half_of_the_samples_are_negative_even_if_every_document_is_one_sentence() {
    for (name, lengths) in
        [("one sentence", vec![40]), ("two tokens", vec![2]), ("many", vec![20; 30]), ("long", vec![900])]
    {
        let (mut num_negative, mut num_samples) = (0u64, 0u64);
        for n in 0..20_000 {
            for chunk in plan(&lengths, &rules(SentenceObjective::Nsp), n) {
                num_samples += 1;
                num_negative += u64::from(matches!(chunk.second, Second::Random { .. }));
            }
        }
        let share = num_negative as f64 / num_samples as f64;
        // Five standard deviations of a fair coin.
        assert!((share - 0.5).abs() < 2.5 / (num_samples as f64).sqrt(), "{name}: {share} of {num_samples}");
    }
}

#[test]
fn short_targets_are_drawn_per_sample_and_uniform() {
    let rules = PlanRules { short_seq_prob: 0.5, ..rules(SentenceObjective::None) };
    let mut stream = Key::new(3, Purpose::SamplePlan).stream();
    let mut counts = [0u64; 126];
    let num_draws = 200_000;
    (0..num_draws).for_each(|_| counts[target_tokens(&rules, &mut stream) as usize] += 1);
    assert_eq!((counts[0], counts[1]), (0, 0));
    let expected = num_draws as f64 * 0.5 / 124.0;
    for (target, &count) in counts.iter().enumerate().take(125).skip(2) {
        assert!((count as f64 - expected).abs() < 5.0 * expected.sqrt(), "{target}: {count} of {expected}");
    }
    assert!((counts[125] as f64 / num_draws as f64 - 0.5 - 0.5 / 124.0).abs() < 0.01);
}
