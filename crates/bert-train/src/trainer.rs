//! The state of training on one rank, and the parts of a step.
//!
//! Owns the model, the optimizer's state and the batch that is ready. The order of the parts is in [`crate::step`].

use bert_coordinator::{BucketPlan, Coordinator, ReducedSlice, SlotTree};
use bert_data::{DataError, Prefetcher, StepBatches};
use bert_kernels::among_threads;
use bert_model::{GradientSink, ParameterLayout};
use bert_random::{Key, Purpose};

use crate::{
    block_norms::squared_norms,
    config::{Config, OptimizerKind, OptimizerState},
    control::{BatchCounts, ControlWord, PhaseSeconds, sum_counts},
    error::TrainError,
    fault::Faults,
    figures::SlotFigures,
    machine,
    optimizer::{BucketState, Update, update_part},
    phase::PhaseClock,
    saver::report::SaveReport,
    step::count_batch,
    task::TaskModel,
};

/// Training on one rank.
pub struct Trainer<'a, M> {
    pub(crate) config: &'a Config,
    pub(crate) coordinator: &'a Coordinator,
    /// The model with the current parameters.
    pub model: M,
    pub(crate) layout: ParameterLayout,
    pub(crate) plans: Vec<BucketPlan>,
    /// Optimizer state of the own range of each bucket.
    pub states: Vec<BucketState>,
    trees: Vec<SlotTree>,
    /// Buckets with new parameters that wait until all are updated: without overlap, and where every rank updates all.
    held_back: Vec<Vec<f32>>,
    prefetcher: Prefetcher,
    ready: Option<StepBatches>,
    /// Counts of the global batch that is ready.
    pub(crate) counts: BatchCounts,
    /// Completed steps.
    pub num_steps: u64,
    pub(crate) last_seconds: PhaseSeconds,
    /// Faults that were asked for.
    pub faults: Faults,
}

/// Blocks that a thread updates at a time, up to 131,072 parameters: with gradients and moments they stay in the second cache.
const UPDATE_BLOCKS: usize = 8;

/// What a rank has to tell the others at the next step.
#[derive(Clone, Debug, Default)]
pub struct LocalState {
    /// A signal asked this rank to save and stop.
    pub wants_stop: bool,
    /// This rank cannot go on after the step: exit code and reason.
    pub failure: Option<(i32, String)>,
    /// How far this rank is with the save in the background.
    pub save: SaveReport,
    /// Seconds that training stood still for a checkpoint since the last step.
    pub save_seconds: f64,
}

/// Blocks of a bucket, from its tensors.
#[must_use]
pub fn bucket_plans(layout: &ParameterLayout) -> Vec<BucketPlan> {
    let lens = |bucket: &bert_model::BucketLayout| -> Vec<usize> {
        bucket.parameters.iter().map(|parameter| parameter.num_elements).collect()
    };
    layout.buckets.iter().map(|bucket| BucketPlan::from_tensor_lens(&lens(bucket))).collect()
}

/// Zero moments for what this rank updates.
#[must_use]
pub fn zero_states(config: &Config, coordinator: &Coordinator, layout: &ParameterLayout) -> Vec<BucketState> {
    let world = coordinator.world();
    let plans = bucket_plans(layout);
    let own_range = |plan: &BucketPlan, num_elements| match config.distributed.optimizer_state {
        OptimizerState::Sharded => plan.slice_of_rank(world.rank(), world.num_ranks()),
        OptimizerState::Replicated => 0..num_elements,
    };
    let buckets = layout.buckets.iter().zip(&plans);
    buckets.map(|(bucket, plan)| BucketState::new(bucket, own_range(plan, bucket.num_elements))).collect()
}

impl<'a, M: TaskModel> Trainer<'a, M> {
    /// Takes over a model and optimizer state after `num_steps` updates and fetches the first batch.
    ///
    /// # Errors
    ///
    /// [`TrainError`] if the first batch cannot be made on some rank.
    pub fn new(
        config: &'a Config,
        coordinator: &'a Coordinator,
        model: M,
        states: Vec<BucketState>,
        prefetcher: Prefetcher,
        num_steps: u64,
    ) -> Result<Self, TrainError> {
        let layout = model.layout().clone();
        let plans = bucket_plans(&layout);
        coordinator.set_buckets(plans.clone(), config.distributed.wire.into())?;
        let trees = layout.buckets.iter().map(|_| SlotTree::new()).collect();
        let mut trainer = Self {
            config,
            coordinator,
            model,
            layout,
            plans,
            states,
            trees,
            held_back: Vec::new(),
            prefetcher,
            ready: None,
            counts: BatchCounts::default(),
            num_steps,
            last_seconds: PhaseSeconds::default(),
            faults: Faults::default(),
        };
        trainer.fetch_first()?;
        Ok(trainer)
    }

