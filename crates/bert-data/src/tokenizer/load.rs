//! Reading vocabularies: `vocab.txt`, `tokenizer.json`, or a folder with one of them.
//!
//! Refuses what would silently train on other tokens than the user means.

use super::Tokenizer;
use crate::error::DataError;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};
use tokenizers::tokenizer::Tokenizer as HfTokenizer;
use tokenizers::{ModelWrapper, NormalizerWrapper};

/// Reads the file or folder; see [`Tokenizer::from_vocab_file`].
pub(super) fn from_file(path: &Path, lowercase: bool) -> Result<Tokenizer, DataError> {
    let path = file_in(path)?;
    let bytes = fs::read(&path).map_err(DataError::io("read tokenizer", &path))?;
    if path.extension().is_some_and(|e| e == "json") {
        return from_json(&bytes, lowercase, &path);
    }
    let text = String::from_utf8(bytes).map_err(|e| DataError::InvalidUtf8 {
        path: path.clone(),
        byte: e.utf8_error().valid_up_to() as u64,
    })?;
    Tokenizer::from_tokens(lines_of(&text), lowercase, &path)
}

/// One token per line; a line end is LF or CRLF, nothing else is trimmed.
fn lines_of(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<String> =
        text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// The tokenizer file of a folder, or the path itself.
fn file_in(path: &Path) -> Result<PathBuf, DataError> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let known = ["tokenizer.json", "vocab.txt"].map(|name| path.join(name));
    known
        .into_iter()
        .find(|p| p.is_file())
        .ok_or_else(|| bad(path, "a folder with tokenizer.json or vocab.txt", "a folder with neither"))
}

/// A `tokenizer.json` with a WordPiece model, ids without gaps, and the casing asked for.
fn from_json(bytes: &[u8], lowercase: bool, path: &Path) -> Result<Tokenizer, DataError> {
    let failed =
        |source| DataError::Tokenizer { action: "read tokenizer.json", path: path.to_path_buf(), source };
    let rules = rules_of(bytes, path)?;
    let inner = HfTokenizer::from_bytes(Value::Object(rules.clone()).to_string()).map_err(failed)?;
    check_added_tokens(&rules, &inner, path)?;
    let ModelWrapper::WordPiece(model) = inner.get_model() else {
        return Err(bad(path, "a WordPiece model", "another model"));
    };
    if model.continuing_subword_prefix != "##" {
        return Err(bad(
            path,
            "the continuation prefix `##`",
            &format!("`{}`", model.continuing_subword_prefix),
        ));
    }
    if let Some(NormalizerWrapper::BertNormalizer(normalizer)) = inner.get_normalizer()
        && normalizer.lowercase != lowercase
    {
        let got = format!("lowercase = {} (set it to what the file says)", normalizer.lowercase);
        return Err(bad(path, &format!("lowercase = {lowercase}"), &got));
    }
    let mut by_id: Vec<(u32, String)> = inner.get_vocab(true).into_iter().map(|(t, id)| (id, t)).collect();
    by_id.sort();
    for (expected, (id, token)) in by_id.iter().enumerate() {
        if *id as usize != expected {
            return Err(bad(
                path,
                &format!("ids without gaps (id {expected})"),
                &format!("`{token}` at id {id}"),
            ));
        }
    }
    let tokens: Vec<String> = by_id.into_iter().map(|(_, token)| token).collect();
    let added = inner.get_added_tokens_decoder();
    let added_special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
    Tokenizer::assemble(inner, tokens, added_special, lowercase, path)
}

/// The parts of a `tokenizer.json` that turn text into ids.
///
/// The others (decoder, post-processor, truncation, padding) are left out: text of a corpus needs none of them, and
/// the library panics on some that are damaged. So it does on SentencePiece's normalizer, which no BERT has.
fn rules_of(bytes: &[u8], path: &Path) -> Result<Map<String, Value>, DataError> {
    const PARTS: [&str; 5] = ["version", "added_tokens", "normalizer", "pre_tokenizer", "model"];
    let mut file: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|e| bad(path, "the JSON of a tokenizer", &e.to_string()))?;
    let kind = file.get("model").and_then(|model| model.get("type")).and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != "WordPiece") {
        return Err(bad(path, "a WordPiece model", &format!("another model, `{kind}`")));
    }
    let is_sentence_piece = |rule: &Value| {
        rule.get("type").is_some_and(|kind| kind == "Precompiled")
            || rule.get("precompiled_charsmap").is_some()
    };
    if file.get("normalizer").is_some_and(|rule| any_part(rule, &is_sentence_piece)) {
        return Err(bad(path, "the normalizer of a BERT", "one of SentencePiece (`Precompiled`)"));
    }
    file.retain(|key, _| PARTS.contains(&key.as_str()));
    Ok(file)
}

/// Whether a value, or one inside of it, is what is looked for.
fn any_part(value: &Value, wanted: &impl Fn(&Value) -> bool) -> bool {
    wanted(value)
        || match value {
            Value::Array(parts) => parts.iter().any(|part| any_part(part, wanted)),
            Value::Object(parts) => parts.values().any(|part| any_part(part, wanted)),
            _ => false,
        }
}

/// Refuses added tokens that the library gives other ids than the file says: it would only warn.
fn check_added_tokens(rules: &Map<String, Value>, inner: &HfTokenizer, path: &Path) -> Result<(), DataError> {
    for token in rules.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
        let (expected, got) = (token.get("id").and_then(Value::as_u64), inner.token_to_id(content));
        if expected != got.map(u64::from) {
            let id = |id: Option<u64>| id.map_or("no id".to_owned(), |id| format!("id {id}"));
            let expected = format!("the added token `{content}` at {}", id(expected));
            return Err(bad(path, &expected, &id(got.map(u64::from))));
        }
    }
    Ok(())
}

/// A file that is not what it should be.
fn bad(path: &Path, expected: &str, got: &str) -> DataError {
    DataError::BadTokenizer { path: path.to_path_buf(), expected: expected.to_owned(), got: got.to_owned() }
}
