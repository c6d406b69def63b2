//! A BERT with one class per row, run stage by stage like the model for pre-training.
//!
//! Stages and their backward passes are those of [`crate::PretrainModel`], with another last stage: the pooled
//! states of each row, dropout, a linear map. There is no head for masked tokens. Pooling happens between two
//! detached boundaries, on plain slices; labels are numbers here, and metrics are the business of the caller.

mod config;
mod head;

use bert_random::Key;
use burn::{Tensor, module::Module};

use crate::{
    backend::BackendKind,
    batch::{ClassifyBatch, PretrainBatch, TokenBatch},
    embeddings::{Embeddings, EmbeddingsOutput},
    encoder::{EncoderLayer, Pass},
    error::ModelError,
    init::initial_bucket,
    layout::ParameterLayout,
    loss::{CrossEntropy, cross_entropy},
    ops::{self, raw},
    parameters,
    pooling::Rows,
    pretrain::{Boundary, GradientSink, leaf, loss_root, take_gradient},
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
    layout: ParameterLayout,
    embeddings: Embeddings,
    layers: Vec<EncoderLayer>,
    head: ClassifierHead,
}

/// Everything backward starts from.
struct ForwardPass {
    embedded: EmbeddingsOutput,
    layers: Vec<Boundary>,
    pooled: Tensor<2>,
    logits: Tensor<2>,
}

impl ClassifyModel {
    /// Builds a model with initial weights that depend on `init_key` and the parameters' names only.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] if the configuration is not valid.
    pub fn init(config: &ClassifierConfig, init_key: Key, backend: BackendKind) -> Result<Self, ModelError> {
        config.validate()?;
        let layout = ParameterLayout::for_classifier(&config.model, config.labels.len());
        let buckets: Vec<_> =
            layout.buckets.iter().map(|bucket| initial_bucket(&config.model, bucket, init_key)).collect();
        Self::from_buckets(config, &buckets, backend)
    }

    /// Builds a model from the values of its buckets, in layout order.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] if the configuration is not valid; [`ModelError::BucketLen`] if a bucket is missing or
    /// has another length.
    pub fn from_buckets(
        config: &ClassifierConfig,
        buckets: &[Vec<f32>],
        backend: BackendKind,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let device = backend.device()?;
        let layout = ParameterLayout::for_classifier(&config.model, config.labels.len());
        for (idx, bucket) in layout.buckets.iter().enumerate() {
            let (expected, got) = (bucket.num_elements, buckets.get(idx).map_or(0, Vec::len));
            if expected != got {
                return Err(ModelError::BucketLen { bucket: bucket.name.clone(), expected, got });
            }
        }
        let (model, heads_idx, embeddings_idx) = (&config.model, layout.heads_idx(), layout.embeddings_idx());
        let layers = (0..model.num_hidden_layers).map(|layer_idx| {
            let idx = layout.layer_idx(layer_idx);
            EncoderLayer::load(model, layer_idx, &layout.buckets[idx], &buckets[idx], &device)
        });
        Ok(Self {
            layers: layers.collect(),
            head: ClassifierHead::load(config, &layout.buckets[heads_idx], &buckets[heads_idx], &device),
            embeddings: Embeddings::load(
                model,
                &layout.buckets[embeddings_idx],
                &buckets[embeddings_idx],
                &device,
            ),
            config: config.clone(),
            layout,
        })
    }

    /// The configuration the model was built from.
    pub fn config(&self) -> &ClassifierConfig {
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
        let num_layers = self.layers.len();
        match bucket_idx {
            0 => parameters::read(&self.head, out),
            idx if idx <= num_layers => parameters::read(&self.layers[num_layers - idx], out),
            _ => parameters::read(&self.embeddings, out),
        }
    }

    /// Replaces the parameters of a bucket, in layout order.
    ///
    /// # Panics
    ///
    /// If there is no such bucket or `values` is not as long as the bucket.
    pub fn write_bucket(&mut self, bucket_idx: usize, values: &[f32]) {
        let num_layers = self.layers.len();
        match bucket_idx {
            0 => parameters::write(&mut self.head, values),
            idx if idx <= num_layers => parameters::write(&mut self.layers[num_layers - idx], values),
            _ => parameters::write(&mut self.embeddings, values),
        }
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
        let (figures, root) = loss_root(Some(forward.logits.clone()), batch.labels, scale);
        sink.forward_done();
        let root = root.expect("there are logits");
        self.backward_stages(&tokens, forward, root, sink);
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
        let tokens = tokens.validated(&self.config.model)?;
        let pass = Pass::new(&tokens, None);
        let mut pooled = self.empty_pooled(&tokens);
        let mut hidden = self.embeddings.valid().forward(&tokens, None).hidden; // [num_positions, hidden]
        self.pool(0, &hidden, &tokens, &mut pooled);
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            hidden = layer.valid().forward(hidden, &pass);
            self.pool(layer_idx + 1, &hidden, &tokens, &mut pooled);
        }
        let pooled =
            raw::from_values(pooled, [tokens.num_rows, self.config.model.hidden_size], &hidden.device());
        Ok(raw::with_values(self.head.valid().forward(pooled, None), <[f32]>::to_vec))
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

