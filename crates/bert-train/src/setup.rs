//! From a configuration to everything a run needs, agreed on by all ranks.
//!
//! Owns the order of the phases before the first step, and the translation of sections into the settings of the
//! other crates. Every phase ends in an agreement: a rank that fails takes the others with it, with one message.

use std::{path::Path, sync::Arc, time::Duration};

use bert_coordinator::{Coordinator, slots_of_rank};
use bert_data::{BatchSource, Corpus, Prefetcher, PretrainData, Tokenizer, shards::Verify};
use bert_model::{BackendKind, ParameterLayout};

use crate::{
    checkpoint::{
        CheckpointState,
        disk::{Disk, FAULT_VARIABLE},
        manifest::Best,
        read,
    },
    config::{Config, fingerprint},
    data_settings,
    device::Choice,
    error::TrainError,
    eval::HeldOut,
    lineage::{self, Origin},
    machine,
    optimizer::BucketState,
    ranks::{agree, together},
    run_dir::{RunDir, RunRecord},
    run_lock::RunLock,
    saver::{self, Identity, Resumption},
    shard_building,
    task::{Task, TaskModel},
    trainer::zero_states,
};

/// Text and tokenizer of a run.
pub struct PreparedData {
    /// Batches and held-out samples.
    pub data: Arc<PretrainData>,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Fingerprint of the token shards.
    pub corpus_fingerprint: String,
}

/// What a rank computes with.
#[derive(Clone, Debug)]
pub struct MachineUse {
    /// The backend and why it was chosen.
    pub backend: Choice,
    /// Compute threads of this rank.
    pub num_threads: usize,
}

/// How long rank 0 may wait for another process, so that the other ranks do not give it up meanwhile.
pub(crate) fn longest_wait(config: &Config) -> Duration {
    Duration::from_secs_f64(config.distributed.timeout_seconds / 2.0)
}

/// Makes or checks the run folder and keeps other starts out of it; the folder of a debug run may change its
/// configuration.
///
/// # Errors
///
/// [`TrainError`] on every rank if it cannot be written, is in use or belongs to another configuration.
pub fn prepare_run_dir(
    coordinator: &Coordinator,
    config: &Config,
    run_dir: &RunDir,
    is_debug: bool,
) -> Result<Option<RunLock>, TrainError> {
    // The other ranks wait for rank 0 meanwhile, and not longer than that.
    let longest_wait = longest_wait(config);
    let prepare = || {
        run_dir.create()?;
        let lock = RunLock::of_first(run_dir, longest_wait)?;
        if !is_debug {
            run_dir.check_same_run(config)?;
        }
        Ok(Some(lock))
    };
    let is_first = coordinator.world().is_first();
    let first = agree(coordinator, "run folder", if is_first { prepare() } else { Ok(None) })?;
    let lock = if is_first { Ok(first) } else { RunLock::of_other(run_dir) };
    agree(coordinator, "run folder of the other ranks", lock)
}

/// Compares with the other ranks what decides the way to the first step: program, configuration, rhythm.
///
/// # Errors
///
/// [`TrainError`] on every rank, naming the item and the ranks that differ.
pub fn check_same_start(coordinator: &Coordinator, config: &Config, version: &str) -> Result<(), TrainError> {
    let json = |error: serde_json::Error| TrainError::Setup(error.to_string());
    coordinator.check_equal(&[("program version", version.to_string())])?;
    let keys = fingerprint::numeric_keys(config).map_err(json)?;
    let first = coordinator.broadcast_bytes("configuration", 0, keys.to_string().as_bytes())?;
    let differences = fingerprint::differences(&serde_json::from_slice(&first).map_err(json)?, &keys);
    let compared = if differences.is_empty() { "that of rank 0".to_string() } else { differences.join(", ") };
    coordinator.check_equal(&[
        ("configuration", compared),
        ("optimizer state", format!("{:?}", config.distributed.optimizer_state)),
        ("overlap", config.distributed.overlap.to_string()),
        ("rhythm", format!("{:?} {:?}", config.checkpoint, config.train)),
    ])?;
    Ok(())
}

/// Opens tokenizer and shards; builds the shards on first use, each rank its share.
///
/// # Errors
///
/// [`TrainError`] on every rank.
pub fn prepare_data(coordinator: &Coordinator, config: &Config) -> Result<PreparedData, TrainError> {
    let tokenizer = agree(coordinator, "tokenizer", open_tokenizer(config))?;
    // Before shards are built by ranks that cut text in different ways.
    coordinator.check_equal(&[("tokenizer", tokenizer.fingerprint().to_string())])?;
    let tokenizer = Arc::new(tokenizer);
    shard_building::build_missing(coordinator, config, &tokenizer)?;
    together(coordinator, "corpus", || {
        // One rank hashes the files for all; the others open the same ones.
        let verify = if coordinator.world().is_first() { Verify::Hashes } else { Verify::Sizes };
        let corpus = Corpus::open(&config.data.shards, verify)?;
        corpus.check_tokenizer(&tokenizer)?;
        let corpus_fingerprint = corpus.fingerprint().to_string();
        let settings = data_settings::pretrain_data(config);
        let data = PretrainData::new(Arc::new(corpus), settings)?;
        if coordinator.world().is_first() {
            tell_sources(config, &data)?;
        }
        Ok(PreparedData { data: Arc::new(data), tokenizer: Arc::clone(&tokenizer), corpus_fingerprint })
    })
}