    fn fetch_first(&mut self) -> Result<(), TrainError> {
        let first = self.prefetcher.next_step().map_err(TrainError::from);
        let batches = crate::ranks::agree(self.coordinator, "first batch", first)?;
        let own = count_batch(&batches);
        let word = ControlWord { next_counts: own, ..ControlWord::default() };
        self.counts = sum_counts(self.exchange(&word)?.iter().map(|word| word.next_counts));
        self.ready = Some(batches);
        Ok(())
    }

    pub(crate) fn take_batches(&mut self) -> Result<StepBatches, TrainError> {
        self.ready.take().ok_or_else(|| TrainError::Setup("a step was begun without a batch".to_string()))
    }

    /// Makes the batch of the next step ready and counts it.
    pub(crate) fn fetch_next(&mut self) -> Result<BatchCounts, DataError> {
        self.faults.read_next(self.num_steps + 1)?;
        let batches = self.prefetcher.next_step()?;
        let counts = count_batch(&batches);
        self.ready = Some(batches);
        Ok(counts)
    }

    /// Key of a step's dropout, to be completed by the slot.
    pub(crate) fn dropout_key(&self, step: u64) -> Key {
        Key::new(self.config.run.seed, Purpose::Dropout).with(step)
    }

    /// Runs all own slots; with overlap the buckets go to the reduction while the last slot is still in its backward
    /// pass.
    pub(crate) fn forward_backward(
        &mut self,
        step: u64,
        batches: &StepBatches,
        clock: &mut PhaseClock,
    ) -> Result<Vec<SlotFigures>, TrainError> {
        let dropout = self.dropout_key(step);
        let (num_slots, overlaps) = (batches.micro_batches.len(), self.overlaps());
        let mut figures = Vec::with_capacity(num_slots);
        for (idx, batch) in batches.micro_batches.iter().enumerate() {
            let mut sink = SlotSink {
                step,
                layout: &self.layout,
                faults: &self.faults,
                trees: &mut self.trees,
                reduction: (idx + 1 == num_slots && overlaps).then_some(self.coordinator),
                num_buckets_done: 0,
                clock,
                error: None,
            };
            let key = dropout.with(batch.slot as u64);
            let (model, counts) = (&self.model, self.counts);
            // Nothing in there waits for other ranks: those of a debug run share the pool, and one of its threads may take up
            // the slot of one rank while it waits for a kernel of another.
            let result = among_threads(|| model.train(batch, key, counts, &mut sink));
            let (num_done, error) = (sink.num_buckets_done, sink.error.take());
            clock.lap(|seconds| &mut seconds.backward);
            match (result, error) {
                (Ok(slot_figures), None) => figures.push(slot_figures),
                (Ok(_), Some(error)) => return Err(error.into()),
                (Err(error), _) => {
                    self.reduce_zeros(num_done);
                    return Err(error.into());
                }
            }
        }
        Ok(figures)
    }

    /// Takes part in the reduction of a step that this rank could not compute: the others must not wait.
    fn reduce_zeros(&mut self, first_bucket: usize) {
        for (idx, bucket) in self.layout.buckets.iter().enumerate().skip(first_bucket) {
            self.trees[idx] = SlotTree::new();
            // A dead communication thread is reported by the finish of the reduction.
            let _ = self.coordinator.reduce_start(idx, vec![0.0; bucket.num_elements]);
        }
    }

    /// Whether messages travel while there is something else to do.
    fn overlaps(&self) -> bool {
        self.config.distributed.overlap
    }

    /// Without overlap: starts the reduction of all buckets, after the backward pass of this step.
    pub(crate) fn start_late_reduction(&mut self) -> Result<(), TrainError> {
        if self.overlaps() {
            return Ok(());
        }
        for (idx, tree) in self.trees.iter_mut().enumerate() {
            self.coordinator.reduce_start(idx, tree.finish())?;
        }
        Ok(())
    }

