//! The column `text` of a Parquet file, row by row, a page at a time.

use super::TextFile;
use crate::error::DataError;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 64;
/// Name of the column.
const COLUMN: &str = "text";

/// The rows that have not been read yet.
pub(super) struct ParquetRows {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    column_idx: usize,
    /// Definition level of a value that is not null.
    max_level: i16,
    next_group_idx: usize,
    column: Option<ColumnReaderImpl<ByteArrayType>>,
    ready: VecDeque<Option<ByteArray>>,
    num_rows_read: u64,
    num_rows: u64,
}

impl ParquetRows {
    /// Opens the file and looks for the column.
    ///
    /// # Errors
    ///
    /// [`DataError::BadText`] if it is no Parquet file or has no string column `text`; [`DataError::Io`].
    pub(super) fn open(file: &TextFile) -> Result<Self, DataError> {
        let path = &file.path;
        let handle = File::open(path).map_err(DataError::io("open text", path))?;
        let bad = |expected: &str, got: String| DataError::BadText {
            path: path.clone(),
            place: "its schema".to_owned(),
            expected: expected.to_owned(),
            got,
        };
        let reader = SerializedFileReader::new(handle).map_err(|e| bad("a Parquet file", e.to_string()))?;
        let metadata = reader.metadata().file_metadata();
        let columns = metadata.schema_descr().columns();
        let found = columns.iter().position(|column| column.path().string() == COLUMN);
        let is_text = |idx: &usize| {
            columns[*idx].physical_type() == Type::BYTE_ARRAY && columns[*idx].max_rep_level() == 0
        };
        let Some(column_idx) = found.filter(is_text) else {
            let names: Vec<String> =
                columns.iter().map(|c| format!("{}: {}", c.path().string(), c.physical_type())).collect();
            return Err(bad("a column `text` of strings", names.join(", ")));
        };
        let max_level = columns[column_idx].max_def_level();
        let num_rows = u64::try_from(metadata.num_rows()).unwrap_or(0);
        Ok(Self {
            path: path.clone(),
            column_idx,
            max_level,
            next_group_idx: 0,
            column: None,
            ready: VecDeque::new(),
            num_rows_read: 0,
            num_rows,
            reader,
        })
    }

    /// The bytes of the next row; a null is empty. `None` at the end.
    ///
    /// # Errors
    ///
    /// [`DataError::BadText`] with the row at which the file cannot be decoded.
    pub(super) fn next_row(&mut self) -> Result<Option<ByteArray>, DataError> {
        while self.ready.is_empty() {
            // The library panics on some damaged pages instead of refusing them. Nothing is read after an error.
            let filled = catch_unwind(AssertUnwindSafe(|| self.fill()));
            let is_more = filled.map_or_else(
                |_| Err("bytes that its library gave up on".to_owned()),
                |result| result.map_err(|e| e.to_string()),
            );
            let is_more = is_more.map_err(|got| DataError::BadText {
                path: self.path.clone(),
                place: format!("row {}", self.num_rows_read),
                expected: "a readable column `text`".to_owned(),
                got,
            })?;
            if !is_more {
                return Ok(None);
            }
        }
        self.num_rows_read += 1;
        Ok(self.ready.pop_front().map(|row| row.unwrap_or_else(|| ByteArray::from(Vec::new()))))
    }

    /// The share of the rows that has been read.
    pub(super) fn share_read(&self) -> f64 {
        self.num_rows_read as f64 / self.num_rows.max(1) as f64
    }

    /// Decodes some rows; false if there are none left.
    fn fill(&mut self) -> Result<bool, ParquetError> {
        let Some(column) = self.column.as_mut() else {
            if self.next_group_idx == self.reader.num_row_groups() {
                return Ok(false);
            }
            let group = self.reader.get_row_group(self.next_group_idx)?;
            self.column = Some(get_typed_column_reader(group.get_column_reader(self.column_idx)?));
            self.next_group_idx += 1;
            return Ok(true);
        };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (num_rows, _, _) = column.read_records(BATCH_ROWS, Some(&mut levels), None, &mut values)?;
        if num_rows == 0 {
            self.column = None;
        }
        let mut values = values.into_iter();
        for row_idx in 0..num_rows {
            let is_null = self.max_level > 0 && levels.get(row_idx) != Some(&self.max_level);
            self.ready.push_back(if is_null { None } else { values.next() });
        }
        Ok(true)
    }
}
