//! Tests of the shards: golden bytes, shares, damage, reuse.

use super::*;
use crate::corpus::Corpus;
use crate::error::{DataError, DataErrorKind};
use crate::tokenizer::{SPECIAL_TOKENS, Tokenizer};
use crate::words::Language;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

mod damage;
mod formats;
mod lies;

fn tokenizer() -> Arc<Tokenizer> {
    let extra = ["a", "b", "c", "##d", "北", "京", "大", "学"];
    let tokens = SPECIAL_TOKENS.iter().chain(&extra).map(|t| (*t).to_owned()).collect();
    Arc::new(Tokenizer::from_tokens(tokens, true, Path::new("test")).unwrap())
}

fn request(dir: &tempfile::TempDir, text: &str) -> ShardBuildRequest {
    let source = dir.path().join("text.txt");
    fs::write(&source, text).unwrap();
    ShardBuildRequest {
        sources: vec![source],
        tokenizer: tokenizer(),
        language: Language::Zh,
        lexicon: None,
        dir: dir.path().join("shards"),
        shard_text_bytes: 1 << 20,
        when_stale: WhenStale::Refuse,
        strict: true,
    }
}

fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    crate::files::sorted_entries(dir)
        .unwrap()
        .into_iter()
        .map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap()))
        .collect()
}

fn many_documents() -> String {
    (0..50).map(|i| format!("a b{}\n北京大学{}\n\n", " ad".repeat(i % 7), " c".repeat(i % 5))).collect()
}

/// Expected bytes written down from the layout of Megatron-LM's `_IndexWriter`
/// (megatron/core/datasets/indexed_dataset.py): struct "<Q" version, "<B" dtype code 8, "<Q" sequences, "<Q"
/// document indices, then int32 lengths, int64 pointers, int64 document indices.
#[test]
fn index_bytes_are_megatron_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, "a bd 北京大学\nc\n\nzzz\n");
    let manifest = prepare(&request).unwrap();
    let mut expected = b"MMIDIDX\0\0".to_vec();
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0, 8]);
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    for offset in [0u8, 14, 16, 0, 2, 3] {
        expected.extend([offset, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(fs::read(request.dir.join("shard-00000.idx")).unwrap(), expected);
    let ids: [u16; 9] = [5, 6, 8, 9, 10, 11, 12, 7, 1];
    let bin: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(fs::read(request.dir.join("shard-00000.bin")).unwrap(), bin);
    // Starts: a, b, (##d), 北, (京 大 学), c, [UNK].
    assert_eq!(fs::read(request.dir.join("shard-00000.words")).unwrap(), [0b1000_1011, 0b1]);
    assert_eq!((manifest.counts.num_unknown, manifest.counts.num_documents), (1, 2));
}

#[test]
fn tokens_come_back_as_they_were_encoded() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, &many_documents());
    request.shard_text_bytes = 100;
    let manifest = prepare(&request).unwrap();
    assert!(manifest.shards.len() > 5);
    let corpus = Corpus::open(&request.dir, Verify::Hashes).unwrap();
    assert_eq!(corpus.num_documents(), 50);
    let segmenter = crate::words::WordSegmenter::new(Language::Zh, None).unwrap();
    for (idx, text) in many_documents().split("\n\n").filter(|t| !t.is_empty()).enumerate() {
        let document = corpus.document(idx as u64).unwrap();
        let (mut ids, mut starts, mut expected_ids, mut expected_starts) = (vec![], vec![], vec![], vec![]);
        for line in text.lines() {
            let mut encoded = request.tokenizer.encode_line(line).unwrap();
            segmenter.mark(line, &mut encoded);
            expected_ids.extend(encoded.ids);
            expected_starts.extend(encoded.word_starts);
        }
        let num_tokens = document.sentence_lengths.iter().map(|&l| u64::from(l)).sum();
        corpus.read_tokens(&document, 0..num_tokens, &mut ids, &mut starts).unwrap();
        assert_eq!((ids, starts), (expected_ids, expected_starts), "document {idx}");
    }
}

