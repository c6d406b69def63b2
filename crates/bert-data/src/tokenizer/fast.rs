//! A short way for lines of plain characters: ASCII, CJK ideographs and their usual punctuation.
//!
//! For these characters, BERT's normalizer does nothing but lower-case ASCII and set ideographs apart, so one
//! pass replaces the library's alignment of every character. A line with any other character goes the long
//! way. Both give the same tokens and offsets; the tests compare them.

use super::EncodedLine;
use std::collections::HashMap;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::tokenizer::Tokenizer as HfTokenizer;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

/// Longer words are `[UNK]`.
const MAX_WORD_CHARS: usize = 100;
/// Size of the table of single characters: the Basic Multilingual Plane.
const NUM_SINGLE: usize = 1 << 16;

/// What BERT's splitter does with a character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CharClass {
    Space,
    /// A word of its own: punctuation and ideographs.
    Alone,
    /// Part of a word.
    Word,
}

/// Vocabulary tables for one pass over a line.
pub(super) struct FastPath {
    lowercase: bool,
    unk: u32,
    /// Tokens that begin a word.
    heads: HashMap<String, u32>,
    /// Tokens that continue one, without `##`.
    tails: HashMap<String, u32>,
    /// Longest token in bytes.
    max_token_len: usize,
    /// Id of each character as a word of its own.
    single: Vec<u32>,
}

impl FastPath {
    /// `None` if the tokenizer's rules are not exactly those of BERT.
    pub(super) fn new(inner: &HfTokenizer, tokens: &[String], lowercase: bool, unk: u32) -> Option<Self> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = inner.get_normalizer() else { return None };
        let BertNormalizer { clean_text, handle_chinese_chars, strip_accents, .. } = *normalizer;
        let strips = strip_accents.unwrap_or(lowercase);
        let ModelWrapper::WordPiece(model) = inner.get_model() else { return None };
        let is_bert = matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)))
            && (clean_text, handle_chinese_chars, normalizer.lowercase, strips)
                == (true, true, lowercase, lowercase)
            && model.max_input_chars_per_word == MAX_WORD_CHARS
            && inner.get_added_tokens_decoder().values().all(|token| token.special);
        if !is_bert {
            return None;
        }
        let (mut heads, mut tails) = (HashMap::new(), HashMap::new());
        let mut single = vec![unk; NUM_SINGLE];
        for (token, id) in tokens.iter().zip(0..) {
            if let Some(tail) = token.strip_prefix("##") {
                tails.insert(tail.to_owned(), id);
            }
            let mut chars = token.chars();
            if let (Some(only), None) = (chars.next(), chars.next())
                && (only as usize) < NUM_SINGLE
            {
                single[only as usize] = id;
            }
            heads.insert(token.clone(), id);
        }
        let max_token_len = tokens.iter().map(String::len).max().unwrap_or(0);
        Some(Self { lowercase, unk, heads, tails, max_token_len, single })
    }

    /// Tokens of a line, or `None` if it holds a character this way does not know.
    pub(super) fn encode(&self, line: &str) -> Option<EncodedLine> {
        let mut encoded = EncodedLine::default();
        let mut scratch = String::new();
        let is_plain = for_each_plain_word(line, |start, end, alone| match alone {
            Some(character) => encoded.push(self.single[character as usize], true, start, end),
            None => self.push_word(line, start, end, &mut scratch, &mut encoded),
        });
        is_plain.then_some(encoded)
    }

    /// Greedy longest match over one word of ASCII letters and digits; `[UNK]` if a rest has no match.
    fn push_word(
        &self,
        line: &str,
        start: usize,
        end: usize,
        scratch: &mut String,
        encoded: &mut EncodedLine,
    ) {
        let num_before = encoded.ids.len();
        scratch.clear();
        scratch.push_str(&line[start..end]);
        if self.lowercase {
            scratch.make_ascii_lowercase();
        }
        let mut from = 0;
        while from < scratch.len() && scratch.len() <= MAX_WORD_CHARS {
            let table = if from == 0 { &self.heads } else { &self.tails };
            let longest = scratch.len().min(from + self.max_token_len);
            let found = (from + 1..=longest).rev().find_map(|to| Some((to, *table.get(&scratch[from..to])?)));
            let Some((to, id)) = found else { break };
            encoded.push(id, from == 0, start + from, start + to);
            from = to;
        }
        if from < scratch.len() {
            encoded.ids.truncate(num_before);
            encoded.word_starts.truncate(num_before);
            encoded.offsets.truncate(num_before);
            encoded.push(self.unk, true, start, end);
        }
    }
}