    /// Waits for the own slices of all buckets.
    pub(crate) fn finish_reduction(&mut self) -> Result<Vec<ReducedSlice>, TrainError> {
        let mut slices = Vec::with_capacity(self.plans.len());
        for idx in 0..self.plans.len() {
            slices.push(self.coordinator.reduce_finish(idx)?);
        }
        Ok(slices)
    }

    pub(crate) fn control_word(
        &self,
        step: u64,
        local: &LocalState,
        batches: &StepBatches,
        outcome: Result<Vec<SlotFigures>, TrainError>,
        next: Result<BatchCounts, DataError>,
        slices: &[ReducedSlice],
    ) -> ControlWord {
        let is_spoiled = outcome.is_err();
        let words_of = |error: &TrainError| {
            let failure = error.to_failure();
            (failure.exit_code, failure.message)
        };
        let model_failure = outcome.as_ref().err().map(words_of);
        let next = next.map_err(TrainError::from);
        let data_failure = next.as_ref().err().map(words_of);
        ControlWord {
            step,
            is_spoiled,
            wants_stop: local.wants_stop,
            num_tokens: batches
                .micro_batches
                .iter()
                .flat_map(|batch| &batch.lengths)
                .map(|len| u64::from(*len))
                .sum(),
            num_positions: batches.micro_batches.iter().map(|batch| batch.input_ids.len() as u64).sum(),
            next_counts: next.unwrap_or_default(),
            peak_rss_bytes: machine::peak_rss_bytes(),
            seconds: self.last_seconds,
            slots: outcome.unwrap_or_default(),
            block_norms: self.own_gradient_norms(slices),
            failure: model_failure.or(data_failure).or_else(|| local.failure.clone()),
            save: local.save.clone(),
        }
    }

    /// Gathers the words of all ranks.
    pub(crate) fn exchange(&self, word: &ControlWord) -> Result<Vec<ControlWord>, TrainError> {
        if self.faults.skips_exchange(word.step) {
            return Ok(vec![word.clone(); self.coordinator.world().num_ranks()]);
        }
        let gathered = self.coordinator.all_gather_bytes("control word", &word.encode())?;
        let mut words = Vec::with_capacity(gathered.len());
        for (rank, bytes) in gathered.iter().enumerate() {
            match ControlWord::decode(bytes) {
                Some(other) if other.step == word.step => words.push(other),
                _ => {
                    return Err(TrainError::Setup(format!(
                        "rank {rank} sent another control word than that of step {}",
                        word.step
                    )));
                }
            }
        }
        Ok(words)
    }

    /// Updates the own range of every bucket and sends the new parameters on their way. Returns the squared norms of the
    /// own blocks of them, bucket by bucket, if asked for.
    pub(crate) fn update(
        &mut self,
        update: Update,
        slices: Vec<ReducedSlice>,
        with_norms: bool,
        clock: &mut PhaseClock,
    ) -> Result<Option<Vec<f64>>, TrainError> {
        let mut norms = with_norms.then(Vec::new);
        if self.config.optimizer.kind == OptimizerKind::Lamb {
            self.update_with_lamb(update, slices, norms.as_mut(), clock)?;
        } else {
            for (idx, slice) in self.share_gradients(slices)?.into_iter().enumerate() {
                let mut gradient = self.own_gradient(idx, slice)?;
                clock.lap(|seconds| &mut seconds.communication_exposed);
                among_threads(|| self.update_own_range(idx, update, &mut gradient, norms.as_mut()));
                self.send_parameters(idx, gradient)?;
                clock.lap(|seconds| &mut seconds.optimizer);
            }
        }
        Ok(norms)
    }

    /// Updates the own range of a bucket with AdamW; the new parameters take the place of the gradient.
    ///
    /// In parts of whole blocks that stay in the second cache, so that parameters and gradients pass through memory once.
    fn update_own_range(
        &mut self,
        bucket_idx: usize,
        update: Update,
        gradient: &mut ReducedSlice,
        mut norms: Option<&mut Vec<f64>>,
    ) {
        let plan = &self.plans[bucket_idx];
        let ReducedSlice { range, bucket } = gradient;
        let num_blocks = UPDATE_BLOCKS * rayon::current_num_threads();
        for blocks in plan.blocks_within(range).chunks(num_blocks) {
            let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { continue };
            let part = first.offset..last.offset + last.len;
            let (grads, start) = (&mut bucket[part.clone()], part.start - range.start);
            let (state, section) = (&mut self.states[bucket_idx], &self.config.optimizer);
            self.model.with_range(bucket_idx, part.clone(), |params| {
                update_part(state, section, update, start, params, grads);
            });
            if let Some(norms) = &mut norms {
                norms.extend(squared_norms(plan, &part, &bucket[part.clone()]));
            }
        }
    }

