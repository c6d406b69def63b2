//! A BERT with one class per row, run stage by stage like the model for pre-training.
//!
//! Stages and their backward passes are those of [`crate::PretrainModel`], with another last stage: the pooled
//! states of each row, dropout, a linear map. There is no head for masked tokens. Pooling happens between two
//! detached boundaries, on plain slices; labels are numbers here, and metrics are the business of the caller.

mod config;
mod head;

use std::ops::Range;

use bert_random::Key;
use burn::{Tensor, module::Module};

use crate::{
    batch::{ClassifyBatch, PretrainBatch, TokenBatch},
    compute::Compute,
    error::ModelError,
    init::initial_bucket,
    layout::{BucketLayout, ParameterLayout},
    loss::{CrossEntropy, cross_entropy},
    ops::raw,
    parameters,
    rows::BatchTokens,
    stages::{EncoderPass, GradientSink, LastGradients, Stages, buffer, leaf, loss_root, take_gradient},
};

pub use config::ClassifierConfig;
use head::ClassifierHead;

/// Unscaled sums over one micro-batch of classified rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassLosses {
    /// Sum of the negative log-likelihoods (nats) of the labels.
    pub loss_sum: f64,
    /// Number of rows.
    pub num_rows: u64,
    /// Rows whose label has the highest logit.
    pub num_correct: u64,
}

/// A BERT with a classifier: its stages and their parameters.
#[derive(Debug)]
pub struct ClassifyModel {
    config: ClassifierConfig,
    stages: Stages<ClassifierHead>,
}

/// Everything backward starts from.
struct ForwardPass {
    tokens: BatchTokens,
    encoder: EncoderPass,
    pooled: Tensor<2>,
    logits: Tensor<2>,
}

impl ClassifyModel {
    /// Builds a model with initial weights that depend on `init_key` and the parameters' names only.
    ///
    /// # Errors
    ///
    /// As [`crate::PretrainModel::init`].
    pub fn init(
        config: &ClassifierConfig,
        init_key: Key,
        compute: impl Into<Compute>,
    ) -> Result<Self, ModelError> {
        Self::build(config, compute.into(), |bucket, _| initial_bucket(&config.model, bucket, init_key))
    }

    /// Builds a model from the values of its buckets, in layout order.
    ///
    /// # Errors
    ///
    /// As [`crate::PretrainModel::from_buckets`].
    pub fn from_buckets(
        config: &ClassifierConfig,
        buckets: &[Vec<f32>],
        compute: impl Into<Compute>,
    ) -> Result<Self, ModelError> {
        Self::build(config, compute.into(), |_, bucket_idx| {
            buckets.get(bucket_idx).cloned().unwrap_or_default()
        })
    }

    /// Builds a model from the values of its buckets, which `values` gives for each bucket and its index, once, in any order.
    ///
    /// # Errors
    ///
    /// As [`crate::PretrainModel::from_buckets`].
    pub fn build(
        config: &ClassifierConfig,
        compute: Compute,
        values: impl FnMut(&BucketLayout, usize) -> Vec<f32>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let layout = ParameterLayout::for_classifier(&config.model, config.labels.len());
        let stages = Stages::build(&config.model, layout, compute, values, |bucket, values, device| {
            ClassifierHead::load(config, bucket, values, device)
        })?;
        Ok(Self { config: config.clone(), stages })
    }

    /// The configuration the model was built from.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// The order of the model's parameters.
    pub fn layout(&self) -> &ParameterLayout {
        &self.stages.layout
    }

    /// Copies the parameters of a bucket to `out`, in layout order.
    ///
    /// # Panics
    ///
    /// If there is no such bucket or `out` is not as long as the bucket.
    pub fn read_bucket(&self, bucket_idx: usize, out: &mut [f32]) {
        self.stages.read_bucket(bucket_idx, out);
    }

    /// Lends a range of a bucket, counted in layout order: where it lies, or else a copy.
    ///
    /// # Panics
    ///
    /// If there is no such range.
    pub fn with_range<R>(&self, bucket_idx: usize, range: Range<usize>, read: impl FnOnce(&[f32]) -> R) -> R {
        self.stages.with_range(bucket_idx, range, read)
    }

    /// Replaces the parameters of a bucket, in layout order. Returns memory of any length and content that is not needed any
    /// more, for the next gradient: where the backend can, the parameters move to the memory of `values`.
    ///
    /// # Panics
    ///
    /// If there is no such bucket or `values` is not as long as the bucket.
    pub fn replace_bucket(&mut self, bucket_idx: usize, values: Vec<f32>) -> Vec<f32> {
        self.stages.replace_bucket(bucket_idx, values)
    }

    /// Runs one micro-batch forward and backward.
    ///
    /// `sink` receives the gradient of `scale · Σ loss`, bucket by bucket, each as soon as it is complete. `dropout`
    /// is the key of this micro-batch; every site derives its own from it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model; `sink` has not been called then.
    pub fn train_micro_batch(
        &self,
        batch: &ClassifyBatch<'_>,
        dropout: Key,
        scale: f32,
        sink: &mut dyn GradientSink,
    ) -> Result<ClassLosses, ModelError> {
        let tokens = batch.validated(&self.config.model, self.config.labels.len())?;
        let forward = self.forward_stages(&tokens, dropout);
        let (figures, root) = loss_root(forward.logits.clone(), batch.labels, scale);
        sink.forward_done();
        self.backward_stages(forward, root, sink);
        Ok(ClassLosses::new(tokens.num_rows, figures))
    }

