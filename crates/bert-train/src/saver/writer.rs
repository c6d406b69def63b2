//! The thread that writes checkpoints while training goes on.
//!
//! Owns the copies that are written and the order of the files. Never talks to other ranks: what is to be agreed on goes
//! back to the training thread.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use bert_coordinator::Failure;
use bert_model::{ParameterLayout, hf::HfError};
use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::{
    checkpoint::{
        BEST, CheckpointError, CheckpointState, FileEntry,
        disk::{Disk, Folder},
        moments,
        write::{self, MODEL, OPTIMIZER},
    },
    error::TrainError,
    optimizer::BucketState,
    task::{FolderWriter, TaskModel},
};

/// Copies of what is saved, reused from save to save.
#[derive(Default)]
pub(super) struct Copies {
    /// Parameters by bucket; empty where this rank does not write the model.
    parameters: Vec<Vec<f32>>,
    /// Own moments; empty where this rank writes none.
    states: Vec<BucketState>,
}

impl Copies {
    /// Copies model and moments as far as this rank writes them.
    pub(super) fn take<M: TaskModel>(&mut self, share: &Share, model: &M, states: &[BucketState]) {
        if share.writes_model {
            let buckets = &model.layout().buckets;
            self.parameters.resize_with(buckets.len(), Vec::new);
            for (idx, (copy, bucket)) in self.parameters.iter_mut().zip(buckets).enumerate() {
                copy.resize(bucket.num_elements, 0.0);
                model.read_bucket(idx, copy);
            }
        }
        if share.writes_moments && self.states.is_empty() {
            self.states = states.to_vec();
        } else if share.writes_moments {
            for (copy, state) in self.states.iter_mut().zip(states) {
                copy.first_moment.copy_from_slice(&state.first_moment);
                copy.second_moment.copy_from_slice(&state.second_moment);
            }
        }
    }
}

/// What this rank writes, and where.
pub(super) struct Share {
    pub(super) disk: Arc<Disk>,
    pub(super) checkpoints: PathBuf,
    pub(super) keep_last: usize,
    pub(super) rank: usize,
    pub(super) writes_model: bool,
    pub(super) writes_moments: bool,
    pub(super) layout: ParameterLayout,
    pub(super) model: FolderWriter,
    /// Names and contents of the tokenizer's files.
    pub(super) vocab: Vec<(&'static str, Vec<u8>)>,
}

/// A part of a save.
pub(super) enum Job {
    /// The own files of the checkpoint of this step.
    Write(u64, Copies),
    /// Manifest, name, links and retention (rank 0).
    Finish(Box<CheckpointState>),
}

/// A part of a save that went well.
pub(super) enum Done {
    Written(Vec<FileEntry>, Copies),
    Finished,
}

/// The handle on the thread; it ends when the handle is dropped.
pub(super) struct Writer {
    jobs: Sender<Job>,
    results: Receiver<Result<Done, Failure>>,
    pub(super) share: Arc<Share>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(share: Share) -> Result<Self, TrainError> {
        let (jobs, inbox) = unbounded();
        let (outbox, results) = unbounded();
        let share = Arc::new(share);
        let own = Arc::clone(&share);
        let body = move || {
            for job in inbox {
                // Nobody waits any more: the run has ended.
                if outbox.send(own.run(job)).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("checkpoint".to_string())
            .spawn(body)
            .map_err(|error| TrainError::Setup(format!("no thread for checkpoints: {error}")))?;
        Ok(Self { jobs, results, share })
    }

    /// Hands over a part of a save.
    pub(super) fn submit(&self, job: Job) {
        // A thread that is gone is noticed where its result is asked for.
        let _ = self.jobs.send(job);
    }

    /// The result of the part in hand, if it is done.
    pub(super) fn poll(&self) -> Option<Result<Done, Failure>> {
        match self.results.try_recv() {
            Ok(result) => Some(result),
            Err(crossbeam::channel::TryRecvError::Empty) => None,
            Err(crossbeam::channel::TryRecvError::Disconnected) => Some(Err(gone())),
        }
    }

    /// The result of the part in hand, however long it takes.
    pub(super) fn wait(&self) -> Result<Done, Failure> {
        self.results.recv().unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Failure {
    TrainError::Setup("the thread that writes checkpoints is gone".to_string()).to_failure()
}

impl Share {
    fn run(&self, job: Job) -> Result<Done, Failure> {
        let (step, done) = match job {
            Job::Write(step, copies) => {
                (step, self.write(step, &copies).map(|files| Done::Written(files, copies)))
            }
            Job::Finish(state) => (state.step, self.finish(*state).map(|()| Done::Finished)),
        };
        done.map_err(|error| {
            let Failure { exit_code, message } = TrainError::from(error).to_failure();
            let message = format!("the save after step {step} failed, earlier checkpoints stand: {message}");
            Failure { exit_code, message }
        })
    }

    fn write(&self, step: u64, copies: &Copies) -> Result<Vec<FileEntry>, CheckpointError> {
        let names: &[&str] = match (self.writes_model, self.writes_moments) {
            (true, _) => &[MODEL, OPTIMIZER],
            (false, true) => &[OPTIMIZER],
            (false, false) => &[],
        };
        let root = write::begin(&self.disk, &self.checkpoints, step, names)?;
        let mut folder = Folder::new(&self.disk, &root);
        if self.writes_model {
            self.write_model(&mut folder, &root.join(MODEL), copies)?;
        }
        if self.writes_moments {
            let path = root.join(OPTIMIZER).join(format!("rank-{:05}.safetensors", self.rank));
            moments::write(&mut folder, &path, &self.layout, &copies.states)?;
        }
        Ok(folder.entries)
    }

    fn write_model(
        &self,
        folder: &mut Folder<'_>,
        path: &Path,
        copies: &Copies,
    ) -> Result<(), CheckpointError> {
        (self.model)(folder, path, &copies.parameters).map_err(|error| match error {
            HfError::Io { path, source, .. } => CheckpointError::Io { step: "cannot write", path, source },
            other => CheckpointError::Format { path: path.to_path_buf(), message: other.to_string() },
        })?;
        for (name, bytes) in &self.vocab {
            folder.write(&path.join(name), &mut |file| file.write_all(bytes))?;
        }
        Ok(())
    }

    fn finish(&self, state: CheckpointState) -> Result<(), CheckpointError> {
        let (disk, checkpoints) = (&*self.disk, &*self.checkpoints);
        let step = state.step;
        let is_best = state.best.as_ref().is_some_and(|best| best.step == step);
        let temporary = write::temporary_folder(checkpoints, step);
        write::finish(disk, checkpoints, &temporary, state)?;
        if is_best {
            write::point(disk, checkpoints, BEST, step)?;
        }
        write::retain(disk, checkpoints, self.keep_last, step)
    }
}
