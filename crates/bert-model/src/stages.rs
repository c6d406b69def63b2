//! The stages that every model of this crate has in common: embeddings, encoder layers, and some last stage.
//!
//! Forward runs each stage on a detached copy of its input and keeps both ends; backward enters each stage with the
//! gradient of its output and hands out the stage's gradients before the next one starts. What the last stage
//! computes, and what a loss is, the models say: [`crate::PretrainModel`] and [`crate::ClassifyModel`].

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use bert_random::Key;
use burn::{
    Tensor,
    module::Module,
    tensor::{Device, Gradients},
};

use crate::{
    batch::PretrainBatch,
    compute::{Compute, StageForm},
    config::ModelConfig,
    embeddings::{Embeddings, EmbeddingsOutput},
    encoder::{EncoderLayer, Pass},
    error::ModelError,
    fused::LayerWorkspace,
    layout::{BucketLayout, ParameterLayout},
    loss::{CrossEntropy, Label, cross_entropy_with_gradient},
    ops::{
        self,
        raw::{self, SharedValues},
    },
    parameters,
    pooling::Pooling,
    rows::BatchTokens,
};

/// Receives the gradients of one micro-batch, stage by stage.
pub trait GradientSink {
    /// Called once, after the last stage's forward pass and before any gradient.
    fn forward_done(&mut self);

    /// Lends memory for the gradient of a bucket, of any length and content; an empty vector will do.
    fn buffer(&mut self, bucket_idx: usize) -> Vec<f32>;

    /// Called once per bucket, in the order 0, 1, .. of [`ParameterLayout::buckets`].
    ///
    /// `gradient` holds the whole bucket in layout order, in memory that [`GradientSink::buffer`] lent for it.
    fn bucket(&mut self, bucket_idx: usize, gradient: Vec<f32>);
}

/// Memory for the gradient of a bucket, of the right length and any content.
pub(crate) fn buffer(sink: &mut dyn GradientSink, layout: &ParameterLayout, bucket_idx: usize) -> Vec<f32> {
    let mut buffer = sink.buffer(bucket_idx);
    buffer.resize(layout.buckets[bucket_idx].num_elements, 0.0);
    buffer
}

/// Embeddings, encoder layers and a last stage, with the order of their parameters.
#[derive(Debug)]
pub(crate) struct Stages<Last> {
    pub(crate) layout: ParameterLayout,
    pub(crate) embeddings: Embeddings,
    pub(crate) layers: Vec<EncoderLayer>,
    pub(crate) last: Last,
}

/// Both ends of an encoder layer that ran forward: a tracked leaf and what became of it.
struct Boundary {
    input: Tensor<2>,
    output: Tensor<2>,
}

/// What backward starts from, but for the last stage.
pub(crate) struct EncoderPass {
    embedded: EmbeddingsOutput,
    layers: Vec<Boundary>,
}

/// What the last stage hands back to the stages below it.
pub(crate) struct LastGradients {
    /// Gradients of its parameters: its bucket.
    pub(crate) bucket: Vec<f32>,
    /// Memory of the bucket `embeddings`, with its part of the gradient of the word table, or zeros there.
    pub(crate) embeddings: Vec<f32>,
    /// Gradient of the output of the last layer, `[num_read, hidden]`.
    pub(crate) states: Option<Tensor<2>>,
}

impl<Last: Module> Stages<Last> {
    /// Builds the stages of a layout. `values` gives those of a bucket; `load_last` builds the last stage from its own.
    ///
    /// # Errors
    ///
    /// [`ModelError::BucketLen`] if a bucket has another length; [`ModelError::NotCompiledIn`],
    /// [`ModelError::NoDevice`], [`ModelError::NotFused`] and [`ModelError::ComposedBf16`] if it cannot be computed so.
    pub(crate) fn build(
        config: &ModelConfig,
        layout: ParameterLayout,
        compute: Compute,
        mut values: impl FnMut(&BucketLayout, usize) -> Vec<f32>,
        load_last: impl FnOnce(&BucketLayout, &SharedValues, &Device) -> Last,
    ) -> Result<Self, ModelError> {
        compute.validate()?;
        let device = compute.backend.device()?;
        let is_fused = compute.form == StageForm::Fused;
        let workspace = is_fused.then(|| Arc::new(Mutex::new(LayerWorkspace::new(compute.precision))));
        let mut checked = |bucket_idx: usize| {
            let bucket = &layout.buckets[bucket_idx];
            let values = values(bucket, bucket_idx);
            let (expected, got) = (bucket.num_elements, values.len());
            if expected != got {
                return Err(ModelError::BucketLen { bucket: bucket.name.clone(), expected, got });
            }
            Ok((bucket, SharedValues::new(values)))
        };
        let layers = (0..config.num_hidden_layers).map(|layer_idx| {
            let (bucket, values) = checked(layout.layer_idx(layer_idx))?;
            Ok(EncoderLayer::load(config, layer_idx, bucket, &values, workspace.clone(), &device))
        });
        let layers = layers.collect::<Result<_, ModelError>>()?;
        let (bucket, values) = checked(layout.heads_idx())?;
        let last = load_last(bucket, &values, &device);
        let (bucket, values) = checked(layout.embeddings_idx())?;
        let embeddings = Embeddings::load(config, bucket, &values, is_fused, &device);
        Ok(Self { layout, embeddings, layers, last })
    }

