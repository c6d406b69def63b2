//! One measured task of the data pipeline: `data_speed '{"task": ..}'` prints one line of JSON.
//!
//! Owns what is inside the measured time and what is not. `cargo xtask bench data` decides which tasks run, on which
//! cores and against what; nothing is compared here.

#![expect(clippy::print_stdout, reason = "a binary talks to its user")]

use bert_data::shards::{self, BuildShare, ShardBuildRequest, Verify, WhenStale};
use bert_data::{
    Corpus, Language, MaskMode, MaskStrategy, MaskingConfig, MicroBatch, Prefetcher, PretrainData,
    PretrainDataConfig, ReplaceShares, ReplaceUnit, SampleOrder, SentenceObjective, Tokenizer,
};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Rows of a micro-batch, as the collators of the peers get them.
const MICRO_BATCH: usize = 32;
/// Micro-batches of a step.
const NUM_SLOTS: usize = 8;
/// Steps that workers are ahead.
const DEPTH_STEPS: usize = 2;
const ROW_LEN: usize = 128;
const SHARD_TEXT_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(tag = "task", rename_all = "snake_case", deny_unknown_fields)]
enum Task {
    /// Text to shards. The tokenizer is loaded before the clock starts, the segmenter after.
    Shards { text: PathBuf, vocab: PathBuf, dir: PathBuf },
    /// Text to shards to every masked sample of one epoch.
    Epoch { text: PathBuf, vocab: PathBuf, dir: PathBuf },
    /// Micro-batches from finished shards for `seconds`, without workers if `threads` is 0.
    Batches { dir: PathBuf, masking: Masking, threads: usize, seconds: f64 },
    /// The corpus as rows `[CLS] .. [SEP]` of 128 tokens: little-endian u32 ids to `<out>.ids`, a byte per token that is
    /// 1 where it starts a word to `<out>.starts`.
    Rows { dir: PathBuf, out: PathBuf, max_rows: usize },
    /// BLAKE3 of the first `steps` steps of micro-batches, to see whether a change changed a bit.
    Hash { dir: PathBuf, masking: Masking, steps: u64 },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Masking {
    Token,
    WholeWord,
    Ngram,
    Span,
}

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` and `cargo test --benches` pass flags of their own; without a task there is nothing to do.
    let Some(task) = std::env::args().nth(1).filter(|arg| arg.starts_with('{')) else { return Ok(()) };
    let line = match serde_json::from_str(&task)? {
        Task::Shards { text, vocab, dir } => build(&text, &vocab, &dir, false)?,
        Task::Epoch { text, vocab, dir } => build(&text, &vocab, &dir, true)?,
        Task::Batches { dir, masking, threads, seconds } => batches(&dir, masking, threads, seconds)?,
        Task::Rows { dir, out, max_rows } => rows(&dir, &out, max_rows)?,
        Task::Hash { dir, masking, steps } => hash(&dir, masking, steps)?,
    };
    println!("{line}");
    Ok(())
}

/// Wall time and the processor time of all threads since it was made.
struct Clock {
    start: Instant,
    processor_seconds: f64,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now(), processor_seconds: processor_seconds() }
    }

    fn read(&self) -> (f64, f64) {
        (self.start.elapsed().as_secs_f64(), processor_seconds() - self.processor_seconds)
    }
}

/// User and system time of this process.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What was done in how long.
fn measured(clock: &Clock, what: &str, number: u64) -> String {
    let (seconds, processor_seconds) = clock.read();
    serde_json::json!({"unit": what, "number": number, "seconds": seconds, "cpu_seconds": processor_seconds})
        .to_string()
}

fn build(text: &Path, vocab: &Path, dir: &Path, makes_samples: bool) -> Result<String, Box<dyn Error>> {
    let request = ShardBuildRequest {
        sources: vec![text.to_path_buf()],
        tokenizer: Arc::new(Tokenizer::from_vocab_file(vocab, true)?),
        language: Language::Auto,
        lexicon: None,
        dir: dir.to_path_buf(),
        shard_text_bytes: SHARD_TEXT_BYTES,
        when_stale: WhenStale::Rebuild,
        strict: false,
    };
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    let clock = Clock::start();
    shards::build(&request, BuildShare::WHOLE)?;
    shards::finish(&request, 1)?;
    if makes_samples {
        let data = Arc::new(open(dir, Masking::Token)?);
        let num_samples = data.num_samples(0)?;
        let num_steps = num_samples.div_ceil((NUM_SLOTS * MICRO_BATCH) as u64);
        let num_threads = std::thread::available_parallelism()?.get();
        let mut prefetcher = Prefetcher::spawn(data, 0, 0..NUM_SLOTS, num_threads, DEPTH_STEPS)?;
        for _ in 0..num_steps {
            std::hint::black_box(prefetcher.next_step()?);
        }
    }
    Ok(measured(&clock, "bytes", std::fs::metadata(text)?.len()))
}

fn config(masking: Masking) -> PretrainDataConfig {
    let strategy = match masking {
        Masking::Token => MaskStrategy::Token,
        Masking::WholeWord => MaskStrategy::WholeWord,
        Masking::Ngram => MaskStrategy::Ngram,
        Masking::Span => MaskStrategy::Span,
    };
    PretrainDataConfig {
        max_seq_length: ROW_LEN,
        short_seq_prob: 0.1,
        objective: SentenceObjective::Nsp,
        masking: MaskingConfig {
            strategy,
            mlm_probability: 0.15,
            max_predictions_per_seq: 20,
            ngram_weights: vec![0.4, 0.3, 0.2, 0.1],
            replace: ReplaceShares { mask: 0.8, random: 0.1, keep: 0.1 },
            unit: ReplaceUnit::Token,
            mode: MaskMode::Dynamic,
        },
        order: SampleOrder::Global,
        source_weights: Vec::new(),
        global_batch_size: NUM_SLOTS * MICRO_BATCH,
        micro_batch_size: MICRO_BATCH,
        validation_fraction: 0.005,
        seed: 12345,
    }
}

fn open(dir: &Path, masking: Masking) -> Result<PretrainData, Box<dyn Error>> {
    let corpus = Arc::new(Corpus::open(dir, Verify::Sizes)?);
    Ok(PretrainData::new(corpus, config(masking))?)
}

fn batches(dir: &Path, masking: Masking, threads: usize, seconds: f64) -> Result<String, Box<dyn Error>> {
    let data = Arc::new(open(dir, masking)?);
    for slot in 0..NUM_SLOTS {
        std::hint::black_box(data.micro_batch(0, slot)?);
    }
    let mut num_tokens = 0;
    if threads == 0 {
        let clock = Clock::start();
        for step in 1.. {
            for slot in 0..NUM_SLOTS {
                num_tokens += std::hint::black_box(data.micro_batch(step, slot)?).num_tokens();
            }
            if clock.read().0 >= seconds {
                break;
            }
        }
        return Ok(measured(&clock, "tokens", num_tokens));
    }
    let clock = Clock::start();
    let mut prefetcher = Prefetcher::spawn(data, 1, 0..NUM_SLOTS, threads, DEPTH_STEPS)?;
    while clock.read().0 < seconds {
        let step = prefetcher.next_step()?;
        num_tokens += step.micro_batches.iter().map(MicroBatch::num_tokens).sum::<u64>();
    }
    Ok(measured(&clock, "tokens", num_tokens))
}

fn rows(dir: &Path, out: &Path, max_rows: usize) -> Result<String, Box<dyn Error>> {
    let corpus = Corpus::open(dir, Verify::Sizes)?;
    let special = corpus.manifest().special;
    let (mut ids, mut starts) = (Vec::new(), Vec::new());
    for document in 0..corpus.num_documents() {
        let document = corpus.document(document)?;
        let num_tokens = document.sentence_lengths.iter().map(|&length| u64::from(length)).sum();
        corpus.read_tokens(&document, 0..num_tokens, &mut ids, &mut starts)?;
    }
    let (mut id_bytes, mut start_bytes) = (Vec::new(), Vec::new());
    let inner_len = ROW_LEN - 2;
    let rows = ids.chunks_exact(inner_len).zip(starts.chunks_exact(inner_len)).take(max_rows);
    let num_rows = rows.len() as u64;
    for (ids, starts) in rows {
        for id in std::iter::once(&special.cls).chain(ids).chain([&special.sep]) {
            id_bytes.extend(id.to_le_bytes());
        }
        start_bytes.push(1);
        start_bytes.extend(starts.iter().map(|&start| u8::from(start)));
        start_bytes.push(1);
    }
    std::fs::write(out.with_extension("ids"), id_bytes)?;
    std::fs::write(out.with_extension("starts"), start_bytes)?;
    Ok(serde_json::json!({"unit": "rows", "number": num_rows}).to_string())
}

fn hash(dir: &Path, masking: Masking, steps: u64) -> Result<String, Box<dyn Error>> {
    let data = open(dir, masking)?;
    let mut hasher = blake3::Hasher::new();
    for step in 0..steps {
        for slot in 0..NUM_SLOTS {
            hasher.update(format!("{:?}", data.micro_batch(step, slot)?).as_bytes());
        }
    }
    Ok(serde_json::json!({"blake3": hasher.finalize().to_hex().to_string()}).to_string())
}
