//! The first stage: word + position + token type, LayerNorm, dropout.
//!
//! Owns the tables and the choice of form. In both forms the tables' gradients are rows added to the bucket in the
//! order of the tokens: as tensors they would be dense, zeros with a few rows in them.

use std::sync::{Arc, Mutex};

use bert_random::Key;
use burn::{
    Tensor,
    module::{Module, Param},
    tensor::{Device, Gradients},
};

use crate::{
    batch::PretrainBatch,
    config::ModelConfig,
    layers::{DropoutSite, LayerNorm},
    layout::BucketLayout,
    ops::{
        self, EmbeddingsCall, EmbeddingsWorkspace, GradientSlot, composed,
        raw::{self, SharedValues},
    },
    parameters::{self, BucketSource},
    rows::TokenRows,
};

/// Tables and LayerNorm; parameters in layout order.
#[derive(Module, Debug)]
pub(crate) struct Embeddings {
    word: Param<Tensor<2>>,
    position: Param<Tensor<2>>,
    token_type: Param<Tensor<2>>,
    layer_norm: LayerNorm,
    layer_norm_eps: f64,
    dropout_prob: f64,
    #[module(skip)]
    fused: Option<FusedEmbeddings>,
}

/// What the fused form needs.
#[derive(Clone, Debug, Default)]
struct FusedEmbeddings {
    workspace: Arc<Mutex<EmbeddingsWorkspace>>,
    gradients: GradientSlot,
}

/// The tokens of a batch without padding, `[num_tokens]` each.
struct Tokens {
    rows: Arc<TokenRows>,
    ids: Arc<[u32]>,
    types: Arc<[u8]>,
    positions: Arc<[u32]>,
}

/// What the stage hands on, and what its backward pass starts from.
pub(crate) struct EmbeddingsOutput {
    tokens: Tokens,
    /// `[num_tokens, hidden]`, the sum of the three look-ups as a leaf; composed form only.
    summed: Option<Tensor<2>>,
    /// `[num_tokens, hidden]`
    pub(crate) hidden: Tensor<2>,
}

impl Embeddings {
    pub(crate) fn load(
        config: &ModelConfig,
        layout: &BucketLayout,
        values: &SharedValues,
        is_fused: bool,
        device: &Device,
    ) -> Self {
        let mut source = BucketSource::new(layout, values, device);
        Self {
            word: source.take("word_embeddings.weight"),
            position: source.take("position_embeddings.weight"),
            token_type: source.take("token_type_embeddings.weight"),
            layer_norm: LayerNorm::load(&mut source, config.layer_norm_eps),
            layer_norm_eps: config.layer_norm_eps,
            dropout_prob: config.hidden_dropout_prob,
            fused: is_fused.then(FusedEmbeddings::default),
        }
    }

    /// The word table, `[vocab, hidden]`: also the decoder of the MLM head.
    pub(crate) fn word_table(&self) -> Tensor<2> {
        self.word.val()
    }

    /// Where gradients of this bucket are left; fused form only. The heads leave their part of the word table's there.
    pub(crate) fn gradients(&self) -> Option<&GradientSlot> {
        self.fused.as_ref().map(|fused| &fused.gradients)
    }

    /// Embeds a batch. The result is tracked if the parameters are.
    ///
    /// # Shapes
    ///
    /// - output: `[num_tokens, hidden]`, see [`EmbeddingsOutput`]
    pub(crate) fn forward(
        &self,
        batch: &PretrainBatch<'_>,
        rows: &Arc<TokenRows>,
        dropout: Option<Key>,
    ) -> EmbeddingsOutput {
        let tokens = Tokens::new(batch, rows);
        let dropout = DropoutSite::Embeddings.dropout(dropout, self.dropout_prob);
        if let Some(fused) = &self.fused {
            let call = EmbeddingsCall {
                rows: tokens.rows.clone(),
                ids: tokens.ids.clone(),
                types: tokens.types.clone(),
                positions: tokens.positions.clone(),
                layer_norm_eps: self.layer_norm_eps as f32,
                dropout,
                workspace: fused.workspace.clone(),
                gradients: fused.gradients.clone(),
            };
            let tables = [&self.word, &self.position, &self.token_type].map(Param::val);
            let hidden = ops::embeddings(tables, self.layer_norm.parameters(), call);
            return EmbeddingsOutput { tokens, summed: None, hidden };
        }
        let summed = self.look_up(&tokens); // [num_tokens, hidden]
        let summed = if self.word.val().is_tracked() { summed.autodiff().require_grad() } else { summed };
        let hidden = composed::drop_tokens(self.layer_norm.forward(summed.clone()), dropout, rows);
        EmbeddingsOutput { tokens, summed: Some(summed), hidden }
    }

