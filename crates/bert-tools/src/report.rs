//! `bert report --summary RUN`: what a run has reached, beside what guessing would reach.
//!
//! Owns reading metrics.jsonl for people. Computes nothing that the run has not written.

use std::{fs, path::Path};

use anyhow::Context;
use bert_train::{
    metrics::{ClassEvalLine, EvalLine, PretrainEvalLine, StepLine},
    run_dir::{RunDir, RunRecord},
};
use serde_json::Value;

use crate::{
    checkpoint::newest_of,
    cli::ReportArguments,
    failure::ToolError,
    table::{percent, row, thousands},
};

/// The lines of a metrics file by kind.
#[derive(Debug, Default)]
struct Metrics {
    steps: Vec<StepLine>,
    evals: Vec<EvalLine>,
}

/// Prints the summary.
///
/// # Errors
///
/// If the folder holds no run, or the run has not got as far as an evaluation.
pub fn run(arguments: &ReportArguments) -> anyhow::Result<()> {
    let run = RunDir::new(arguments.run.clone());
    let metrics = read_metrics(&run.metrics())?;
    let (Some(step), Some(eval)) = (metrics.steps.last(), metrics.evals.last()) else {
        let message = format!("run `{}` has no evaluation yet", arguments.run.display());
        return Err(ToolError::Usage(message).into());
    };
    row("run", describe_run(&arguments.run, step));
    match eval {
        EvalLine::Pretrain(eval) => print_evaluation(eval),
        EvalLine::Classify(_) => print_classes(&metrics.evals),
    }
    row("real tokens/s", format!("{} (median)", thousands(median_tokens_per_second(&metrics.steps) as u64)));
    row(
        "padding",
        format!("{} of the positions, not counted above", percent(mean_padded_share(&metrics.steps))),
    );
    row("checkpoint", newest_of(&arguments.run)?.display().to_string());
    Ok(())
}

fn read_metrics(path: &Path) -> anyhow::Result<Metrics> {
    let text = fs::read_to_string(path)
        .map_err(|error| ToolError::Usage(format!("no metrics of a run at `{}`: {error}", path.display())))?;
    let mut metrics = Metrics::default();
    for (idx, text) in text.lines().enumerate() {
        let place = || format!("line {} of `{}`", idx + 1, path.display());
        let damaged = |error: serde_json::Error| ToolError::Damaged(format!("{}: {error}", place()));
        let value: Value = serde_json::from_str(text).map_err(damaged)?;
        if value["kind"] == "eval" || value["kind"] == "test" {
            metrics.evals.push(serde_json::from_value(value).map_err(damaged)?);
        } else {
            metrics.steps.push(serde_json::from_value(value).map_err(damaged)?);
        }
    }
    Ok(metrics)
}

fn describe_run(run: &Path, last: &StepLine) -> String {
    let mut text = format!("{}: {} steps, epoch {}", run.display(), thousands(last.step), last.epoch);
    let record = fs::read_to_string(run.join("run.json"))
        .context("no record")
        .and_then(|text| Ok(serde_json::from_str::<RunRecord>(&text)?));
    if let Ok(record) = record {
        text.push_str(&format!(
            ", {} rank(s) of {} thread(s), backend {}",
            record.num_ranks, record.threads_per_rank, record.backend
        ));
    }
    text
}

fn print_evaluation(eval: &PretrainEvalLine) {
    let gain = eval.unigram_entropy - eval.mlm_loss;
    let side = if gain < 0.0 { "above" } else { "below" };
    row(
        "held-out MLM loss",
        format!(
            "{:.3} after step {}: {:.3} nats {side} the unigram entropy {:.3}; guessing uniformly, ln V = {:.3}",
            eval.mlm_loss,
            thousands(eval.step),
            gain.abs(),
            eval.unigram_entropy,
            eval.ln_vocab_size
        ),
    );
    row(
        "held-out MLM accuracy",
        format!("{} of {} masked tokens", percent(eval.mlm_accuracy), thousands(eval.masked_tokens)),
    );
    if let Some(majority) = eval.majority_nsp {
        row(
            "held-out NSP accuracy",
            format!(
                "{} of {} pairs; the majority class is {}",
                percent(eval.nsp_accuracy),
                thousands(eval.pairs),
                percent(majority)
            ),
        );
    }
}

/// The last figures on the validation rows, and those of the best checkpoint on the test rows.
fn print_classes(evals: &[EvalLine]) {
    let last = |kind: &str| {
        let mut lines = evals.iter().rev().filter_map(|line| match line {
            EvalLine::Classify(line) if line.kind == kind => Some(line),
            _ => None,
        });
        lines.next()
    };
    let describe = |line: &ClassEvalLine| {
        let (step, metrics) = (line.best_step.unwrap_or(line.step), &line.metrics);
        format!(
            "accuracy {} after step {}; the majority class is {}; macro-F1 {:.3}, MCC {:.3}, loss {:.3}, {} rows",
            percent(metrics.accuracy),
            thousands(step),
            percent(metrics.majority_accuracy),
            metrics.macro_f1,
            metrics.mcc,
            metrics.loss,
            thousands(metrics.rows)
        )
    };
    for (name, line) in [("validation, last", last("eval")), ("test, best checkpoint", last("test"))] {
        if let Some(line) = line {
            row(name, describe(line));
        }
    }
}

fn median_tokens_per_second(steps: &[StepLine]) -> f64 {
    let mut speeds: Vec<f64> = steps.iter().map(|step| step.tokens_per_second).collect();
    speeds.sort_by(f64::total_cmp);
    speeds.get(speeds.len() / 2).copied().unwrap_or(0.0)
}

fn mean_padded_share(steps: &[StepLine]) -> f64 {
    steps.iter().map(|step| step.padded_share).sum::<f64>() / steps.len().max(1) as f64
}
