//! Next sentence prediction: the pooler, `tanh(W h + b)` of the first token of each row, and a linear map to two classes.

use bert_kernels::{
    gemm::{self, LeftScratch, PackedB, Precision},
    slices::{self, fit},
};

use super::{FusedHeads, HeadsBatch, rows};
use crate::{
    fused::{gather, scatter_add},
    loss::{CrossEntropy, cross_entropy, cross_entropy_with_gradient},
};

/// Memory of the pass, `[num_rows, hidden]` but for the logits, `[num_rows, 2]`.
#[derive(Debug)]
pub(super) struct Buffers {
    left: LeftScratch,
    right: PackedB,
    states: Vec<f32>,
    pooled: Vec<f32>,
    logits: Vec<f32>,
    grad_logits: Vec<f32>,
    grad_pooled: Vec<f32>,
    grad_states: Vec<f32>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            left: LeftScratch::new(Precision::F32),
            right: PackedB::new(Precision::F32),
            states: Vec::new(),
            pooled: Vec::new(),
            logits: Vec::new(),
            grad_logits: Vec::new(),
            grad_pooled: Vec::new(),
            grad_states: Vec::new(),
        }
    }
}

/// Where gradients of the parameters go.
#[derive(Debug)]
pub(super) struct Gradients<'a> {
    pub(super) pooler: &'a mut [f32],
    pub(super) pooler_bias: &'a mut [f32],
    pub(super) seq: &'a mut [f32],
    pub(super) seq_bias: &'a mut [f32],
}

impl FusedHeads {
    pub(super) fn train_nsp(
        &mut self,
        states: &[f32],
        batch: &HeadsBatch,
        scale: f32,
        grad_states: &mut [f32],
        gradients: Gradients<'_>,
    ) -> CrossEntropy {
        let Gradients { pooler, pooler_bias, seq, seq_bias } = gradients;
        if batch.nsp_labels.is_empty() {
            [pooler, pooler_bias, seq, seq_bias].into_iter().for_each(|gradient| gradient.fill(0.0));
            return CrossEntropy::default();
        }
        self.relate(states, &batch.firsts);
        let Buffers {
            left,
            right,
            states,
            pooled,
            logits,
            grad_logits,
            grad_pooled,
            grad_states: grad_firsts,
        } = &mut self.nsp;
        let grad_logits = fit(grad_logits, logits.len());
        let figures = cross_entropy_with_gradient(logits, &batch.nsp_labels, scale, grad_logits);

        slices::sum_columns(grad_logits, seq_bias);
        let operand = left.operand(rows(grad_logits, 2).transposed());
        right.pack(rows(pooled, self.hidden));
        gemm::multiply(operand, right, seq);
        let operand = left.operand(rows(grad_logits, 2));
        let grad_pooled = fit(grad_pooled, pooled.len());
        gemm::multiply(operand, &self.seq_relationship_back, grad_pooled);
        // The derivative of tanh, from its value.
        grad_pooled.iter_mut().zip(&*pooled).for_each(|(gradient, tanh)| *gradient *= 1.0 - tanh * tanh);

        slices::sum_columns(grad_pooled, pooler_bias);
        let operand = left.operand(rows(grad_pooled, self.hidden).transposed());
        right.pack(rows(states, self.hidden));
        gemm::multiply(operand, right, pooler);
        let operand = left.operand(rows(grad_pooled, self.hidden));
        let grad_firsts = fit(grad_firsts, states.len());
        gemm::multiply(operand, &self.pooler_back, grad_firsts);
        scatter_add(grad_firsts, &batch.firsts, self.hidden, grad_states);
        figures
    }

    pub(super) fn evaluate_nsp(&mut self, states: &[f32], batch: &HeadsBatch) -> CrossEntropy {
        if batch.nsp_labels.is_empty() {
            return CrossEntropy::default();
        }
        self.relate(states, &batch.firsts);
        cross_entropy(&self.nsp.logits, &batch.nsp_labels)
    }

    /// Computes the pooled vector of each row.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - output: `[num_rows, hidden]`
    pub(crate) fn pooled(&mut self, states: &[f32], firsts: &[usize]) -> &[f32] {
        let Buffers { left, states: gathered, pooled, .. } = &mut self.nsp;
        gather(states, firsts, self.hidden, gathered);
        let operand = left.operand(rows(gathered, self.hidden));
        let pooled = fit(pooled, gathered.len());
        gemm::multiply_bias(operand, &self.pooler.weight, &self.pooler.bias, pooled);
        pooled.iter_mut().for_each(|value| *value = value.tanh());
        pooled
    }

    /// Computes the logits of each row: 0 = B follows A, 1 = it does not.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - output: `[num_rows, 2]`
    pub(crate) fn relate(&mut self, states: &[f32], firsts: &[usize]) -> &[f32] {
        self.pooled(states, firsts);
        let Buffers { left, pooled, logits, .. } = &mut self.nsp;
        let operand = left.operand(rows(pooled, self.hidden));
        let seq = &self.seq_relationship;
        let logits = fit(logits, 2 * firsts.len());
        gemm::multiply_bias(operand, &seq.weight, &seq.bias, logits);
        logits
    }
}
