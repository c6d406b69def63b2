//! What was typed: the commands of `bert` and their arguments.
//!
//! Owns the arguments and their help. Opens no file.

mod opening;
mod vectors;

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{RangedU64ValueParser, TypedValueParser},
};

pub use opening::Opening;
pub use vectors::{EmbedArguments, SentenceModel, SimilarityArguments};

/// Parses a count of at least one.
fn at_least_one() -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::<usize>::new().range(1..)
}

/// Vocabularies, shards, checkpoints, predictions and reports for bert-train.
///
/// Exit codes: 0 done; 1 failure, or what was compared differs; 2 usage or configuration;
/// 3 damaged or mismatching data or checkpoint, or a failed audit.
#[derive(Debug, Parser)]
#[command(name = "bert", version, max_term_width = 110)]
pub struct Tool {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Figures of a text.
    #[command(subcommand)]
    Corpus(CorpusCommand),
    /// WordPiece vocabularies.
    #[command(subcommand)]
    Vocab(VocabCommand),
    /// Token shards.
    #[command(subcommand)]
    Shards(ShardsCommand),
    /// What the training samples of a configuration really are, beside what is asked for; exit code 3 if it is not sound.
    Audit(AuditArguments),
    /// Guesses for `[MASK]` in a text.
    FillMask(FillMaskArguments),
    /// Sentence vectors of texts, to a file.
    Embed(EmbedArguments),
    /// How alike two texts are: the cosine of their sentence vectors.
    Similarity(SimilarityArguments),
    /// The class of new texts, by a fine-tuned model.
    Classify(ClassifyArguments),
    /// Weights of other formats to a model folder; larger vocabularies.
    Convert(ConvertArguments),
    /// Checkpoints of a run.
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// What a run has reached.
    Report(ReportArguments),
}

#[derive(Debug, Subcommand)]
pub enum CorpusCommand {
    /// Counts documents, sentences and characters; with a vocabulary also tokens.
    Stats(StatsArguments),
    /// Test tool: the masked pairs of Google's create_pretraining_data.py as JSON lines, draw by draw. Not for training.
    GooglePairs(GooglePairsArguments),
}

#[derive(Debug, Args)]
pub struct StatsArguments {
    /// Text (.txt, .jsonl, .parquet; the first two also .gz or .zst), folder or glob; may be repeated.
    #[arg(long, required = true, value_name = "PATH")]
    pub input: Vec<String>,
    /// vocab.txt or tokenizer.json: also counts tokens and `[UNK]`.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Lower-case and strip accents.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub lowercase: bool,
}

/// Defaults are those of Google's script.
#[derive(Debug, Args)]
pub struct GooglePairsArguments {
    /// Text file: one sentence per line, a blank line between documents.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// vocab.txt.
    #[arg(long, value_name = "FILE")]
    pub vocab: PathBuf,
    /// The file to write: one instance per line.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Lower-case and strip accents.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub lowercase: bool,
    /// Longest instance in tokens.
    #[arg(long, default_value_t = 128)]
    pub max_seq_length: usize,
    /// How many times each document is gone through.
    #[arg(long, default_value_t = 10)]
    pub dupe_factor: usize,
    /// Share of passes over a document that aim at a shorter length.
    #[arg(long, default_value_t = 0.1)]
    pub short_seq_prob: f64,
    /// Share of tokens to predict.
    #[arg(long, default_value_t = 0.15)]
    pub masked_lm_prob: f64,
    /// The most tokens to predict in one instance.
    #[arg(long, default_value_t = 20)]
    pub max_predictions_per_seq: usize,
    /// Seed of Python's generator.
    #[arg(long, default_value_t = 12345)]
    pub seed: u64,
}

#[derive(Debug, Subcommand)]
pub enum VocabCommand {
    /// Trains a WordPiece vocabulary from text and writes it as vocab.txt.
    Train(VocabTrainArguments),
}

