//! The one order of all parameters: which bucket, which name, which shape, which offset.
//!
//! A layout is a pure function of the configuration, so every rank and every checkpoint agrees on it without a
//! message. Names and orientations are those of Hugging Face's `BertForPreTraining` (a linear weight is
//! `[out, in]`), so nothing is ever renamed or transposed on the way to a file. No tensor lives here.

use crate::config::ModelConfig;

/// All parameters of a model, grouped by the stage that owns them.
///
/// Buckets stand in the order in which the backward pass finishes them: `heads`, `layer L-1` .. `layer 0`,
/// `embeddings`. The word table, tied to the decoder of the MLM head, is part of the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterLayout {
    /// The buckets, in the order of the backward pass.
    pub buckets: Vec<BucketLayout>,
}

/// The parameters of one stage, stored one after another without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketLayout {
    /// `heads`, `layer N` or `embeddings`.
    pub name: String,
    /// The parameters by ascending offset.
    pub parameters: Vec<ParameterSpec>,
    /// Sum of the parameters' sizes.
    pub num_elements: usize,
}

/// One parameter and its place in its bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Full Hugging Face name.
    pub name: String,
    /// Shape in Hugging Face's orientation.
    pub shape: Vec<usize>,
    /// First element, counted from the start of the bucket.
    pub offset: usize,
    /// Product of the shape.
    pub num_elements: usize,
    /// Whether weight decay applies: not to LayerNorm and not to biases.
    pub decay: bool,
}

impl ParameterLayout {
    /// Computes the layout of a model.
    ///
    /// `config` should have passed [`ModelConfig::validate`].
    pub fn new(config: &ModelConfig) -> Self {
        Self::with_heads(config, heads_bucket(config))
    }

    /// Computes the layout of a classifier: names and shapes of Hugging Face's `BertForSequenceClassification`, the
    /// bucket `heads` holding pooler and classifier.
    ///
    /// `config` should have passed [`ModelConfig::validate`].
    pub fn for_classifier(config: &ModelConfig, num_labels: usize) -> Self {
        let mut heads = BucketBuilder::new("heads");
        heads.linear("bert.pooler.dense", config.hidden_size, config.hidden_size);
        heads.linear("classifier", num_labels, config.hidden_size);
        Self::with_heads(config, heads.finish())
    }

    fn with_heads(config: &ModelConfig, heads: BucketLayout) -> Self {
        let layers = (0..config.num_hidden_layers).rev().map(|layer_idx| layer_bucket(config, layer_idx));
        let buckets =
            std::iter::once(heads).chain(layers).chain(std::iter::once(embeddings_bucket(config))).collect();
        Self { buckets }
    }

    /// Number of values over all buckets.
    pub fn num_elements(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.num_elements).sum()
    }

    /// Index of the bucket `heads`.
    pub fn heads_idx(&self) -> usize {
        0
    }

    /// Index of the bucket of one encoder layer.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn layer_idx(&self, layer_idx: usize) -> usize {
        let num_layers = self.buckets.len() - 2;
        assert!(layer_idx < num_layers, "layer {layer_idx} of a model with {num_layers} layers");
        num_layers - layer_idx
    }

    /// Index of the bucket `embeddings`, the last one.
    pub fn embeddings_idx(&self) -> usize {
        self.buckets.len() - 1
    }

    /// All parameters with the index of their bucket, by ascending name.
    pub fn by_name(&self) -> Vec<(usize, &ParameterSpec)> {
        let mut all: Vec<_> = self
            .buckets
            .iter()
            .enumerate()
            .flat_map(|(bucket_idx, bucket)| bucket.parameters.iter().map(move |spec| (bucket_idx, spec)))
            .collect();
        all.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        all
    }
}

impl ParameterSpec {
    /// The parameter's elements inside its bucket.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.num_elements
    }
}

fn heads_bucket(config: &ModelConfig) -> BucketLayout {
    let hidden = config.hidden_size;
    let mut bucket = BucketBuilder::new("heads");
    bucket.linear("bert.pooler.dense", hidden, hidden);
    bucket.push("cls.predictions.bias".into(), vec![config.vocab_size]);
    bucket.linear("cls.predictions.transform.dense", hidden, hidden);
    bucket.layer_norm("cls.predictions.transform.LayerNorm", hidden);
    bucket.linear("cls.seq_relationship", 2, hidden);
    bucket.finish()
}

fn layer_bucket(config: &ModelConfig, layer_idx: usize) -> BucketLayout {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let prefix = format!("bert.encoder.layer.{layer_idx}");
    let mut bucket = BucketBuilder::new(format!("layer {layer_idx}"));
    for name in ["query", "key", "value"] {
        bucket.linear(&format!("{prefix}.attention.self.{name}"), hidden, hidden);
    }
    bucket.linear(&format!("{prefix}.attention.output.dense"), hidden, hidden);
    bucket.layer_norm(&format!("{prefix}.attention.output.LayerNorm"), hidden);
    bucket.linear(&format!("{prefix}.intermediate.dense"), inner, hidden);
    bucket.linear(&format!("{prefix}.output.dense"), hidden, inner);
    bucket.layer_norm(&format!("{prefix}.output.LayerNorm"), hidden);
    bucket.finish()
}

