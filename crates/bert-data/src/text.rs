//! Plain text as a corpus: which files, where documents end, one line after the other.
//!
//! One sentence per line, a blank line ends a document, the end of a file too. Files are streamed: nothing
//! here holds more than a line. Tokens are the business of [`crate::tokenizer`].

mod sources;

pub use sources::{TextFile, TextSources};

use crate::error::DataError;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

/// The longest line accepted, in bytes. A line is a sentence; a file without line ends is a mistake.
pub const MAX_LINE_BYTES: u64 = 16 << 20;

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
    /// Consecutive stretches of text; every stretch begins and ends at a document border.
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

/// One step through a block of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextLine {
    /// A line that is not blank, without its line end and outer white space.
    Sentence(String),
    /// The end of a document that had at least one line.
    DocumentEnd,
}

/// Streams the lines of one block.
pub struct TextReader<'a> {
    sources: &'a TextSources,
    spans: std::vec::IntoIter<TextSpan>,
    open: Option<OpenSpan>,
    in_document: bool,
    line: Vec<u8>,
}

/// The span that is being read, and where in its file.
struct OpenSpan {
    file_idx: usize,
    offset: u64,
    reader: BufReader<std::io::Take<File>>,
}

impl<'a> TextReader<'a> {
    /// Starts at the first line of the block.
    pub fn new(sources: &'a TextSources, block: &TextBlock) -> Self {
        Self {
            sources,
            spans: block.spans.clone().into_iter(),
            open: None,
            in_document: false,
            line: Vec::new(),
        }
    }

    /// The next sentence or document end; `None` at the end of the block.
    ///
    /// # Errors
    ///
    /// [`DataError::InvalidUtf8`] names the file and the byte; [`DataError::LineTooLong`]; [`DataError::Io`].
    pub fn next_line(&mut self) -> Result<Option<TextLine>, DataError> {
        loop {
            if self.open.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some(sentence) = self.read_line()? else {
                self.open = None;
                if std::mem::take(&mut self.in_document) {
                    return Ok(Some(TextLine::DocumentEnd));
                }
                continue;
            };
            if !sentence.is_empty() {
                self.in_document = true;
                return Ok(Some(TextLine::Sentence(sentence)));
            }
            if std::mem::take(&mut self.in_document) {
                return Ok(Some(TextLine::DocumentEnd));
            }
        }
    }

    /// Opens the next span of the block; false if there is none.
    fn open_next(&mut self) -> Result<bool, DataError> {
        let Some(span) = self.spans.next() else { return Ok(false) };
        let path = &self.sources.files()[span.file_idx].path;
        let mut file = File::open(path).map_err(DataError::io("open text", path))?;
        file.seek(SeekFrom::Start(span.start)).map_err(DataError::io("seek in text", path))?;
        let reader = BufReader::with_capacity(1 << 17, file.take(span.end - span.start));
        self.open = Some(OpenSpan { file_idx: span.file_idx, offset: span.start, reader });
        Ok(true)
    }

    /// Reads one line, trimmed; `None` at the end of the span. A blank line is an empty string.
    fn read_line(&mut self) -> Result<Option<String>, DataError> {
        let Some(open) = self.open.as_mut() else { return Ok(None) };
        let path = &self.sources.files()[open.file_idx].path;
        self.line.clear();
        let mut limited = (&mut open.reader).take(MAX_LINE_BYTES + 1);
        let got = limited.read_until(b'\n', &mut self.line).map_err(DataError::io("read text", path))? as u64;
        if got > MAX_LINE_BYTES {
            return Err(DataError::LineTooLong {
                path: path.clone(),
                byte: open.offset,
                limit: MAX_LINE_BYTES,
            });
        }
        if got == 0 {
            return Ok(None);
        }
        let line = std::str::from_utf8(&self.line).map_err(|e| DataError::InvalidUtf8 {
            path: path.clone(),
            byte: open.offset + e.valid_up_to() as u64,
        })?;
        let line = if open.offset == 0 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        open.offset += got;
        Ok(Some(line.trim().to_owned()))
    }
}

/// The first document border at or after byte `offset`: the byte after a blank line, or the end of the file.
fn next_document_border(file: &TextFile, offset: u64) -> Result<u64, DataError> {
    let path = &file.path;
    let failed = |e| DataError::io("read text", path)(e);
    // Begin one byte early: if that byte ends a line, the line at `offset` is a whole one.
    let start = offset.saturating_sub(1);
    let mut handle = File::open(path).map_err(DataError::io("open text", path))?;
    handle.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut reader = BufReader::new(handle);
    let mut position = start + skip_line(&mut reader).map_err(failed)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let got = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(failed)? as u64;
        position += got;
        let is_blank = std::str::from_utf8(&line).is_ok_and(|l| l.trim().is_empty());
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
