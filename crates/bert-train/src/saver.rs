//! Saving and loading a run over all ranks.
//!
//! Owns who does what: rank 0 the model folder, the manifest and the rename; every rank its own moments. The files
//! themselves are the business of [`crate::checkpoint`].

use std::path::{Path, PathBuf};

use bert_coordinator::Coordinator;
use bert_data::Tokenizer;
use bert_model::ParameterLayout;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        self, BEST, CheckpointError, CheckpointState, FileEntry,
        hash::optimizer_files,
        manifest::{Best, describe_file},
        moments, read, write,
    },
    config::{Config, OptimizerState},
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

/// What is saved.
pub struct Snapshot<'a, M> {
    /// The model.
    pub model: &'a M,
    /// Own part of the optimizer's state.
    pub states: &'a [BucketState],
    /// The tokenizer, saved beside the model.
    pub tokenizer: &'a Tokenizer,
    /// Completed updates.
    pub step: u64,
    /// Epoch of the next sample.
    pub epoch: u64,
    /// Samples consumed.
    pub position: u64,
    /// The best evaluation so far; if it is of this step, the link `best` will point here.
    pub best: Option<Best>,
}

/// Saves a checkpoint; returns its folder. All ranks call this at the same step.
///
/// # Errors
///
/// [`TrainError`], the same on every rank; earlier checkpoints are then untouched.
pub fn save<M: TaskModel>(
    coordinator: &Coordinator,
    config: &Config,
    identity: &Identity,
    checkpoints: &Path,
    snapshot: &Snapshot<'_, M>,
) -> Result<PathBuf, TrainError> {
    let world = coordinator.world();
    let is_first = world.is_first();
    let temporary = write::temporary_folder(checkpoints, snapshot.step);
    together(coordinator, "checkpoint folder", || {
        if is_first { Ok(write::begin(checkpoints, snapshot.step).map(drop)?) } else { Ok(()) }
    })?;
    let written = together(coordinator, "checkpoint files", || {
        let writes_moments = is_first || config.distributed.optimizer_state == OptimizerState::Sharded;
        write_own_files(&temporary, snapshot, world.rank(), is_first, writes_moments)
    });
    let own_files = match written {
        Ok(files) => files,
        Err(error) => {
            // Makes room again on a full disk; a failure here only leaves the folder for the next save.
            if is_first && write::remove_unfinished(checkpoints).is_err() {
                tracing::warn!(folder = %temporary.display(), "the unfinished checkpoint could not be removed");
            }
            return Err(error);
        }
    };
    let files = gather_entries(coordinator, &own_files)?;
    let state = state_of(identity, snapshot, files, world.num_ranks());
    together(coordinator, "checkpoint", || {
        if !is_first {
            return Ok(());
        }
        write::finish(checkpoints, &temporary, state)?;
        if snapshot.best.as_ref().is_some_and(|best| best.step == snapshot.step) {
            write::point(checkpoints, BEST, snapshot.step)?;
        }
        Ok(write::retain(checkpoints, config.checkpoint.keep_last)?)
    })?;
    Ok(checkpoints.join(write::folder_name(snapshot.step)))
}

fn write_own_files<M: TaskModel>(
    folder: &Path,
    snapshot: &Snapshot<'_, M>,
    rank: usize,
    is_first: bool,
    writes_moments: bool,
) -> Result<Vec<FileEntry>, TrainError> {
    let mut paths = Vec::new();
    if is_first {
        let model_folder = folder.join("model");
        snapshot.model.save_folder(&model_folder)?;
        snapshot.tokenizer.save_vocab(&model_folder)?;
        paths.extend(checkpoint::manifest::files_below(&model_folder)?);
    }
    if writes_moments {
        let path = folder.join("optimizer").join(format!("rank-{rank:05}.safetensors"));
        moments::write(&path, snapshot.model.layout(), snapshot.states)?;
        paths.push(path);
    }
    paths.iter().map(|path| Ok(describe_file(folder, path)?)).collect()
}

fn gather_entries(coordinator: &Coordinator, own: &[FileEntry]) -> Result<Vec<FileEntry>, TrainError> {
    let json = serde_json::to_vec(own).map_err(|error| TrainError::Setup(error.to_string()))?;
    let mut files = Vec::new();
    for bytes in coordinator.all_gather_bytes("list of checkpoint files", &json)? {
        let entries: Vec<FileEntry> =
            serde_json::from_slice(&bytes).map_err(|error| TrainError::Setup(error.to_string()))?;
        files.extend(entries);
    }
    Ok(files)
}

fn state_of<M>(
    identity: &Identity,
    snapshot: &Snapshot<'_, M>,
    files: Vec<FileEntry>,
    num_ranks: usize,
) -> CheckpointState {
    CheckpointState {
        step: snapshot.step,
        epoch: snapshot.epoch,
        position: snapshot.position,
        config_hash: identity.config_hash.clone(),
        corpus_fingerprint: identity.corpus_fingerprint.clone(),
        tokenizer_fingerprint: identity.tokenizer_fingerprint.clone(),
        layout_hash: identity.layout_hash.clone(),
        num_ranks,
        version: env!("CARGO_PKG_VERSION").to_string(),
        init_from: identity.init_from.clone(),
        lineage: identity.lineage.clone(),
        best: snapshot.best.clone(),
        files,
        digest: String::new(),
    }
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
    resume: &str,
    run_root: &Path,
    checkpoints: &Path,
    identity: &Identity,
) -> Result<Option<Resumption>, TrainError> {
    let is_first = coordinator.world().is_first();
    let found = together(coordinator, "search for a checkpoint", || {
        if !is_first {
            return Ok(None);
        }
        find_locally(resume, run_root, checkpoints, identity)
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
    if let Some(best) = &best {
        write::point(checkpoints, BEST, best.step)?;
    }
    Ok(Some(Resumption { path: found.path, step: found.state.step, best }))
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
    for (idx, values) in loaded.iter().enumerate() {
        model.write_bucket(idx, values);
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
