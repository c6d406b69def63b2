//! Special tokens in the text itself, which a vocabulary without brackets cannot spell.
//!
//! Reads lines; tokens are the business of [`super::corpus_pass`].

use super::corpus_pass::{SpecialInText, note};
use crate::error::DataError;
use crate::text::{TextLine, TextReader, TextSources};
use crate::tokenizer::SPECIAL_TOKENS;

/// Special tokens written in the text, in capitals or small letters. Documents are counted as they stand in the
/// text, those without a token included.
pub(super) fn special_tokens(text: &TextSources) -> Result<Vec<SpecialInText>, DataError> {
    let spellings = SPECIAL_TOKENS.map(|token| (token, token.to_lowercase()));
    let mut found = Vec::new();
    let mut document = 0;
    for block in text.blocks(u64::MAX)? {
        let mut reader = TextReader::new(text, &block);
        while let Some(line) = reader.next_line()? {
            match line {
                TextLine::DocumentEnd => document += 1,
                TextLine::Sentence(sentence) if sentence.contains('[') => {
                    for (token, small) in &spellings {
                        let num_found =
                            sentence.matches(token).count() + sentence.matches(small.as_str()).count();
                        note(&mut found, token, num_found as u64, document);
                    }
                }
                TextLine::Sentence(_) => {}
            }
        }
    }
    Ok(found)
}