    /// Copies the parameters of a bucket to `out`, in layout order.
    ///
    /// # Panics
    ///
    /// If there is no such bucket or `out` is not as long as the bucket.
    pub(crate) fn read_bucket(&self, bucket_idx: usize, out: &mut [f32]) {
        let all = 0..self.layout.buckets[bucket_idx].num_elements;
        self.with_range(bucket_idx, all, |values| out.copy_from_slice(values));
    }

    /// Lends a range of a bucket.
    ///
    /// # Panics
    ///
    /// If there is no such range.
    pub(crate) fn with_range<R>(
        &self,
        bucket_idx: usize,
        range: Range<usize>,
        read: impl FnOnce(&[f32]) -> R,
    ) -> R {
        match self.stage(bucket_idx) {
            Stage::Last => parameters::with_range(&self.last, range, read),
            Stage::Layer(layer_idx) => parameters::with_range(&self.layers[layer_idx], range, read),
            Stage::Embeddings => parameters::with_range(&self.embeddings, range, read),
        }
    }

    /// Replaces the parameters of a bucket, in layout order; returns memory as [`parameters::replace`] does.
    ///
    /// # Panics
    ///
    /// If there is no such bucket or `values` is not as long as the bucket.
    pub(crate) fn replace_bucket(&mut self, bucket_idx: usize, values: Vec<f32>) -> Vec<f32> {
        match self.stage(bucket_idx) {
            Stage::Last => parameters::replace(&mut self.last, values),
            Stage::Layer(layer_idx) => self.layers[layer_idx].replace(values),
            Stage::Embeddings => parameters::replace(&mut self.embeddings, values),
        }
    }

