//! One pass over all tokens: language, unknown tokens, special tokens in the text, duplicates, one-line documents.
//!
//! Memory: the sentence lengths of one document, some sentences, and two bounded counters of duplicates.

use super::duplicates::{DuplicateCounter, Duplicates};
use crate::corpus::Corpus;
use crate::error::DataError;
use crate::tokenizer::{SPECIAL_TOKENS, Tokenizer};
use crate::words::is_cjk;
use serde::Serialize;

/// Tokens read at a time, if no sentence is longer.
const MAX_TOKENS_AT_ONCE: u64 = 1 << 16;
/// Documents with fewer letters are too short to tell a language.
const MIN_LETTERS: u64 = 8;
/// A document is Chinese if at least this share of its words and characters is CJK. Text in between two languages
/// lies far from it: an English word weighs as much as one character.
const MIN_CJK_SHARE: f64 = 0.3;

/// Figures of the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CorpusFigures {
    /// Documents with at least one token.
    pub num_documents: u64,
    /// Sentences with at least one token.
    pub num_sentences: u64,
    /// Tokens.
    pub num_tokens: u64,
    /// Share of the documents that have one sentence.
    pub one_sentence_share: f64,
    /// Share of the tokens that are in the largest document.
    pub largest_document_share: f64,
    /// Share of the tokens that are `[UNK]`.
    pub unknown_share: f64,
    /// Share of the tokens that reach over the border of a segmented word.
    pub misaligned_share: f64,
    /// Share of CJK characters among CJK characters and words of other scripts.
    pub cjk_share: f64,
    /// Share of the tokens that are in documents with mostly CJK characters.
    pub cjk_document_share: f64,
    /// Share of the tokens that are in documents with mostly words of other scripts.
    pub other_document_share: f64,
    /// Special tokens found, spelled in the text or as ids, with their number and the first document.
    pub special_tokens: Vec<SpecialInText>,
    /// Repeated documents.
    pub duplicate_documents: Duplicates,
    /// Repeated sentences.
    pub duplicate_sentences: Duplicates,
}

/// A special token that stands in the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpecialInText {
    /// The token.
    pub token: &'static str,
    /// How often.
    pub num_occurrences: u64,
    /// The first document that holds it.
    pub first_document: u64,
}

/// What a token says about the language of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Cjk,
    /// Begins a word of another script.
    Other,
    /// Digits, punctuation, special tokens, the rest of a word.
    None,
}

/// A special token as ids: its own, and the pieces its spelling becomes.
struct Pattern {
    token: &'static str,
    own: Option<u32>,
    /// Empty if the vocabulary cannot spell it.
    pieces: Vec<u32>,
}

/// What is counted.
struct Tally {
    scripts: Vec<Script>,
    patterns: Vec<Pattern>,
    found: Vec<SpecialInText>,
    documents: DuplicateCounter,
    sentences: DuplicateCounter,
    num_one_sentence: u64,
    largest_document: u64,
    num_cjk: u64,
    num_other: u64,
    tokens_in_cjk_documents: u64,
    tokens_in_other_documents: u64,
}

/// Reads the whole corpus.
pub(super) fn measure(corpus: &Corpus, tokenizer: &Tokenizer) -> Result<CorpusFigures, DataError> {
    let mut tally = Tally::new(tokenizer)?;
    for document in 0..corpus.num_documents() {
        tally.read_document(corpus, document)?;
    }
    let counts = corpus.manifest().counts;
    let share = |part: u64| part as f64 / counts.num_tokens.max(1) as f64;
    Ok(CorpusFigures {
        num_documents: counts.num_documents,
        num_sentences: counts.num_sentences,
        num_tokens: counts.num_tokens,
        one_sentence_share: tally.num_one_sentence as f64 / counts.num_documents.max(1) as f64,
        largest_document_share: share(tally.largest_document),
        unknown_share: share(counts.num_unknown),
        misaligned_share: share(counts.num_misaligned),
        cjk_share: tally.num_cjk as f64 / (tally.num_cjk + tally.num_other).max(1) as f64,
        cjk_document_share: share(tally.tokens_in_cjk_documents),
        other_document_share: share(tally.tokens_in_other_documents),
        duplicate_documents: tally.documents.finish(),
        duplicate_sentences: tally.sentences.finish(),
        special_tokens: tally.found,
    })
}

/// The script of a token.
fn script_of(token: &str) -> Script {
    match token.chars().next() {
        Some(first) if is_cjk(first) => Script::Cjk,
        Some(first) if first.is_alphabetic() => Script::Other,
        _ => Script::None,
    }
}

