//! The forward pass.

use bert_kernels::{
    attention,
    gemm::{self, Matrix},
    residual::{self, ResidualNorm},
    slices::fit,
};

use super::{LayerPass, LayerWorkspace, PackedLayer, SavedLayer, SavedNorm};

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
        let PackedLayer { shape, qkv: qkv_map, attention_output, intermediate, output: output_map, .. } =
            self.layer;
        let (num_tokens, hidden) = (self.rows.num_tokens(), shape.hidden);
        let num_inner = num_tokens * shape.intermediate;
        let LayerWorkspace { left, inner, .. } = workspace;
        let SavedLayer { qkv, softmax, context, attention_norm, attended, before, output_norm } = saved;

        let operand = left.operand(Matrix::new(input, num_tokens, hidden));
        gemm::multiply_bias(operand, &qkv_map.weight, &qkv_map.bias, fit(qkv, 3 * num_tokens * hidden));
        let context = fit(context, num_tokens * hidden);
        attention::forward(self.attention(), qkv, context, fit(softmax, num_tokens * shape.num_heads * 2));

        let operand = left.operand(Matrix::new(context, num_tokens, hidden));
        gemm::multiply(operand, &attention_output.weight, attention_norm.fit(num_tokens, hidden));
        attention_norm.forward(self.attention_norm(), input, fit(attended, num_tokens * hidden));

        let operand = left.operand(Matrix::new(attended, num_tokens, hidden));
        let (before, inner) = (fit(before, num_inner), fit(inner, num_inner));
        shape.activation.multiply(operand, &intermediate.weight, &intermediate.bias, before, inner);

        let operand = left.operand(Matrix::new(inner, num_tokens, shape.intermediate));
        gemm::multiply(operand, &output_map.weight, output_norm.fit(num_tokens, hidden));
        output_norm.forward(self.output_norm(), attended, output);
    }
}

impl SavedNorm {
    /// Ends half a layer: the branch stands in `self.sum`, which becomes what is normalised.
    fn forward(&mut self, norm: ResidualNorm<'_>, residual: &[f32], output: &mut [f32]) {
        residual::forward(norm, residual, &mut self.sum, output, &mut self.mean, &mut self.rstd);
    }
}
