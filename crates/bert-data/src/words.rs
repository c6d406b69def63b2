//! Which tokens start a word: `##` pieces never do, and inside a Chinese word only its first character does.
//!
//! Words are cut by jieba on the text as it was written and laid over the tokens by byte offsets, so `[UNK]`,
//! Latin, digits and dropped characters cannot shift anything. Changes no token.

use crate::error::DataError;
use crate::tokenizer::EncodedLine;
use jieba_rs::Jieba;
use std::collections::HashSet;
use std::path::Path;
use std::sync::OnceLock;

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
    lexicon: Vec<(String, Option<usize>)>,
    lexicon_words: HashSet<String>,
    lexicon_fingerprint: Option<String>,
    /// Loaded on the first line that needs it: the dictionary takes time and memory.
    jieba: OnceLock<Jieba>,
}

impl std::fmt::Debug for WordSegmenter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let num_entries = self.lexicon.len();
        f.debug_struct("WordSegmenter")
            .field("language", &self.language)
            .field("lexicon", &num_entries)
            .finish()
    }
}

impl WordSegmenter {
    /// `lexicon` is a file with one word per line, optionally followed by its frequency, as jieba reads it.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] if a lexicon is given for a language without a segmenter; [`DataError::Io`] or
    /// [`DataError::InvalidUtf8`] if it cannot be read.
    pub fn new(language: Language, lexicon: Option<&Path>) -> Result<Self, DataError> {
        let mut segmenter = Self {
            language,
            lexicon: Vec::new(),
            lexicon_words: HashSet::new(),
            lexicon_fingerprint: None,
            jieba: OnceLock::new(),
        };
        let Some(path) = lexicon else { return Ok(segmenter) };
        if language == Language::En {
            return Err(DataError::config(
                "lexicon",
                "language \"zh\" or \"auto\" with it",
                "language \"en\"",
            ));
        }
        let bytes = std::fs::read(path).map_err(DataError::io("read lexicon", path))?;
        segmenter.lexicon = lexicon_entries(&bytes, path)?;
        segmenter.lexicon_words = segmenter.lexicon.iter().map(|(word, _)| word.clone()).collect();
        segmenter.lexicon_fingerprint = Some(blake3::hash(&bytes).to_hex().to_string());
        Ok(segmenter)
    }

    /// How words are found.
    pub fn language(&self) -> Language {
        self.language
    }

    /// BLAKE3 (hex) of the lexicon file, if there is one.
    pub fn lexicon_fingerprint(&self) -> Option<&str> {
        self.lexicon_fingerprint.as_deref()
    }

    /// Clears `word_starts` inside segmented words. Returns how many tokens reach over the border of a word.
    ///
    /// Words without a CJK character are left to the `##` rule unless they stand in the lexicon.
    pub fn mark(&self, line: &str, encoded: &mut EncodedLine) -> usize {
        let segment = match self.language {
            Language::En => false,
            Language::Zh => true,
            Language::Auto => line.chars().any(is_cjk),
        };
        if !segment {
            return 0;
        }
        let words = self.jieba().cut(line, true);
        let mut num_misaligned = 0;
        let mut token = 0;
        for word in words {
            let is_unit = word.word.chars().any(is_cjk) || self.lexicon_words.contains(word.word);
            while token < encoded.offsets.len() && (encoded.offsets[token].0 as usize) < word.byte_end {
                let (start, end) = encoded.offsets[token];
                if is_unit && start as usize > word.byte_start {
                    encoded.word_starts[token] = false;
                }
                num_misaligned += usize::from(end as usize > word.byte_end);
                token += 1;
            }
        }
        num_misaligned
    }

    /// The segmenter with the lexicon in it.
    fn jieba(&self) -> &Jieba {
        self.jieba.get_or_init(|| {
            let mut jieba = Jieba::new();
            self.extend(&mut jieba);
            jieba
        })
    }

    /// Adds the lexicon to a dictionary.
    fn extend(&self, jieba: &mut Jieba) {
        for (word, frequency) in &self.lexicon {
            jieba.add_word(word, *frequency, None);
        }
    }

    /// A segmenter with a small dictionary in place of jieba's, which takes longer to load than a lexicon to read.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn over(mut jieba: Jieba, bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        let mut segmenter = Self::new(Language::Zh, None)?;
        segmenter.lexicon = lexicon_entries(bytes, path)?;
        segmenter.lexicon_words = segmenter.lexicon.iter().map(|(word, _)| word.clone()).collect();
        segmenter.extend(&mut jieba);
        segmenter.jieba = OnceLock::from(jieba);
        Ok(segmenter)
    }
}

