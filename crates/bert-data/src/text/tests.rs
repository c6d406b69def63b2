//! Tests of reading text: borders of documents, blocks, refusals.

use super::*;
use std::io::Write;
use std::path::{Path, PathBuf};

fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn documents(sources: &TextSources, blocks: &[TextBlock]) -> Vec<Vec<String>> {
    let mut documents = vec![];
    for block in blocks {
        let mut reader = TextReader::new(sources, block);
        let mut document = vec![];
        while let Some(line) = reader.next_line().unwrap() {
            match line {
                TextLine::Sentence(text) => document.push(text),
                TextLine::DocumentEnd => documents.push(std::mem::take(&mut document)),
            }
        }
        assert!(document.is_empty());
    }
    documents
}

#[test]
fn blank_lines_and_file_ends_end_documents() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(&dir, "a.txt", "\u{feff}\n一。\r\n二。\r\n \u{3000}\r\n\n三。".as_bytes());
    let second = write(&dir, "b.txt", b"four\n\n\n");
    for (sources, num_blocks) in [(vec![dir.path().to_path_buf()], 1), (vec![first, second], 2)] {
        let sources = TextSources::list(&sources).unwrap();
        let blocks = sources.blocks(1 << 20).unwrap();
        assert_eq!(blocks.len(), num_blocks, "no block holds text of two sources");
        assert_eq!(documents(&sources, &blocks), [vec!["一。", "二。"], vec!["三。"], vec!["four"]]);
    }
}

#[test]
fn every_block_size_gives_the_same_documents_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..40).map(|i| format!("s{i}\n{}", if i % 3 == 0 { "\n" } else { "" })).collect();
    let files = [write(&dir, "a.txt", text.as_bytes()), write(&dir, "b.txt", b"x\ny\n\nz\n")];
    let sources = TextSources::list(&files).unwrap();
    let whole = documents(&sources, &sources.blocks(u64::MAX).unwrap());
    for block_bytes in 1..=sources.num_bytes() {
        let blocks = sources.blocks(block_bytes).unwrap();
        assert_eq!(documents(&sources, &blocks), whole, "blocks of {block_bytes}");
    }
}

/// What a reading gives: the lines, and the number and first place of invalid ones; or the error.
fn read_all(
    path: &Path,
    block_bytes: u64,
    is_strict: bool,
) -> Result<(Vec<TextLine>, u64, Option<u64>), DataError> {
    let sources = TextSources::list(&[path.to_path_buf()])?;
    let (mut lines, mut num_invalid, mut first) = (vec![], 0, None);
    for block in sources.blocks(block_bytes)? {
        let reader = TextReader::new(&sources, &block);
        let mut reader = if is_strict { reader } else { reader.replacing_invalid() };
        while let Some(line) = reader.next_line()? {
            lines.push(line);
        }
        let invalid = reader.take_invalid();
        num_invalid += invalid.num_lines;
        first = first.or(invalid.first.map(|byte| byte.byte));
    }
    Ok((lines, num_invalid, first))
}

fn sentence(text: &str) -> TextLine {
    TextLine::Sentence(text.to_owned())
}

fn pack(name: &str, bytes: &[u8]) -> Vec<u8> {
    if name.ends_with(".gz") {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    } else if name.ends_with(".zst") {
        zstd::encode_all(bytes, 1).unwrap()
    } else {
        bytes.to_vec()
    }
}

/// Bytes that are not UTF-8 in the middle of a line, alone, at document borders (so at those of blocks), and a
/// character that the end of the file cuts.
#[test]
fn invalid_bytes_are_named_or_counted_wherever_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    for (text, byte, num_lines) in [
        (&b"good\n\nab\xffcd\n"[..], 8, 1),
        (b"good\n\n\xff\xfe\n\nok\n", 6, 1),
        (b"good\n\nok\xff", 8, 1),
        (b"a\n\n\xe4\xb8\xad\n\nb \xe4\xb8", 10, 1),
        (b"\xc0\xaf\n\nb\n\n\xed\xa0\x80\n\n\xf4\x90\x80\x80\n", 0, 3),
        (b"\xef\xbb\xbf\n\n\xef\xbb\n", 5, 1),
    ] {
        for name in ["bad.txt", "bad.txt.gz", "bad.txt.zst"] {
            let path = write(&dir, name, &pack(name, text));
            let expected = read_all(&path, u64::MAX, false).unwrap();
            assert_eq!((expected.1, expected.2), (num_lines, Some(byte)), "{name} {text:?}");
            for block_bytes in 1..=text.len() as u64 {
                assert_eq!(read_all(&path, block_bytes, false).unwrap(), expected);
                match read_all(&path, block_bytes, true).unwrap_err() {
                    DataError::InvalidUtf8 { path: got, byte: at } => {
                        assert_eq!((got, at), (path.clone(), byte))
                    }
                    other => panic!("expected an UTF-8 error, got {other:?}"),
                }
            }
        }
    }
}

