//! `cargo xtask bench scaling`: a training of n ranks beside n trainings of one rank, which load the same cores alike.
//!
//! Owns which trainings take turns, what is said of them, and the runs with and without overlap that show what of the
//! communication is exposed.

mod turns;

use super::figures::{Spread, text};
use super::processes;
use super::report::{Machine, write};
use super::train::Variant;
use super::train::ours::{PHASES, Shape, Step};
use super::train::setting::{Setting, SettingArgs};
use anyhow::Context;
use clap::Args;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use turns::{Job, Side, Taken};

/// So many steps that no training ends before its last turn.
const NUM_STEPS_OF_A_SIDE: usize = 1_000_000;
/// Where the exposed communication stands among the phases.
const EXPOSED: usize = 3;

/// What takes turns with what.
#[derive(Args, Clone)]
pub struct ScalingArgs {
    #[command(flatten)]
    setting: SettingArgs,
    /// Ranks of one thread; as many cores are needed.
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Turns of each side.
    #[arg(long, default_value_t = 20)]
    turns: usize,
    /// Length of a turn.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Runs with and without overlap, of --rows rows and of one row per rank.
    #[arg(long, default_value_t = 3)]
    overlap_pairs: usize,
    /// Steps of such a run; the first three do not count.
    #[arg(long, default_value_t = 22)]
    steps: usize,
    /// Value of train.precision.
    #[arg(long, default_value = "f32")]
    precision: String,
    /// The report. Default: `docs/benchmarks/scaling-<processor>-<date>.md`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Both sides over all turns.
struct Sides {
    together: Taken,
    alone: Taken,
    /// Tokens per second of the ranks over those of the independent runs, turn by turn.
    ratios: Vec<f64>,
}

/// Shares of the step that are exposed, with overlap and without.
struct Exposure {
    num_rows: usize,
    shares: [Vec<f64>; 2],
}

/// Measures, prints and writes the report.
///
/// # Errors
///
/// If a program cannot be built or started, or fails.
pub fn scaling(root: &Path, args: &ScalingArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.ranks > 1, "expected --ranks of at least 2, got {}", args.ranks);
    anyhow::ensure!(args.turns > 0, "expected --turns of at least 1, got 0");
    let num_cores = args.setting.cores.len();
    anyhow::ensure!(num_cores == args.ranks, "expected --cores with {} numbers, got {num_cores}", args.ranks);
    let mut setting = Setting::prepare(root, &args.setting)?;
    let variant = |num_ranks| Variant::new(&args.precision, "flex", Shape { num_ranks, num_threads: 1 });
    let machine = Machine::read()?;
    println!("==> bench: shards, in a run of one step");
    setting.run_without_peak(&variant(1), 1, &[])?;
    let sides = take_turns(&setting, args, &variant(args.ranks), &variant(1))?;
    let num_rows = setting.num_rows;
    let mut exposures = Vec::new();
    for num_rows in [num_rows, 1] {
        setting.num_rows = num_rows;
        exposures.push(exposure(&setting, args, &variant(args.ranks))?);
    }
    setting.num_rows = num_rows;
    let text = markdown(&machine, &setting, args, &sides, &exposures)?;
    let default_out = || root.join("docs/benchmarks").join(machine.file_name("scaling"));
    let out = args.out.clone().unwrap_or_else(default_out);
    println!("{text}");
    write(&out, &text)
}

fn take_turns(
    setting: &Setting,
    args: &ScalingArgs,
    ranks: &Variant,
    one: &Variant,
) -> anyhow::Result<Sides> {
    let start = |command, run: &str, variant| {
        Job::start(command, setting.metrics_file(run), setting.num_positions(variant))
    };
    let mut together = Side {
        jobs: vec![start(setting.our_command(ranks, NUM_STEPS_OF_A_SIDE, "together")?, "together", ranks)?],
    };
    let mut alone = Side { jobs: Vec::new() };
    for core in &setting.cores {
        let run = format!("alone-{core}");
        let command = processes::pinned(&[*core], setting.program());
        alone.jobs.push(start(setting.configure(command, one, NUM_STEPS_OF_A_SIDE, &run), &run, one)?);
    }
    println!("==> bench: waiting for the first steps of all");
    for side in [&mut together, &mut alone] {
        side.get_ready(setting.program())?;
    }
    let length = Duration::from_secs_f64(args.seconds);
    let mut sides = Sides { together: Taken::default(), alone: Taken::default(), ratios: Vec::new() };
    for turn in 1..=args.turns {
        let early = (turn % 2 == 0).then(|| alone.take_turn(length)).transpose()?;
        let of_ranks = together.take_turn(length)?;
        let of_one = early.map_or_else(|| alone.take_turn(length), Ok)?;
        let rates = of_ranks.rate_of_whole_steps().zip(of_one.rate_of_whole_steps());
        let ratio = rates.map(|(together, alone)| together / alone);
        println!("    turn {turn} of {}: {:.3}", args.turns, ratio.unwrap_or(f64::NAN));
        sides.ratios.extend(ratio);
        sides.together.add(of_ranks);
        sides.alone.add(of_one);
    }
    Ok(sides)
}

