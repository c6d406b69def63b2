//! Text as a corpus: which files, where documents end, one sentence after the other.
//!
//! ```text
//! .txt       one sentence per line, a blank line ends a document, the end of a file too
//! .jsonl     one document per line, in the field `text`      } cut into sentences
//! .parquet   one document per row, in the column `text`      } by rules
//! ```
//! The first two may be packed (.gz, .zst). Files are streamed: nothing here holds more than a line or a
//! document. Tokens are the business of [`crate::tokenizer`].

mod format;
mod json;
mod open;
mod parquet;
mod reader;
mod sentences;
mod sources;

pub use format::{TextFormat, TextLayout, TextPacking};
pub use reader::{InvalidByte, InvalidText, MAX_LINE_BYTES, MAX_ROW_BYTES, TextLine, TextReader};
pub use sentences::sentences;
pub use sources::{TextFile, TextSources};

use crate::error::DataError;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

/// Bytes `start..end` of one text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextSpan {
    /// Index into [`TextSources::files`].
    pub file_idx: usize,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// A run of whole documents: the unit in which the building of shards is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextBlock {
    /// Consecutive stretches of text of one source; every stretch begins and ends at a document border. A file that
    /// cannot be cut is a block of its own, whatever its size.
    pub spans: Vec<TextSpan>,
}

impl TextSources {
    /// Cuts the text into blocks of about `block_bytes`, at document borders.
    ///
    /// The cut depends on the text and `block_bytes` alone, so everybody computes the same blocks. A document
    /// is never cut: one longer than `block_bytes` makes its block longer.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if a file cannot be read.
    pub fn blocks(&self, block_bytes: u64) -> Result<Vec<TextBlock>, DataError> {
        let block_bytes = block_bytes.max(1);
        let mut blocks = Vec::new();
        let mut spans: Vec<TextSpan> = Vec::new();
        let mut room = block_bytes;
        for (file_idx, file) in self.files().iter().enumerate() {
            let begins_source = file_idx > 0 && self.source_of(file_idx) != self.source_of(file_idx - 1);
            if (begins_source || !file.format.can_be_cut()) && !spans.is_empty() {
                blocks.push(TextBlock { spans: std::mem::take(&mut spans) });
                room = block_bytes;
            }
            if !file.format.can_be_cut() {
                if file.num_bytes > 0 {
                    blocks.push(TextBlock {
                        spans: vec![TextSpan { file_idx, start: 0, end: file.num_bytes }],
                    });
                }
                continue;
            }
            let mut start = 0;
            while start < file.num_bytes {
                let wanted = start.saturating_add(room);
                let end = if wanted >= file.num_bytes {
                    file.num_bytes
                } else {
                    next_document_border(file, wanted)?
                };
                spans.push(TextSpan { file_idx, start, end });
                room = room.saturating_sub(end - start);
                start = end;
                if room == 0 {
                    blocks.push(TextBlock { spans: std::mem::take(&mut spans) });
                    room = block_bytes;
                }
            }
        }
        if !spans.is_empty() {
            blocks.push(TextBlock { spans });
        }
        Ok(blocks)
    }

    /// Index of the source that the text of a block belongs to.
    pub fn source_of_block(&self, block: &TextBlock) -> usize {
        block.spans.first().map_or(0, |span| self.source_of(span.file_idx))
    }

    /// Whether the block is a file that cannot be cut, and may hold any amount of text.
    pub fn is_whole_file(&self, block: &TextBlock) -> bool {
        block.spans.iter().any(|span| !self.files()[span.file_idx].format.can_be_cut())
    }

    /// BLAKE3 over the raw bytes of a block, its spans' lengths included.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if a file cannot be read; [`DataError::Damaged`] if it shrank meanwhile.
    pub fn hash_block(&self, block: &TextBlock) -> Result<blake3::Hash, DataError> {
        let mut hasher = blake3::Hasher::new();
        for span in &block.spans {
            let path = &self.files()[span.file_idx].path;
            let num_bytes = span.end - span.start;
            hasher.update(&num_bytes.to_le_bytes());
            let got = crate::files::hash_range(path, span.start, span.end, &mut hasher)?;
            if got != num_bytes {
                return Err(DataError::damaged(path, "bytes of text", num_bytes, got));
            }
        }
        Ok(hasher.finalize())
    }
}

/// The first document border at or after byte `offset`: the byte after a blank line (after any line where each
/// line is a document), or the end of the file.
fn next_document_border(file: &TextFile, offset: u64) -> Result<u64, DataError> {
    let path = &file.path;
    let failed = |e| DataError::io("read text", path)(e);
    // Begin one byte early: if that byte ends a line, the line at `offset` is a whole one.
    let start = offset.saturating_sub(1);
    let mut handle = File::open(path).map_err(DataError::io("open text", path))?;
    handle.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut reader = BufReader::new(handle);
    let mut position = start + skip_line(&mut reader).map_err(failed)?;
    if file.format.layout == TextLayout::JsonRows {
        return Ok(position.min(file.num_bytes));
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        let got = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(failed)? as u64;
        position += got;
        // A stretch of white space without its line end may be the beginning of a line.
        let is_blank = line.ends_with(b"\n") && std::str::from_utf8(&line).is_ok_and(|l| l.trim().is_empty());
        if got == 0 || position >= file.num_bytes || is_blank {
            return Ok(position.min(file.num_bytes));
        }
    }
}

/// Skips to the byte after the next line end without keeping the line.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let (used, done) = match buffer.iter().position(|&b| b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        reader.consume(used);
        skipped += used as u64;
        if done {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests;
