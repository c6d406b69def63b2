//! The course of a run: steps, lines, evaluations, checkpoints, the end.
//!
//! Owns when what happens. All ranks walk through it alike: every branch depends on the configuration or on a
//! gathered control word.

use std::{path::PathBuf, sync::Arc};

use bert_coordinator::Coordinator;
use bert_data::{PretrainData, Tokenizer};

use crate::{
    config::Config,
    error::TrainError,
    eval::HeldOut,
    metrics::MetricsFile,
    ranks::agree,
    report::Reporter,
    run_dir::RunDir,
    saver::{self, Identity, Snapshot, check_equal_parameters},
    screen::Screen,
    signals::StopFlag,
    step::StepReport,
    trainer::{LocalState, Trainer},
};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Done,
    /// A signal came; the state is saved.
    Stopped,
}

/// What a run needs besides its trainer.
pub struct Session<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// This rank's handle on all ranks.
    pub coordinator: &'a Coordinator,
    /// The run folder.
    pub run_dir: &'a RunDir,
    /// Batches and held-out samples.
    pub data: Arc<PretrainData>,
    /// What is evaluated.
    pub held_out: HeldOut,
    /// Saved beside the model.
    pub tokenizer: Arc<Tokenizer>,
    /// What identifies the run.
    pub identity: Identity,
    /// The progress bar.
    pub screen: Screen,
    /// Set by a signal.
    pub stop: StopFlag,
    /// A `--debug` run: a few steps with every check on, and nothing saved.
    pub is_debug: bool,
}

impl Session<'_> {
    /// Trains until the last step, a signal or an error.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank unless a rank is gone.
    pub fn train(&self, trainer: &mut Trainer<'_>) -> Result<Outcome, TrainError> {
        let mut reporter = self.open_reporter(trainer.num_steps)?;
        let last_step = self.last_step();
        let mut local = LocalState::default();
        if trainer.num_steps >= last_step {
            tracing::info!(
                "all {last_step} steps of this run are done; choose another run.name to train again"
            );
        }
        while trainer.num_steps < last_step {
            let step = trainer.num_steps + 1;
            let is_last = step == last_step;
            let is_logged =
                is_last || self.is_debug || step.is_multiple_of(self.config.train.log_every_steps);
            local.wants_stop = self.stop.is_set();
            let report = trainer.step(&local, is_logged)?;
            note(&mut local, reporter.step(&report, is_logged));
            if self.is_debug {
                check_equal_parameters(self.coordinator, &trainer.model, step)?;
                tracing::info!(
                    "step {step}: parameters equal on all ranks, gradients finite; {}",
                    report.seconds
                );
            }
            if is_last || is_due(step, self.config.train.eval_every_steps) {
                self.evaluate(trainer, &mut reporter, &mut local)?;
            }
            let ends_early = report.wants_stop || report.failure.is_some();
            if is_last || ends_early || is_due(step, self.config.checkpoint.every_steps) {
                self.save(trainer)?;
            }
            if ends_early && !is_last {
                return end_early(report);
            }
        }
        let failure =
            local.failure.map(|(exit_code, message)| bert_coordinator::Failure { exit_code, message });
        agree(self.coordinator, "end of the run", failure.map(TrainError::Agreed).map_or(Ok(()), Err))?;
        self.screen.finish();
        Ok(Outcome::Done)
    }

    fn last_step(&self) -> u64 {
        let total_steps = self.config.schedule.total_steps;
        if self.is_debug { total_steps.min(self.config.debug.steps) } else { total_steps }
    }

    fn open_reporter(&self, num_steps: u64) -> Result<Reporter, TrainError> {
        let is_first = self.coordinator.world().is_first();
        let metrics = is_first.then(|| MetricsFile::open(&self.run_dir.metrics(), num_steps)).transpose();
        Ok(Reporter::new(agree(self.coordinator, "metrics", metrics)?, self.screen.clone()))
    }

    fn evaluate(
        &self,
        trainer: &Trainer<'_>,
        reporter: &mut Reporter,
        local: &mut LocalState,
    ) -> Result<(), TrainError> {
        let line = self.held_out.evaluate(self.coordinator, &trainer.model, trainer.num_steps)?;
        if let Some(line) = line {
            note(local, reporter.evaluation(&line));
        }
        Ok(())
    }

    fn save(&self, trainer: &Trainer<'_>) -> Result<Option<PathBuf>, TrainError> {
        if self.is_debug {
            return Ok(None);
        }
        let position = trainer.num_steps * self.config.train.global_batch_size as u64;
        let snapshot = Snapshot {
            model: &trainer.model,
            states: &trainer.states,
            tokenizer: &self.tokenizer,
            step: trainer.num_steps,
            epoch: self.data.locate(position)?.epoch,
            position,
        };
        let checkpoints = self.run_dir.checkpoints();
        let path = saver::save(self.coordinator, self.config, &self.identity, &checkpoints, &snapshot)?;
        tracing::info!("saved {}", path.display());
        Ok(Some(path))
    }
}

fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// Keeps a local failure for the next control word: the others learn of it there, and nobody is left waiting.
fn note(local: &mut LocalState, result: Result<(), TrainError>) {
    if let Err(error) = result {
        let failure = error.to_failure();
        local.failure = Some((failure.exit_code, failure.message));
    }
}

fn end_early(report: StepReport) -> Result<Outcome, TrainError> {
    match report.failure {
        Some((exit_code, message)) => {
            Err(TrainError::Agreed(bert_coordinator::Failure { exit_code, message }))
        }
        None => {
            tracing::info!("stopped after step {} on a signal; run again to continue", report.step);
            Ok(Outcome::Stopped)
        }
    }
}
