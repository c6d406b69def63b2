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
    pub(super) fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }

    /// Bytes per token.
    pub(super) fn num_bytes(self) -> u64 {
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
        if !bounds.is_sorted() || bounds.last().is_none_or(|&last| last > self.num_sentences) {
            let expected = format!("ascending up to {}", self.num_sentences);
            return Err(DataError::damaged(
                &self.idx.path,
                "document borders",
                expected,
                format!("{bounds:?}"),
            ));
        }
        Ok(bounds)
    }

    /// Lengths of sentences, in tokens.
    pub(crate) fn sentence_lengths(&self, sentences: Range<u64>) -> Result<Vec<u32>, DataError> {
        let num_bytes = 4 * (sentences.end - sentences.start);
        let bytes = self.idx.read(HEADER_LEN + 4 * sentences.start, num_bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect())
    }

    /// Index in this shard of the first token of a sentence.
    pub(crate) fn first_token(&self, sentence: u64) -> Result<u64, DataError> {
        let base = HEADER_LEN + 4 * self.num_sentences;
        let offset = self.idx.read_u64s(base + 8 * sentence, 1)?;
        Ok(offset[0] / self.token_type.num_bytes())
    }

    /// Appends the token ids of a range of this shard's tokens; all are below `vocab_size`.
    pub(crate) fn read_tokens(
        &self,
        tokens: Range<u64>,
        vocab_size: u64,
        out: &mut Vec<u32>,
    ) -> Result<(), DataError> {
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
        self.bin.read_through(first_token * size, num_tokens * size)?;
        let first_byte = first_token / 8;
        self.words.read_through(first_byte, (first_token + num_tokens).div_ceil(8) - first_byte)
    }

    /// Refuses an index that is no index, or not the one the manifest speaks of.
    fn check_header(&self, record: &ShardRecord) -> Result<(), DataError> {
        let path = &self.idx.path;
        let header = self.idx.read(0, HEADER_LEN)?;
        if header[..9] != MAGIC {
            return Err(DataError::damaged(path, "magic", "MMIDIDX", String::from_utf8_lossy(&header[..9])));
        }
        let number = |at: usize| header[at..at + 8].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let counts = &record.counts;
        for (what, expected, got) in [
            ("version", VERSION, number(9)),
            ("dtype code", u64::from(self.token_type.code()), u64::from(header[17])),
            ("sentences", counts.num_sentences, number(18)),
            ("documents + 1", counts.num_documents + 1, number(26)),
            (
                "bytes",
                HEADER_LEN + 12 * counts.num_sentences + 8 * (counts.num_documents + 1),
                record.idx.num_bytes,
            ),
        ] {
            if expected != got {
                return Err(DataError::damaged(path, what, expected, got));
            }
        }
        let num_bytes = counts.num_tokens * self.token_type.num_bytes();
        if num_bytes != record.bin.num_bytes {
            return Err(DataError::damaged(
                &self.bin.path,
                "bytes for its tokens",
                num_bytes,
                record.bin.num_bytes,
            ));
        }
        if counts.num_tokens.div_ceil(8) != record.words.num_bytes {
            let expected = counts.num_tokens.div_ceil(8);
            return Err(DataError::damaged(
                &self.words.path,
                "bytes for its tokens",
                expected,
                record.words.num_bytes,
            ));
        }
        Ok(())
    }
}
