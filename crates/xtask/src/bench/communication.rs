//! `cargo xtask bench communication`: our sum over ranks beside MPI_Allreduce of the same bytes, in one process, in turns.
//!
//! Owns how the ranks are started and what is said of their seconds. What is inside a measured time is the business of
//! the measured program, crates/bert-coordinator/benches/communication_speed.rs.

use super::figures::Spread;
use super::processes;
use super::report::{Machine, write};
use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which sums to measure.
#[derive(Args, Clone)]
pub struct CommunicationArgs {
    /// Numbers of ranks, on this machine.
    #[arg(long, value_delimiter = ',', default_value = "2,4")]
    ranks: Vec<usize>,
    /// Sizes of what is summed, in MB of f32.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64,100")]
    megabytes: Vec<f64>,
    /// Measurements of each side.
    #[arg(long, default_value_t = 15)]
    pairs: u64,
    /// Form of ours on the wire; the library always sums f32.
    #[arg(long, value_parser = ["f32", "bf16"], default_value = "f32")]
    wire: String,
    /// The launcher.
    #[arg(long, default_value = "mpirun")]
    mpirun: PathBuf,
    /// The report. Default: `docs/benchmarks/communication-<processor>-<date>.md`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Runs all sums, prints them and writes the report.
///
/// # Errors
///
/// If the program cannot be built or started, or fails.
pub fn communication(root: &Path, args: &CommunicationArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.pairs > 0, "expected --pairs of at least 1, got 0");
    let program =
        processes::build(root, "communication_speed", &["-p", "bert-coordinator", "--features", "mpi"])?;
    let machine = Machine::read()?;
    let mut lines = Vec::new();
    for num_ranks in &args.ranks {
        println!("==> bench: sums over {num_ranks} ranks");
        lines.extend(run(&program, args, *num_ranks)?);
    }
    let text = markdown(&machine, args, &lines)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| root.join("docs/benchmarks").join(machine.file_name("communication")));
    println!("{text}");
    write(&out, &text)
}

/// All sizes on this many ranks.
fn run(program: &Path, args: &CommunicationArgs, num_ranks: usize) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(&args.mpirun);
    let num_cores = std::thread::available_parallelism().map_or(1, usize::from);
    processes::place_ranks(&mut command, &args.mpirun, num_ranks, num_cores)?;
    let task = json!({"megabytes": args.megabytes, "pairs": args.pairs, "wire": args.wire});
    let output = command
        .arg(program)
        .arg(task.to_string())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("failed to start `{}`", args.mpirun.display()))?;
    anyhow::ensure!(output.status.success(), "communication_speed failed ({})", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let objects = text.lines().filter(|line| line.starts_with('{'));
    objects
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a result: `{line}`")))
        .collect()
}

/// The whole report.
fn markdown(machine: &Machine, args: &CommunicationArgs, lines: &[Value]) -> anyhow::Result<String> {
    let mut out = String::new();
    let library = lines.first().and_then(|line| line["name"].as_str()).unwrap_or("unknown");
    writeln!(out, "# Sums over ranks: {}\n", machine.title())?;
    writeln!(
        out,
        "Written by `cargo xtask bench communication`. {} pairs per row, the two sides in turns in one process per rank, \
         the slowest rank counts; medians, and in brackets the lowest and the highest. Ours is what a training step does \
         with its buckets, up to six on their way at once: all-to-all of slices ({} on the wire), sum in rank-tree order, \
         all-gather of f32, through the communication thread. The library's is a blocking MPI_Allreduce of the same f32, \
         on that thread, over as many buffers in turn. Each rank has its own cores where there are as many. GB/s is busbw: bytes x 2(n-1)/n / seconds. Library: {library}. {}\n",
        args.pairs,
        args.wire,
        machine.loads()
    )?;
    writeln!(out, "| ranks | MB | ours, GB/s | MPI_Allreduce, GB/s | ratio |\n|---|---|---|---|---|")?;
    for line in lines {
        let row = row(line).with_context(|| format!("expected ranks, bytes and seconds in `{line}`"))?;
        writeln!(out, "{row}")?;
    }
    Ok(out)
}

fn row(line: &Value) -> Option<String> {
    let (num_ranks, num_bytes) = (line["ranks"].as_f64()?, line["bytes"].as_f64()?);
    let seconds =
        |side: &str| -> Option<Vec<f64>> { line[side].as_array()?.iter().map(Value::as_f64).collect() };
    let (ours, library) = (seconds("ours")?, seconds("library")?);
    let gigabytes = num_bytes * 2.0 * (num_ranks - 1.0) / num_ranks / 1e9;
    let rates = |seconds: &[f64]| Spread::of(seconds.iter().map(|seconds| gigabytes / seconds));
    let ratio = Spread::of(ours.iter().zip(&library).map(|(ours, library)| library / ours))?;
    let [ours, library, ratio] = [rates(&ours)?, rates(&library)?, ratio].map(|spread| spread.text(1.0, 2));
    Some(format!("| {num_ranks} | {} | {ours} | {library} | {ratio} |", num_bytes / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_bus_bandwidths_and_their_ratio() {
        let line = json!({"ranks": 4, "bytes": 4_000_000, "ours": [0.001, 0.002, 0.003], "library": [0.004, 0.002, 0.003]});
        let expected = "| 4 | 4 | 3.00 (2.00-6.00) | 2.00 (1.50-3.00) | 1.00 (1.00-4.00) |";
        assert_eq!(row(&line).as_deref(), Some(expected));
        assert_eq!(row(&json!({"ranks": 4})), None);
    }
}
