//! Streams sentences and document ends out of a block, whatever the format of its files.
//!
//! Holds a line of plain text, or one document of the other formats.

use super::format::TextLayout;
use super::json::text_of;
use super::open::{TextStream, open_stream, read_error};
use super::parquet::ParquetRows;
use super::sentences::sentences;
use super::{TextBlock, TextFile, TextSources, TextSpan};
use crate::error::DataError;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest line of plain text accepted, in bytes. A line is a sentence; a file without line ends is a
/// mistake.
pub const MAX_LINE_BYTES: u64 = 16 << 20;
/// The longest document accepted in the formats with one document per row, in bytes.
pub const MAX_ROW_BYTES: u64 = 64 << 20;

/// One step through a block of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextLine {
    /// A sentence that is not blank, without its line end and outer white space.
    Sentence(String),
    /// The end of a document that had at least one line.
    DocumentEnd,
}

/// Where a byte that is not UTF-8 stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvalidByte {
    /// Index into [`TextSources::files`].
    pub file_idx: usize,
    /// Offset in the unpacked file; in a Parquet file, in its texts laid end to end. Of half a surrogate pair in a
    /// JSON escape, that of its line.
    pub byte: u64,
}

/// Lines, or documents of Parquet files, in which bytes were replaced because they were not UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InvalidText {
    /// How many.
    pub num_lines: u64,
    /// The first such byte.
    pub first: Option<InvalidByte>,
}

/// Streams the lines of one block.
pub struct TextReader<'a> {
    sources: &'a TextSources,
    spans: std::vec::IntoIter<TextSpan>,
    open: Option<OpenSpan>,
    in_document: bool,
    /// Sentences of a document that was read as a whole.
    ready: VecDeque<TextLine>,
    line: Vec<u8>,
    is_strict: bool,
    invalid: InvalidText,
    num_text_bytes: u64,
    num_file_bytes_before: u64,
}

/// The span that is being read, and where in its file.
struct OpenSpan {
    span: TextSpan,
    /// Bytes of text before the next line, counted from the beginning of the file.
    offset: u64,
    content: Content,
}

/// Where lines or rows come from.
enum Content {
    Lines(TextStream, Arc<AtomicU64>),
    JsonRows(TextStream, Arc<AtomicU64>),
    Parquet(Box<ParquetRows>),
}

impl OpenSpan {
    /// Bytes of the file that have been read.
    fn num_file_bytes(&self) -> u64 {
        match &self.content {
            Content::Lines(_, read) | Content::JsonRows(_, read) => read.load(Ordering::Relaxed),
            Content::Parquet(rows) => ((self.span.end - self.span.start) as f64 * rows.share_read()) as u64,
        }
    }
}

impl<'a> TextReader<'a> {
    /// Starts at the first line of the block. A byte that is not UTF-8 is an error.
    pub fn new(sources: &'a TextSources, block: &TextBlock) -> Self {
        Self {
            sources,
            spans: block.spans.clone().into_iter(),
            open: None,
            in_document: false,
            ready: VecDeque::new(),
            line: Vec::new(),
            is_strict: true,
            invalid: InvalidText::default(),
            num_text_bytes: 0,
            num_file_bytes_before: 0,
        }
    }

    /// Replaces bytes that are not UTF-8 by U+FFFD and counts their lines in [`TextReader::take_invalid`].
    #[must_use]
    pub fn replacing_invalid(mut self) -> Self {
        self.is_strict = false;
        self
    }

    /// What has been replaced since the last call.
    pub fn take_invalid(&mut self) -> InvalidText {
        std::mem::take(&mut self.invalid)
    }

    /// Bytes of unpacked text read so far, line ends and the like included.
    pub fn num_text_bytes(&self) -> u64 {
        self.num_text_bytes
    }

    /// Bytes of the files read so far; for Parquet files by the share of rows.
    pub fn num_file_bytes(&self) -> u64 {
        self.num_file_bytes_before + self.open.as_ref().map_or(0, OpenSpan::num_file_bytes)
    }