#[test]
fn byte_order_marks_carriage_returns_and_nul_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let text = b"\xef\xbb\xbfone\r\n\r\n t\0wo \r\nthree\r";
    let expected =
        [sentence("one"), TextLine::DocumentEnd, sentence("t\0wo"), sentence("three"), TextLine::DocumentEnd];
    for name in ["a.txt", "a.txt.gz", "a.txt.zst"] {
        let path = write(&dir, name, &pack(name, text));
        for block_bytes in 1..30 {
            assert_eq!(read_all(&path, block_bytes, true).unwrap().0, expected, "{name}");
        }
    }
    let rows = b"\xef\xbb\xbf{\"text\": \"one\"}\r\n\r\n{\"text\": \"t\\u0000wo\\r\\nthree\"}\r\n";
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
        let path = write(&dir, name, &pack(name, rows));
        for block_bytes in [1, 16, u64::MAX] {
            assert_eq!(read_all(&path, block_bytes, true).unwrap().0, expected, "{name}");
        }
    }
}

#[test]
fn rows_with_invalid_bytes_and_halves_of_surrogate_pairs_are_named_or_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let good = b"{\"text\": \"a\"}\n";
    for (row, place) in [
        (&b"{\"text\": \"b \xff\"}\n"[..], "invalid byte at offset 26"),
        (b"{\"text\": \"b \\ud83d c\"}\n", "at byte 14: expected whole characters"),
        (b"{\"text\": \"\\ude00\"}", "half of a surrogate pair"),
        (b"{\"text\": \"b \xff \\ud83d\"}\n", "invalid byte at offset 26"),
    ] {
        for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
            let path = write(&dir, name, &pack(name, &[good, row, good].concat()[..]));
            let path = if row.ends_with(b"}") {
                write(&dir, name, &pack(name, &[good, row].concat()))
            } else {
                path
            };
            let error = read_all(&path, 1, true).unwrap_err();
            assert_eq!(error.kind(), crate::DataErrorKind::Damaged);
            for part in [name, place] {
                assert!(error.to_string().contains(part), "expected `{part}` in: {error}");
            }
            let (lines, num_invalid, first) = read_all(&path, 1, false).unwrap();
            assert_eq!((num_invalid, first.is_some_and(|byte| byte >= 14)), (1, true), "{row:?}");
            assert!(lines.iter().any(|line| matches!(line, TextLine::Sentence(s) if s.contains('\u{fffd}'))));
        }
    }
}

/// The most memory this process has used, in bytes, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

#[test]
fn a_line_of_100_megabytes_is_refused_in_bounded_memory() {
    const LEN: u64 = 100 << 20;
    let dir = tempfile::tempdir().unwrap();
    let zeros = || std::io::repeat(b' ').take(LEN);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut zeros(), &mut encoder).unwrap();
    write(&dir, "a.txt.gz", &encoder.finish().unwrap());
    let packed = zstd::encode_all(zeros(), 1).unwrap();
    write(&dir, "a.txt.zst", &packed);
    write(&dir, "a.jsonl.zst", &packed);
    for name in ["a.txt", "a.jsonl"] {
        // Holes read as NUL.
        std::fs::File::create(dir.path().join(name)).unwrap().set_len(LEN).unwrap();
    }
    for name in ["a.txt", "a.txt.gz", "a.txt.zst", "a.jsonl", "a.jsonl.zst"] {
        let limit = if name.contains("jsonl") { MAX_ROW_BYTES } else { MAX_LINE_BYTES };
        let before = peak_bytes();
        for block_bytes in [64 << 20, u64::MAX] {
            let error = read_all(&dir.path().join(name), block_bytes, true).unwrap_err();
            assert!(
                matches!(error, DataError::LineTooLong { byte: 0, limit: got, .. } if got == limit),
                "{error}"
            );
            assert!(error.to_string().contains(name), "{error}");
        }
        if let (Some(before), Some(after)) = (before, peak_bytes()) {
            assert!(after - before < 2 * limit + (64 << 20), "{name}: {} MB", (after - before) >> 20);
        }
    }
}
