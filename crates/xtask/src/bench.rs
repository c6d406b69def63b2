//! `cargo xtask bench data`: the data pipeline beside its peers, on the same text and the same cores, in one run.
//! `cargo xtask bench communication`, `train` and `scaling` are in files of their own.
//!
//! Owns which comparisons are made. Every comparison is a number of pairs, ours and the peer taking turns, so that a
//! machine that slows down slows both; what is inside a measured time is the business of the two programs.

mod communication;
mod figures;
mod processes;
mod report;
mod scaling;
mod train;

use anyhow::Context;
use clap::Args;
pub use communication::{CommunicationArgs, communication};
use figures::Comparison;
use processes::{Bench, Peer};
pub use scaling::{ScalingArgs, scaling};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
pub use train::{TrainArgs, train};

/// Rows of 128 tokens given to the collators.
const NUM_ROWS: usize = 8192;
const BYTES_PER_MB: usize = 1_000_000;

/// What to measure against what.
#[derive(Args, Clone)]
pub struct DataArgs {
    /// Text: one sentence per line, an empty line between documents.
    #[arg(long, required = true, num_args = 1..)]
    corpus: Vec<PathBuf>,
    /// vocab.txt of an uncased model: one for all texts, or one for each.
    #[arg(long, required = true, num_args = 1..)]
    vocab: Vec<PathBuf>,
    /// Python with torch and transformers, for Hugging Face's collators.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Folder of the unpacked wheel bert-tensorflow 1.0.4, for Google's script; needs --python.
    #[arg(long, requires = "python")]
    google: Option<PathBuf>,
    /// Measurements of each side.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Length of one measurement of batches.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Text given to both sides where Google's script takes part; it is slow.
    #[arg(long, default_value_t = 8)]
    google_mb: usize,
    /// Processors to use, by number; one-core rows take the first.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cores: Vec<usize>,
    /// The report. Default: `docs/benchmarks/data-<processor>-<date>.md`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One text with what was made of it before any clock starts.
struct Corpus<'a> {
    name: String,
    text: &'a Path,
    vocab: &'a Path,
    shards: PathBuf,
    rows: PathBuf,
    work: PathBuf,
}

/// Runs all comparisons, prints them and writes the report.
///
/// # Errors
///
/// If a program cannot be built or started, or fails.
pub fn data(root: &Path, args: &DataArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.pairs > 0, "expected --pairs of at least 1, got 0");
    anyhow::ensure!(
        args.vocab.len() == 1 || args.vocab.len() == args.corpus.len(),
        "expected one --vocab, or one for each of {} texts, got {}",
        args.corpus.len(),
        args.vocab.len()
    );
    let bench = Bench::build(root)?;
    let machine = report::Machine::read()?;
    let mut comparisons = Vec::new();
    for (idx, text) in args.corpus.iter().enumerate() {
        let vocab = args.vocab.get(idx).unwrap_or(&args.vocab[0]);
        let corpus = Corpus::prepare(&bench, text, vocab, &args.cores)?;
        let rows = [batches(&bench, args, &corpus)?, growth(&bench, args, &corpus)?];
        comparisons.extend(rows.into_iter().flatten());
        comparisons.extend(from_text(&bench, args, &corpus)?);
        std::fs::remove_dir_all(&corpus.work)
            .with_context(|| format!("failed to remove `{}`", corpus.work.display()))?;
    }
    let text = report::markdown(&machine, args, &comparisons)?;
    let out =
        args.out.clone().unwrap_or_else(|| root.join("docs/benchmarks").join(machine.file_name("data")));
    println!("{text}");
    report::write(&out, &text)
}

