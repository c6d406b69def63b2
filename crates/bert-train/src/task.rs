//! What a task brings to the one step loop: a model over buckets, batches by position, an evaluation.
//!
//! Owns the seam only. Step, slots, reduction, optimizer, checkpoints and resumption are the same for every task and
//! know nothing of what is behind these traits.

pub mod classify;
pub mod pretrain;

use std::{ops::Range, path::Path, sync::Arc};

use bert_coordinator::Coordinator;
use bert_data::{BatchSource, DataError, MicroBatch, Tokenizer};
use bert_model::{
    Compute, GradientSink, ModelError, ParameterLayout,
    hf::{FileSink, HfError},
};
use bert_random::Key;

use crate::{
    checkpoint::manifest::Best,
    config::Config,
    control::BatchCounts,
    error::TrainError,
    figures::SlotFigures,
    metrics::{EvalLine, StepFigures},
    run_dir::RunDir,
};

/// Writes parameters, a slice per bucket in layout order, into an existing folder as Hugging Face reads them.
pub type FolderWriter =
    Box<dyn Fn(&mut dyn FileSink, &Path, &[Vec<f32>]) -> Result<(), HfError> + Send + Sync>;

/// A model as the step loop and the checkpoints see it.
pub trait TaskModel: Send + Sync {
    /// The order of the parameters.
    fn layout(&self) -> &ParameterLayout;

    /// Copies the parameters of a bucket to `out`, in layout order.
    fn read_bucket(&self, bucket_idx: usize, out: &mut [f32]);

    /// Lends a range of a bucket, counted in layout order.
    fn with_range<R>(&self, bucket_idx: usize, range: Range<usize>, read: impl FnOnce(&[f32]) -> R) -> R;

    /// Replaces the parameters of a bucket, in layout order. Returns memory of any length and content that is not needed any
    /// more, for the next gradient.
    fn replace_bucket(&mut self, bucket_idx: usize, values: Vec<f32>) -> Vec<f32>;

    /// Runs one slot forward and backward; the loss is divided by the counts of the global batch.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if the batch does not fit the model.
    fn train(
        &self,
        batch: &MicroBatch,
        dropout: Key,
        counts: BatchCounts,
        sink: &mut dyn GradientSink,
    ) -> Result<SlotFigures, ModelError>;

    /// What writes a model of this shape, on any thread.
    fn folder_writer(&self) -> FolderWriter;

    /// Reads the parameters of a folder that the [`folder_writer`](Self::folder_writer) wrote.
    ///
    /// # Errors
    ///
    /// [`TrainError`] if the folder does not hold this model.
    fn read_folder(&self, folder: &Path) -> Result<Vec<Vec<f32>>, TrainError>;
}

/// An evaluation.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The line in the metrics.
    pub line: EvalLine,
    /// What chooses the best checkpoint; higher is better. `None` where there is no best one.
    pub score: Option<f64>,
}

/// Data, model and evaluation of a task on one rank.
pub trait Task: Sized + Sync {
    /// What is trained.
    type Model: TaskModel;
    /// Where its batches come from.
    type Data: BatchSource;

    /// Opens the data on all ranks.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank.
    fn prepare(coordinator: &Coordinator, config: &Config) -> Result<Self, TrainError>;

    /// Builds the model: from initial weights keyed by the seed, or from a folder.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank, if the folder does not fit the configuration.
    fn model(
        &self,
        coordinator: &Coordinator,
        config: &Config,
        compute: Compute,
        folder: Option<&Path>,
    ) -> Result<Self::Model, TrainError>;

    /// Any batch of the run.
    fn data(&self) -> &Arc<Self::Data>;

    /// The tokenizer, saved beside the model.
    fn tokenizer(&self) -> &Tokenizer;

    /// Names the contents of the data.
    fn fingerprint(&self) -> &str;

    /// Epoch of a position of the endless sequence of samples.
    ///
    /// # Errors
    ///
    /// [`DataError`] if the data cannot be read.
    fn epoch_at(&self, position: u64) -> Result<u64, DataError>;

    /// A row of a batch in readable text.
    fn describe_row(&self, batch: &MicroBatch, row: usize) -> String;

    /// The figures of a step as they are logged.
    fn step_figures(&self, sums: &SlotFigures) -> StepFigures;

    /// Evaluates the model after `step` updates; `None` if nothing is held out.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank.
    fn evaluate(
        &self,
        coordinator: &Coordinator,
        model: &Self::Model,
        step: u64,
    ) -> Result<Option<Evaluation>, TrainError>;

    /// After the last step: what is done once, with the best checkpoint. Returns lines for the metrics.
    ///
    /// `model` may be changed. `has_trained` tells a run that ends now from one that had ended before.
    ///
    /// # Errors
    ///
    /// [`TrainError`], the same on every rank.
    fn conclude(
        &self,
        coordinator: &Coordinator,
        run_dir: &RunDir,
        model: &mut Self::Model,
        best: Option<&Best>,
        conclusion: Conclusion,
    ) -> Result<Vec<EvalLine>, TrainError>;
}

/// When a run concludes.
#[derive(Clone, Copy, Debug)]
pub struct Conclusion {
    /// The last step.
    pub last_step: u64,
    /// This start has trained a step: what an earlier start concluded is out of date.
    pub has_trained: bool,
}
