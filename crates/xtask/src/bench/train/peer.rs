//! The peer: PyTorch's DistributedDataParallel with Hugging Face's BERT, as users run it and tuned.
//!
//! Owns how it is started; the step itself is crates/bert-train/benches/peers/ddp_pretraining.py.

use super::ours::Shape;
use super::setting::Setting;
use super::{NUM_WARM_UP, output_of, processes};
use crate::bench::figures::Spread;
use anyhow::Context;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where distributions put tcmalloc (on Debian the package libtcmalloc-minimal4).
const LIBRARY_FOLDERS: [&str; 5] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"];
const TCMALLOC: [&str; 2] = ["libtcmalloc_minimal.so.4", "libtcmalloc.so.4"];

/// How the peer is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// BertForPreTraining as it comes: the MLM head computes logits for every position.
    AsUsers,
    /// The MLM head on labelled positions only, and tcmalloc.
    Tuned,
}

impl Form {
    /// For the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::AsUsers => "PyTorch as users run it",
            Self::Tuned => "PyTorch, tuned",
        }
    }

    fn head(self) -> &'static str {
        match self {
            Self::AsUsers => "all",
            Self::Tuned => "labelled",
        }
    }
}

/// Python with torch.
pub struct Torch {
    python: PathBuf,
    script: PathBuf,
    /// For the tuned form; `None` where it is not installed.
    pub tcmalloc: Option<PathBuf>,
}

/// One run.
#[derive(Debug)]
pub struct PeerRun {
    /// Of all ranks, the median step.
    pub tokens_per_second: f64,
    /// Processor time of rank 0 in the median step.
    pub processor_seconds: f64,
    pub result: Value,
}

impl Torch {
    /// Checks that Python has what the script needs.
    ///
    /// # Errors
    ///
    /// If it has not.
    pub fn find(root: &Path, python: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(python);
        command.args(["-c", "import torch, transformers"]);
        output_of(command).context("--vs-torch needs a Python with torch and transformers")?;
        let folders = LIBRARY_FOLDERS.iter().map(Path::new);
        let candidates = folders.flat_map(|folder| TCMALLOC.map(|name| folder.join(name)));
        let tcmalloc = candidates.into_iter().find(|path| path.is_file());
        let script = root.join("crates/bert-train/benches/peers/ddp_pretraining.py");
        Ok(Self { python: python.to_owned(), script, tcmalloc })
    }

    /// What starts the peer.
    ///
    /// # Errors
    ///
    /// If the configuration lacks something.
    pub fn command(
        &self,
        setting: &Setting,
        precision: &str,
        shape: Shape,
        form: Form,
        num_steps: usize,
    ) -> anyhow::Result<Command> {
        let mut task = setting.config["model"].clone();
        task["rows"] = setting.num_rows.into();
        task["length"] = setting.row_len.into();
        task["steps"] = num_steps.into();
        task["precision"] = precision.into();
        task["head"] = form.head().into();
        if task["hidden_act"] == "gelu_tanh" {
            task["hidden_act"] = "gelu_new".into();
        }
        task["max_grad_norm"] = setting.config["optimizer"]["max_grad_norm"].clone();
        let mut command = processes::pinned(&setting.cores, &self.python);
        command.env("OMP_NUM_THREADS", shape.num_threads.to_string());
        if let (Form::Tuned, Some(tcmalloc)) = (form, &self.tcmalloc) {
            command.env("LD_PRELOAD", tcmalloc);
        }
        command.args(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]);
        command.arg(shape.num_ranks.to_string()).arg(&self.script).arg(task.to_string());
        Ok(command)
    }

    /// One run.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn run(
        &self,
        setting: &Setting,
        precision: &str,
        shape: Shape,
        form: Form,
        num_steps: usize,
    ) -> anyhow::Result<PeerRun> {
        let text = output_of(self.command(setting, precision, shape, form, num_steps)?)?;
        let num_tokens = (shape.num_ranks * setting.num_rows * setting.row_len) as f64;
        PeerRun::parse(&text, num_tokens)
    }

    /// A command as a reader can type it.
    pub fn describe(&self, setting: &Setting, command: &Command) -> String {
        setting.describe(command).replace(&self.python.display().to_string(), "PYTHON")
    }
}

impl PeerRun {
    /// Reads what the script prints, among what its libraries print; its steps have `num_tokens` tokens.
    fn parse(text: &str, num_tokens: f64) -> anyhow::Result<Self> {
        let line = text.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("the peer printed no result: `{text}`"))?;
        let result: Value = serde_json::from_str(line).with_context(|| format!("not a result: `{line}`"))?;
        let median = |key: &str| {
            let steps = result[key].as_array().into_iter().flatten().skip(NUM_WARM_UP);
            let spread = Spread::of(steps.filter_map(Value::as_f64));
            spread
                .map(|spread| spread.median)
                .with_context(|| format!("the peer has no `{key}` of steps that count"))
        };
        let (seconds, processor_seconds) = (median("seconds")?, median("processor_seconds")?);
        Ok(Self { tokens_per_second: num_tokens / seconds, processor_seconds, result })
    }

    /// This run as JSON.
    pub fn json(&self, form: Form, ours: usize) -> Value {
        json!({"form": form.head(), "ours": ours, "tokens_per_second": self.tokens_per_second,
               "processor_seconds": self.processor_seconds, "result": self.result})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_found_among_what_libraries_print() {
        let text = "[Gloo] Rank 0 is connected\n{\"seconds\": [9, 9, 9, 2, 4, 1], \"processor_seconds\": [9, 9, 9, 3], \"loss\": 1.5}\n";
        let run = PeerRun::parse(text, 100.0).unwrap();
        assert_eq!((run.tokens_per_second, run.processor_seconds), (50.0, 3.0));
        assert_eq!(run.result["loss"].as_f64(), Some(1.5));
        assert!(PeerRun::parse("[Gloo]\n", 100.0).unwrap_err().to_string().contains("no result"));
        assert!(PeerRun::parse("{\"seconds\": [1, 2, 3]}", 100.0).is_err());
    }
}
