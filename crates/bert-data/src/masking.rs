//! Masking: a pure function (tokens, word starts, key) -> masked tokens.
//!
//! Budget: `min(max_predictions_per_seq, max(1, round_half_even(mlm_probability * len)))`, `len` counting
//! `[CLS]` and `[SEP]` as google-research/bert does. Special tokens, `[UNK]` among them, are never chosen and
//! never inserted. Units are runs of whole words; none crosses a `[SEP]`, overlaps another or is cut by the
//! budget.

mod choose;
mod fill;

pub(crate) use choose::length_weights;
pub use choose::{ngram_preset, span_weights};

use crate::config::{MaskingConfig, ReplaceUnit};
use crate::error::DataError;
use crate::tokenizer::SpecialIds;
use bert_random::{Key, Stream};
pub(crate) use choose::Choice;
use choose::Chooser;

/// What a chosen token was replaced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// `[MASK]`
    Mask,
    /// A random token.
    Random,
    /// Itself.
    Keep,
}

/// Words that were chosen together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskedUnit {
    /// First token.
    pub start: usize,
    /// One past the last token.
    pub end: usize,
    /// Words in it.
    pub num_words: usize,
    /// Words first drawn, before the unit had to be drawn shorter to find a place.
    pub num_words_drawn: usize,
}

/// A masked sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masked {
    /// Token ids after replacement, as many as there were.
    pub input_ids: Vec<u32>,
    /// Chosen positions, ascending.
    pub positions: Vec<u32>,
    /// The true token at each chosen position.
    pub labels: Vec<u32>,
    /// What each chosen position was replaced by.
    pub replacements: Vec<Replacement>,
    /// The units behind the positions, ascending.
    pub units: Vec<MaskedUnit>,
}

impl Masked {
    /// The tokens before any is masked.
    fn start(&mut self, tokens: &[u32]) {
        self.input_ids.clear();
        self.input_ids.extend_from_slice(tokens);
        self.positions.clear();
        self.labels.clear();
        self.replacements.clear();
        self.units.clear();
    }
}

/// Masks sequences under fixed settings.
#[derive(Clone, Debug)]
pub struct Masker {
    config: MaskingConfig,
    special: SpecialIds,
    /// Ids never chosen and never inserted, ascending.
    special_ids: Vec<u32>,
    is_special: Vec<bool>,
    chooser: Chooser,
}

impl Masker {
    /// `special_ids` are all ids that are never chosen and never inserted.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] if a setting is out of range, or no token is left to insert.
    pub fn new(
        config: &MaskingConfig,
        special: SpecialIds,
        special_ids: &[u32],
        vocab_size: usize,
    ) -> Result<Self, DataError> {
        config.validate()?;
        let mut is_special = vec![false; vocab_size];
        for &id in special_ids {
            is_special[id as usize] = true;
        }
        let special_ids: Vec<u32> = (0..vocab_size as u32).filter(|&id| is_special[id as usize]).collect();
        if special_ids.len() == vocab_size {
            return Err(DataError::config("tokenizer", "at least one token that is not special", vocab_size));
        }
        Ok(Self { config: config.clone(), special, special_ids, is_special, chooser: Chooser::new(config) })
    }

    /// How many tokens of a sequence of `len` tokens are masked, if there are enough.
    pub fn budget(&self, len: usize) -> usize {
        let wanted = (self.config.mlm_probability * len as f64).round_ties_even() as usize;
        wanted.max(1).min(self.config.max_predictions_per_seq)
    }

    /// Masks one sequence: `[CLS] A [SEP] B [SEP]` or `[CLS] A [SEP]`, no padding.
    ///
    /// `word_starts` has one entry per token. A token behind a special one starts a word in any case.
    pub fn mask(&self, tokens: &[u32], word_starts: &[bool], key: Key) -> Masked {
        let mut masked = Masked::default();
        self.mask_into(tokens, word_starts, key, &mut Choice::default(), &mut masked);
        masked
    }

    /// [`Masker::mask`] into memory that is used again; what was there before does not matter.
    pub(crate) fn mask_into(
        &self,
        tokens: &[u32],
        word_starts: &[bool],
        key: Key,
        choice: &mut Choice,
        masked: &mut Masked,
    ) {
        assert_eq!(tokens.len(), word_starts.len(), "one word start per token");
        masked.start(tokens);
        self.chooser.words(tokens, word_starts, &self.is_special, self.special.unk, &mut choice.words);
        self.chooser.choose(choice, self.budget(tokens.len()), &mut key.with(0).stream(), &mut masked.units);
        masked.units.sort_unstable_by_key(|unit| unit.start);
        let mut stream = key.with(1).stream();
        for unit in &masked.units {
            let of_unit = self.draw(&mut stream);
            let mut is_first = true;
            for (position, &token) in (unit.start..unit.end).zip(&tokens[unit.start..unit.end]) {
                if self.is_special[token as usize] {
                    continue;
                }
                let replacement = match self.config.unit {
                    ReplaceUnit::Span => of_unit,
                    ReplaceUnit::Token if is_first => of_unit,
                    ReplaceUnit::Token => self.draw(&mut stream),
                };
                is_first = false;
                masked.input_ids[position] = match replacement {
                    Replacement::Mask => self.special.mask,
                    Replacement::Keep => token,
                    Replacement::Random => self.random_token(&mut stream),
                };
                masked.positions.push(position as u32);
                masked.labels.push(token);
                masked.replacements.push(replacement);
            }
        }
    }

    /// What a token, or a unit, is replaced by.
    fn draw(&self, stream: &mut Stream) -> Replacement {
        let shares = self.config.replace;
        let draw = stream.unit_f64();
        if draw < shares.mask {
            Replacement::Mask
        } else if draw < shares.mask + shares.random {
            Replacement::Random
        } else {
            Replacement::Keep
        }
    }

    /// A token that is not special, uniformly.
    fn random_token(&self, stream: &mut Stream) -> u32 {
        let num_plain = self.is_special.len() - self.special_ids.len();
        let mut id = stream.below(num_plain as u64) as u32;
        for &special in &self.special_ids {
            id += u32::from(id >= special);
        }
        id
    }
}

#[cfg(test)]
mod length_tests;
#[cfg(test)]
mod tests;
