//! The backward pass.

use bert_kernels::{
    attention::{self, Inputs},
    gemm::{self, Matrix},
    residual::{self, Gradients, Saved},
    slices::{self, fit, lend},
};

use super::{LayerPass, LayerWorkspace, SavedLayer, SavedNorm};
use crate::{
    fused::{activation::multiply_backward, scatter_add, split_mut},
    rows::TokenRows,
};

impl LayerPass<'_> {
    /// Writes the gradient of the input into `grad_input` and those of the parameters into `bucket`, in layout order. What was
    /// saved is used up.
    ///
    /// # Shapes
    ///
    /// - input, grad_input: `[num_tokens, hidden]`
    /// - grad_output: `[num_read, hidden]`
    pub(crate) fn backward(
        self,
        input: &[f32],
        saved: &SavedLayer,
        grad_output: &[f32],
        grad_input: &mut [f32],
        bucket: &mut [f32],
        workspace: &mut LayerWorkspace,
    ) {
        let [attention, feed_forward] = split_mut(bucket, self.shape.half_lens());
        let mut grad_attended = std::mem::take(&mut workspace.grad_attended);
        let values = lend(&mut grad_attended, grad_output.len());
        self.feed_forward_backward(saved, grad_output, values, feed_forward, workspace);
        self.attention_backward(input, saved, values, grad_input, attention, workspace);
        workspace.grad_attended = grad_attended;
    }

    fn feed_forward_backward(
        self,
        saved: &SavedLayer,
        grad_output: &[f32],
        grad_attended: &mut [f32],
        bucket: &mut [f32],
        workspace: &mut LayerWorkspace,
    ) {
        let shape = self.shape;
        let (num_read, hidden, num_inner) =
            (self.asking_rows().num_tokens(), shape.hidden, shape.intermediate);
        let [inner_weight, inner_bias, weight, bias, gamma, beta] =
            split_mut(bucket, shape.feed_forward_lens());
        let LayerWorkspace { left, right, grad_branch, grad_inner, .. } = workspace;

        let grad_branch = lend(grad_branch, grad_output.len());
        let gradients = Gradients { bias, gamma, beta };
        let saved_norm = saved.output_norm.lend();
        residual::backward(
            self.output_norm(),
            saved_norm,
            grad_output,
            grad_attended,
            grad_branch,
            gradients,
        );

        let grad_branch = Matrix::new(grad_branch, num_read, hidden);
        let operand = left.operand(grad_branch.transposed());
        right.pack(Matrix::new(&saved.inner, num_read, num_inner));
        gemm::multiply(operand, right, weight);
        let operand = left.operand(grad_branch);
        let grad_inner = lend(grad_inner, num_read * num_inner);
        right.pack(Matrix::new(self.weights.output, hidden, num_inner));
        multiply_backward(operand, right, &saved.derivative, grad_inner);

        slices::sum_columns(grad_inner, inner_bias);
        let grad_inner = Matrix::new(grad_inner, num_read, num_inner);
        let operand = left.operand(grad_inner.transposed());
        right.pack(Matrix::new(&saved.attended, num_read, hidden));
        gemm::multiply(operand, right, inner_weight);
        let operand = left.operand(grad_inner);
        right.pack(Matrix::new(self.weights.intermediate, num_inner, hidden));
        gemm::multiply_add(operand, right, grad_attended);
    }

    fn attention_backward(
        self,
        input: &[f32],
        saved: &SavedLayer,
        grad_attended: &[f32],
        grad_input: &mut [f32],
        bucket: &mut [f32],
        workspace: &mut LayerWorkspace,
    ) {
        let [query, query_bias, key, key_bias, value, value_bias, weight, bias, gamma, beta] =
            split_mut(bucket, self.shape.attention_lens());
        let norm = Gradients { bias, gamma, beta };
        let mut grad_asking = std::mem::take(&mut workspace.grad_asking);
        let grad_read = match self.read {
            Some(_) => fit(&mut grad_asking, grad_attended.len()),
            None => &mut *grad_input,
        };
        self.context_backward(saved, grad_attended, grad_read, (weight, norm), workspace);
        self.maps_backward(input, [query, key, value], [query_bias, key_bias, value_bias], workspace);
        self.add_by_queries(grad_read, workspace);
        if let Some(read) = self.read {
            grad_input.fill(0.0);
            scatter_add(&grad_asking, &read.tokens, self.shape.hidden, grad_input);
        }
        workspace.grad_asking = grad_asking;
        self.add_by_keys_values(grad_input, workspace);
    }

    /// From the output of the first half to queries, keys and values.
    fn context_backward(
        self,
        saved: &SavedLayer,
        grad_attended: &[f32],
        grad_residual: &mut [f32],
        (grad_weight, norm): (&mut [f32], Gradients<'_>),
        workspace: &mut LayerWorkspace,
    ) {
        let hidden = self.shape.hidden;
        let [num_tokens, num_read] = [self.rows, self.asking_rows()].map(TokenRows::num_tokens);
        let LayerWorkspace { precision, left, right, grad_branch, grad_context, .. } = workspace;

        let grad_branch = lend(grad_branch, grad_attended.len());
        let saved_norm = saved.attention_norm.lend();
        residual::backward(
            self.attention_norm(),
            saved_norm,
            grad_attended,
            grad_residual,
            grad_branch,
            norm,
        );

        let grad_branch = Matrix::new(grad_branch, num_read, hidden);
        let operand = left.operand(grad_branch.transposed());
        right.pack(Matrix::new(&saved.context, num_read, hidden));
        gemm::multiply(operand, right, grad_weight);
        let operand = left.operand(grad_branch);
        let grad_context = lend(grad_context, num_read * hidden);
        right.pack(Matrix::new(self.weights.attention_output, hidden, hidden));
        gemm::multiply(operand, right, grad_context);

        let SavedLayer { queries, keys_values, softmax, .. } = saved;
        let gradients = attention::Gradients {
            queries: fit(&mut workspace.grad_queries, num_read * hidden),
            keys_values: fit(&mut workspace.grad_keys_values, 2 * num_tokens * hidden),
        };
        let inputs = Inputs { queries, keys_values };
        attention::backward(self.attention(*precision), inputs, softmax, grad_context, gradients);
    }

    /// Writes the gradients of the maps to queries, keys and values.
    fn maps_backward(
        self,
        input: &[f32],
        [query, key, value]: [&mut [f32]; 3],
        [query_bias, key_bias, value_bias]: [&mut [f32]; 3],
        workspace: &mut LayerWorkspace,
    ) {
        let hidden = self.shape.hidden;
        let [num_tokens, num_read] = [self.rows, self.asking_rows()].map(TokenRows::num_tokens);
        let LayerWorkspace { left, right, asking, grad_queries, grad_keys_values, .. } = workspace;
        right.pack(Matrix::new(self.asking(input, asking), num_read, hidden));
        let queries = Matrix::new(grad_queries, num_read, hidden);
        gemm::multiply(left.operand(queries.transposed()), right, query);
        if self.read.is_some() {
            right.pack(Matrix::new(input, num_tokens, hidden));
        }
        for (part, weight) in parts(grad_keys_values, hidden).into_iter().zip([key, value]) {
            gemm::multiply(left.operand(part.transposed()), right, weight);
        }
        slices::sum_columns(grad_queries, query_bias);
        sum_parts(grad_keys_values, [key_bias, value_bias]);
    }

    /// Adds what comes by way of the queries to the gradient of the input of the tokens that ask.
    fn add_by_queries(self, grad_read: &mut [f32], workspace: &mut LayerWorkspace) {
        let (num_read, hidden) = (self.asking_rows().num_tokens(), self.shape.hidden);
        let LayerWorkspace { left, right, grad_queries, .. } = workspace;
        right.pack(Matrix::new(self.weights.qkv[0], hidden, hidden));
        gemm::multiply_add(left.operand(Matrix::new(grad_queries, num_read, hidden)), right, grad_read);
    }

    /// Adds what comes by way of keys and values to the gradient of the input of all tokens.
    fn add_by_keys_values(self, grad_input: &mut [f32], workspace: &mut LayerWorkspace) {
        let hidden = self.shape.hidden;
        let LayerWorkspace { left, right, grad_keys_values, .. } = workspace;
        for (part, weight) in parts(grad_keys_values, hidden).into_iter().zip(&self.weights.qkv[1..]) {
            right.pack(Matrix::new(weight, hidden, hidden));
            gemm::multiply_add(left.operand(part), right, grad_input);
        }
    }
}

/// Those of the keys and those of the values.
fn parts(keys_values: &[f32], hidden: usize) -> [Matrix<'_>; 2] {
    let num_tokens = keys_values.len() / (2 * hidden);
    [0, 1].map(|part| Matrix::strided(&keys_values[part * hidden..], num_tokens, hidden, 2 * hidden))
}

/// Sums over the rows of keys and values side by side.
fn sum_parts(grad_keys_values: &[f32], biases: [&mut [f32]; 2]) {
    let hidden = biases[0].len();
    let mut sums = vec![0.0; 2 * hidden];
    slices::sum_columns(grad_keys_values, &mut sums);
    for (bias, sums) in biases.into_iter().zip(sums.chunks_exact(hidden)) {
        bias.copy_from_slice(sums);
    }
}

impl SavedNorm {
    fn lend(&self) -> Saved<'_> {
        Saved { sum: &self.sum, mean: &self.mean, rstd: &self.rstd }
    }
}
