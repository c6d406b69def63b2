//! A run of ours: what its metrics say of every step.
//!
//! Owns the reading of metrics.jsonl, whose keys docs/operating.md explains, and means over steps.

use super::NUM_WARM_UP;
use super::work::{Content, LastLayer, Sizes};
use crate::bench::figures::Spread;
use anyhow::Context;
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// Keys below `seconds`, in the order of a step.
pub const PHASES: [&str; 5] = ["data_wait", "forward", "backward", "communication_exposed", "optimizer"];

/// Ranks and the threads of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub num_ranks: usize,
    pub num_threads: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('x').and_then(|(ranks, threads)| {
            let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0);
            Some(Self { num_ranks: number(ranks)?, num_threads: number(threads)? })
        });
        numbers.ok_or_else(|| format!("expected RANKSxTHREADS such as 2x1, got `{text}`"))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}x{}", self.num_ranks, self.num_threads)
    }
}

/// One step that counts.
#[derive(Clone, Debug)]
pub struct Step {
    pub seconds: f64,
    /// Real tokens of all ranks.
    pub tokens_per_second: f64,
    pub num_tokens: f64,
    pub num_masked: f64,
    pub padded_share: f64,
    /// In the order of [`PHASES`].
    pub phases: [f64; PHASES.len()],
    /// Of rank 0; `None` if the program does not tell.
    pub minor_faults: Option<f64>,
    /// Of rank 0; `None` if the program does not tell.
    pub processor_seconds: Option<f64>,
}

/// One run.
#[derive(Debug)]
pub struct OurRun {
    pub steps: Vec<Step>,
    /// Of the rank that took most.
    pub peak_rss_bytes: f64,
    /// By how much that grew behind the steps that do not count.
    pub rss_growth_bytes: f64,
    /// From the start of rank 0's process; `None` if the program does not tell.
    pub seconds_to_first_step: Option<f64>,
    /// What was printed of the peak before this run.
    pub peak: Value,
}

impl OurRun {
    /// Reads the lines of a run whose steps have `num_positions` places for tokens.
    ///
    /// # Errors
    ///
    /// If a key is missing.
    pub fn parse(metrics: &str, peak: Value, num_positions: usize) -> anyhow::Result<Self> {
        let lines = lines_of_steps(metrics)?;
        let (first, last) = lines.first().zip(lines.last()).context("metrics.jsonl has no steps")?;
        let warm = lines.get(NUM_WARM_UP - 1).unwrap_or(last);
        let peak_rss_bytes = number(last, "peak_rss_bytes")?;
        let started = first["seconds_since_start"].as_f64();
        let steps = lines.iter().skip(NUM_WARM_UP).map(|line| Step::read(line, num_positions as f64));
        Ok(Self {
            steps: steps.collect::<anyhow::Result<_>>()?,
            peak_rss_bytes,
            rss_growth_bytes: peak_rss_bytes - number(warm, "peak_rss_bytes")?,
            seconds_to_first_step: started
                .zip(first["seconds"]["step"].as_f64())
                .map(|(end, step)| end - step),
            peak,
        })
    }

    /// Real tokens of the median step; 0 for a run without steps that count.
    pub fn tokens_per_second(&self) -> f64 {
        Spread::of(self.steps.iter().map(|step| step.tokens_per_second)).map_or(0.0, |spread| spread.median)
    }

    /// Processor time of rank 0 in the median step.
    pub fn processor_seconds(&self) -> Option<f64> {
        Some(Spread::of(self.steps.iter().filter_map(|step| step.processor_seconds))?.median)
    }

    /// Operations of the products of the median step, 10^9 per second of the clock, over the peak of this kind.
    pub fn share_of(&self, peak: &str, sizes: &Sizes, num_rows: usize) -> Option<f64> {
        let rate = |step: &Step| step.operations(sizes, num_rows, LastLayer::Read) / step.seconds / 1e9;
        Some(Spread::of(self.steps.iter().map(rate))?.median / self.peak[peak].as_f64()?)
    }

    /// The same per second that the threads of rank 0 have run, over the peak of a thread.
    pub fn share_of_running(
        &self,
        peak: &str,
        (sizes, last_layer): (&Sizes, LastLayer),
        num_rows: usize,
        shape: Shape,
    ) -> Option<f64> {
        let rate = |step: &Step| {
            let seconds = step.processor_seconds.filter(|seconds| *seconds > 0.0)?;
            Some(step.operations(sizes, num_rows, last_layer) / shape.num_ranks as f64 / seconds / 1e9)
        };
        let num_threads = (shape.num_ranks * shape.num_threads) as f64;
        let median = Spread::of(self.steps.iter().filter_map(rate))?.median;
        Some(median / (self.peak[peak].as_f64()? / num_threads))
    }
}

