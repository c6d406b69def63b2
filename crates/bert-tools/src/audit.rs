//! `bert audit`: what the training samples of a configuration really are, and whether that is sound.
//!
//! Owns the way from a configuration to the report, and the report as text. Figures, bounds and verdicts are the
//! business of bert-data.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;
use bert_data::{
    Corpus, Tokenizer,
    audit::{AuditReport, Check, CorpusFigures, LengthFigures, SampleFigures, Verdict, audit},
    shards::{self, Verify},
    text::TextSources,
};
use bert_train::{
    config::{self, SourceSection},
    data_settings::{pretrain_data, shard_request},
};

use crate::{
    cli::AuditArguments,
    failure::ToolError,
    table::{line, percent, row, thousands},
};

/// Runs the command. Shards that are not there yet are built, as bert-train would.
///
/// # Errors
///
/// [`ToolError::Damaged`] names the checks that failed; what bert-data refuses: missing text, shards of other text.
pub fn run(arguments: &AuditArguments) -> anyhow::Result<()> {
    let config = config::load(&arguments.config, &arguments.overrides)?;
    let tokenizer = Arc::new(Tokenizer::from_vocab_file(&config.data.tokenizer, config.data.lowercase)?);
    let request = shard_request(&config, &tokenizer);
    shards::prepare(&request)?;
    let text = TextSources::list(&request.sources)?;
    let corpus = Arc::new(Corpus::open(&config.data.shards, Verify::Hashes)?);
    let report = audit(&corpus, &tokenizer, Some(&text), &pretrain_data(&config), arguments.samples)?;
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    let names: Vec<&str> = config.data.sources.iter().map(SourceSection::path).collect();
    print(&report, &names);
    verdict(&report)
}

fn write_json(path: &Path, report: &AuditReport) -> anyhow::Result<()> {
    let mut json = serde_json::to_vec_pretty(report).context("failed to write the report as JSON")?;
    json.push(b'\n');
    fs::write(path, json).with_context(|| format!("failed to write the report to `{}`", path.display()))
}

/// Success, or an error that names the failed checks.
fn verdict(report: &AuditReport) -> anyhow::Result<()> {
    let failed: Vec<&str> = report.failed().map(|check| check.name).collect();
    if failed.is_empty() {
        line(format!("passed: {} checks", report.checks.len()));
        return Ok(());
    }
    let message = format!(
        "the audit failed: {} of {} checks: {}",
        failed.len(),
        report.checks.len(),
        failed.join(", ")
    );
    Err(ToolError::Damaged(message).into())
}

fn print(report: &AuditReport, names: &[&str]) {
    print_corpus(&report.corpus);
    for (source, name) in report.sources.iter().zip(names) {
        row("source", format!("{name}: {} documents", thousands(source.num_documents)));
        row("", format!("x {}, {} samples per epoch", source.weight, thousands(source.num_samples)));
    }
    if let Some(samples) = &report.samples {
        print_samples(samples);
    }
    line("");
    report.checks.iter().for_each(print_check);
}

fn print_corpus(corpus: &CorpusFigures) {
    row(
        "documents",
        format!(
            "{}, {} of one sentence",
            thousands(corpus.num_documents),
            percent(corpus.one_sentence_share)
        ),
    );
    row("sentences", thousands(corpus.num_sentences));
    row("tokens", thousands(corpus.num_tokens));
    let repeated = |found: &bert_data::audit::Duplicates| {
        format!("{} of them, {} of the tokens", percent(found.share), percent(found.token_share))
    };
    row("repeated documents", repeated(&corpus.duplicate_documents));
    row("repeated sentences", repeated(&corpus.duplicate_sentences));
}

fn print_samples(samples: &SampleFigures) {
    row("samples", format!("{} of {} epoch(s)", thousands(samples.num_samples), samples.num_epochs));
    row(
        "truncated",
        format!(
            "{} of the samples, {} of the tokens",
            percent(samples.truncated_sample_share),
            percent(samples.truncated_token_share)
        ),
    );
    row("padding", format!("{} of the positions", percent(samples.padding_share)));
    row("masked", format!("{} of the tokens", percent(samples.mask_share)));
    line("sequence lengths");
    for bin in &samples.sequence_lengths {
        let share = bin.num_samples as f64 / samples.num_samples as f64;
        row(&format!("  up to {}", bin.up_to_tokens), percent(share));
    }
    print_lengths(&samples.lengths);
}

fn print_lengths(lengths: &LengthFigures) {
    let num_units = lengths.drawn.iter().sum::<u64>().max(1) as f64;
    line(format!("{:<22}{:>9}{:>9}{:>9}", "masked units", "asked", "drawn", "realised"));
    for (idx, asked) in lengths.asked.iter().enumerate() {
        let share = |counts: &[u64]| percent(counts[idx] as f64 / num_units);
        let (drawn, realised) = (share(&lengths.drawn), share(&lengths.realised));
        line(format!(
            "{:<22}{:>9}{drawn:>9}{realised:>9}",
            format!("  {} word(s)", idx + 1),
            percent(*asked)
        ));
    }
}

fn print_check(check: &Check) {
    let mark = match check.verdict {
        Verdict::Pass => "pass",
        Verdict::Advice => "advice",
        Verdict::Fail => "FAIL",
    };
    line(format!("{mark:<8}{}: expected {}; got {}", check.name, check.expected, check.got));
    if !check.advice.is_empty() {
        line(format!("        {}", check.advice));
    }
}
