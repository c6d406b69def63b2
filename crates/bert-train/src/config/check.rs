//! Rules between the keys of a configuration: ranges, divisibility, what fits what.
//!
//! Owns what can be said without opening any other file. Rules that need the corpus are with `bert-data`.

use bert_data::MAX_SOURCE_WEIGHT;

use super::{Config, ConfigError, OptimizerKind, Strategy};
use crate::device;

/// Weights are whole millionths.
const MIN_SOURCE_WEIGHT: f64 = 0.000_001;

fn refuse(key: &'static str, got: impl ToString, expected: impl ToString) -> Result<(), ConfigError> {
    Err(ConfigError::Value { key, got: got.to_string(), expected: expected.to_string() })
}

fn require(
    holds: bool,
    key: &'static str,
    got: impl ToString,
    expected: impl ToString,
) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { refuse(key, got, expected) }
}

fn positive(key: &'static str, got: usize) -> Result<(), ConfigError> {
    require(got > 0, key, got, "a number above 0")
}

fn within(key: &'static str, got: f64, low: f64, high: f64) -> Result<(), ConfigError> {
    require((low..=high).contains(&got), key, got, format!("a number from {low} to {high}"))
}

/// Checks every rule; the first that is broken is named.
///
/// # Errors
///
/// [`ConfigError::Value`].
pub fn check(config: &Config) -> Result<(), ConfigError> {
    check_run(config)?;
    check_model(config)?;
    check_data(config)?;
    check_masking(config)?;
    check_optimizer(config)?;
    check_train(config)?;
    device::choose(config.device.backend, 0).map(drop)
}

fn check_run(config: &Config) -> Result<(), ConfigError> {
    let name = &config.run.name;
    let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']);
    require(is_plain, "run.name", format!("{name:?}"), "a plain folder name")?;
    if let super::Threads::Count(count) = config.run.threads_per_rank {
        positive("run.threads_per_rank", count)?;
    }
    require(
        config.run.seed <= i64::MAX as u64,
        "run.seed",
        config.run.seed,
        "a number that TOML can hold (below 2^63)",
    )?;
    let timeout = config.distributed.timeout_seconds;
    within("distributed.timeout_seconds", timeout, 1.0, 86_400.0)?;
    positive("checkpoint.keep_last", config.checkpoint.keep_last)?;
    positive("debug.num_ranks", config.debug.num_ranks)?;
    require(config.debug.steps > 0, "debug.steps", config.debug.steps, "a number above 0")
}

fn check_model(config: &Config) -> Result<(), ConfigError> {
    let model = &config.model;
    positive("model.hidden_size", model.hidden_size)?;
    positive("model.num_hidden_layers", model.num_hidden_layers)?;
    positive("model.num_attention_heads", model.num_attention_heads)?;
    positive("model.intermediate_size", model.intermediate_size)?;
    positive("model.max_position_embeddings", model.max_position_embeddings)?;
    require(
        model.hidden_size.is_multiple_of(model.num_attention_heads),
        "model.num_attention_heads",
        model.num_attention_heads,
        format!("a divisor of model.hidden_size = {}", model.hidden_size),
    )?;
    require(model.type_vocab_size >= 2, "model.type_vocab_size", model.type_vocab_size, "at least 2")?;
    within("model.hidden_dropout_prob", model.hidden_dropout_prob, 0.0, 0.99)?;
    within("model.attention_probs_dropout_prob", model.attention_probs_dropout_prob, 0.0, 0.99)?;
    within("model.layer_norm_eps", model.layer_norm_eps, 1e-20, 1e-1)?;
    within("model.initializer_range", model.initializer_range, 1e-6, 1.0)?;
    let known = ["gelu", "gelu_tanh", "relu"];
    require(
        known.contains(&model.hidden_act.as_str()),
        "model.hidden_act",
        format!("{:?}", model.hidden_act),
        format!("one of {known:?}"),
    )
}

