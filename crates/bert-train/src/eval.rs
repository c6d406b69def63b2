//! Evaluation on the held-out documents with fixed masks.
//!
//! Owns the split of the micro-batches over ranks and the sum in batch order, so the figures do not depend on the
//! number of ranks.

use std::time::Instant;

use bert_coordinator::Coordinator;
use bert_data::PretrainData;
use bert_model::{BatchLosses, PretrainModel};

use crate::{
    control::{ControlWord, sum_losses},
    error::TrainError,
    metrics::EvalLine,
    ranks::agree,
    trainer::view,
};

/// Evaluates the model after `step` updates; `None` if nothing is held out.
///
/// # Errors
///
/// [`TrainError`], the same on every rank.
pub fn evaluate(
    coordinator: &Coordinator,
    model: &PretrainModel,
    data: &PretrainData,
    max_batches: usize,
    step: u64,
) -> Result<Option<EvalLine>, TrainError> {
    let num_batches = match max_batches {
        0 => data.num_eval_batches(),
        limit => data.num_eval_batches().min(limit),
    };
    if num_batches == 0 {
        return Ok(None);
    }
    let started = Instant::now();
    let own = agree(coordinator, "evaluation", evaluate_own(coordinator, model, data, num_batches))?;
    let losses = sum_over_ranks(coordinator, step, own, num_batches)?;
    Ok(Some(line(data, step, &losses, started.elapsed().as_secs_f64())))
}

/// Losses of the batches `rank, rank + p, ..`.
fn evaluate_own(
    coordinator: &Coordinator,
    model: &PretrainModel,
    data: &PretrainData,
    num_batches: usize,
) -> Result<Vec<BatchLosses>, TrainError> {
    let world = coordinator.world();
    let own = (world.rank()..num_batches).step_by(world.num_ranks());
    own.map(|idx| Ok(model.evaluate(&view(&data.eval_batch(idx)?))?)).collect()
}

fn sum_over_ranks(
    coordinator: &Coordinator,
    step: u64,
    own: Vec<BatchLosses>,
    num_batches: usize,
) -> Result<BatchLosses, TrainError> {
    let word = ControlWord { step, slots: own, ..ControlWord::default() };
    let gathered = coordinator.all_gather_bytes("evaluation", &word.encode())?;
    let words: Vec<ControlWord> = gathered.iter().filter_map(|bytes| ControlWord::decode(bytes)).collect();
    let num_ranks = words.len();
    let in_order = (0..num_batches).map(|idx| words.get(idx % num_ranks)?.slots.get(idx / num_ranks));
    let slots: Option<Vec<&BatchLosses>> = in_order.collect();
    let slots = slots.ok_or_else(|| TrainError::Setup("a rank sent no figures of its evaluation".to_string()))?;
    Ok(sum_losses(slots))
}

fn line(data: &PretrainData, step: u64, losses: &BatchLosses, seconds: f64) -> EvalLine {
    let baselines = data.baselines();
    EvalLine {
        kind: "eval".to_string(),
        step,
        mlm_loss: mean(losses.mlm_loss_sum, losses.num_masked),
        mlm_accuracy: mean(losses.mlm_correct as f64, losses.num_masked),
        nsp_loss: mean(losses.nsp_loss_sum, losses.num_pairs),
        nsp_accuracy: mean(losses.nsp_correct as f64, losses.num_pairs),
        masked_tokens: losses.num_masked,
        pairs: losses.num_pairs,
        ln_vocab_size: (baselines.vocab_size as f64).ln(),
        unigram_entropy: baselines.unigram_entropy_nats,
        majority_nsp: baselines.majority_nsp,
        seconds,
    }
}

/// `sum / count`, 0 where nothing was counted.
#[must_use]
pub fn mean(sum: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum / count as f64 }
}
