//! Shards in the hands of Megatron-LM's own code, and its files in ours, where it is installed.

use super::indexed::TokenType;
use super::*;
use crate::corpus::Corpus;
use crate::files::FileRecord;
use crate::testing;
use std::fs;
use std::process::Command;

/// The sentences of every document.
fn documents(corpus: &Corpus) -> Vec<Vec<Vec<u32>>> {
    (0..corpus.num_documents())
        .map(|idx| {
            let document = corpus.document(idx).unwrap();
            let mut start = 0;
            let mut sentence = |&len: &u32| {
                let mut ids = Vec::new();
                let end = start + u64::from(len);
                corpus.read_tokens(&document, start..end, &mut ids, &mut Vec::new()).unwrap();
                start = end;
                ids
            };
            document.sentence_lengths.iter().map(&mut sentence).collect()
        })
        .collect()
}

/// The same, of a shard that has no manifest.
fn foreign_documents(dir: &Path, name: &str, token_type: TokenType, counts: Counts) -> Vec<Vec<Vec<u32>>> {
    fs::write(dir.join(format!("{name}.words")), vec![0; counts.num_tokens.div_ceil(8) as usize]).unwrap();
    let file = |extension: &str| {
        let num_bytes = fs::metadata(dir.join(format!("{name}.{extension}"))).unwrap().len();
        FileRecord { num_bytes, blake3: String::new() }
    };
    let record = ShardRecord {
        name: name.to_owned(),
        text_blake3: String::new(),
        first_invalid: None,
        counts,
        bin: file("bin"),
        idx: file("idx"),
        words: file("words"),
    };
    let shard = Shard::open(dir, &record, token_type).unwrap();
    let bounds = shard.document_bounds(0..shard.num_documents()).unwrap();
    let sentence = |idx: u64| {
        let (mut ids, first) = (Vec::new(), shard.first_token(idx).unwrap());
        let len = shard.sentence_lengths(idx..idx + 1).unwrap()[0];
        shard.read_tokens(first..first + u64::from(len), u64::MAX, &mut ids).unwrap();
        ids
    };
    bounds.windows(2).map(|bounds| (bounds[0]..bounds[1]).map(sentence).collect()).collect()
}

/// `tests/golden/indexed_dataset_peer.py` with megatron-core 0.16.1 reads every sentence and border of ours, and what its
/// builder writes from the same documents is what we write, byte by byte, and what we read.
#[test]
fn megatron_reads_ours_and_we_read_megatrons() {
    let Some(python) = std::env::var_os("BERT_TRAIN_MEGATRON_PYTHON") else {
        println!("skipped: BERT_TRAIN_MEGATRON_PYTHON names no Python with numpy and megatron-core");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let text = testing::text(60, 9);
    fs::write(dir.path().join("text.txt"), text).unwrap();
    let request = ShardBuildRequest {
        sources: vec![dir.path().join("text.txt")],
        tokenizer: std::sync::Arc::new(testing::tokenizer()),
        language: crate::Language::En,
        lexicon: None,
        dir: dir.path().join("shards"),
        shard_text_bytes: 1 << 30,
        when_stale: WhenStale::Refuse,
        strict: true,
    };
    let counts = prepare(&request).unwrap().counts;
    let expected = documents(&Corpus::open(&request.dir, Verify::Hashes).unwrap());
    fs::write(dir.path().join("documents.json"), serde_json::to_vec(&expected).unwrap()).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/indexed_dataset_peer.py");
    let ours = request.dir.join("shard-00000");
    let output = Command::new(python)
        .args([&script, &dir.path().join("documents.json"), &ours, &dir.path().join("theirs")])
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    for extension in ["bin", "idx"] {
        let theirs = fs::read(dir.path().join(format!("theirs-u16.{extension}"))).unwrap();
        assert!(fs::read(ours.with_extension(extension)).unwrap() == theirs, ".{extension}");
    }
    for (name, token_type) in [("theirs-u16", TokenType::U16), ("theirs-i32", TokenType::I32)] {
        assert!(foreign_documents(dir.path(), name, token_type, counts) == expected, "{name}");
    }
}
