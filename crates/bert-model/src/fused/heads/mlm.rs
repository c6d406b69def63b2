//! The masked language model: a linear map with activation and LayerNorm, then the tied decoder with its loss.

use bert_kernels::{
    gemm, layer_norm,
    mlm_head::MlmGradients,
    slices::{self, fit},
};

use super::{FusedHeads, HeadsBatch, rows};
use crate::{
    fused::{activation::apply_derivative, gather, scatter_add},
    loss::CrossEntropy,
};

/// Memory of the pass, `[num_masked, hidden]` but for the statistics.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    states: Vec<f32>,
    /// Of the activation.
    derivative: Vec<f32>,
    inner: Vec<f32>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
    normalised: Vec<f32>,
    grad_normalised: Vec<f32>,
    grad_inner: Vec<f32>,
}

/// Where gradients of the parameters go.
#[derive(Debug)]
pub(super) struct Gradients<'a> {
    pub(super) transform: &'a mut [f32],
    pub(super) transform_bias: &'a mut [f32],
    pub(super) gamma: &'a mut [f32],
    pub(super) beta: &'a mut [f32],
    pub(super) decoder_bias: &'a mut [f32],
    pub(super) word_table: &'a mut [f32],
}

impl FusedHeads {
    pub(super) fn train_mlm(
        &mut self,
        (states, table): (&[f32], &[f32]),
        batch: &HeadsBatch,
        scale: f32,
        grad_states: &mut [f32],
        gradients: Gradients<'_>,
    ) -> CrossEntropy {
        let Gradients { transform, transform_bias, gamma, beta, decoder_bias, word_table } = gradients;
        if batch.masked.is_empty() {
            let all = [transform, transform_bias, gamma, beta, decoder_bias, word_table];
            all.into_iter().for_each(|gradient| gradient.fill(0.0));
            return CrossEntropy::default();
        }
        self.transform(states, batch);
        let Buffers { states, derivative, inner, mean, rstd, normalised, grad_normalised, grad_inner } =
            &mut self.mlm;
        let grad_normalised = fit(grad_normalised, normalised.len());
        let targets = MlmGradients { hidden: grad_normalised, table: word_table, bias: decoder_bias };
        let loss =
            self.decoder.train(table, normalised, &self.decoder_bias, &batch.mlm_labels, scale, targets);

        let grad_inner = fit(grad_inner, inner.len());
        let norm_gamma = &self.norm.gamma;
        layer_norm::backward(grad_normalised, inner, norm_gamma, mean, rstd, grad_inner, gamma, beta);
        apply_derivative(derivative, grad_inner);
        slices::sum_columns(grad_inner, transform_bias);
        let operand = self.left.operand(rows(grad_inner, self.hidden).transposed());
        self.right.pack(rows(states, self.hidden));
        gemm::multiply(operand, &self.right, transform);
        let operand = self.left.operand(rows(grad_inner, self.hidden));
        let grad_gathered = grad_normalised; // not needed any more
        gemm::multiply(operand, &self.transform_back, grad_gathered);
        scatter_add(grad_gathered, &batch.masked, self.hidden, grad_states);
        CrossEntropy { loss_sum: loss.loss_sum, num_correct: loss.num_correct }
    }

    pub(super) fn evaluate_mlm(&mut self, states: &[f32], table: &[f32], batch: &HeadsBatch) -> CrossEntropy {
        if batch.masked.is_empty() {
            return CrossEntropy::default();
        }
        self.transform(states, batch);
        let loss = self.decoder.evaluate(table, &self.mlm.normalised, &self.decoder_bias, &batch.mlm_labels);
        CrossEntropy { loss_sum: loss.loss_sum, num_correct: loss.num_correct }
    }

    /// Computes the logits of the masked tokens.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`; word_table: `[vocab, hidden]`
    /// - output: `[num_masked, vocab]`
    pub(crate) fn masked_logits(
        &mut self,
        states: &[f32],
        word_table: &[f32],
        batch: &HeadsBatch,
    ) -> Vec<f32> {
        if batch.masked.is_empty() {
            return Vec::new();
        }
        self.transform(states, batch);
        let mut logits = vec![0.0; batch.masked.len() * self.decoder_bias.len()];
        self.decoder.logits(word_table, &self.mlm.normalised, &self.decoder_bias, &mut logits);
        logits
    }

    /// Everything before the decoder, for the masked tokens.
    fn transform(&mut self, states: &[f32], batch: &HeadsBatch) {
        let buffers = &mut self.mlm;
        gather(states, &batch.masked, self.hidden, &mut buffers.states);
        let (num_masked, len) = (batch.masked.len(), buffers.states.len());
        let operand = self.left.operand(rows(&buffers.states, self.hidden));
        let (derivative, inner) = (fit(&mut buffers.derivative, len), fit(&mut buffers.inner, len));
        self.activation.multiply(operand, &self.transform.weight, &self.transform.bias, derivative, inner);
        layer_norm::forward(
            inner,
            &self.norm.gamma,
            &self.norm.beta,
            self.layer_norm_eps,
            fit(&mut buffers.normalised, len),
            fit(&mut buffers.mean, num_masked),
            fit(&mut buffers.rstd, num_masked),
        );
    }
}