/// Several sources, or one with a weight: what each gives.
fn tell_sources(config: &Config, data: &PretrainData) -> Result<(), TrainError> {
    let figures = data.sources(0)?;
    if figures.len() == 1 && figures[0].weight == 1.0 {
        return Ok(());
    }
    for (source, found) in config.data.sources.iter().zip(figures) {
        tracing::info!(
            "source `{}` x {}: {} documents, {} samples in the first epoch",
            source.path(),
            found.weight,
            found.num_documents,
            found.num_samples
        );
    }
    Ok(())
}

fn open_tokenizer(config: &Config) -> Result<Tokenizer, TrainError> {
    Ok(Tokenizer::from_vocab_file(&config.data.tokenizer, config.data.lowercase)?)
}

/// The slots can be shared by these ranks.
///
/// # Errors
///
/// [`TrainError`] on every rank if they cannot.
pub fn check_plan(coordinator: &Coordinator, config: &Config) -> Result<(), TrainError> {
    let world = coordinator.world();
    let slots = slots_of_rank(config.num_slots(), world).map_err(bert_coordinator::CoordinatorError::from);
    agree(coordinator, "plan", slots.map(drop).map_err(TrainError::from))
}

/// Sets the size of the compute pools of this process, ours and that of the backend; returns it.
///
/// # Errors
///
/// [`TrainError`] if the pool cannot be started.
pub fn start_threads(
    config: &Config,
    backend: BackendKind,
    num_local_ranks: usize,
    is_debug: bool,
) -> Result<usize, TrainError> {
    let num_threads = machine::num_threads(config.run.threads_per_rank, num_local_ranks);
    backend.set_num_threads(num_threads);
    let started = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build_global();
    match started {
        // The ranks of a debug run share the pool that the first of them started.
        Err(_) if is_debug => Ok(num_threads),
        Err(error) => Err(TrainError::Setup(format!("no compute threads: {error}"))),
        Ok(()) => Ok(num_threads),
    }
}

/// Finds where the first weights come from; a run that goes on from a checkpoint does not need its ancestors' files.
///
/// # Errors
///
/// [`TrainError`] on every rank if `init.from` names no model, or a damaged one.
pub fn prepare_origin(
    coordinator: &Coordinator,
    config: &Config,
    run_dir: &RunDir,
    is_debug: bool,
) -> Result<Origin, TrainError> {
    let is_first = coordinator.world().is_first();
    let own = together(coordinator, "initial weights", || {
        if !is_first {
            return Ok(Origin::default());
        }
        let continued = if is_debug { None } else { continued_state(config, run_dir) };
        match continued {
            Some(state) => Ok(Origin { folder: None, lineage: state.lineage }),
            None => lineage::origin(&config.init),
        }
    })?;
    let json = |error: serde_json::Error| TrainError::Setup(error.to_string());
    let bytes = serde_json::to_vec(&own).map_err(json)?;
    let chosen = coordinator.broadcast_bytes("initial weights", 0, &bytes)?;
    serde_json::from_slice(&chosen).map_err(json)
}

/// The newest readable state of what will be continued, if anything will.
fn continued_state(config: &Config, run_dir: &RunDir) -> Option<CheckpointState> {
    match config.checkpoint.resume.as_str() {
        "never" => None,
        "auto" => {
            let found = read::list(&run_dir.checkpoints()).ok()?;
            found.iter().rev().find_map(|path| CheckpointState::read(path).ok())
        }
        path => CheckpointState::read(Path::new(path)).ok(),
    }
}

/// Compares with the other ranks what the task was opened from: before they share the weights, whose number depends on it.
///
/// # Errors
///
/// [`TrainError`] naming the item and the ranks that differ.
pub fn check_same_data<T: Task>(coordinator: &Coordinator, task: &T) -> Result<(), TrainError> {
    coordinator.check_equal(&[
        ("tokenizer", task.tokenizer().fingerprint().to_string()),
        ("corpus", task.fingerprint().to_string()),
    ])?;
    Ok(())
}

