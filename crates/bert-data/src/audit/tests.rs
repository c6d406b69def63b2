//! Audits of sound corpora, and of corpora with one planted fault each.

use super::*;
use crate::config::*;
use crate::shards::{ShardBuildRequest, Verify, WhenStale, prepare};
use crate::testing::{config, text, tokenizer};
use std::path::Path;

fn corpus(
    dir: &tempfile::TempDir,
    text: &str,
    tokenizer: &Arc<Tokenizer>,
    language: crate::Language,
) -> Arc<Corpus> {
    let source = dir.path().join("text.txt");
    std::fs::write(&source, text).unwrap();
    let request = ShardBuildRequest {
        sources: vec![source],
        tokenizer: tokenizer.clone(),
        language,
        lexicon: None,
        dir: dir.path().join("shards"),
        shard_text_bytes: 1 << 20,
        when_stale: WhenStale::Rebuild,
        strict: true,
    };
    prepare(&request).unwrap();
    Arc::new(Corpus::open(&request.dir, Verify::Hashes).unwrap())
}

fn report(text: &str, config: &PretrainDataConfig) -> AuditReport {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = Arc::new(bracketed());
    audit(&corpus(&dir, text, &tokenizer, crate::Language::En), &tokenizer, None, config, 2000).unwrap()
}

/// The test vocabulary with brackets, the names of special tokens and some Chinese.
fn bracketed() -> Tokenizer {
    let plain = tokenizer();
    let own = (0..plain.vocab_size() as u32).map(|id| plain.id_to_token(id).unwrap().to_owned());
    let more = ["[", "]", "mask", "sep", "天", "下", "大", "势"].map(str::to_owned);
    Tokenizer::from_tokens(own.chain(more).collect(), true, Path::new("test")).unwrap()
}

#[track_caller]
fn verdict(report: &AuditReport, name: &str) -> Verdict {
    report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check {name}")).verdict
}

/// The names of the failed checks must be these.
#[track_caller]
fn fails(report: &AuditReport, names: &[&str]) {
    let failed: Vec<&Check> = report.failed().collect();
    let got: Vec<&str> = failed.iter().map(|check| check.name).collect();
    assert_eq!(got, names, "{failed:#?}");
    assert_eq!(report.passed, names.is_empty());
    assert!(failed.iter().all(|check| !check.advice.is_empty()), "every failure says what to do");
}

#[test]
fn a_sound_corpus_passes_under_every_objective_and_strategy() {
    for objective in [SentenceObjective::Nsp, SentenceObjective::Sop, SentenceObjective::None] {
        for strategy in
            [MaskStrategy::Token, MaskStrategy::WholeWord, MaskStrategy::Ngram, MaskStrategy::Span]
        {
            let mut config = config(objective);
            config.masking.strategy = strategy;
            config.masking.ngram_weights = vec![0.4, 0.3, 0.2, 0.1];
            let report = report(&text(200, 30), &config);
            fails(&report, &[]);
            let samples = report.samples.unwrap();
            assert_eq!(samples.num_rule_breaks, 0);
            assert_eq!(samples.num_samples, 2000);
            assert_eq!(samples.sequence_lengths.iter().map(|bin| bin.num_samples).sum::<u64>(), 2000);
            assert_eq!(samples.pairs.is_some(), objective != SentenceObjective::None);
        }
    }
}

/// Partners come from the own block there, so the test of a choice over the whole corpus does not apply.
#[test]
fn a_sound_corpus_passes_in_the_order_by_blocks() {
    let order = SampleOrder::Blocks { block_sentences: 1, window_blocks: 2 };
    let report = report(&text(200, 30), &PretrainDataConfig { order, ..config(SentenceObjective::Nsp) });
    fails(&report, &[]);
    assert_eq!(verdict(&report, "partners_own_document"), Verdict::Pass);
    assert!(report.checks.iter().all(|check| check.name != "partners_uniform"));
}

#[test]
fn duplicate_documents_and_sentences_are_named() {
    let sound = text(100, 10);
    let document = text(1, 10);
    let report =
        report(&format!("{sound}{}", format!("{document}\n").repeat(20)), &config(SentenceObjective::Nsp));
    assert_eq!(verdict(&report, "duplicate_documents"), Verdict::Fail);
    assert_eq!(report.corpus.duplicate_documents.most_frequent, 21);
    assert_eq!(report.corpus.duplicate_documents.most_frequent_document, Some(0));
    assert!(report.failed().all(|check| check.name.starts_with("duplicate_")));
}

