//! Shards of any size for tests of planning: an index of given lengths, and tokens that are holes in their files.

use super::indexed::{MAGIC, TokenType, VERSION};
use super::manifest::{Counts, Manifest, ShardRecord};
use crate::files::FileRecord;
use crate::tokenizer::Tokenizer;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// Writes shards of these documents, given as sentence lengths. Sizes are right, hashes are not: open with
/// [`crate::shards::Verify::Sizes`].
pub(crate) fn write(dir: &Path, tokenizer: &Tokenizer, shards: impl Iterator<Item = Vec<Vec<u32>>>) {
    fs::create_dir_all(dir).unwrap();
    let shards: Vec<ShardRecord> =
        shards.enumerate().map(|(idx, documents)| write_shard(dir, idx, &documents)).collect();
    let mut counts = Counts::default();
    shards.iter().for_each(|shard| counts.add(&shard.counts));
    let mut manifest = Manifest {
        format_version: 0,
        fingerprint: String::new(),
        text_fingerprint: "synthetic".to_owned(),
        tokenizer_fingerprint: tokenizer.fingerprint().to_owned(),
        vocab_size: tokenizer.vocab_size() as u64,
        special: tokenizer.special(),
        special_ids: tokenizer.special_ids().to_vec(),
        language: crate::Language::En,
        lexicon_fingerprint: None,
        shard_text_bytes: 1,
        counts,
        shards,
        by_source: vec![],
        sources: vec![],
    };
    manifest.seal_and_write(dir).unwrap();
}

fn write_shard(dir: &Path, idx: usize, documents: &[Vec<u32>]) -> ShardRecord {
    let name = format!("shard-{idx:05}");
    let num_sentences: u64 = documents.iter().map(|document| document.len() as u64).sum();
    let num_tokens: u64 = documents.iter().flatten().map(|&length| u64::from(length)).sum();
    let mut file = BufWriter::new(File::create(dir.join(format!("{name}.idx"))).unwrap());
    file.write_all(&MAGIC).unwrap();
    file.write_all(&VERSION.to_le_bytes()).unwrap();
    file.write_all(&[TokenType::U16.code()]).unwrap();
    file.write_all(&num_sentences.to_le_bytes()).unwrap();
    file.write_all(&(documents.len() as u64 + 1).to_le_bytes()).unwrap();
    documents.iter().flatten().for_each(|length| file.write_all(&length.to_le_bytes()).unwrap());
    // Planning does not read where a sentence begins.
    file.seek(SeekFrom::Current(8 * num_sentences as i64)).unwrap();
    let mut first = 0u64;
    file.write_all(&first.to_le_bytes()).unwrap();
    for document in documents {
        first += document.len() as u64;
        file.write_all(&first.to_le_bytes()).unwrap();
    }
    let num_bytes = file.stream_position().unwrap();
    file.into_inner().unwrap().sync_all().unwrap();
    let hole = |extension: &str, num_bytes: u64| {
        File::create(dir.join(format!("{name}.{extension}"))).unwrap().set_len(num_bytes).unwrap();
        FileRecord { num_bytes, blake3: String::new() }
    };
    let counts =
        Counts { num_documents: documents.len() as u64, num_sentences, num_tokens, ..Counts::default() };
    let (bin, words) = (hole("bin", 2 * num_tokens), hole("words", num_tokens.div_ceil(8)));
    let idx = FileRecord { num_bytes, blake3: String::new() };
    ShardRecord { name, text_blake3: String::new(), first_invalid: None, counts, bin, idx, words }
}
