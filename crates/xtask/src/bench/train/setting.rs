//! What all runs of one benchmark have in common: programs, configuration, vocabulary, the folder of their files.
//!
//! Owns that folder, which goes away with it.

use super::ours::{OurRun, Shape};
use super::work::Sizes;
use super::{Variant, output_of, processes};
use crate::bench::figures::Spread;
use crate::steps;
use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// From this hidden size on a rank computes fewer sequences at once.
const LARGE_HIDDEN_SIZE: u64 = 768;
/// Name of a run that is alone.
pub const RUN_NAME: &str = "bench";

/// What is trained by what.
#[derive(Args, Clone)]
pub struct SettingArgs {
    /// Name of a file in configs/ (mini, small, base), or the path of one.
    #[arg(default_value = "small")]
    config: String,
    /// Sequences of a rank and step, computed at once. Default: 8, and 2 for models of hidden size 768 and more.
    #[arg(long)]
    rows: Option<usize>,
    /// Size of the vocabulary: that of the configuration, filled up with entries that no text holds.
    #[arg(long, default_value_t = 21_128)]
    vocab_size: usize,
    /// Further overrides, SECTION.KEY=VALUE.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// A bert-train that is built already, in place of the one of this checkout.
    #[arg(long)]
    program: Option<PathBuf>,
    /// The launcher.
    #[arg(long, default_value = "mpirun")]
    mpirun: PathBuf,
    /// Processors to use, by number: all ranks of both sides share them.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    pub cores: Vec<usize>,
}

/// Programs, files and sizes.
pub struct Setting {
    /// Name of the configuration, for the report.
    pub name: String,
    /// Sequences of a rank and step.
    pub num_rows: usize,
    /// Tokens of a sequence.
    pub row_len: usize,
    /// The effective configuration as JSON, the size of the vocabulary in `model`.
    pub config: Value,
    pub cores: Vec<usize>,
    root: PathBuf,
    config_file: PathBuf,
    program: PathBuf,
    peak: PathBuf,
    mpirun: PathBuf,
    overrides: Vec<String>,
    work: PathBuf,
}

impl Setting {
    /// Builds the programs and writes the vocabulary.
    ///
    /// # Errors
    ///
    /// If something does not compile, or the configuration, its text or its vocabulary is not there.
    pub fn prepare(root: &Path, args: &SettingArgs) -> anyhow::Result<Self> {
        let by_name = root.join("configs").join(format!("{}.toml", args.config));
        let config_file = if by_name.is_file() { by_name } else { PathBuf::from(&args.config) };
        let name =
            config_file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let program = match &args.program {
            Some(program) => program.canonicalize().with_context(|| format!("no `{}`", program.display()))?,
            None => build_program(root)?,
        };
        let peak = processes::build(root, "peak_speed", &["-p", "bert-kernels"])?;
        let work = std::env::temp_dir().join(format!("bench-train-{}", std::process::id()));
        fs::create_dir_all(&work).with_context(|| format!("failed to create `{}`", work.display()))?;
        let mut setting = Self {
            name,
            num_rows: 0,
            row_len: 0,
            config: Value::Null,
            cores: args.cores.clone(),
            root: root.to_owned(),
            config_file,
            program,
            peak,
            mpirun: args.mpirun.clone(),
            overrides: args.overrides.clone(),
            work,
        };
        setting.read_config(args)?;
        Ok(setting)
    }

    fn read_config(&mut self, args: &SettingArgs) -> anyhow::Result<()> {
        let mut command = self.own_command();
        command.arg("--print-config").args(self.overrides.iter().flat_map(|value| ["--set", value]));
        let text = output_of(command)?;
        let config: toml::Table = text.parse().context("bert-train printed no TOML")?;
        self.config = serde_json::to_value(config)?;
        let tokenizer = self.config["data"]["tokenizer"].as_str().context("expected `data.tokenizer`")?;
        let vocab_size = fill_vocabulary(&self.root.join(tokenizer), args.vocab_size, &self.vocabulary())?;
        self.config["model"]["vocab_size"] = vocab_size.into();
        self.row_len = usize::try_from(self.number("data", "max_seq_length")?)?;
        let is_large = self.number("model", "hidden_size")? >= LARGE_HIDDEN_SIZE;
        self.num_rows = args.rows.unwrap_or(if is_large { 2 } else { 8 });
        Ok(())
    }

