//! The two small modules all stages are made of, and the numbering of dropout sites.

use bert_kernels::dropout::Dropout;
use bert_random::Key;
use burn::{
    Tensor,
    module::{Module, Param},
};

use crate::{ops::composed, parameters::BucketSource};

/// A linear map with bias; the weight is `[out, in]`.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Linear {
    pub(crate) fn load(source: &mut BucketSource<'_>, name: &str) -> Self {
        Self { weight: source.take(&format!("{name}.weight")), bias: source.take(&format!("{name}.bias")) }
    }

    /// `[out, in]`
    pub(crate) fn weight(&self) -> Tensor<2> {
        self.weight.val()
    }

    /// Applies the map.
    ///
    /// # Shapes
    ///
    /// - input: `[num_tokens, in]`
    /// - output: `[num_tokens, out]`
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        composed::linear(input, self.weight.val(), self.bias.val())
    }
}

/// LayerNorm over the residual stream.
#[derive(Module, Debug)]
pub(crate) struct LayerNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn load(source: &mut BucketSource<'_>, epsilon: f64) -> Self {
        Self { weight: source.take("LayerNorm.weight"), bias: source.take("LayerNorm.bias"), epsilon }
    }

    /// Scale and shift.
    pub(crate) fn parameters(&self) -> [Tensor<1>; 2] {
        [self.weight.val(), self.bias.val()]
    }

    /// Normalises each token.
    ///
    /// # Shapes
    ///
    /// - input, output: `[num_tokens, hidden]`
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        composed::layer_norm(input, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// A place in the network where elements are dropped. The numbers are part of what a seed means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DropoutSite {
    Embeddings,
    AttentionProbs { layer_idx: usize },
    AttentionOutput { layer_idx: usize },
    FeedForwardOutput { layer_idx: usize },
    Classifier,
}

impl DropoutSite {
    /// Dropout at this place, if there is a key: without one the model is evaluated.
    pub(crate) fn dropout(self, key: Option<Key>, probability: f64) -> Option<Dropout> {
        let key = key.filter(|_| probability > 0.0)?;
        Some(Dropout::new(key.with(self.number()), probability as f32))
    }

    fn number(self) -> u64 {
        let (layer_idx, site) = match self {
            Self::Embeddings => return 0,
            Self::Classifier => return u64::MAX,
            Self::AttentionProbs { layer_idx } => (layer_idx, 1),
            Self::AttentionOutput { layer_idx } => (layer_idx, 2),
            Self::FeedForwardOutput { layer_idx } => (layer_idx, 3),
        };
        3 * layer_idx as u64 + site
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn dropout_sites_have_distinct_stable_numbers() {
        let numbers: Vec<_> = (0..3)
            .flat_map(|layer_idx| {
                [
                    DropoutSite::AttentionProbs { layer_idx },
                    DropoutSite::AttentionOutput { layer_idx },
                    DropoutSite::FeedForwardOutput { layer_idx },
                ]
            })
            .chain([DropoutSite::Embeddings])
            .map(DropoutSite::number)
            .collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
    }
}