/// Hash over names, shapes and order of all parameters.
fn layout_hash(layout: &ParameterLayout) -> String {
    let mut hasher = blake3::Hasher::new();
    for parameter in layout.buckets.iter().flat_map(|bucket| &bucket.parameters) {
        hasher.update(format!("{} {:?}\n", parameter.name, parameter.shape).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Compares with the other ranks whatever must be equal before the first step, and records it.
///
/// # Errors
///
/// [`TrainError`] naming the item and the ranks that differ.
pub fn prepare_identity<T: Task>(
    coordinator: &Coordinator,
    config: &Config,
    task: &T,
    (layout, origin): (&ParameterLayout, &Origin),
    run_dir: &RunDir,
    machine: &MachineUse,
) -> Result<Identity, TrainError> {
    let json = |error: serde_json::Error| TrainError::Setup(error.to_string());
    let identity = Identity {
        config_hash: fingerprint::config_hash(config).map_err(json)?,
        corpus_fingerprint: task.fingerprint().to_string(),
        tokenizer_fingerprint: task.tokenizer().fingerprint().to_string(),
        layout_hash: layout_hash(layout),
        init_from: config.init.from.clone(),
        lineage: origin.lineage.clone(),
    };
    let version = env!("CARGO_PKG_VERSION").to_string();
    coordinator.check_equal(&[
        ("backend", machine.backend.kind.name().to_string()),
        ("parameter layout", identity.layout_hash.clone()),
    ])?;
    let world = coordinator.world();
    let record = RunRecord {
        version,
        communicator: coordinator.library().to_string(),
        num_ranks: world.num_ranks(),
        equal_for_any_num_ranks: config.rank_dependence(world.num_ranks()).is_none(),
        threads_per_rank: machine.num_threads,
        backend: machine.backend.kind.name().to_string(),
        corpus_fingerprint: identity.corpus_fingerprint.clone(),
        tokenizer_fingerprint: identity.tokenizer_fingerprint.clone(),
        layout_hash: identity.layout_hash.clone(),
        config_hash: identity.config_hash.clone(),
        numeric_keys: fingerprint::numeric_keys(config).map_err(json)?,
        init_from: identity.init_from.clone(),
        lineage: identity.lineage.clone(),
    };
    let written = if world.is_first() { run_dir.write_record(config, &record) } else { Ok(()) };
    agree(coordinator, "run record", written)?;
    tracing::info!(
        "{} parameters, {} ranks x {} threads, {}",
        layout.num_elements(),
        world.num_ranks(),
        machine.num_threads,
        coordinator.library()
    );
    Ok(identity)
}

/// Starts the threads that prepare the own slots ahead of training.
///
/// # Errors
///
/// [`TrainError`] if the slots cannot be shared.
pub fn start_prefetch<S: BatchSource>(
    coordinator: &Coordinator,
    config: &Config,
    data: &Arc<S>,
    num_steps: u64,
) -> Result<Prefetcher, TrainError> {
    let slots = slots_of_rank(config.num_slots(), coordinator.world())
        .map_err(bert_coordinator::CoordinatorError::from)?;
    let depth = config.data.prefetch_steps;
    Ok(Prefetcher::spawn(Arc::clone(data), num_steps, slots, config.data.num_workers, depth)?)
}

/// The held-out samples with their baselines.
///
/// # Errors
///
/// [`TrainError`] on every rank if they cannot be read.
pub fn prepare_evaluation(
    coordinator: &Coordinator,
    config: &Config,
    data: &Arc<PretrainData>,
) -> Result<HeldOut, TrainError> {
    let train = &config.train;
    together(coordinator, "held-out documents", || {
        HeldOut::new(Arc::clone(data), train.micro_batch_size, train.eval_max_batches)
    })
}

/// The first samples of the next step in readable text, with their masks.
///
/// # Errors
///
/// [`TrainError::Data`] if they cannot be made.
pub fn samples<T: Task>(config: &Config, task: &T, num_steps: u64) -> Result<Vec<String>, TrainError> {
    let batch = task.data().micro_batch(num_steps, 0)?;
    let num_rows = config.debug.num_samples.min(batch.num_rows);
    Ok((0..num_rows).map(|row| task.describe_row(&batch, row)).collect())
}

/// Where training stands when it starts.
pub struct Progress {
    /// Optimizer state of this rank.
    pub states: Vec<BucketState>,
    /// Completed steps.
    pub num_steps: u64,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// What checkpoints are written through.
    pub disk: Disk,
}

/// Optimizer state and completed steps: from a checkpoint, or zero.
///
/// # Errors
///
/// [`TrainError`] on every rank.
pub fn resume<M: TaskModel>(
    coordinator: &Coordinator,
    config: &Config,
    run_dir: &RunDir,
    identity: &Identity,
    model: &mut M,
    is_debug: bool,
) -> Result<Progress, TrainError> {
    let mut states = zero_states(config, coordinator, model.layout());
    if is_debug {
        return Ok(Progress { states, num_steps: 0, best: None, disk: Disk::default() });
    }
    let fault = std::env::var(FAULT_VARIABLE).ok();
    let disk = Disk::with_fault(fault.as_deref(), coordinator.world().rank()).map_err(TrainError::Usage);
    let disk = agree(coordinator, FAULT_VARIABLE, disk)?;
    let checkpoints = run_dir.checkpoints();
    let found = saver::find(coordinator, &config.checkpoint, run_dir.root(), &checkpoints, identity, &disk)?;
    let Some(Resumption { path, step, best }) = found else {
        return Ok(Progress { states, num_steps: 0, best: None, disk });
    };
    saver::load(coordinator, &path, model, &mut states)?;
    tracing::info!("continuing after step {step} from {}", path.display());
    Ok(Progress { states, num_steps: step, best, disk })
}
