//! Which keys exist, so that a misspelt one is named with its nearest neighbour.
//!
//! Owns the list of names only; a test holds it to the types of the parent module.

use super::task::CLASSIFY_KEYS;

/// Section, and its keys in the order of the files in `configs/`.
pub(super) const SCHEMA: &[(&str, &[&str])] = &[
    ("run", &["name", "dir", "seed", "threads_per_rank"]),
    (
        "model",
        &[
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "hidden_act",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "layer_norm_eps",
            "initializer_range",
        ],
    ),
    ("init", &["from"]),
    ("task", &["kind"]),
    (
        "data",
        &[
            "sources",
            "strict",
            "shards",
            "tokenizer",
            "lowercase",
            "language",
            "max_seq_length",
            "short_seq_prob",
            "sentence_objective",
            "order",
            "validation_fraction",
            "num_workers",
            "prefetch_steps",
        ],
    ),
    (
        "masking",
        &[
            "strategy",
            "mlm_probability",
            "max_predictions_per_seq",
            "ngram_weights",
            "replace",
            "unit",
            "mode",
            "dupe_factor",
            "lexicon",
        ],
    ),
    ("optimizer", &["kind", "betas", "epsilon", "weight_decay", "bias_correction", "max_grad_norm"]),
    ("schedule", &["kind", "peak_learning_rate", "warmup_steps", "total_steps"]),
    (
        "train",
        &[
            "global_batch_size",
            "micro_batch_size",
            "precision",
            "eval_every_steps",
            "eval_max_batches",
            "log_every_steps",
        ],
    ),
    ("checkpoint", &["every_steps", "keep_last", "resume"]),
    ("distributed", &["optimizer_state", "wire", "overlap", "timeout_seconds"]),
    ("device", &["backend"]),
    ("log", &["level", "progress"]),
    ("debug", &["steps", "num_ranks", "num_samples"]),
];

/// The keys of `section`, if there is such a section; `[task]` has more for a classifier.
pub(super) fn keys_of(section: &str, is_classify: bool) -> Option<Vec<&'static str>> {
    let mut keys = SCHEMA.iter().find(|(name, _)| *name == section).map(|(_, keys)| keys.to_vec())?;
    if section == "task" && is_classify {
        keys.extend(CLASSIFY_KEYS);
    }
    Some(keys)
}

/// The candidate that looks most like `word`, if one is close enough to be meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
