//! A step of LAMB over the ranks.
//!
//! Owns what AdamW has no need of: the norms of whole parameters and of their updates, whose pieces lie on several
//! ranks. They are sums over the blocks of the gradient norm, in block order, so they do not depend on the ranks. The
//! arithmetic is `bert_kernels::lamb`.

use bert_coordinator::{Block, ReducedSlice};
use bert_kernels::{lamb, lamb::LambStep, slices::squared_norm};
use bert_model::ParameterSpec;

use crate::{
    config::OptimizerState, error::TrainError, optimizer::Update, phase::PhaseClock, task::TaskModel,
    trainer::Trainer,
};

/// Squared norms of a piece of a parameter: of its values and of its update.
type NormPair = [f64; 2];

impl<M: TaskModel> Trainer<'_, M> {
    /// Updates the own range of every bucket with LAMB and sends the new parameters on their way.
    pub(crate) fn update_with_lamb(
        &mut self,
        update: Update,
        slices: Vec<ReducedSlice>,
        clock: &mut PhaseClock,
    ) -> Result<(), TrainError> {
        let (mut directions, mut own_pairs) = (Vec::with_capacity(slices.len()), Vec::new());
        for (idx, slice) in self.share_gradients(slices)?.into_iter().enumerate() {
            let gradient = self.own_gradient(idx, slice)?;
            clock.lap(|seconds| &mut seconds.communication_exposed);
            let params = self.take_params(idx);
            let direction = self.lamb_direction(idx, update, &params, gradient.values());
            self.push_norm_pairs(idx, &params, &direction, &mut own_pairs);
            self.keep_params(params);
            directions.push((direction, gradient));
        }
        clock.lap(|seconds| &mut seconds.optimizer);
        let pairs = self.exchange_norm_pairs(own_pairs)?;
        let ratios = self.trust_ratios(&pairs);
        clock.lap(|seconds| &mut seconds.communication_exposed);
        for (idx, ((direction, gradient), ratios)) in directions.into_iter().zip(&ratios).enumerate() {
            let mut params = self.take_params(idx);
            let own_range = &self.states[idx].range;
            for (spec, ratio) in self.layout.buckets[idx].parameters.iter().zip(ratios) {
                let part = own_part(spec, own_range);
                let step_size = update.learning_rate * ratio;
                lamb::apply(step_size, &mut params[part.clone()], &direction[part]);
            }
            self.send_parameters(idx, gradient, params)?;
            clock.lap(|seconds| &mut seconds.optimizer);
        }
        Ok(())
    }

    /// Moves the moments of the own range of a bucket and returns its update before the trust ratio.
    fn lamb_direction(
        &mut self,
        bucket_idx: usize,
        update: Update,
        params: &[f32],
        grads: &[f32],
    ) -> Vec<f32> {
        let section = &self.config.optimizer;
        let state = &mut self.states[bucket_idx];
        let mut direction = vec![0.0; params.len()];
        for spec in &self.layout.buckets[bucket_idx].parameters {
            let part = own_part(spec, &state.range);
            let rule = LambStep {
                beta1: section.betas[0],
                beta2: section.betas[1],
                epsilon: section.epsilon,
                weight_decay: if spec.decay { section.weight_decay } else { 0.0 },
                step: update.step,
                grad_scale: update.clip_factor,
            };
            lamb::update(
                &rule,
                &params[part.clone()],
                &grads[part.clone()],
                &mut state.first_moment[part.clone()],
                &mut state.second_moment[part.clone()],
                &mut direction[part],
            );
        }
        direction
    }

    /// Norms of the own blocks of a bucket, in block order, of its parameters and of their update.
    fn push_norm_pairs(
        &self,
        bucket_idx: usize,
        params: &[f32],
        direction: &[f32],
        pairs: &mut Vec<NormPair>,
    ) {
        let range = &self.states[bucket_idx].range;
        let is_own = |block: &&Block| range.contains(&block.offset);
        for block in self.plans[bucket_idx].blocks().iter().filter(is_own) {
            let part = block.offset - range.start..block.offset - range.start + block.len;
            pairs.push([squared_norm(&params[part.clone()]), squared_norm(&direction[part])]);
        }
    }

    /// The norms of all blocks, bucket by bucket, in block order.
    fn exchange_norm_pairs(&self, own: Vec<NormPair>) -> Result<Vec<NormPair>, TrainError> {
        if self.config.distributed.optimizer_state == OptimizerState::Replicated {
            return Ok(own);
        }
        let bytes: Vec<u8> = own.iter().flatten().flat_map(|norm| norm.to_le_bytes()).collect();
        let gathered = self.coordinator.all_gather_bytes("norms of the parameters", &bytes)?;
        let num_ranks = gathered.len();
        let mut per_rank: Vec<_> = gathered.iter().map(|bytes| bytes.as_chunks::<16>().0.iter()).collect();
        let mut pairs = Vec::new();
        for plan in &self.plans {
            for (rank, norms) in per_rank.iter_mut().enumerate() {
                for _ in plan.blocks_of_rank(rank, num_ranks) {
                    let Some(bytes) = norms.next() else {
                        let message = format!("rank {rank} sent fewer norms than it has blocks");
                        return Err(TrainError::Setup(message));
                    };
                    let [norm, update] = [0, 8].map(|at| {
                        let mut half = [0; 8];
                        half.copy_from_slice(&bytes[at..at + 8]);
                        f64::from_le_bytes(half)
                    });
                    pairs.push([norm, update]);
                }
            }
        }
        Ok(pairs)
    }

    /// The trust ratio of every parameter, bucket by bucket; 1 for those without decay, as in apex.
    fn trust_ratios(&self, pairs: &[NormPair]) -> Vec<Vec<f64>> {
        let mut pairs = pairs.iter();
        let mut ratios = Vec::with_capacity(self.plans.len());
        for (plan, bucket) in self.plans.iter().zip(&self.layout.buckets) {
            let mut blocks = plan.blocks().iter().zip(&mut pairs).peekable();
            let ratio_of = |spec: &ParameterSpec| {
                let mut sums = [0.0; 2];
                while let Some((_, norms)) =
                    blocks.next_if(|(block, _)| block.offset < spec.offset + spec.num_elements)
                {
                    sums = [sums[0] + norms[0], sums[1] + norms[1]];
                }
                if spec.decay { lamb::trust_ratio(sums[0].sqrt(), sums[1].sqrt()) } else { 1.0 }
            };
            ratios.push(bucket.parameters.iter().map(ratio_of).collect());
        }
        ratios
    }
}

/// The elements of a parameter that the own range holds, counted from the start of the own range.
fn own_part(spec: &ParameterSpec, own_range: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    let within = |at: usize| at.clamp(own_range.start, own_range.end) - own_range.start;
    within(spec.offset)..within(spec.offset + spec.num_elements)
}
