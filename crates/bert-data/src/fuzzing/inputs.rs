//! Entries for the files that users bring: text in all formats, vocabularies, lexicons.

use super::{take, take_u8, take_u16, write};
use crate::error::DataError;
use crate::text::{InvalidText, TextLine, TextReader, TextSources};
use crate::tokenizer::{SPECIAL_TOKENS, Tokenizer};
use crate::words::WordSegmenter;
use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// Sentences and document ends that are read of one input: an empty row of a packed file takes next to no bytes.
const MAX_LINES: usize = 200_000;

/// What a way of reading gives: everything, or the first error.
type Reading = Result<(Vec<TextLine>, InvalidText), DataError>;

/// Reads a file in blocks of about this size.
fn read(path: &Path, block_bytes: u64, is_strict: bool) -> Reading {
    let sources = TextSources::list(&[path.to_path_buf()])?;
    let (mut lines, mut invalid) = (Vec::new(), InvalidText::default());
    for block in sources.blocks(block_bytes)? {
        let mut reader = TextReader::new(&sources, &block);
        if !is_strict {
            reader = reader.replacing_invalid();
        }
        while let Some(line) = reader.next_line()? {
            if let TextLine::Sentence(text) = &line {
                assert!(!text.is_empty() && text.trim() == text, "{text:?}");
            }
            lines.push(line);
            if lines.len() > MAX_LINES {
                return Ok((lines, invalid));
            }
        }
        let of_block = reader.take_invalid();
        invalid.num_lines += of_block.num_lines;
        invalid.first = invalid.first.or(of_block.first);
    }
    Ok((lines, invalid))
}

