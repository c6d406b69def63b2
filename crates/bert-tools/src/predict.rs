//! Guesses for [MASK]: a model folder loaded with its tokenizer.
//!
//! Owns the way from text with [MASK] to token ids and from logits to the best guesses. Trains nothing.

use std::{fs, path::Path};

use bert_data::Tokenizer;
use bert_model::{PretrainBatch, PretrainModel};
use serde_json::Value;

use crate::{cli::Opening, failure::ToolError, model_folder::ModelFolder};

/// How a masked place is written in text.
pub const MASK: &str = "[MASK]";
/// What the names of the head for masked tokens begin with.
const MLM_HEAD: &str = "cls.predictions.";

/// A token that could stand at a masked place.
#[derive(Clone, Debug, PartialEq)]
pub struct Guess {
    /// The token as the vocabulary writes it.
    pub token: String,
    /// Its probability by the model.
    pub probability: f64,
}

/// A model with its tokenizer.
pub struct Predictor {
    model: PretrainModel,
    tokenizer: Tokenizer,
}

impl Predictor {
    /// Loads a model folder.
    ///
    /// # Errors
    ///
    /// If the folder is not a model, has no head for masked tokens, or its vocabulary does not fit the model.
    pub fn load(folder: &Path, opening: &Opening) -> anyhow::Result<Self> {
        let loaded = ModelFolder::load(folder, opening)?;
        let missing = loaded.missing_of(MLM_HEAD);
        if !missing.is_empty() {
            let message = format!(
                "the model in `{}` has no head for masked tokens (missing: {}), so it cannot guess; `bert embed` makes \
                 sentence vectors with it",
                folder.display(),
                missing.join(", ")
            );
            return Err(ToolError::Usage(message).into());
        }
        Ok(Self { model: loaded.model, tokenizer: loaded.tokenizer })
    }

    /// The tokenizer of the model.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Token ids of `[CLS] text [SEP]`, where each [MASK] in the text is one masked place.
    ///
    /// # Errors
    ///
    /// If the text holds no [MASK] or is longer than the model's positions.
    pub fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let special = self.tokenizer.special();
        let mut ids = vec![special.cls];
        for (idx, part) in text.split(MASK).enumerate() {
            if idx > 0 {
                ids.push(special.mask);
            }
            ids.extend(self.tokenizer.encode_line(part)?.ids);
        }
        ids.push(special.sep);
        if !ids.contains(&special.mask) {
            return Err(ToolError::Usage(format!("no {MASK} in \"{text}\"")).into());
        }
        Ok(ids)
    }

    /// The `top` best guesses for every [MASK] among the ids, in their order.
    ///
    /// # Errors
    ///
    /// If there are more ids than the model has positions.
    pub fn guesses(&self, ids: &[u32], top: usize) -> anyhow::Result<Vec<Vec<Guess>>> {
        let longest = self.model.config().max_position_embeddings;
        if ids.len() > longest {
            let message = format!("the text has {} tokens, the model takes at most {longest}", ids.len());
            return Err(ToolError::Usage(message).into());
        }
        let mask = self.tokenizer.special().mask;
        let positions: Vec<u32> =
            (0u32..).zip(ids).filter(|(_, id)| **id == mask).map(|(idx, _)| idx).collect();
        let labels = vec![mask; positions.len()];
        let token_types = vec![0; ids.len()];
        let batch = PretrainBatch {
            num_rows: 1,
            row_len: ids.len(),
            input_ids: ids,
            token_type_ids: &token_types,
            lengths: &[u32::try_from(ids.len())?],
            mlm_positions: &positions,
            mlm_labels: &labels,
            nsp_labels: &[],
        };
        let logits = self.model.masked_logits(&batch)?;
        let vocab_size = self.model.config().vocab_size;
        Ok(logits.chunks(vocab_size).map(|row| self.best(row, top)).collect())
    }

    /// The best entries of one row of logits, `[vocab_size]`.
    fn best(&self, logits: &[f32], top: usize) -> Vec<Guess> {
        best_of(logits, top)
            .into_iter()
            .map(|(id, probability)| Guess { token: self.token(id), probability })
            .collect()
    }

    /// Tokens as text again: `##` pieces joined, spaces between Latin words only.
    pub fn text(&self, ids: &[u32]) -> String {
        join_tokens(&ids.iter().map(|id| self.token(*id)).collect::<Vec<_>>())
    }

    /// A token as the vocabulary writes it; rows that the vocabulary does not name get their number.
    pub fn token(&self, id: u32) -> String {
        self.tokenizer.id_to_token(id).map_or_else(|| format!("#{id}"), str::to_owned)
    }
}

/// Ids and probabilities of the `top` largest logits, best first, equal ones by id.
fn best_of(logits: &[f32], top: usize) -> Vec<(u32, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let mut ids: Vec<u32> = (0u32..).take(logits.len()).collect();
    ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    ids.truncate(top);
    ids.into_iter().map(|id| (id, f64::from(logits[id as usize] - largest).exp() / sum)).collect()
}

/// `##` pieces are joined to what stands before them; a space separates two words of letters or digits.
fn join_tokens(tokens: &[String]) -> String {
    let is_latin = |c: char| c.is_ascii_alphanumeric();
    let mut text = String::new();
    for token in tokens {
        let piece = token.strip_prefix("##").unwrap_or(token);
        let is_word = piece.len() == token.len() && piece.starts_with(is_latin);
        if is_word && text.ends_with(is_latin) {
            text.push(' ');
        }
        text.push_str(piece);
    }
    text
}

/// `do_lower_case` of the folder's tokenizer_config.json; true, as in Hugging Face, where nothing is said.
pub fn recorded_lowercase(folder: &Path) -> bool {
    fs::read_to_string(folder.join("tokenizer_config.json"))
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .and_then(|value| value["do_lower_case"].as_bool())
        .unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_as_text() {
        let tokens = ["the", "cat", "##s", ",", "曹", "[MASK]", "曰"].map(str::to_string);
        assert_eq!(join_tokens(&tokens), "the cats,曹[MASK]曰");
    }

    #[test]
    fn best_guesses_are_ordered_and_their_probabilities_are_a_softmax() {
        let best = best_of(&[0.0, 2.0_f32.ln(), 2.0_f32.ln(), 5.0_f32.ln()], 3);
        assert_eq!(best.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [3, 1, 2]);
        for ((_, got), expected) in best.iter().zip([0.5, 0.2, 0.2]) {
            assert!((got - expected).abs() < 1e-6, "expected {expected}, got {got}");
        }
    }
}
