//! The arguments of the commands that make sentence vectors.

use std::path::PathBuf;

use bert_model::Pooling;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{Opening, at_least_one};

/// The model and what it reads of a text.
#[derive(Debug, Args)]
pub struct SentenceModel {
    /// A model folder: the folder `model` of a checkpoint, or one from Hugging Face; heads are not needed.
    #[arg(long, value_name = "FOLDER", required_unless_present = "run", conflicts_with = "run")]
    pub model: Option<PathBuf>,
    /// A run folder: its newest checkpoint.
    #[arg(long, value_name = "FOLDER")]
    pub run: Option<PathBuf>,
    /// How the states of the tokens become one vector.
    #[arg(long, value_parser = pooling(), default_value = Pooling::Mean.name())]
    pub pooling: Pooling,
    /// Texts computed at once.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = at_least_one())]
    pub batch_size: usize,
    /// Tokens read of a text, `[CLS]` and `[SEP]` included; unless given, as many as the model has positions.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub max_length: Option<usize>,
    #[command(flatten)]
    pub opening: Opening,
}

/// Row n of the result belongs to line n of the input. An empty line is read as `[CLS] [SEP]` and has a vector too.
#[derive(Debug, Args)]
pub struct EmbedArguments {
    #[command(flatten)]
    pub model: SentenceModel,
    /// Divides every vector by its length, so that a dot product is a cosine.
    #[arg(long)]
    pub normalize: bool,
    /// One text a line, or .jsonl with one object a line; `-` is standard input.
    #[arg(long, default_value = "-", value_name = "FILE|-")]
    pub input: PathBuf,
    /// The input is JSON lines with the text in this field; .jsonl files have it in `text` unless given.
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,
    /// The file to write: .npy (float32, one row a text) or .jsonl; it appears when it is complete.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct SimilarityArguments {
    #[command(flatten)]
    pub model: SentenceModel,
    /// Pairs of texts, one a line with a tab between them; `-` is standard input.
    #[arg(long, value_name = "FILE.tsv|-", conflicts_with = "texts")]
    pub pairs: Option<PathBuf>,
    /// Instead of texts: this many pairs of adjacent sentences that the run has never trained on; how far the two of
    /// a pair stand out from those of other pairs, for every pooling.
    #[arg(long, value_name = "N", requires = "run", conflicts_with_all = ["texts", "pairs"], value_parser = at_least_one())]
    pub held_out: Option<usize>,
    /// One JSON object per pair instead of a table for people.
    #[arg(long)]
    pub json: bool,
    /// Two texts.
    #[arg(num_args = 2, value_names = ["TEXT", "TEXT"], required_unless_present_any = ["pairs", "held_out"])]
    pub texts: Vec<String>,
}

fn pooling() -> impl TypedValueParser<Value = Pooling> {
    PossibleValuesParser::new(Pooling::NAMES.map(|(name, _)| name)).try_map(|name: String| {
        let known = Pooling::NAMES.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, pooling)| pooling).ok_or("no such pooling")
    })
}