#[test]
fn any_number_of_shares_builds_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, &many_documents());
    request.shard_text_bytes = 150;
    let mut expected: Option<Vec<_>> = None;
    for count in [1, 2, 3] {
        request.dir = dir.path().join(format!("shards-{count}"));
        for index in (0..count).rev() {
            build(&request, BuildShare { index, count }).unwrap();
        }
        finish(&request, count).unwrap();
        assert!(!dir.path().join(format!("shards-{count}.building")).exists());
        let got = content(&request.dir);
        match &expected {
            None => expected = Some(got),
            Some(expected) => assert!(expected == &got, "{count} shares"),
        }
    }
}

/// A shard belongs to one source, so that weights can change without building again.
#[test]
fn shards_do_not_reach_over_the_border_of_two_sources() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, &many_documents());
    let single = prepare(&request).unwrap();
    assert!(single.by_source.is_empty() && single.shards.len() == 1);
    let json = fs::read_to_string(request.dir.join("manifest.json")).unwrap();
    assert!(!json.contains("by_source"), "manifests of one source stay as they were");
    let (second, packed) = (dir.path().join("second.txt"), dir.path().join("more.jsonl"));
    fs::write(&second, "a b c\n\nb c\n").unwrap();
    fs::write(&packed, "{\"text\": \"a b\"}\n").unwrap();
    request.sources.extend([second.clone(), packed]);
    let error = prepare(&request).unwrap_err();
    assert!(matches!(&error, DataError::Stale { what: "number of sources", .. }), "{error}");
    request.when_stale = WhenStale::Rebuild;
    let manifest = prepare(&request).unwrap();
    assert_eq!(manifest.by_source.iter().map(|s| s.num_shards).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(manifest.by_source[0].text_fingerprint, single.text_fingerprint);
    let corpus = Corpus::open(&request.dir, Verify::Hashes).unwrap();
    assert_eq!(corpus.source_borders(), [0, 50, 52, 53]);
    assert_eq!(status(&request).unwrap(), BuildStatus::Ready(Box::new(manifest)));
    // The same files in another order.
    request.sources.swap(0, 1);
    prepare(&request).unwrap();
    request.when_stale = WhenStale::Refuse;
    request.sources.swap(0, 1);
    assert!(matches!(prepare(&request), Err(DataError::Stale { what: "text", .. })));
}

#[test]
fn a_missing_share_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, &many_documents());
    build(&request, BuildShare { index: 0, count: 2 }).unwrap();
    let error = finish(&request, 2).unwrap_err();
    assert!(error.to_string().contains("part-00001-of-00002"), "{error}");
    assert!(build(&request, BuildShare { index: 2, count: 2 }).is_err());
}

#[test]
fn finished_shards_are_reused_and_stale_ones_refused_or_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, &many_documents());
    assert_eq!(status(&request).unwrap(), BuildStatus::Absent);
    let first = prepare(&request).unwrap();
    assert_eq!(status(&request).unwrap(), BuildStatus::Ready(Box::new(first.clone())));
    assert_eq!(prepare(&request).unwrap(), first);

    request.language = Language::En;
    let error = prepare(&request).unwrap_err();
    assert!(matches!(&error, DataError::Stale { what: "language", .. }), "{error}");
    assert_eq!(error.kind(), DataErrorKind::Damaged);
    request.language = Language::Zh;
    fs::write(&request.sources[0], many_documents().replacen('a', "b", 1)).unwrap();
    let error = prepare(&request).unwrap_err();
    assert!(matches!(&error, DataError::Stale { what: "text", .. }), "{error}");
    request.when_stale = WhenStale::Rebuild;
    let second = prepare(&request).unwrap();
    assert_ne!(second.fingerprint, first.fingerprint);
    assert_eq!(verify(&request.dir).unwrap(), second);
    assert!(!dir.path().join("shards.old").exists());
}

