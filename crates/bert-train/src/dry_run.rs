//! `--dry-run`: what would be trained, in numbers, without training.
//!
//! Owns the arithmetic of the plan. Opens the tokenizer and the training rows of a classifier, since vocabulary and
//! classes decide the size of the model, and the shards if they are built.

use std::fmt::Write;

use bert_data::{
    Corpus, Tokenizer,
    shards::{Verify, is_shard_folder},
};
use bert_model::ParameterLayout;

use crate::{
    config::{Config, OptimizerState, TaskSection, Wire},
    data_settings, device,
    error::TrainError,
    machine,
    task::classify::{labels_of, table_of},
};

/// Bytes of an `f32`.
const F32_BYTES: usize = 4;

/// The plan as readable lines.
///
/// # Errors
///
/// [`TrainError::Data`] if the tokenizer, the shards, or the rows of a classifier cannot be read.
pub fn plan(config: &Config, num_ranks: usize, num_local_ranks: usize) -> Result<String, TrainError> {
    let tokenizer = Tokenizer::from_vocab_file(&config.data.tokenizer, config.data.lowercase)?;
    let model = data_settings::model_config(config, tokenizer.vocab_size());
    let layout = match &config.task {
        TaskSection::Pretrain => ParameterLayout::new(&model),
        TaskSection::Classify(section) => {
            let labels = labels_of(section, &table_of(section, &section.train)?)?;
            ParameterLayout::for_classifier(&model, labels.names().len())
        }
    };
    let num_parameters = layout.num_elements();
    let num_slots = config.num_slots();
    let num_threads = machine::num_threads(config.run.threads_per_rank, num_local_ranks);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "# {name:<28} {value}");
    };
    line("parameters", num_parameters.to_string());
    line("vocabulary", tokenizer.vocab_size().to_string());
    line("ranks x threads", format!("{num_ranks} x {num_threads}"));
    let backend = device::choose(config.device.backend, 0)?;
    line("backend", format!("{} ({})", backend.kind.name(), backend.reason));
    line("slots of a step", format!("{num_slots} of {} sequences", config.train.micro_batch_size));
    line("slots per rank", format!("{:.2}", num_slots as f64 / num_ranks as f64));
    line(
        "same bits as with one rank",
        config.rank_dependence(num_ranks).map_or("yes".to_string(), |dependence| format!("no: {dependence}")),
    );
    line("optimizer state per rank", megabytes(optimizer_bytes(config, num_parameters, num_ranks)));
    line("parameters, gradients per rank", megabytes(2 * num_parameters * F32_BYTES));
    let (copied, copied_first) = copied_bytes(config, num_parameters, num_ranks);
    line("copy for saves, rank 0", megabytes(copied_first));
    if num_ranks > 1 {
        line("copy for saves, other ranks", megabytes(copied));
    }
    let [gradients, gathered] = sent_bytes(config, num_parameters, num_ranks);
    let wire = format!("{:?}", config.distributed.wire).to_lowercase();
    line("gradients sent per step", format!("{} as {wire}", megabytes(gradients)));
    line("gathered from it per step", format!("{} as f32", megabytes(gathered)));
    for bucket in &layout.buckets {
        line(&format!("bucket `{}`", bucket.name), megabytes(bucket.num_elements * F32_BYTES));
    }
    if config.task == TaskSection::Pretrain {
        let built = is_shard_folder(&config.data.shards);
        for (idx, source) in config.data.sources.iter().enumerate() {
            let num_documents = if built {
                documents_of_source(config, idx)?
            } else {
                "unknown before the shards are built".into()
            };
            line("source", format!("{} x {}: {num_documents}", source.path(), source.weight()));
        }
        line(
            "shards",
            format!("{} ({})", config.data.shards.display(), if built { "built" } else { "built at start" }),
        );
    }
    line("run folder", config.run_dir().display().to_string());
    Ok(text.trim_end().to_string())
}

/// Documents of a source, and how many of them an epoch reads.
fn documents_of_source(config: &Config, source_idx: usize) -> Result<String, TrainError> {
    let corpus = Corpus::open(&config.data.shards, Verify::Sizes)?;
    let borders = corpus.source_borders();
    let Some([start, end]) = borders.get(source_idx..source_idx + 2) else {
        return Ok("not in these shards".to_string());
    };
    let num_documents = end - start;
    let num_read = num_documents as f64 * config.data.sources[source_idx].weight();
    Ok(format!("{num_documents} documents, {num_read:.1} readings per epoch before any are held out"))
}

/// What a rank sends in a step: its sums of other ranks' slices, and what it gives of its own slice, which is new
/// parameters, or with a replicated state the sum of the gradients.
fn sent_bytes(config: &Config, num_parameters: usize, num_ranks: usize) -> [usize; 2] {
    let wire_bytes = match config.distributed.wire {
        Wire::F32 => F32_BYTES,
        Wire::Bf16 => F32_BYTES / 2,
    };
    [wire_bytes, F32_BYTES].map(|bytes| num_parameters * bytes * (num_ranks - 1) / num_ranks)
}

fn optimizer_bytes(config: &Config, num_parameters: usize, num_ranks: usize) -> usize {
    let moments = 2 * num_parameters * F32_BYTES;
    match config.distributed.optimizer_state {
        OptimizerState::Sharded => moments / num_ranks,
        OptimizerState::Replicated => moments,
    }
}

/// What a save copies so that training goes on: on a rank, and on rank 0, which also writes the parameters.
fn copied_bytes(config: &Config, num_parameters: usize, num_ranks: usize) -> (usize, usize) {
    let moments = optimizer_bytes(config, num_parameters, num_ranks);
    let others = if config.distributed.optimizer_state == OptimizerState::Sharded { moments } else { 0 };
    (others, moments + num_parameters * F32_BYTES)
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
