//! The lexicon: entries that are one word wherever the text holds them.
//!
//! Entries are found before the segmenter sees the text, so no dictionary word and no frequency can cut or hide
//! one. Knows nothing of the segmenter.

use super::fold::Folded;
use crate::error::DataError;
use crate::tokenizer::EncodedLine;
use daachorse::CharwiseDoubleArrayAhoCorasick;
use std::cmp::Reverse;
use std::ops::Range;
use std::path::Path;

/// The entries of a file.
pub(super) struct Lexicon {
    /// BLAKE3 (hex) of the file.
    pub(super) fingerprint: String,
    pub(super) num_entries: usize,
    /// Absent if there is no entry.
    automaton: Option<CharwiseDoubleArrayAhoCorasick<u32>>,
}

/// A place where an entry stands.
pub(super) struct Occurrence {
    /// Bytes of the folded line.
    pub(super) text: Range<usize>,
    /// Tokens, at least one.
    pub(super) tokens: Range<usize>,
}

impl Lexicon {
    /// # Errors
    ///
    /// [`DataError::Io`], [`DataError::InvalidUtf8`], or [`DataError::Config`] if there are too many entries.
    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(DataError::io("read lexicon", path))?;
        Self::parse(&bytes, path)
    }

    /// The entries of a file of these bytes.
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| DataError::InvalidUtf8 { path: path.to_path_buf(), byte: e.valid_up_to() as u64 })?;
        let mut entries: Vec<String> = text
            .trim_start_matches('\u{feff}')
            .lines()
            .map(|line| Folded::new(entry(line)).text.into_owned())
            .filter(|entry| !entry.is_empty())
            .collect();
        entries.sort_unstable();
        entries.dedup();
        let automaton = if entries.is_empty() {
            None
        } else {
            Some(CharwiseDoubleArrayAhoCorasick::new(&entries).map_err(|error| {
                DataError::config("lexicon", "entries that one automaton can hold: shorten the list", error)
            })?)
        };
        let fingerprint = blake3::hash(bytes).to_hex().to_string();
        Ok(Self { fingerprint, num_entries: entries.len(), automaton })
    }

    /// Where entries stand in a line: the leftmost first, of those that begin at the same place the longest, then
    /// on behind it.
    ///
    /// `encoded` has the word starts of WordPiece. An entry that begins or ends inside one of its words, as AI in
    /// SAID, does not stand there.
    pub(super) fn find(&self, folded: &Folded, encoded: &EncodedLine) -> Vec<Occurrence> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let mut found: Vec<Occurrence> = automaton
            .find_overlapping_iter(folded.text.as_ref())
            .filter_map(|found| {
                let text = found.start()..found.end();
                let tokens = whole_words(folded.original(text.start)..folded.original(text.end), encoded)?;
                Some(Occurrence { text, tokens })
            })
            .collect();
        found.sort_unstable_by_key(|occurrence| (occurrence.text.start, Reverse(occurrence.text.end)));
        let mut free_from = 0;
        found.retain(|occurrence| {
            let is_free = occurrence.text.start >= free_from;
            if is_free {
                free_from = occurrence.text.end;
            }
            is_free
        });
        found
    }
}

/// The entry of a line of the file, without what jieba writes behind it: a frequency and a tag.
fn entry(line: &str) -> &str {
    if let Some((entry, _)) = line.split_once('\t') {
        return entry.trim();
    }
    let line = line.trim();
    let columns: Vec<&str> = line.split_whitespace().collect();
    let is_number = |column: &str| column.bytes().all(|byte| byte.is_ascii_digit());
    let is_tag = |column: &str| column.bytes().all(|byte| byte.is_ascii_lowercase());
    match columns.as_slice() {
        [entry, frequency] if is_number(frequency) => entry,
        [entry, frequency, tag] if is_number(frequency) && is_tag(tag) => entry,
        [entry, tag] if is_tag(tag) && entry.chars().all(super::is_cjk) => entry,
        _ => line,
    }
}

/// The tokens in the bytes `range` of the line as it was written, if they are whole words of WordPiece.
fn whole_words(range: Range<usize>, encoded: &EncodedLine) -> Option<Range<usize>> {
    let EncodedLine { offsets, word_starts, .. } = encoded;
    let first_from = |byte: usize| offsets.partition_point(|&(start, _)| (start as usize) < byte);
    let (first, behind) = (first_from(range.start), first_from(range.end));
    let ends_by = |token: usize, byte: usize| offsets[token].1 as usize <= byte;
    let is_whole = first < behind
        && (first == 0 || ends_by(first - 1, range.start))
        && ends_by(behind - 1, range.end)
        && word_starts[first]
        && word_starts.get(behind).is_none_or(|&is_start| is_start);
    is_whole.then_some(first..behind)
}