#[derive(Debug, Args)]
pub struct VocabTrainArguments {
    /// Text (.txt, .jsonl, .parquet; the first two also .gz or .zst), folder or glob; may be repeated.
    #[arg(long, required = true, value_name = "PATH")]
    pub input: Vec<String>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Number of entries, the five special ones included; fewer if the text has no more.
    #[arg(long)]
    pub size: usize,
    /// Lower-case and strip accents.
    #[arg(long, action = clap::ArgAction::Set)]
    pub lowercase: bool,
    /// Merges two pieces only if they occur together at least this often (2: as Hugging Face's BertWordPieceTokenizer).
    #[arg(long, default_value_t = 2)]
    pub min_frequency: u64,
}

#[derive(Debug, Subcommand)]
pub enum ShardsCommand {
    /// Turns text into token shards; keeps shards that are there already and still right.
    Build(ShardsBuildArguments),
    /// Checks every file of a shard folder against its manifest.
    Verify(ShardsVerifyArguments),
}

#[derive(Debug, Args)]
pub struct ShardsBuildArguments {
    /// Replaces shards that were built from other text or with another tokenizer, instead of refusing.
    #[arg(long)]
    pub rebuild: bool,
    /// Takes sources, tokenizer, language and shard folder from this configuration.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input", "output", "tokenizer", "language", "lexicon"])]
    pub config: Option<PathBuf>,
    /// Replaces a value of the configuration; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "config")]
    pub overrides: Vec<String>,
    /// Text (.txt, .jsonl, .parquet; the first two also .gz or .zst), folder or glob; may be repeated.
    #[arg(long, value_name = "PATH", required_unless_present = "config")]
    pub input: Vec<String>,
    /// The shard folder to write.
    #[arg(long, value_name = "FOLDER", required_unless_present = "config")]
    pub output: Option<PathBuf>,
    /// vocab.txt or tokenizer.json.
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub tokenizer: Option<PathBuf>,
    /// Lower-case and strip accents.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, conflicts_with = "config")]
    pub lowercase: bool,
    /// How words are found.
    #[arg(long, value_enum, required_unless_present = "config")]
    pub language: Option<LanguageName>,
    /// Text per shard in MiB; the default is what bert-train builds.
    #[arg(long, default_value_t = 64, conflicts_with = "config")]
    pub shard_mib: u64,
    /// Words that the Chinese segmenter keeps whole, one a line.
    #[arg(long, value_name = "FILE")]
    pub lexicon: Option<PathBuf>,
    /// Refuses text that is not UTF-8, as bert-train does, instead of replacing bytes and counting their lines.
    #[arg(long, conflicts_with = "config")]
    pub strict: bool,
}

/// Value of `--language`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LanguageName {
    /// Words by the Chinese segmenter.
    Zh,
    /// Words by white space and punctuation.
    En,
}

