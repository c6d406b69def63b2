//! The measured programs: built, pinned to cores, started, asked.
//!
//! Owns how they are spoken to: a task or a request is JSON, and so is the one line of the answer.

use super::figures::Measured;
use crate::steps;
use anyhow::Context;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Our program: a new process for every task.
pub struct Bench {
    program: PathBuf,
    scripts: PathBuf,
}

impl Bench {
    /// Builds the program.
    ///
    /// # Errors
    ///
    /// If it does not compile.
    pub fn build(root: &Path) -> anyhow::Result<Self> {
        let program = build(root, "data_speed", &["-p", "bert-data"])?;
        Ok(Self { program, scripts: root.join("crates/bert-data/benches/peers") })
    }

    /// Path of a peer's script.
    pub fn script(&self, name: &str) -> PathBuf {
        self.scripts.join(name)
    }

    /// Runs one task and returns the line it prints.
    ///
    /// # Errors
    ///
    /// If it cannot be started or fails.
    pub fn run(&self, cores: &[usize], task: &Value) -> anyhow::Result<String> {
        let mut command = pinned(cores, &self.program);
        let output =
            command.arg(task.to_string()).stderr(Stdio::inherit()).output().with_context(no_taskset)?;
        anyhow::ensure!(output.status.success(), "data_speed failed ({}) at {task}", output.status);
        Ok(String::from_utf8(output.stdout).context("data_speed printed no UTF-8")?.trim().to_owned())
    }

    /// Runs one task and reads its measurement.
    ///
    /// # Errors
    ///
    /// Those of [`Bench::run`]; if it printed no measurement.
    pub fn measure(&self, cores: &[usize], task: &Value) -> anyhow::Result<Measured> {
        Measured::parse(&self.run(cores, task)?)
    }
}

/// Builds a bench and returns its executable.
///
/// # Errors
///
/// If it does not compile.
pub fn build(root: &Path, bench: &str, selection: &[&str]) -> anyhow::Result<PathBuf> {
    println!("==> bench: building {bench}");
    let output = steps::cargo()
        .args(["build", "--release", "--bench", bench, "--message-format=json-render-diagnostics"])
        .args(selection)
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start cargo")?;
    anyhow::ensure!(output.status.success(), "building {bench} failed ({})", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().rev().find_map(|message| executable(message, bench));
    program.with_context(|| format!("cargo named no executable of {bench}"))
}

/// The executable of a message of cargo, if it is about this target.
pub fn executable(message: &str, target: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == target).then_some(())?;
    Some(PathBuf::from(message["executable"].as_str()?))
}

/// A peer: one process that answers requests, so that its imports are paid once, and waits while we are measured.
pub struct Peer {
    name: String,
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a script.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(cores: &[usize], python: &Path, script: &Path, args: &[&Path]) -> anyhow::Result<Self> {
        let mut command = pinned(cores, python);
        command.arg(script).args(args).env("OMP_NUM_THREADS", "1").env("TOKENIZERS_PARALLELISM", "false");
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(no_taskset)?;
        let requests = process.stdin.take().context("the peer has no standard input")?;
        let answers = BufReader::new(process.stdout.take().context("the peer has no standard output")?);
        Ok(Self { name: script.display().to_string(), process, requests, answers })
    }

    /// Sends a request and reads the measurement.
    ///
    /// # Errors
    ///
    /// If the script has ended or prints something else.
    pub fn measure(&mut self, request: &Value) -> anyhow::Result<Measured> {
        let failed = || format!("{} did not answer; its own message is above", self.name);
        writeln!(self.requests, "{request}").with_context(failed)?;
        let mut line = String::new();
        let num_bytes = self.answers.read_line(&mut line).with_context(failed)?;
        anyhow::ensure!(num_bytes > 0, failed());
        Measured::parse(line.trim())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Nothing of it is needed any more; that it may be gone already is fine.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A command that may use these cores only.
pub fn pinned(cores: &[usize], program: &Path) -> Command {
    let list: Vec<String> = cores.iter().map(usize::to_string).collect();
    let mut command = Command::new("taskset");
    command.arg("-c").arg(list.join(",")).arg(program);
    command
}

/// Tells a launcher how many ranks to start on this many cores, and where, as launch/local.sh does it: each rank keeps its own
/// cores where they suffice. Left alone, the system moves the threads of a rank to and fro.
///
/// # Errors
///
/// If the launcher cannot be started to say whose it is.
pub fn place_ranks(
    command: &mut Command,
    launcher: &Path,
    num_ranks: usize,
    num_cores: usize,
) -> anyhow::Result<()> {
    let no_launcher =
        || format!("failed to start `{}`; launch/setup.sh installs Open MPI", launcher.display());
    let version = Command::new(launcher).arg("--version").output().with_context(no_launcher)?;
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.args(["--quiet", "--oversubscribe"]).args(binding(num_ranks, num_cores));
    }
    command.args(["-n", &num_ranks.to_string()]);
    Ok(())
}

/// Some cores of a machine are not all of them: Open MPI would count from the first.
fn binding(num_ranks: usize, num_cores: usize) -> Vec<String> {
    let is_whole_machine = std::thread::available_parallelism().is_ok_and(|all| all.get() == num_cores);
    let cores_per_rank = format!("slot:PE={}", (num_cores / num_ranks.max(1)).max(1));
    let args: &[&str] = match is_whole_machine && num_ranks <= num_cores {
        true => &["--map-by", &cores_per_rank, "--bind-to", "core"],
        false => &["--bind-to", "none"],
    };
    args.iter().map(ToString::to_string).collect()
}

fn no_taskset() -> String {
    "failed to start `taskset`, which pins both sides to the same cores: install util-linux".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_the_messages_of_cargo() {
        let message = r#"{"reason":"compiler-artifact","target":{"name":"data_speed"},"executable":"/a/b"}"#;
        assert_eq!(executable(message, "data_speed"), Some(PathBuf::from("/a/b")));
        for other in [message.replace("data_speed", "bert_data"), message.replace("\"/a/b\"", "null")] {
            assert_eq!(executable(&other, "data_speed"), None);
        }
    }
}
