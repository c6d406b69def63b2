//! Evaluation on the held-out documents with fixed masks.
//!
//! Owns the split of the micro-batches over ranks and the sum in batch order, so the figures do not depend on the
//! number of ranks.

use std::{sync::Arc, time::Instant};

use bert_coordinator::Coordinator;
use bert_data::{EvalBaselines, PretrainData};
use bert_model::PretrainModel;

use crate::{
    control::ControlWord,
    error::TrainError,
    figures::{SlotFigures, sum_figures},
    metrics::PretrainEvalLine,
    ranks::agree,
    task::pretrain::view,
};

/// The held-out samples as micro-batches, with the baselines that stand beside every figure.
pub struct HeldOut {
    data: Arc<PretrainData>,
    baselines: Option<EvalBaselines>,
    num_rows: usize,
    num_batches: u64,
}

impl HeldOut {
    /// Reads the held-out documents once for the baselines; `max_batches` 0 takes all samples.
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] if they cannot be read.
    pub fn new(data: Arc<PretrainData>, num_rows: usize, max_batches: usize) -> Result<Self, TrainError> {
        let all = data.num_eval_batches(num_rows);
        let num_batches = if max_batches == 0 { all } else { all.min(max_batches as u64) };
        let baselines = if num_batches == 0 { None } else { Some(data.baselines()?) };
        Ok(Self { data, baselines, num_rows, num_batches })
    }

    /// Evaluates the model after `step` updates; `None` if nothing is held out.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank.
    pub fn evaluate(
        &self,
        coordinator: &Coordinator,
        model: &PretrainModel,
        step: u64,
    ) -> Result<Option<PretrainEvalLine>, TrainError> {
        let Some(baselines) = &self.baselines else { return Ok(None) };
        let started = Instant::now();
        let own = agree(coordinator, "evaluation", self.evaluate_own(coordinator, model))?;
        let figures = sum_over_ranks(coordinator, step, own, self.num_batches)?;
        Ok(Some(line(baselines, step, &figures, started.elapsed().as_secs_f64())))
    }

    /// Losses of the batches `rank, rank + p, ..`.
    fn evaluate_own(
        &self,
        coordinator: &Coordinator,
        model: &PretrainModel,
    ) -> Result<Vec<SlotFigures>, TrainError> {
        let world = coordinator.world();
        let own = (world.rank() as u64..self.num_batches).step_by(world.num_ranks());
        own.map(|idx| Ok(model.evaluate(&view(&self.data.eval_batch(idx, self.num_rows)?))?.into())).collect()
    }
}

fn sum_over_ranks(
    coordinator: &Coordinator,
    step: u64,
    own: Vec<SlotFigures>,
    num_batches: u64,
) -> Result<SlotFigures, TrainError> {
    let word = ControlWord { step, slots: own, ..ControlWord::default() };
    let gathered = coordinator.all_gather_bytes("evaluation", &word.encode())?;
    let words: Vec<ControlWord> = gathered.iter().filter_map(|bytes| ControlWord::decode(bytes)).collect();
    let num_ranks = words.len();
    let in_order =
        (0..num_batches as usize).map(|idx| words.get(idx % num_ranks)?.slots.get(idx / num_ranks));
    let slots: Option<Vec<&SlotFigures>> = in_order.collect();
    let slots =
        slots.ok_or_else(|| TrainError::Setup("a rank sent no figures of its evaluation".to_string()))?;
    Ok(sum_figures(slots))
}

fn line(baselines: &EvalBaselines, step: u64, figures: &SlotFigures, seconds: f64) -> PretrainEvalLine {
    PretrainEvalLine {
        kind: "eval".to_string(),
        step,
        mlm_loss: figures.tokens.mean_loss(),
        mlm_accuracy: figures.tokens.accuracy(),
        nsp_loss: figures.rows.mean_loss(),
        nsp_accuracy: figures.rows.accuracy(),
        masked_tokens: figures.tokens.count,
        pairs: figures.rows.count,
        ln_vocab_size: baselines.uniform_nats(),
        unigram_entropy: baselines.unigram_entropy_nats,
        majority_nsp: baselines.majority_nsp,
        seconds,
    }
}
