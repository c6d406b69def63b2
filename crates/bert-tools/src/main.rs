//! `bert`: the companion tool for everything that needs no ranks.
//!
//! Owns the way from the command line to a command, and from an error to one message and an exit code. What a
//! command does is the business of its module, and of the library crate behind it. Changes no run folder.

mod audit;
mod build_progress;
mod checkpoint;
mod classify;
mod cli;
mod convert;
mod corpus;
mod embed;
mod failure;
mod fill_mask;
mod google_pairs;
mod held_out;
mod model_folder;
mod new_tokens;
mod npy;
mod output_file;
mod predict;
mod report;
mod sentences;
mod shards;
mod similarity;
mod table;
mod text_input;
mod text_progress;
mod vocab;

use std::process::ExitCode;

use clap::Parser;

use cli::{Command, Tool};

fn main() -> ExitCode {
    match run(Tool::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_error(&error);
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Corpus(command) => corpus::run(command),
        Command::Vocab(command) => vocab::run(command),
        Command::Shards(command) => shards::run(command),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::FillMask(arguments) => fill_mask::run(&arguments),
        Command::Embed(arguments) => embed::run(&arguments),
        Command::Similarity(arguments) => similarity::run(&arguments),
        Command::Classify(arguments) => classify::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Checkpoint(command) => checkpoint::run(command),
        Command::Report(arguments) => report::run(&arguments),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where an error reaches the user")]
fn report_error(error: &anyhow::Error) {
    eprintln!("error: {}", bert_train::error::chain_of(error.as_ref()));
}
