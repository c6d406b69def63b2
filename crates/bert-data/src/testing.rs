//! Small corpora for the tests of this crate.

use crate::config::*;
use crate::corpus::Corpus;
use crate::shards::{ShardBuildRequest, Verify, WhenStale, prepare};
use crate::tokenizer::{SPECIAL_TOKENS, Tokenizer};
use crate::words::Language;
use bert_random::{Key, Purpose};
use std::path::Path;
use std::sync::Arc;

/// Words of the test vocabulary, each followed by a `##` piece every other time.
pub(crate) fn tokenizer() -> Tokenizer {
    let words = (0..300).flat_map(|n| [format!("w{n}"), format!("##p{n}")]);
    let tokens = SPECIAL_TOKENS.iter().map(|t| (*t).to_owned()).chain(words).collect();
    Tokenizer::from_tokens(tokens, true, Path::new("test")).unwrap()
}

/// Text of documents with 1 to `max_sentences` sentences of 3 to 40 words.
pub(crate) fn text(num_documents: u64, max_sentences: u64) -> String {
    let mut text = String::new();
    for document in 0..num_documents {
        let mut stream = Key::new(1, Purpose::Debug).with(document).stream();
        for _ in 0..1 + stream.below(max_sentences) {
            for _ in 0..3 + stream.below(38) {
                text.push_str(&format!("w{}", stream.below(300)));
                if stream.chance(0.3) {
                    text.push_str(&format!("p{}", stream.below(300)));
                }
                text.push(' ');
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// A corpus of this text, in several shards.
pub(crate) fn corpus_of(dir: &tempfile::TempDir, text: &str) -> Arc<Corpus> {
    corpus_of_sources(dir, &[text])
}

/// The same of several sources.
pub(crate) fn corpus_of_sources(dir: &tempfile::TempDir, texts: &[&str]) -> Arc<Corpus> {
    let write = |(idx, text): (usize, &&str)| {
        let source = dir.path().join(format!("text-{idx}.txt"));
        std::fs::write(&source, text).unwrap();
        source
    };
    let request = ShardBuildRequest {
        sources: texts.iter().enumerate().map(write).collect(),
        tokenizer: Arc::new(tokenizer()),
        language: Language::En,
        lexicon: None,
        dir: dir.path().join("shards"),
        shard_text_bytes: 100_000,
        when_stale: WhenStale::Rebuild,
        strict: true,
    };
    prepare(&request).unwrap();
    Arc::new(Corpus::open(&request.dir, Verify::Hashes).unwrap())
}

/// Settings that tests vary.
pub(crate) fn config(objective: SentenceObjective) -> PretrainDataConfig {
    PretrainDataConfig {
        max_seq_length: 64,
        short_seq_prob: 0.1,
        objective,
        masking: MaskingConfig {
            strategy: MaskStrategy::WholeWord,
            mlm_probability: 0.15,
            max_predictions_per_seq: 20,
            ngram_weights: vec![],
            replace: ReplaceShares { mask: 0.8, random: 0.1, keep: 0.1 },
            unit: ReplaceUnit::Token,
            mode: MaskMode::Dynamic,
        },
        source_weights: vec![],
        order: SampleOrder::Global,
        global_batch_size: 16,
        micro_batch_size: 4,
        validation_fraction: 0.1,
        seed: 42,
    }
}
