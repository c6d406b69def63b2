//! The directory of a ZIP archive whose entries are stored as they are, which is how torch and numpy write theirs.
//!
//! Format: APPNOTE.TXT of PKWARE, sections 4.3 and 4.5 (ZIP64). Nothing is decompressed; compressed entries are
//! refused by name. Every place is checked against the length of the file.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use super::HfError;

const END_LEN: u64 = 22;
const LOCATOR_LEN: u64 = 20;
const END64_LEN: u64 = 56;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: u64 = 30;
/// The end record is followed by a comment of at most this many bytes.
const MAX_COMMENT_LEN: u64 = 65_535;
/// Far above the directory of any model.
const MAX_DIRECTORY_LEN: u64 = 64 << 20;

/// A file inside of an archive.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// First byte of its content in the archive.
    pub(super) start: u64,
    /// Bytes of its content.
    pub(super) len: u64,
}

/// An archive that is being read.
pub(super) struct Archive<'a> {
    path: &'a Path,
    file: &'a mut BufReader<File>,
    len: u64,
}

impl<'a> Archive<'a> {
    pub(super) fn new(path: &'a Path, file: &'a mut BufReader<File>, len: u64) -> Self {
        Self { path, file, len }
    }

    /// All entries, in the order of the directory.
    pub(super) fn entries(&mut self) -> Result<Vec<Entry>, HfError> {
        let (start, len) = self.directory_place()?;
        if len > MAX_DIRECTORY_LEN || start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(self.damaged("a directory inside of the archive", format!("{len} bytes at {start}")));
        }
        let directory = self.bytes_at(start, len)?;
        let mut rest = &directory[..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (entry, num_bytes) = self.entry(rest)?;
            entries.push(entry);
            rest = &rest[num_bytes..];
        }
        Ok(entries)
    }

    /// Reads a part of the archive; the caller has bounded its length.
    pub(super) fn bytes_at(&mut self, start: u64, len: u64) -> Result<Vec<u8>, HfError> {
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(
                self.damaged(format!("{len} bytes at {start}"), format!("a file of {} bytes", self.len))
            );
        }
        let mut bytes = vec![0; len as usize];
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|source| HfError::Io { action: "read", path: self.path.into(), source })?;
        Ok(bytes)
    }

    pub(super) fn damaged(&self, expected: impl Into<String>, got: impl Into<String>) -> HfError {
        HfError::Damaged { path: self.path.into(), expected: expected.into(), got: got.into() }
    }

    /// First byte and length of the central directory.
    fn directory_place(&mut self) -> Result<(u64, u64), HfError> {
        let tail_len = self.len.min(END_LEN + MAX_COMMENT_LEN);
        let tail = self.bytes_at(self.len - tail_len, tail_len)?;
        let found = (0..tail.len().saturating_sub(END_LEN as usize - 1))
            .rev()
            .find(|&at| tail[at..].starts_with(b"PK\x05\x06"));
        let Some(at) = found else {
            return Err(self.damaged("the end of a ZIP archive", "a file without: was it cut?"));
        };
        let (len, start) = (u32_at(&tail, at + 12), u32_at(&tail, at + 16));
        if len != u32::MAX && start != u32::MAX {
            return Ok((start.into(), len.into()));
        }
        let end = self.len - tail_len + at as u64;
        let locator = self.bytes_at(end.saturating_sub(LOCATOR_LEN), LOCATOR_LEN)?;
        let record = self.bytes_at(u64_at(&locator, 8), END64_LEN)?;
        if !locator.starts_with(b"PK\x06\x07") || !record.starts_with(b"PK\x06\x06") {
            return Err(self.damaged("a ZIP64 end record", "something else"));
        }
        Ok((u64_at(&record, 48), u64_at(&record, 40)))
    }

    /// The first entry of a directory, and the bytes it takes there.
    fn entry(&mut self, directory: &[u8]) -> Result<(Entry, usize), HfError> {
        if directory.len() < ENTRY_LEN || !directory.starts_with(b"PK\x01\x02") {
            return Err(self.damaged("an entry of a ZIP directory", "something else"));
        }
        let lens = [28, 30, 32].map(|at| usize::from(u16_at(directory, at)));
        let num_bytes = ENTRY_LEN + lens.iter().sum::<usize>();
        if directory.len() < num_bytes {
            return Err(self.damaged("a whole entry of a ZIP directory", "a cut one"));
        }
        let name = String::from_utf8_lossy(&directory[ENTRY_LEN..ENTRY_LEN + lens[0]]).into_owned();
        if u16_at(directory, 10) != 0 {
            let expected = "entries stored as they are (numpy.savez, not savez_compressed)";
            return Err(self.damaged(expected, format!("`{name}` compressed")));
        }
        let extra = &directory[ENTRY_LEN + lens[0]..ENTRY_LEN + lens[0] + lens[1]];
        let (len, header) = wide_sizes(directory, extra);
        let local = self.bytes_at(header, LOCAL_LEN)?;
        if !local.starts_with(b"PK\x03\x04") {
            return Err(self.damaged(format!("the header of `{name}` at byte {header}"), "something else"));
        }
        let start = header + LOCAL_LEN + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            let expected = format!("entries inside of {} bytes", self.len);
            return Err(self.damaged(expected, format!("`{name}` with {len} bytes at {start}")));
        }
        Ok((Entry { name, start, len }, num_bytes))
    }
}

/// Length of the content and place of the local header, from the extra field where the entry has no room for them.
fn wide_sizes(entry: &[u8], extra: &[u8]) -> (u64, u64) {
    let narrow = [20, 24, 42].map(|at| u32_at(entry, at));
    let mut wide = zip64_field(extra).unwrap_or_default();
    // The extra field holds only what is missing: plain size, stored size, place, in this order.
    let mut resolve = |value: u32| {
        if value != u32::MAX || wide.len() < 8 {
            return u64::from(value);
        }
        let (first, rest) = wide.split_at(8);
        wide = rest;
        u64_at(first, 0)
    };
    let _plain_len = resolve(narrow[1]);
    let len = resolve(narrow[0]);
    (len, resolve(narrow[2]))
}

fn zip64_field(mut extra: &[u8]) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (tag, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let field = extra.get(4..4 + len)?;
        if tag == 1 {
            return Some(field);
        }
        extra = &extra[4 + len..];
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
