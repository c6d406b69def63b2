//! Two builds of `bert-train` side by side: small differences on a machine that others use as well.
//!
//! Owns the pairing. Both builds train at the same time, one thread each on a core of its own, and then change cores: what
//! disturbs the machine disturbs both, and what is different between cores, or between first and second, cancels out. Equal
//! builds differ by 1 to 2 % where runs in turns differ by 40 %.

use super::ours::{OurRun, PHASES, lines_of_steps};
use super::setting::Setting;
use super::{Variant, output_of, processes};
use crate::bench::figures::Spread;
use std::path::Path;
use std::thread;

/// What is compared: the clock, the phases of [`PHASES`] and, last, processor time.
const NUM_FIGURES: usize = PHASES.len() + 2;

/// A build beside which ours is measured.
pub struct Beside<'a> {
    pub setting: &'a Setting,
    /// The other program.
    pub other: &'a Path,
    /// Steps of a run.
    pub num_steps: usize,
}

impl Beside<'_> {
    /// Measures `rounds` pairs of every variant and prints the ratios.
    ///
    /// # Errors
    ///
    /// If a run fails.
    pub fn measure(&self, variants: &[Variant], rounds: usize) -> anyhow::Result<()> {
        let [first, second, ..] = self.setting.cores[..] else {
            anyhow::bail!(
                "expected --cores with two numbers, got {:?}: each side has one",
                self.setting.cores
            )
        };
        for variant in variants {
            let mut ratios = Vec::new();
            for round in 1..=rounds {
                let there = self.pair(variant, [first, second], false)?;
                let back = self.pair(variant, [second, first], true)?;
                let both = std::array::from_fn(|i| geometric_mean([there[i], back[i]]));
                println!(
                    "==> bench: {}: round {round} of {rounds}: {:.3} of the time",
                    variant.name(),
                    both[0]
                );
                ratios.push(both);
            }
            println!("{}", table(variant, &ratios));
        }
        Ok(())
    }

    /// One run of a program on one core; returns its metrics.
    fn run(&self, program: &Path, variant: &Variant, core: usize, name: &str) -> anyhow::Result<String> {
        let command = processes::pinned(&[core], program);
        output_of(self.setting.configure(command, variant, self.num_steps, name))?;
        self.setting.take_metrics(name)
    }

    /// Runs both at once, each on its core; returns the ratios of ours to the other. Whoever starts first has an advantage of
    /// 1 to 2 %, so that changes as well.
    fn pair(
        &self,
        variant: &Variant,
        cores: [usize; 2],
        other_first: bool,
    ) -> anyhow::Result<[f64; NUM_FIGURES]> {
        let (ours, other) = thread::scope(|scope| {
            let start_other = || scope.spawn(|| self.run(self.other, variant, cores[1], "other"));
            let early = other_first.then(start_other);
            let ours = scope.spawn(|| self.run(self.setting.program(), variant, cores[0], "ours"));
            let other = early.unwrap_or_else(start_other);
            (ours.join(), other.join())
        });
        let ours = ours.map_err(|_| anyhow::anyhow!("the thread of our program failed"))??;
        let other = other.map_err(|_| anyhow::anyhow!("the thread of the other program failed"))??;
        let num_positions = self.setting.num_positions(variant);
        let parse = |metrics: &str| OurRun::parse(metrics, serde_json::Value::Null, num_positions);
        let ratios = ratios(&parse(&ours)?, &parse(&other)?)?;
        let same = if losses(&ours)? == losses(&other)? { "the same losses" } else { "other losses" };
        println!(
            "    ours on core {}, the other on core {}: {:.3} of the time, {same}",
            cores[0], cores[1], ratios[0]
        );
        Ok(ratios)
    }
}

/// Step by step, because both sides make the same step at about the same time.
fn ratios(ours: &OurRun, other: &OurRun) -> anyhow::Result<[f64; NUM_FIGURES]> {
    let mut ratios = [0.0; NUM_FIGURES];
    for (idx, ratio) in ratios.iter_mut().enumerate() {
        let figure =
            |run: &OurRun| -> Vec<f64> { run.steps.iter().filter_map(|step| step.figure(idx)).collect() };
        let pairs = figure(ours).into_iter().zip(figure(other));
        *ratio = geometric_mean(pairs.map(|(ours, other)| ours / other));
    }
    anyhow::ensure!(ratios[0].is_finite(), "no step counts: more --steps are needed");
    Ok(ratios)
}

fn geometric_mean(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let logarithms: Vec<f64> = numbers.into_iter().map(f64::ln).filter(|number| number.is_finite()).collect();
    (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp()
}

/// The losses of all steps, digit by digit.
fn losses(metrics: &str) -> anyhow::Result<Vec<String>> {
    Ok(lines_of_steps(metrics)?.iter().map(|line| line["loss"].to_string()).collect())
}

fn table(variant: &Variant, ratios: &[[f64; NUM_FIGURES]]) -> String {
    let names = ["step"].into_iter().chain(PHASES).chain(["processor time"]);
    let mut text =
        format!("{}: time of ours over that of the other, median (lowest to highest)\n", variant.name());
    for (idx, name) in names.enumerate() {
        let spread = Spread::of(ratios.iter().map(|ratios| ratios[idx]).filter(|ratio| ratio.is_finite()));
        if let Some(spread) = spread {
            text.push_str(&format!("    {name:<22} {}\n", spread.text(1.0, 3)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(seconds: [f64; 5]) -> OurRun {
        let line = |seconds: f64| {
            json!({"kind": "train", "masked_tokens": 1, "padded_share": 0.0, "tokens_per_second": 1.0,
                   "seconds": {"step": seconds, "data_wait": 0.0, "forward": 0.2, "backward": seconds / 2.0,
                               "communication_exposed": 0.0, "optimizer": 0.1},
                   "peak_rss_bytes": 1.0, "processor_seconds": 2.0 * seconds, "seconds_since_start": 3.0})
        };
        let lines: Vec<String> = seconds.map(|seconds| line(seconds).to_string()).to_vec();
        OurRun::parse(&lines.join("\n"), Value::Null, 8).unwrap()
    }

    #[test]
    fn ratios_are_those_of_steps_and_what_takes_no_time_has_none() {
        let ratios = ratios(&run([9.0, 9.0, 9.0, 1.0, 4.0]), &run([1.0, 1.0, 1.0, 2.0, 2.0])).unwrap();
        let [step, data_wait, forward, backward, exposed, optimizer, processor] = ratios;
        assert!(
            [step, backward, processor, forward, optimizer].iter().all(|ratio| (ratio - 1.0).abs() < 1e-12)
        );
        assert!(data_wait.is_nan() && exposed.is_nan());
    }

    #[test]
    fn losses_are_compared_digit_by_digit() {
        let line =
            |loss: &str| format!("{{\"kind\": \"train\", \"loss\": {loss}}}\n{{\"kind\": \"eval\"}}\n");
        assert_eq!(losses(&line("2.5")).unwrap(), ["2.5"]);
        assert_ne!(losses(&line("2.5")).unwrap(), losses(&line("2.5000002")).unwrap());
        assert!(losses("no JSON").is_err());
    }
}