#[test]
fn a_single_document_is_named_where_pairs_need_two() {
    let one = text(1, 30);
    let without_split = |objective| PretrainDataConfig { validation_fraction: 0.0, ..config(objective) };
    let report_nsp = report(&one, &without_split(SentenceObjective::Nsp));
    fails(&report_nsp, &["documents"]);
    assert_eq!(report_nsp.checks[0].got, "a single document");
    assert!(report_nsp.checks[0].advice.contains("\"sop\" or \"none\""));
    assert!(report_nsp.samples.is_none());
    let report_sop = report(&one, &without_split(SentenceObjective::Sop));
    assert_eq!(verdict(&report_sop, "largest_document"), Verdict::Advice);
    assert!(report_sop.samples.is_some());
}

#[test]
fn special_tokens_written_in_the_text_are_named() {
    let report =
        report(&format!("{}w1 [MASK] w2 w3 [SEP] [mask]\n", text(100, 10)), &config(SentenceObjective::Nsp));
    fails(&report, &["special_tokens_in_text"]);
    let found: Vec<_> = report.corpus.special_tokens.iter().map(|s| (s.token, s.num_occurrences)).collect();
    assert_eq!(found, [("[SEP]", 1), ("[MASK]", 2)]);
    assert!(report.corpus.special_tokens.iter().all(|found| found.first_document == 100));
}

#[test]
fn a_vocabulary_that_cannot_spell_them_does_not_hide_special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = Arc::new(tokenizer());
    let planted = format!("{}w1 [MASK] w2 w3 [sep] w4 [MASK][ \n", text(100, 10));
    let corpus = corpus(&dir, &planted, &tokenizer, crate::Language::En);
    let text = TextSources::list(&[dir.path().join("text.txt")]).unwrap();
    let report = audit(&corpus, &tokenizer, Some(&text), &config(SentenceObjective::Nsp), 500).unwrap();
    fails(&report, &["special_tokens_in_text"]);
    let found: Vec<_> = report.corpus.special_tokens.iter().map(|s| (s.token, s.num_occurrences)).collect();
    assert_eq!(found, [("[SEP]", 1), ("[MASK]", 2)]);
    assert!(report.corpus.special_tokens.iter().all(|found| found.first_document == 100));
}

#[test]
fn text_of_another_language_is_named_and_so_is_a_vocabulary_of_another() {
    let chinese = |n: usize| ["天下大势", "下大势天", "大大势天下", "势天"][n % 4].repeat(5 + n);
    let lines: Vec<String> = (0..30).map(chinese).collect();
    let mixed = format!("{}{}\n", text(50, 10), lines.join("\n\n"));
    fails(&report(&mixed, &config(SentenceObjective::Nsp)), &["language"]);
    let unknown: String = text(50, 10).replace('w', "q");
    assert_eq!(verdict(&report(&unknown, &config(SentenceObjective::Nsp)), "unknown_tokens"), Verdict::Fail);
}

#[test]
fn one_line_texts_work_and_the_report_says_what_happens_to_them() {
    let reviews = report(&text(2000, 1), &config(SentenceObjective::Nsp));
    fails(&reviews, &[]);
    assert_eq!(verdict(&reviews, "one_sentence_documents"), Verdict::Advice);
    let pairs = reviews.samples.unwrap().pairs.unwrap();
    assert!((pairs.negative_share - 0.5).abs() < 0.02 && pairs.num_own_document == 0, "{pairs:?}");
    let without = report(&text(2000, 1), &config(SentenceObjective::None));
    fails(&without, &[]);
    assert!(without.checks.iter().all(|check| check.name != "one_sentence_documents"));
}

#[test]
fn a_cap_that_always_binds_is_advice_and_static_copies_are_not_counted_twice() {
    let mut config = config(SentenceObjective::None);
    config.masking.max_predictions_per_seq = 1;
    config.masking.mlm_probability = 0.5;
    config.masking.mode = MaskMode::Static { num_copies: 2 };
    let report = report(&text(20, 3), &config);
    assert_eq!(verdict(&report, "mask_share"), Verdict::Advice);
    let samples = report.samples.unwrap();
    assert!(samples.num_samples < 2000 && samples.num_epochs == 2, "{}", samples.num_samples);
}

#[test]
fn another_tokenizer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(&dir, &text(10, 3), &Arc::new(bracketed()), crate::Language::En);
    let error = audit(&corpus, &tokenizer(), None, &config(SentenceObjective::Nsp), 10).unwrap_err();
    assert!(matches!(error, DataError::Stale { what: "tokenizer", .. }), "{error}");
}
