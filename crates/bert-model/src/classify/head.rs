//! The last stage of a classifier: pooler (where the pooling goes through it), dropout, one logit per class.

use bert_random::Key;
use burn::{Tensor, module::Module, tensor::Device};

use super::ClassifierConfig;
use crate::{
    layers::{DropoutSite, Linear},
    layout::BucketLayout,
    ops::{composed, raw::SharedValues},
    parameters::BucketSource,
};

/// Pooler and classifier; fields in layout order.
#[derive(Module, Debug)]
pub(super) struct ClassifierHead {
    pooler: Linear,
    classifier: Linear,
    uses_pooler: bool,
    dropout_prob: f64,
}

impl ClassifierHead {
    pub(super) fn load(
        config: &ClassifierConfig,
        layout: &BucketLayout,
        values: &SharedValues,
        device: &Device,
    ) -> Self {
        let mut source = BucketSource::new(layout, values, device);
        Self {
            pooler: Linear::load(&mut source, "pooler.dense"),
            classifier: Linear::load(&mut source, "classifier"),
            uses_pooler: config.pooling.uses_pooler(),
            dropout_prob: config.dropout_prob,
        }
    }

    /// Computes the logits.
    ///
    /// # Shapes
    ///
    /// - pooled: `[num_rows, hidden]`
    /// - output: `[num_rows, num_labels]`
    pub(super) fn forward(&self, pooled: Tensor<2>, dropout: Option<Key>) -> Tensor<2> {
        let pooled = if self.uses_pooler { self.pooler.forward(pooled).tanh() } else { pooled };
        let dropout = DropoutSite::Classifier.dropout(dropout, self.dropout_prob);
        let pooled = composed::drop_elements(pooled, dropout);
        self.classifier.forward(pooled)
    }
}
