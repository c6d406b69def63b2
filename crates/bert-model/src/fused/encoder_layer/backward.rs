//! The backward pass.

use bert_kernels::{
    attention,
    gemm::{self, Matrix},
    residual::{self, Gradients, Saved},
    slices::{self, fit},
};

use super::{LayerPass, LayerWorkspace, SavedLayer, SavedNorm};
use crate::fused::{activation::multiply_backward, split_mut};

impl LayerPass<'_> {
    /// Writes the gradient of the input into `grad_input` and those of the parameters into `bucket`, in layout order. What was
    /// saved is used up.
    ///
    /// # Shapes
    ///
    /// - input, grad_output, grad_input: `[num_tokens, hidden]`
    pub(crate) fn backward(
        self,
        input: &[f32],
        saved: &mut SavedLayer,
        grad_output: &[f32],
        grad_input: &mut [f32],
        bucket: &mut [f32],
        workspace: &mut LayerWorkspace,
    ) {
        let [attention, feed_forward] = split_mut(bucket, self.shape.half_lens());
        let mut grad_attended = std::mem::take(&mut workspace.grad_attended);
        fit(&mut grad_attended, grad_output.len());
        self.feed_forward_backward(saved, grad_output, &mut grad_attended, feed_forward, workspace);
        self.attention_backward(input, saved, &grad_attended, grad_input, attention, workspace);
        workspace.grad_attended = grad_attended;
    }

    fn feed_forward_backward(
        self,
        saved: &mut SavedLayer,
        grad_output: &[f32],
        grad_attended: &mut [f32],
        bucket: &mut [f32],
        workspace: &mut LayerWorkspace,
    ) {
        let shape = self.shape;
        let (num_tokens, hidden, num_inner) = (self.rows.num_tokens(), shape.hidden, shape.intermediate);
        let [inner_weight, inner_bias, weight, bias, gamma, beta] =
            split_mut(bucket, shape.feed_forward_lens());
        let LayerWorkspace { left, right, grad_branch, inner, .. } = workspace;

        let grad_branch = fit(grad_branch, grad_output.len());
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

        let grad_branch = Matrix::new(grad_branch, num_tokens, hidden);
        let operand = left.operand(grad_branch.transposed());
        let inner = fit(inner, num_tokens * num_inner);
        shape.activation.forward_with_derivative(&mut saved.before, inner);
        right.pack(Matrix::new(inner, num_tokens, num_inner));
        gemm::multiply(operand, right, weight);
        let operand = left.operand(grad_branch);
        let grad_inner = inner; // it is packed
        right.pack(Matrix::new(self.weights.output, hidden, num_inner));
        multiply_backward(operand, right, &saved.before, grad_inner);

        slices::sum_columns(grad_inner, inner_bias);
        let grad_inner = Matrix::new(grad_inner, num_tokens, num_inner);
        let operand = left.operand(grad_inner.transposed());
        right.pack(Matrix::new(&saved.attended, num_tokens, hidden));
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
        let shape = self.shape;
        let (num_tokens, hidden) = (self.rows.num_tokens(), shape.hidden);
        let [query, query_bias, key, key_bias, value, value_bias, weight, bias, gamma, beta] =
            split_mut(bucket, shape.attention_lens());
        let LayerWorkspace { precision, left, right, grad_branch, grad_context, grad_qkv, .. } = workspace;

        let grad_branch = fit(grad_branch, grad_attended.len());
        let gradients = Gradients { bias, gamma, beta };
        let saved_norm = saved.attention_norm.lend();
        residual::backward(
            self.attention_norm(),
            saved_norm,
            grad_attended,
            grad_input,
            grad_branch,
            gradients,
        );

        let grad_branch = Matrix::new(grad_branch, num_tokens, hidden);
        let operand = left.operand(grad_branch.transposed());
        right.pack(Matrix::new(&saved.context, num_tokens, hidden));
        gemm::multiply(operand, right, weight);
        let operand = left.operand(grad_branch);
        let grad_context = fit(grad_context, num_tokens * hidden);
        right.pack(Matrix::new(self.weights.attention_output, hidden, hidden));
        gemm::multiply(operand, right, grad_context);

        let grad_qkv = fit(grad_qkv, 3 * num_tokens * hidden);
        let SavedLayer { qkv: states, softmax, .. } = saved;
        attention::backward(self.attention(*precision), states, softmax, grad_context, grad_qkv);
        let parts = [0, 1, 2].map(|part| {
            let part = &grad_qkv[part * hidden..];
            Matrix::strided(part, num_tokens, hidden, 3 * hidden)
        });
        right.pack(Matrix::new(input, num_tokens, hidden));
        for (part, weight) in parts.into_iter().zip([query, key, value]) {
            let operand = left.operand(part.transposed());
            gemm::multiply(operand, right, weight);
        }
        for (part, weight) in parts.into_iter().zip(self.weights.qkv) {
            let operand = left.operand(part);
            right.pack(Matrix::new(weight, hidden, hidden));
            gemm::multiply_add(operand, right, grad_input);
        }
        sum_parts(grad_qkv, [query_bias, key_bias, value_bias]);
    }
}

/// Sums over the rows of queries, keys and values side by side.
fn sum_parts(grad_qkv: &[f32], biases: [&mut [f32]; 3]) {
    let hidden = biases[0].len();
    let mut sums = vec![0.0; 3 * hidden];
    slices::sum_columns(grad_qkv, &mut sums);
    for (bias, sums) in biases.into_iter().zip(sums.chunks_exact(hidden)) {
        bias.copy_from_slice(sums);
    }
}

impl SavedNorm {
    fn lend(&self) -> Saved<'_> {
        Saved { sum: &self.sum, mean: &self.mean, rstd: &self.rstd }
    }
}