    /// Computes the logits of each row, without dropout and without gradients.
    ///
    /// # Shapes
    ///
    /// - output: `[num_rows * num_labels]`, row-major
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model.
    pub fn logits(&self, tokens: &TokenBatch<'_>) -> Result<Vec<f32>, ModelError> {
        let batch = tokens.validated(&self.config.model)?;
        let tokens = self.config.pooling.tokens(batch.lengths, batch.row_len);
        let mut pooled = self.empty_pooled(batch.num_rows);
        let on_state = |idx: usize, state: &Tensor<2>| self.pool(idx, state, &tokens, &mut pooled);
        let last = self.stages.encode(&batch, &tokens, on_state);
        let shape = [batch.num_rows, self.config.model.hidden_size];
        let pooled = raw::from_values(pooled, shape, &last.device());
        Ok(raw::with_values(self.stages.last.valid().forward(pooled, None), <[f32]>::to_vec))
    }

    /// Loss and right answers of some logits, as [`ClassifyModel::logits`] gives them.
    ///
    /// # Panics
    ///
    /// If there are not as many rows of logits as labels.
    pub fn losses(&self, logits: &[f32], labels: &[u32]) -> ClassLosses {
        assert_eq!(logits.len(), labels.len() * self.config.labels.len(), "one row of logits for each label");
        if labels.is_empty() {
            return ClassLosses::default();
        }
        ClassLosses::new(labels.len(), cross_entropy(logits, labels))
    }

    fn empty_pooled(&self, num_rows: usize) -> Vec<f32> {
        vec![0.0; num_rows * self.config.model.hidden_size]
    }

    /// Adds the states after `state_idx` layers to the pooled rows.
    fn pool(&self, state_idx: usize, states: &Tensor<2>, tokens: &BatchTokens, pooled: &mut [f32]) {
        self.stages.add_pooled(self.config.pooling, tokens, (state_idx, states), pooled);
    }

    /// Adds to the gradient of the states after `state_idx` layers what comes from the pooled rows.
    fn unpool(
        &self,
        state_idx: usize,
        states: &Tensor<2>,
        tokens: &BatchTokens,
        pooled_gradient: &[f32],
        from_above: Option<Tensor<2>>,
    ) -> Tensor<2> {
        let (shape, num_layers) = (states.dims(), self.stages.layers.len());
        let weight = self.config.pooling.weight(state_idx, num_layers);
        if let Some(gradient) = from_above.clone().filter(|_| weight == 0.0) {
            return gradient;
        }
        let mut gradient = vec![0.0; shape[0] * shape[1]];
        if let Some(from_above) = from_above {
            raw::copy_to(from_above, &mut gradient);
        }
        let rows = tokens.at_state(state_idx, num_layers);
        raw::with_values(states.clone(), |states| {
            self.config.pooling.add_gradient(rows, weight, pooled_gradient, states, &mut gradient);
        });
        raw::from_values(gradient, shape, &states.device())
    }

    fn forward_stages(&self, batch: &PretrainBatch<'_>, dropout: Key) -> ForwardPass {
        let tokens = self.config.pooling.tokens(batch.lengths, batch.row_len);
        let mut pooled = self.empty_pooled(batch.num_rows);
        let on_state = |idx: usize, state: &Tensor<2>| self.pool(idx, state, &tokens, &mut pooled);
        let (encoder, last) = self.stages.forward(batch, &tokens, dropout, on_state);
        let shape = [batch.num_rows, self.config.model.hidden_size];
        let pooled = leaf(&raw::from_values(pooled, shape, &last.device()));
        let logits = self.stages.last.forward(pooled.clone(), Some(dropout));
        ForwardPass { tokens, encoder, pooled, logits }
    }

    fn backward_stages(&self, forward: ForwardPass, root: Tensor<1>, sink: &mut dyn GradientSink) {
        let ForwardPass { tokens, encoder, pooled, logits } = forward;
        let layout = &self.stages.layout;
        let bucket = buffer(sink, layout, layout.heads_idx());
        let (mut gradients, bucket) = parameters::backward(&self.stages.last, root, bucket);
        drop(logits);
        let pooled_gradient = raw::with_values(take_gradient(&pooled, &mut gradients), <[f32]>::to_vec); // [num_rows * hidden]
        let mut embeddings = buffer(sink, layout, layout.embeddings_idx());
        embeddings.fill(0.0); // nothing but the tokens reads the word table
        let last = LastGradients { bucket, embeddings, states: None };
        let unpool = |idx: usize, state: &Tensor<2>, from_above: Option<Tensor<2>>| {
            self.unpool(idx, state, &tokens, &pooled_gradient, from_above)
        };
        self.stages.backward(encoder, last, unpool, sink);
    }
}

impl ClassLosses {
    fn new(num_rows: usize, figures: CrossEntropy) -> Self {
        Self { loss_sum: figures.loss_sum, num_rows: num_rows as u64, num_correct: figures.num_correct }
    }
}

#[cfg(test)]
mod tests;
