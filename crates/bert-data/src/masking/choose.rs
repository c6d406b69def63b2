//! Which words are masked together: units of consecutive words within a budget of tokens.
//!
//! A length is drawn first, then a place for it among all places where it fits; a length that fits nowhere is
//! drawn again among the shorter ones. The number drawn first is kept, so that the distribution asked for and
//! the one realised can be compared. Weights without single words have a way of their own ([`super::fill`]).

use super::MaskedUnit;
use super::fill::choose_exactly;
use crate::config::{MaskStrategy, MaskingConfig};
use bert_random::Stream;

/// Success probability of SpanBERT's geometric distribution.
const SPAN_P: f64 = 0.2;
/// SpanBERT's longest span, in words.
const SPAN_MAX_WORDS: usize = 10;

/// Weights of spans of 1, 2, .. 10 words: geometric with p = 0.2, truncated and renormalised (SpanBERT
/// section 3.1).
pub fn span_weights() -> Vec<f64> {
    let weights: Vec<f64> = (0..SPAN_MAX_WORDS as i32).map(|n| SPAN_P * (1.0 - SPAN_P).powi(n)).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Weights of 1, 2, .. words that have a name: "albert" (Lan et al. 2020: P(n) proportional to 1/n, up to 3) and
/// "macbert" (Cui et al. 2020, section 3.1). `None` for any other name.
pub fn ngram_preset(name: &str) -> Option<Vec<f64>> {
    match name {
        "albert" => Some(vec![6.0, 3.0, 2.0]),
        "macbert" => Some(vec![0.4, 0.3, 0.2, 0.1]),
        _ => None,
    }
}

/// Weight of units of 1, 2, .. words; need not sum to 1.
pub(crate) fn length_weights(config: &MaskingConfig) -> Vec<f64> {
    match config.strategy {
        MaskStrategy::Token | MaskStrategy::WholeWord => vec![1.0],
        MaskStrategy::Ngram => config.ngram_weights.clone(),
        MaskStrategy::Span => span_weights(),
    }
}

/// A word that may be masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Tokens of it that may be masked: all but `[UNK]`.
    pub(super) num_tokens: usize,
}

/// Memory of one choice, used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// The words to choose from.
    pub(super) words: Vec<Word>,
    /// Words not taken yet.
    pub(super) is_free: Vec<bool>,
    /// Where a unit of the length just drawn could begin.
    pub(super) places: Vec<Place>,
    /// Words in random order.
    pub(super) order: Vec<u32>,
}

/// How units are chosen.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    /// Weight of 1, 2, .. words.
    weights: Vec<f64>,
    /// Places are drawn by token, not by word: longer words begin a unit more often.
    is_anchored_at_tokens: bool,
    /// Every token is a word.
    is_by_token: bool,
}

impl Chooser {
    pub(super) fn new(config: &MaskingConfig) -> Self {
        let weights = length_weights(config);
        let is_anchored_at_tokens = config.strategy == MaskStrategy::Span;
        Self { weights, is_anchored_at_tokens, is_by_token: config.strategy == MaskStrategy::Token }
    }

    /// The words of a sequence, or its single tokens. Special tokens end a word, but `[UNK]` inside a word
    /// only sits out: the rest of the word stays one word. Words of nothing but `[UNK]` are left out.
    pub(super) fn words(
        &self,
        tokens: &[u32],
        word_starts: &[bool],
        is_special: &[bool],
        unk: u32,
        words: &mut Vec<Word>,
    ) {
        words.clear();
        let mut is_after_border = true;
        for (position, &token) in tokens.iter().enumerate() {
            let is_border = is_special[token as usize] && token != unk;
            if !is_border {
                if is_after_border || word_starts[position] || self.is_by_token {
                    words.push(Word { start: position, end: position, num_tokens: 0 });
                }
                if let Some(word) = words.last_mut() {
                    word.end = position + 1;
                    word.num_tokens += usize::from(token != unk);
                }
            }
            is_after_border = is_border;
        }
        words.retain(|word| word.num_tokens > 0);
    }

