//! `cargo xtask bench train`: steps of training, as users start it, and beside PyTorch in turns.
//!
//! Owns which runs are made and in which order. A run is a new process of `bert-train` with its ranks; what is said of
//! its steps comes from its metrics.jsonl. Before and after each run the peak of the same number of threads is measured.

mod beside;
pub mod ours;
mod peer;
mod report;
pub mod setting;
mod work;

use super::processes;
use super::report::{Machine, write};
use anyhow::Context;
use beside::Beside;
use clap::Args;
use ours::{OurRun, Shape};
use peer::{Form, PeerRun, Torch};
use setting::{Setting, SettingArgs};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Steps at the beginning of every run that do not count: buffers grow, pages are touched for the first time.
pub const NUM_WARM_UP: usize = 3;

/// What to measure.
#[derive(Args, Clone)]
pub struct TrainArgs {
    #[command(flatten)]
    setting: SettingArgs,
    /// Ranks x threads of each, as in 2x1; several take turns.
    #[arg(long, value_delimiter = ',', default_value = "2x1")]
    shapes: Vec<Shape>,
    /// Values of train.precision; one that the program refuses is skipped, and the report says so.
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16")]
    precisions: Vec<String>,
    /// Values of device.backend; others than flex need --program with them compiled in.
    #[arg(long, value_delimiter = ',', default_value = "flex")]
    backends: Vec<String>,
    /// Steps of a run; the first three do not count.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Rounds; beside PyTorch, pairs of each of its forms.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Python with torch and transformers: runs both forms of the peer in turns, and writes the report.
    #[arg(long, value_name = "PYTHON")]
    vs_torch: Option<PathBuf>,
    /// Another build of bert-train: both train at the same time, one thread each, and change cores; prints ratios of times.
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["vs_torch", "json", "out", "shapes"])]
    beside: Option<PathBuf>,
    /// The report. Default, beside PyTorch: `docs/benchmarks/<config>-<processor>-<date>.md`; otherwise none is written.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where every step of every run goes as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl TrainArgs {
    /// What is asked for; side by side each program has one thread.
    fn shapes(&self) -> Vec<Shape> {
        if self.beside.is_some() { vec![Shape { num_ranks: 1, num_threads: 1 }] } else { self.shapes.clone() }
    }
}

/// One way of running ours, with all its runs, and the peer's runs beside them.
pub struct Variant {
    precision: String,
    backend: String,
    shape: Shape,
    ours: Vec<OurRun>,
    pairs: Vec<Pair>,
}

/// A run of the peer and the one of ours before it.
struct Pair {
    form: Form,
    /// Index into [`Variant::ours`].
    ours: usize,
    peer: PeerRun,
}

/// Runs everything in turns, prints it, and writes the report.
///
/// # Errors
///
/// If a program cannot be built or started, or fails.
pub fn train(root: &Path, args: &TrainArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.pairs > 0, "expected --pairs of at least 1, got 0");
    anyhow::ensure!(
        args.steps > NUM_WARM_UP,
        "expected --steps above {NUM_WARM_UP}, got {}: those are left out",
        args.steps
    );
    let setting = Setting::prepare(root, &args.setting)?;
    let torch = args.vs_torch.as_deref().map(|python| Torch::find(root, python)).transpose()?;
    let (mut variants, skipped) = variants(&setting, args)?;
    let machine = Machine::read()?;
    println!("==> bench: shards, in a run of one step");
    if let Some(first) = variants.first() {
        setting.run_without_peak(first, 1, &[])?;
    }
    if let Some(other) = &args.beside {
        let other = other.canonicalize().with_context(|| format!("no `{}`", other.display()))?;
        return Beside { setting: &setting, other: &other, num_steps: args.steps }
            .measure(&variants, args.pairs);
    }
    for round in 1..=args.pairs {
        for variant in &mut variants {
            println!("==> bench: round {round} of {}: {}", args.pairs, variant.name());
            measure(&setting, torch.as_ref(), variant, args.steps)?;
        }
    }
    let report = report::Report { setting: &setting, torch: torch.as_ref(), variants: &variants, skipped };
    let text = report.markdown(&machine, args)?;
    println!("{text}");
    if let Some(path) = &args.json {
        write(path, &report.json().to_string())?;
    }
    let default_out = || root.join("docs/benchmarks").join(machine.file_name(&setting.name));
    if let Some(out) = args.out.clone().or_else(|| torch.as_ref().map(|_| default_out())) {
        write(&out, &text)?;
    }
    Ok(())
}

/// All ways of running ours, and why some of those asked for are left out.
fn variants(setting: &Setting, args: &TrainArgs) -> anyhow::Result<(Vec<Variant>, Vec<String>)> {
    let (mut variants, mut skipped) = (Vec::new(), Vec::new());
    for precision in &args.precisions {
        for backend in &args.backends {
            for shape in args.shapes() {
                let variant = Variant::new(precision, backend, shape);
                match setting.refusal(&variant)? {
                    None => variants.push(variant),
                    Some(reason) => skipped.push(format!("{}: {reason}", variant.name())),
                }
            }
        }
    }
    skipped.iter().for_each(|skipped| println!("==> bench: skipped: {skipped}"));
    anyhow::ensure!(!variants.is_empty(), "nothing is left to measure: {}", skipped.join("; "));
    Ok((variants, skipped))
}

/// One round: ours alone, or ours before each form of the peer.
fn measure(
    setting: &Setting,
    torch: Option<&Torch>,
    variant: &mut Variant,
    num_steps: usize,
) -> anyhow::Result<()> {
    let forms = if torch.is_some() { &[Some(Form::AsUsers), Some(Form::Tuned)][..] } else { &[None] };
    for form in forms {
        let run = setting.run_ours(variant, num_steps)?;
        println!("    ours: {:.0} tokens/s", run.tokens_per_second());
        variant.ours.push(run);
        let (Some(torch), Some(form)) = (torch, form) else { continue };
        let peer = torch.run(setting, &variant.precision, variant.shape, *form, num_steps)?;
        println!("    {}: {:.0} tokens/s", form.name(), peer.tokens_per_second);
        variant.pairs.push(Pair { form: *form, ours: variant.ours.len() - 1, peer });
    }
    Ok(())
}

impl Variant {
    /// One that has not run yet.
    pub fn new(precision: &str, backend: &str, shape: Shape) -> Self {
        let (precision, backend) = (precision.to_owned(), backend.to_owned());
        Self { precision, backend, shape, ours: Vec::new(), pairs: Vec::new() }
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.backend, self.precision, self.shape)
    }
}

/// Runs a command to its end and returns what it printed.
pub fn output_of(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    let message = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?} failed ({}):\n{}", output.status, message.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
