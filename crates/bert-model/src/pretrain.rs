//! BERT with both pre-training objectives.
//!
//! Its last stage are the heads: the masked language model on the masked positions, and next sentence prediction. What is
//! done with the gradients (sums over micro-batches and ranks, clipping, the update) is not known here.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use bert_random::Key;
use burn::{Tensor, module::Module};

use crate::{
    batch::PretrainBatch,
    compute::{Compute, StageForm},
    config::ModelConfig,
    error::ModelError,
    fused::{FusedHeads, HeadsBatch},
    heads::{Heads, HeadsOutput},
    init::initial_bucket,
    layout::{BucketLayout, ParameterLayout},
    loss::{BatchLosses, LossScale, cross_entropy},
    ops::{
        self, GradientSlot, HeadsCall,
        raw::{self, SharedValues},
    },
    parameters,
    rows::{BatchTokens, TokenRows, first_positions},
    stages::{GradientSink, LastGradients, Stages, buffer, leaf, loss_root, take_gradient},
};

/// A BERT for pre-training: its stages and their parameters.
#[derive(Debug)]
pub struct PretrainModel {
    config: ModelConfig,
    pub(crate) stages: Stages<Heads>,
    fused: Option<FusedLast>,
}

/// What the fused form of the last stage needs.
#[derive(Debug)]
struct FusedLast {
    heads: Arc<Mutex<FusedHeads>>,
    gradients: GradientSlot,
}

impl PretrainModel {
    /// Builds a model with initial weights that depend on `init_key` and the parameters' names only.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] if the configuration is not valid; [`ModelError::NotCompiledIn`],
    /// [`ModelError::NoDevice`], [`ModelError::NotFused`] and [`ModelError::ComposedBf16`] if it cannot be computed so.
    pub fn init(
        config: &ModelConfig,
        init_key: Key,
        compute: impl Into<Compute>,
    ) -> Result<Self, ModelError> {
        Self::build(config, compute.into(), |bucket, _| initial_bucket(config, bucket, init_key))
    }

