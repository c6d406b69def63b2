//! Reading one shard: the Megatron-LM indexed format, by positioned reads.
//!
//! Nothing is mapped into memory: a file that shrinks under a running job is an error here, not a signal, and
//! no `unsafe` is needed. The page cache does the rest; indices and word starts of small corpora are kept in memory,
//! because a read that copies a few bytes still costs as much as masking them.
//!
//! ```text
//! .idx  "MMIDIDX\0\0"  version u64 = 1  dtype u8  sequences u64  documents+1 u64
//!       lengths i32[sequences]  offsets in .bin i64[sequences]  first sequence of each document i64[documents+1]
//! ```

use super::manifest::ShardRecord;
use crate::error::DataError;
use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// First bytes of an index file.
pub(super) const MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
/// Version of the format.
pub(super) const VERSION: u64 = 1;
/// Bytes before the sentence lengths.
const HEADER_LEN: u64 = 34;

/// Type of the token ids in a `.bin` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenType {
    /// Two bytes, code 8.
    U16,
    /// Four bytes, code 4.
    I32,
}

impl TokenType {
    /// Megatron's choice: two bytes for fewer than 65,500 ids.
    pub(crate) fn for_vocab(vocab_size: usize) -> Self {
        if vocab_size < 65_500 { Self::U16 } else { Self::I32 }
    }

    /// Code in the index file.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }

    /// Bytes per token.
    pub(crate) fn num_bytes(self) -> u64 {
        match self {
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }
}

/// An open file that is read at positions.
struct Positioned {
    path: PathBuf,
    file: File,
    /// All bytes, where they are kept in memory.
    content: Option<Vec<u8>>,
}

impl Positioned {
    fn open(path: PathBuf) -> Result<Self, DataError> {
        let file = File::open(&path).map_err(DataError::io("open shard file", &path))?;
        Ok(Self { path, file, content: None })
    }

    /// Keeps the first `num_bytes`, which are all, in memory.
    fn keep(&mut self, num_bytes: u64) -> Result<(), DataError> {
        self.content = Some(self.read(0, num_bytes)?.into_owned());
        Ok(())
    }

    fn read(&self, offset: u64, num_bytes: u64) -> Result<Cow<'_, [u8]>, DataError> {
        let too_short = || {
            let expected = format!("{num_bytes} bytes at {offset}");
            DataError::damaged(&self.path, "length", expected, "the end of the file")
        };
        if let Some(content) = &self.content {
            let range = offset as usize..(offset + num_bytes) as usize;
            return content.get(range).map(Cow::Borrowed).ok_or_else(too_short);
        }
        let mut bytes = vec![0u8; num_bytes as usize];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(Cow::Owned(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(too_short()),
            Err(e) => Err(DataError::io("read shard file", &self.path)(e)),
        }
    }

    /// Reads a range in pieces and drops them.
    fn read_through(&self, offset: u64, num_bytes: u64) -> Result<(), DataError> {
        const PIECE_LEN: u64 = 1 << 20;
        let end = offset + num_bytes;
        for start in (offset..end).step_by(PIECE_LEN as usize) {
            self.read(start, PIECE_LEN.min(end - start))?;
        }
        Ok(())
    }

    fn read_u64s(&self, offset: u64, num: u64) -> Result<Vec<u64>, DataError> {
        let bytes = self.read(offset, num * 8)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect())
    }
}

/// One open shard.
pub(crate) struct Shard {
    bin: Positioned,
    idx: Positioned,
    words: Positioned,
    token_type: TokenType,
    num_sentences: u64,
    num_documents: u64,
    num_tokens: u64,
}

impl Shard {
    /// Opens the files of a shard and checks the index against the manifest.
    pub(crate) fn open(dir: &Path, record: &ShardRecord, token_type: TokenType) -> Result<Self, DataError> {
        let [bin, idx, words] = record.files().map(|(name, _)| Positioned::open(dir.join(name)));
        let shard = Self {
            bin: bin?,
            idx: idx?,
            words: words?,
            token_type,
            num_sentences: record.counts.num_sentences,
            num_documents: record.counts.num_documents,
            num_tokens: record.counts.num_tokens,
        };
        shard.check_header(record)?;
        Ok(shard)
    }

