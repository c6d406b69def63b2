//! The way of a save through the steps: copy, files of all ranks, manifest and name.
//!
//! Owns the order. The training thread copies the state and goes on; a thread of each rank writes it ([`super::writer`]).
//! What the ranks have to know of each other travels in the control words of later steps ([`super::report`]), so all of
//! them take the next stage at the same step and no collective is called from the background. One save is in flight.

use std::{sync::Arc, time::Instant};

use bert_coordinator::{Coordinator, Failure};
use bert_data::Tokenizer;

use super::{
    Identity,
    report::{SaveReport, SaveStage},
    writer::{Copies, Done, Job, Share, Writer},
};
use crate::{
    checkpoint::{CheckpointState, FileEntry, disk::Disk, manifest::Best, write},
    config::{Config, OptimizerState},
    error::{EXIT_PEER, TrainError},
    optimizer::BucketState,
    ranks::together,
    run_dir::RunDir,
    task::TaskModel,
};

/// What is saved.
pub struct Snapshot<'a, M> {
    /// The model.
    pub model: &'a M,
    /// Own part of the optimizer's state.
    pub states: &'a [BucketState],
    /// Completed updates.
    pub step: u64,
    /// Epoch of the next sample.
    pub epoch: u64,
    /// Samples consumed.
    pub position: u64,
    /// The best evaluation so far; if it is of this step, the link `best` will point here.
    pub best: Option<Best>,
}

/// A save in flight.
struct Flight {
    /// The manifest without its files.
    state: CheckpointState,
    /// All ranks have written their files; rank 0 finishes.
    is_finishing: bool,
    /// When the copy was done.
    started: Instant,
    /// How long training stood still for it.
    waited_seconds: f64,
}

/// Saves of a run, on the training thread of one rank.
pub struct Saver<'a> {
    coordinator: &'a Coordinator,
    identity: Identity,
    /// `None` in a debug run, which saves nothing.
    writer: Option<Writer>,
    /// Copies that no save uses.
    spare: Copies,
    flight: Option<Flight>,
    /// The result of the own part of the current stage.
    own: Option<Result<Vec<FileEntry>, Failure>>,
    has_told_of_waiting: bool,
}