    /// Where every rank updates everything: starts to give the own slices of the gradient to all ranks.
    pub(crate) fn share_gradients(
        &self,
        mut slices: Vec<ReducedSlice>,
    ) -> Result<Vec<ReducedSlice>, TrainError> {
        if self.config.distributed.optimizer_state == OptimizerState::Replicated {
            for (idx, slice) in slices.iter_mut().enumerate() {
                self.coordinator.gather_start(idx, std::mem::take(&mut slice.bucket))?;
            }
        }
        Ok(slices)
    }

    /// The gradient of the range that this rank updates.
    pub(crate) fn own_gradient(
        &self,
        bucket_idx: usize,
        slice: ReducedSlice,
    ) -> Result<ReducedSlice, TrainError> {
        if self.is_sharded() {
            return Ok(slice);
        }
        let bucket = self.coordinator.gather_finish(bucket_idx)?;
        Ok(ReducedSlice { range: 0..bucket.len(), bucket })
    }

    /// Sends the new parameters of the own range, which stand in the place of its gradient, to the other ranks, where they
    /// have no state to update them.
    pub(crate) fn send_parameters(&mut self, bucket_idx: usize, own: ReducedSlice) -> Result<(), TrainError> {
        let bucket = own.bucket;
        if self.is_sharded() && self.overlaps() {
            self.coordinator.gather_start(bucket_idx, bucket)?;
        } else {
            self.held_back.push(bucket);
        }
        Ok(())
    }

    /// Puts the new parameters of all ranks into the model. What they leave is the memory of the next gradient.
    pub(crate) fn gather_parameters(&mut self, clock: &mut PhaseClock) -> Result<(), TrainError> {
        let mut complete = std::mem::take(&mut self.held_back);
        if self.is_sharded() {
            for (idx, bucket) in complete.drain(..).enumerate() {
                self.coordinator.gather_start(idx, bucket)?;
            }
        }
        let mut complete = complete.into_iter();
        for (idx, tree) in self.trees.iter_mut().enumerate() {
            let params = match complete.next() {
                Some(params) => params,
                None => self.coordinator.gather_finish(idx)?,
            };
            clock.lap(|seconds| &mut seconds.communication_exposed);
            tree.give_back(self.model.replace_bucket(idx, params));
            clock.lap(|seconds| &mut seconds.optimizer);
        }
        Ok(())
    }

    fn is_sharded(&self) -> bool {
        self.config.distributed.optimizer_state == OptimizerState::Sharded
    }
}

/// Takes the gradients of one slot: into the tree of each bucket, and after the last slot on to the other ranks.
struct SlotSink<'t> {
    step: u64,
    layout: &'t ParameterLayout,
    faults: &'t Faults,
    trees: &'t mut [SlotTree],
    reduction: Option<&'t Coordinator>,
    num_buckets_done: usize,
    clock: &'t mut PhaseClock,
    error: Option<bert_coordinator::CoordinatorError>,
}

impl GradientSink for SlotSink<'_> {
    fn forward_done(&mut self) {
        self.clock.lap(|seconds| &mut seconds.forward);
    }

    fn buffer(&mut self, bucket_idx: usize) -> Vec<f32> {
        // The bucket's own spare memory first; what a merge in another tree left over is better than more memory.
        let has_own = self.trees[bucket_idx].spare_capacity() > 0;
        let largest = (0..self.trees.len()).max_by_key(|&idx| self.trees[idx].spare_capacity());
        let donor = if has_own { bucket_idx } else { largest.unwrap_or(bucket_idx) };
        self.trees[donor].take_buffer()
    }

    fn bucket(&mut self, bucket_idx: usize, mut gradient: Vec<f32>) {
        let tree = &mut self.trees[bucket_idx];
        self.faults.spoil(self.step, &self.layout.buckets[bucket_idx], &mut gradient);
        tree.push(gradient);
        if let Some(coordinator) = self.reduction {
            let mut sum = tree.finish();
            self.faults.stretch(self.step, bucket_idx, &mut sum);
            self.error = coordinator.reduce_start(bucket_idx, sum).err().or(self.error.take());
            self.num_buckets_done = bucket_idx + 1;
        }
    }
}
