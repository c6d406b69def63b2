//! The same network written with nothing but burn's own operations and one whole backward pass: the reference.
//!
//! Additive mask, LayerNorm and softmax from primitive operations, lookups as `select`, one loss tensor.

use std::collections::HashMap;

use burn::{
    Tensor,
    tensor::{Device, Int, TensorData, activation},
};

use crate::{
    backend::BackendKind,
    batch::PretrainBatch,
    loss::LossScale,
    ops::{composed::layer_norm, raw},
    pretrain::PretrainModel,
};

type Parameters = HashMap<String, (Vec<usize>, Vec<f32>)>;

struct Network {
    vectors: HashMap<String, Tensor<1>>,
    matrices: HashMap<String, Tensor<2>>,
    device: Device,
}

/// Returns the scaled loss and the gradient of every parameter by name.
pub(crate) fn loss_and_gradients(
    model: &PretrainModel,
    batch: &PretrainBatch<'_>,
    scale: LossScale,
    backend: BackendKind,
) -> (f64, HashMap<String, Vec<f32>>) {
    let network = Network::new(parameters(model), backend);
    let loss = network.loss(model, batch, scale);
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let gradients = loss.backward();
    let mut by_name = HashMap::new();
    for (name, tensor) in &network.vectors {
        by_name.insert(name.clone(), raw::with_values(tensor.grad(&gradients).unwrap(), <[f32]>::to_vec));
    }
    for (name, tensor) in &network.matrices {
        by_name.insert(name.clone(), raw::with_values(tensor.grad(&gradients).unwrap(), <[f32]>::to_vec));
    }
    (value, by_name)
}

fn parameters(model: &PretrainModel) -> Parameters {
    let mut all = Parameters::new();
    for (bucket_idx, bucket) in model.layout().buckets.iter().enumerate() {
        let mut values = vec![0.0; bucket.num_elements];
        model.read_bucket(bucket_idx, &mut values);
        for spec in &bucket.parameters {
            all.insert(spec.name.clone(), (spec.shape.clone(), values[spec.range()].to_vec()));
        }
    }
    all
}

impl Network {
    fn new(parameters: Parameters, backend: BackendKind) -> Self {
        let device = backend.device().unwrap().autodiff();
        let mut network = Self { vectors: HashMap::new(), matrices: HashMap::new(), device };
        for (name, (shape, values)) in parameters {
            let data = TensorData::new(values, shape.clone());
            if shape.len() == 1 {
                let tensor = Tensor::from_data(data, &network.device).require_grad();
                network.vectors.insert(name, tensor);
            } else {
                let tensor = Tensor::from_data(data, &network.device).require_grad();
                network.matrices.insert(name, tensor);
            }
        }
        network
    }

    fn linear(&self, input: Tensor<2>, name: &str) -> Tensor<2> {
        let weight = self.matrices[&format!("{name}.weight")].clone();
        input.matmul(weight.transpose()) + self.vectors[&format!("{name}.bias")].clone().unsqueeze()
    }

    fn normalise(&self, input: Tensor<2>, name: &str, epsilon: f64) -> Tensor<2> {
        let vector = |end: &str| self.vectors[&format!("{name}.LayerNorm.{end}")].clone();
        layer_norm(input, vector("weight"), vector("bias"), epsilon)
    }

    fn look_up(&self, table: &str, ids: impl Iterator<Item = usize>) -> Tensor<2> {
        let table = self.matrices[&format!("bert.embeddings.{table}_embeddings.weight")].clone();
        table.select(0, self.indices(ids))
    }

    fn indices(&self, ids: impl Iterator<Item = usize>) -> Tensor<1, Int> {
        let ids: Vec<_> = ids.map(|id| id as i64).collect();
        let len = ids.len();
        Tensor::from_data(TensorData::new(ids, [len]), &self.device)
    }