/// Runs in turns, with overlap and without.
fn exposure(setting: &Setting, args: &ScalingArgs, variant: &Variant) -> anyhow::Result<Exposure> {
    let mut shares = [Vec::new(), Vec::new()];
    for pair in 1..=args.overlap_pairs {
        for (shares, overlap) in shares.iter_mut().zip([true, false]) {
            let overlap_arg = format!("distributed.overlap={overlap}");
            let run = setting.run_without_peak(variant, args.steps, &["--set", &overlap_arg])?;
            let share = |step: &Step| step.phases[EXPOSED] / step.seconds;
            let median = Spread::of(run.steps.iter().map(share)).context("no step counts")?.median;
            let (num_rows, percent) = (setting.num_rows, 100.0 * median);
            println!("==> bench: pair {pair}: {num_rows} rows, overlap {overlap}: {percent:.1} % exposed");
            shares.push(median);
        }
    }
    Ok(Exposure { num_rows: setting.num_rows, shares })
}

fn markdown(
    machine: &Machine,
    setting: &Setting,
    args: &ScalingArgs,
    sides: &Sides,
    exposures: &[Exposure],
) -> anyhow::Result<String> {
    let mut out = String::new();
    writeln!(out, "# {} ranks of {}: {}\n", args.ranks, setting.name, machine.title())?;
    writeln!(
        out,
        "Written by `cargo xtask bench scaling`; what it means is in [scaling.md](../scaling.md). {} x {} tokens per rank and \
         step, {}, vocabulary {}. {} ranks of one thread, and as many independent runs of one thread, each on a core of its \
         own, took turns of {} s, {} each: all were alive, the others were stopped. {}\n",
        setting.num_rows,
        setting.row_len,
        args.precision,
        setting.number("model", "vocab_size")?,
        args.ranks,
        args.seconds,
        args.turns,
        machine.loads()
    )?;
    ratios(&mut out, sides)?;
    phases(&mut out, sides)?;
    writeln!(
        out,
        "\nExposed communication in % of the step, medians of runs of {} steps and their ends; {} runs of each, in turns:\n\n\
         | per rank | with overlap | without |\n|---|---|---|",
        args.steps, args.overlap_pairs
    )?;
    for Exposure { num_rows, shares } in exposures {
        let percent = |shares: &Vec<f64>| text(Spread::of(shares.iter().copied()), 100.0, 1);
        let [with, without] = shares.each_ref().map(percent);
        writeln!(out, "| {num_rows} x {} tokens | {with} | {without} |", setting.row_len)?;
    }
    Ok(out)
}

fn ratios(out: &mut String, sides: &Sides) -> anyhow::Result<()> {
    let rate = |taken: &Taken| taken.num_tokens / taken.seconds;
    let (together, alone) = (rate(&sides.together), rate(&sides.alone));
    writeln!(
        out,
        "| tokens/s | ranks | independent runs, sum | ratio |\n|---|---|---|---|\n| all steps | {together:.0} | {alone:.0} | {:.3} |",
        together / alone
    )?;
    let median = |taken: &Taken| -> Option<f64> {
        let rates = |steps: &Vec<Step>| {
            Some(Spread::of(steps.iter().map(|step| step.num_tokens / step.seconds))?.median)
        };
        taken.whole.iter().map(rates).sum()
    };
    let medians = median(&sides.together).zip(median(&sides.alone)).context("a run made no whole step")?;
    let (together, alone) = medians;
    writeln!(out, "| median steps | {together:.0} | {alone:.0} | {:.3} |", together / alone)?;
    let [low, middle, high] = quartiles(&sides.ratios).context("no turn had a whole step of each run")?;
    let Spread { min, max, .. } = Spread::of(sides.ratios.iter().copied()).context("no turns")?;
    writeln!(
        out,
        "| turn by turn | | | {middle:.3}, quartiles {low:.3} and {high:.3}, from {min:.3} to {max:.3} |"
    )?;
    Ok(())
}

fn phases(out: &mut String, sides: &Sides) -> anyhow::Result<()> {
    writeln!(
        out,
        "\nSeconds of a step that no stop interrupted, median and mean:\n\n| | steps | step | {} |\n|---|---|---|{}",
        PHASES.join(" | "),
        "---|".repeat(PHASES.len())
    )?;
    for (name, taken) in [("ranks", &sides.together), ("independent runs", &sides.alone)] {
        let steps: Vec<&Step> = taken.whole.iter().flatten().collect();
        write!(out, "| {name} | {} |", steps.len())?;
        for idx in 0..=PHASES.len() {
            let figures: Vec<f64> = steps.iter().filter_map(|step| step.figure(idx)).collect();
            let median = Spread::of(figures.iter().copied()).map_or(f64::NAN, |spread| spread.median);
            let mean = figures.iter().sum::<f64>() / figures.len() as f64;
            write!(out, " {median:.3}, {mean:.3} |")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// First quartile, median, third quartile.
fn quartiles(numbers: &[f64]) -> Option<[f64; 3]> {
    let median = Spread::of(numbers.iter().copied())?.median;
    let half = |keeps: &dyn Fn(f64) -> bool| {
        Some(Spread::of(numbers.iter().copied().filter(|number| keeps(*number)))?.median)
    };
    Some([half(&|number| number <= median)?, median, half(&|number| number >= median)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_medians_of_the_halves() {
        assert_eq!(quartiles(&[5.0, 1.0, 3.0, 2.0, 4.0]), Some([2.0, 3.0, 4.0]));
        assert_eq!(quartiles(&[1.0, 2.0, 3.0, 4.0]), Some([1.5, 2.5, 3.5]));
        assert_eq!(quartiles(&[7.0]), Some([7.0; 3]));
        assert_eq!(quartiles(&[]), None);
    }

    #[test]
    fn exposed_is_the_phase_of_that_name() {
        assert_eq!(PHASES[EXPOSED], "communication_exposed");
    }
}