impl<'a> Saver<'a> {
    /// A saver that saves nothing.
    #[must_use]
    pub fn idle(coordinator: &'a Coordinator, identity: &Identity) -> Self {
        Self {
            coordinator,
            identity: identity.clone(),
            writer: None,
            spare: Copies::default(),
            flight: None,
            own: None,
            has_told_of_waiting: false,
        }
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    ///
    /// [`TrainError`] if the tokenizer has no form on disk or there is no thread.
    pub fn new<M: TaskModel>(
        (coordinator, config, identity): (&'a Coordinator, &Config, &Identity),
        run_dir: &RunDir,
        disk: Arc<Disk>,
        model: &M,
        tokenizer: &Tokenizer,
    ) -> Result<Self, TrainError> {
        let world = coordinator.world();
        let share = Share {
            disk,
            checkpoints: run_dir.checkpoints(),
            keep_last: config.checkpoint.keep_last,
            rank: world.rank(),
            writes_model: world.is_first(),
            writes_moments: world.is_first() || config.distributed.optimizer_state == OptimizerState::Sharded,
            layout: model.layout().clone(),
            model: model.folder_writer(),
            vocab: if world.is_first() { tokenizer.vocab_files()? } else { Vec::new() },
        };
        Ok(Self { writer: Some(Writer::start(share)?), ..Self::idle(coordinator, identity) })
    }

    /// Copies the state and lets it be written. All ranks call this at the same step.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank, if an earlier save was still in flight and failed.
    pub fn start<M: TaskModel>(&mut self, snapshot: &Snapshot<'_, M>) -> Result<(), TrainError> {
        let begun = Instant::now();
        if let Some(flight) = &self.flight {
            if !self.has_told_of_waiting {
                tracing::warn!(
                    "step {} waits for the save after step {}: saves come faster than the disk takes them \
                     (said once); a larger checkpoint.every_steps would not wait",
                    snapshot.step,
                    flight.state.step
                );
            }
            self.has_told_of_waiting = true;
            self.complete()?;
        }
        let Some(writer) = &self.writer else { return Ok(()) };
        let mut copies = std::mem::take(&mut self.spare);
        copies.take(&writer.share, snapshot.model, snapshot.states);
        writer.submit(Job::Write(snapshot.step, copies));
        let state = state_of(&self.identity, snapshot, self.coordinator.world().num_ranks());
        let waited_seconds = begun.elapsed().as_secs_f64();
        self.flight = Some(Flight { state, is_finishing: false, started: Instant::now(), waited_seconds });
        Ok(())
    }

    /// What to tell the other ranks in the next control word.
    pub fn report(&mut self) -> SaveReport {
        let Some(flight) = &self.flight else { return SaveReport::default() };
        let is_finishing = flight.is_finishing;
        if self.own.is_none()
            && let Some(writer) =
                self.writer.as_ref().filter(|writer| !is_finishing || writer.share.writes_model)
        {
            let result = writer.poll();
            self.own = result.map(|result| keep(result, &mut self.spare));
        }
        let json = |text: serde_json::Result<String>| text.unwrap_or_default();
        match &self.own {
            None => SaveReport::default(),
            Some(Ok(_)) if is_finishing => SaveReport { stage: SaveStage::Finished, text: String::new() },
            Some(Ok(files)) => {
                SaveReport { stage: SaveStage::Written, text: json(serde_json::to_string(files)) }
            }
            Some(Err(failure)) => {
                SaveReport { stage: SaveStage::Failed, text: json(serde_json::to_string(failure)) }
            }
        }
    }

    /// Takes the next stage if the reports of all ranks allow it; `reports` are the same on every rank.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank, if the save failed on some rank.
    pub fn advance(&mut self, reports: &[SaveReport]) -> Result<(), TrainError> {
        let failed = |report: &&SaveReport| report.stage == SaveStage::Failed;
        if let Some(rank) = reports.iter().position(|report| failed(&report)) {
            return Err(self.abandon(rank, &reports[rank].text));
        }
        let Some(flight) = &self.flight else { return Ok(()) };
        let first = reports.first().map(|report| report.stage);
        if flight.is_finishing && first == Some(SaveStage::Finished) {
            self.land();
        } else if !flight.is_finishing && reports.iter().all(|report| report.stage == SaveStage::Written) {
            self.finish(&reports.iter().map(|report| report.text.as_bytes()).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// All ranks have written: rank 0 makes a checkpoint of it.
    fn finish(&mut self, lists: &[&[u8]]) -> Result<(), TrainError> {
        self.own = None;
        let (Some(flight), Some(writer)) = (&mut self.flight, &self.writer) else { return Ok(()) };
        flight.is_finishing = true;
        if writer.share.writes_model {
            let mut state = flight.state.clone();
            for list in lists {
                let files: Vec<FileEntry> =
                    serde_json::from_slice(list).map_err(|error| TrainError::Setup(error.to_string()))?;
                state.files.extend(files);
            }
            writer.submit(Job::Finish(Box::new(state)));
        }
        Ok(())
    }

    fn land(&mut self) {
        self.own = None;
        let (Some(flight), Some(writer)) = (self.flight.take(), &self.writer) else { return };
        tracing::info!(
            "saved {}: training waited {:.3} s, the disk took {:.3} s",
            writer.share.checkpoints.join(write::folder_name(flight.state.step)).display(),
            flight.waited_seconds,
            flight.started.elapsed().as_secs_f64()
        );
    }

    /// Waits until the save in flight is complete. All ranks call this at the same step.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank, if it failed; earlier checkpoints are then untouched.
    pub fn complete(&mut self) -> Result<(), TrainError> {
        let Some(flight) = &self.flight else { return Ok(()) };
        if !flight.is_finishing {
            let files = self.wait("checkpoint files", true)?;
            let json = serde_json::to_vec(&files).map_err(|error| TrainError::Setup(error.to_string()))?;
            let lists = self.coordinator.all_gather_bytes("list of checkpoint files", &json)?;
            self.finish(&lists.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        }
        let is_first = self.coordinator.world().is_first();
        self.wait("checkpoint", is_first)?;
        self.land();
        Ok(())
    }

    /// Waits for the own part of a stage, where there is one, and for the other ranks.
    fn wait(&mut self, phase: &str, has_part: bool) -> Result<Vec<FileEntry>, TrainError> {
        let ready = self.own.take();
        let (writer, spare) = (self.writer.as_ref(), &mut self.spare);
        let result = together(self.coordinator, phase, || {
            let own = match (ready, writer.filter(|_| has_part)) {
                (Some(own), _) => own,
                (None, Some(writer)) => keep(writer.wait(), spare),
                (None, None) => Ok(Vec::new()),
            };
            own.map_err(TrainError::Agreed)
        });
        if result.is_err() {
            self.flight = None;
            self.remove_remains();
        }
        result
    }

    /// Gives a failed save up, on all ranks; returns the failure.
    fn abandon(&mut self, rank: usize, text: &str) -> TrainError {
        let failure: Failure = serde_json::from_str(text).unwrap_or_else(|error| {
            TrainError::Setup(format!("a save failed without a reason that can be read ({error})"))
                .to_failure()
        });
        let has_part = self
            .flight
            .as_ref()
            .is_some_and(|flight| !flight.is_finishing || self.coordinator.world().is_first());
        // Who fails is known; this only waits until nobody writes any more.
        let _ = self.wait("end of a failed save", has_part);
        self.flight = None;
        let message = match self.coordinator.world().num_ranks() {
            1 => failure.message,
            _ => format!("rank {rank}: {}", failure.message),
        };
        TrainError::Agreed(Failure { message, ..failure })
    }

    /// Makes room again on a full disk; a failure here only leaves the rest to the next start.
    fn remove_remains(&self) {
        let Some(writer) = self.writer.as_ref().filter(|writer| writer.share.writes_model) else { return };
        if let Err(error) = write::clean(&writer.share.disk, &writer.share.checkpoints) {
            tracing::warn!("the unfinished checkpoint stays until the next start: {error}");
        }
    }

    /// Completes the save in flight although training ended with `error`, if all ranks know of that error.
    pub fn rescue(&mut self, error: &TrainError) {
        let is_common = match error {
            TrainError::NonFinite { .. } => true,
            TrainError::Agreed(failure) => failure.exit_code != EXIT_PEER,
            _ => false,
        };
        if is_common && let Err(error) = self.complete() {
            tracing::warn!("{error}");
        }
    }
}

/// Keeps the copies of a finished write for the next save.
fn keep(result: Result<Done, Failure>, spare: &mut Copies) -> Result<Vec<FileEntry>, Failure> {
    match result? {
        Done::Finished => Ok(Vec::new()),
        Done::Written(files, copies) => {
            *spare = copies;
            Ok(files)
        }
    }
}

fn state_of<M>(identity: &Identity, snapshot: &Snapshot<'_, M>, num_ranks: usize) -> CheckpointState {
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
        files: Vec::new(),
        digest: String::new(),
    }
}