    /// A whole number of the configuration.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn number(&self, section: &str, key: &str) -> anyhow::Result<u64> {
        self.config[section][key].as_u64().with_context(|| format!("expected a number `{section}.{key}`"))
    }

    /// Sizes of the model.
    ///
    /// # Errors
    ///
    /// If one is missing.
    pub fn sizes(&self) -> anyhow::Result<Sizes> {
        Ok(Sizes {
            num_layers: self.number("model", "num_hidden_layers")?,
            hidden: self.number("model", "hidden_size")?,
            intermediate: self.number("model", "intermediate_size")?,
            vocab: self.number("model", "vocab_size")?,
        })
    }

    /// Why ours refuses to run like this, if it does.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn refusal(&self, variant: &Variant) -> anyhow::Result<Option<String>> {
        let mut command = self.own_command();
        for (key, value) in [("train.precision", &variant.precision), ("device.backend", &variant.backend)] {
            command.args(["--set", &format!("{key}={value}")]);
        }
        command.arg("--print-config").stdout(Stdio::null());
        let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
        let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        Ok((!output.status.success()).then_some(message))
    }

    /// One run of ours, and the peak, measured before and after it.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn run_ours(&self, variant: &Variant, num_steps: usize) -> anyhow::Result<OurRun> {
        let before = self.peak(variant)?;
        let run = self.run_without_peak(variant, num_steps, &[])?;
        let peak = joined_peak(&before, &self.peak(variant)?);
        Ok(OurRun { peak, ..run })
    }

    /// One run of ours with further arguments, the peak not measured.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn run_without_peak(
        &self,
        variant: &Variant,
        num_steps: usize,
        args: &[&str],
    ) -> anyhow::Result<OurRun> {
        let mut command = self.our_command(variant, num_steps, RUN_NAME)?;
        command.args(args);
        output_of(command)?;
        OurRun::parse(&self.take_metrics(RUN_NAME)?, Value::Null, self.num_positions(variant))
    }

    /// Reads the metrics of a run and removes its folder, so that another one begins anew.
    ///
    /// # Errors
    ///
    /// If there are none.
    pub fn take_metrics(&self, run: &str) -> anyhow::Result<String> {
        let (metrics, folder) = (self.metrics_file(run), self.run_folder(run));
        let text = fs::read_to_string(&metrics).with_context(|| format!("no `{}`", metrics.display()))?;
        fs::remove_dir_all(&folder).with_context(|| format!("failed to remove `{}`", folder.display()))?;
        Ok(text)
    }

    /// Places for tokens in a step.
    pub fn num_positions(&self, variant: &Variant) -> usize {
        variant.shape.num_ranks * self.num_rows * self.row_len
    }

    /// What is measured.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Tells a command of bert-train what to train, in a run of this name.
    pub fn configure(&self, mut command: Command, variant: &Variant, num_steps: usize, run: &str) -> Command {
        let arguments = self.arguments(variant, num_steps, run);
        command.current_dir(&self.root).arg(&self.config_file).args(arguments);
        command
    }

    /// What starts ours, in a run of this name.
    ///
    /// # Errors
    ///
    /// If there are several ranks and no launcher.
    pub fn our_command(&self, variant: &Variant, num_steps: usize, run: &str) -> anyhow::Result<Command> {
        let num_ranks = variant.shape.num_ranks;
        let command = if num_ranks == 1 {
            processes::pinned(&self.cores, &self.program)
        } else {
            let mut command = processes::pinned(&self.cores, &self.mpirun);
            processes::place_ranks(&mut command, &self.mpirun, num_ranks, self.cores.len())?;
            command.arg(&self.program);
            command
        };
        Ok(self.configure(command, variant, num_steps, run))
    }

    /// Where the metrics of a run are.
    pub fn metrics_file(&self, run: &str) -> PathBuf {
        self.run_folder(run).join("metrics.jsonl")
    }

    fn run_folder(&self, run: &str) -> PathBuf {
        self.work.join("runs").join(run)
    }

    /// The arguments behind the configuration.
    fn arguments(&self, variant: &Variant, num_steps: usize, run: &str) -> Vec<String> {
        let work = self.work.display();
        let global_batch_size = self.num_rows * variant.shape.num_ranks;
        let mut values = vec![
            format!("run.name={run}"),
            format!("run.dir={work}/runs"),
            format!("run.threads_per_rank={}", variant.shape.num_threads),
            format!("data.tokenizer={}", self.vocabulary().display()),
            format!("data.shards={work}/shards"),
            "data.short_seq_prob=0.0".to_owned(),
            format!("train.micro_batch_size={}", self.num_rows),
            format!("train.global_batch_size={global_batch_size}"),
            format!("train.precision={}", variant.precision),
            "train.log_every_steps=1".to_owned(),
            "train.eval_every_steps=0".to_owned(),
            "train.eval_max_batches=1".to_owned(),
            "checkpoint.every_steps=0".to_owned(),
            format!("schedule.total_steps={num_steps}"),
            format!("device.backend={}", variant.backend),
        ];
        values.extend_from_slice(&self.overrides);
        values.into_iter().flat_map(|value| ["--set".to_owned(), value]).collect()
    }

    /// `bert-train CONFIG`.
    fn own_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.root).arg(&self.config_file);
        command
    }

    /// The most that as many threads can multiply now, 10^9 operations per second.
    fn peak(&self, variant: &Variant) -> anyhow::Result<Value> {
        let Shape { num_ranks, num_threads } = variant.shape;
        let sizes = self.sizes()?;
        let mut command = processes::pinned(&self.cores, &self.peak);
        let shape = [(self.num_rows * self.row_len) as u64, sizes.intermediate, sizes.hidden];
        command.arg(&variant.precision).arg((num_ranks * num_threads).to_string());
        command.args(shape.map(|size| size.to_string()));
        let line = output_of(command)?;
        serde_json::from_str(line.trim()).with_context(|| format!("not a peak: `{line}`"))
    }

    /// A command as a reader can type it: folders of this machine by their meaning.
    pub fn describe(&self, command: &Command) -> String {
        let mut text = String::new();
        for (key, value) in command.get_envs() {
            let value = value.map_or_else(String::new, |value| value.to_string_lossy().into_owned());
            // Writing to a string cannot fail.
            let _ = write!(text, "{}={value} ", key.to_string_lossy());
        }
        text.push_str(&command.get_program().to_string_lossy());
        for argument in command.get_args() {
            let argument = argument.to_string_lossy();
            let quote = if argument.contains(['{', ' ']) { "'" } else { "" };
            let _ = write!(text, " {quote}{argument}{quote}");
        }
        let program = self.program.display().to_string();
        let text = text.replace(&program, "bert-train").replace(&self.work.display().to_string(), "FOLDER");
        text.replace(&format!("{}/", self.root.display()), "")
    }

    fn vocabulary(&self) -> PathBuf {
        self.work.join("vocab.txt")
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // A folder of temporary files; if it stays, nothing is wrong.
        let _ = fs::remove_dir_all(&self.work);
    }
}

