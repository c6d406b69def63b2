//! What makes two runs the same run: the keys that change numbers, and their hash.
//!
//! Owns the list of keys that do *not* change numbers. The contents of text, shards and tokenizer are not
//! here: their own fingerprints are compared beside this one.

use serde_json::{Value, json};

use super::Config;

/// Keys that may differ between a run and its continuation: places, rhythm, threads, messages.
const FREE_KEYS: &[&str] = &[
    "/run/name",
    "/run/dir",
    "/run/threads_per_rank",
    "/data/strict",
    "/task/train",
    "/task/validation",
    "/task/test",
    "/data/shards",
    "/data/tokenizer",
    "/data/num_workers",
    "/data/prefetch_steps",
    "/masking/lexicon",
    "/train/eval_every_steps",
    "/train/eval_max_batches",
    "/train/log_every_steps",
    "/checkpoint",
    "/distributed/optimizer_state",
    "/distributed/overlap",
    "/distributed/timeout_seconds",
    "/device",
    "/log",
    "/debug",
];

/// The keys that change numbers, as JSON in the order of the configuration.
///
/// # Errors
///
/// If a value cannot be written as JSON (a number that is not finite).
pub fn numeric_keys(config: &Config) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(config)?;
    // Where a source lies changes nothing, its weight does.
    let weights = config.data.sources.iter().map(|source| json!({ "weight": source.weight() }));
    value["data"]["sources"] = weights.collect();
    for key in FREE_KEYS {
        let (parent, name) = key.rsplit_once('/').unwrap_or(("", key));
        if let Some(Value::Object(entries)) = value.pointer_mut(parent) {
            entries.shift_remove(name);
        }
    }
    Ok(value)
}

/// BLAKE3 of [`numeric_keys`], as hexadecimal text.
///
/// # Errors
///
/// As [`numeric_keys`].
pub fn config_hash(config: &Config) -> Result<String, serde_json::Error> {
    Ok(blake3::hash(numeric_keys(config)?.to_string().as_bytes()).to_hex().to_string())
}

/// The keys whose values differ, as `section.key: there -> here`.
#[must_use]
pub fn differences(there: &Value, here: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_differences("", there, here, &mut found);
    found
}

fn collect_differences(path: &str, there: &Value, here: &Value, found: &mut Vec<String>) {
    match (there, here) {
        (Value::Object(left), Value::Object(right)) => {
            let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let missing = Value::Null;
                let (left, right) = (left.get(name).unwrap_or(&missing), right.get(name).unwrap_or(&missing));
                collect_differences(&path, left, right, found);
            }
        }
        (left, right) if left != right => found.push(format!("{path}: {left} -> {right}")),
        _ => {}
    }
}