    /// Runs embeddings and layers without dropout and without gradients, and shows every state with the number of
    /// layers below it.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - the last state, output: `[num_read, hidden]`
    pub(crate) fn encode(
        &self,
        batch: &PretrainBatch<'_>,
        tokens: &BatchTokens,
        mut on_state: impl FnMut(usize, &Tensor<2>),
    ) -> Tensor<2> {
        let mut hidden = self.embeddings.valid().forward(batch, &tokens.rows, None).hidden; // [num_tokens, hidden]
        on_state(0, &hidden);
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            hidden = layer.valid().forward(hidden, &self.pass(layer_idx, tokens, None));
            on_state(layer_idx + 1, &hidden);
        }
        hidden
    }

    /// Runs embeddings and layers forward, shows every state as [`Stages::encode`] does, and returns the last one as a
    /// tracked leaf: the input of the last stage, `[num_read, hidden]`.
    pub(crate) fn forward(
        &self,
        batch: &PretrainBatch<'_>,
        tokens: &BatchTokens,
        dropout: Key,
        mut on_state: impl FnMut(usize, &Tensor<2>),
    ) -> (EncoderPass, Tensor<2>) {
        let embedded = self.embeddings.forward(batch, &tokens.rows, Some(dropout));
        on_state(0, &embedded.hidden);
        let mut layers: Vec<Boundary> = Vec::with_capacity(self.layers.len());
        let mut input = leaf(&embedded.hidden);
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            let output = layer.forward(input.clone(), &self.pass(layer_idx, tokens, Some(dropout)));
            on_state(layer_idx + 1, &output);
            let next_input = leaf(&output);
            layers.push(Boundary { input, output });
            input = next_input;
        }
        (EncoderPass { embedded, layers }, input)
    }

    /// Runs layers and embeddings backward, and gives every bucket to the sink, that of the last stage first.
    ///
    /// `gradient_of_state` completes the gradient of the state above some number of layers, given the state and what
    /// came from the stage above it, which is nothing where that stage did not read the state.
    pub(crate) fn backward(
        &self,
        forward: EncoderPass,
        last: LastGradients,
        mut gradient_of_state: impl FnMut(usize, &Tensor<2>, Option<Tensor<2>>) -> Tensor<2>,
        sink: &mut dyn GradientSink,
    ) {
        let LastGradients { bucket, embeddings, states: mut from_above } = last;
        sink.bucket(self.layout.heads_idx(), bucket);
        for (layer_idx, Boundary { input, output }) in forward.layers.into_iter().enumerate().rev() {
            let gradient = gradient_of_state(layer_idx + 1, &output, from_above);
            let root = ops::gradient_root(output, gradient);
            let bucket_idx = self.layout.layer_idx(layer_idx);
            let bucket = buffer(sink, &self.layout, bucket_idx);
            let (mut gradients, bucket) = self.layers[layer_idx].backward(root, bucket);
            from_above = Some(take_gradient(&input, &mut gradients));
            sink.bucket(bucket_idx, bucket);
        }
        let root = |hidden: Tensor<2>| {
            let gradient = gradient_of_state(0, &hidden, from_above);
            ops::gradient_root(hidden, gradient)
        };
        let bucket = self.embeddings.backward(forward.embedded, root, embeddings);
        sink.bucket(self.layout.embeddings_idx(), bucket);
    }

    /// Adds the states after `state_idx` layers to the pooled rows, as far as the pooling reads them.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`, or `[num_read, hidden]` after the last layer
    /// - pooled: `[num_rows * hidden]`
    pub(crate) fn add_pooled(
        &self,
        pooling: Pooling,
        tokens: &BatchTokens,
        (state_idx, states): (usize, &Tensor<2>),
        pooled: &mut [f32],
    ) {
        let num_layers = self.layers.len();
        let weight = pooling.weight(state_idx, num_layers);
        if weight != 0.0 {
            let rows = tokens.at_state(state_idx, num_layers);
            raw::with_values(states.clone(), |states| pooling.add_pooled(rows, weight, states, pooled));
        }
    }

    /// What a layer is applied to: all that is read of any layer but the last one are all tokens.
    fn pass(&self, layer_idx: usize, tokens: &BatchTokens, dropout: Option<Key>) -> Pass {
        let is_last = layer_idx + 1 == self.layers.len();
        let read = tokens.read.clone().filter(|_| is_last);
        Pass { tokens: BatchTokens { rows: tokens.rows.clone(), read }, dropout }
    }

    fn stage(&self, bucket_idx: usize) -> Stage {
        let num_layers = self.layers.len();
        match bucket_idx {
            0 => Stage::Last,
            idx if idx <= num_layers => Stage::Layer(num_layers - idx),
            idx if idx == num_layers + 1 => Stage::Embeddings,
            idx => panic!("bucket {idx} of a model with {} buckets", num_layers + 2),
        }
    }
}

/// The stage that owns a bucket.
#[derive(Clone, Copy)]
enum Stage {
    Last,
    Layer(usize),
    Embeddings,
}

/// A tracked leaf with the values of a tensor; no copy.
pub(crate) fn leaf(tensor: &Tensor<2>) -> Tensor<2> {
    tensor.clone().without_autodiff().autodiff().require_grad()
}

/// Moves the gradient of a leaf out of a backward pass.
pub(crate) fn take_gradient(input: &Tensor<2>, gradients: &mut Gradients) -> Tensor<2> {
    input.grad_remove(gradients).expect("every output of a stage depends on its input")
}

/// Loss figures of some logits, and where their backward pass starts.
///
/// # Shapes
///
/// - logits: `[num_labels, num_classes]`
pub(crate) fn loss_root<L: Label>(logits: Tensor<2>, labels: &[L], scale: f32) -> (CrossEntropy, Tensor<1>) {
    let (shape, device) = (logits.dims(), logits.device());
    let mut gradient = vec![0.0; shape[0] * shape[1]];
    let figures = raw::with_values(logits.clone(), |values| {
        cross_entropy_with_gradient(values, labels, scale, &mut gradient)
    });
    (figures, ops::gradient_root(logits, raw::from_values(gradient, shape, &device)))
}