    fn loss(&self, model: &PretrainModel, batch: &PretrainBatch<'_>, scale: LossScale) -> Tensor<1> {
        let epsilon = model.config().layer_norm_eps;
        let embedded = self.look_up("word", batch.input_ids.iter().map(|&id| id as usize))
            + self.look_up("token_type", batch.token_type_ids.iter().map(|&id| id.into()))
            + self.look_up("position", (0..batch.input_ids.len()).map(|idx| idx % batch.row_len));
        let mut hidden = self.normalise(embedded, "bert.embeddings", epsilon);
        for layer_idx in 0..model.config().num_hidden_layers {
            hidden = self.layer(model, batch, hidden, &format!("bert.encoder.layer.{layer_idx}"));
        }

        let masked = hidden.clone().select(0, self.indices(batch.mlm_positions.iter().map(|&p| p as usize)));
        let transformed = activation::gelu(self.linear(masked, "cls.predictions.transform.dense"));
        let transformed = self.normalise(transformed, "cls.predictions.transform", epsilon);
        let words = self.matrices["bert.embeddings.word_embeddings.weight"].clone();
        let logits =
            transformed.matmul(words.transpose()) + self.vectors["cls.predictions.bias"].clone().unsqueeze(); // [num_masked, vocab]
        let mlm = self.nll(logits, batch.mlm_labels.iter().map(|&label| label as usize));

        let firsts = hidden.select(0, self.indices((0..batch.num_rows).map(|row| row * batch.row_len)));
        let pooled = self.linear(firsts, "bert.pooler.dense").tanh();
        let logits = self.linear(pooled, "cls.seq_relationship"); // [num_rows, 2]
        let nsp = self.nll(logits, batch.nsp_labels.iter().map(|&label| label.into()));
        mlm * scale.mlm + nsp * scale.nsp
    }

    fn layer(
        &self,
        model: &PretrainModel,
        batch: &PretrainBatch<'_>,
        hidden: Tensor<2>,
        name: &str,
    ) -> Tensor<2> {
        let epsilon = model.config().layer_norm_eps;
        let (num_heads, head_size) = (model.config().num_attention_heads, model.config().head_size());
        let heads = |end: &str| {
            self.linear(hidden.clone(), &format!("{name}.attention.self.{end}"))
                .reshape([batch.num_rows, batch.row_len, num_heads, head_size])
                .swap_dims(1, 2) // [num_rows, heads, row_len, head_size]
        };
        let scores = heads("query").matmul(heads("key").swap_dims(2, 3)) / (head_size as f64).sqrt();
        let context =
            activation::softmax(scores + self.mask(batch), 3).matmul(heads("value")).swap_dims(1, 2);
        let context = context.reshape([batch.num_rows * batch.row_len, num_heads * head_size]);
        let attended = self.linear(context, &format!("{name}.attention.output.dense"));
        let hidden = self.normalise(attended + hidden.clone(), &format!("{name}.attention.output"), epsilon);
        let inner = activation::gelu(self.linear(hidden.clone(), &format!("{name}.intermediate.dense")));
        let output = self.linear(inner, &format!("{name}.output.dense"));
        self.normalise(output + hidden, &format!("{name}.output"), epsilon)
    }

    /// Zero for real keys, far below every score for padding.
    fn mask(&self, batch: &PretrainBatch<'_>) -> Tensor<4> {
        let row_len = batch.row_len;
        let of_row =
            |&length: &u32| (0..row_len).map(move |key| if key < length as usize { 0.0 } else { -1e9 });
        let mask: Vec<f32> = batch.lengths.iter().flat_map(of_row).collect();
        let mask = Tensor::<1>::from_data(TensorData::new(mask, [batch.num_rows * row_len]), &self.device);
        mask.reshape([batch.num_rows, 1, 1, row_len])
    }

    fn nll(&self, logits: Tensor<2>, labels: impl Iterator<Item = usize>) -> Tensor<1> {
        let labels = self.indices(labels).unsqueeze_dim(1); // [num_rows, 1]
        -activation::log_softmax(logits, 1).gather(1, labels).sum()
    }
}
