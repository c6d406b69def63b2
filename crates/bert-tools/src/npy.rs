//! numpy's file of one array: float32, little-endian, one row after the other.
//!
//! Owns the header of format 1.0 (`numpy.lib.format`). The number of rows may be unknown until the end: the header
//! has room for any, and is written again when it is known.

use std::io::{self, Write};

use crate::output_file::OutputFile;

/// Length of the header with everything before the data; numpy wants a multiple of 64.
const HEADER_LEN: usize = 128;
/// What the file begins with: the magic, version 1.0.
const MAGIC: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// An array `[num_rows, width]` that is being written row by row.
#[derive(Debug)]
pub struct NpyWriter {
    file: OutputFile,
    width: usize,
    num_rows: u64,
}

impl NpyWriter {
    /// Begins the array.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn new(mut file: OutputFile, width: usize) -> io::Result<Self> {
        file.write_all(&header(0, width))?;
        Ok(Self { file, width, num_rows: 0 })
    }

    /// Appends a row.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    ///
    /// # Panics
    ///
    /// If the row has another width than the array.
    pub fn push(&mut self, row: &[f32]) -> io::Result<()> {
        assert_eq!(row.len(), self.width, "width of a row");
        self.num_rows += 1;
        row.iter().try_for_each(|value| self.file.write_all(&value.to_le_bytes()))
    }

    /// Writes the number of rows, which is returned, and makes the file appear.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn finish(mut self) -> io::Result<u64> {
        self.file.overwrite_start(&header(self.num_rows, self.width))?;
        self.file.finish()?;
        Ok(self.num_rows)
    }
}

/// The header for an array `[num_rows, width]`, always of the same length.
fn header(num_rows: u64, width: usize) -> [u8; HEADER_LEN] {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({num_rows}, {width}), }}");
    let start = MAGIC.len() + 2;
    // Spaces up to the length that the two bytes say, and a line break as the last one.
    let mut header = [b' '; HEADER_LEN];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header[MAGIC.len()..start].copy_from_slice(&((HEADER_LEN - start) as u16).to_le_bytes());
    header[start..start + text.len()].copy_from_slice(text.as_bytes());
    header[HEADER_LEN - 1] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Reads a file by the description of the format, byte by byte.
    fn read(bytes: &[u8]) -> (u64, usize, Vec<f32>) {
        assert_eq!(&bytes[..6], b"\x93NUMPY");
        assert_eq!(bytes[6..8], [1, 0], "version");
        let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + header_len) % 64, 0, "data is aligned");
        let header = std::str::from_utf8(&bytes[10..10 + header_len]).unwrap();
        assert!(header.is_ascii() && header.ends_with('\n'));
        let shape = header
            .trim_end()
            .strip_prefix("{'descr': '<f4', 'fortran_order': False, 'shape': (")
            .and_then(|rest| rest.strip_suffix("), }"))
            .unwrap();
        let (num_rows, width) = shape.split_once(", ").unwrap();
        let data =
            bytes[10 + header_len..].chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        (num_rows.parse().unwrap(), width.parse().unwrap(), data.collect())
    }

    #[test]
    fn arrays_are_written_as_numpy_describes_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("array.npy");
        for rows in [vec![], vec![[1.5_f32, -0.0, f32::MIN_POSITIVE]], vec![[1.0, 2.0, 3.0]; 12]] {
            let mut writer = NpyWriter::new(OutputFile::create(&path).unwrap(), 3).unwrap();
            rows.iter().for_each(|row| writer.push(row).unwrap());
            assert_eq!(writer.finish().unwrap(), rows.len() as u64);
            let (num_rows, width, values) = read(&fs::read(&path).unwrap());
            assert_eq!((num_rows, width), (rows.len() as u64, 3));
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&values), bits(&rows.concat()));
        }
    }

    #[test]
    fn the_largest_shape_fits_the_header() {
        let header = header(u64::MAX, usize::MAX);
        let text = String::from_utf8_lossy(&header[10..]);
        assert!(text.contains("(18446744073709551615, 18446744073709551615), }"), "{text}");
    }
}
