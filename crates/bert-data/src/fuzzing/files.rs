//! Entries for the files that this crate writes itself: shards, manifests, plan counts.

use super::{take, take_u8, take_u16, write};
use crate::corpus::Corpus;
use crate::error::DataError;
use crate::files::FileRecord;
use crate::shards::{Counts, Manifest, ShardRecord, Verify, token_type};
use crate::tokenizer::SpecialIds;
use crate::words::Language;
use std::path::Path;

/// Documents of a shard that are read one by one.
const NUM_DOCUMENTS_READ: u64 = 32;

/// `.bin`, `.idx` and `.words` of a shard. A first byte with bit 0 set takes the files and the manifest's counts as
/// they come; otherwise the header, the counts and the sizes are made to fit, so that reading is reached.
pub(super) fn shard(dir: &Path, mut data: &[u8]) {
    let flags = take_u8(&mut data);
    let vocab_size = if flags & 2 == 0 { 60_000 } else { 70_000 };
    let size = token_type(vocab_size).num_bytes() as usize;
    let (counts, bin, words, idx);
    if flags & 1 == 1 {
        let mut number = || u64::from_le_bytes(std::array::from_fn(|_| take_u8(&mut data)));
        counts = [number(), number(), number()];
        let lens = [take_u16(&mut data), take_u16(&mut data)];
        bin = take(&mut data, lens[0].into()).to_vec();
        words = take(&mut data, lens[1].into()).to_vec();
        idx = data.to_vec();
    } else {
        let (num_documents, bin_len) = (usize::from(take_u8(&mut data)), usize::from(take_u16(&mut data)));
        let tokens = take(&mut data, bin_len);
        bin = tokens[..tokens.len() / size * size].to_vec();
        let num_tokens = bin.len() / size;
        words = vec![0x5a; num_tokens.div_ceil(8)];
        let Some(num_length_bytes) = data.len().checked_sub(8 * (num_documents + 1)) else { return };
        let num_sentences = num_length_bytes / 12;
        counts = [num_documents as u64, num_sentences as u64, num_tokens as u64];
        idx = fitting_index(counts, token_type(vocab_size).code(), data);
    }
    let files = [("bin", bin), ("idx", idx), ("words", words)];
    let [bin, idx, words] = files.map(|(extension, bytes)| {
        write(&dir.join(format!("s.{extension}")), &bytes);
        FileRecord { num_bytes: bytes.len() as u64, blake3: String::new() }
    });
    let [num_documents, num_sentences, num_tokens] = counts;
    let counts = Counts { num_documents, num_sentences, num_tokens, ..Counts::default() };
    let shard = ShardRecord {
        name: "s".to_owned(),
        text_blake3: String::new(),
        first_invalid: None,
        counts,
        bin,
        idx,
        words,
    };
    if let Err(error) = read_shard(dir, manifest_of(vocab_size, counts, shard)) {
        assert!(matches!(error, DataError::Damaged { .. }), "{error:?}");
        let (message, folder) = (error.to_string(), dir.display().to_string());
        assert!(message.contains(&folder) && message.len() < folder.len() + 300, "{message}");
    }
}

/// An index with these counts, as much of `body` behind its header as they need.
fn fitting_index(counts: [u64; 3], code: u8, body: &[u8]) -> Vec<u8> {
    let [num_documents, num_sentences, _] = counts;
    let mut idx = b"MMIDIDX\0\0\x01\0\0\0\0\0\0\0".to_vec();
    idx.push(code);
    idx.extend(num_sentences.to_le_bytes());
    idx.extend((num_documents + 1).to_le_bytes());
    idx.extend(&body[..(12 * num_sentences + 8 * (num_documents + 1)) as usize]);
    idx
}

