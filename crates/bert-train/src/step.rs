//! One optimization step on one rank.
//!
//! Owns the order of a step: batch, forward and backward with reduction, verdict, clip, update, gather. The parts
//! are in [`crate::trainer`]; nothing here opens a file or decides when to log, evaluate or save.

use crate::{
    control::{BatchCounts, ControlWord, PhaseSeconds, sum_counts},
    error::TrainError,
    figures::{SlotFigures, sum_figures},
    optimizer::{Update, clip_factor, global_norm},
    phase::PhaseClock,
    saver::report::SaveReport,
    schedule::learning_rate,
    task::TaskModel,
    trainer::{LocalState, Trainer},
    verdict::Verdict,
};

/// What a step did, the same on every rank but for the times.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Number of this step, from 1.
    pub step: u64,
    /// Epoch of its first sample.
    pub epoch: u64,
    /// Losses and right answers over the global batch.
    pub figures: SlotFigures,
    /// Learning rate used.
    pub learning_rate: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Norm of all parameters after the update, where it was asked for.
    pub param_norm: Option<f64>,
    /// Real tokens of the global batch.
    pub num_tokens: u64,
    /// Positions of the global batch, padding included.
    pub num_positions: u64,
    /// Largest peak memory of a rank.
    pub peak_rss_bytes: u64,
    /// Times of this rank.
    pub seconds: PhaseSeconds,
    /// Times of every rank in the step before.
    pub rank_seconds: Vec<PhaseSeconds>,
    /// A rank was asked to stop after this step.
    pub wants_stop: bool,
    /// A rank cannot go on after this step: exit code and reason.
    pub failure: Option<(i32, String)>,
    /// How far each rank is with the save in the background.
    pub saves: Vec<SaveReport>,
}

impl<M: TaskModel> Trainer<'_, M> {
    /// Makes one step.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank: a gradient is not finite, a rank could not compute its part, or a
    /// rank is gone. The parameters are then as before the step, or the run ends anyway.
    pub fn step(&mut self, local: &LocalState, with_param_norm: bool) -> Result<StepReport, TrainError> {
        let mut clock = PhaseClock::start();
        let step = self.num_steps + 1;
        self.begin_faults(step)?;
        let batches = self.take_batches()?;
        let outcome = self.forward_backward(step, &batches, &mut clock);
        let next = self.fetch_next();
        clock.lap(|seconds| &mut seconds.data_wait);
        if outcome.is_ok() {
            self.start_late_reduction()?;
        }
        let slices = self.finish_reduction()?;
        clock.lap(|seconds| &mut seconds.communication_exposed);
        let word = self.control_word(step, local, &batches, outcome, next, &slices);
        clock.lap(|seconds| &mut seconds.optimizer);
        let words = self.exchange(&word)?;
        clock.lap(|seconds| &mut seconds.communication_exposed);

        let per_rank: Vec<&[f64]> = words.iter().map(|word| word.block_norms.as_slice()).collect();
        let block_norms = self.in_block_order(&per_rank);
        let verdict = Verdict::of(step, &words, &block_norms, &self.block_names());
        self.locate(verdict, &batches)?.into_result()?;
        let grad_norm = global_norm(block_norms);
        let rate = learning_rate(&self.config.schedule, self.num_steps);
        let clip_factor = clip_factor(grad_norm, self.config.optimizer.max_grad_norm);
        let update = Update { learning_rate: rate, step, clip_factor };
        let own_norms = self.update(update, slices, with_param_norm, &mut clock)?;
        self.gather_parameters(&mut clock)?;
        let param_norm = own_norms.map(|norms| self.norm_of_parameters(norms)).transpose()?;
        clock.lap(|seconds| &mut seconds.communication_exposed);

        self.faults.spoil_parameters(step, &mut self.model);
        self.num_steps = step;
        self.counts = sum_counts(words.iter().map(|word| word.next_counts));
        self.last_seconds = PhaseSeconds { save: local.save_seconds, ..clock.seconds() };
        Ok(self.report(batches.epoch, rate, grad_norm, param_norm, &words))
    }

    /// What was asked to go wrong at the beginning of a step.
    fn begin_faults(&self, step: u64) -> Result<(), TrainError> {
        self.faults.begin_step(step);
        match self.faults.other_plans(step, &self.plans) {
            None => Ok(()),
            Some(plans) => Ok(self.coordinator.set_buckets(plans, self.config.distributed.wire.into())?),
        }
    }

    fn report(
        &self,
        epoch: u64,
        learning_rate: f64,
        grad_norm: f64,
        param_norm: Option<f64>,
        words: &[ControlWord],
    ) -> StepReport {
        StepReport {
            step: self.num_steps,
            epoch,
            figures: sum_figures(words.iter().flat_map(|word| &word.slots)),
            learning_rate,
            grad_norm,
            param_norm,
            num_tokens: words.iter().map(|word| word.num_tokens).sum(),
            num_positions: words.iter().map(|word| word.num_positions).sum(),
            peak_rss_bytes: words.iter().map(|word| word.peak_rss_bytes).max().unwrap_or(0),
            seconds: self.last_seconds,
            rank_seconds: words.iter().map(|word| word.seconds).collect(),
            wants_stop: words.iter().any(|word| word.wants_stop),
            failure: first_failure(words),
            saves: words.iter().map(|word| word.save.clone()).collect(),
        }
    }

    /// Name of the parameter of every block, in block order.
    fn block_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for (plan, bucket) in self.plans.iter().zip(&self.layout.buckets) {
            for block in plan.blocks() {
                let holds = |offset: usize, len: usize| (offset..offset + len).contains(&block.offset);
                let parameter = bucket.parameters.iter().find(|spec| holds(spec.offset, spec.num_elements));
                names.push(parameter.map_or(bucket.name.as_str(), |spec| spec.name.as_str()));
            }
        }
        names
    }
}

/// The failure of the lowest rank that has one, with its name where there are several ranks.
fn first_failure(words: &[ControlWord]) -> Option<(i32, String)> {
    let failures = words.iter().enumerate().filter_map(|(rank, word)| Some((rank, word.failure.clone()?)));
    let (rank, (exit_code, message)) = failures.min_by_key(|(rank, _)| *rank)?;
    Some((exit_code, if words.len() == 1 { message } else { format!("rank {rank}: {message}") }))
}

/// Counts of the own slots of a step.
#[must_use]
pub fn count_batch(batches: &bert_data::StepBatches) -> BatchCounts {
    sum_counts(batches.micro_batches.iter().map(|batch| BatchCounts {
        num_masked: batch.mlm_labels.len() as u64,
        num_rows: (batch.nsp_labels.len() + batch.class_labels.len()) as u64,
    }))
}
