//! The forward pass.

use bert_kernels::{
    attention,
    gemm::{self, Matrix},
    residual::{self, ResidualNorm},
    slices::fit,
};

use super::{LayerPass, LayerShape, LayerWorkspace, SavedLayer, SavedNorm};

impl LayerPass<'_> {
    /// Applies the layer, and keeps in `saved` what [`LayerPass::backward`] needs besides the input.
    ///
    /// # Shapes
    ///
    /// - input, output: `[num_tokens, hidden]`
    pub(crate) fn forward(
        self,
        input: &[f32],
        output: &mut [f32],
        saved: &mut SavedLayer,
        workspace: &mut LayerWorkspace,
    ) {
        let Self { shape, vectors, weights, .. } = self;
        let LayerShape { hidden, intermediate, activation, .. } = shape;
        let num_tokens = self.rows.num_tokens();
        let LayerWorkspace { precision, left, right, inner, .. } = workspace;
        let SavedLayer { qkv, softmax, context, attention_norm, attended, before, output_norm } = saved;

        let operand = left.operand(Matrix::new(input, num_tokens, hidden));
        right.pack_maps(&weights.qkv, hidden, hidden);
        gemm::multiply_bias(operand, right, &vectors.qkv_bias, fit(qkv, 3 * num_tokens * hidden));
        let context = fit(context, num_tokens * hidden);
        let softmax = fit(softmax, num_tokens * shape.num_heads * 2);
        attention::forward(self.attention(*precision), qkv, context, softmax);

        let operand = left.operand(Matrix::new(context, num_tokens, hidden));
        right.pack_maps(&[weights.attention_output], hidden, hidden);
        gemm::multiply(operand, right, attention_norm.fit(num_tokens, hidden));
        attention_norm.forward(self.attention_norm(), input, fit(attended, num_tokens * hidden));

        let operand = left.operand(Matrix::new(attended, num_tokens, hidden));
        let (before, inner) = (fit(before, num_tokens * intermediate), fit(inner, num_tokens * intermediate));
        right.pack_maps(&[weights.intermediate], intermediate, hidden);
        activation.multiply(operand, right, &vectors.intermediate_bias, before, inner);

        let operand = left.operand(Matrix::new(inner, num_tokens, intermediate));
        right.pack_maps(&[weights.output], hidden, intermediate);
        gemm::multiply(operand, right, output_norm.fit(num_tokens, hidden));
        output_norm.forward(self.output_norm(), attended, output);
    }
}

impl SavedNorm {
    /// Ends half a layer: the branch stands in `self.sum`, which becomes what is normalised.
    fn forward(&mut self, norm: ResidualNorm<'_>, residual: &[f32], output: &mut [f32]) {
        residual::forward(norm, residual, &mut self.sum, output, &mut self.mean, &mut self.rstd);
    }
}
