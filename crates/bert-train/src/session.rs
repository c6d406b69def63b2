//! The course of a run: steps, lines, evaluations, checkpoints, the end.
//!
//! Owns when what happens. All ranks walk through it alike: every branch depends on the configuration or on a
//! gathered control word.

use std::sync::Arc;

use bert_coordinator::Coordinator;

use crate::{
    checkpoint::{disk::Disk, manifest::Best},
    config::Config,
    debug_checks::check_equal_parameters,
    error::TrainError,
    failure_record, machine,
    metrics::MetricsFile,
    phase::timed,
    ranks::agree,
    report::Reporter,
    run_dir::RunDir,
    saver::{
        Identity,
        save::{Saver, Snapshot},
    },
    screen::Screen,
    signals::StopFlag,
    step::StepReport,
    task::{Conclusion, Task},
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
pub struct Session<'a, T> {
    /// The configuration.
    pub config: &'a Config,
    /// This rank's handle on all ranks.
    pub coordinator: &'a Coordinator,
    /// The run folder.
    pub run_dir: &'a RunDir,
    /// Data and evaluation.
    pub task: &'a T,
    /// The best evaluation so far, where the task chooses one.
    pub best: Option<Best>,
    /// What checkpoints are written through.
    pub disk: Arc<Disk>,
    /// What identifies the run.
    pub identity: Identity,
    /// The progress bar.
    pub screen: Screen,
    /// Set by a signal.
    pub stop: StopFlag,
    /// A `--debug` run: a few steps with every check on, and nothing saved.
    pub is_debug: bool,
}

impl<'a, T: Task> Session<'a, T> {
    /// Trains until the last step, a signal or an error.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank unless a rank is gone.
    pub fn train(&mut self, trainer: &mut Trainer<'_, T::Model>) -> Result<Outcome, TrainError> {
        let mut saver = self.open_saver(trainer)?;
        let outcome = self.train_and_save(trainer, &mut saver);
        if let Err(error) = &outcome {
            saver.rescue(error);
        }
        outcome
    }

    fn train_and_save(
        &mut self,
        trainer: &mut Trainer<'_, T::Model>,
        saver: &mut Saver<'_>,
    ) -> Result<Outcome, TrainError> {
        let mut reporter = self.open_reporter(trainer.num_steps)?;
        let last_step = self.last_step();
        let has_trained = trainer.num_steps < last_step;
        let mut local = LocalState::default();
        if !has_trained {
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
            local.save = saver.report();
            failure_record::note_step(step);
            let report = trainer.step(&local, is_logged).map_err(|error| error.in_step(step))?;
            local.save_seconds = 0.0;
            note(&mut local, reporter.step(&report, is_logged, self.task.step_figures(&report.figures)));
            if self.is_debug {
                let checked = check_equal_parameters(self.coordinator, &trainer.model, step);
                checked.map_err(|error| error.in_step(step))?;
                tracing::info!(
                    "step {step}: parameters equal on all ranks, gradients finite; {}",
                    report.seconds
                );
            }
            saver.advance(&report.saves)?;
            let is_evaluated = is_last || is_due(step, self.config.train.eval_every_steps);
            let is_best = is_evaluated && self.evaluate(trainer, &mut reporter, &mut local)?;
            let ends_early = report.wants_stop || report.failure.is_some();
            if is_last || ends_early || is_best || is_due(step, self.config.checkpoint.every_steps) {
                let (saved, seconds) = timed(|| self.save(trainer, saver));
                saved.map_err(|error| error.in_step(step))?;
                local.save_seconds = seconds;
            }
            if is_last || ends_early {
                saver.complete()?;
            }
            if ends_early && !is_last {
                return end_early(report);
            }
        }
        if !self.is_debug {
            let conclusion = Conclusion { last_step, has_trained };
            let model = &mut trainer.model;
            let best = self.best.as_ref();
            let lines = self.task.conclude(self.coordinator, self.run_dir, model, best, conclusion)?;
            lines.iter().for_each(|line| note(&mut local, reporter.evaluation(line)));
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
        let metrics = agree(self.coordinator, "metrics", metrics)?;
        let hosts = self.coordinator.all_gather_bytes("names of hosts", machine::host_name().as_bytes())?;
        let hosts = hosts.iter().map(|host| String::from_utf8_lossy(host).into_owned()).collect();
        Ok(Reporter::new(metrics, self.screen.clone(), hosts))
    }

    /// Evaluates, and says whether there was no better one before.
    fn evaluate(
        &mut self,
        trainer: &Trainer<'_, T::Model>,
        reporter: &mut Reporter,
        local: &mut LocalState,
    ) -> Result<bool, TrainError> {
        let step = trainer.num_steps;
        let evaluation = self.task.evaluate(self.coordinator, &trainer.model, step)?;
        let Some(evaluation) = evaluation else { return Ok(false) };
        note(local, reporter.evaluation(&evaluation.line));
        let is_better = |score: &f64| self.best.as_ref().is_none_or(|best| *score > best.score);
        let Some(score) = evaluation.score.filter(is_better) else { return Ok(false) };
        self.best = Some(Best { step, score });
        Ok(true)
    }

    fn open_saver(&self, trainer: &Trainer<'_, T::Model>) -> Result<Saver<'a>, TrainError> {
        if self.is_debug {
            return Ok(Saver::idle(self.coordinator, &self.identity));
        }
        let run = (self.coordinator, self.config, &self.identity);
        let disk = Arc::clone(&self.disk);
        let saver = Saver::new(run, self.run_dir, disk, &trainer.model, self.task.tokenizer());
        agree(self.coordinator, "start of the saver", saver)
    }

    fn save(&self, trainer: &Trainer<'_, T::Model>, saver: &mut Saver<'_>) -> Result<(), TrainError> {
        if self.is_debug {
            return Ok(());
        }
        let position = trainer.num_steps * self.config.train.global_batch_size as u64;
        saver.start(&Snapshot {
            model: &trainer.model,
            states: &trainer.states,
            step: trainer.num_steps,
            epoch: self.task.epoch_at(position)?,
            position,
            best: self.best.clone(),
        })
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
