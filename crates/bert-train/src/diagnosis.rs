//! Where a gradient stopped being finite.
//!
//! Owns the second look at a step that has failed: a sum over ranks tells that a value is not finite, not where it came
//! from. A step is a pure function of its number, so every rank computes its slots once more and looks at each gradient
//! on its own. Runs on that way to the end only, so that steps that succeed pay nothing for it.

use bert_data::{MicroBatch, StepBatches};
use bert_kernels::slices;
use bert_model::{GradientSink, ParameterLayout, ParameterSpec};

use crate::{
    error::TrainError, fault::Faults, ranks::together, task::TaskModel, trainer::Trainer, verdict::Verdict,
};

impl<M: TaskModel> Trainer<'_, M> {
    /// Adds rank, slot and samples to the verdict about a gradient; other verdicts stay as they are.
    ///
    /// # Errors
    ///
    /// [`TrainError`] if the slots cannot be computed again, or a rank is gone.
    pub(crate) fn locate(&self, verdict: Verdict, batches: &StepBatches) -> Result<Verdict, TrainError> {
        let Verdict::NonFiniteGradient { step, parameter } = verdict else { return Ok(verdict) };
        let own = together(self.coordinator, "search for the gradient that is not finite", || {
            self.find_non_finite(step, batches)
        })?;
        let own = own.unwrap_or_default();
        let all = self.coordinator.all_gather_bytes("place of the gradient", own.as_bytes())?;
        let found = all.iter().enumerate().find(|(_, place)| !place.is_empty());
        let what = match found {
            Some((rank, place)) => format!("{} on rank {rank}", String::from_utf8_lossy(place)),
            None => format!("the sum of the gradients of `{parameter}` over all slots (each of them is)"),
        };
        Ok(Verdict::NonFinite { step, what })
    }

    /// The first own gradient that is not finite, in words.
    fn find_non_finite(&self, step: u64, batches: &StepBatches) -> Result<Option<String>, TrainError> {
        let dropout = self.dropout_key(step);
        for batch in &batches.micro_batches {
            let mut sink =
                Finder { step, layout: &self.layout, faults: &self.faults, spare: Vec::new(), found: None };
            self.model.train(batch, dropout.with(batch.slot as u64), self.counts, &mut sink)?;
            if let Some(parameter) = sink.found {
                return Ok(Some(format!("the gradient of `{parameter}` {}", place_of(batch))));
            }
        }
        Ok(None)
    }
}

fn place_of(batch: &MicroBatch) -> String {
    let samples: Vec<String> = batch.sample_idxs.iter().map(ToString::to_string).collect();
    format!("in slot {} (epoch {}, samples {})", batch.slot, batch.epoch, samples.join(", "))
}

/// Looks at the gradients of one slot in the order in which they are computed, heads first.
struct Finder<'t> {
    step: u64,
    layout: &'t ParameterLayout,
    faults: &'t Faults,
    spare: Vec<Vec<f32>>,
    found: Option<String>,
}

impl GradientSink for Finder<'_> {
    fn forward_done(&mut self) {}

    fn buffer(&mut self, _: usize) -> Vec<f32> {
        self.spare.pop().unwrap_or_default()
    }

    fn bucket(&mut self, bucket_idx: usize, mut gradient: Vec<f32>) {
        let bucket = &self.layout.buckets[bucket_idx];
        self.faults.spoil(self.step, bucket, &mut gradient);
        let is_finite = |spec: &ParameterSpec| slices::all_finite(&gradient[spec.range()]);
        let first = bucket.parameters.iter().find(|spec| !is_finite(spec));
        self.found = self.found.take().or_else(|| first.map(|spec| spec.name.clone()));
        self.spare.push(gradient);
    }
}
