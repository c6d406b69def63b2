//! Opens a span of a file as a stream of text bytes, unpacked, and counts what is read of the file itself.

use super::TextFile;
use super::format::TextPacking;
use crate::error::DataError;
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 17;

/// A stream of text bytes.
pub(super) type TextStream = Box<dyn BufRead + Send>;

/// Counts the bytes that pass.
struct Counted<R> {
    inner: R,
    num_bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.num_bytes.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Opens bytes `start..end` of a file; the counter grows with the bytes read from it. A packed file is always
/// read from its first byte.
///
/// # Errors
///
/// [`DataError::Io`] if the file cannot be opened.
pub(super) fn open_stream(
    file: &TextFile,
    start: u64,
    end: u64,
) -> Result<(TextStream, Arc<AtomicU64>), DataError> {
    let path = &file.path;
    let mut handle = File::open(path).map_err(DataError::io("open text", path))?;
    handle.seek(SeekFrom::Start(start)).map_err(DataError::io("seek in text", path))?;
    let num_bytes = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: handle.take(end - start), num_bytes: Arc::clone(&num_bytes) };
    let raw = BufReader::with_capacity(BUFFER_BYTES, counted);
    let stream: TextStream = match file.format.packing {
        TextPacking::Plain => Box::new(raw),
        TextPacking::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw))),
        TextPacking::Zstd => {
            let decoder = zstd::Decoder::with_buffer(raw).map_err(DataError::io("unpack", path))?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        }
    };
    Ok((stream, num_bytes))
}

/// An error of reading text: damage if it comes from unpacking, else one of the operating system.
pub(super) fn read_error(file: &TextFile, byte: u64, source: io::Error) -> DataError {
    let expected = match file.format.packing {
        TextPacking::Gzip => "a whole gzip file",
        TextPacking::Zstd => "a whole Zstandard file",
        TextPacking::Plain => return DataError::Io { action: "read text", path: file.path.clone(), source },
    };
    DataError::BadText {
        path: file.path.clone(),
        place: format!("byte {byte} of the unpacked text"),
        expected: expected.to_owned(),
        got: source.to_string(),
    }
}