    /// Keeps the index and the word starts in memory if they are at most `num_bytes` long. Returns how long they
    /// are, 0 if they are not kept.
    pub(crate) fn keep_index(&mut self, record: &ShardRecord, num_bytes: u64) -> Result<u64, DataError> {
        let [idx_len, words_len] = [record.idx.num_bytes, record.words.num_bytes];
        if idx_len.saturating_add(words_len) > num_bytes {
            return Ok(0);
        }
        self.idx.keep(idx_len)?;
        self.words.keep(words_len)?;
        Ok(idx_len + words_len)
    }

    /// Documents in this shard.
    pub(crate) fn num_documents(&self) -> u64 {
        self.num_documents
    }

    /// Sentence borders of `documents`: one entry more than there are documents.
    pub(crate) fn document_bounds(&self, documents: Range<u64>) -> Result<Vec<u64>, DataError> {
        let base = HEADER_LEN + 12 * self.num_sentences;
        let bounds = self.idx.read_u64s(base + 8 * documents.start, documents.end - documents.start + 1)?;
        let fault = bounds.windows(2).find(|pair| pair[0] >= pair[1] || pair[1] > self.num_sentences);
        if let Some(pair) = fault {
            let expected = format!("ascending up to {}", self.num_sentences);
            let got = format!("{} after {}", pair[1], pair[0]);
            return Err(DataError::damaged(&self.idx.path, "document borders", expected, got));
        }
        Ok(bounds)
    }

    /// Lengths of sentences, in tokens.
    pub(crate) fn sentence_lengths(&self, sentences: Range<u64>) -> Result<Vec<u32>, DataError> {
        let num_bytes = 4 * (sentences.end - sentences.start);
        let bytes = self.idx.read(HEADER_LEN + 4 * sentences.start, num_bytes)?;
        let lengths: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect();
        // Negative ones are far too long here.
        match lengths.iter().find(|&&length| length == 0 || u64::from(length) > self.num_tokens) {
            Some(length) => {
                let expected = format!("1 to {} tokens", self.num_tokens);
                Err(DataError::damaged(&self.idx.path, "sentence length", expected, length))
            }
            None => Ok(lengths),
        }
    }

    /// Index in this shard of the first token of a sentence.
    pub(crate) fn first_token(&self, sentence: u64) -> Result<u64, DataError> {
        let base = HEADER_LEN + 4 * self.num_sentences;
        let offset = self.idx.read_u64s(base + 8 * sentence, 1)?[0];
        let size = self.token_type.num_bytes();
        if !offset.is_multiple_of(size) || offset / size >= self.num_tokens {
            let expected = format!("a multiple of {size} below {}", self.num_tokens * size);
            return Err(DataError::damaged(&self.idx.path, "sentence offset", expected, offset));
        }
        Ok(offset / size)
    }

