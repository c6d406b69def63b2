//! BERT with both pre-training objectives.
//!
//! Its last stage are the heads: the masked language model on the masked positions, and next sentence prediction. What is
//! done with the gradients (sums over micro-batches and ranks, clipping, the update) is not known here.

use bert_random::Key;
use burn::{Tensor, module::Module};

use crate::{
    backend::BackendKind,
    batch::PretrainBatch,
    config::ModelConfig,
    error::ModelError,
    heads::{Heads, HeadsOutput},
    init::initial_bucket,
    layout::{BucketLayout, ParameterLayout},
    loss::{BatchLosses, LossScale, cross_entropy},
    ops::raw,
    stages::{EncoderPass, GradientSink, LastGradients, Stages, leaf, loss_root, take_gradient},
};

/// A BERT for pre-training: its stages and their parameters.
#[derive(Debug)]
pub struct PretrainModel {
    config: ModelConfig,
    pub(crate) stages: Stages<Heads>,
}

/// Everything backward starts from.
struct ForwardPass {
    encoder: EncoderPass,
    heads_input: Tensor<2>,
    word_table: Tensor<2>,
    logits: HeadsOutput,
}

impl PretrainModel {
    /// Builds a model with initial weights that depend on `init_key` and the parameters' names only.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] if the configuration is not valid; [`ModelError::NotCompiledIn`] and
    /// [`ModelError::NoDevice`] if there is no such backend here.
    pub fn init(config: &ModelConfig, init_key: Key, backend: BackendKind) -> Result<Self, ModelError> {
        Self::build(config, backend, |bucket, _| initial_bucket(config, bucket, init_key))
    }

    /// Builds a model from the values of its buckets, in layout order, as [`crate::hf::load_folder`] returns them.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] if the configuration is not valid; [`ModelError::BucketLen`] if a bucket is missing or
    /// has another length; [`ModelError::NotCompiledIn`] and [`ModelError::NoDevice`] if there is no such backend here.
    pub fn from_buckets(
        config: &ModelConfig,
        buckets: &[Vec<f32>],
        backend: BackendKind,
    ) -> Result<Self, ModelError> {
        Self::build(config, backend, |_, bucket_idx| buckets.get(bucket_idx).cloned().unwrap_or_default())
    }

    fn build(
        config: &ModelConfig,
        backend: BackendKind,
        values: impl FnMut(&BucketLayout, usize) -> Vec<f32>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let stages = Stages::build(
            config,
            ParameterLayout::new(config),
            backend,
            values,
            |bucket, values, device| Heads::load(config, bucket, values, device),
        )?;
        Ok(Self { config: config.clone(), stages })
    }

    /// The configuration the model was built from.
    pub fn config(&self) -> &ModelConfig {
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

    /// Replaces the parameters of a bucket, in layout order.
    ///
    /// # Panics
    ///
    /// If there is no such bucket or `values` is not as long as the bucket.
    pub fn write_bucket(&mut self, bucket_idx: usize, values: &[f32]) {
        self.stages.write_bucket(bucket_idx, values);
    }

    /// Runs one micro-batch forward and backward.
    ///
    /// `sink` receives the gradient of `scale.mlm · Σ mlm loss + scale.nsp · Σ nsp loss`, bucket by bucket, each as
    /// soon as it is complete. `dropout` is the key of this micro-batch; every site derives its own from it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model; `sink` has not been called then.
    pub fn train_micro_batch(
        &self,
        batch: &PretrainBatch<'_>,
        dropout: Key,
        scale: LossScale,
        sink: &mut dyn GradientSink,
    ) -> Result<BatchLosses, ModelError> {
        batch.validate(&self.config)?;
        let forward = self.forward_stages(batch, dropout);
        let HeadsOutput { mlm, nsp } = &forward.logits;
        let (mlm, mlm_root) =
            mlm.clone().map(|logits| loss_root(logits, batch.mlm_labels, scale.mlm)).unzip();
        let (nsp, nsp_root) =
            nsp.clone().map(|logits| loss_root(logits, batch.nsp_labels, scale.nsp)).unzip();
        sink.forward_done();

        let root = match (mlm_root, nsp_root) {
            (Some(mlm), Some(nsp)) => mlm + nsp,
            (Some(root), None) | (None, Some(root)) => root,
            (None, None) => unreachable!("a valid batch has something to learn"),
        };
        self.backward_stages(batch, forward, root, sink);
        Ok(BatchLosses::new(batch, mlm.unwrap_or_default(), nsp.unwrap_or_default()))
    }

    /// Computes the losses of a batch without dropout and without gradients.
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model.
    pub fn evaluate(&self, batch: &PretrainBatch<'_>) -> Result<BatchLosses, ModelError> {
        let HeadsOutput { mlm, nsp } = self.infer(batch)?;
        let mlm =
            mlm.map(|logits| raw::with_values(logits, |logits| cross_entropy(logits, batch.mlm_labels)));
        let nsp =
            nsp.map(|logits| raw::with_values(logits, |logits| cross_entropy(logits, batch.nsp_labels)));
        Ok(BatchLosses::new(batch, mlm.unwrap_or_default(), nsp.unwrap_or_default()))
    }

    /// Computes the logits of the masked positions without dropout.
    ///
    /// # Shapes
    ///
    /// - output: `[num_masked * vocab]`, row-major
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model.
    pub fn masked_logits(&self, batch: &PretrainBatch<'_>) -> Result<Vec<f32>, ModelError> {
        let logits = self.infer(batch)?.mlm;
        Ok(logits.map(|logits| raw::with_values(logits, <[f32]>::to_vec)).unwrap_or_default())
    }

    fn infer(&self, batch: &PretrainBatch<'_>) -> Result<HeadsOutput, ModelError> {
        batch.validate(&self.config)?;
        let hidden = self.stages.encode(batch, |_, _| {}); // [num_positions, hidden]
        let word_table = self.stages.embeddings.valid().word_table();
        Ok(self.stages.last.valid().forward(hidden, word_table, batch))
    }

    fn forward_stages(&self, batch: &PretrainBatch<'_>, dropout: Key) -> ForwardPass {
        let (encoder, heads_input) = self.stages.forward(batch, dropout, |_, _| {});
        let word_table = leaf(&self.stages.embeddings.word_table());
        let logits = self.stages.last.forward(heads_input.clone(), word_table.clone(), batch);
        ForwardPass { encoder, heads_input, word_table, logits }
    }

    fn backward_stages(
        &self,
        batch: &PretrainBatch<'_>,
        forward: ForwardPass,
        root: Tensor<1>,
        sink: &mut dyn GradientSink,
    ) {
        let ForwardPass { encoder, heads_input, word_table, logits } = forward;
        let mut parameters = root.backward();
        drop(logits);
        let states = Some(take_gradient(&heads_input, &mut parameters));
        let word_table = word_table.grad_remove(&mut parameters);
        let last = LastGradients { parameters, states, word_table };
        let from_above = |_: usize, _: &Tensor<2>, from_above: Option<Tensor<2>>| {
            from_above.expect("every state is read by the stage above it")
        };
        self.stages.backward(batch, encoder, last, from_above, sink);
    }
}

#[cfg(test)]
mod tests;