    /// Whether there is another line.
    ///
    /// # Errors
    ///
    /// Those of [`TextReader::next_line`].
    pub fn has_more(&mut self) -> Result<bool, DataError> {
        if self.ready.is_empty()
            && let Some(line) = self.next_line()?
        {
            self.ready.push_front(line);
        }
        Ok(!self.ready.is_empty())
    }

    /// The next sentence or document end; `None` at the end of the block.
    ///
    /// # Errors
    ///
    /// [`DataError::InvalidUtf8`] names the file and the byte; [`DataError::LineTooLong`];
    /// [`DataError::BadText`] for a row without text, half a surrogate pair in an escape, or a file that cannot be unpacked; [`DataError::Io`].
    pub fn next_line(&mut self) -> Result<Option<TextLine>, DataError> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let Some(mut open) = self.take_open()? else { return Ok(None) };
            let is_more = match &mut open.content {
                Content::Lines(stream, _) => {
                    let found = self.read_line(&open.span, &mut open.offset, stream)?;
                    self.open = found.is_some().then_some(open);
                    match self.plain_line(found) {
                        Some(line) => return Ok(Some(line)),
                        None => continue,
                    }
                }
                Content::JsonRows(stream, _) => self.read_json(&open.span, &mut open.offset, stream)?,
                Content::Parquet(rows) => self.read_parquet(&open.span, &mut open.offset, rows)?,
            };
            if is_more {
                self.open = Some(open);
            } else {
                self.num_file_bytes_before += open.span.end - open.span.start;
            }
        }
    }

    /// The open span, or the next one of the block, opened.
    fn take_open(&mut self) -> Result<Option<OpenSpan>, DataError> {
        if let Some(open) = self.open.take() {
            return Ok(Some(open));
        }
        let Some(span) = self.spans.next() else { return Ok(None) };
        let file = &self.sources.files()[span.file_idx];
        let content = match file.format.layout {
            TextLayout::Parquet => Content::Parquet(Box::new(ParquetRows::open(file)?)),
            layout => {
                let (stream, read) = open_stream(file, span.start, span.end)?;
                if layout == TextLayout::Lines {
                    Content::Lines(stream, read)
                } else {
                    Content::JsonRows(stream, read)
                }
            }
        };
        Ok(Some(OpenSpan { span, offset: span.start, content }))
    }

    /// What a line of plain text means; `None` if it means nothing.
    fn plain_line(&mut self, line: Option<String>) -> Option<TextLine> {
        match line {
            Some(line) if !line.is_empty() => {
                self.in_document = true;
                Some(TextLine::Sentence(line))
            }
            _ => std::mem::take(&mut self.in_document).then_some(TextLine::DocumentEnd),
        }
    }

    /// Reads one line of plain text, trimmed; `None` at the end of the span. A blank line is an empty string.
    fn read_line(
        &mut self,
        span: &TextSpan,
        offset: &mut u64,
        stream: &mut TextStream,
    ) -> Result<Option<String>, DataError> {
        let at = *offset;
        if !self.fill_line(span, offset, stream, MAX_LINE_BYTES)? {
            self.num_file_bytes_before += span.end - span.start;
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        let text = self.decode(&line, span.file_idx, at)?;
        let text = if at == 0 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
        let text = text.trim().to_owned();
        self.line = line;
        Ok(Some(text))
    }

    /// Reads one row of JSON Lines and cuts its text; false at the end of the span.
    fn read_json(
        &mut self,
        span: &TextSpan,
        offset: &mut u64,
        stream: &mut TextStream,
    ) -> Result<bool, DataError> {
        let at = *offset;
        if !self.fill_line(span, offset, stream, MAX_ROW_BYTES)? {
            return Ok(false);
        }
        let line = std::mem::take(&mut self.line);
        let row = self.decode(&line, span.file_idx, at)?;
        let bare = if at == 0 { row.strip_prefix('\u{feff}').unwrap_or(&row) } else { &row };
        if !bare.trim().is_empty() {
            let document = text_of(bare.as_bytes()).map_err(|got| DataError::BadText {
                path: self.path_of(span).path.clone(),
                place: format!("byte {at}"),
                expected: "a JSON object on one line with a string `text`".to_owned(),
                got,
            })?;
            match std::str::from_utf8(&document) {
                Ok(document) => self.cut(document),
                // The row is UTF-8: an escape has made half a character.
                Err(_) if self.is_strict => {
                    return Err(DataError::BadText {
                        path: self.path_of(span).path.clone(),
                        place: format!("byte {at}"),
                        expected: "whole characters in the string `text`".to_owned(),
                        got: "an escape for half of a surrogate pair (\\ud800 to \\udfff)".to_owned(),
                    });
                }
                Err(_) => {
                    if matches!(row, Cow::Borrowed(_)) {
                        self.count_invalid(span.file_idx, at);
                    }
                    self.cut(&String::from_utf8_lossy(&document));
                }
            }
        }
        self.line = line;
        Ok(true)
    }

    /// Reads one row of a Parquet file and cuts its text; false at the end.
    fn read_parquet(
        &mut self,
        span: &TextSpan,
        offset: &mut u64,
        rows: &mut ParquetRows,
    ) -> Result<bool, DataError> {
        let Some(row) = rows.next_row()? else { return Ok(false) };
        if row.len() as u64 > MAX_ROW_BYTES {
            return Err(DataError::BadText {
                path: self.path_of(span).path.clone(),
                place: format!("byte {offset} of its text"),
                expected: format!("documents of at most {MAX_ROW_BYTES} bytes"),
                got: row.len().to_string(),
            });
        }
        let document = self.decode(row.data(), span.file_idx, *offset)?;
        self.cut(&document);
        *offset += row.len() as u64;
        self.num_text_bytes += row.len() as u64;
        Ok(true)
    }

    /// Queues the sentences of a document.
    fn cut(&mut self, document: &str) {
        self.ready.extend(sentences(document).map(|s| TextLine::Sentence(s.to_owned())));
        if !self.ready.is_empty() {
            self.ready.push_back(TextLine::DocumentEnd);
        }
    }

    /// Reads the bytes of one line, its end included; false at the end of the span.
    fn fill_line(
        &mut self,
        span: &TextSpan,
        offset: &mut u64,
        stream: &mut TextStream,
        limit: u64,
    ) -> Result<bool, DataError> {
        let file = self.path_of(span);
        self.line.clear();
        let got = stream.take(limit + 1).read_until(b'\n', &mut self.line);
        let got = got.map_err(|source| read_error(file, *offset, source))? as u64;
        if got > limit {
            return Err(DataError::LineTooLong { path: file.path.clone(), byte: *offset, limit });
        }
        *offset += got;
        self.num_text_bytes += got;
        Ok(got > 0)
    }

    /// Bytes as text; what is no UTF-8 is an error or replaced.
    fn decode<'b>(
        &mut self,
        bytes: &'b [u8],
        file_idx: usize,
        offset: u64,
    ) -> Result<Cow<'b, str>, DataError> {
        let error = match std::str::from_utf8(bytes) {
            Ok(text) => return Ok(Cow::Borrowed(text)),
            Err(error) => error,
        };
        let byte = offset + error.valid_up_to() as u64;
        if self.is_strict {
            let path = self.sources.files()[file_idx].path.clone();
            return Err(DataError::InvalidUtf8 { path, byte });
        }
        self.count_invalid(file_idx, byte);
        Ok(String::from_utf8_lossy(bytes))
    }

    /// Counts a line in which something was replaced.
    fn count_invalid(&mut self, file_idx: usize, byte: u64) {
        self.invalid.num_lines += 1;
        self.invalid.first.get_or_insert(InvalidByte { file_idx, byte });
    }

    fn path_of(&self, span: &TextSpan) -> &'a TextFile {
        &self.sources.files()[span.file_idx]
    }
}
