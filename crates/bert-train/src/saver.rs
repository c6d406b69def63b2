//! Saving and loading a run over all ranks.
//!
//! Owns who does what: rank 0 the model folder, the manifest and the rename; every rank its own moments. [`save`] is the
//! way of a save through the steps, `writer` its thread. The files themselves are the business of
//! [`crate::checkpoint`].

pub mod report;
pub mod save;
mod writer;

use std::{
    fs,
    path::{Path, PathBuf},
};

use bert_coordinator::Coordinator;
use bert_model::ParameterLayout;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        BEST, CheckpointError, CheckpointState, LATEST, disk::Disk, hash::optimizer_files, manifest::Best,
        moments, read, write,
    },
    config::CheckpointSection,
    error::TrainError,
    lineage::Ancestor,
    optimizer::BucketState,
    ranks::together,
    task::TaskModel,
};

/// What identifies a run, beside its step.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Hash of the keys that change numbers.
    pub config_hash: String,
    /// Fingerprint of the token shards.
    pub corpus_fingerprint: String,
    /// Fingerprint of the tokenizer.
    pub tokenizer_fingerprint: String,
    /// Hash over names, shapes and order of all parameters.
    pub layout_hash: String,
    /// Where the first weights came from.
    pub init_from: String,
    /// Models that this one descends from, its parent first.
    pub lineage: Vec<Ancestor>,
}

/// Where a run goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resumption {
    /// The checkpoint.
    pub path: PathBuf,
    /// Its completed updates.
    pub step: u64,
    /// The best evaluation up to it, if that checkpoint is still there.
    pub best: Option<Best>,
}

/// Finds the checkpoint to continue from, the same on every rank; `None` to begin at step 0.
///
/// # Errors
///
/// [`TrainError`], the same on every rank.
pub fn find(
    coordinator: &Coordinator,
    section: &CheckpointSection,
    run_root: &Path,
    checkpoints: &Path,
    identity: &Identity,
    disk: &Disk,
) -> Result<Option<Resumption>, TrainError> {
    let is_first = coordinator.world().is_first();
    let found = together(coordinator, "search for a checkpoint", || {
        if !is_first {
            return Ok(None);
        }
        let found = find_locally(&section.resume, run_root, checkpoints, identity)?;
        tidy_up(disk, checkpoints, found.as_ref(), section)?;
        Ok(found)
    })?;
    let json = serde_json::to_vec(&found).map_err(|error| TrainError::Setup(error.to_string()))?;
    let chosen = coordinator.broadcast_bytes("choice of a checkpoint", 0, &json)?;
    serde_json::from_slice(&chosen).map_err(|error| TrainError::Setup(error.to_string()))
}

fn find_locally(
    resume: &str,
    run_root: &Path,
    checkpoints: &Path,
    identity: &Identity,
) -> Result<Option<Resumption>, TrainError> {
    let found = match resume {
        "never" if read::list(checkpoints)?.is_empty() => return Ok(None),
        "never" => return Err(TrainError::Occupied { path: run_root.to_path_buf() }),
        "auto" => read::newest_verified(checkpoints)?,
        path => Some(read::at(Path::new(path))?),
    };
    let Some(found) = found else { return Ok(None) };
    for reason in &found.passed_over {
        tracing::warn!(reason, "passed over a damaged checkpoint");
    }
    check_fits(&found.path, &found.state, identity)?;
    let best = found.state.best.filter(|best| {
        let is_there = checkpoints.join(write::folder_name(best.step)).exists();
        if !is_there {
            tracing::warn!(
                "the best checkpoint so far, that of step {}, is gone: the next one will do",
                best.step
            );
        }
        is_there
    });
    Ok(Some(Resumption { path: found.path, step: found.state.step, best }))
}

/// Finishes what a kill interrupted: removes what it left behind, lets the links point at what is there, and deletes
/// what the retention had not come to.
fn tidy_up(
    disk: &Disk,
    checkpoints: &Path,
    found: Option<&Resumption>,
    section: &CheckpointSection,
) -> Result<(), CheckpointError> {
    if !checkpoints.is_dir() {
        return Ok(());
    }
    for name in write::clean(disk, checkpoints)? {
        tracing::info!("removed `{name}`, which an interrupted save left behind");
    }
    let Some(found) = found else { return Ok(()) };
    if let Some(best) = &found.best {
        mend(disk, checkpoints, BEST, best.step)?;
    }
    // A checkpoint that was asked for by its path need not be the newest, nor one of this run.
    if section.resume != "auto" {
        return Ok(());
    }
    mend(disk, checkpoints, LATEST, found.step)?;
    write::retain(disk, checkpoints, section.keep_last, found.step)
}

fn mend(disk: &Disk, checkpoints: &Path, name: &str, step: u64) -> Result<(), CheckpointError> {
    let expected = write::folder_name(step);
    let got = fs::read_link(checkpoints.join(name)).ok();
    if got.as_deref() == Some(Path::new(&expected)) {
        return Ok(());
    }
    let pointed_at = got.map_or("nothing".to_string(), |path| format!("`{}`", path.display()));
    tracing::warn!("the link `{name}` pointed at {pointed_at}; it points at `{expected}` now");
    write::point(disk, checkpoints, name, step)
}

fn check_fits(path: &Path, state: &CheckpointState, identity: &Identity) -> Result<(), CheckpointError> {
    let items = [
        ("configuration hash", &state.config_hash, &identity.config_hash),
        ("corpus fingerprint", &state.corpus_fingerprint, &identity.corpus_fingerprint),
        ("tokenizer fingerprint", &state.tokenizer_fingerprint, &identity.tokenizer_fingerprint),
        ("parameter layout", &state.layout_hash, &identity.layout_hash),
    ];
    for (what, got, expected) in items {
        if got != expected {
            return Err(CheckpointError::Mismatch {
                path: path.to_path_buf(),
                what,
                expected: expected.clone(),
                got: got.clone(),
            });
        }
    }
    Ok(())
}

/// Loads parameters and own moments from a verified checkpoint.
///
/// # Errors
///
/// [`TrainError`], the same on every rank.
pub fn load<M: TaskModel>(
    coordinator: &Coordinator,
    checkpoint: &Path,
    model: &mut M,
    states: &mut [BucketState],
) -> Result<(), TrainError> {
    let layout = model.layout().clone();
    let own = &*model;
    let loaded = together(coordinator, "checkpoint", || {
        moments::read(&optimizer_files(checkpoint)?, &layout, states)?;
        own.read_folder(&checkpoint.join("model"))
    })?;
    for (idx, values) in loaded.into_iter().enumerate() {
        model.replace_bucket(idx, values);
    }
    Ok(())
}

/// Whether the parameters of a folder are those of the model.
///
/// # Errors
///
/// [`CheckpointError::Mismatch`] if they are not.
pub fn check_layout(
    folder: &Path,
    got: &ParameterLayout,
    expected: &ParameterLayout,
) -> Result<(), CheckpointError> {
    if got == expected {
        return Ok(());
    }
    Err(CheckpointError::Mismatch {
        path: folder.to_path_buf(),
        what: "shape of the model",
        expected: format!("{} values", expected.num_elements()),
        got: format!("{} values", got.num_elements()),
    })
}
