//! Training a WordPiece vocabulary from text: the same text gives the same file, byte for byte.
//!
//! The merges are those of byte-pair encoding over words, as in the trainer of the `tokenizers` crate. That
//! trainer numbers `##` characters in the order of a randomly seeded hash map and breaks ties by these
//! numbers, so two runs differ; here every tie is broken by the tokens themselves. Words are cut by the same
//! normalizer and splitter that [`crate::tokenizer`] uses.

mod merges;

use crate::error::DataError;
use crate::files::write_atomically;
use crate::text::{TextBlock, TextLine, TextReader, TextSources};
use crate::tokenizer::SPECIAL_TOKENS;
use crate::tokenizer::fast::for_each_plain_word;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::tokenizer::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

/// Text that one thread counts before it asks for more, in bytes.
const COUNT_BLOCK_BYTES: u64 = 4 << 20;
/// Longer words become `[UNK]` and teach nothing.
const MAX_WORD_CHARS: usize = 100;

/// What to train and where to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VocabRequest {
    /// Files, folders and patterns.
    pub sources: Vec<PathBuf>,
    /// Number of tokens, special tokens included.
    pub vocab_size: usize,
    /// Lower-case the text and strip accents first.
    pub lowercase: bool,
    /// A pair of pieces is merged if it occurs at least this often.
    pub min_frequency: u64,
    /// The `vocab.txt` to write.
    pub output: PathBuf,
}

/// What training a vocabulary came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VocabReport {
    /// Tokens written; fewer than asked for if the text has no more pairs worth merging.
    pub vocab_size: usize,
    /// Single characters among them, `##` forms included.
    pub num_characters: usize,
    /// Characters and `##` forms that found no room.
    pub num_dropped_characters: usize,
    /// Different words in the text.
    pub num_words: usize,
}

/// Trains a vocabulary and writes it, `[PAD] [UNK] [CLS] [SEP] [MASK]` first.
///
/// # Errors
///
/// [`DataError::Config`] if `vocab_size` leaves no room beside the special tokens; the errors of reading
/// text; [`DataError::EmptyCorpus`] if the text holds no word; [`DataError::Io`] if the file cannot be
/// written.
pub fn train(request: &VocabRequest) -> Result<VocabReport, DataError> {
    if request.vocab_size <= SPECIAL_TOKENS.len() {
        return Err(DataError::config("vocab_size", "more than the 5 special tokens", request.vocab_size));
    }
    let sources = TextSources::list(&request.sources)?;
    let words = count_words(&sources, request.lowercase)?;
    if words.is_empty() {
        let names: Vec<String> = request.sources.iter().map(|s| format!("`{}`", s.display())).collect();
        return Err(DataError::EmptyCorpus { got: names.join(", ") });
    }
    let num_words = words.len();
    let alphabet = Alphabet::new(&words, request.vocab_size - SPECIAL_TOKENS.len());
    let num_characters = alphabet.tokens.len();
    let num_merged = request.vocab_size - SPECIAL_TOKENS.len() - num_characters;
    let pieces = merges::extend(alphabet.tokens, &words, num_merged, request.min_frequency);
    let mut text = String::new();
    for token in SPECIAL_TOKENS.into_iter().chain(pieces.iter().map(String::as_str)) {
        text.push_str(token);
        text.push('\n');
    }
    write_atomically(&request.output, text.as_bytes())?;
    Ok(VocabReport {
        vocab_size: SPECIAL_TOKENS.len() + pieces.len(),
        num_characters,
        num_dropped_characters: alphabet.num_dropped,
        num_words,
    })
}

/// Counts the words of the text. Addition commutes, so threads cannot change the result.
fn count_words(sources: &TextSources, lowercase: bool) -> Result<BTreeMap<String, u64>, DataError> {
    let blocks = sources.blocks(COUNT_BLOCK_BYTES)?;
    let counts = blocks.par_iter().map(|block| count_block(sources, block, lowercase)).try_reduce(
        HashMap::new,
        |mut left, right| {
            for (word, count) in right {
                *left.entry(word).or_insert(0) += count;
            }
            Ok(left)
        },
    )?;
    Ok(counts.into_iter().collect())
}

/// Counts the words of one block.
fn count_block(
    sources: &TextSources,
    block: &TextBlock,
    lowercase: bool,
) -> Result<HashMap<String, u64>, DataError> {
    let mut counts = HashMap::new();
    let mut reader = TextReader::new(sources, block);
    let mut scratch = String::new();
    while let Some(line) = reader.next_line()? {
        let TextLine::Sentence(line) = line else { continue };
        let is_plain = for_each_plain_word(&line, |start, end, _| {
            scratch.clear();
            scratch.push_str(&line[start..end]);
            if lowercase {
                scratch.make_ascii_lowercase();
            }
            count_word(&mut counts, &scratch);
        });
        if !is_plain {
            count_with_library(&line, lowercase, &mut counts)?;
        }
    }
    Ok(counts)
}

