//! Numbers in headers and manifests that are not true: each is refused by name before it costs memory.
//!
//! The hashes are left aside here, as if whoever changed the numbers had mended them too.

use super::*;
use crate::shards::ShardRecord;

/// Three sentences of 7, 1 and 1 tokens in two documents.
const TEXT: &str = "a bd 北京大学\nc\n\nzzz\n";
/// Where the numbers stand in its index.
const LENGTHS: usize = 34;
const OFFSETS: usize = 46;
const BORDERS: usize = 70;

/// Opens the shards with this manifest and reads everything in every way; the first error.
fn read_all(dir: &Path, manifest: Manifest) -> Result<(), DataError> {
    let corpus = Corpus::open_with(dir, manifest, Verify::Sizes)?;
    for idx in 0..corpus.num_documents() {
        let document = corpus.document(idx)?;
        let num_tokens = document.sentence_lengths.iter().map(|&length| u64::from(length)).sum();
        corpus.read_tokens(&document, 0..num_tokens, &mut vec![], &mut vec![])?;
    }
    Ok(())
}

/// Expects a refusal that names the file and all parts.
#[track_caller]
fn assert_refused(result: Result<(), DataError>, file: &str, parts: &[&str]) {
    let error = result.expect_err(&format!("a lie about {parts:?}"));
    assert!(matches!(error, DataError::Damaged { .. }), "{error:?}");
    for part in parts.iter().chain([&file]) {
        assert!(error.to_string().contains(part), "expected `{part}` in: {error}");
    }
}

#[test]
fn an_index_that_lies_is_refused_with_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, TEXT);
    let manifest = prepare(&request).unwrap();
    let path = request.dir.join("shard-00000.idx");
    let good = fs::read(&path).unwrap();
    read_all(&request.dir, manifest.clone()).unwrap();
    let huge = u64::MAX.to_le_bytes();
    let number = |n: u64| n.to_le_bytes().to_vec();
    let length = |n: i32| n.to_le_bytes().to_vec();
    for (at, bytes, what, expected, got) in [
        (0, b"NNIDIDX".to_vec(), "magic", "MMIDIDX", "NNIDIDX"),
        (9, number(2), "version", "expected 1", "got 2"),
        (17, vec![4], "dtype code", "expected 8", "got 4"),
        (17, vec![255], "dtype code", "expected 8", "got 255"),
        (18, number(4), "sentences", "expected 3", "got 4"),
        (18, huge.to_vec(), "sentences", "expected 3", "got 18446744073709551615"),
        (26, number(0), "documents + 1", "expected 3", "got 0"),
        (26, huge.to_vec(), "documents + 1", "expected 3", "got 18446744073709551615"),
        (LENGTHS, length(0), "sentence length", "1 to 9 tokens", "got 0"),
        (LENGTHS, length(-1), "sentence length", "1 to 9 tokens", "got 4294967295"),
        (LENGTHS, length(i32::MAX), "sentence length", "1 to 9 tokens", "got 2147483647"),
        (LENGTHS + 8, length(9), "end of a sentence", "at most the 9", "got 17"),
        (OFFSETS, number(1), "sentence offset", "a multiple of 2 below 18", "got 1"),
        (OFFSETS + 16, number(18), "sentence offset", "a multiple of 2 below 18", "got 18"),
        (
            OFFSETS,
            number(u64::MAX - 1),
            "sentence offset",
            "a multiple of 2 below 18",
            "got 1844674407370955161",
        ),
        (BORDERS + 8, number(9), "document borders", "ascending up to 3", "got 9 after 0"),
        (BORDERS + 8, number(0), "document borders", "ascending up to 3", "got 0 after 0"),
        (BORDERS + 8, number(3), "document borders", "ascending up to 3", "got 3 after 3"),
        (BORDERS + 16, huge.to_vec(), "document borders", "ascending up to 3", "got 18446744073709551615"),
    ] {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(&bytes);
        fs::write(&path, &bad).unwrap();
        assert_refused(read_all(&request.dir, manifest.clone()), "shard-00000.idx", &[what, expected, got]);
    }
}

#[test]
fn a_manifest_that_lies_about_counts_and_sizes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, TEXT);
    let manifest = prepare(&request).unwrap();
    type Lie = fn(&mut ShardRecord);
    // The products and sums of the last ones do not fit into 64 bits.
    let lies: [(Lie, &str, &str); 9] = [
        (|shard| shard.counts.num_sentences = 4, "idx", "sentences"),
        (|shard| shard.counts.num_documents = 3, "idx", "documents + 1"),
        (|shard| shard.counts.num_tokens = 10, "bin", "bytes for its tokens"),
        (|shard| shard.bin.num_bytes = 20, "bin", "expected 20, got 18"),
        (|shard| shard.words.num_bytes = u64::MAX, "words", "expected 18446744073709551615, got 2"),
        (|shard| shard.counts.num_sentences = u64::MAX, "idx", "expected 18446744073709551615, got 3"),
        (|shard| shard.counts.num_documents = u64::MAX, "idx", "expected 18446744073709551616, got 3"),
        (|shard| shard.counts.num_tokens = u64::MAX, "bin", "expected 36893488147419103230, got 18"),
        (|shard| shard.counts.num_tokens = (1 << 63) + 9, "bin", "expected 18446744073709551634, got 18"),
    ];
    for (lie, extension, part) in lies {
        let mut lying = manifest.clone();
        lie(&mut lying.shards[0]);
        lying.counts = lying.shards[0].counts;
        assert_refused(read_all(&request.dir, lying), &format!("shard-00000.{extension}"), &[part]);
    }
    for (vocab_size, extension, parts) in [
        (70_000, "idx", ["dtype code", "expected 4, got 8"]),
        (u64::MAX, "idx", ["dtype code", "expected 4, got 8"]),
        (6, "bin", ["token id", "expected below 6, got 12"]),
    ] {
        let lying = Manifest { vocab_size, ..manifest.clone() };
        assert_refused(read_all(&request.dir, lying), &format!("shard-00000.{extension}"), &parts);
    }
}

/// Below its fingerprint, as [`Manifest::read`] checks it.
#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, TEXT);
    let manifest = prepare(&request).unwrap();
    let path = request.dir.join("manifest.json");
    manifest.check(&path).unwrap();
    type Lie = fn(&mut Manifest);
    let lies: [(Lie, &str, &str); 9] = [
        (|m| m.counts.num_tokens = 8, "num_tokens", "expected 9, the sum over its shards, got 8"),
        (|m| m.shards[0].counts.num_documents = u64::MAX, "num_documents", "got 2"),
        (|m| m.shards.push(m.shards[0].clone()), "name of a shard", "each name once, got shard-00000"),
        (|m| m.shards[0].name = "../other/shard-00000".into(), "name of a shard", "got ../other/shard-00000"),
        (|m| m.shards[0].name = "/etc/passwd".into(), "name of a shard", "got /etc/passwd"),
        (|m| m.shards[0].name.clear(), "name of a shard", "letters, digits"),
        (|m| m.special.mask = 13, "id of a special token", "below the vocabulary's 13, got 13"),
        (|m| m.special_ids.push(u32::MAX), "id of a special token", "got 4294967295"),
        (|m| m.vocab_size = 0, "id of a special token", "below the vocabulary's 0, got 0"),
    ];
    for (lie, what, part) in lies {
        let mut lying = manifest.clone();
        lie(&mut lying);
        assert_refused(lying.check(&path), "manifest.json", &[what, part]);
    }
}