fn embeddings_bucket(config: &ModelConfig) -> BucketLayout {
    let hidden = config.hidden_size;
    let mut bucket = BucketBuilder::new("embeddings");
    for (name, num_rows) in [
        ("word", config.vocab_size),
        ("position", config.max_position_embeddings),
        ("token_type", config.type_vocab_size),
    ] {
        bucket.push(format!("bert.embeddings.{name}_embeddings.weight"), vec![num_rows, hidden]);
    }
    bucket.layer_norm("bert.embeddings.LayerNorm", hidden);
    bucket.finish()
}

struct BucketBuilder(BucketLayout);

impl BucketBuilder {
    fn new(name: impl Into<String>) -> Self {
        Self(BucketLayout { name: name.into(), parameters: Vec::new(), num_elements: 0 })
    }

    fn push(&mut self, name: String, shape: Vec<usize>) {
        let num_elements = shape.iter().product();
        let decay = !name.ends_with("bias") && !name.contains("LayerNorm");
        let offset = self.0.num_elements;
        self.0.num_elements += num_elements;
        self.0.parameters.push(ParameterSpec { name, shape, offset, num_elements, decay });
    }

    fn linear(&mut self, prefix: &str, num_out: usize, num_in: usize) {
        self.push(format!("{prefix}.weight"), vec![num_out, num_in]);
        self.push(format!("{prefix}.bias"), vec![num_out]);
    }

    fn layer_norm(&mut self, prefix: &str, hidden: usize) {
        self.push(format!("{prefix}.weight"), vec![hidden]);
        self.push(format!("{prefix}.bias"), vec![hidden]);
    }

    fn finish(self) -> BucketLayout {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_support::tiny_config;

    #[test]
    fn buckets_follow_the_backward_pass() {
        let layout = ParameterLayout::new(&tiny_config());
        let names: Vec<_> = layout.buckets.iter().map(|bucket| bucket.name.as_str()).collect();
        assert_eq!(names, ["heads", "layer 1", "layer 0", "embeddings"]);
        assert_eq!((layout.heads_idx(), layout.embeddings_idx()), (0, 3));
        assert_eq!((layout.layer_idx(0), layout.layer_idx(1)), (2, 1));
    }

    #[test]
    fn parameters_fill_each_bucket_without_gaps() {
        for bucket in ParameterLayout::new(&tiny_config()).buckets {
            let mut end = 0;
            for spec in &bucket.parameters {
                assert_eq!(spec.offset, end, "{}", spec.name);
                assert_eq!(spec.num_elements, spec.shape.iter().product::<usize>(), "{}", spec.name);
                end = spec.range().end;
            }
            assert_eq!(bucket.num_elements, end);
        }
    }

    proptest! {
        #[test]
        fn names_are_unique_and_sizes_add_up(layers in 1usize..6, heads in 1usize..5, head in 1usize..9, vocab in 5usize..99) {
            let hidden_size = heads * head;
            let config = ModelConfig {
                vocab_size: vocab, num_hidden_layers: layers, num_attention_heads: heads, hidden_size, ..tiny_config()
            };
            let layout = ParameterLayout::new(&config);
            let by_name = layout.by_name();
            prop_assert!(by_name.is_sorted_by(|(_, a), (_, b)| a.name < b.name));
            let total: usize = by_name.iter().map(|(_, spec)| spec.num_elements).sum();
            prop_assert_eq!(total, layout.num_elements());
            prop_assert_eq!(by_name.len(), 16 * layers + 5 + 9);
            for layer_idx in 0..layers {
                let name = format!("layer {layer_idx}");
                prop_assert_eq!(&layout.buckets[layout.layer_idx(layer_idx)].name, &name);
            }
        }
    }

    #[test]
    fn decay_spares_layer_norm_and_biases() {
        let layout = ParameterLayout::new(&tiny_config());
        let decayed: Vec<_> = layout
            .by_name()
            .into_iter()
            .filter(|(_, spec)| spec.decay)
            .map(|(_, spec)| spec.name.as_str())
            .filter(|name| !name.contains("layer.1"))
            .collect();
        assert_eq!(
            decayed,
            [
                "bert.embeddings.position_embeddings.weight",
                "bert.embeddings.token_type_embeddings.weight",
                "bert.embeddings.word_embeddings.weight",
                "bert.encoder.layer.0.attention.output.dense.weight",
                "bert.encoder.layer.0.attention.self.key.weight",
                "bert.encoder.layer.0.attention.self.query.weight",
                "bert.encoder.layer.0.attention.self.value.weight",
                "bert.encoder.layer.0.intermediate.dense.weight",
                "bert.encoder.layer.0.output.dense.weight",
                "bert.pooler.dense.weight",
                "cls.predictions.transform.dense.weight",
                "cls.seq_relationship.weight",
            ]
        );
    }

    #[test]
    fn linear_weights_are_out_by_in() {
        let layout = ParameterLayout::new(&tiny_config());
        let shape =
            |name: &str| layout.by_name().iter().find(|(_, s)| s.name == name).unwrap().1.shape.clone();
        assert_eq!(shape("bert.encoder.layer.1.intermediate.dense.weight"), [20, 12]);
        assert_eq!(shape("bert.encoder.layer.1.output.dense.weight"), [12, 20]);
        assert_eq!(shape("cls.seq_relationship.weight"), [2, 12]);
        assert_eq!(shape("bert.embeddings.word_embeddings.weight"), [37, 12]);
    }
}
