//! A BERT with its pre-training objectives, run stage by stage.
//!
//! Forward runs each stage on a detached copy of its input and keeps both ends; backward enters each stage with the
//! gradient of its output and hands out the stage's gradients before the next one starts. What is done with the
//! gradients (sums over micro-batches and ranks, clipping, the update) is not known here.

use bert_random::Key;
use burn::{Tensor, module::Module, tensor::Gradients};

use crate::{
    backend::BackendKind,
    batch::PretrainBatch,
    config::ModelConfig,
    embeddings::{Embeddings, EmbeddingsOutput},
    encoder::{EncoderLayer, Pass},
    error::ModelError,
    heads::{Heads, HeadsOutput},
    init::initial_bucket,
    layout::ParameterLayout,
    loss::{BatchLosses, CrossEntropy, Label, LossScale, cross_entropy, cross_entropy_with_gradient},
    ops::{self, raw},
    parameters,
};

/// Receives the gradients of one micro-batch, stage by stage.
pub trait GradientSink {
    /// Called once, after the last stage's forward pass and before any gradient.
    fn forward_done(&mut self);

    /// Called once per bucket, in the order 0, 1, .. of [`ParameterLayout::buckets`].
    ///
    /// `gradient` holds the whole bucket in layout order; it is only lent.
    fn bucket(&mut self, bucket_idx: usize, gradient: &[f32]);
}

/// A BERT for pre-training: its stages and their parameters.
#[derive(Debug)]
pub struct PretrainModel {
    config: ModelConfig,
    layout: ParameterLayout,
    pub(crate) embeddings: Embeddings,
    pub(crate) layers: Vec<EncoderLayer>,
    pub(crate) heads: Heads,
}

/// Both ends of a stage that ran forward: a tracked leaf and what became of it.
struct Boundary {
    input: Tensor<2>,
    output: Tensor<2>,
}

