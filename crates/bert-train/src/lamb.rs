//! A step of LAMB over the ranks.
//!
//! Owns what AdamW has no need of: the norms of whole parameters and of their updates, whose pieces lie on several
//! ranks. They are sums over the blocks of the gradient norm, in block order, so they do not depend on the ranks. The
//! arithmetic is `bert_kernels::lamb`.

use bert_coordinator::ReducedSlice;
use bert_kernels::{lamb, lamb::LambStep};
use bert_model::ParameterSpec;

use crate::{
    block_norms::squared_norms, error::TrainError, optimizer::Update, phase::PhaseClock, task::TaskModel,
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
        mut norms: Option<&mut Vec<f64>>,
        clock: &mut PhaseClock,
    ) -> Result<(), TrainError> {
        let (mut directions, mut own_pairs) = (Vec::with_capacity(slices.len()), Vec::new());
        for (idx, slice) in self.share_gradients(slices)?.into_iter().enumerate() {
            let gradient = self.own_gradient(idx, slice)?;
            clock.lap(|seconds| &mut seconds.communication_exposed);
            let params = self.own_params(idx);
            let direction = self.lamb_direction(idx, update, &params, gradient.values());
            self.push_norm_pairs(idx, &params, &direction, &mut own_pairs);
            directions.push((direction, gradient));
        }
        clock.lap(|seconds| &mut seconds.optimizer);
        let pairs = self.gather_norms(own_pairs)?;
        let ratios = self.trust_ratios(&pairs);
        clock.lap(|seconds| &mut seconds.communication_exposed);
        for (idx, ((direction, mut gradient), ratios)) in directions.into_iter().zip(&ratios).enumerate() {
            let own_range = self.states[idx].range.clone();
            // The gradient is not needed any more.
            let params = &mut gradient.bucket[own_range.clone()];
            self.model.with_range(idx, own_range.clone(), |old| params.copy_from_slice(old));
            for (spec, ratio) in self.layout.buckets[idx].parameters.iter().zip(ratios) {
                let part = own_part(spec, &own_range);
                let step_size = update.learning_rate * ratio;
                lamb::apply(step_size, &mut params[part.clone()], &direction[part]);
            }
            if let Some(norms) = &mut norms {
                norms.extend(squared_norms(&self.plans[idx], &own_range, params));
            }
            self.send_parameters(idx, gradient)?;
            clock.lap(|seconds| &mut seconds.optimizer);
        }
        Ok(())
    }

    fn own_params(&self, bucket_idx: usize) -> Vec<f32> {
        let range = self.states[bucket_idx].range.clone();
        self.model.with_range(bucket_idx, range, <[f32]>::to_vec)
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
        let norms = |values| squared_norms(&self.plans[bucket_idx], range, values);
        let both = norms(params).into_iter().zip(norms(direction));
        pairs.extend(both.map(|(params, update)| [params, update]));
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