/// Words of a lexicon and their frequencies: the second column, if it is a number.
fn lexicon_entries(bytes: &[u8], path: &Path) -> Result<Vec<(String, Option<usize>)>, DataError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| DataError::InvalidUtf8 { path: path.to_path_buf(), byte: e.valid_up_to() as u64 })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut entries = Vec::new();
    for (idx, line) in text.lines().enumerate() {
        let mut columns = line.split_whitespace();
        let Some(word) = columns.next() else { continue };
        let is_number = |column: &&str| column.bytes().all(|b| b.is_ascii_digit());
        let frequency = match columns.next().filter(is_number) {
            None => None,
            // The segmenter adds all frequencies up in 64 bits.
            Some(column) => Some(column.parse::<u32>().map_err(|_| DataError::BadText {
                path: path.to_path_buf(),
                place: format!("line {}", idx + 1),
                expected: format!("a frequency of at most {}", u32::MAX),
                got: column.to_owned(),
            })? as usize),
        };
        entries.push((word.to_owned(), frequency));
    }
    Ok(entries)
}

/// The CJK ideographs that BERT puts spaces around.
pub(crate) fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{SPECIAL_TOKENS, Tokenizer};

    fn tokenizer() -> Tokenizer {
        let extra =
            "我 们 在 北 京 大 学 用 bert 模 型 i ##phone ##12 2024 年 , 。 covid - 19 清 华 苏 诺 斯";
        let tokens = SPECIAL_TOKENS.iter().copied().chain(extra.split(' ')).map(str::to_owned).collect();
        Tokenizer::from_tokens(tokens, true, Path::new("test")).unwrap()
    }

    /// Tokens joined by `+` inside a word and by a space between words.
    fn joined(segmenter: &WordSegmenter, line: &str) -> (String, usize) {
        let tokenizer = tokenizer();
        let mut encoded = tokenizer.encode_line(line).unwrap();
        let num_misaligned = segmenter.mark(line, &mut encoded);
        let mut text = String::new();
        for (idx, &id) in encoded.ids.iter().enumerate() {
            if idx > 0 {
                text.push(if encoded.word_starts[idx] { ' ' } else { '+' });
            }
            text.push_str(tokenizer.id_to_token(id).unwrap());
        }
        (text, num_misaligned)
    }

    #[test]
    fn chinese_words_survive_latin_digits_unknown_and_dropped_characters() {
        let zh = WordSegmenter::new(Language::Zh, None).unwrap();
        for (line, expected) in [
            ("我们在北京大学", "我+们 在 北+京+大+学"),
            ("我们用BERT模型", "我+们 用 bert 模+型"),
            ("用iPhone12，在北京", "用 i+##phone+##12 [UNK] 在 北+京"),
            ("2024年在 北京大学。", "2024 年 在 北+京+大+学 。"),
            // A character outside the vocabulary keeps its place in the word.
            ("北京太学", "北+京 [UNK]+学"),
            // Private use: the normalizer drops it, offsets of what follows still fit.
            ("\u{e5e5}我们\u{e5e5}在北京", "我+们 在 北+京"),
        ] {
            assert_eq!(joined(&zh, line).0, expected, "{line}");
        }
    }

    #[test]
    fn language_decides_and_auto_looks_at_the_line() {
        let en = WordSegmenter::new(Language::En, None).unwrap();
        let auto = WordSegmenter::new(Language::Auto, None).unwrap();
        assert_eq!(joined(&en, "我们 iphone12").0, "我 们 i+##phone+##12");
        assert_eq!(joined(&auto, "我们 iphone12").0, "我+们 i+##phone+##12");
        assert_eq!(joined(&auto, "covid - 19").0, "covid - 19");
    }

    #[test]
    fn lexicon_words_are_one_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lexicon.txt");
        std::fs::write(&path, "苏诺斯 100000\nCOVID-19 100000\n\n").unwrap();
        let plain = WordSegmenter::new(Language::Zh, None).unwrap();
        let with = WordSegmenter::new(Language::Zh, Some(&path)).unwrap();
        assert_ne!(joined(&plain, "在苏诺斯用COVID-19").0, joined(&with, "在苏诺斯用COVID-19").0);
        assert_eq!(joined(&with, "在苏诺斯用COVID-19").0, "在 苏+诺+斯 用 covid+-+19");
        assert!(with.lexicon_fingerprint().is_some());
        assert!(WordSegmenter::new(Language::En, Some(&path)).is_err());
    }

    #[test]
    fn tokens_over_word_borders_are_counted() {
        let zh = WordSegmenter::new(Language::Zh, None).unwrap();
        assert_eq!(joined(&zh, "我们在北京大学").1, 0);
    }
}
