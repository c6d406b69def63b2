//! Batches of pre-training data by position: the same for every number of ranks, threads and restarts.
//!
//! ```text
//! step -> positions in one endless sequence -> epoch, index -> permuted samples -> slots -> rows -> masked rows
//! ```
//! Every arrow is a pure function of the corpus, the settings and the seed. What is kept between calls is a
//! cache.

mod ahead;
mod evaluation;
mod slots;

pub use evaluation::EvalBaselines;

use crate::batch::{MicroBatch, RowParts, Sample};
use crate::config::{MaskMode, PretrainDataConfig, SampleOrder, SentenceObjective};
use crate::corpus::Corpus;
use crate::error::DataError;
use crate::masking::{Choice, Masked, Masker};
use crate::pairs::{Row, build_row};
use crate::plan::{
    EpochPlan, MIN_SAMPLE_TOKENS, PlanContext, PlanRules, PlanSite, PlannedSample, Runs, Sources, Windows,
};
use crate::split::{Side, Split};
use crate::tokenizer::SpecialIds;
use bert_random::{Key, Purpose};
use serde::Serialize;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Plans kept at a time: a batch touches two epochs at most.
const MAX_CACHED_PLANS: usize = 3;

/// Where a position of the endless sequence of samples lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplePosition {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Index in the order of that epoch.
    pub index_in_epoch: u64,
    /// Index in the plan of that epoch, in document order.
    pub sample_idx: u64,
}

/// One source in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SourceFigures {
    /// How often it is read in an epoch.
    pub weight: f64,
    /// Its documents, the held-out ones included.
    pub num_documents: u64,
    /// Samples of the epoch.
    pub num_samples: u64,
}

/// Pre-training data: share it between threads behind an [`Arc`].
pub struct PretrainData {
    context: PlanContext,
    config: PretrainDataConfig,
    masker: Masker,
    special: SpecialIds,
    epochs: Mutex<Epochs>,
    /// Windows whose documents were read.
    read_windows: Mutex<ahead::ReadWindows>,
    /// Slots that were filled.
    slot_groups: Mutex<slots::SlotGroups>,
    /// Samples of the held-out documents, if any are held out.
    held_out: Option<EpochPlan>,
}

/// What has been computed about epochs so far.
struct Epochs {
    /// Position at which epoch 0, 1, .. begins.
    starts: Vec<u64>,
    /// Most recently computed plans, by copy.
    plans: VecDeque<(u64, Arc<EpochPlan>)>,
    /// Most recently computed windows, by epoch.
    windows: VecDeque<(u64, Arc<Windows>)>,
}

/// The keys of one sample.
struct SampleKeys {
    pair: Key,
    mask: Key,
}

/// Memory of one sample, used again for the next.
#[derive(Default)]
struct Workspace {
    row: Row,
    choice: Choice,
    masked: Masked,
}

impl std::fmt::Debug for PretrainData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PretrainData")
            .field("corpus", &self.context.corpus)
            .field("config", &self.config)
            .finish()
    }
}

impl PretrainData {
    /// Checks the settings, splits the documents and plans the first epoch.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] for a setting out of range; [`DataError::TooFewDocuments`] if the objective
    /// cannot be had with this corpus; [`DataError::NoSamples`]; [`DataError::Io`].
    pub fn new(corpus: Arc<Corpus>, config: PretrainDataConfig) -> Result<Self, DataError> {
        config.validate()?;
        let manifest = corpus.manifest();
        let special = manifest.special;
        let vocab_size = manifest.vocab_size as usize;
        let masker = Masker::new(&config.masking, special, &manifest.special_ids, vocab_size)?;
        let objective = config.objective;
        let split = Split::new(
            corpus.num_documents(),
            config.validation_fraction,
            objective.min_documents(),
            objective.name(),
            config.seed,
        )?;
        let rules = PlanRules {
            objective,
            max_tokens: config.max_tokens() as u64,
            short_seq_prob: config.short_seq_prob,
        };
        let sources = Sources::new(&corpus, &config.source_weights, config.seed)?;
        let (runs, order) = (Runs::new(&corpus)?, config.order);
        let context = PlanContext { corpus, runs, split, sources, rules, order };
        let held_out = evaluation::plan_held_out(&context, config.seed)?;
        let epochs = Epochs { starts: vec![0], plans: VecDeque::new(), windows: VecDeque::new() };
        let epochs = Mutex::new(epochs);
        let (read_windows, slot_groups) = (Mutex::default(), Mutex::default());
        let data = Self { context, config, masker, special, epochs, read_windows, slot_groups, held_out };
        if data.num_samples(0)? == 0 {
            return Err(DataError::NoSamples { place: "training", expected: MIN_SAMPLE_TOKENS });
        }
        Ok(data)
    }