#[derive(Debug, Args)]
pub struct ShardsVerifyArguments {
    /// A shard folder.
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct AuditArguments {
    /// The configuration: text, tokenizer, pairs and masks are taken from it; missing shards are built.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Replaces a value of the configuration; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Training samples to look at.
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Also writes the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct FillMaskArguments {
    /// A model folder: the folder `model` of a checkpoint, or one from Hugging Face.
    #[arg(long, value_name = "FOLDER", required_unless_present = "run", conflicts_with = "run")]
    pub model: Option<PathBuf>,
    /// A run folder: its newest checkpoint.
    #[arg(long, value_name = "FOLDER")]
    pub run: Option<PathBuf>,
    #[command(flatten)]
    pub opening: Opening,
    /// Guesses to print for each `[MASK]`.
    #[arg(long, visible_alias = "top-k", default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    pub top: usize,
    /// One JSON object per text instead of lines for people.
    #[arg(long)]
    pub json: bool,
    /// Instead of a text: this many sentences that the run has never trained on, with one token masked in each.
    #[arg(long, value_name = "N", requires = "run", conflicts_with = "text")]
    pub held_out: Option<usize>,
    /// Text with `[MASK]` in it; may be repeated.
    #[arg(required_unless_present = "held_out")]
    pub text: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ClassifyArguments {
    /// A model folder of a classifier: checkpoints/best/model of a run, or one from Hugging Face.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// A text; or a file: .tsv, .csv and .jsonl with named columns, any other with one text a line.
    #[arg(value_name = "TEXT|FILE")]
    pub input: String,
    /// Writes one JSON object per text, with all probabilities, instead of printing lines.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Texts computed at once.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub batch_size: usize,
    /// Column of the text in a table.
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub text_column: String,
    /// Column of a second text in a table.
    #[arg(long, value_name = "NAME")]
    pub text_pair_column: Option<String>,
    /// Tokens read of a text; unless given, as many as the model has positions.
    #[arg(long, value_name = "N")]
    pub max_seq_length: Option<usize>,
    #[command(flatten)]
    pub opening: Opening,
}

/// Every tensor of the source must be a parameter and every parameter must be there; what is not is listed and refused.
#[derive(Debug, Args)]
pub struct ConvertArguments {
    /// A model folder (Hugging Face's, or one with pytorch_model.bin), checkpoint or run folder; or a file:
    /// pytorch_model.bin, .safetensors or .npz, also with Google's original names.
    #[arg(value_name = "FROM")]
    pub from: PathBuf,
    /// The model folder to make.
    #[arg(value_name = "TO")]
    pub to: PathBuf,
    /// The configuration, if it is not the config.json or bert_config.json beside the tensors.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Parameters whose names begin so may be missing and start from initial values; may be repeated.
    #[arg(long, value_name = "PREFIX", requires = "seed")]
    pub allow_missing: Vec<String>,
    /// Seed of initial values.
    #[arg(long, value_name = "N", requires = "allow_missing")]
    pub seed: Option<u64>,
    /// Tensors whose names begin so may be left out; may be repeated.
    #[arg(long, value_name = "PREFIX")]
    pub allow_unexpected: Vec<String>,
    /// Adds the tokens of this file, one a line: their ids follow the old ones, their rows are means of their pieces.
    #[arg(long, value_name = "FILE")]
    pub add_tokens: Option<PathBuf>,
    /// Lower-case and strip accents; unless given, what the folder's tokenizer_config.json says.
    #[arg(long, value_name = "true|false", requires = "add_tokens")]
    pub lowercase: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// The checkpoints of a run folder, oldest first.
    List(CheckpointListArguments),
    /// Checks every file of a checkpoint, or of all checkpoints of a run, against its hash.
    Verify(CheckpointVerifyArguments),
    /// One hash over name, shape and bytes of all parameters, whatever the files and the number of ranks.
    Hash(CheckpointHashArguments),
    /// Which parameters of two checkpoints or model folders differ, and by how much.
    Diff(CheckpointDiffArguments),
}

#[derive(Debug, Args)]
pub struct CheckpointListArguments {
    /// A run folder.
    pub run: PathBuf,
}

#[derive(Debug, Args)]
pub struct CheckpointVerifyArguments {
    /// A checkpoint, or a run folder.
    pub path: PathBuf,
}

#[derive(Debug, Args)]
pub struct CheckpointHashArguments {
    /// A checkpoint, or a run folder (its newest checkpoint).
    pub path: PathBuf,
    /// Adds the optimizer's moments to the hash.
    #[arg(long)]
    pub optimizer: bool,
}

#[derive(Debug, Args)]
pub struct CheckpointDiffArguments {
    /// A checkpoint, run folder or model folder.
    pub left: PathBuf,
    /// What to compare it with.
    pub right: PathBuf,
}

#[derive(Debug, Args)]
pub struct ReportArguments {
    /// The run folder.
    pub run: PathBuf,
    /// Prints the figures of the last evaluation beside their baselines.
    #[arg(long, required = true)]
    pub summary: bool,
}