/// A manifest of one shard.
fn manifest_of(vocab_size: u64, counts: Counts, shard: ShardRecord) -> Manifest {
    Manifest {
        format_version: 2,
        fingerprint: String::new(),
        text_fingerprint: String::new(),
        tokenizer_fingerprint: String::new(),
        vocab_size,
        special: SpecialIds { pad: 0, unk: 1, cls: 2, sep: 3, mask: 4 },
        special_ids: vec![0, 1, 2, 3, 4],
        language: Language::En,
        lexicon_fingerprint: None,
        shard_text_bytes: 1,
        counts,
        shards: vec![shard],
        by_source: Vec::new(),
        sources: Vec::new(),
    }
}

/// Reads a corpus in every way there is.
fn read_shard(dir: &Path, manifest: Manifest) -> Result<(), DataError> {
    let vocab_size = manifest.vocab_size;
    let num_tokens = manifest.counts.num_tokens;
    let corpus = Corpus::open_with(dir, manifest, Verify::Sizes)?;
    let mut first_error = None;
    for idx in 0..corpus.num_documents().min(NUM_DOCUMENTS_READ) {
        if let Err(error) = read_document(&corpus, idx, vocab_size, num_tokens) {
            first_error.get_or_insert(error);
        }
    }
    let runs = corpus.document_runs(2)?;
    for pair in runs.windows(2) {
        match corpus.run(pair[0]..pair[1]) {
            Ok(run) => assert!(run.iter().all(|(_, lengths)| !lengths.is_empty())),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    corpus.read_ahead(0..corpus.num_documents())?;
    first_error.map_or(Ok(()), Err)
}

/// Reads one document: whole, and its last sentence alone.
fn read_document(corpus: &Corpus, idx: u64, vocab_size: u64, num_tokens: u64) -> Result<(), DataError> {
    let document = corpus.document(idx)?;
    let lengths = &document.sentence_lengths;
    assert!(!lengths.is_empty() && lengths.iter().all(|&length| length > 0));
    let len: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
    let (mut ids, mut starts) = (Vec::new(), Vec::new());
    corpus.read_tokens(&document, 0..len, &mut ids, &mut starts)?;
    assert!(len <= num_tokens && ids.len() as u64 == len && starts.len() as u64 == len);
    assert!(ids.iter().all(|&id| u64::from(id) < vocab_size));
    let last = u64::from(lengths[lengths.len() - 1]);
    let (mut last_ids, mut last_starts) = (Vec::new(), Vec::new());
    corpus.read_tokens(&document, len - last..len, &mut last_ids, &mut last_starts)?;
    assert!(ids.ends_with(&last_ids) && starts.ends_with(&last_starts));
    Ok(())
}

/// A manifest, below its fingerprint. What is accepted comes back from its own JSON.
pub(super) fn manifest(dir: &Path, data: &[u8]) {
    let path = dir.join("manifest.json");
    let read = || -> Result<Manifest, DataError> {
        let manifest = Manifest::parse(data, &path)?;
        assert_eq!(manifest.compute_fingerprint(&path)?.len(), 64);
        manifest.check(&path)?;
        Ok(manifest)
    };
    match read() {
        Ok(manifest) => {
            let json = serde_json::to_vec(&manifest).expect("a manifest can be written");
            assert_eq!(Manifest::parse(&json, &path).expect("its own JSON"), manifest);
            let files = manifest.shards.iter().flat_map(ShardRecord::files);
            assert!(files.into_iter().all(|(name, _)| dir.join(&name).parent() == Some(dir)));
            if let Some((source, _)) = manifest.first_invalid() {
                assert!(manifest.sources.iter().any(|record| record.path == source));
            }
        }
        Err(error) => {
            assert!(matches!(error, DataError::Damaged { .. } | DataError::Stale { .. }), "{error:?}");
            assert!(error.to_string().contains(&dir.display().to_string()), "{error}");
        }
    }
}

/// Counts of a plan.
pub(super) fn counts(dir: &Path, mut data: &[u8]) {
    let (is_whole_file, num_runs) = (take_u8(&mut data) & 1 == 1, take_u16(&mut data));
    crate::plan::read_any_counts(dir, num_runs, data, is_whole_file);
}
