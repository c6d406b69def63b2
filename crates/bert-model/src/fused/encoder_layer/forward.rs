//! The forward pass.

use bert_kernels::{
    attention::{self, Inputs},
    gemm::{self, Matrix},
    residual::{self, ResidualNorm},
    slices::fit,
};

use super::{LayerPass, LayerShape, LayerWorkspace, SavedLayer, SavedNorm};
use crate::rows::TokenRows;

impl LayerPass<'_> {
    /// Applies the layer, and keeps in `saved` what [`LayerPass::backward`] needs besides the input.
    ///
    /// # Shapes
    ///
    /// - input: `[num_tokens, hidden]`
    /// - output: `[num_read, hidden]`
    pub(crate) fn forward(
        self,
        input: &[f32],
        output: &mut [f32],
        saved: &mut SavedLayer,
        workspace: &mut LayerWorkspace,
    ) {
        let Self { shape, vectors, weights, .. } = self;
        let LayerShape { hidden, intermediate, activation, .. } = shape;
        let num_read = self.asking_rows().num_tokens();
        let mut collected = std::mem::take(&mut workspace.asking);
        let asking = self.asking(input, &mut collected);
        self.attend(input, asking, saved, workspace);
        let LayerWorkspace { left, right, .. } = workspace;
        let SavedLayer { context, attention_norm, attended, inner, derivative, output_norm, .. } = saved;

        let operand = left.operand(Matrix::new(context, num_read, hidden));
        right.pack_maps(&[weights.attention_output], hidden, hidden);
        gemm::multiply(operand, right, attention_norm.fit(num_read, hidden));
        attention_norm.forward(self.attention_norm(), asking, fit(attended, num_read * hidden));

        let operand = left.operand(Matrix::new(attended, num_read, hidden));
        let [inner, derivative] = [inner, derivative].map(|values| fit(values, num_read * intermediate));
        right.pack_maps(&[weights.intermediate], intermediate, hidden);
        activation.multiply(operand, right, &vectors.intermediate_bias, derivative, inner);

        let operand = left.operand(Matrix::new(inner, num_read, intermediate));
        right.pack_maps(&[weights.output], hidden, intermediate);
        gemm::multiply(operand, right, output_norm.fit(num_read, hidden));
        output_norm.forward(self.output_norm(), attended, output);
        workspace.asking = collected;
    }

    /// Computes the context of the tokens that ask.
    fn attend(self, input: &[f32], asking: &[f32], saved: &mut SavedLayer, workspace: &mut LayerWorkspace) {
        let (hidden, [query, key, value]) = (self.shape.hidden, self.weights.qkv);
        let [num_tokens, num_read] = [self.rows, self.asking_rows()].map(TokenRows::num_tokens);
        let LayerWorkspace { precision, left, right, .. } = workspace;
        let SavedLayer { queries, keys_values, softmax, context, .. } = saved;

        let mut operand = left.operand(Matrix::new(asking, num_read, hidden));
        right.pack_maps(&[query], hidden, hidden);
        let queries = fit(queries, num_read * hidden);
        gemm::multiply_bias(operand, right, &self.vectors.query_bias, queries);
        if self.read.is_some() {
            operand = left.operand(Matrix::new(input, num_tokens, hidden));
        }
        right.pack_maps(&[key, value], hidden, hidden);
        let keys_values = fit(keys_values, 2 * num_tokens * hidden);
        gemm::multiply_bias(operand, right, &self.vectors.key_value_bias, keys_values);

        let inputs = Inputs { queries, keys_values };
        let context = fit(context, num_read * hidden);
        let softmax = fit(softmax, num_read * self.shape.num_heads * 2);
        attention::forward(self.attention(*precision), inputs, context, softmax);
    }
}

impl SavedNorm {
    /// Ends half a layer: the branch stands in `self.sum`, which becomes what is normalised.
    fn forward(&mut self, norm: ResidualNorm<'_>, residual: &[f32], output: &mut [f32]) {
        residual::forward(norm, residual, &mut self.sum, output, &mut self.mean, &mut self.rstd);
    }
}