/// The special tokens as a vocabulary spells them. `[UNK]` as an id is an unknown word, not a fault.
fn patterns(tokenizer: &Tokenizer) -> Result<Vec<Pattern>, DataError> {
    let special = tokenizer.special();
    let ids = [Some(special.pad), None, Some(special.cls), Some(special.sep), Some(special.mask)];
    let pattern = |(token, own): (&'static str, Option<u32>)| {
        let mut pieces = tokenizer.encode_line(token)?.ids;
        if pieces.contains(&special.unk) || pieces.len() < 2 {
            pieces.clear();
        }
        Ok(Pattern { token, own, pieces })
    };
    SPECIAL_TOKENS.into_iter().zip(ids).map(pattern).collect()
}

impl Tally {
    fn new(tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let vocabulary = 0..tokenizer.vocab_size() as u32;
        let is_special = |id: u32| tokenizer.special_ids().binary_search(&id).is_ok();
        let script =
            |id: u32| tokenizer.id_to_token(id).filter(|_| !is_special(id)).map_or(Script::None, script_of);
        Ok(Self {
            scripts: vocabulary.map(script).collect(),
            patterns: patterns(tokenizer)?,
            found: Vec::new(),
            documents: DuplicateCounter::new(),
            sentences: DuplicateCounter::new(),
            num_one_sentence: 0,
            largest_document: 0,
            num_cjk: 0,
            num_other: 0,
            tokens_in_cjk_documents: 0,
            tokens_in_other_documents: 0,
        })
    }

    fn read_document(&mut self, corpus: &Corpus, document_idx: u64) -> Result<(), DataError> {
        let document = corpus.document(document_idx)?;
        let (mut ids, mut word_starts) = (Vec::new(), Vec::new());
        let mut hasher = blake3::Hasher::new();
        let (cjk_before, other_before) = (self.num_cjk, self.num_other);
        let mut start = 0;
        let mut rest = document.sentence_lengths.as_slice();
        while !rest.is_empty() {
            let (num_sentences, num_tokens) = next_batch(rest);
            ids.clear();
            word_starts.clear();
            corpus.read_tokens(&document, start..start + num_tokens, &mut ids, &mut word_starts)?;
            let mut batch = ids.as_slice();
            for &length in &rest[..num_sentences] {
                let (sentence, behind) = batch.split_at(length as usize);
                self.read_sentence(sentence, document_idx, &mut hasher);
                batch = behind;
            }
            rest = &rest[num_sentences..];
            start += num_tokens;
        }
        self.documents.add(&hasher.finalize(), start, document_idx);
        self.num_one_sentence += u64::from(document.sentence_lengths.len() == 1);
        self.largest_document = self.largest_document.max(start);
        let (num_cjk, num_other) = (self.num_cjk - cjk_before, self.num_other - other_before);
        let num_letters = num_cjk + num_other;
        if num_letters >= MIN_LETTERS && num_cjk as f64 >= MIN_CJK_SHARE * num_letters as f64 {
            self.tokens_in_cjk_documents += start;
        } else if num_letters >= MIN_LETTERS {
            self.tokens_in_other_documents += start;
        }
        Ok(())
    }

    fn read_sentence(&mut self, sentence: &[u32], document: u64, hasher: &mut blake3::Hasher) {
        let bytes: Vec<u8> = sentence.iter().flat_map(|id| id.to_le_bytes()).collect();
        hasher.update(&(sentence.len() as u64).to_le_bytes());
        hasher.update(&bytes);
        self.sentences.add(&blake3::hash(&bytes), sentence.len() as u64, document);
        for &id in sentence {
            match self.scripts[id as usize] {
                Script::Cjk => self.num_cjk += 1,
                Script::Other => self.num_other += 1,
                Script::None => {}
            }
        }
        for pattern in &self.patterns {
            note(&mut self.found, pattern.token, pattern.count(sentence), document);
        }
    }
}

impl Pattern {
    fn count(&self, sentence: &[u32]) -> u64 {
        let num_ids = sentence.iter().filter(|&&id| Some(id) == self.own).count();
        let Some(&first) = self.pieces.first() else { return num_ids as u64 };
        let spelled = sentence.iter().enumerate().filter(|(_, id)| **id == first);
        let num_spelled = spelled.filter(|(idx, _)| sentence[*idx..].starts_with(&self.pieces)).count();
        (num_ids + num_spelled) as u64
    }
}

/// Adds occurrences of a special token to what was found before.
pub(super) fn note(found: &mut Vec<SpecialInText>, token: &'static str, num_found: u64, document: u64) {
    match found.iter_mut().find(|known| known.token == token) {
        Some(known) => known.num_occurrences += num_found,
        None if num_found > 0 => {
            found.push(SpecialInText { token, num_occurrences: num_found, first_document: document });
        }
        None => {}
    }
}

/// The sentences to read next, at least one: their number and their tokens.
fn next_batch(lengths: &[u32]) -> (usize, u64) {
    let mut num_tokens = 0;
    for (idx, &length) in lengths.iter().enumerate() {
        if idx > 0 && num_tokens + u64::from(length) > MAX_TOKENS_AT_ONCE {
            return (idx, num_tokens);
        }
        num_tokens += u64::from(length);
    }
    (lengths.len(), num_tokens)
}
