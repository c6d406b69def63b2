//! Tests of reading text: borders of documents, blocks, refusals.

use super::*;
use std::path::PathBuf;

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

#[test]
fn invalid_utf8_names_file_and_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "bad.txt", b"good\n\nab\xffcd\n");
    let sources = TextSources::list(std::slice::from_ref(&path)).unwrap();
    for block_bytes in [1, 1 << 20] {
        let mut failed = None;
        for block in sources.blocks(block_bytes).unwrap() {
            let mut reader = TextReader::new(&sources, &block);
            while failed.is_none() {
                match reader.next_line() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(e) => failed = Some(e),
                }
            }
        }
        match failed {
            Some(DataError::InvalidUtf8 { path: got, byte }) => assert_eq!((got, byte), (path.clone(), 8)),
            other => panic!("expected an UTF-8 error, got {other:?}"),
        }
    }
}