    /// Builds a model from the values of its buckets, in layout order, as [`crate::hf::load_folder`] returns them.
    ///
    /// # Errors
    ///
    /// [`ModelError::BucketLen`] if a bucket is missing or has another length; the others as [`PretrainModel::init`].
    pub fn from_buckets(
        config: &ModelConfig,
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
    /// As [`PretrainModel::from_buckets`].
    pub fn build(
        config: &ModelConfig,
        compute: Compute,
        values: impl FnMut(&BucketLayout, usize) -> Vec<f32>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let layout = ParameterLayout::new(config);
        let fused = (compute.form == StageForm::Fused).then(|| FusedLast::new(config, compute));
        let load_last = |bucket: &BucketLayout, values: &SharedValues, device: &burn::tensor::Device| {
            if let Some(fused) = &fused {
                fused.lock().pack(values.values(), config.vocab_size);
            }
            Heads::load(config, bucket, values, device)
        };
        let stages = Stages::build(config, layout, compute, values, load_last)?;
        Ok(Self { config: config.clone(), stages, fused })
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
        if let Some(fused) = self.fused.as_ref().filter(|_| bucket_idx == self.layout().heads_idx()) {
            fused.lock().pack(&values, self.config.vocab_size);
        }
        self.stages.replace_bucket(bucket_idx, values)
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
        let tokens = tokens_of_heads(batch);
        let heads_batch = heads_batch(batch, tokens.last());
        let (encoder, states) = self.stages.forward(batch, &tokens, dropout, |_, _| {});
        let (losses, last) = match &self.fused {
            Some(fused) => self.train_heads(fused, states, heads_batch, scale, sink),
            None => self.train_composed_heads(states, &heads_batch, scale, sink),
        };
        let from_above = |_: usize, _: &Tensor<2>, from_above: Option<Tensor<2>>| {
            from_above.expect("every state is read by the stage above it")
        };
        self.stages.backward(encoder, last, from_above, sink);
        Ok(losses)
    }

    /// Computes the losses of a batch without dropout and without gradients.
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model.
    pub fn evaluate(&self, batch: &PretrainBatch<'_>) -> Result<BatchLosses, ModelError> {
        batch.validate(&self.config)?;
        let (heads_batch, states) = self.encode_for_heads(batch);
        if let Some(fused) = &self.fused {
            return Ok(self.with_word_table(states, |states, table| {
                fused.lock().evaluate(states, table, &heads_batch)
            }));
        }
        let HeadsOutput { mlm, nsp } = self.logits(states, &heads_batch);
        let mlm =
            mlm.map(|logits| raw::with_values(logits, |logits| cross_entropy(logits, batch.mlm_labels)));
        let nsp =
            nsp.map(|logits| raw::with_values(logits, |logits| cross_entropy(logits, batch.nsp_labels)));
        let (mlm, nsp) = (mlm.unwrap_or_default(), nsp.unwrap_or_default());
        Ok(BatchLosses::new(batch.mlm_labels.len(), batch.nsp_labels.len(), mlm, nsp))
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
        batch.validate(&self.config)?;
        let (heads_batch, states) = self.encode_for_heads(batch);
        if let Some(fused) = &self.fused {
            return Ok(self.with_word_table(states, |states, table| {
                fused.lock().masked_logits(states, table, &heads_batch)
            }));
        }
        let logits = self.logits(states, &heads_batch).mlm;
        Ok(logits.map(|logits| raw::with_values(logits, <[f32]>::to_vec)).unwrap_or_default())
    }

    /// Runs the last states through the pooler.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - output: `[num_rows * hidden]`
    pub(crate) fn pool(&self, states: Tensor<2>, rows: &TokenRows) -> Vec<f32> {
        if let Some(fused) = &self.fused {
            return raw::with_values(states, |states| fused.lock().pooled(states, rows.firsts()).to_vec());
        }
        raw::with_values(self.stages.last.valid().pool(states, rows.firsts()), <[f32]>::to_vec)
    }

    /// Runs the last states through next sentence prediction.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - output: `[num_rows * 2]`
    pub(crate) fn relate(&self, states: Tensor<2>, rows: &TokenRows) -> Vec<f32> {
        if let Some(fused) = &self.fused {
            return raw::with_values(states, |states| fused.lock().relate(states, rows.firsts()).to_vec());
        }
        let heads = self.stages.last.valid();
        raw::with_values(heads.relate(heads.pool(states, rows.firsts())), <[f32]>::to_vec)
    }

    /// What the heads look at, and the last states that they read, without dropout: `[num_read, hidden]`.
    fn encode_for_heads(&self, batch: &PretrainBatch<'_>) -> (HeadsBatch, Tensor<2>) {
        let tokens = tokens_of_heads(batch);
        let states = self.stages.encode(batch, &tokens, |_, _| {});
        (heads_batch(batch, tokens.last()), states)
    }

    /// Lends states and word table as slices.
    fn with_word_table<R>(&self, states: Tensor<2>, read: impl FnOnce(&[f32], &[f32]) -> R) -> R {
        let word_table = self.stages.embeddings.word_table();
        raw::with_values(states, |states| raw::with_values(word_table, |table| read(states, table)))
    }

    fn logits(&self, states: Tensor<2>, batch: &HeadsBatch) -> HeadsOutput {
        let word_table = self.stages.embeddings.valid().word_table();
        self.stages.last.valid().forward(states, word_table, batch)
    }

    /// Losses and gradients of the heads in one op.
    fn train_heads(
        &self,
        fused: &FusedLast,
        states: Tensor<2>,
        batch: HeadsBatch,
        scale: LossScale,
        sink: &mut dyn GradientSink,
    ) -> (BatchLosses, LastGradients) {
        let layout = &self.stages.layout;
        let embeddings = self.stages.embeddings.gradients().expect("all stages have one form");
        embeddings.lend(buffer(sink, layout, layout.embeddings_idx()));
        fused.gradients.lend(buffer(sink, layout, layout.heads_idx()));
        let call = HeadsCall {
            heads: fused.heads.clone(),
            batch: Arc::new(batch),
            scale,
            gradients: fused.gradients.clone(),
            embedding_gradients: embeddings.clone(),
            losses: Arc::default(),
        };
        let losses = call.losses.clone();
        let word_table = self.stages.embeddings.word_table();
        let loss = ops::pretrain_heads(states.clone(), word_table, call);
        sink.forward_done();
        let states = Some(take_gradient(&states, &mut loss.backward()));
        let (bucket, embeddings) = (fused.gradients.take(), embeddings.take());
        let losses = *ops::lock(&losses);
        (losses, LastGradients { bucket, embeddings, states })
    }

    /// The same from burn's own operations.
    fn train_composed_heads(
        &self,
        states: Tensor<2>,
        batch: &HeadsBatch,
        scale: LossScale,
        sink: &mut dyn GradientSink,
    ) -> (BatchLosses, LastGradients) {
        let word_table = leaf(&self.stages.embeddings.word_table());
        let HeadsOutput { mlm, nsp } = self.stages.last.forward(states.clone(), word_table.clone(), batch);
        let (mlm, mlm_root) = mlm.map(|logits| loss_root(logits, &batch.mlm_labels, scale.mlm)).unzip();
        let (nsp, nsp_root) = nsp.map(|logits| loss_root(logits, &batch.nsp_labels, scale.nsp)).unzip();
        sink.forward_done();
        let root = match (mlm_root, nsp_root) {
            (Some(mlm), Some(nsp)) => mlm + nsp,
            (Some(root), None) | (None, Some(root)) => root,
            (None, None) => unreachable!("a valid batch has something to learn"),
        };
        let layout = &self.stages.layout;
        let bucket = buffer(sink, layout, layout.heads_idx());
        let (mut gradients, bucket) = parameters::backward(&self.stages.last, root, bucket);
        let mut embeddings = buffer(sink, layout, layout.embeddings_idx());
        let words = &mut embeddings[..self.config.vocab_size * self.config.hidden_size];
        match word_table.grad_remove(&mut gradients) {
            Some(gradient) => raw::copy_to(gradient, words),
            None => words.fill(0.0),
        }
        let states = Some(take_gradient(&states, &mut gradients));
        let (mlm, nsp) = (mlm.unwrap_or_default(), nsp.unwrap_or_default());
        let losses = BatchLosses::new(batch.mlm_labels.len(), batch.nsp_labels.len(), mlm, nsp);
        (losses, LastGradients { bucket, embeddings, states })
    }
}

impl FusedLast {
    fn new(config: &ModelConfig, compute: Compute) -> Self {
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps as f32);
        let heads = FusedHeads::new(hidden, config.hidden_act.into(), eps, compute.precision);
        Self { heads: Arc::new(Mutex::new(heads)), gradients: GradientSlot::default() }
    }

