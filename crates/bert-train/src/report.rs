//! What rank 0 tells about a run: metrics lines, log lines, the progress bar.
//!
//! Owns the window of steps between two lines. Never decides anything about training.

use crate::{
    error::TrainError,
    figures::mean,
    machine::{self, ResourceUse},
    metrics::{ClassEvalLine, EvalLine, MetricsFile, PretrainEvalLine, StepFigures, StepLine},
    phase::PhaseSeconds,
    screen::Screen,
    step::StepReport,
    stragglers::Stragglers,
};

/// Sums over the steps since the last line.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    num_steps: u64,
    num_tokens: u64,
    seconds: PhaseSeconds,
}

impl Window {
    fn add(&mut self, report: &StepReport) {
        self.num_steps += 1;
        self.num_tokens += report.num_tokens;
        self.seconds = self.seconds.plus(report.seconds);
    }
}

/// Reports of rank 0; on other ranks it does nothing.
pub struct Reporter {
    metrics: Option<MetricsFile>,
    screen: Screen,
    window: Window,
    stragglers: Stragglers,
    /// What this process had taken at the last line.
    used_before: ResourceUse,
}

impl Reporter {
    /// Reports to `metrics` (rank 0) and `screen`; `hosts` names the machine of every rank.
    #[must_use]
    pub fn new(metrics: Option<MetricsFile>, screen: Screen, hosts: Vec<String>) -> Self {
        let (window, stragglers) = (Window::default(), Stragglers::new(hosts));
        Self { metrics, screen, window, stragglers, used_before: ResourceUse::now() }
    }

    /// Takes note of a step; writes a line if one is due.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] if the line cannot be written.
    pub fn step(
        &mut self,
        report: &StepReport,
        is_due: bool,
        figures: StepFigures,
    ) -> Result<(), TrainError> {
        self.window.add(report);
        if self.metrics.is_some() {
            self.stragglers.add(&report.rank_seconds).iter().for_each(|found| tracing::warn!("{found}"));
        }
        if !is_due {
            return Ok(());
        }
        let window = std::mem::take(&mut self.window);
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let used = ResourceUse::now();
        let used = used.since(std::mem::replace(&mut self.used_before, used));
        let line = step_line(report, &window, figures, used);
        self.screen.progress(
            line.step,
            &format!("loss {:.4}, {:.0} tokens/s", line.figures.loss(), line.tokens_per_second),
        );
        let text = readable(&line);
        // With a bar, a line for every step would only push it down.
        if self.screen.has_bar() {
            tracing::debug!("{text}");
        } else {
            tracing::info!("{text}");
        }
        metrics.write(&line)
    }

    /// Writes the line of an evaluation.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] if the line cannot be written.
    pub fn evaluation(&mut self, line: &EvalLine) -> Result<(), TrainError> {
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        match line {
            EvalLine::Pretrain(line) => tell_pretrain(line),
            EvalLine::Classify(line) => tell_classify(line),
        }
        metrics.write(line)
    }
}

fn tell_pretrain(line: &PretrainEvalLine) {
    tracing::info!(
        "held-out after step {}: mlm loss {:.4} (unigram entropy {:.4}, ln V {:.4}), accuracy {:.4}, \
         nsp accuracy {:.4} (majority {:.4})",
        line.step,
        line.mlm_loss,
        line.unigram_entropy,
        line.ln_vocab_size,
        line.mlm_accuracy,
        line.nsp_accuracy,
        line.majority_nsp.unwrap_or_default()
    );
}

fn tell_classify(line: &ClassEvalLine) {
    let place = match line.best_step {
        None => format!("validation after step {}", line.step),
        Some(best) => format!("test with the best checkpoint, that of step {best}"),
    };
    let metrics = &line.metrics;
    tracing::info!(
        "{place}: accuracy {:.4} (majority {:.4}), macro-F1 {:.4}, MCC {:.4}, loss {:.4}, {} rows ({} truncated, {} empty)",
        metrics.accuracy,
        metrics.majority_accuracy,
        metrics.macro_f1,
        metrics.mcc,
        metrics.loss,
        metrics.rows,
        line.truncated_rows,
        line.empty_rows
    );
}

fn readable(line: &StepLine) -> String {
    let figures = match &line.figures {
        StepFigures::Pretrain { loss, mlm_loss, nsp_loss, mlm_accuracy, .. } => {
            format!("loss {loss:.4} (mlm {mlm_loss:.4}, nsp {nsp_loss:.4}), accuracy {mlm_accuracy:.4}")
        }
        StepFigures::Classify { loss, accuracy, .. } => format!("loss {loss:.4}, accuracy {accuracy:.4}"),
    };
    format!(
        "step {}: {figures}, lr {:.3e}, grad norm {:.3}, {:.0} tokens/s",
        line.step, line.learning_rate, line.grad_norm, line.tokens_per_second
    )
}

fn step_line(report: &StepReport, window: &Window, figures: StepFigures, used: ResourceUse) -> StepLine {
    StepLine {
        kind: "train".to_string(),
        step: report.step,
        epoch: report.epoch,
        figures,
        learning_rate: report.learning_rate,
        grad_norm: report.grad_norm,
        param_norm: report.param_norm.unwrap_or_default(),
        tokens_per_second: window.num_tokens as f64 / window.seconds.step.max(f64::MIN_POSITIVE),
        padded_share: 1.0 - mean(report.num_tokens as f64, report.num_positions),
        seconds: window.seconds.over(window.num_steps),
        peak_rss_bytes: report.peak_rss_bytes,
        minor_faults: used.minor_faults / window.num_steps.max(1),
        processor_seconds: used.processor_seconds / window.num_steps.max(1) as f64,
        seconds_since_start: machine::seconds_since_start(),
    }
}
