//! Filling a budget when no single word may be chosen (`ngram_weights = [0, 3, 1]`).
//!
//! Drawing lengths until nothing fits would leave a token or two over in most sequences, and skipping what does
//! not fit would favour short units. Here every sequence is filled to the last token that asked lengths can fill,
//! and lengths are weighted such that, over all ways to fill it, they come out in the asked proportion. Never
//! chooses a length that was not asked for: where none fills the budget, tokens stay over.

use super::MaskedUnit;
use super::choose::{Place, Word, find_places};
use bert_random::Stream;

/// Distance of the expected shares of lengths from the asked ones, small beside what a million units can show.
const TOLERANCE: f64 = 1e-4;
/// Rounds of balancing; budgets of a few tokens cannot hold the asked shares and use them up.
const MAX_ROUNDS: usize = 40;
/// Largest change of a weight in a round.
const MAX_STEP: f64 = 1.25;

/// Ways to fill a budget with units, as a chain over the tokens left.
struct Filling {
    /// Asked share of units of 1, 2, .. words.
    asked: Vec<f64>,
    /// Share of the places of 1, 2, .. words that mask 0, 1, .. tokens.
    sizes: Vec<Vec<f64>>,
    /// Balanced weight of 1, 2, .. words.
    weights: Vec<f64>,
    /// Weight of all ways to fill 0, 1, .. tokens exactly.
    ways: Vec<f64>,
}

/// Chooses units of lengths with a weight that together mask `budget` tokens, or as many as such units can.
pub(super) fn choose_exactly(
    weights: &[f64],
    words: &[Word],
    budget: usize,
    stream: &mut Stream,
) -> Vec<MaskedUnit> {
    let mut is_free = vec![true; words.len()];
    let mut places = Vec::with_capacity(words.len());
    let mut filling = Filling::new(weights, words, budget, &mut places);
    let mut left = filling.largest_fillable();
    filling.balance(left);
    let mut units = Vec::new();
    while left > 0 {
        let Some((num_words, place)) = filling.draw(words, &is_free, left, &mut places, stream) else {
            break;
        };
        let behind = place.first_word + num_words;
        is_free[place.first_word..behind].fill(false);
        left -= place.num_tokens;
        let (start, end) = (words[place.first_word].start, words[behind - 1].end);
        units.push(MaskedUnit { start, end, num_words, num_words_drawn: num_words });
    }
    units
}

impl Filling {
    fn new(weights: &[f64], words: &[Word], budget: usize, places: &mut Vec<Place>) -> Self {
        let sum: f64 = weights.iter().sum();
        let asked: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let is_free = vec![true; words.len()];
        let mut sizes = vec![vec![0.0; budget + 1]; weights.len()];
        for (idx, sizes) in sizes.iter_mut().enumerate().filter(|(idx, _)| asked[*idx] > 0.0) {
            find_places(words, &is_free, idx + 1, budget, places);
            for place in places.iter() {
                sizes[place.num_tokens] += 1.0 / places.len() as f64;
            }
        }
        let mut filling = Self { weights: asked.clone(), asked, sizes, ways: vec![0.0; budget + 1] };
        filling.count_ways();
        filling
    }

    /// The most tokens that units of the asked lengths can mask together.
    fn largest_fillable(&self) -> usize {
        self.ways.iter().rposition(|&ways| ways > 0.0).unwrap_or(0)
    }

    fn count_ways(&mut self) {
        self.ways[0] = 1.0;
        for left in 1..self.ways.len() {
            self.ways[left] = (0..self.weights.len()).map(|idx| self.ways_with(idx, left)).sum();
        }
    }

    /// Weight of all ways to fill `left` tokens that begin with a unit of `idx + 1` words.
    fn ways_with(&self, idx: usize, left: usize) -> f64 {
        let sizes = &self.sizes[idx][1..=left];
        let ways: f64 =
            sizes.iter().zip(self.ways[..left].iter().rev()).map(|(size, ways)| size * ways).sum();
        self.weights[idx] * ways
    }

    /// Changes the weights until the expected shares of the lengths in a filling of `budget` tokens are those
    /// asked for, as in iterative proportional fitting.
    fn balance(&mut self, budget: usize) {
        for _ in 0..MAX_ROUNDS {
            let expected = self.expected_shares(budget);
            let is_near = |(asked, expected): (&f64, &f64)| (asked - expected).abs() < TOLERANCE;
            if self.asked.iter().zip(&expected).all(is_near) {
                break;
            }
            for (weight, (asked, expected)) in self.weights.iter_mut().zip(self.asked.iter().zip(&expected)) {
                if *expected > 0.0 {
                    *weight *= (asked / expected).clamp(1.0 / MAX_STEP, MAX_STEP);
                }
            }
            let sum: f64 = self.weights.iter().sum();
            self.weights.iter_mut().for_each(|weight| *weight /= sum);
            self.count_ways();
        }
    }

    /// Expected share of 1, 2, .. words among the units of a filling of `budget` tokens.
    fn expected_shares(&self, budget: usize) -> Vec<f64> {
        let mut reached = vec![0.0; budget + 1];
        reached[budget] = 1.0;
        let mut expected = vec![0.0; self.weights.len()];
        for left in (1..=budget).rev().filter(|&left| self.ways[left] > 0.0) {
            let here = reached[left] / self.ways[left];
            for (idx, expected) in expected.iter_mut().enumerate() {
                *expected += here * self.ways_with(idx, left);
                let weight = here * self.weights[idx];
                for (size, share) in
                    self.sizes[idx][..=left].iter().enumerate().filter(|(_, share)| **share > 0.0)
                {
                    reached[left - size] += weight * share * self.ways[left - size];
                }
            }
        }
        let sum: f64 = expected.iter().sum();
        if sum > 0.0 {
            expected.iter_mut().for_each(|expected| *expected /= sum);
        }
        expected
    }

    /// A length and a free place for it that leaves a number of tokens that can be filled.
    fn draw(
        &self,
        words: &[Word],
        is_free: &[bool],
        left: usize,
        places: &mut Vec<Place>,
        stream: &mut Stream,
    ) -> Option<(usize, Place)> {
        let mut lengths: Vec<f64> = (0..self.weights.len()).map(|idx| self.ways_with(idx, left)).collect();
        while lengths.iter().sum::<f64>() > 0.0 {
            let idx = stream.weighted(&lengths);
            find_places(words, is_free, idx + 1, left, places);
            let ways: Vec<f64> = places.iter().map(|place| self.ways[left - place.num_tokens]).collect();
            if ways.iter().sum::<f64>() > 0.0 {
                return Some((idx + 1, places[stream.weighted(&ways)]));
            }
            // Its places are taken.
            lengths[idx] = 0.0;
        }
        None
    }
}