    /// Appends units of together at most `budget` tokens, in the order they were drawn.
    pub(super) fn choose(
        &self,
        choice: &mut Choice,
        budget: usize,
        stream: &mut Stream,
        units: &mut Vec<MaskedUnit>,
    ) {
        let Choice { words, is_free, places, order } = choice;
        if self.weights.len() == 1 {
            return choose_single(words, budget, stream, order, units);
        }
        if self.weights[0] == 0.0 {
            units.extend(choose_exactly(&self.weights, words, budget, stream));
            return;
        }
        is_free.clear();
        is_free.resize(words.len(), true);
        let mut left = budget;
        while let Some(unit) = self.choose_one(words, is_free, left, places, stream) {
            left -= unit.num_tokens;
            is_free[unit.first_word..unit.first_word + unit.num_words].fill(false);
            units.push(MaskedUnit {
                start: words[unit.first_word].start,
                end: words[unit.first_word + unit.num_words - 1].end,
                num_words: unit.num_words,
                num_words_drawn: unit.num_words_drawn,
            });
        }
    }

    /// Draws a length and a place for it; `None` if not even the shortest length fits anywhere.
    fn choose_one(
        &self,
        words: &[Word],
        is_free: &[bool],
        left: usize,
        places: &mut Vec<Place>,
        stream: &mut Stream,
    ) -> Option<Drawn> {
        let mut weights = self.weights.as_slice();
        let mut num_words_drawn = 0;
        while left > 0 && weights.iter().sum::<f64>() > 0.0 {
            let num_words = stream.weighted(weights) + 1;
            num_words_drawn = num_words_drawn.max(num_words);
            find_places(words, is_free, num_words, left, places);
            if let Some(place) = self.draw_place(words, places, stream) {
                let Place { first_word, num_tokens } = place;
                return Some(Drawn { first_word, num_words, num_words_drawn, num_tokens });
            }
            weights = &weights[..num_words - 1];
        }
        None
    }

    /// A place, uniformly by word or by token.
    fn draw_place(&self, words: &[Word], places: &[Place], stream: &mut Stream) -> Option<Place> {
        if places.is_empty() {
            return None;
        }
        if !self.is_anchored_at_tokens {
            return Some(places[stream.below(places.len() as u64) as usize]);
        }
        let num_anchors: usize = places.iter().map(|place| words[place.first_word].num_tokens).sum();
        let mut anchor = stream.below(num_anchors as u64) as usize;
        for place in places {
            let num_tokens = words[place.first_word].num_tokens;
            if anchor < num_tokens {
                return Some(*place);
            }
            anchor -= num_tokens;
        }
        None
    }
}

/// Where a unit could begin, and the tokens it would mask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) first_word: usize,
    pub(super) num_tokens: usize,
}

/// A unit that was drawn.
struct Drawn {
    first_word: usize,
    num_words: usize,
    num_words_drawn: usize,
    num_tokens: usize,
}

/// All places for `num_words` consecutive free words with at most `left` tokens.
pub(super) fn find_places(
    words: &[Word],
    is_free: &[bool],
    num_words: usize,
    left: usize,
    places: &mut Vec<Place>,
) {
    places.clear();
    let mut num_tokens = 0;
    let mut run = 0;
    for idx in 0..words.len() {
        if !is_free[idx] {
            (run, num_tokens) = (0, 0);
            continue;
        }
        if run > 0 && words[idx - 1].end != words[idx].start {
            (run, num_tokens) = (0, 0);
        }
        run += 1;
        num_tokens += words[idx].num_tokens;
        if run > num_words {
            num_tokens -= words[idx - num_words].num_tokens;
        }
        if run >= num_words && num_tokens <= left {
            places.push(Place { first_word: idx + 1 - num_words, num_tokens });
        }
    }
}

/// Single words in random order until the budget is filled; one that does not fit is skipped.
fn choose_single(
    words: &[Word],
    budget: usize,
    stream: &mut Stream,
    order: &mut Vec<u32>,
    units: &mut Vec<MaskedUnit>,
) {
    order.clear();
    order.extend(0..words.len() as u32);
    stream.shuffle(order);
    let mut left = budget;
    for &idx in order.iter() {
        let Word { start, end, num_tokens } = words[idx as usize];
        if num_tokens <= left {
            left -= num_tokens;
            units.push(MaskedUnit { start, end, num_words: 1, num_words_drawn: 1 });
        }
        if left == 0 {
            break;
        }
    }
}