/// Of all turns of each kind the best, and of the product the median, too.
fn joined_peak(before: &Value, after: &Value) -> Value {
    let turns = |kind| [before, after].into_iter().filter_map(move |peak| peak[kind].as_array()).flatten();
    let [registers, product] =
        ["registers", "product"].map(|kind| Spread::of(turns(kind).filter_map(Value::as_f64)));
    json!({"path": before["path"], "registers": registers.map(|rates| rates.max),
           "product": product.map(|rates| rates.max), "usual_product": product.map(|rates| rates.median)})
}

fn build_program(root: &Path) -> anyhow::Result<PathBuf> {
    println!("==> bench: building bert-train");
    let mut command = steps::cargo();
    command.args(["build", "--release", "-p", "bert-train", "--message-format=json-render-diagnostics"]);
    let output =
        command.current_dir(root).stderr(Stdio::inherit()).output().context("failed to start cargo")?;
    anyhow::ensure!(output.status.success(), "building bert-train failed ({})", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().rev().find_map(|message| processes::executable(message, "bert-train"));
    program.context("cargo named no executable of bert-train")
}

/// Writes a vocabulary with entries added that no text holds, up to `vocab_size`; returns its size.
fn fill_vocabulary(from: &Path, vocab_size: usize, to: &Path) -> anyhow::Result<usize> {
    let text = fs::read_to_string(from).with_context(|| {
        format!(
            "no `{}`; launch/quickstart.sh fetches the demo corpus and trains its vocabulary",
            from.display()
        )
    })?;
    let mut entries: Vec<String> = text.lines().map(str::to_owned).collect();
    // Brackets are cut off before words are looked up, so no text holds one of these.
    entries.extend((entries.len()..vocab_size).map(|id| format!("[filler{id}]")));
    fs::write(to, entries.join("\n") + "\n")
        .with_context(|| format!("failed to write `{}`", to.display()))?;
    Ok(entries.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_peaks_each_kind_has_its_best() {
        let (before, after) = (
            json!({"path": "x", "registers": [9.0, 3.0], "product": [5.0, 4.0]}),
            json!({"path": "x", "registers": [8.0], "product": [1.0, 7.0, 2.0]}),
        );
        let expected = json!({"path": "x", "registers": 9.0, "product": 7.0, "usual_product": 4.0});
        assert_eq!(joined_peak(&before, &after), expected);
    }

    #[test]
    fn vocabularies_are_filled_up_and_never_cut() {
        let name = format!("bench-vocabulary-{}", std::process::id());
        let (from, to) = (std::env::temp_dir().join(&name), std::env::temp_dir().join(format!("{name}-out")));
        fs::write(&from, "[PAD]\na\n").unwrap();
        assert_eq!(fill_vocabulary(&from, 4, &to).unwrap(), 4);
        assert_eq!(fs::read_to_string(&to).unwrap(), "[PAD]\na\n[filler2]\n[filler3]\n");
        assert_eq!(fill_vocabulary(&from, 1, &to).unwrap(), 2);
        fs::remove_file(from).unwrap();
        fs::remove_file(to).unwrap();
    }
}
