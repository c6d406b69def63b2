//! Which tokens start a word: `##` pieces never do, and inside a Chinese word only its first character does.
//!
//! Entries of a lexicon are words first ([`lexicon`]); what is left is cut by jieba, with full-width digits and
//! letters read as ordinary ones ([`fold`]). Words are laid over the tokens by byte offsets of the text as it was
//! written, so `[UNK]`, Latin, digits and dropped characters cannot shift anything. Changes no token.

mod fold;
mod lexicon;

use crate::error::DataError;
use crate::tokenizer::EncodedLine;
use fold::Folded;
use jieba_rs::Jieba;
use lexicon::Lexicon;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

/// Loaded on the first line that needs it: the dictionary takes time and memory.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// How words are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Words are separated by white space and punctuation.
    En,
    /// Words are cut by a segmenter.
    Zh,
    /// [`Language::Zh`] for lines that hold a CJK character, [`Language::En`] for the others.
    Auto,
}

/// Finds words in lines of text.
pub struct WordSegmenter {
    language: Language,
    lexicon: Option<Lexicon>,
}

impl std::fmt::Debug for WordSegmenter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let num_entries = self.lexicon.as_ref().map_or(0, |lexicon| lexicon.num_entries);
        f.debug_struct("WordSegmenter")
            .field("language", &self.language)
            .field("lexicon", &num_entries)
            .finish()
    }
}

impl WordSegmenter {
    /// `lexicon` is a file with one entry per line. What jieba's user dictionaries write behind an entry, a
    /// frequency and a tag, is read over: an entry needs no frequency to be kept whole. An entry may hold spaces;
    /// if it ends in a number it needs a tab behind it, or the number is taken for a frequency.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] if a lexicon is given for a language without a segmenter, or is too large;
    /// [`DataError::Io`] or [`DataError::InvalidUtf8`] if it cannot be read.
    pub fn new(language: Language, lexicon: Option<&Path>) -> Result<Self, DataError> {
        if lexicon.is_some() && language == Language::En {
            return Err(DataError::config(
                "lexicon",
                "language \"zh\" or \"auto\" with it",
                "language \"en\"",
            ));
        }
        let lexicon = lexicon.map(Lexicon::read).transpose()?;
        Ok(Self { language, lexicon })
    }

    /// For Chinese text, with the entries of a lexicon file of these bytes.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with_lexicon(bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        Ok(Self { language: Language::Zh, lexicon: Some(Lexicon::parse(bytes, path)?) })
    }

    /// How words are found.
    pub fn language(&self) -> Language {
        self.language
    }

    /// BLAKE3 (hex) of the lexicon file, if there is one.
    pub fn lexicon_fingerprint(&self) -> Option<&str> {
        self.lexicon.as_ref().map(|lexicon| lexicon.fingerprint.as_str())
    }

    /// Clears `word_starts` inside segmented words. Returns how many tokens are misaligned: a word that is kept
    /// whole begins or ends inside them, so the marks cannot say it. Such a token belongs to the word that it
    /// begins in.
    ///
    /// `encoded` comes as the tokenizer made it. Words without a CJK character are left to the `##` rule unless
    /// they stand in the lexicon.
    pub fn mark(&self, line: &str, encoded: &mut EncodedLine) -> usize {
        let segments = match self.language {
            Language::En => false,
            Language::Zh => true,
            Language::Auto => line.chars().any(is_cjk),
        };
        if !segments && self.lexicon.is_none() {
            return 0;
        }
        let folded = Folded::new(line);
        let entries = self.lexicon.as_ref().map_or_else(Vec::new, |lexicon| lexicon.find(&folded, encoded));
        let mut marker = Marker { folded: &folded, encoded, token: 0, open_until: 0, num_misaligned: 0 };
        let mut from = 0;
        for entry in entries {
            if segments {
                Self::segment(from..entry.text.start, &mut marker);
            }
            marker.keep_whole(entry.tokens);
            from = entry.text.end;
        }
        if segments {
            Self::segment(from..folded.text.len(), &mut marker);
        }
        marker.num_misaligned
    }

    /// Cuts a range of the folded line into words, and marks those with a CJK character.
    fn segment(range: Range<usize>, marker: &mut Marker) {
        for word in JIEBA.cut(&marker.folded.text[range.clone()], true) {
            let bytes = range.start + word.byte_start..range.start + word.byte_end;
            marker.mark_word(bytes, word.word.chars().any(is_cjk));
        }
    }
}

/// Lays words over tokens, from left to right.
struct Marker<'a> {
    folded: &'a Folded<'a>,
    encoded: &'a mut EncodedLine,
    /// The first token behind the last word.
    token: usize,
    /// End of a token that reaches over the border of words that are not kept whole.
    open_until: usize,
    num_misaligned: usize,
}

impl Marker<'_> {
    /// A word of the segmenter at these bytes of the folded line.
    fn mark_word(&mut self, word: Range<usize>, is_kept_whole: bool) {
        let (word_start, word_end) = (self.folded.original(word.start), self.folded.original(word.end));
        if is_kept_whole && word_start < self.open_until {
            self.num_misaligned += 1;
            self.open_until = 0;
        }
        while let Some(&(start, end)) = self.encoded.offsets.get(self.token) {
            let (start, end) = (start as usize, end as usize);
            if start >= word_end {
                break;
            }
            if is_kept_whole && start > word_start {
                self.encoded.word_starts[self.token] = false;
            }
            if end > word_end {
                self.num_misaligned += usize::from(is_kept_whole);
                self.open_until = if is_kept_whole { 0 } else { end };
            }
            self.token += 1;
        }
    }

    /// An entry of the lexicon: these tokens are whole words of WordPiece and become one.
    fn keep_whole(&mut self, tokens: Range<usize>) {
        self.encoded.word_starts[tokens.start + 1..tokens.end].fill(false);
        self.token = tokens.end;
    }
}

/// The CJK ideographs that BERT puts spaces around.
pub(crate) fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

#[cfg(test)]
mod tests;
