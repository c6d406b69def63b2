//! Automation of this repository: `cargo xtask ci` and its single steps, and benchmarks.
//!
//! Owns which commands make up the checks and in which order. `.ci/run` calls the same steps by name, then the tests, so
//! that one command locally is what the service runs. It links no other crate of this workspace.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a binary talks to its user")]

mod bench;
mod fuzz;
mod steps;
mod tidy;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use steps::Step;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Automation of this repository", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Run everything below but `bench` and `fuzz`, the cheapest check first, and stop at the first failure.
    Ci,
    /// Check the formatting, or write it.
    Fmt {
        /// Format the files instead of checking them.
        #[arg(long)]
        fix: bool,
    },
    /// Check the rules of this repository that no compiler knows: crate arrows, file lengths, leftovers.
    Tidy,
    /// Run clippy on all targets, and check that everything builds without MPI.
    Clippy,
    /// Build the documentation; a broken link is an error.
    Docs,
    /// Run all tests.
    Test,
    /// Measure speed.
    #[command(subcommand)]
    Bench(Box<BenchCommand>),
    /// Feed the parsers of bert-data with made-up bytes; see docs/fuzzing.md. No part of `ci`.
    Fuzz {
        /// One target; all of them if none is named.
        target: Option<String>,
        /// Time for each target.
        #[arg(long, default_value_t = 600)]
        seconds: u32,
    },
}

#[derive(Clone, Subcommand)]
enum BenchCommand {
    /// The data pipeline beside Hugging Face's collators and Google's script.
    Data(bench::DataArgs),
    /// Our sum over ranks beside the all-reduce of the MPI library.
    Communication(bench::CommunicationArgs),
    /// Steps of training, and beside PyTorch in turns.
    Train(bench::TrainArgs),
    /// Several ranks beside as many independent runs, in turns; and what their communication costs.
    Scaling(bench::ScalingArgs),
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let root = root()?;
    match command {
        Command::Ci => ci(&root),
        Command::Fmt { fix: true } => Step::cargo("fmt", &["fmt", "--all"]).run(&root),
        Command::Fmt { fix: false } => steps::fmt().run(&root),
        Command::Tidy => tidy(&root),
        Command::Clippy => run_all(&root, &steps::clippy(steps::has_libtorch())),
        Command::Docs => steps::docs().run(&root),
        Command::Fuzz { target, seconds } => fuzz::run(&root, target.as_deref(), seconds),
        Command::Test => run_all(&root, &steps::test(steps::has_nextest(&root), steps::has_libtorch())),
        Command::Bench(bench) => match *bench {
            BenchCommand::Data(args) => bench::data(&root, &args),
            BenchCommand::Communication(args) => bench::communication(&root, &args),
            BenchCommand::Train(args) => bench::train(&root, &args),
            BenchCommand::Scaling(args) => bench::scaling(&root, &args),
        },
    }
}

/// Cheapest first, so that most mistakes are shown within seconds.
fn ci(root: &Path) -> anyhow::Result<()> {
    steps::fmt().run(root)?;
    tidy(root)?;
    run_all(root, &steps::clippy(steps::has_libtorch()))?;
    steps::docs().run(root)?;
    run_all(root, &steps::test(steps::has_nextest(root), steps::has_libtorch()))?;
    println!("==> ci: all checks passed");
    Ok(())
}

fn run_all(root: &Path, all: &[Step]) -> anyhow::Result<()> {
    all.iter().try_for_each(|step| step.run(root))
}

fn tidy(root: &Path) -> anyhow::Result<()> {
    println!("==> tidy");
    let repository = tidy::Repository::read(root)?;
    let faults = tidy::check(&repository);
    for fault in &faults {
        println!("{fault}");
    }
    match faults.len() {
        0 => Ok(()),
        num_faults => anyhow::bail!("tidy found {num_faults} faults in {} files", repository.num_files()),
    }
}

fn root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().with_context(|| format!("failed to find the repository at `{}`", root.display()))
}