impl EncodedLine {
    fn push(&mut self, id: u32, is_word_start: bool, start: usize, end: usize) {
        self.ids.push(id);
        self.word_starts.push(is_word_start);
        self.offsets.push((start as u32, end as u32));
    }
}

/// Calls `visit(start, end, alone)` for every word of a line of plain characters; `alone` is the character if
/// it is a word of its own. Returns false, without a call, if the line holds any other character.
pub(crate) fn for_each_plain_word(line: &str, mut visit: impl FnMut(usize, usize, Option<char>)) -> bool {
    if line.chars().any(|character| class_of(character).is_none()) {
        return false;
    }
    let mut word_start = None;
    for (offset, character) in line.char_indices() {
        let class = class_of(character);
        if class == Some(CharClass::Word) {
            word_start.get_or_insert(offset);
            continue;
        }
        if let Some(start) = word_start.take() {
            visit(start, offset, None);
        }
        if class == Some(CharClass::Alone) {
            visit(offset, offset + character.len_utf8(), Some(character));
        }
    }
    if let Some(start) = word_start {
        visit(start, line.len(), None);
    }
    true
}

/// The class of a plain character; `None` for every other one.
fn class_of(character: char) -> Option<CharClass> {
    match character {
        ' ' | '\t' | '\u{3000}' => Some(CharClass::Space),
        'a'..='z' | 'A'..='Z' | '0'..='9' => Some(CharClass::Word),
        '!'..='~' => Some(CharClass::Alone),
        '\u{4E00}'..='\u{9FA5}' | '\u{3400}'..='\u{4DB5}' => Some(CharClass::Alone),
        '、' | '。' | '〈'..='】' | '，' | '！' | '？' | '：' | '；' | '（' | '）' => {
            Some(CharClass::Alone)
        }
        '“' | '”' | '‘' | '’' | '…' | '—' | '·' => Some(CharClass::Alone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SPECIAL_TOKENS, Tokenizer};
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn tokenizer(lowercase: bool) -> Tokenizer {
        let extra = "a b ab ##a ##b ##ab abc ##c A ##B 1 ##1 12 ##123 中 国 、 。 ， # [ ] ! “ 〈 … mask é";
        let tokens = SPECIAL_TOKENS.iter().copied().chain(extra.split(' ')).map(str::to_owned).collect();
        Tokenizer::from_tokens(tokens, lowercase, Path::new("test")).unwrap()
    }

    #[track_caller]
    fn check_same(tokenizer: &Tokenizer, line: &str) {
        let fast = tokenizer.fast.as_ref().unwrap().encode(line);
        assert_eq!(fast, Some(tokenizer.encode_with_library(line).unwrap()), "{line:?}");
    }

    #[test]
    fn every_plain_character_goes_the_same_way_as_in_the_library() {
        let plain: Vec<char> = ('\0'..='\u{ffff}').filter(|&c| class_of(c).is_some()).collect();
        assert!(plain.len() > 27_000);
        // With every character a token, nothing hides behind [UNK].
        for lowercase in [true, false] {
            let mut tokens: Vec<String> = SPECIAL_TOKENS.iter().map(|t| (*t).to_owned()).collect();
            tokens.extend(plain.iter().filter(|c| !c.is_whitespace()).map(char::to_string));
            tokens.extend(["##a", "##b", "##1"].map(str::to_owned));
            let tokenizer = Tokenizer::from_tokens(tokens, lowercase, Path::new("test")).unwrap();
            for chunk in plain.chunks(64) {
                let line: String = chunk.iter().map(|c| format!("a{c}b{c}{c} {c}1")).collect();
                check_same(&tokenizer, &line);
            }
        }
    }

    #[test]
    fn other_characters_take_the_long_way() {
        let tokenizer = tokenizer(true);
        for line in
            ["é", "a\u{300}", "\u{e5e5}", "Ⅷ", "\u{7f}", "a\u{a0}b", "\u{f900}", "\u{20000}", "ß", "한"]
        {
            assert_eq!(tokenizer.fast.as_ref().unwrap().encode(line), None, "{line}");
        }
        assert_eq!(tokenizer.encode_line("É 中").unwrap().ids.len(), 2);
    }

    #[test]
    fn words_of_a_hundred_characters_are_the_longest() {
        let tokenizer = tokenizer(true);
        for len in [99, 100, 101, 500] {
            check_same(&tokenizer, &"a".repeat(len));
        }
        check_same(&tokenizer, "");
        check_same(&tokenizer, " \t ");
    }

    proptest! {
        #[test]
        fn random_lines_give_the_same_tokens(
            line in "[abcAB123中国文、。，#\\[\\]! \t\u{3000}“〈…z]{0,40}",
            lowercase: bool,
        ) {
            check_same(&tokenizer(lowercase), &line);
        }
    }
}
