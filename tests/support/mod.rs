//! What the multi-process tests share: a corpus, a configuration, runs with a hard timeout, comparisons.
//!
//! Never decides what is right; every test states its own expectation.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part of the support")]

pub mod process;
pub mod slurm;
pub mod text;
pub mod threads;

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

/// The same slots for a classifier.
const CLASSIFY: &str = include_str!("classify.toml");
/// Keys of the metrics that say something about the machine, not about the training.
const OF_THE_MACHINE: [&str; 6] = [
    "seconds",
    "tokens_per_second",
    "peak_rss_bytes",
    "minor_faults",
    "processor_seconds",
    "seconds_since_start",
];

/// The backend that this run of the tests is about: `BERT_TRAIN_TEST_BACKEND`, or the one of every build.
pub fn backend() -> String {
    env::var("BERT_TRAIN_TEST_BACKEND").unwrap_or_else(|_| "flex".to_string())
}

/// A folder with a corpus, a vocabulary and a configuration; deleted at the end of the test.
pub struct Workspace {
    dir: TempDir,
    config: &'static str,
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
        Self { dir, config: "tiny.toml" }
    }

    /// Labelled sentences, the vocabulary of [`Workspace::new`] and the configuration of a classifier, beside those for
    /// pre-training.
    pub fn labelled() -> Self {
        let workspace = Self { config: "classify.toml", ..Self::new() };
        fs::write(workspace.path("classify.toml"), CLASSIFY).unwrap();
        for (name, num_rows, first) in [("train", 150, 0), ("validation", 40, 1000), ("test", 30, 2000)] {
            let rows = text::labelled(first..first + num_rows);
            fs::write(workspace.path(&format!("{name}.tsv")), rows).unwrap();
        }
        workspace
    }

    /// The same folder with the other configuration.
    pub fn with_config(self, config: &'static str) -> Self {
        Self { config, ..self }
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

    /// The same with the program built against MPICH, which `BERT_TRAIN_MPICH_PROGRAM` names.
    pub fn mpich(&self, program: &Path, num_ranks: usize, name: &str, overrides: &[&str]) -> Command {
        let launcher = env::var_os("BERT_TRAIN_MPICH_MPIRUN").unwrap_or_else(|| "mpirun.mpich".into());
        let mut command = Command::new(launcher);
        command.args(["-n", &num_ranks.to_string()]).arg(program);
        self.add_arguments(&mut command, name, overrides);
        command
    }

    pub fn add_arguments(&self, command: &mut Command, name: &str, overrides: &[&str]) {
        command.current_dir(self.dir.path()).arg(self.config);
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

    /// Losses and norms of every step, as the text of the file.
    pub fn curve(&self, name: &str) -> Vec<String> {
        let keys: &[&str] = match self.config {
            "classify.toml" => &["step", "loss", "accuracy", "grad_norm", "param_norm"],
            _ => &["step", "loss", "mlm_loss", "nsp_loss", "grad_norm", "param_norm"],
        };
        let text_of = |line: &Value| {
            let values: Vec<String> = keys.iter().map(|key| line[*key].to_string()).collect();
            values.join(" ")
        };
        self.metrics(name, "train").iter().map(text_of).collect()
    }

    /// The text of all metrics without what the clock and the machine say.
    pub fn metrics_text(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.run_dir(name).join("metrics.jsonl")).unwrap();
        let without_times = |line: &str| {
            let mut line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
            line.retain(|key, _| !OF_THE_MACHINE.contains(&key.as_str()));
            Value::Object(line).to_string()
        };
        text.lines().map(without_times).collect()
    }

    /// Hash of weights and moments of a checkpoint.
    pub fn hash(&self, name: &str, step: u64) -> String {
        checkpoint_hash(&self.checkpoint(name, step), true).unwrap()
    }

    /// The run took the same steps as another one, and both have the same weights and moments after the last of them.
    #[track_caller]
    pub fn check_same(&self, name: &str, expected: &str, last_step: u64) {
        assert_eq!(self.curve(name), self.curve(expected), "{name}");
        assert_eq!(self.hash(name, last_step), self.hash(expected, last_step), "{name}");
    }

    /// Whether the run has logged this many lines of metrics, by now.
    pub fn has_logged(&self, name: &str, num_lines: usize) -> bool {
        let text = fs::read_to_string(self.run_dir(name).join("metrics.jsonl"));
        text.is_ok_and(|text| text.lines().count() >= num_lines)
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
