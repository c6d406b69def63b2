//! What the multi-process tests share: a corpus, a configuration, runs with a hard timeout, comparisons.
//!
//! Never decides what is right; every test states its own expectation.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part of the support")]

pub mod process;
pub mod text;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use bert_train::checkpoint::hash::checkpoint_hash;
use serde_json::Value;
use tempfile::TempDir;

pub use process::Running;

/// Path of the program under test.
pub const BERT_TRAIN: &str = env!("CARGO_BIN_EXE_bert-train");

/// Sequences and slots of a step: 8 slots of 2 rows, so 1, 2, 4 and 8 ranks share them.
const TINY: &str = include_str!("tiny.toml");

/// The backend that this run of the tests is about: `BERT_TRAIN_TEST_BACKEND`, or the one of every build.
pub fn backend() -> String {
    env::var("BERT_TRAIN_TEST_BACKEND").unwrap_or_else(|_| "flex".to_string())
}

/// A folder with a corpus, a vocabulary and a configuration; deleted at the end of the test.
pub struct Workspace {
    dir: TempDir,
}

impl Workspace {
    /// Documents of two languages and a vocabulary of their characters.
    pub fn new() -> Self {
        let workspace = Self::with_corpus(&text::corpus(60));
        text::write_vocabulary(&workspace.path("corpus.txt"), &workspace.path("vocab.txt"));
        workspace
    }

    /// This text as corpus, and no vocabulary.
    pub fn with_corpus(corpus: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("corpus.txt"), corpus).unwrap();
        fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
        Self { dir }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// `bert-train tiny.toml` of the run `name`, alone.
    pub fn solo(&self, name: &str, overrides: &[&str]) -> Command {
        let mut command = Command::new(BERT_TRAIN);
        self.add_arguments(&mut command, name, overrides);
        command
    }

    /// The same under `mpirun -n num_ranks`.
    pub fn mpirun(&self, num_ranks: usize, name: &str, overrides: &[&str]) -> Command {
        let mut command = process::mpirun(num_ranks);
        command.arg(BERT_TRAIN);
        self.add_arguments(&mut command, name, overrides);
        command
    }

    pub fn add_arguments(&self, command: &mut Command, name: &str, overrides: &[&str]) {
        command.current_dir(self.dir.path()).arg("tiny.toml");
        command.args(["--set", &format!("run.name={name}")]);
        command.args(["--set", &format!("device.backend={}", backend())]);
        for value in overrides {
            command.args(["--set", value]);
        }
    }

    pub fn run_dir(&self, name: &str) -> PathBuf {
        self.path("runs").join(name)
    }

    /// The lines of a run's metrics of this kind.
    pub fn metrics(&self, name: &str, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.run_dir(name).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).collect()
    }

    /// Loss, both parts of it and the gradient norm of every step, as the text of the file.
    pub fn curve(&self, name: &str) -> Vec<String> {
        let keys = ["step", "loss", "mlm_loss", "nsp_loss", "grad_norm", "param_norm"];
        let text_of = |line: &Value| keys.map(|key| line[key].to_string()).join(" ");
        self.metrics(name, "train").iter().map(text_of).collect()
    }

    /// Hash of weights and moments of a checkpoint.
    pub fn hash(&self, name: &str, step: u64) -> String {
        checkpoint_hash(&self.checkpoint(name, step), true).unwrap()
    }

    /// What `bert checkpoint hash --optimizer` prints, if the tool is built beside the program under test.
    pub fn printed_hash(&self, name: &str, step: u64) -> Option<String> {
        let tool = Path::new(BERT_TRAIN).with_file_name("bert");
        if !tool.is_file() {
            println!("skipped: the comparison with `bert checkpoint hash`; build the whole workspace");
            return None;
        }
        let mut command = Command::new(tool);
        command.args(["checkpoint", "hash", "--optimizer"]).arg(self.checkpoint(name, step));
        Some(process::run(command).expect_code(0).stdout.trim().to_string())
    }

    pub fn checkpoint(&self, name: &str, step: u64) -> PathBuf {
        self.run_dir(name).join(format!("checkpoints/step-{step:09}"))
    }
}

/// Flips one bit in the middle of a file.
pub fn flip_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}
