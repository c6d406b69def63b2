//! Reading vocabularies: `vocab.txt`, `tokenizer.json`, or a folder with one of them.
//!
//! Refuses what would silently train on other tokens than the user means.

use super::Tokenizer;
use crate::error::DataError;
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
    let mut inner = HfTokenizer::from_bytes(bytes).map_err(failed)?;
    inner.with_truncation(None).map_err(failed)?;
    inner.with_padding(None);
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

/// A file that is not what it should be.
fn bad(path: &Path, expected: &str, got: &str) -> DataError {
    DataError::BadTokenizer { path: path.to_path_buf(), expected: expected.to_owned(), got: got.to_owned() }
}
