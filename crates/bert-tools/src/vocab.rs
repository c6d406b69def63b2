//! `bert vocab train`.
//!
//! Owns arguments and printing; training is the business of bert-data.

use std::path::PathBuf;

use bert_data::vocab::{VocabRequest, train};

use crate::{
    cli::{VocabCommand, VocabTrainArguments},
    table::{line, thousands},
};

/// Runs the command.
///
/// # Errors
///
/// What bert-data refuses: no text, no room for the special tokens, a file that cannot be written.
pub fn run(command: VocabCommand) -> anyhow::Result<()> {
    let VocabCommand::Train(VocabTrainArguments { input, output, size, lowercase, min_frequency }) = command;
    let sources = input.iter().map(PathBuf::from).collect();
    let request = VocabRequest { sources, vocab_size: size, lowercase, min_frequency, output };
    let report = train(&request)?;
    line(format!(
        "wrote {}: {} tokens from {} different words, {} of them single characters",
        request.output.display(),
        thousands(report.vocab_size as u64),
        thousands(report.num_words as u64),
        thousands(report.num_characters as u64)
    ));
    if report.num_dropped_characters > 0 {
        line(format!(
            "{} rare characters found no room in --size {size}; words with them become [UNK]",
            thousands(report.num_dropped_characters as u64)
        ));
    }
    Ok(())
}
