//! The arithmetic of a step: how many multiplications and additions its matrix products need.
//!
//! Pure arithmetic over the sizes of a model and what a batch held. Counts what has to be done, not what a program
//! does: real tokens only, the decoder on masked tokens only, and of the last layer the output that is read only, unless
//! the whole model is asked for.

/// Sizes of a BERT.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub num_layers: u64,
    pub hidden: u64,
    pub intermediate: u64,
    pub vocab: u64,
}

/// What a global batch held.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub num_rows: f64,
    /// Real tokens.
    pub num_tokens: f64,
    pub num_masked: f64,
}

/// Whose output of the last layer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLayer {
    /// That of the tokens whose state a head reads, as it is computed here.
    Read,
    /// That of all tokens, as PyTorch computes it.
    Full,
}

/// A product's operations are two per element of the depth; the backward pass has two products for each of the forward pass.
const FORWARD_AND_BACKWARD: f64 = 2.0 * 3.0;

impl Sizes {
    /// Operations of all products of a step, forward and backward.
    pub fn operations(&self, content: Content, last_layer: LastLayer) -> f64 {
        let [layers, hidden, intermediate, vocab] =
            [self.num_layers, self.hidden, self.intermediate, self.vocab].map(|size| size as f64);
        let Content { num_rows, num_tokens, num_masked } = content;
        let num_last = match last_layer {
            LastLayer::Read => num_masked + num_rows,
            LastLayer::Full => num_tokens,
        };
        // Keys and values of all tokens; queries, output projection and feed-forward layer of those that ask.
        let linear = |num_asking: f64| {
            num_tokens * 2.0 * hidden * hidden + num_asking * 2.0 * (hidden * hidden + hidden * intermediate)
        };
        // Each with every token of its row, for scores and for values; rows of equal length.
        let attention = |num_asking: f64| num_asking * (num_tokens / num_rows.max(1.0)) * 2.0 * hidden;
        let layer = |num_asking: f64| linear(num_asking) + attention(num_asking);
        let encoder = (layers - 1.0) * layer(num_tokens) + layer(num_last);
        let mlm_head = num_masked * (hidden * hidden + hidden * vocab);
        let pooler = num_rows * (hidden * hidden + 2.0 * hidden);
        FORWARD_AND_BACKWARD * (encoder + mlm_head + pooler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted by hand, in billions: three layers 57.98 and the last one 5.75, attention 2.42 and 0.13, head 10.17, pooler 0.01.
    #[test]
    fn small_needs_76_billion_operations() {
        let sizes = Sizes { num_layers: 4, hidden: 512, intermediate: 2048, vocab: 21_128 };
        let content = Content { num_rows: 8.0, num_tokens: 1024.0, num_masked: 153.0 };
        let operations = sizes.operations(content, LastLayer::Read);
        assert!((operations / 1e9 - 76.46).abs() < 0.01, "{operations}");
        // A fourth layer of 19.33 and 0.81 in place of 5.75 and 0.13.
        let operations = sizes.operations(content, LastLayer::Full);
        assert!((operations / 1e9 - 90.72).abs() < 0.01, "{operations}");
    }
}
