//! The parsers of this crate, each as a function of any bytes: what fuzzing calls, and the tests of its findings.
//!
//! An entry reads the bytes as far as they go, below the hashes that would refuse them. It returns whatever they
//! are; it panics where a promise breaks: an id outside the vocabulary, two ways of reading that differ, an error
//! that does not name its file. Built for tests and with `--cfg fuzzing` only.

mod files;
mod inputs;

use std::path::Path;

/// Reads bytes; the folder is for files of its own.
pub type Entry = fn(&Path, &[u8]);

/// Every entry with its name.
pub const ENTRIES: [(&str, Entry); 8] = [
    ("shard", files::shard),
    ("manifest", files::manifest),
    ("counts", files::counts),
    ("jsonl", inputs::jsonl),
    ("text", inputs::text),
    ("parquet", inputs::parquet),
    ("vocab", inputs::vocab),
    ("lexicon", inputs::lexicon),
];

/// Takes a number of two bytes from the front; a missing byte is 0.
fn take_u16(data: &mut &[u8]) -> u16 {
    u16::from_le_bytes([take_u8(data), take_u8(data)])
}

/// Takes a byte from the front, or 0.
fn take_u8(data: &mut &[u8]) -> u8 {
    let Some((&first, rest)) = data.split_first() else { return 0 };
    *data = rest;
    first
}

/// Takes up to `len` bytes from the front.
fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (front, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    front
}

/// Writes a file of the entry's folder.
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("the folder can be written");
}

#[cfg(test)]
mod tests;
