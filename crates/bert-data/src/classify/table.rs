//! Rows of a .tsv, .csv or .jsonl file by named columns.
//!
//! A .csv file follows RFC 4180 (quotes may enclose commas and line breaks); a .tsv file has no quoting: every line
//! is a row. Both begin with a line of column names. A .jsonl file has one object per line. What labels mean is not
//! known here.

use crate::error::DataError;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// Which columns are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableColumns {
    /// The text.
    pub text: String,
    /// A second text, read after the first one.
    pub text_pair: Option<String>,
    /// The class.
    pub label: Option<String>,
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextRow {
    /// The text; may be empty.
    pub text: String,
    /// The second text, if its column was asked for.
    pub text_pair: Option<String>,
    /// The class as it is written, if its column was asked for.
    pub label: Option<String>,
    /// Line of the file where the row begins, from 1.
    pub line: u64,
}

/// All rows of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The file.
    pub path: PathBuf,
    /// Its rows, in order.
    pub rows: Vec<TextRow>,
    /// BLAKE3 of its bytes.
    pub blake3: String,
}

/// Reads a table; blank lines are skipped.
///
/// # Errors
///
/// [`DataError::Io`]; [`DataError::UnsupportedTable`] for another kind of file; [`DataError::MissingColumn`] names
/// the columns that are there; [`DataError::BadText`] names the line that cannot be read; [`DataError::NoRows`].
pub fn read_table(path: &Path, columns: &TableColumns) -> Result<Table, DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read labelled text", path))?;
    let blake3 = blake3::hash(&bytes).to_hex().to_string();
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF".as_slice()).unwrap_or(&bytes);
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let rows = match extension {
        "tsv" => delimited(path, bytes, columns, b'\t')?,
        "csv" => delimited(path, bytes, columns, b',')?,
        "jsonl" => json_lines(path, bytes, columns)?,
        _ => {
            let extension = extension.to_owned();
            return Err(DataError::UnsupportedTable { path: path.to_path_buf(), extension });
        }
    };
    if rows.is_empty() {
        return Err(DataError::NoRows { path: path.to_path_buf() });
    }
    Ok(Table { path: path.to_path_buf(), rows, blake3 })
}

fn bad_line(path: &Path, line: u64, expected: impl Into<String>, got: impl Into<String>) -> DataError {
    DataError::BadText {
        path: path.to_path_buf(),
        place: format!("line {line}"),
        expected: expected.into(),
        got: got.into(),
    }
}

