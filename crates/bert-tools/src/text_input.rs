//! Texts from a file or standard input, one after the other, in bounded memory.
//!
//! Owns what a line is, where the text stands in it, and what is said about a line that is not one. Tokens are not
//! known here.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use anyhow::Context;
use serde_json::Value;

use crate::failure::ToolError;

/// Longest line that is read: as in text for training.
const MAX_LINE_BYTES: u64 = bert_data::text::MAX_LINE_BYTES;
/// Field of a JSON line that holds the text, unless another one is named.
const TEXT_FIELD: &str = "text";

/// How a line holds its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineForm {
    /// The line is the text.
    Plain,
    /// The line is a JSON object with the text in this field.
    Json(String),
}

impl LineForm {
    /// The form of a file by its name, where no field is named.
    pub fn of(path: &Path, field: Option<&str>) -> Self {
        let is_json = path.extension().is_some_and(|extension| extension == "jsonl");
        match field {
            Some(field) => Self::Json(field.to_owned()),
            None if is_json => Self::Json(TEXT_FIELD.to_owned()),
            None => Self::Plain,
        }
    }
}

/// Lines of a file or of standard input.
pub struct TextInput {
    reader: Box<dyn BufRead>,
    name: String,
    form: LineForm,
    num_bytes: Option<u64>,
    num_bytes_read: u64,
    num_lines: u64,
}

impl TextInput {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    ///
    /// If there is no such file, or its name says that it is packed or not lines of text.
    pub fn open(path: &Path, form: LineForm) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::new(Box::new(io::stdin().lock()), "standard input".to_owned(), form));
        }
        if let Some(extension) = path
            .extension()
            .filter(|extension| ["gz", "zst", "parquet"].iter().any(|other| extension == other))
        {
            let message = format!(
                "`{}` is .{}, expected lines of text or .jsonl: unpack it first, or pipe it to `--input -`",
                path.display(),
                extension.display()
            );
            return Err(ToolError::Usage(message).into());
        }
        let cannot_read = |error: io::Error| {
            let message = format!("cannot read `{}`: {error}", path.display());
            anyhow::Error::from(ToolError::Usage(message))
        };
        let file = File::open(path).map_err(cannot_read)?;
        let num_bytes = file.metadata().map_err(cannot_read)?.len();
        let mut input = Self::new(Box::new(BufReader::new(file)), format!("`{}`", path.display()), form);
        input.num_bytes = Some(num_bytes);
        Ok(input)
    }

    fn new(reader: Box<dyn BufRead>, name: String, form: LineForm) -> Self {
        Self { reader, name, form, num_bytes: None, num_bytes_read: 0, num_lines: 0 }
    }

    /// Size of the file; unknown for standard input.
    pub fn num_bytes(&self) -> Option<u64> {
        self.num_bytes
    }

    /// Bytes read so far.
    pub fn num_bytes_read(&self) -> u64 {
        self.num_bytes_read
    }

    /// The next text; `None` at the end. An empty line is an empty text.
    ///
    /// # Errors
    ///
    /// Names the line if it is not UTF-8, too long, or not what its form promises.
    pub fn next_text(&mut self) -> anyhow::Result<Option<String>> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        let LineForm::Json(field) = &self.form else { return Ok(Some(line)) };
        let refused = |got: &str| {
            let expected = format!("expected a JSON object with the text in the field `{field}`");
            self.damaged(&format!("{expected}, got {got}"))
        };
        match serde_json::from_str::<Value>(&line) {
            Err(_) if line.trim().is_empty() => Err(refused("an empty line")),
            Err(error) => Err(refused(&error.to_string())),
            Ok(value) => match value.get(field) {
                Some(Value::String(text)) => Ok(Some(text.clone())),
                Some(_) => Err(refused("something else than text in it")),
                None => Err(refused("no such field")),
            },
        }
    }

    /// An error about the line that was read last.
    pub fn damaged(&self, problem: &str) -> anyhow::Error {
        ToolError::Damaged(format!("line {} of {}: {problem}", self.num_lines, self.name)).into()
    }

    fn next_line(&mut self) -> anyhow::Result<Option<String>> {
        let mut bytes = Vec::new();
        let num_read = self
            .reader
            .by_ref()
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut bytes)
            .with_context(|| format!("cannot read {}", self.name))?;
        if num_read == 0 {
            return Ok(None);
        }
        self.num_bytes_read += num_read as u64;
        self.num_lines += 1;
        if num_read as u64 > MAX_LINE_BYTES {
            return Err(self.damaged(&format!("expected at most {MAX_LINE_BYTES} bytes, got more")));
        }
        if bytes.ends_with(b"\n") {
            bytes.pop();
        }
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
        match String::from_utf8(bytes) {
            Ok(line) if self.num_lines == 1 => Ok(Some(line.trim_start_matches('\u{feff}').to_owned())),
            Ok(line) => Ok(Some(line)),
            Err(error) => {
                let place = error.utf8_error().valid_up_to() + 1;
                Err(self.damaged(&format!("expected UTF-8, got something else at byte {place} of the line")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: &[u8], form: LineForm) -> TextInput {
        TextInput::new(Box::new(io::Cursor::new(bytes.to_vec())), "`texts`".to_owned(), form)
    }

    fn texts(mut input: TextInput) -> anyhow::Result<Vec<String>> {
        std::iter::from_fn(|| input.next_text().transpose()).collect()
    }

    #[test]
    fn every_line_is_a_text_and_empty_ones_count() {
        let read = |bytes: &[u8]| texts(input(bytes, LineForm::Plain)).unwrap();
        assert_eq!(read("\u{feff}one\r\n\n two \nthree".as_bytes()), ["one", "", " two ", "three"]);
        assert_eq!(read(b"one\n\n"), ["one", ""]);
        assert!(read(b"").is_empty());
    }

    #[test]
    fn a_field_of_json_lines_is_read() {
        let form = LineForm::of(Path::new("a.jsonl"), None);
        let lines = "{\"text\": \"a\\nb\", \"id\": 3}\n{\"text\":\"\"}\n";
        assert_eq!(texts(input(lines.as_bytes(), form)).unwrap(), ["a\nb", ""]);
        assert_eq!(LineForm::of(Path::new("a.txt"), None), LineForm::Plain);
        assert_eq!(LineForm::of(Path::new("-"), Some("body")), LineForm::Json("body".to_owned()));
    }

    #[test]
    fn lines_that_are_no_texts_are_named() {
        let json = || LineForm::Json("text".to_owned());
        let cases: [(&[u8], LineForm, &str); 6] = [
            (
                b"good\nbad \xff",
                LineForm::Plain,
                "line 2 of `texts`: expected UTF-8, got something else at byte 5",
            ),
            (b"{\"text\":\"a\"}\n{\"body\":\"b\"}", json(), "line 2 of `texts`: expected a JSON object"),
            (b"{\"body\":\"b\"}", json(), "got no such field"),
            (b"{\"text\":7}", json(), "got something else than text"),
            (b"\n", json(), "got an empty line"),
            (b"[", json(), "EOF while parsing"),
        ];
        for (bytes, form, expected) in cases {
            let error = texts(input(bytes, form)).unwrap_err().to_string();
            assert!(error.contains(expected), "expected `{expected}` in `{error}`");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_is_held() {
        let endless = BufReader::new(io::repeat(b'x'));
        let mut input = TextInput::new(Box::new(endless), "`texts`".to_owned(), LineForm::Plain);
        let error = input.next_text().unwrap_err().to_string();
        assert!(error.starts_with("line 1 of `texts`: expected at most"), "{error}");
    }
}