fn check_data(config: &Config) -> Result<(), ConfigError> {
    let data = &config.data;
    require(!data.sources.is_empty(), "data.sources", "empty", "at least one file, folder or pattern")?;
    for source in &data.sources {
        let (path, weight) = (source.path(), source.weight());
        require(
            (MIN_SOURCE_WEIGHT..=MAX_SOURCE_WEIGHT).contains(&weight),
            "data.sources",
            format!("a weight of {weight} for `{path}`"),
            format!("readings per epoch from {MIN_SOURCE_WEIGHT} to {MAX_SOURCE_WEIGHT}"),
        )?;
    }
    require(
        data.max_seq_length <= config.model.max_position_embeddings,
        "data.max_seq_length",
        data.max_seq_length,
        format!("at most model.max_position_embeddings = {}", config.model.max_position_embeddings),
    )?;
    require(data.max_seq_length >= 8, "data.max_seq_length", data.max_seq_length, "at least 8")?;
    within("data.short_seq_prob", data.short_seq_prob, 0.0, 1.0)?;
    within("data.validation_fraction", data.validation_fraction, 0.0, 0.5)?;
    positive("data.num_workers", data.num_workers)?;
    positive("data.prefetch_steps", data.prefetch_steps)
}

fn check_masking(config: &Config) -> Result<(), ConfigError> {
    let masking = &config.masking;
    within("masking.mlm_probability", masking.mlm_probability, 0.001, 0.9)?;
    positive("masking.max_predictions_per_seq", masking.max_predictions_per_seq)?;
    require(masking.dupe_factor > 0, "masking.dupe_factor", masking.dupe_factor, "a number above 0")?;
    let replace = &masking.replace;
    within("masking.replace.mask", replace.mask, 0.0, 1.0)?;
    within("masking.replace.random", replace.random, 0.0, 1.0)?;
    within("masking.replace.keep", replace.keep, 0.0, 1.0)?;
    let sum = replace.mask + replace.random + replace.keep;
    require(
        (sum - 1.0).abs() < 1e-9,
        "masking.replace",
        format!("a sum of {sum}"),
        "shares that add up to 1",
    )?;
    let weights = &masking.ngram_weights;
    let are_weights = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0)
        && weights.iter().sum::<f64>() > 0.0;
    require(
        are_weights || masking.strategy != Strategy::Ngram,
        "masking.ngram_weights",
        format!("{weights:?}"),
        "weights of 1, 2, .. words, none negative, not all 0",
    )
}

fn check_optimizer(config: &Config) -> Result<(), ConfigError> {
    let optimizer = &config.optimizer;
    within("optimizer.betas", optimizer.betas[0], 0.0, 0.999_999)?;
    within("optimizer.betas", optimizer.betas[1], 0.0, 0.999_999_9)?;
    within("optimizer.epsilon", optimizer.epsilon, 1e-20, 1.0)?;
    within("optimizer.weight_decay", optimizer.weight_decay, 0.0, 1.0)?;
    within("optimizer.max_grad_norm", optimizer.max_grad_norm, 0.0, 1e9)?;
    let is_corrected = optimizer.kind != OptimizerKind::Lamb || optimizer.bias_correction;
    require(is_corrected, "optimizer.bias_correction", false, "true: LAMB corrects both moments")?;
    let schedule = &config.schedule;
    within("schedule.peak_learning_rate", schedule.peak_learning_rate, 0.0, 10.0)?;
    require(schedule.total_steps > 0, "schedule.total_steps", schedule.total_steps, "a number above 0")
}

fn check_train(config: &Config) -> Result<(), ConfigError> {
    let train = &config.train;
    positive("train.global_batch_size", train.global_batch_size)?;
    positive("train.micro_batch_size", train.micro_batch_size)?;
    require(
        train.global_batch_size.is_multiple_of(train.micro_batch_size),
        "train.global_batch_size",
        train.global_batch_size,
        format!("a multiple of train.micro_batch_size = {}", train.micro_batch_size),
    )?;
    require(train.log_every_steps > 0, "train.log_every_steps", train.log_every_steps, "a number above 0")
}