fn missing_column(path: &Path, column: &str, present: impl Iterator<Item = String>) -> DataError {
    DataError::MissingColumn {
        path: path.to_path_buf(),
        column: column.to_owned(),
        present: present.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}

fn delimited(
    path: &Path,
    bytes: &[u8],
    columns: &TableColumns,
    delimiter: u8,
) -> Result<Vec<TextRow>, DataError> {
    let mut records = records(path, bytes, delimiter)?.into_iter();
    let (_, header) = records.next().ok_or_else(|| DataError::NoRows { path: path.to_path_buf() })?;
    let place = |column: &String| {
        let found = header.iter().position(|name| name == column);
        found.ok_or_else(|| missing_column(path, column, header.iter().cloned()))
    };
    let text = place(&columns.text)?;
    let text_pair = columns.text_pair.as_ref().map(place).transpose()?;
    let label = columns.label.as_ref().map(place).transpose()?;
    let mut rows = Vec::new();
    for (line, mut cells) in records {
        if cells.len() != header.len() {
            let expected = format!("{} columns as in the first line", header.len());
            let got = format!("{}; quote cells that hold the delimiter (.csv only)", cells.len());
            return Err(bad_line(path, line, expected, got));
        }
        rows.push(TextRow {
            // A column may serve twice.
            text: cells[text].clone(),
            text_pair: text_pair.map(|place| cells[place].clone()),
            label: label.map(|place| std::mem::take(&mut cells[place])),
            line,
        });
    }
    Ok(rows)
}

/// The cells of every record with the line it begins on.
fn records(path: &Path, bytes: &[u8], delimiter: u8) -> Result<Vec<(u64, Vec<String>)>, DataError> {
    let has_quotes = delimiter == b',';
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).quoting(has_quotes).build();
    let (mut cells, mut ends) = (vec![0; 1 << 12], vec![0; 16]);
    let mut records = Vec::new();
    let (mut rest, mut line) = (bytes, 1);
    loop {
        // Blank lines belong to no record.
        while let Some((end_of_line @ (b'\n' | b'\r'), after)) = rest.split_first() {
            line += u64::from(*end_of_line == b'\n');
            rest = after;
        }
        let before = rest;
        let (mut num_bytes, mut num_ends) = (0, 0);
        let is_record = loop {
            let (result, read, written, ended) =
                reader.read_record(rest, &mut cells[num_bytes..], &mut ends[num_ends..]);
            (rest, num_bytes, num_ends) = (&rest[read..], num_bytes + written, num_ends + ended);
            match result {
                csv_core::ReadRecordResult::InputEmpty => {}
                csv_core::ReadRecordResult::OutputFull => cells.resize(2 * cells.len(), 0),
                csv_core::ReadRecordResult::OutputEndsFull => ends.resize(2 * ends.len(), 0),
                csv_core::ReadRecordResult::Record => break true,
                csv_core::ReadRecordResult::End => break false,
            }
        };
        if !is_record {
            return Ok(records);
        }
        let consumed = &before[..before.len() - rest.len()];
        // The reader takes an unclosed quote to the end of the file without a word.
        let is_open = consumed.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
        if has_quotes && rest.is_empty() && is_open {
            let expected = "every quote to be closed, and doubled inside of quotes";
            return Err(bad_line(path, line, expected, "an open one"));
        }
        let starts = std::iter::once(0).chain(ends[..num_ends].iter().copied());
        let cell = |(start, end): (usize, &usize)| String::from_utf8(cells[start..*end].to_vec());
        let record = starts.zip(&ends[..num_ends]).map(cell).collect::<Result<Vec<_>, _>>();
        let record = record.map_err(|error| bad_line(path, line, "UTF-8", error.to_string()))?;
        records.push((line, record));
        line += consumed.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

fn json_lines(path: &Path, bytes: &[u8], columns: &TableColumns) -> Result<Vec<TextRow>, DataError> {
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|error| bad_line(path, line, "a JSON object", error.to_string()))?;
        let cell = |column: &String, is_label: bool| match object.get(column) {
            None => {
                let missing = missing_column(path, column, object.keys().cloned());
                // A row that lacks what the first one has is damage, and its line has to be found.
                if rows.is_empty() {
                    Err(missing)
                } else {
                    Err(bad_line(path, line, format!("a field `{column}`"), "none"))
                }
            }
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Null) => Ok(String::new()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) if is_label => Ok(value.to_string()),
            Some(other) => Err(bad_line(path, line, format!("a string in `{column}`"), other.to_string())),
        };
        rows.push(TextRow {
            text: cell(&columns.text, false)?,
            text_pair: columns.text_pair.as_ref().map(|column| cell(column, false)).transpose()?,
            label: columns.label.as_ref().map(|column| cell(column, true)).transpose()?,
            line,
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> TableColumns {
        TableColumns { text: "text".into(), text_pair: None, label: Some("label".into()) }
    }

    fn read(name: &str, content: &[u8]) -> Result<Table, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let folder = dir.path().display().to_string() + "/";
        read_table(&path, &columns()).map_err(|error| error.to_string().replace(&folder, ""))
    }

    fn row(text: &str, label: &str, line: u64) -> TextRow {
        TextRow { text: text.into(), text_pair: None, label: Some(label.into()), line }
    }

    #[track_caller]
    fn check_refused(name: &str, content: &[u8], expected: &[&str]) {
        let message = read(name, content).unwrap_err();
        for part in expected {
            assert!(message.contains(part), "{message:?} does not contain {part:?}");
        }
    }

    #[test]
    fn the_three_formats_give_the_same_rows() {
        let csv = "id,text,label\n1,\"a, \"\"b\"\"\",x\n\n2,,y\n";
        let tsv = "label\ttext\nx\ta, \"b\"\n\ny\t\n";
        let jsonl = "{\"text\": \"a, \\\"b\\\"\", \"label\": \"x\", \"more\": [1]}\n\n{\"label\": \"y\", \"text\": null}";
        let expected = [row("a, \"b\"", "x", 2), row("", "y", 4)];
        for (name, content) in [("a.csv", csv), ("a.tsv", tsv)] {
            assert_eq!(read(name, content.as_bytes()).unwrap().rows, expected, "{name}");
        }
        let expected = [row("a, \"b\"", "x", 1), row("", "y", 3)];
        assert_eq!(read("a.jsonl", jsonl.as_bytes()).unwrap().rows, expected);
    }

    #[test]
    fn quotes_hold_line_breaks_in_csv_and_mean_nothing_in_tsv() {
        let table = read("a.csv", b"\xEF\xBB\xBFtext,label\r\n\"two\nlines\",1\r\nnext,0\r\n").unwrap();
        assert_eq!(table.rows, [row("two\nlines", "1", 2), row("next", "0", 4)]);
        let table = read("a.tsv", b"text\tlabel\n\"open\t1\nnext\t0\n").unwrap();
        assert_eq!(table.rows, [row("\"open", "1", 2), row("next", "0", 3)]);
    }

    #[test]
    fn labels_of_json_may_be_numbers_and_truth_values() {
        let rows =
            read("a.jsonl", b"{\"text\":\"a\",\"label\":3}\n{\"text\":\"b\",\"label\":true}").unwrap().rows;
        assert_eq!(rows, [row("a", "3", 1), row("b", "true", 2)]);
    }

    #[test]
    fn a_missing_column_is_answered_with_those_present() {
        check_refused("a.tsv", b"sentence\tlabel\na\tb\n", &["`a.tsv`", "`text`", "`sentence`, `label`"]);
        check_refused("a.jsonl", b"{\"body\": \"a\", \"label\": 1}", &["`text`", "`body`, `label`"]);
    }

    #[test]
    fn a_malformed_line_is_named() {
        check_refused("a.csv", b"text,label\na,1\nb,c,0\n", &["line 3", "2 columns", "got 3"]);
        check_refused("a.csv", b"text,label\na,1\n\"b,0\nc,1\n", &["line 3"]);
        check_refused("a.csv", b"label,text\n1,a\n0,\"b\nc\n", &["line 3", "every quote to be closed"]);
        check_refused("a.tsv", b"text\tlabel\na\t1\n\xff\xfe\t0\n", &["line 3", "UTF-8"]);
        check_refused("a.jsonl", b"{\"text\":\"a\",\"label\":1}\n{\"text\":\n", &["line 2", "JSON"]);
        check_refused("a.jsonl", b"{\"text\":\"a\",\"label\":1}\n{\"label\":1}\n", &["line 2", "`text`"]);
        check_refused("a.jsonl", b"{\"text\":[\"a\"],\"label\":1}\n", &["line 1", "a string in `text`"]);
    }

    #[test]
    fn other_files_and_empty_ones_are_refused() {
        check_refused("a.txt", b"text\tlabel\n", &["a.txt", ".tsv, .csv or .jsonl"]);
        check_refused("a.tsv", b"text\tlabel\n", &["a.tsv", "no row"]);
        let error = read_table(Path::new("absent.tsv"), &columns()).unwrap_err();
        assert!(error.to_string().contains("absent.tsv"), "{error}");
    }
}
