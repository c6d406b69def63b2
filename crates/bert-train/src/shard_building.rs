//! Shards on first use: built by all ranks, for one start at a time.
//!
//! Owns who decides, who waits and who joins. How text becomes shards is in bert-data.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bert_coordinator::Coordinator;
use bert_data::{
    DataError, Tokenizer,
    shards::{self, BuildLock, BuildShare, Manifest, ShardBuildRequest},
};

use crate::{
    config::Config, data_settings, error::TrainError, ranks::together, run_lock::pause, setup::longest_wait,
};

/// Builds the shards where there are none: rank 0 decides, every rank builds its share, rank 0 joins them. Where another start
/// builds the same ones, rank 0 waits for it.
///
/// # Errors
///
/// [`TrainError`] on every rank.
pub(crate) fn build_missing(
    coordinator: &Coordinator,
    config: &Config,
    tokenizer: &Arc<Tokenizer>,
) -> Result<(), TrainError> {
    let world = coordinator.world();
    let request = data_settings::shard_request(config, tokenizer);
    let lock = together(coordinator, "search for shards", || {
        if world.is_first() { lock_if_absent(&request, longest_wait(config)) } else { Ok(None) }
    })?;
    let must_build = u8::from(lock.is_some());
    if coordinator.broadcast_bytes("search for shards", 0, &[must_build])? != [1] {
        return Ok(());
    }
    tracing::info!("building the shards `{}`", request.dir.display());
    let share = BuildShare { index: world.rank(), count: world.num_ranks() };
    together(coordinator, "building of shards", || Ok(shards::build(&request, share)?))?;
    together(coordinator, "joining of shards", || {
        if world.is_first() {
            tell(&shards::finish(&request, world.num_ranks())?);
        }
        Ok(())
    })
}

/// Returns the lock under which shards are to be built, or nothing if they are there.
fn lock_if_absent(request: &ShardBuildRequest, longest: Duration) -> Result<Option<BuildLock>, TrainError> {
    if shards::ready(request)?.is_some() {
        return Ok(None);
    }
    let (start, mut is_told) = (Instant::now(), false);
    let lock = loop {
        match BuildLock::take(&request.dir) {
            Ok(lock) => break lock,
            Err(DataError::InUse { path, holder }) if start.elapsed() < longest => {
                if !is_told {
                    tracing::info!("waiting for {holder}, which builds the shards `{}`", path.display());
                }
                is_told = true;
                pause();
            }
            Err(error) => return Err(error.into()),
        }
    };
    // Whoever held the lock before may have built them.
    Ok(shards::ready(request)?.is_none().then_some(lock))
}

fn tell(manifest: &Manifest) {
    let counts = &manifest.counts;
    tracing::info!("{} tokens in {} documents", counts.num_tokens, counts.num_documents);
    if let Some((path, byte)) = manifest.first_invalid() {
        let num_lines = counts.num_invalid_lines;
        tracing::warn!("{num_lines} lines are not UTF-8; bytes replaced, the first at byte {byte} of {path}");
    }
}
