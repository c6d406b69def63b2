//! Sections of the configuration as the settings of the other crates.
//!
//! Owns the translation only: a plain copy of values, no rule and no default.

use std::{path::PathBuf, sync::Arc};

use bert_data::{
    MaskMode, MaskStrategy, MaskingConfig, PretrainDataConfig, ReplaceShares, ReplaceUnit, SampleOrder,
    SentenceObjective, Tokenizer,
    shards::{ShardBuildRequest, WhenStale},
};
use bert_model::{HiddenAct, ModelConfig};

use crate::config::{Config, Language, Mode, Objective, Order, SourceSection, Strategy, Unit};

/// Text per shard: large enough to read in runs, small enough to share the building over ranks. Shards of any size
/// hold the same documents in the same order, so this changes no number.
const SHARD_TEXT_BYTES: u64 = 64 << 20;

/// From what, how and where the shards are built.
#[must_use]
pub fn shard_request(config: &Config, tokenizer: &Arc<Tokenizer>) -> ShardBuildRequest {
    let lexicon = &config.masking.lexicon;
    ShardBuildRequest {
        sources: config.data.sources.iter().map(|source| PathBuf::from(source.path())).collect(),
        tokenizer: Arc::clone(tokenizer),
        language: match config.data.language {
            Language::Zh => bert_data::Language::Zh,
            Language::En => bert_data::Language::En,
        },
        lexicon: (!lexicon.is_empty()).then(|| PathBuf::from(lexicon)),
        dir: config.data.shards.clone(),
        shard_text_bytes: SHARD_TEXT_BYTES,
        when_stale: WhenStale::Refuse,
        strict: config.data.strict,
    }
}

/// Pairs, masks and batches.
#[must_use]
pub fn pretrain_data(config: &Config) -> PretrainDataConfig {
    PretrainDataConfig {
        max_seq_length: config.data.max_seq_length,
        short_seq_prob: config.data.short_seq_prob,
        objective: match config.data.sentence_objective {
            Objective::Nsp => SentenceObjective::Nsp,
            Objective::Sop => SentenceObjective::Sop,
            Objective::None => SentenceObjective::None,
        },
        masking: masking(config),
        source_weights: config.data.sources.iter().map(SourceSection::weight).collect(),
        order: match config.data.order {
            Order::Global => SampleOrder::Global,
            Order::Blocks => SampleOrder::BLOCKS,
        },
        global_batch_size: config.train.global_batch_size,
        micro_batch_size: config.train.micro_batch_size,
        validation_fraction: config.data.validation_fraction,
        seed: config.run.seed,
    }
}

fn masking(config: &Config) -> MaskingConfig {
    let masking = &config.masking;
    MaskingConfig {
        strategy: match masking.strategy {
            Strategy::Token => MaskStrategy::Token,
            Strategy::WholeWord => MaskStrategy::WholeWord,
            Strategy::Ngram => MaskStrategy::Ngram,
            Strategy::Span => MaskStrategy::Span,
        },
        mlm_probability: masking.mlm_probability,
        max_predictions_per_seq: masking.max_predictions_per_seq,
        ngram_weights: masking.ngram_weights.clone(),
        replace: ReplaceShares {
            mask: masking.replace.mask,
            random: masking.replace.random,
            keep: masking.replace.keep,
        },
        unit: match masking.unit {
            Unit::Token => ReplaceUnit::Token,
            Unit::Span => ReplaceUnit::Span,
        },
        mode: match masking.mode {
            Mode::Dynamic => MaskMode::Dynamic,
            Mode::Static => MaskMode::Static { num_copies: masking.dupe_factor },
        },
    }
}

/// The model of `[model]` with the vocabulary of the tokenizer.
#[must_use]
pub fn model_config(config: &Config, vocab_size: usize) -> ModelConfig {
    let model = &config.model;
    ModelConfig {
        vocab_size,
        hidden_size: model.hidden_size,
        num_hidden_layers: model.num_hidden_layers,
        num_attention_heads: model.num_attention_heads,
        intermediate_size: model.intermediate_size,
        max_position_embeddings: model.max_position_embeddings,
        type_vocab_size: model.type_vocab_size,
        hidden_act: match model.hidden_act.as_str() {
            "relu" => HiddenAct::Relu,
            "gelu_tanh" => HiddenAct::GeluTanh,
            _ => HiddenAct::Gelu,
        },
        hidden_dropout_prob: model.hidden_dropout_prob,
        attention_probs_dropout_prob: model.attention_probs_dropout_prob,
        layer_norm_eps: model.layer_norm_eps,
        initializer_range: model.initializer_range,
    }
}
