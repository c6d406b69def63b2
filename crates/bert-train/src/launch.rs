//! Starting the ranks: one process of a launcher, one process alone, or threads of this process.
//!
//! Owns the way into a [`Session`] and back. Never prints.

use std::{env, sync::Arc, thread, time::Duration};

use bert_coordinator::{Coordinator, CoordinatorOptions, Launch, LauncherInfo, ThreadCommunicator};

use crate::{
    config::{Config, TaskSection},
    device,
    error::TrainError,
    fault::{self, Faults},
    ranks::agree,
    run_dir::RunDir,
    run_lock::RunLock,
    screen::{Screen, start_logging},
    session::{Outcome, Session},
    setup::{self, MachineUse},
    signals::StopFlag,
    task::{Task, TaskModel, classify::Classify, pretrain::Pretrain},
    trainer::Trainer,
};

/// What became of a rank.
#[derive(Debug)]
pub struct RankRun {
    /// How the run ended.
    pub outcome: Outcome,
    /// Samples in readable text (`--debug`, rank 0).
    pub samples: Vec<String>,
}

/// Joins the other ranks of the launcher, or starts alone.
///
/// # Errors
///
/// [`TrainError`] if the ranks cannot be joined.
pub fn connect(launcher: Option<&LauncherInfo>, timeout_seconds: f64) -> Result<Coordinator, TrainError> {
    let has_peers = launcher.is_some_and(LauncherInfo::has_peers);
    let launch = if has_peers { Launch::Mpi } else { Launch::Solo };
    let options = CoordinatorOptions { timeout: Duration::from_secs_f64(timeout_seconds) };
    Ok(Coordinator::launch(launch, options)?)
}

/// Ranks that share this machine, as far as the launcher tells.
fn num_local_ranks(launcher: Option<&LauncherInfo>, num_ranks: usize) -> usize {
    let names = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"];
    let told = names.iter().find_map(|name| env::var(name).ok()?.parse().ok());
    if launcher.is_some() { told.unwrap_or(num_ranks) } else { num_ranks }
}

/// Runs one rank from the agreed configuration to the end.
///
/// # Errors
///
/// [`TrainError`], the same on every rank unless a rank is gone.
pub fn run_rank(
    config: &Config,
    coordinator: &Coordinator,
    launcher: Option<&LauncherInfo>,
    stop: &StopFlag,
    is_debug: bool,
) -> Result<RankRun, TrainError> {
    let world = coordinator.world();
    let run_dir = RunDir::new(config.run_dir());
    setup::check_plan(coordinator, config)?;
    let lock = setup::prepare_run_dir(coordinator, config, &run_dir, is_debug)?;
    let screen = if is_debug {
        Screen::plain()
    } else {
        Screen::new(&config.log, config.schedule.total_steps, world.is_first())
    };
    if !is_debug || world.is_first() {
        start_logging(&config.log, &screen, world.is_first(), &run_dir.log(world.rank()))?;
    }
    tell_lock(lock.as_ref());
    let planted = env::var(fault::VARIABLE).ok();
    let faults = agree(coordinator, "planted faults", Faults::of_rank(planted.as_deref(), world.rank()))?;
    setup::check_same_start(coordinator, config, faults.version())?;
    let backend = device::choose(config.device.backend, device::local_rank(|name| env::var(name).ok()))?;
    tracing::info!("backend {}: {}", backend.kind, backend.reason);
    let path = bert_model::Precision::from(config.train.precision).path();
    tracing::info!("matrix products: {path}");
    if let Some(dependence) = config.rank_dependence(world.num_ranks()) {
        tracing::warn!("{dependence}");
    }
    let num_local_ranks = num_local_ranks(launcher, world.num_ranks());
    let num_threads = setup::start_threads(config, backend.kind, num_local_ranks, is_debug)?;
    let machine = MachineUse { backend, num_threads };
    Rank { config, coordinator, run_dir: &run_dir, screen, stop, machine, faults, is_debug }.train()
}

/// What was met when the run folder was locked.
fn tell_lock(lock: Option<&RunLock>) {
    let Some(lock) = lock else { return };
    if lock.waited > Duration::from_millis(500) {
        tracing::info!("waited {:.1} s for ranks of the last start to end", lock.waited.as_secs_f64());
    }
    if let Some(problem) = &lock.problem {
        tracing::warn!("no locks in the run folder ({problem}); do not start this run twice at a time");
    }
}

/// A rank that is ready to open its data: what belongs to the process (messages, compute threads) is there.
pub struct Rank<'a> {
    /// The agreed configuration.
    pub config: &'a Config,
    /// This rank's handle on all ranks.
    pub coordinator: &'a Coordinator,
    /// The run folder, made and checked.
    pub run_dir: &'a RunDir,
    /// The progress bar.
    pub screen: Screen,
    /// Set by a signal.
    pub stop: &'a StopFlag,
    /// Backend and compute threads.
    pub machine: MachineUse,
    /// What an operator planted in this rank.
    pub faults: Faults,
    /// A `--debug` run.
    pub is_debug: bool,
}

