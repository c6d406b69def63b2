//! `bert classify`: the class of new texts, by a fine-tuned model.
//!
//! Owns where texts come from and how predictions are printed. Model, rows and the form of a prediction are the
//! business of the libraries.

use std::{
    fs,
    io::{self, IsTerminal},
    path::Path,
};

use anyhow::Context;
use bert_data::{
    Tokenizer,
    classify::{EncodedRows, RowCounts, TableColumns, TextRow, read_table},
};
use bert_model::{ClassifyModel, hf};
use bert_train::task::classify::{Prediction, view, write_predictions};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cli::ClassifyArguments,
    failure::ToolError,
    model_folder::chosen_backend,
    predict::recorded_lowercase,
    table::{line, percent, thousands},
};

/// Characters of a text that are printed beside its class.
const SHOWN_CHARS: usize = 60;

/// Classifies a text, or every row of a file.
///
/// # Errors
///
/// If the folder is no classifier, a file cannot be read, or the output cannot be written.
pub fn run(arguments: &ClassifyArguments) -> anyhow::Result<()> {
    let folder = &arguments.model;
    let step = || format!("cannot load the classifier in `{}`", folder.display());
    let (config, buckets) = hf::load_classifier_folder(folder).with_context(step)?;
    let lowercase = arguments.opening.lowercase.unwrap_or_else(|| recorded_lowercase(folder));
    let tokenizer = Tokenizer::from_vocab_file(folder, lowercase)?;
    if tokenizer.vocab_size() > config.model.vocab_size {
        let message = format!(
            "the vocabulary in `{}` has {} entries, the model only {}",
            folder.display(),
            tokenizer.vocab_size(),
            config.model.vocab_size
        );
        return Err(ToolError::Damaged(message).into());
    }
    let model = ClassifyModel::from_buckets(&config, &buckets, chosen_backend(&arguments.opening)?)?;
    let longest = config.model.max_position_embeddings;
    let max_seq_length = arguments.max_seq_length.unwrap_or(longest);
    if !(4..=longest).contains(&max_seq_length) {
        let message =
            format!("--max-seq-length is {max_seq_length}, expected 4 to {longest}, the model's positions");
        return Err(ToolError::Usage(message).into());
    }
    let texts = texts_of(arguments)?;
    let rows = EncodedRows::encode(&texts, Vec::new(), &tokenizer, max_seq_length)?;
    tell_counts(rows.counts(), max_seq_length);
    let predictions = predict(&model, &rows, arguments.batch_size)?;
    match &arguments.output {
        Some(path) => {
            write_predictions(path, &predictions)?;
            line(format!("wrote {} ({} texts)", path.display(), thousands(predictions.len() as u64)));
        }
        None => {
            texts.iter().zip(&predictions).for_each(|(text, prediction)| line(describe(text, prediction)))
        }
    }
    Ok(())
}

/// The rows of a file, or the argument itself where there is no such file.
fn texts_of(arguments: &ClassifyArguments) -> anyhow::Result<Vec<TextRow>> {
    let path = Path::new(&arguments.input);
    let row = |(idx, text): (u64, &str)| TextRow { text: text.to_owned(), line: idx, ..TextRow::default() };
    let extension = path.extension().and_then(|extension| extension.to_str());
    if matches!(extension, Some("tsv" | "csv" | "jsonl")) {
        let columns = TableColumns {
            text: arguments.text_column.clone(),
            text_pair: arguments.text_pair_column.clone(),
            label: None,
        };
        return Ok(read_table(path, &columns)?.rows);
    }
    if !path.is_file() {
        return Ok(vec![row((1, &arguments.input))]);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok((1..).zip(text.lines()).map(row).collect())
}

fn predict(model: &ClassifyModel, rows: &EncodedRows, batch_size: usize) -> anyhow::Result<Vec<Prediction>> {
    let names = &model.config().labels;
    let mut predictions: Vec<Option<Prediction>> = vec![None; rows.len()];
    let bar = progress_bar(rows.len() as u64);
    for batch in rows.batches_by_length(batch_size) {
        let logits = model.logits(&view(&rows.batch(&batch)))?;
        for (&row, logits) in batch.iter().zip(logits.chunks_exact(names.len())) {
            predictions[row] = Some(Prediction::new(row as u64, logits, None, names));
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(predictions.into_iter().flatten().collect())
}

/// A bar on a terminal, nothing in a pipe.
fn progress_bar(num_rows: u64) -> ProgressBar {
    let is_seen = io::stderr().is_terminal() && num_rows > 1;
    let target = if is_seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(num_rows), target);
    let template = "{elapsed_precise} [{wide_bar}] {pos}/{len} texts, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

#[expect(
    clippy::print_stderr,
    reason = "what was not read must be seen, and must not mix with the predictions"
)]
fn tell_counts(counts: RowCounts, max_seq_length: usize) {
    if counts.num_truncated > 0 {
        eprintln!(
            "warning: {} texts are longer than {max_seq_length} tokens: {} tokens at their ends are not read",
            thousands(counts.num_truncated),
            thousands(counts.num_cut_tokens)
        );
    }
    if counts.num_empty > 0 {
        eprintln!("warning: {} texts are empty: they are read as [CLS] [SEP]", thousands(counts.num_empty));
    }
}

fn describe(text: &TextRow, prediction: &Prediction) -> String {
    let probability = prediction
        .probabilities
        .get(&prediction.predicted)
        .and_then(|value| value.as_f64())
        .unwrap_or_default();
    let shown: String = text.text.chars().take(SHOWN_CHARS).collect();
    let dots = if shown.len() < text.text.len() { ".." } else { "" };
    format!(
        "{}\t{}\t{}{dots}",
        prediction.predicted,
        percent(probability),
        shown.replace(['\t', '\n', '\r'], " ")
    )
}