/// Reads a file in every way; whatever the blocks, the answer is the same.
fn read_every_way(path: &Path) -> Reading {
    let whole = read(path, u64::MAX, false);
    for block_bytes in [1, 13] {
        match (&whole, &read(path, block_bytes, false)) {
            (Ok(whole), Ok(parts)) => assert_eq!(whole, parts, "blocks of {block_bytes}"),
            (Err(whole), Err(parts)) => assert_eq!(whole.to_string(), parts.to_string()),
            (whole, parts) => panic!("blocks of {block_bytes}: {parts:?}, expected {whole:?}"),
        }
    }
    match (&whole, read(path, u64::MAX, true)) {
        (Ok((lines, invalid)), Ok(strict)) => {
            assert_eq!((invalid.num_lines, &strict.0), (0, lines));
        }
        (Ok((_, invalid)), Err(error)) => {
            let first = invalid.first.expect("a strict reading refuses invalid bytes only");
            match error {
                DataError::InvalidUtf8 { byte, .. } => assert_eq!(byte, first.byte),
                DataError::BadText { place, .. } => assert_eq!(place, format!("byte {}", first.byte)),
                other => panic!("{other}"),
            }
        }
        (Err(_), Ok(_)) => panic!("a strict reading accepts what another one refuses"),
        (Err(_), Err(_)) => {}
    }
    if let Err(error) = &whole {
        assert!(matches!(error, DataError::BadText { .. } | DataError::EmptyCorpus { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    whole
}

/// Rows of JSON Lines; what is accepted is what a general JSON parser finds.
pub(super) fn jsonl(dir: &Path, data: &[u8]) {
    let path = dir.join("a.jsonl");
    write(&path, data);
    let Ok((lines, invalid)) = read_every_way(&path) else { return };
    if invalid.num_lines > 0 {
        return;
    }
    let text = std::str::from_utf8(data).expect("no invalid line");
    let mut expected = Vec::new();
    for row in text.strip_prefix('\u{feff}').unwrap_or(text).split('\n') {
        // Numbers out of range are nobody's business here: their fields are skipped.
        let Ok(row) = serde_json::from_str::<serde_json::Value>(row) else { return };
        let Some(document) = row["text"].as_str() else { continue };
        let before = expected.len();
        expected.extend(crate::text::sentences(document).map(|s| TextLine::Sentence(s.to_owned())));
        if expected.len() > before {
            expected.push(TextLine::DocumentEnd);
        }
    }
    assert_eq!(lines, expected);
}

/// Lines of text: plain, packed by us (0 to 2 by the first byte), or what is to be unpacked (3, 4).
pub(super) fn text(dir: &Path, mut data: &[u8]) {
    let kind = take_u8(&mut data) % 5;
    if kind < 3 {
        let packings: [(&str, Vec<u8>); 3] = [
            ("a.txt", data.to_vec()),
            ("a.txt.gz", gzip(data)),
            ("a.txt.zst", zstd::encode_all(data, 1).expect("memory can be packed")),
        ];
        let (name, bytes) = &packings[usize::from(kind)];
        let path = dir.join(name);
        write(&path, bytes);
        match read_every_way(&path) {
            Ok((lines, _)) => assert_eq!(lines, plain_lines(data)),
            Err(error) => assert!(matches!(error, DataError::EmptyCorpus { .. }), "{error}"),
        }
    } else {
        let path = dir.join(if kind == 3 { "b.txt.gz" } else { "b.jsonl.zst" });
        write(&path, data);
        let _ = read(&path, u64::MAX, false);
    }
}

/// Packed in two members.
fn gzip(data: &[u8]) -> Vec<u8> {
    let (first, second) = data.split_at(data.len() / 2);
    let mut bytes = Vec::new();
    for part in [first, second] {
        let mut encoder = GzEncoder::new(&mut bytes, Compression::fast());
        encoder.write_all(part).expect("memory can be written");
        encoder.finish().expect("memory can be written");
    }
    bytes
}

/// The lines of plain text, the simplest way.
fn plain_lines(data: &[u8]) -> Vec<TextLine> {
    let mut lines: Vec<TextLine> = Vec::new();
    for line in data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data).split(|&b| b == b'\n') {
        let line = String::from_utf8_lossy(line);
        if !line.trim().is_empty() {
            lines.push(TextLine::Sentence(line.trim().to_owned()));
        } else if matches!(lines.last(), Some(TextLine::Sentence(_))) {
            lines.push(TextLine::DocumentEnd);
        }
    }
    if matches!(lines.last(), Some(TextLine::Sentence(_))) {
        lines.push(TextLine::DocumentEnd);
    }
    lines
}

/// A Parquet file.
pub(super) fn parquet(dir: &Path, data: &[u8]) {
    let path = dir.join("a.parquet");
    write(&path, data);
    if let Err(error) = read(&path, u64::MAX, false) {
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

/// A vocabulary (`vocab.txt`, or `tokenizer.json` if bit 0 of the first byte is set; bit 1: lower-case), used on
/// a line that stands before it behind its length.
pub(super) fn vocab(dir: &Path, mut data: &[u8]) {
    let (flags, line_len) = (take_u8(&mut data), take_u16(&mut data));
    let line = String::from_utf8_lossy(take(&mut data, line_len.into()));
    let path = dir.join(if flags & 1 == 0 { "vocab.txt" } else { "tokenizer.json" });
    write(&path, data);
    let tokenizer = match Tokenizer::from_vocab_file(&path, flags & 2 == 2) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            return;
        }
    };
    for id in tokenizer.special_ids() {
        assert!(tokenizer.id_to_token(*id).is_some());
    }
    let long = tokenizer.encode_with_library(&line);
    let Ok(encoded) = tokenizer.encode_line(&line) else { return };
    assert_eq!(encoded, long.expect("the long way reads every line"));
    let num_tokens = encoded.ids.len();
    assert!(encoded.word_starts.len() == num_tokens && encoded.offsets.len() == num_tokens);
    for (&id, &(start, end)) in encoded.ids.iter().zip(&encoded.offsets) {
        assert!(tokenizer.id_to_token(id).is_some());
        assert!(
            start <= end && line.get(start as usize..end as usize).is_some(),
            "{start}..{end} of {line:?}"
        );
    }
}

/// A lexicon, used on a line that stands before it behind its length.
pub(super) fn lexicon(dir: &Path, mut data: &[u8]) {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| {
        let extra = ["我", "们", "在", "北", "京", "covid", "19", "-", "##d"];
        let tokens = SPECIAL_TOKENS.iter().chain(&extra).map(|t| (*t).to_owned()).collect();
        Tokenizer::from_tokens(tokens, true, Path::new("fuzzing")).expect("a good vocabulary")
    });
    let line_len = take_u16(&mut data);
    let line = String::from_utf8_lossy(take(&mut data, line_len.into()));
    let path = dir.join("lexicon.txt");
    let segmenter = match WordSegmenter::with_lexicon(data, &path) {
        Ok(segmenter) => segmenter,
        Err(error) => {
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            return;
        }
    };
    let Ok(mut encoded) = tokenizer.encode_line(&line) else { return };
    let before = encoded.clone();
    assert!(segmenter.mark(&line, &mut encoded) <= encoded.ids.len());
    assert_eq!((&encoded.ids, &encoded.offsets), (&before.ids, &before.offsets));
    let grown = |(after, before): (&bool, &bool)| *after && !*before;
    assert!(!encoded.word_starts.iter().zip(&before.word_starts).any(grown), "a word starts where none did");
}