/// Counts the words of a line with characters that have to be normalized.
fn count_with_library(
    line: &str,
    lowercase: bool,
    counts: &mut HashMap<String, u64>,
) -> Result<(), DataError> {
    let normalizer = BertNormalizer::new(true, true, None, lowercase);
    let failed =
        |source| DataError::Tokenizer { action: "split text", path: PathBuf::from("vocabulary"), source };
    let mut normalized = NormalizedString::from(line);
    normalizer.normalize(&mut normalized).map_err(failed)?;
    let mut split = PreTokenizedString::from(normalized);
    BertPreTokenizer.pre_tokenize(&mut split).map_err(failed)?;
    for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
        count_word(counts, word);
    }
    Ok(())
}

fn count_word(counts: &mut HashMap<String, u64>, word: &str) {
    if word.chars().nth(MAX_WORD_CHARS).is_some() {
        return;
    }
    match counts.get_mut(word) {
        Some(count) => *count += 1,
        None => drop(counts.insert(word.to_owned(), 1)),
    }
}

/// The single characters a vocabulary begins with.
struct Alphabet {
    /// `c` for every character, `##c` for those that continue a word; sorted.
    tokens: Vec<String>,
    num_dropped: usize,
}

impl Alphabet {
    /// The most frequent characters that fit into `room`.
    fn new(words: &BTreeMap<String, u64>, room: usize) -> Self {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (word, &count) in words {
            for (idx, character) in word.chars().enumerate() {
                *counts.entry(character.to_string()).or_default() += count;
                if idx > 0 {
                    *counts.entry(format!("##{character}")).or_default() += count;
                }
            }
        }
        let mut ranked: Vec<(String, u64)> = counts.into_iter().collect();
        ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let num_dropped = ranked.len().saturating_sub(room);
        ranked.truncate(room);
        let mut tokens: Vec<String> = ranked.into_iter().map(|(token, _)| token).collect();
        tokens.sort();
        Self { tokens, num_dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn request(dir: &tempfile::TempDir, text: &str, vocab_size: usize) -> VocabRequest {
        let source = dir.path().join("text.txt");
        fs::write(&source, text).unwrap();
        let output = dir.path().join(format!("vocab-{vocab_size}.txt"));
        VocabRequest { sources: vec![source], vocab_size, lowercase: true, min_frequency: 2, output }
    }

    /// A text with many pairs of equal frequency, which is where hash order would show.
    fn tied_text() -> String {
        (0..300).map(|i: u32| format!("{:05} w{}x q{}\n", i * 7919 % 1000, i % 17, i % 13)).collect()
    }

    #[test]
    fn two_runs_and_any_number_of_threads_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let request = request(&dir, &tied_text(), 150);
        train(&request).unwrap();
        let first = fs::read(&request.output).unwrap();
        for num_threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            pool.install(|| train(&request)).unwrap();
            assert_eq!(fs::read(&request.output).unwrap(), first, "{num_threads} threads");
        }
    }

    #[test]
    fn the_most_frequent_pairs_are_merged_and_special_tokens_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let request = request(&dir, "low low low lower lower 低 低\nnew newer newest\n", 40);
        let report = train(&request).unwrap();
        let text = fs::read_to_string(&request.output).unwrap();
        let tokens: Vec<&str> = text.lines().collect();
        assert_eq!(tokens[..5], SPECIAL_TOKENS);
        assert_eq!(tokens.len(), report.vocab_size);
        for expected in ["low", "lower", "new", "低", "##w"] {
            assert!(tokens.contains(&expected), "{expected} in {tokens:?}");
        }
        let encoded = crate::tokenizer::Tokenizer::from_vocab_file(&request.output, true).unwrap();
        // lower, and new ##e ##s ##t: the pairs of "newest" beyond "new" occur once.
        assert_eq!(encoded.encode_line("Lower newest").unwrap().ids.len(), 5);
    }

    #[test]
    fn plain_lines_are_counted_as_in_the_library() {
        let dir = tempfile::tempdir().unwrap();
        for lowercase in [true, false] {
            let text = "Plain TEXT, 12a 中国。\tplain\u{3000}“x”\n";
            let request = request(&dir, text, 40);
            let sources = TextSources::list(&request.sources).unwrap();
            let mut expected = HashMap::new();
            count_with_library(text, lowercase, &mut expected).unwrap();
            let counted = count_words(&sources, lowercase).unwrap();
            assert_eq!(counted, expected.into_iter().collect());
        }
    }

    #[test]
    fn the_size_asked_for_is_never_exceeded() {
        let dir = tempfile::tempdir().unwrap();
        for vocab_size in [6, 10, 30] {
            let request = request(&dir, &tied_text(), vocab_size);
            let report = train(&request).unwrap();
            assert_eq!(report.vocab_size, vocab_size);
        }
        let error = train(&request(&dir, "x\n", 5)).unwrap_err();
        assert!(matches!(error, DataError::Config { setting: "vocab_size", .. }), "{error}");
        let error = train(&request(&dir, "\n \n", 50)).unwrap_err();
        assert!(matches!(error, DataError::EmptyCorpus { .. }), "{error}");
    }
}
