//! The report on steps of training as Markdown, and everything measured as JSON.
//!
//! Owns the tables; what a figure means is in docs/performance.md.

use super::ours::{OurRun, PHASES, Step};
use super::peer::{Form, Torch};
use super::setting::{RUN_NAME, Setting};
use super::work::LastLayer;
use super::{NUM_WARM_UP, TrainArgs, Variant};
use crate::bench::figures::{Spread, text};
use crate::bench::report::Machine;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Everything that was measured.
pub struct Report<'a> {
    pub setting: &'a Setting,
    pub torch: Option<&'a Torch>,
    pub variants: &'a [Variant],
    /// What was asked for and could not be run, with the reason.
    pub skipped: Vec<String>,
}

impl Report<'_> {
    /// The whole report.
    ///
    /// # Errors
    ///
    /// If the configuration lacks a size.
    pub fn markdown(&self, machine: &Machine, args: &TrainArgs) -> anyhow::Result<String> {
        let mut out = String::new();
        writeln!(out, "# A step of {}: {}\n", self.setting.name, machine.title())?;
        self.introduction(&mut out, machine, args)?;
        self.ours(&mut out)?;
        self.phases(&mut out)?;
        self.beside_torch(&mut out)?;
        self.beside_each_other(&mut out)?;
        self.skipped(&mut out)?;
        self.commands(&mut out, args.steps)?;
        Ok(out)
    }

    fn introduction(&self, out: &mut String, machine: &Machine, args: &TrainArgs) -> anyhow::Result<()> {
        let setting = self.setting;
        let number = |key| setting.number("model", key);
        writeln!(
            out,
            "Written by `cargo xtask bench train`; what the figures mean is in [performance.md](../performance.md). Layers {}, \
             hidden size {}, heads {}, vocabulary {}; {} x {} tokens per rank and step, dropout {}. {} rounds, all runs in \
             turns on the processors {:?}, {} steps a run of which the first {NUM_WARM_UP} do not count. Medians, and in \
             brackets the lowest and the highest. {}\n",
            number("num_hidden_layers")?,
            number("hidden_size")?,
            number("num_attention_heads")?,
            number("vocab_size")?,
            setting.num_rows,
            setting.row_len,
            setting.config["model"]["hidden_dropout_prob"],
            args.pairs,
            args.setting.cores,
            args.steps,
            machine.loads()
        )?;
        let paths: BTreeSet<&str> = self.runs().filter_map(|run| run.peak["path"].as_str()).collect();
        let padded = Spread::of(self.runs().flat_map(|run| &run.steps).map(|step| step.padded_share));
        writeln!(
            out,
            "Products: {}. Positions that are padding: {} %. Tokens are real ones; the peer's batch has no padding.\n",
            paths.into_iter().collect::<Vec<_>>().join("; "),
            text(padded, 100.0, 1)
        )?;
        Ok(())
    }

    fn ours(&self, out: &mut String) -> anyhow::Result<()> {
        let sizes = self.setting.sizes()?;
        writeln!(
            out,
            "| backend, precision, ranks x threads | tokens/s | s per step | share of the peak in registers, % | share of \
             the largest product, % | share of registers by processor time, % | share of the product by processor time, % | share of the usual product by processor time, % | the same with the last layer in full, % | peak, product, usual product: 10^9/s | minor faults per step | peak memory of a rank, MB | its growth \
             after step {NUM_WARM_UP} | start to first step, s | processor time per step, s |\n|{}",
            "---|".repeat(15)
        )?;
        for variant in self.variants {
            let num_rows = self.setting.num_rows * variant.shape.num_ranks;
            let of_steps = |value: fn(&Step) -> f64| Spread::of(variant.steps().map(value));
            let of_runs =
                |value: &dyn Fn(&OurRun) -> Option<f64>| Spread::of(variant.ours.iter().filter_map(value));
            let share = |peak: &'static str| of_runs(&move |run| run.share_of(peak, &sizes, num_rows));
            let share_of_running = |peak: &'static str, last_layer| {
                of_runs(&move |run| run.share_of_running(peak, (&sizes, last_layer), num_rows, variant.shape))
            };
            let peak = |name: &'static str| of_runs(&move |run| run.peak[name].as_f64());
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {}, {} | {} | {} | {} | {} | {} |",
                variant.name(),
                text(of_steps(|step| step.tokens_per_second), 1.0, 0),
                text(of_steps(|step| step.seconds), 1.0, 3),
                text(share("registers"), 100.0, 0),
                text(share("product"), 100.0, 0),
                text(share_of_running("registers", LastLayer::Read), 100.0, 0),
                text(share_of_running("product", LastLayer::Read), 100.0, 0),
                text(share_of_running("usual_product", LastLayer::Read), 100.0, 0),
                text(share_of_running("usual_product", LastLayer::Full), 100.0, 0),
                text(peak("registers"), 1.0, 0),
                text(peak("product"), 1.0, 0),
                text(peak("usual_product"), 1.0, 0),
                text(Spread::of(variant.steps().filter_map(|step| step.minor_faults)), 1.0, 0),
                text(of_runs(&|run| Some(run.peak_rss_bytes)), 1e-6, 0),
                text(of_runs(&|run| Some(run.rss_growth_bytes)), 1e-6, 0),
                text(of_runs(&|run| run.seconds_to_first_step), 1.0, 2),
                text(Spread::of(variant.steps().filter_map(|step| step.processor_seconds)), 1.0, 2),
            )?;
        }
        Ok(())
    }

    fn phases(&self, out: &mut String) -> anyhow::Result<()> {
        writeln!(out, "\nWhere the time of a step goes, rank 0, medians in s and % of the step:\n")?;
        writeln!(out, "| | {} |\n|---|{}", PHASES.join(" | "), "---|".repeat(PHASES.len()))?;
        for variant in self.variants {
            write!(out, "| {} |", variant.name())?;
            for idx in 0..PHASES.len() {
                let median = |value: &dyn Fn(&Step) -> f64| {
                    Spread::of(variant.steps().map(value)).map_or(0.0, |spread| spread.median)
                };
                let seconds = median(&|step| step.phases[idx]);
                let share = median(&|step| 100.0 * step.phases[idx] / step.seconds);
                write!(out, " {seconds:.3} ({share:.1} %) |")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn beside_torch(&self, out: &mut String) -> anyhow::Result<()> {
        let Some(torch) = self.torch else { return Ok(()) };
        let versions = self.variants.iter().flat_map(|variant| &variant.pairs);
        let versions = versions.filter_map(|pair| pair.peer.result["versions"].as_str()).next();
        writeln!(
            out,
            "\nBeside PyTorch DistributedDataParallel over gloo ({}), Hugging Face's BertForPreTraining, fused AdamW, pair by \
             pair; tuned: the MLM head on labelled positions only, {}:\n",
            versions.unwrap_or("versions unknown"),
            match &torch.tcmalloc {
                Some(_) => "and tcmalloc",
                None => "but without tcmalloc, which is not installed here (Debian: libtcmalloc-minimal4)",
            }
        )?;
        writeln!(
            out,
            "| | ours, tokens/s | the peer's | ratio | ratio of processor time per step | peak memory of the peer's rank 0, MB \
             |\n|{}",
            "---|".repeat(6)
        )?;
        for variant in self.variants {
            for form in [Form::AsUsers, Form::Tuned] {
                let pairs = || variant.pairs.iter().filter(|pair| pair.form == form);
                let ours = |idx: usize| variant.ours[idx].tokens_per_second();
                let processor = pairs().filter_map(|pair| {
                    Some(pair.peer.processor_seconds / variant.ours[pair.ours].processor_seconds()?)
                });
                let memory = pairs().filter_map(|pair| pair.peer.result["peak_rss_bytes"].as_f64());
                writeln!(
                    out,
                    "| {} beside {} | {} | {} | {} | {} | {} |",
                    variant.name(),
                    form.name(),
                    text(Spread::of(pairs().map(|pair| ours(pair.ours))), 1.0, 0),
                    text(Spread::of(pairs().map(|pair| pair.peer.tokens_per_second)), 1.0, 0),
                    text(
                        Spread::of(pairs().map(|pair| ours(pair.ours) / pair.peer.tokens_per_second)),
                        1.0,
                        2
                    ),
                    text(Spread::of(processor), 1.0, 2),
                    text(Spread::of(memory), 1e-6, 0),
                )?;
            }
        }
        Ok(())
    }

    /// Ratios of our own variants, run by run: to the first one, and to the first one of the same backend and precision, if that
    /// is another.
    fn beside_each_other(&self, out: &mut String) -> anyhow::Result<()> {
        let Some((first, others)) = self.variants.split_first().filter(|(_, others)| !others.is_empty())
        else {
            return Ok(());
        };
        writeln!(
            out,
            "\nTokens per second of two of these, round by round:\n\n| | over | ratio |\n|---|---|---|"
        )?;
        for (idx, other) in others.iter().enumerate() {
            let is_alike = |earlier: &&Variant| {
                (&earlier.backend, &earlier.precision) == (&other.backend, &other.precision)
            };
            let alike =
                self.variants[..=idx].iter().find(is_alike).filter(|alike| !std::ptr::eq(*alike, first));
            for earlier in [first].into_iter().chain(alike) {
                let pairs = other.ours.iter().zip(&earlier.ours);
                let ratios =
                    pairs.map(|(other, earlier)| other.tokens_per_second() / earlier.tokens_per_second());
                let ratio = text(Spread::of(ratios), 1.0, 2);
                writeln!(out, "| {} | {} | {ratio} |", other.name(), earlier.name())?;
            }
        }
        Ok(())
    }

    fn skipped(&self, out: &mut String) -> anyhow::Result<()> {
        for skipped in &self.skipped {
            writeln!(out, "\nSkipped: {skipped}")?;
        }
        Ok(())
    }

    fn commands(&self, out: &mut String, num_steps: usize) -> anyhow::Result<()> {
        let Some(variant) = self.variants.first() else { return Ok(()) };
        writeln!(
            out,
            "\nCommands of the first row (FOLDER: temporary; its vocabulary is filled up, see performance.md):\n\n```text"
        )?;
        writeln!(out, "{}", self.setting.describe(&self.setting.our_command(variant, num_steps, RUN_NAME)?))?;
        if let Some(torch) = self.torch {
            for form in [Form::AsUsers, Form::Tuned] {
                let (precision, shape) = (&variant.precision, variant.shape);
                let command = torch.command(self.setting, precision, shape, form, num_steps)?;
                writeln!(out, "{}", torch.describe(self.setting, &command))?;
            }
        }
        writeln!(out, "```")?;
        Ok(())
    }

    /// Every step of every run.
    pub fn json(&self) -> Value {
        let step = |step: &Step| {
            json!({"seconds": step.seconds, "tokens_per_second": step.tokens_per_second, "phases": step.phases,
                   "padded_share": step.padded_share, "masked_tokens": step.num_masked,
                   "minor_faults": step.minor_faults, "processor_seconds": step.processor_seconds})
        };
        let run = |run: &OurRun| {
            json!({"steps": run.steps.iter().map(step).collect::<Vec<_>>(), "peak": run.peak,
                   "peak_rss_bytes": run.peak_rss_bytes,
                   "rss_growth_bytes": run.rss_growth_bytes, "seconds_to_first_step": run.seconds_to_first_step})
        };
        let variant = |variant: &Variant| {
            let pairs = variant.pairs.iter().map(|pair| pair.peer.json(pair.form, pair.ours));
            json!({"name": variant.name(), "ours": variant.ours.iter().map(run).collect::<Vec<_>>(),
                   "peer": pairs.collect::<Vec<_>>()})
        };
        json!({"config": self.setting.config, "skipped": self.skipped,
               "variants": self.variants.iter().map(variant).collect::<Vec<_>>()})
    }

    fn runs(&self) -> impl Iterator<Item = &OurRun> {
        self.variants.iter().flat_map(|variant| &variant.ours)
    }
}

impl Variant {
    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.ours.iter().flat_map(|run| &run.steps)
    }
}