    /// The settings.
    pub fn config(&self) -> &PretrainDataConfig {
        &self.config
    }

    /// The corpus.
    pub fn corpus(&self) -> &Corpus {
        &self.context.corpus
    }

    /// Samples in an epoch. Epochs differ a little, since every one is cut anew.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if sentence lengths cannot be read.
    pub fn num_samples(&self, epoch: u64) -> Result<u64, DataError> {
        let is_planned = self.lock().plans.iter().any(|(known, _)| *known == self.copy(epoch));
        let known = (!is_planned)
            .then(|| EpochPlan::known_num_samples(&self.context, &self.plan_site(self.copy(epoch))));
        match known.flatten() {
            Some(num_samples) => Ok(num_samples),
            None => Ok(self.plan(epoch)?.num_samples()),
        }
    }

    /// Position at which an epoch begins, so `position_of_epoch(n)` samples make `n` epochs.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if sentence lengths cannot be read.
    pub fn position_of_epoch(&self, epoch: u64) -> Result<u64, DataError> {
        loop {
            let known = {
                let epochs = self.lock();
                if let Some(&start) = epochs.starts.get(epoch as usize) {
                    return Ok(start);
                }
                epochs.starts.len() as u64 - 1
            };
            self.extend_epochs(known)?;
        }
    }

    /// Epoch and sample of a position of the endless sequence.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if sentence lengths cannot be read.
    pub fn locate(&self, position: u64) -> Result<SamplePosition, DataError> {
        Ok(self.find(position)?.0)
    }

    /// The masked sample at a position, with all that is known about it.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if the shards cannot be read.
    pub fn sample(&self, position: u64) -> Result<Sample, DataError> {
        let (SamplePosition { epoch, .. }, planned) = self.find(position)?;
        self.realize(&planned, epoch, &self.sample_keys(epoch, planned.sample_idx))
    }

    fn sample_keys(&self, epoch: u64, sample_idx: u64) -> SampleKeys {
        let copy = self.copy(epoch);
        let key = |purpose| Key::new(self.config.seed, purpose).with(copy).with(sample_idx);
        SampleKeys { pair: key(Purpose::Pair), mask: key(Purpose::Mask) }
    }

    /// The epoch of a position, and where it begins.
    fn find_epoch(&self, position: u64) -> Result<(u64, u64), DataError> {
        loop {
            let known = {
                let epochs = self.lock();
                let num_started = epochs.starts.partition_point(|&start| start <= position);
                if num_started < epochs.starts.len() {
                    return Ok((num_started as u64 - 1, epochs.starts[num_started - 1]));
                }
                epochs.starts.len() as u64 - 1
            };
            self.extend_epochs(known)?;
        }
    }

    /// Where a position lies, and the sample there.
    fn find(&self, position: u64) -> Result<(SamplePosition, PlannedSample), DataError> {
        let (epoch, start) = self.find_epoch(position)?;
        let index_in_epoch = position - start;
        let order_key = Key::new(self.config.seed, Purpose::Order).with(epoch);
        let plan = self.plan(epoch)?;
        let planned = match self.windows(epoch, &plan, order_key) {
            None => plan.at(&self.context, order_key, index_in_epoch)?,
            Some(windows) => {
                self.read_window(epoch, &windows, index_in_epoch)?;
                windows.at(&self.context, &plan, index_in_epoch)?
            }
        };
        Ok((SamplePosition { epoch, index_in_epoch, sample_idx: planned.sample_idx }, planned))
    }

    fn start_batch(&self, step: u64, slot: usize, max_rows: usize) -> MicroBatch {
        MicroBatch::start(step, slot, max_rows, self.config.max_seq_length)
    }

    /// [`PretrainData::realize`] straight into a micro-batch.
    fn push_sample(
        &self,
        planned: &PlannedSample,
        keys: &SampleKeys,
        workspace: &mut Workspace,
        batch: &mut MicroBatch,
    ) -> Result<(), DataError> {
        let Workspace { row, choice, masked } = workspace;
        build_row(&self.context, planned, self.special, keys.pair, row)?;
        self.masker.mask_into(&row.tokens, &row.word_starts, keys.mask, choice, masked);
        let parts = RowParts {
            sample_idx: planned.sample_idx,
            input_ids: &masked.input_ids,
            token_type_ids: &row.token_type_ids,
            mlm_positions: &masked.positions,
            mlm_labels: &masked.labels,
            nsp_label: row.label,
        };
        batch.push(&parts, self.special.pad);
        Ok(())
    }