    fn lock(&self) -> MutexGuard<'_, FusedHeads> {
        ops::lock(&self.heads)
    }
}

/// The tokens of a batch, of which the heads read those to predict and, with sentence labels, the first ones.
fn tokens_of_heads(batch: &PretrainBatch<'_>) -> BatchTokens {
    let num_pairs = if batch.nsp_labels.is_empty() { 0 } else { batch.num_rows };
    let masked = batch.mlm_positions.iter().map(|&position| position as usize);
    let read = masked.chain(first_positions(num_pairs, batch.row_len)).collect();
    BatchTokens::reading(batch.lengths, batch.row_len, read)
}

/// What the heads look at: places among the tokens that are read instead of padded positions.
fn heads_batch(batch: &PretrainBatch<'_>, read: &TokenRows) -> HeadsBatch {
    let firsts = if batch.nsp_labels.is_empty() { &[] } else { read.firsts() };
    HeadsBatch {
        masked: batch.mlm_positions.iter().map(|&position| read.token_at(position as usize)).collect(),
        mlm_labels: batch.mlm_labels.to_vec(),
        firsts: firsts.to_vec(),
        nsp_labels: batch.nsp_labels.to_vec(),
    }
}

#[cfg(test)]
mod form_tests;
#[cfg(test)]
mod tests;
