//! The configuration file: its sections, as the user writes them.
//!
//! Owns the TOML form and nothing else: reading and overriding is in [`load`](mod@load), the rules between keys in
//! [`check`], what counts as the same run in [`fingerprint`]. No key that changes numbers has a default
//! here: the files in `configs/` state every value with its source.

pub mod check;
mod distributed;
pub mod fingerprint;
pub mod load;
mod schema;
mod sources;
mod task;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use bert_data::masking::ngram_preset;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

pub use distributed::{DistributedSection, OptimizerState, Wire};
pub use load::{ConfigError, load};
pub use sources::{SourceSection, WeightedSource};
pub use task::{ClassifySection, SelectBy, TaskSection};

/// A whole configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name, place and seed of the run.
    pub run: RunSection,
    /// Shape of the model, in the spelling of Hugging Face's `config.json`.
    pub model: ModelSection,
    /// Where the first weights come from.
    pub init: InitSection,
    /// What is trained.
    pub task: TaskSection,
    /// Text, tokenizer and sentence pairs.
    pub data: DataSection,
    /// Masked language model.
    pub masking: MaskingSection,
    /// AdamW or LAMB.
    pub optimizer: OptimizerSection,
    /// Learning rate over steps.
    pub schedule: ScheduleSection,
    /// Batch sizes and rhythm.
    pub train: TrainSection,
    /// Saving and resuming.
    pub checkpoint: CheckpointSection,
    /// Ranks.
    pub distributed: DistributedSection,
    /// Backend of the tensors.
    pub device: DeviceSection,
    /// Messages.
    pub log: LogSection,
    /// Length and width of a `--debug` run.
    pub debug: DebugSection,
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// Name of the run, and of its folder below `dir`.
    pub name: String,
    /// Folder of all runs.
    pub dir: PathBuf,
    /// The one seed that everything random is keyed by.
    pub seed: u64,
    /// Compute threads of a rank.
    pub threads_per_rank: Threads,
}

/// A number of threads, or `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of threads or \"auto\"")]
pub enum Threads {
    /// Exactly this many.
    Count(usize),
    /// The cores that this rank may use, shared fairly with the other ranks of the machine.
    Auto(Auto),
}

/// The word `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    /// Chosen at start.
    Auto,
}

/// `[model]`: names and meaning as in Hugging Face's `BertConfig`; `vocab_size` comes from the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "the names are those of BertConfig and documented in bert_model::ModelConfig"
)]
pub struct ModelSection {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub hidden_act: String,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
    pub layer_norm_eps: f64,
    pub initializer_range: f64,
}

/// `[init]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitSection {
    /// `"scratch"`, or the path of a checkpoint or of a Hugging Face folder.
    pub from: String,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Text files, folders or globs.
    pub sources: Vec<SourceSection>,
    /// Whether a byte that is not UTF-8 is an error; otherwise it is replaced, and its line counted.
    pub strict: bool,
    /// Folder of the token shards; built from `sources` on first use.
    pub shards: PathBuf,
    /// `vocab.txt` or `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Lower-case and strip accents, as in the uncased models.
    pub lowercase: bool,
    /// How words are found for whole-word and n-gram masks.
    pub language: Language,
    /// Longest sequence in tokens, `[CLS]` and `[SEP]`s included.
    pub max_seq_length: usize,
    /// Share of chunks with a shorter random target length.
    pub short_seq_prob: f64,
    /// The sentence objective.
    pub sentence_objective: Objective,
    /// The order of the samples of an epoch.
    pub order: Order,
    /// Share of the documents that is held out for evaluation.
    pub validation_fraction: f64,
    /// Prefetch threads of a rank.
    pub num_workers: usize,
    /// Steps prepared ahead.
    pub prefetch_steps: usize,
}

/// Value of `data.language`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Words by the Chinese segmenter.
    Zh,
    /// Words by white space and punctuation.
    En,
}

/// Value of `data.sentence_objective`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Next sentence prediction (BERT).
    Nsp,
    /// Sentence order prediction (ALBERT).
    Sop,
    /// Single segments, no second loss (RoBERTa).
    None,
}

/// Value of `data.order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// One permutation of all samples.
    Global,
    /// Blocks of neighbouring documents, shuffled in windows that are read in runs.
    Blocks,
}

/// `[masking]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskingSection {
    /// What is chosen together.
    pub strategy: Strategy,
    /// Share of the tokens to predict.
    pub mlm_probability: f64,
    /// Cap of the tokens to predict in a sequence.
    pub max_predictions_per_seq: usize,
    /// Weights of 1, 2, .. consecutive words for `strategy = "ngram"`; a file may name a preset instead.
    #[serde(deserialize_with = "ngram_weights")]
    pub ngram_weights: Vec<f64>,
    /// What a chosen token becomes.
    pub replace: ReplaceSection,
    /// Whether the replacement is drawn for each token or once for the unit.
    pub unit: Unit,
    /// Whether masks change with the epoch.
    pub mode: Mode,
    /// Copies with masks of their own for `mode = "static"`, which the epochs go through in turn.
    pub dupe_factor: u64,
    /// Word list for the Chinese segmenter, one word a line; empty for none.
    pub lexicon: String,
}