    /// Reads, pairs and masks a planned sample.
    fn realize(&self, planned: &PlannedSample, epoch: u64, keys: &SampleKeys) -> Result<Sample, DataError> {
        let mut row = Row::default();
        build_row(&self.context, planned, self.special, keys.pair, &mut row)?;
        let masked = self.masker.mask(&row.tokens, &row.word_starts, keys.mask);
        Ok(Sample {
            epoch,
            sample_idx: planned.sample_idx,
            document: planned.document,
            other_document: row.other_document,
            original_ids: row.tokens,
            input_ids: masked.input_ids,
            token_type_ids: row.token_type_ids,
            word_starts: row.word_starts,
            mlm_positions: masked.positions,
            mlm_labels: masked.labels,
            replacements: masked.replacements,
            units: masked.units,
            nsp_label: row.label,
            num_truncated: row.num_truncated,
        })
    }

    /// What keys samples and masks: the epoch, or the static copy it repeats.
    fn copy(&self, epoch: u64) -> u64 {
        match self.config.masking.mode {
            MaskMode::Dynamic => epoch,
            MaskMode::Static { num_copies } => epoch % num_copies,
        }
    }

    /// The plan of an epoch. Computed outside the lock: two threads may do it twice, never wait for each
    /// other.
    fn plan(&self, epoch: u64) -> Result<Arc<EpochPlan>, DataError> {
        let copy = self.copy(epoch);
        if let Some(plan) = self.cached_plan(copy) {
            return Ok(plan);
        }
        let plan = Arc::new(EpochPlan::new(&self.context, self.plan_site(copy))?);
        self.keep_plan(copy, plan.clone());
        Ok(plan)
    }

    fn cached_plan(&self, copy: u64) -> Option<Arc<EpochPlan>> {
        self.lock().plans.iter().find(|(known, _)| *known == copy).map(|(_, plan)| plan.clone())
    }

    fn keep_plan(&self, copy: u64, plan: Arc<EpochPlan>) {
        let mut epochs = self.lock();
        if !epochs.plans.iter().any(|(known, _)| *known == copy) {
            epochs.plans.push_back((copy, plan));
            if epochs.plans.len() > MAX_CACHED_PLANS {
                epochs.plans.pop_front();
            }
        }
    }

    fn plan_site(&self, copy: u64) -> PlanSite {
        let key = Key::new(self.config.seed, Purpose::SamplePlan).with(copy);
        PlanSite::training(&self.context, key, copy)
    }

    /// What each source of the shards gives in an epoch.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if sentence lengths cannot be read.
    pub fn sources(&self, epoch: u64) -> Result<Vec<SourceFigures>, DataError> {
        let plan = self.plan(epoch)?;
        let figures = |(documents, weight): (Range<u64>, f64)| SourceFigures {
            weight,
            num_documents: documents.end - documents.start,
            num_samples: plan.num_samples_of(&self.context, &documents),
        };
        Ok(self.context.sources.iter().map(figures).collect())
    }

    /// The windows of an epoch; `None` if the order is not by blocks.
    fn windows(&self, epoch: u64, plan: &EpochPlan, order_key: Key) -> Option<Arc<Windows>> {
        if self.config.order == SampleOrder::Global {
            return None;
        }
        let mut epochs = self.lock();
        if let Some((_, windows)) = epochs.windows.iter().find(|(known, _)| *known == epoch) {
            return Some(windows.clone());
        }
        let windows = Arc::new(Windows::new(&self.context, plan, order_key)?);
        epochs.windows.push_back((epoch, windows.clone()));
        if epochs.windows.len() > MAX_CACHED_PLANS {
            epochs.windows.pop_front();
        }
        Some(windows)
    }

    /// Finds out where the epoch after `epoch` begins, if nobody else has.
    fn extend_epochs(&self, epoch: u64) -> Result<(), DataError> {
        let num_samples = self.num_samples(epoch)?;
        let mut epochs = self.lock();
        if epochs.starts.len() as u64 == epoch + 1 {
            let next = epochs.starts[epoch as usize] + num_samples;
            epochs.starts.push(next);
        }
        Ok(())
    }

    /// The cache; what a panicking thread left in it is still true.
    fn lock(&self) -> MutexGuard<'_, Epochs> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How rows are masked.
    pub(crate) fn masker(&self) -> &Masker {
        &self.masker
    }

    /// Whether a document is trained on.
    pub(crate) fn is_trained_on(&self, document: u64) -> bool {
        self.context.split.side(document) == Side::Training
    }

    /// Whether the document of a random second segment is drawn uniformly from all documents of its side.
    pub(crate) fn has_uniform_partners(&self) -> bool {
        self.config.order == SampleOrder::Global && self.context.sources.are_equal()
    }

    /// The objective about two segments.
    pub fn objective(&self) -> SentenceObjective {
        self.config.objective
    }
}

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod scale_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod tests;