impl Rank<'_> {
    /// Opens the data, continues or begins, and trains to the end.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank unless a rank is gone.
    pub fn train(self) -> Result<RankRun, TrainError> {
        match self.config.task {
            TaskSection::Pretrain => self.run::<Pretrain>(),
            TaskSection::Classify(_) => self.run::<Classify>(),
        }
    }

    fn run<T: Task>(self) -> Result<RankRun, TrainError> {
        let Self { config, coordinator, run_dir, screen, stop, machine, faults, is_debug } = self;
        let task = T::prepare(coordinator, config)?;
        setup::check_same_data(coordinator, &task)?;
        let origin = setup::prepare_origin(coordinator, config, run_dir, is_debug)?;
        let compute = machine.backend.compute(config.train.precision);
        let mut model = task.model(coordinator, config, compute, origin.folder.as_deref())?;
        agree(coordinator, "planted faults", faults.check_tensor(model.layout()))?;
        let described = (model.layout(), &origin);
        let identity = setup::prepare_identity(coordinator, config, &task, described, run_dir, &machine)?;
        let progress = setup::resume(coordinator, config, run_dir, &identity, &mut model, is_debug)?;
        let num_steps = progress.num_steps;
        let prefetcher = setup::start_prefetch(coordinator, config, task.data(), num_steps)?;
        let is_speaker = is_debug && coordinator.world().is_first();
        let samples = if is_speaker { setup::samples(config, &task, num_steps)? } else { Vec::new() };
        let mut trainer = Trainer::new(config, coordinator, model, progress.states, prefetcher, num_steps)?;
        trainer.faults = faults;
        let mut session = Session {
            config,
            coordinator,
            run_dir,
            task: &task,
            best: progress.best,
            disk: Arc::new(progress.disk),
            identity,
            screen,
            stop: stop.clone(),
            is_debug,
        };
        Ok(RankRun { outcome: session.train(&mut trainer)?, samples })
    }
}

/// `--debug`: all ranks as threads of this process, every check on, a few steps, nothing saved.
///
/// Returns samples with their masks in readable text.
///
/// # Errors
///
/// The first broken invariant.
pub fn debug(config: &Config, stop: &StopFlag) -> Result<Vec<String>, TrainError> {
    let mut config = config.clone();
    config.run.name.push_str("-debug");
    config.checkpoint.resume = "never".to_string();
    let timeout = Duration::from_secs_f64(config.distributed.timeout_seconds);
    let config = &config;
    let runs: Vec<Result<RankRun, TrainError>> = thread::scope(|scope| {
        let spawn = |member: ThreadCommunicator| {
            scope.spawn(move || {
                let coordinator =
                    Coordinator::launch(Launch::Thread(member), CoordinatorOptions { timeout })?;
                let run = run_rank(config, &coordinator, None, stop, true)?;
                coordinator.shutdown()?;
                Ok(run)
            })
        };
        let threads: Vec<_> =
            ThreadCommunicator::group(config.debug.num_ranks).into_iter().map(spawn).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join();
        let joined = threads.into_iter().map(join).enumerate();
        joined.map(|(rank, run)| run.unwrap_or(Err(TrainError::Panicked { rank }))).collect()
    });
    let (runs, errors): (Vec<_>, Vec<_>) = runs.into_iter().partition(Result::is_ok);
    match root_cause(errors.into_iter().filter_map(Result::err)) {
        Some(error) => Err(error),
        None => Ok(runs.into_iter().flatten().flat_map(|run| run.samples).collect()),
    }
}

/// The error that the others followed from: that a rank left is what the others see of its own error.
fn root_cause(errors: impl Iterator<Item = TrainError>) -> Option<TrainError> {
    let is_consequence =
        |error: &TrainError| error.broken_exchange().is_some_and(|e| !e.lost_ranks().is_empty());
    errors.min_by_key(is_consequence)
}

/// The effective configuration as TOML, with the plan of the run if asked for.
///
/// # Errors
///
/// [`TrainError`] if the tokenizer, which decides the size of the model, cannot be read (plan only).
pub fn describe(
    config: &Config,
    with_plan: bool,
    launcher: Option<&LauncherInfo>,
) -> Result<String, TrainError> {
    let text = toml::to_string(config).map_err(|error| TrainError::Setup(error.to_string()))?;
    if !with_plan {
        return Ok(text.trim_end().to_string());
    }
    let num_ranks = launcher.and_then(|launcher| launcher.num_ranks).unwrap_or(1);
    let plan = crate::dry_run::plan(config, num_ranks, num_local_ranks(launcher, num_ranks))?;
    Ok(format!("{text}\n{plan}"))
}