    fn empty_pooled(&self, batch: &PretrainBatch<'_>) -> Vec<f32> {
        vec![0.0; batch.num_rows * self.config.model.hidden_size]
    }

    fn rows<'a>(&self, batch: &PretrainBatch<'a>) -> Rows<'a> {
        Rows { row_len: batch.row_len, lengths: batch.lengths, hidden: self.config.model.hidden_size }
    }

    /// Adds the states after `state_idx` layers to the pooled rows, as far as the pooling reads them.
    fn pool(&self, state_idx: usize, states: &Tensor<2>, batch: &PretrainBatch<'_>, pooled: &mut [f32]) {
        let weight = self.config.pooling.weight(state_idx, self.layers.len());
        if weight != 0.0 {
            let rows = self.rows(batch);
            raw::with_values(states.clone(), |states| {
                self.config.pooling.add_pooled(rows, weight, states, pooled);
            });
        }
    }

    /// Adds to the gradient of the states after `state_idx` layers what comes from the pooled rows.
    fn unpool(
        &self,
        state_idx: usize,
        states: &Tensor<2>,
        batch: &PretrainBatch<'_>,
        pooled_gradient: &[f32],
        from_above: Option<Tensor<2>>,
    ) -> Tensor<2> {
        let shape = states.dims();
        let weight = self.config.pooling.weight(state_idx, self.layers.len());
        if let Some(gradient) = from_above.clone().filter(|_| weight == 0.0) {
            return gradient;
        }
        let mut gradient = vec![0.0; shape[0] * shape[1]];
        if let Some(from_above) = from_above {
            raw::copy_to(from_above, &mut gradient);
        }
        let rows = self.rows(batch);
        raw::with_values(states.clone(), |states| {
            self.config.pooling.add_gradient(rows, weight, pooled_gradient, states, &mut gradient);
        });
        raw::from_values(gradient, shape, &states.device())
    }

    fn forward_stages(&self, batch: &PretrainBatch<'_>, dropout: Key) -> ForwardPass {
        let pass = Pass::new(batch, Some(dropout));
        let mut pooled = self.empty_pooled(batch);
        let embedded = self.embeddings.forward(batch, Some(dropout));
        self.pool(0, &embedded.hidden, batch, &mut pooled);
        let mut layers: Vec<Boundary> = Vec::with_capacity(self.layers.len());
        let mut input = leaf(&embedded.hidden);
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            let output = layer.forward(input.clone(), &pass);
            self.pool(layer_idx + 1, &output, batch, &mut pooled);
            let next_input = leaf(&output);
            layers.push(Boundary { input, output });
            input = next_input;
        }
        let pooled = leaf(&raw::from_values(
            pooled,
            [batch.num_rows, self.config.model.hidden_size],
            &embedded.hidden.device(),
        ));
        let logits = self.head.forward(pooled.clone(), Some(dropout));
        ForwardPass { embedded, layers, pooled, logits }
    }

    fn backward_stages(
        &self,
        batch: &PretrainBatch<'_>,
        forward: ForwardPass,
        root: Tensor<1>,
        sink: &mut dyn GradientSink,
    ) {
        let ForwardPass { embedded, layers, pooled, logits } = forward;
        let longest = self.layout.buckets.iter().map(|bucket| bucket.num_elements).max();
        let mut buffer = vec![0.0; longest.expect("a model has buckets")];
        let mut emit = |bucket_idx: usize, fill: &mut dyn FnMut(&mut [f32])| {
            let bucket = &mut buffer[..self.layout.buckets[bucket_idx].num_elements];
            fill(bucket);
            sink.bucket(bucket_idx, bucket);
        };

        let mut gradients = root.backward();
        drop(logits);
        let pooled_gradient = raw::with_values(take_gradient(&pooled, &mut gradients), <[f32]>::to_vec); // [num_rows * hidden]
        emit(self.layout.heads_idx(), &mut |out| parameters::take_gradients(&self.head, &mut gradients, out));

        let mut from_above = None;
        for (layer_idx, Boundary { input, output }) in layers.into_iter().enumerate().rev() {
            let gradient = self.unpool(layer_idx + 1, &output, batch, &pooled_gradient, from_above);
            let mut gradients = ops::gradient_root(output, gradient).backward();
            from_above = Some(take_gradient(&input, &mut gradients));
            let layer = &self.layers[layer_idx];
            emit(self.layout.layer_idx(layer_idx), &mut |out| layer.take_gradients(&mut gradients, out));
        }

        let EmbeddingsOutput { summed, hidden } = embedded;
        let gradient = self.unpool(0, &hidden, batch, &pooled_gradient, from_above);
        let mut gradients = ops::gradient_root(hidden, gradient).backward();
        emit(self.layout.embeddings_idx(), &mut |out| {
            self.embeddings.take_gradients(batch, &summed, &mut gradients, None, out);
        });
    }
}

impl ClassLosses {
    fn new(num_rows: usize, figures: CrossEntropy) -> Self {
        Self { loss_sum: figures.loss_sum, num_rows: num_rows as u64, num_correct: figures.num_correct }
    }
}

#[cfg(test)]
mod tests;
