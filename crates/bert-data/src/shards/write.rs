//! Writing one shard: sentence after sentence, document after document, hashed on the way.

use super::indexed::{MAGIC, TokenType, VERSION};
use super::manifest::{Counts, ShardRecord};
use crate::error::DataError;
use crate::files::HashingFile;
use crate::text::InvalidText;
use std::path::{Path, PathBuf};

/// A shard that is being written. Keeps 4 bytes per sentence and 8 per document until it is finished.
pub(crate) struct ShardWriter {
    name: String,
    idx_path: PathBuf,
    bin: HashingFile,
    words: HashingFile,
    token_type: TokenType,
    lengths: Vec<i32>,
    /// First sentence of each document, then of the one that is being written.
    documents: Vec<i64>,
    /// Bits that do not fill a byte yet.
    pending_bits: u8,
    num_pending_bits: u32,
    unk: u32,
    counts: Counts,
}

impl ShardWriter {
    /// Creates the files `<dir>/<name>.{bin,words}`; the index follows in [`ShardWriter::finish`].
    pub(crate) fn create(dir: &Path, name: &str, token_type: TokenType, unk: u32) -> Result<Self, DataError> {
        let path = |extension: &str| dir.join(format!("{name}.{extension}"));
        Ok(Self {
            name: name.to_owned(),
            idx_path: path("idx"),
            bin: HashingFile::create(&path("bin"))?,
            words: HashingFile::create(&path("words"))?,
            token_type,
            lengths: Vec::new(),
            documents: vec![0],
            pending_bits: 0,
            num_pending_bits: 0,
            unk,
            counts: Counts::default(),
        })
    }

    /// Adds a sentence to the current document. A line without tokens is counted and left out.
    pub(crate) fn sentence(
        &mut self,
        ids: &[u32],
        word_starts: &[bool],
        num_misaligned: usize,
    ) -> Result<(), DataError> {
        if ids.is_empty() {
            self.counts.num_empty_lines += 1;
            return Ok(());
        }
        let bytes: Vec<u8> = match self.token_type {
            TokenType::U16 => ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
            TokenType::I32 => ids.iter().flat_map(|&id| id.to_le_bytes()).collect(),
        };
        self.bin.write(&bytes)?;
        self.push_bits(word_starts)?;
        self.lengths.push(ids.len() as i32);
        self.counts.num_sentences += 1;
        self.counts.num_tokens += ids.len() as u64;
        self.counts.num_unknown += ids.iter().filter(|&&id| id == self.unk).count() as u64;
        self.counts.num_misaligned += num_misaligned as u64;
        Ok(())
    }

    /// Ends the current document; one without sentences leaves no trace.
    pub(crate) fn end_document(&mut self) {
        let next = self.lengths.len() as i64;
        if self.documents.last() != Some(&next) {
            self.documents.push(next);
            self.counts.num_documents += 1;
        }
    }

    /// Writes the index, syncs everything, and says what was written.
    pub(crate) fn finish(
        mut self,
        text_blake3: String,
        num_text_bytes: u64,
        invalid: InvalidText,
    ) -> Result<ShardRecord, DataError> {
        self.end_document();
        if self.num_pending_bits > 0 {
            self.words.write(&[self.pending_bits])?;
        }
        self.counts.num_text_bytes = num_text_bytes;
        self.counts.num_invalid_lines = invalid.num_lines;
        let mut idx = HashingFile::create(&self.idx_path)?;
        idx.write(&MAGIC)?;
        idx.write(&VERSION.to_le_bytes())?;
        idx.write(&[self.token_type.code()])?;
        idx.write(&(self.lengths.len() as u64).to_le_bytes())?;
        idx.write(&(self.documents.len() as u64).to_le_bytes())?;
        for length in &self.lengths {
            idx.write(&length.to_le_bytes())?;
        }
        let mut offset = 0i64;
        for &length in &self.lengths {
            idx.write(&offset.to_le_bytes())?;
            offset += i64::from(length) * self.token_type.num_bytes() as i64;
        }
        for first_sentence in &self.documents {
            idx.write(&first_sentence.to_le_bytes())?;
        }
        let (bin, idx, words) = (self.bin.finish()?, idx.finish()?, self.words.finish()?);
        let (name, counts, first_invalid) = (self.name, self.counts, invalid.first);
        Ok(ShardRecord { name, text_blake3, first_invalid, counts, bin, idx, words })
    }

    /// Appends bits, lowest first.
    fn push_bits(&mut self, bits: &[bool]) -> Result<(), DataError> {
        let mut full = Vec::with_capacity(bits.len() / 8 + 1);
        for &bit in bits {
            self.pending_bits |= u8::from(bit) << self.num_pending_bits;
            self.num_pending_bits += 1;
            if self.num_pending_bits == 8 {
                full.push(std::mem::take(&mut self.pending_bits));
                self.num_pending_bits = 0;
            }
        }
        self.words.write(&full)
    }
}