/// Everything backward starts from.
struct ForwardPass {
    embedded: EmbeddingsOutput,
    layers: Vec<Boundary>,
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
        config.validate()?;
        Self::build(config, backend, |layout, bucket_idx| {
            Ok(initial_bucket(config, &layout.buckets[bucket_idx], init_key))
        })
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
        config.validate()?;
        Self::build(config, backend, |layout, bucket_idx| {
            let bucket = &layout.buckets[bucket_idx];
            let values = buckets.get(bucket_idx).cloned().unwrap_or_default();
            let (expected, got) = (bucket.num_elements, values.len());
            if expected == got {
                Ok(values)
            } else {
                Err(ModelError::BucketLen { bucket: bucket.name.clone(), expected, got })
            }
        })
    }

    fn build(
        config: &ModelConfig,
        backend: BackendKind,
        values: impl Fn(&ParameterLayout, usize) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        let device = backend.device()?;
        let layout = ParameterLayout::new(config);
        let (heads_idx, embeddings_idx) = (layout.heads_idx(), layout.embeddings_idx());
        let layers = (0..config.num_hidden_layers).map(|layer_idx| {
            let bucket_idx = layout.layer_idx(layer_idx);
            let values = values(&layout, bucket_idx)?;
            Ok(EncoderLayer::load(config, layer_idx, &layout.buckets[bucket_idx], &values, &device))
        });
        Ok(Self {
            layers: layers.collect::<Result<_, ModelError>>()?,
            heads: Heads::load(config, &layout.buckets[heads_idx], &values(&layout, heads_idx)?, &device),
            embeddings: Embeddings::load(
                config,
                &layout.buckets[embeddings_idx],
                &values(&layout, embeddings_idx)?,
                &device,
            ),
            config: config.clone(),
            layout,
        })
    }

    /// The configuration the model was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The order of the model's parameters.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// Copies the parameters of a bucket to `out`, in layout order.
    ///
    /// # Panics
    ///
    /// If there is no such bucket or `out` is not as long as the bucket.
    pub fn read_bucket(&self, bucket_idx: usize, out: &mut [f32]) {
        match self.stage(bucket_idx) {
            Stage::Heads => parameters::read(&self.heads, out),
            Stage::Layer(layer_idx) => parameters::read(&self.layers[layer_idx], out),
            Stage::Embeddings => parameters::read(&self.embeddings, out),
        }
    }

    /// Replaces the parameters of a bucket, in layout order.
    ///
    /// # Panics
    ///
    /// If there is no such bucket or `values` is not as long as the bucket.
    pub fn write_bucket(&mut self, bucket_idx: usize, values: &[f32]) {
        match self.stage(bucket_idx) {
            Stage::Heads => parameters::write(&mut self.heads, values),
            Stage::Layer(layer_idx) => parameters::write(&mut self.layers[layer_idx], values),
            Stage::Embeddings => parameters::write(&mut self.embeddings, values),
        }
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
        let (mlm, mlm_root) = loss_root(forward.logits.mlm.clone(), batch.mlm_labels, scale.mlm);
        let (nsp, nsp_root) = loss_root(forward.logits.nsp.clone(), batch.nsp_labels, scale.nsp);
        sink.forward_done();

        let root = match (mlm_root, nsp_root) {
            (Some(mlm), Some(nsp)) => mlm + nsp,
            (Some(root), None) | (None, Some(root)) => root,
            (None, None) => unreachable!("a valid batch has something to learn"),
        };
        self.backward_stages(batch, forward, root, sink);
        Ok(BatchLosses::new(batch, mlm, nsp))
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
        let hidden = self.encode(batch, |_| {}); // [num_positions, hidden]
        Ok(self.heads.valid().forward(hidden, self.embeddings.valid().word_table(), batch))
    }

    fn forward_stages(&self, batch: &PretrainBatch<'_>, dropout: Key) -> ForwardPass {
        let pass = Pass::new(batch, Some(dropout));
        let embedded = self.embeddings.forward(batch, Some(dropout));
        let mut layers: Vec<Boundary> = Vec::with_capacity(self.layers.len());
        let mut input = leaf(&embedded.hidden);
        for layer in &self.layers {
            let output = layer.forward(input.clone(), &pass);
            let next_input = leaf(&output);
            layers.push(Boundary { input, output });
            input = next_input;
        }
        let word_table = leaf(&self.embeddings.word_table());
        let logits = self.heads.forward(input.clone(), word_table.clone(), batch);
        ForwardPass { embedded, layers, heads_input: input, word_table, logits }
    }

    fn backward_stages(
        &self,
        batch: &PretrainBatch<'_>,
        forward: ForwardPass,
        root: Tensor<1>,
        sink: &mut dyn GradientSink,
    ) {
        let ForwardPass { embedded, layers, heads_input, word_table, logits } = forward;
        let longest = self.layout.buckets.iter().map(|bucket| bucket.num_elements).max();
        let mut buffer = vec![0.0; longest.expect("a model has buckets")];
        let mut emit = |bucket_idx: usize, fill: &mut dyn FnMut(&mut [f32])| {
            let bucket = &mut buffer[..self.layout.buckets[bucket_idx].num_elements];
            fill(bucket);
            sink.bucket(bucket_idx, bucket);
        };

        let mut gradients = root.backward();
        drop(logits);
        let mut gradient = take_gradient(&heads_input, &mut gradients);
        let word_table_gradient = word_table.grad_remove(&mut gradients);
        emit(self.layout.heads_idx(), &mut |out| self.heads.take_gradients(&mut gradients, out));

        for (layer_idx, Boundary { input, output }) in layers.into_iter().enumerate().rev() {
            let mut gradients = ops::gradient_root(output, gradient).backward();
            gradient = take_gradient(&input, &mut gradients);
            let layer = &self.layers[layer_idx];
            emit(self.layout.layer_idx(layer_idx), &mut |out| layer.take_gradients(&mut gradients, out));
        }

        let EmbeddingsOutput { summed, hidden } = embedded;
        let mut gradients = ops::gradient_root(hidden, gradient).backward();
        emit(self.layout.embeddings_idx(), &mut |out| {
            self.embeddings.take_gradients(batch, &summed, &mut gradients, word_table_gradient.as_ref(), out);
        });
    }

    fn stage(&self, bucket_idx: usize) -> Stage {
        let num_layers = self.layers.len();
        match bucket_idx {
            0 => Stage::Heads,
            idx if idx <= num_layers => Stage::Layer(num_layers - idx),
            idx if idx == num_layers + 1 => Stage::Embeddings,
            idx => panic!("bucket {idx} of a model with {} buckets", num_layers + 2),
        }
    }
}

/// The stage that owns a bucket.
#[derive(Clone, Copy)]
enum Stage {
    Heads,
    Layer(usize),
    Embeddings,
}

/// A tracked leaf with the values of a tensor; no copy.
fn leaf(tensor: &Tensor<2>) -> Tensor<2> {
    tensor.clone().without_autodiff().autodiff().require_grad()
}

fn take_gradient(input: &Tensor<2>, gradients: &mut Gradients) -> Tensor<2> {
    input.grad_remove(gradients).expect("every output of a stage depends on its input")
}

/// Loss figures of one objective, and where its backward pass starts.
fn loss_root<L: Label>(
    logits: Option<Tensor<2>>,
    labels: &[L],
    scale: f32,
) -> (CrossEntropy, Option<Tensor<1>>) {
    let Some(logits) = logits else { return (CrossEntropy::default(), None) };
    let (shape, device) = (logits.dims(), logits.device());
    let mut gradient = vec![0.0; shape[0] * shape[1]];
    let figures = raw::with_values(logits.clone(), |values| {
        cross_entropy_with_gradient(values, labels, scale, &mut gradient)
    });
    (figures, Some(ops::gradient_root(logits, raw::from_values(gradient, shape, &device))))
}

#[cfg(test)]
mod tests;