/// Value of `masking.ngram_weights` in a file.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"albert\", \"macbert\" or a list of weights of 1, 2, .. words")]
enum NgramWeights {
    Preset(String),
    Own(Vec<f64>),
}

/// Weights, or those that a name stands for: two runs with the same weights are the same run.
fn ngram_weights<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    match NgramWeights::deserialize(deserializer)? {
        NgramWeights::Own(weights) => Ok(weights),
        NgramWeights::Preset(name) => ngram_preset(&name).ok_or_else(|| {
            let expected = "\"albert\", \"macbert\" or a list of weights of 1, 2, .. words";
            D::Error::custom(format!("masking.ngram_weights is {name:?}, expected {expected}"))
        }),
    }
}

/// Value of `masking.strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Single pieces (BERT).
    Token,
    /// All pieces of a word.
    WholeWord,
    /// Consecutive words, lengths by `ngram_weights` (ALBERT, MacBERT).
    Ngram,
    /// Consecutive words, geometric lengths (SpanBERT).
    Span,
}

/// `masking.replace`: shares that add up to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceSection {
    /// Share that becomes `[MASK]`.
    pub mask: f64,
    /// Share that becomes a random token.
    pub random: f64,
    /// Share that stays as it is.
    pub keep: f64,
}

/// Value of `masking.unit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A draw for each token.
    Token,
    /// A draw for each span.
    Span,
}

/// Value of `masking.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// New masks in every epoch.
    Dynamic,
    /// The same `dupe_factor` masked copies again and again, as in Google's files.
    Static,
}

/// `[optimizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSection {
    /// The update rule.
    pub kind: OptimizerKind,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay; never applied to biases and LayerNorm.
    pub weight_decay: f64,
    /// Adam's bias correction: off in Google's BERT, on in PyTorch.
    pub bias_correction: bool,
    /// Global-norm clipping; 0 turns it off.
    pub max_grad_norm: f64,
}

/// Value of `optimizer.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW.
    Adamw,
    /// LAMB in NVIDIA's form: trust ratio for parameters with decay.
    Lamb,
}

/// `[schedule]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSection {
    /// Form of the decay.
    pub kind: ScheduleKind,
    /// Learning rate at the end of the warm-up.
    pub peak_learning_rate: f64,
    /// Length of the linear warm-up, in steps.
    pub warmup_steps: u64,
    /// Length of the run, in steps.
    pub total_steps: u64,
}

/// Value of `schedule.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Hugging Face: to 0 at the end, from the peak at the end of the warm-up.
    Linear,
    /// Google's BERT: `peak * (1 - t / T)` after the warm-up.
    LinearGoogle,
    /// No decay.
    Constant,
    /// Half a cosine.
    Cosine,
    /// Root of the remaining share (NVIDIA's LAMB recipe).
    Poly,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Sequences of a step over all ranks.
    pub global_batch_size: usize,
    /// Sequences of a slot: the unit of work that no rank count ever cuts.
    pub micro_batch_size: usize,
    /// Precision of the arithmetic.
    pub precision: Precision,
    /// Steps between evaluations; 0 evaluates at the end only.
    pub eval_every_steps: u64,
    /// Cap of the micro-batches of an evaluation; 0 takes all held-out samples.
    pub eval_max_batches: usize,
    /// Steps between metrics lines.
    pub log_every_steps: u64,
}

/// Value of `train.precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit throughout.
    F32,
    /// Operands of matrix products rounded to bf16; parameters, gradients, sums and all the rest in 32 bits.
    Bf16,
}

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSection {
    /// Steps between checkpoints; 0 saves at the end and on a signal only.
    pub every_steps: u64,
    /// Complete checkpoints to keep.
    pub keep_last: usize,
    /// `"auto"`, `"never"`, or the path of a checkpoint.
    pub resume: String,
}

/// `[device]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSection {
    /// Which of burn's backends computes.
    pub backend: Backend,
}

/// Value of `device.backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Chosen by measurement among those compiled in, see [`crate::device`].
    Auto,
    /// burn's pure Rust CPU backend.
    Flex,
    /// libtorch on the CPU.
    #[serde(rename = "libtorch")]
    LibTorch,
    /// libtorch on a CUDA device, one for each rank of a machine.
    #[serde(rename = "libtorch-cuda")]
    LibTorchCuda,
}

impl Backend {
    /// Every value as configurations write it.
    pub const NAMES: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("flex", Self::Flex),
        ("libtorch", Self::LibTorch),
        ("libtorch-cuda", Self::LibTorchCuda),
    ];
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// Least level of the messages.
    pub level: Level,
    /// Progress bar.
    pub progress: Progress,
}

/// Value of `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the levels of the tracing crate")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Value of `log.progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// A bar on a terminal, plain lines in a pipe.
    Auto,
    /// Always plain lines.
    Plain,
}

/// `[debug]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebugSection {
    /// Steps of a `--debug` run.
    pub steps: u64,
    /// Threads that act as ranks.
    pub num_ranks: usize,
    /// Samples to print with their masks.
    pub num_samples: usize,
}

impl Config {
    /// Slots of a step: pieces of `micro_batch_size` sequences.
    #[must_use]
    pub fn num_slots(&self) -> usize {
        self.train.global_batch_size / self.train.micro_batch_size
    }

    /// The folder of this run.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.run.dir.join(&self.run.name)
    }
}