impl Step {
    /// Seconds of the clock, of each of [`PHASES`], and behind them of the processor.
    pub fn figure(&self, idx: usize) -> Option<f64> {
        match idx {
            0 => Some(self.seconds),
            _ => self.phases.get(idx - 1).copied().or(self.processor_seconds),
        }
    }

    /// Of all ranks.
    fn operations(&self, sizes: &Sizes, num_rows: usize, last_layer: LastLayer) -> f64 {
        let Self { num_tokens, num_masked, .. } = *self;
        sizes.operations(Content { num_rows: num_rows as f64, num_tokens, num_masked }, last_layer)
    }

    /// Reads a line of metrics.jsonl; a step has `num_positions` places for tokens.
    ///
    /// # Errors
    ///
    /// If a key is missing.
    pub fn read(line: &Value, num_positions: f64) -> anyhow::Result<Self> {
        let padded_share = number(line, "padded_share")?;
        let mut phases = [0.0; PHASES.len()];
        for (phase, key) in phases.iter_mut().zip(PHASES) {
            *phase = number(&line["seconds"], key)?;
        }
        Ok(Self {
            seconds: number(&line["seconds"], "step")?,
            tokens_per_second: number(line, "tokens_per_second")?,
            num_tokens: (1.0 - padded_share) * num_positions,
            num_masked: number(line, "masked_tokens")?,
            padded_share,
            phases,
            minor_faults: line["minor_faults"].as_f64(),
            processor_seconds: line["processor_seconds"].as_f64(),
        })
    }
}

/// The lines of metrics.jsonl about steps of training.
///
/// # Errors
///
/// If a line is not JSON.
pub fn lines_of_steps(metrics: &str) -> anyhow::Result<Vec<Value>> {
    let lines: Result<Vec<Value>, _> = metrics.lines().map(serde_json::from_str).collect();
    let lines = lines.context("a line of metrics.jsonl is not JSON")?;
    Ok(lines.into_iter().filter(|line| line["kind"] == "train").collect())
}

fn number(value: &Value, key: &str) -> anyhow::Result<f64> {
    value[key].as_f64().with_context(|| format!("expected a number `{key}` in `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shapes_are_two_numbers() {
        assert_eq!("2x3".parse(), Ok(Shape { num_ranks: 2, num_threads: 3 }));
        for wrong in ["2", "0x1", "2x", "2x1x1"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }

    /// A line of a step that took `seconds`.
    fn line(seconds: f64) -> Value {
        json!({"kind": "train", "masked_tokens": 30, "padded_share": 0.5, "tokens_per_second": 128.0 / seconds,
               "seconds": {"step": seconds, "data_wait": 0.0, "forward": 0.1, "backward": 0.2,
                           "communication_exposed": 0.0, "optimizer": 0.1},
               "peak_rss_bytes": 1e6 / seconds, "minor_faults": 5, "processor_seconds": seconds / 2.0,
               "seconds_since_start": 3.0})
    }

    #[test]
    fn the_first_three_steps_do_not_count() {
        let seconds = [1.0, 9.0, 9.0, 4.0, 2.0, 1.0];
        let mut lines: Vec<String> = seconds.map(|seconds| line(seconds).to_string()).to_vec();
        lines.push(json!({"kind": "eval"}).to_string());
        let run = OurRun::parse(&lines.join("\n"), json!({"registers": 2.0}), 256).unwrap();
        assert_eq!(run.tokens_per_second(), 64.0);
        assert_eq!(run.seconds_to_first_step, Some(2.0));
        assert_eq!((run.peak_rss_bytes, run.rss_growth_bytes.round()), (1e6, 888_889.0));
        assert_eq!((run.steps.len(), run.steps[0].num_tokens), (3, 128.0));

        let sizes = Sizes { num_layers: 1, hidden: 100, intermediate: 400, vocab: 1000 };
        let content = Content { num_rows: 4.0, num_tokens: 128.0, num_masked: 30.0 };
        let expected = sizes.operations(content, LastLayer::Read) / 2.0 / 1e9 / 2.0;
        assert_eq!(run.share_of("registers", &sizes, 4), Some(expected));
        let shape = Shape { num_ranks: 2, num_threads: 1 };
        let running = |last_layer| run.share_of_running("registers", (&sizes, last_layer), 4, shape).unwrap();
        assert_eq!(running(LastLayer::Read), 2.0 * expected);
        assert!(running(LastLayer::Full) > 2.0 * expected);
        assert_eq!(run.share_of("nothing", &sizes, 4), None);
    }

    #[test]
    fn a_line_without_a_key_is_refused() {
        let lines = vec![line(1.0).to_string().replace("padded_share", "other"); 4];
        let error = OurRun::parse(&lines.join("\n"), Value::Null, 1).unwrap_err().to_string();
        assert!(error.contains("padded_share"), "{error}");
    }
}