#[test]
fn damaged_files_are_refused_by_name_with_both_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, &many_documents());
    let manifest = prepare(&request).unwrap();
    for (name, record) in manifest.shards[0].files() {
        let path = request.dir.join(&name);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        let error = Corpus::open(&request.dir, Verify::Hashes).unwrap_err();
        let got = blake3::hash(&flipped).to_hex().to_string();
        for part in [&name, &record.blake3, &got] {
            assert!(error.to_string().contains(part.as_str()), "{error}");
        }
        assert_eq!(error.kind(), DataErrorKind::Damaged);

        fs::write(&path, &good[..good.len() - 1]).unwrap();
        let error = Corpus::open(&request.dir, Verify::Sizes).unwrap_err();
        assert!(matches!(&error, DataError::Damaged { what: "bytes", .. }), "{error}");
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(verify(&request.dir).unwrap(), manifest);
    let path = request.dir.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"num_documents\": 50", "\"num_documents\": 49")).unwrap();
    let error = verify(&request.dir).unwrap_err();
    assert!(matches!(&error, DataError::Damaged { what: "fingerprint", .. }), "{error}");
}

#[test]
fn text_without_tokens_and_foreign_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, "\n \n\u{e5e5}\n");
    assert!(matches!(prepare(&request), Err(DataError::EmptyCorpus { .. })));
    fs::create_dir(&request.dir).unwrap();
    fs::write(request.dir.join("thesis.doc"), "precious").unwrap();
    assert!(prepare(&request).is_err());
    assert!(request.dir.join("thesis.doc").exists());
}

/// Megatron-LM's `DType.optimal_dtype`: uint16 below 65,500 ids, else int32.
#[test]
fn large_vocabularies_take_four_bytes_per_token() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, "a t65400 t7\n");
    for (vocab_size, num_bytes, code) in [(65_499, 6, 8), (65_500, 12, 4)] {
        let tokens = SPECIAL_TOKENS.iter().map(|t| (*t).to_owned());
        let tokens = tokens.chain(["a".to_owned()]).chain((6..vocab_size).map(|n| format!("t{n}"))).collect();
        request.tokenizer = Arc::new(Tokenizer::from_tokens(tokens, true, Path::new("test")).unwrap());
        request.when_stale = WhenStale::Rebuild;
        let manifest = prepare(&request).unwrap();
        assert_eq!(manifest.shards[0].bin.num_bytes, num_bytes);
        assert_eq!(fs::read(request.dir.join("shard-00000.idx")).unwrap()[17], code);
        let corpus = Corpus::open(&request.dir, Verify::Hashes).unwrap();
        let (mut ids, mut starts) = (vec![], vec![]);
        corpus.read_tokens(&corpus.document(0).unwrap(), 0..3, &mut ids, &mut starts).unwrap();
        assert_eq!(ids, [5, 65_400, 7]);
    }
}

#[test]
fn damage_that_was_not_hashed_is_an_error_where_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, &many_documents());
    prepare(&request).unwrap();
    let bin = request.dir.join("shard-00000.bin");
    let mut bytes = fs::read(&bin).unwrap();
    bytes[1] = 0xff;
    fs::write(&bin, &bytes).unwrap();
    let corpus = Corpus::open(&request.dir, Verify::Sizes).unwrap();
    let read = |corpus: &Corpus| {
        let document = corpus.document(0).unwrap();
        corpus.read_tokens(&document, 0..2, &mut vec![], &mut vec![]).unwrap_err()
    };
    assert!(matches!(read(&corpus), DataError::Damaged { what: "token id", .. }));
    // Cut off under a running job: an error, not a signal.
    fs::OpenOptions::new().write(true).open(&bin).unwrap().set_len(1).unwrap();
    assert!(matches!(read(&corpus), DataError::Damaged { what: "length", .. }));
    fs::remove_file(&bin).unwrap();
    let error = Corpus::open(&request.dir, Verify::Sizes).unwrap_err();
    assert!(matches!(&error, DataError::Damaged { what: "file", .. }), "{error}");
    assert_eq!(error.kind(), DataErrorKind::Damaged);
}