impl<'a> Corpus<'a> {
    fn prepare(bench: &Bench, text: &'a Path, vocab: &'a Path, cores: &[usize]) -> anyhow::Result<Self> {
        let name = text.file_stem().map_or_else(|| "text".to_owned(), |n| n.to_string_lossy().into_owned());
        let work = std::env::temp_dir().join(format!("bench-data-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&work).with_context(|| format!("failed to create `{}`", work.display()))?;
        let (shards, rows) = (work.join("shards"), work.join("rows"));
        println!("==> bench: shards of {}", text.display());
        bench.run(cores, &json!({"task": "shards", "text": text, "vocab": vocab, "dir": shards}))?;
        bench.run(cores, &json!({"task": "rows", "dir": shards, "out": rows, "max_rows": NUM_ROWS}))?;
        Ok(Self { name, text, vocab, shards, rows, work })
    }

    /// The task of making batches from the shards.
    fn batches(&self, masking: &str, threads: usize, seconds: f64) -> Value {
        json!({"task": "batches", "dir": self.shards, "masking": masking, "threads": threads, "seconds": seconds})
    }
}

/// Batches on one core, beside the collator that masks the same units.
fn batches(bench: &Bench, args: &DataArgs, corpus: &Corpus) -> anyhow::Result<Vec<Comparison>> {
    const COLLATORS: [(&str, &str, &str); 3] = [
        ("token", "token", "DataCollatorForLanguageModeling"),
        ("whole_word", "whole_word", "DataCollatorForWholeWordMask"),
        ("ngram", "whole_word", "DataCollatorForWholeWordMask"),
    ];
    let core = &args.cores[..1];
    let mut peer = match &args.python {
        Some(python) => {
            Some(Peer::start(core, python, &bench.script("hf_collators.py"), &[corpus.vocab, &corpus.rows])?)
        }
        None => None,
    };
    let mut comparisons = Vec::new();
    for (masking, peer_masking, collator) in COLLATORS {
        let name = format!("{}: {masking} masks, shards to batches, 1 core", corpus.name);
        println!("==> bench: {name}");
        let mut comparison = Comparison::new(name, peer.as_ref().map(|_| collator));
        for _ in 0..args.pairs {
            comparison.ours.push(bench.measure(core, &corpus.batches(masking, 0, args.seconds))?);
            if let Some(peer) = &mut peer {
                let request = json!({"masking": peer_masking, "seconds": args.seconds});
                comparison.peer.push(peer.measure(&request)?);
            }
        }
        comparisons.push(comparison);
    }
    Ok(comparisons)
}

/// Batches by the workers of training on all cores, beside the same with one worker on one core.
fn growth(bench: &Bench, args: &DataArgs, corpus: &Corpus) -> anyhow::Result<Vec<Comparison>> {
    let num_cores = args.cores.len();
    let mut comparisons = Vec::new();
    for masking in ["token", "ngram"] {
        let name = format!("{}: {masking} masks, shards to batches, {num_cores} workers", corpus.name);
        println!("==> bench: {name}");
        let mut comparison = Comparison::new(name, Some("1 worker on 1 core"));
        for _ in 0..args.pairs {
            let all = corpus.batches(masking, num_cores, args.seconds);
            comparison.ours.push(bench.measure(&args.cores, &all)?);
            let one = corpus.batches(masking, 1, args.seconds);
            comparison.peer.push(bench.measure(&args.cores[..1], &one)?);
        }
        comparisons.push(comparison);
    }
    Ok(comparisons)
}

/// Text to shards, and text to all samples of an epoch beside Google's script.
fn from_text(bench: &Bench, args: &DataArgs, corpus: &Corpus) -> anyhow::Result<Vec<Comparison>> {
    let dir = corpus.work.join("built");
    let task =
        |name: &str, text: &Path| json!({"task": name, "text": text, "vocab": corpus.vocab, "dir": dir});
    let num_cores = args.cores.len();
    let name = format!("{}: text to shards, {num_cores} cores", corpus.name);
    println!("==> bench: {name}");
    let mut shards = Comparison::new(name, Some("1 core"));
    for _ in 0..args.pairs {
        shards.ours.push(bench.measure(&args.cores, &task("shards", corpus.text))?);
        shards.peer.push(bench.measure(&args.cores[..1], &task("shards", corpus.text))?);
    }
    let part = corpus.work.join("part.txt");
    let part_len = cut(corpus.text, args.google_mb * BYTES_PER_MB, &part)?;
    let core = &args.cores[..1];
    let mut peer = match (&args.python, &args.google) {
        (Some(python), Some(google)) => Some(Peer::start(
            core,
            python,
            &bench.script("google_instances.py"),
            &[google, corpus.vocab, &part],
        )?),
        _ => None,
    };
    let megabytes = part_len as f64 / BYTES_PER_MB as f64;
    let name = format!("{}: text ({megabytes:.1} MB) to all samples of an epoch, 1 core", corpus.name);
    println!("==> bench: {name}");
    let mut epoch = Comparison::new(name, peer.as_ref().map(|_| "create_pretraining_data"));
    for _ in 0..args.pairs {
        epoch.ours.push(bench.measure(core, &task("epoch", &part))?);
        if let Some(peer) = &mut peer {
            epoch.peer.push(peer.measure(&json!({}))?);
        }
    }
    Ok(vec![shards, epoch])
}

/// Writes the first documents of a text, at most `max_len` bytes unless the first is longer. Returns how many bytes.
fn cut(text: &Path, max_len: usize, out: &Path) -> anyhow::Result<usize> {
    let content = std::fs::read(text).with_context(|| format!("failed to read `{}`", text.display()))?;
    let is_border = |end: &usize| content[..*end].ends_with(b"\n\n");
    let end = if content.len() <= max_len {
        content.len()
    } else {
        let last_inside = (1..=max_len).rev().find(is_border);
        last_inside.or_else(|| (max_len..content.len()).find(is_border)).unwrap_or(content.len())
    };
    std::fs::write(out, &content[..end]).with_context(|| format!("failed to write `{}`", out.display()))?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_documents() {
        let name = format!("bench-cut-{}", std::process::id());
        let (text, out) =
            (std::env::temp_dir().join(&name), std::env::temp_dir().join(format!("{name}-out")));
        std::fs::write(&text, "a\nb\n\nc\n\nd\n").unwrap();
        for (max_len, expected) in
            [(100, "a\nb\n\nc\n\nd\n"), (9, "a\nb\n\nc\n\n"), (7, "a\nb\n\n"), (2, "a\nb\n\n")]
        {
            assert_eq!(cut(&text, max_len, &out).unwrap(), expected.len(), "{max_len}");
            assert_eq!(std::fs::read_to_string(&out).unwrap(), expected);
        }
        std::fs::remove_file(text).unwrap();
        std::fs::remove_file(out).unwrap();
    }
}
