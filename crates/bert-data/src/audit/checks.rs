//! Verdicts: every bound of the audit stands here, once.
//!
//! A check says what was expected, what was found, and what to do if it is not as expected. Measures nothing.

use super::corpus_pass::CorpusFigures;
use super::duplicates::Duplicates;
use super::sample_pass::{PairFigures, SampleFigures};
use super::statistics::ChiSquare;
use crate::config::{PretrainDataConfig, SentenceObjective};
use crate::error::DataError;
use crate::words::Language;
use serde::Serialize;

/// Tokens that are `[UNK]`.
const MAX_UNKNOWN_SHARE: f64 = 0.05;
/// Tokens over the border of a segmented word.
const MAX_MISALIGNED_SHARE: f64 = 0.001;
/// Tokens in documents of another language.
const MAX_WRONG_LANGUAGE_SHARE: f64 = 0.05;
/// Special tokens spelled in the text, per token: in a large corpus a page about BERT is no fault.
const MAX_SPECIAL_SHARE: f64 = 1e-6;
/// Tokens in documents that repeat an earlier one.
const MAX_DUPLICATE_DOCUMENT_SHARE: f64 = 0.01;
/// Tokens in sentences that repeat an earlier one.
const MAX_DUPLICATE_SENTENCE_SHARE: f64 = 0.05;
/// Documents of one sentence, above which the sentence objective has little to ask.
const MANY_ONE_SENTENCE_SHARE: f64 = 0.5;
/// Tokens in the largest document, above which it is probably many.
const LARGE_DOCUMENT_SHARE: f64 = 0.5;
/// Distance of the mask share from the asked one, where the cap does not bind.
const MAX_MASK_SHARE_ERROR: f64 = 0.002;
/// Distance of each replacement's share from the asked one, or four standard deviations if that is more.
const MAX_REPLACEMENT_ERROR: f64 = 0.01;
/// Probability below which a chi-square test fails.
const MIN_P_VALUE: f64 = 0.001;
/// Tokens cut off to fit.
const MAX_TRUNCATED_SHARE: f64 = 0.25;
/// Positions that are padding.
const MAX_PADDING_SHARE: f64 = 0.5;

/// What a check has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As expected.
    Pass,
    /// Works as documented, but something else would probably serve better.
    Advice,
    /// Not as expected.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// What it has come to.
    pub verdict: Verdict,
    /// The bound.
    pub expected: String,
    /// What was found.
    pub got: String,
    /// What to do; empty if nothing.
    pub advice: String,
}

impl Check {
    fn new(
        name: &'static str,
        is_good: bool,
        expected: impl Into<String>,
        got: String,
        advice: &str,
    ) -> Self {
        let verdict = if is_good { Verdict::Pass } else { Verdict::Fail };
        let advice = if is_good { String::new() } else { advice.to_owned() };
        Self { name, verdict, expected: expected.into(), got, advice }
    }

    fn at_most(name: &'static str, share: f64, bound: f64, of_what: &str, advice: &str) -> Self {
        let expected = format!("at most {} {of_what}", percent(bound));
        Self::new(name, share <= bound, expected, percent(share), advice)
    }