    /// Runs backward from `root`, which entered the graph of the output, and fills the bucket.
    ///
    /// `bucket` comes with what the heads left for the word table, or zeros; that table's gradient is always heads
    /// first, then the tokens in ascending order.
    pub(crate) fn backward(
        &self,
        output: EmbeddingsOutput,
        root: impl FnOnce(Tensor<2>) -> Tensor<1>,
        mut bucket: Vec<f32>,
    ) -> Vec<f32> {
        let EmbeddingsOutput { tokens, summed, hidden } = output;
        let root = root(hidden);
        if let Some(fused) = &self.fused {
            return fused.gradients.backward(root, bucket).1;
        }
        let mut gradients = root.backward();
        let summed = summed.expect("the composed form keeps the sum");
        self.take_gradients(&tokens, &summed, &mut gradients, &mut bucket);
        bucket
    }

    fn look_up(&self, tokens: &Tokens) -> Tensor<2> {
        let [_, hidden] = self.word.dims();
        let mut summed = Vec::with_capacity(tokens.ids.len() * hidden);
        raw::with_values(self.word.val(), |words| {
            tokens.ids.iter().for_each(|&id| summed.extend_from_slice(row(words, id as usize, hidden)));
        });
        raw::with_values(self.token_type.val(), |types| {
            for (sum, &segment) in summed.chunks_exact_mut(hidden).zip(&*tokens.types) {
                add(sum, row(types, segment.into(), hidden));
            }
        });
        raw::with_values(self.position.val(), |positions| {
            for (sum, &position) in summed.chunks_exact_mut(hidden).zip(&*tokens.positions) {
                add(sum, row(positions, position as usize, hidden));
            }
        });
        raw::from_values(summed, [tokens.ids.len(), hidden], &self.word.val().device())
    }

    fn take_gradients(
        &self,
        tokens: &Tokens,
        summed: &Tensor<2>,
        gradients: &mut Gradients,
        bucket: &mut [f32],
    ) {
        let hidden = self.word.dims()[1];
        let (words, rest) = bucket.split_at_mut(self.word.dims()[0] * hidden);
        let (positions, rest) = rest.split_at_mut(self.position.dims()[0] * hidden);
        let (types, rest) = rest.split_at_mut(self.token_type.dims()[0] * hidden);
        positions.fill(0.0);
        types.fill(0.0);
        let gradient = summed.grad_remove(gradients).expect("every output of the stage depends on its sum");
        raw::with_values(gradient, |gradient| {
            for (token, gradient) in gradient.chunks_exact(hidden).enumerate() {
                add(row_mut(words, tokens.ids[token] as usize, hidden), gradient);
                add(row_mut(positions, tokens.positions[token] as usize, hidden), gradient);
                add(row_mut(types, tokens.types[token].into(), hidden), gradient);
            }
        });
        parameters::take_gradients(&self.layer_norm, gradients, rest);
    }
}

impl Tokens {
    fn new(batch: &PretrainBatch<'_>, rows: &Arc<TokenRows>) -> Self {
        let column = |&place: &usize| (place % rows.row_len) as u32;
        Self {
            rows: rows.clone(),
            ids: rows.without_padding(batch.input_ids).into(),
            types: rows.without_padding(batch.token_type_ids).into(),
            positions: rows.places.iter().map(column).collect(),
        }
    }
}

fn row(table: &[f32], idx: usize, width: usize) -> &[f32] {
    &table[idx * width..(idx + 1) * width]
}

fn row_mut(table: &mut [f32], idx: usize, width: usize) -> &mut [f32] {
    &mut table[idx * width..(idx + 1) * width]
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}
