//! First weights: from a folder, or from scratch and then shared among the ranks.
//!
//! Owns who computes which of them. A weight from scratch is a pure function of seed, name, row and place, so it does not matter who
//! computes it: each rank does its slices of the buckets, and the slices travel as those of the parameters do after an update.

use std::path::Path;

use bert_coordinator::{BucketPlan, Coordinator};
use bert_model::{BucketLayout, ModelConfig, ParameterLayout, initial_range};
use bert_random::Key;

use crate::{config::Config, error::TrainError, ranks::together, trainer::bucket_plans};

/// The initial values of all buckets of a layout: what `read` finds in a folder, on every rank, or else from scratch.
///
/// # Errors
///
/// [`TrainError`] on every rank.
pub(crate) fn load(
    coordinator: &Coordinator,
    config: &Config,
    model: (&ModelConfig, &ParameterLayout),
    init_key: Key,
    folder: Option<&Path>,
    read: impl FnOnce(&Path) -> Result<Vec<Vec<f32>>, TrainError> + Send,
) -> Result<Vec<Vec<f32>>, TrainError> {
    match folder {
        None => from_scratch(coordinator, config, model, init_key),
        Some(folder) => together(coordinator, "initial weights", || read(folder)),
    }
}

/// Computes the initial values, each rank its share.
fn from_scratch(
    coordinator: &Coordinator,
    config: &Config,
    (model, layout): (&ModelConfig, &ParameterLayout),
    init_key: Key,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let world = coordinator.world();
    let plans = bucket_plans(layout);
    let own_slices = together(coordinator, "initial weights", || {
        let own_slice = |(bucket, plan): (&BucketLayout, &BucketPlan)| {
            let own = plan.slice_of_rank(world.rank(), world.num_ranks());
            let mut values = vec![0.0; bucket.num_elements];
            initial_range(model, bucket, init_key, own.clone(), &mut values[own]);
            values
        };
        Ok(layout.buckets.iter().zip(&plans).map(own_slice).collect::<Vec<_>>())
    })?;
    coordinator.set_buckets(plans, config.distributed.wire.into())?;
    let num_buckets = own_slices.len();
    for (bucket_idx, values) in own_slices.into_iter().enumerate() {
        coordinator.gather_start(bucket_idx, values)?;
    }
    (0..num_buckets).map(|bucket_idx| Ok(coordinator.gather_finish(bucket_idx)?)).collect()
}