    /// Pass or advice: what is not as expected works all the same.
    fn into_advice(mut self) -> Self {
        if self.verdict == Verdict::Fail {
            self.verdict = Verdict::Advice;
        }
        self
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// The corpus is too small for the settings.
pub(super) fn no_samples(error: &DataError, num_documents: u64) -> Check {
    let (name, expected) = match error {
        DataError::TooFewDocuments { objective, expected, place, .. } => {
            ("documents", format!("at least {expected} documents {place} for `{objective}`"))
        }
        _ => ("samples", "at least one sample".to_owned()),
    };
    let got = if num_documents == 1 {
        "a single document".to_owned()
    } else {
        format!("{num_documents} documents")
    };
    Check::new(name, false, expected, got, &error.to_string())
}

/// Checks of the text.
pub(super) fn of_corpus(
    figures: &CorpusFigures,
    language: Language,
    objective: SentenceObjective,
) -> Vec<Check> {
    let mut checks = vec![
        Check::at_most(
            "unknown_tokens",
            figures.unknown_share,
            MAX_UNKNOWN_SHARE,
            "of the tokens [UNK]",
            "use a vocabulary of this language, or train one from this text: bert vocab train",
        ),
        Check::at_most(
            "misaligned_tokens",
            figures.misaligned_share,
            MAX_MISALIGNED_SHARE,
            "of the tokens over the border of a word",
            "train a vocabulary from this text: these tokens join characters that belong to different words",
        ),
        special_tokens(figures),
        duplicates("duplicate_documents", &figures.duplicate_documents, MAX_DUPLICATE_DOCUMENT_SHARE),
        duplicates("duplicate_sentences", &figures.duplicate_sentences, MAX_DUPLICATE_SENTENCE_SHARE),
        Check::at_most(
            "largest_document",
            figures.largest_document_share,
            LARGE_DOCUMENT_SHARE,
            "of the tokens in one document",
            "separate documents by blank lines: random partners and held-out text come from other documents",
        )
        .into_advice(),
    ];
    checks.extend(wrong_language(figures, language));
    if objective != SentenceObjective::None {
        checks.push(one_sentence(figures, objective));
    }
    checks
}

fn special_tokens(figures: &CorpusFigures) -> Check {
    let num_found: u64 = figures.special_tokens.iter().map(|found| found.num_occurrences).sum();
    let describe = |found: &super::SpecialInText| {
        format!("{} {} times, first in document {}", found.token, found.num_occurrences, found.first_document)
    };
    let found: Vec<String> = figures.special_tokens.iter().map(describe).collect();
    let got = if found.is_empty() { "none".to_owned() } else { found.join("; ") };
    Check::new(
        "special_tokens_in_text",
        num_found as f64 <= MAX_SPECIAL_SHARE * figures.num_tokens as f64,
        "no [PAD] [UNK] [CLS] [SEP] [MASK] written in the text (at most one in a million tokens)",
        got,
        "remove them: somebody has tokenized or masked this text before; they are read as ordinary characters",
    )
}

fn duplicates(name: &'static str, found: &Duplicates, bound: f64) -> Check {
    let of_what =
        format!("of the tokens in {} that were there before", name.trim_start_matches("duplicate_"));
    let advice = "remove the repetitions before building shards: what repeats is learned by heart, and held-out \
                  text must not be trained on";
    let mut check = Check::at_most(name, found.token_share, bound, &of_what, advice);
    if let Some(document) = found.most_frequent_document.filter(|_| found.most_frequent > 1) {
        let most = found.most_frequent;
        check.got.push_str(&format!("; the most frequent one {most} times, first in document {document}"));
    }
    if found.sampled_one_in > 1 {
        check.got.push_str(&format!("; estimated on one in {}", found.sampled_one_in));
    }
    check
}

/// Only Chinese and what is not Chinese are told apart.
fn wrong_language(figures: &CorpusFigures, language: Language) -> Option<Check> {
    let (wrong_share, name) = match language {
        Language::Zh => (figures.other_document_share, "zh"),
        Language::En => (figures.cjk_document_share, "en"),
        Language::Auto => return None,
    };
    let expected = format!(
        "at most {} of the tokens in documents that are not \"{name}\"",
        percent(MAX_WRONG_LANGUAGE_SHARE)
    );
    let cjk = percent(figures.cjk_share);
    let got = format!("{}; {cjk} of all words and characters are CJK", percent(wrong_share));
    let advice = "set data.language to the language of the text, or remove the documents of the other one";
    Some(Check::new("language", wrong_share <= MAX_WRONG_LANGUAGE_SHARE, expected, got, advice))
}

/// The policy for unrelated short texts: it works, and this is what happens.
fn one_sentence(figures: &CorpusFigures, objective: SentenceObjective) -> Check {
    let advice = format!(
        "set sentence_objective = \"none\": documents of one sentence are cut inside the sentence to make the pairs \
         of \"{}\", which teaches little",
        objective.name()
    );
    let share = figures.one_sentence_share;
    let of_what = "of the documents with one sentence";
    Check::at_most("one_sentence_documents", share, MANY_ONE_SENTENCE_SHARE, of_what, &advice).into_advice()
}

/// Checks of the samples.
pub(super) fn of_samples(figures: &SampleFigures, config: &PretrainDataConfig) -> Vec<Check> {
    let mut checks = vec![mask_share(figures, config), replacements(figures, config), lengths(figures)];
    checks.push(Check::new(
        "masking_rules",
        figures.num_rule_breaks == 0,
        "no special token chosen or inserted, no unit across [SEP] or over another, no budget exceeded",
        format!("{} of {} samples break a rule", figures.num_rule_breaks, figures.num_samples),
        "report this with the configuration: it is a defect of the program",
    ));
    if let Some(pairs) = &figures.pairs {
        checks.extend(pair_checks(pairs, figures.num_samples));
    }
    checks.push(Check::at_most(
        "truncation",
        figures.truncated_token_share,
        MAX_TRUNCATED_SHARE,
        "of the tokens cut off to fit",
        "raise max_seq_length, or put one sentence on a line",
    ));
    checks.push(Check::at_most(
        "padding",
        figures.padding_share,
        MAX_PADDING_SHARE,
        "of the positions padding",
        "lower max_seq_length, or join short documents",
    ));
    checks
}

/// The share asked for cannot be had exactly: every sample masks a whole number of tokens.
fn mask_share(figures: &SampleFigures, config: &PretrainDataConfig) -> Check {
    let asked = config.masking.mlm_probability;
    let (budget, got) = (figures.uncapped_budget_share, figures.uncapped_mask_share);
    let capped = percent(figures.capped_sample_share);
    if figures.capped_sample_share == 1.0 {
        let expected = format!("{} of the tokens, or max_predictions_per_seq", percent(asked));
        let got = format!("{}; the cap binds in every sample", percent(figures.mask_share));
        let advice = "raise max_predictions_per_seq if the asked share is meant";
        return Check::new("mask_share", false, expected, got, advice).into_advice();
    }
    let bound = MAX_MASK_SHARE_ERROR + (budget - asked).abs();
    let advice = "a unit that does not fit into what is left of the budget is skipped: raise \
                  max_seq_length, give single words a weight in ngram_weights, or choose strategy = \"token\"";
    let expected = format!(
        "{} of the tokens, ± {:.2} points ({:.2} of them from rounding to whole tokens)",
        percent(asked),
        bound * 100.0,
        (budget - asked).abs() * 100.0
    );
    let got_text = format!("{}; the cap binds in {capped} of the samples", percent(got));
    Check::new("mask_share", (got - asked).abs() <= bound, expected, got_text, advice)
}

fn replacements(figures: &SampleFigures, config: &PretrainDataConfig) -> Check {
    let shares = config.masking.replace;
    let asked = [shares.mask, shares.random, shares.keep];
    let num_draws = figures.num_replacement_draws.max(1) as f64;
    let is_near = |(asked, got): (&f64, &f64)| {
        let deviation = (asked * (1.0 - asked) / num_draws).sqrt();
        (asked - got).abs() <= MAX_REPLACEMENT_ERROR.max(4.0 * deviation)
    };
    let text = |shares: [f64; 3]| shares.map(percent).join(" / ");
    Check::new(
        "replacements",
        asked.iter().zip(&figures.replaced).all(is_near),
        format!("[MASK] / random / kept: {}, ± 1 point each", text(asked)),
        text(figures.replaced),
        "audit more samples (--samples); if it stays so, report it: it is a defect of the program",
    )
}

fn p_value(test: &ChiSquare) -> String {
    format!(
        "chi-square {:.1} at {} degrees: p = {:.4}",
        test.statistic, test.degrees_of_freedom, test.p_value
    )
}

fn lengths(figures: &SampleFigures) -> Check {
    let lengths = &figures.lengths;
    let got = format!(
        "{}; {} are shorter in the end, mean {:.2} words for {:.2}",
        p_value(&lengths.drawn_test),
        percent(lengths.shortened_share),
        lengths.realised_mean_words,
        lengths.asked_mean_words
    );
    Check::new(
        "unit_lengths",
        lengths.drawn_test.p_value >= MIN_P_VALUE,
        "lengths as first drawn follow the asked distribution, p at least 0.001",
        got,
        "audit with another run.seed: one audit in a thousand fails by chance; if it stays so, report it",
    )
}

/// How far the share of a label may be from one half: 0.005 for 100,000 samples, more for fewer.
fn label_bound(num_samples: u64) -> f64 {
    match num_samples {
        100_000.. => 0.005,
        10_000.. => 0.01,
        _ => 2.0 / (num_samples.max(1) as f64).sqrt(),
    }
}

fn pair_checks(pairs: &PairFigures, num_samples: u64) -> Vec<Check> {
    let bound = label_bound(num_samples);
    let mut checks = vec![Check::new(
        "pair_labels",
        (pairs.negative_share - 0.5).abs() <= bound,
        format!("0.500 ± {bound:.3} of the pairs with label 1"),
        format!("{:.4} of {num_samples}", pairs.negative_share),
        "audit more samples (--samples): a corpus of few documents comes nearer over several epochs",
    )];
    if pairs.num_random > 0 {
        checks.push(Check::new(
            "partners_own_document",
            pairs.num_own_document == 0,
            "no random partner from the own document",
            pairs.num_own_document.to_string(),
            "report this with the configuration: it is a defect of the program",
        ));
    }
    if let Some(test) = &pairs.partner_test {
        checks.push(Check::new(
            "partners_uniform",
            test.p_value >= MIN_P_VALUE,
            "random partners uniform over documents, p at least 0.001",
            p_value(test),
            "audit with another run.seed: one audit in a thousand fails by chance; if it stays so, report it",
        ));
    }
    checks
}