    /// Appends the token ids of a range of this shard's tokens; all are below `vocab_size`.
    pub(crate) fn read_tokens(
        &self,
        tokens: Range<u64>,
        vocab_size: u64,
        out: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        self.check_end(tokens.end)?;
        let num_before = out.len();
        let size = self.token_type.num_bytes();
        let bytes = self.bin.read(tokens.start * size, (tokens.end - tokens.start) * size)?;
        match self.token_type {
            TokenType::U16 => {
                out.extend(bytes.as_chunks::<2>().0.iter().map(|c| u32::from(u16::from_le_bytes(*c))));
            }
            TokenType::I32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c))),
        }
        match out[num_before..].iter().max() {
            Some(&id) if u64::from(id) >= vocab_size => {
                Err(DataError::damaged(&self.bin.path, "token id", format!("below {vocab_size}"), id))
            }
            _ => Ok(()),
        }
    }

    /// Appends whether each token of a range starts a word.
    pub(crate) fn read_word_starts(&self, tokens: Range<u64>, out: &mut Vec<bool>) -> Result<(), DataError> {
        self.check_end(tokens.end)?;
        let first_byte = tokens.start / 8;
        let bytes = self.words.read(first_byte, tokens.end.div_ceil(8) - first_byte)?;
        let mut num_skipped = (tokens.start % 8) as usize;
        let mut num_left = (tokens.end - tokens.start) as usize;
        out.reserve(num_left);
        for byte in bytes.iter() {
            let bits: [bool; 8] = std::array::from_fn(|bit| byte >> bit & 1 == 1);
            let num_taken = num_left.min(8 - num_skipped);
            out.extend_from_slice(&bits[num_skipped..num_skipped + num_taken]);
            num_left -= num_taken;
            num_skipped = 0;
        }
        Ok(())
    }

    /// Reads all bytes about these documents in large pieces, so that they are in the page cache.
    pub(crate) fn read_ahead(&self, documents: Range<u64>) -> Result<(), DataError> {
        let borders = self.document_bounds(documents)?;
        let (Some(&first), Some(&end)) = (borders.first(), borders.last()) else { return Ok(()) };
        if first == end {
            return Ok(());
        }
        self.idx.read_through(HEADER_LEN + 4 * self.num_sentences + 8 * first, 8 * (end - first))?;
        let lengths = self.sentence_lengths(first..end)?;
        let num_tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let (first_token, size) = (self.first_token(first)?, self.token_type.num_bytes());
        self.check_end(first_token + num_tokens)?;
        self.bin.read_through(first_token * size, num_tokens * size)?;
        let first_byte = first_token / 8;
        self.words.read_through(first_byte, (first_token + num_tokens).div_ceil(8) - first_byte)
    }

    /// Refuses tokens behind the last one before memory is asked for: lengths and offsets may lie.
    fn check_end(&self, end: u64) -> Result<(), DataError> {
        if end <= self.num_tokens {
            return Ok(());
        }
        let expected = format!("at most the {} of the shard", self.num_tokens);
        Err(DataError::damaged(&self.idx.path, "end of a sentence, in tokens", expected, end))
    }

    /// Refuses an index that is no index, or not the one the manifest speaks of. Sums are taken wide enough for
    /// any counts.
    fn check_header(&self, record: &ShardRecord) -> Result<(), DataError> {
        let path = &self.idx.path;
        let header = self.idx.read(0, HEADER_LEN)?;
        if header[..9] != MAGIC {
            return Err(DataError::damaged(path, "magic", "MMIDIDX", header[..9].escape_ascii()));
        }
        let number = |at: usize| header[at..at + 8].iter().rev().fold(0u128, |n, &b| n << 8 | u128::from(b));
        let counts = &record.counts;
        let [num_sentences, num_borders, num_tokens] =
            [counts.num_sentences, counts.num_documents, counts.num_tokens].map(u128::from);
        let num_borders = num_borders + 1;
        let num_idx_bytes = u128::from(HEADER_LEN) + 12 * num_sentences + 8 * num_borders;
        let num_bin_bytes = num_tokens * u128::from(self.token_type.num_bytes());
        for (path, what, expected, got) in [
            (path, "version", u128::from(VERSION), number(9)),
            (path, "dtype code", self.token_type.code().into(), header[17].into()),
            (path, "sentences", num_sentences, number(18)),
            (path, "documents + 1", num_borders, number(26)),
            (path, "bytes for its sentences", num_idx_bytes, record.idx.num_bytes.into()),
            (&self.bin.path, "bytes for its tokens", num_bin_bytes, record.bin.num_bytes.into()),
            (&self.words.path, "bytes for its tokens", num_tokens.div_ceil(8), record.words.num_bytes.into()),
        ] {
            if expected != got {
                return Err(DataError::damaged(path, what, expected, got));
            }
        }
        Ok(())
    }
}
