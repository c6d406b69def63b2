//! What was typed: the command line of `bert-train`.
//!
//! Owns the arguments and their help. Never opens a file.

use std::path::PathBuf;

use clap::Parser;

/// Pre-trains BERT from raw text; alone, or as one rank of `mpirun`.
///
/// Exit codes: 0 done; 1 failure; 2 usage or configuration; 3 damaged or mismatching data or checkpoint;
/// 4 non-finite loss or gradient; 5 a peer rank failed or froze; 75 stopped on a signal after saving
/// (run again to continue).
#[derive(Debug, Parser)]
#[command(name = "bert-train", version, max_term_width = 110)]
pub struct Arguments {
    /// Configuration file, such as configs/demo.toml.
    pub config: PathBuf,
    /// Replaces a value of the configuration; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where to continue: the newest verified checkpoint of the run folder, nowhere, or this checkpoint.
    #[arg(long, value_name = "auto|never|PATH")]
    pub resume: Option<String>,
    /// Short run with every check on; ranks are threads of this process.
    #[arg(long)]
    pub debug: bool,
    /// Threads that act as ranks in a `--debug` run.
    #[arg(long, value_name = "N", requires = "debug")]
    pub debug_ranks: Option<usize>,
    /// Prints what would be trained, and trains nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints the effective configuration as TOML, and trains nothing.
    #[arg(long)]
    pub print_config: bool,
}

impl Arguments {
    /// `--set` overrides, with the other flags that stand for a key written as one.
    #[must_use]
    pub fn all_overrides(&self) -> Vec<String> {
        let mut overrides = self.overrides.clone();
        overrides.extend(self.resume.iter().map(|resume| format!("checkpoint.resume={resume}")));
        overrides.extend(self.debug_ranks.iter().map(|num_ranks| format!("debug.num_ranks={num_ranks}")));
        overrides
    }
}
