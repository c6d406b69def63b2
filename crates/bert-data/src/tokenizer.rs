//! WordPiece over the `tokenizers` crate: a line of text in, ids with byte offsets out.
//!
//! Normalizing, splitting and greedy matching are those of `BertTokenizerFast`; lines of plain characters
//! take a short way with the same result ([`fast`]). Special tokens written in the text stay text: `[MASK]`
//! in a corpus becomes `[`, `mask`, `]`. Which tokens form a Chinese word is the business of
//! [`crate::words`].

pub(crate) mod fast;
mod load;
mod save;

use crate::error::DataError;
use fast::FastPath;
use std::path::{Path, PathBuf};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::tokenizer::Tokenizer as HfTokenizer;

/// The tokens BERT cannot do without, in the order a vocabulary trained here begins with.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Ids of the special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialIds {
    /// `[PAD]`
    pub pad: u32,
    /// `[UNK]`
    pub unk: u32,
    /// `[CLS]`
    pub cls: u32,
    /// `[SEP]`
    pub sep: u32,
    /// `[MASK]`
    pub mask: u32,
}

/// The tokens of one line. All vectors have one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedLine {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the token starts a word: everything but `##` pieces.
    pub word_starts: Vec<bool>,
    /// Byte range of the token in the line as it was given.
    pub offsets: Vec<(u32, u32)>,
}

/// A WordPiece tokenizer with the special tokens of BERT.
pub struct Tokenizer {
    inner: HfTokenizer,
    /// Absent if the rules are not those of BERT.
    fast: Option<FastPath>,
    path: PathBuf,
    tokens: Vec<String>,
    is_continuation: Vec<bool>,
    special: SpecialIds,
    /// All ids that are never masked and never inserted, ascending.
    special_ids: Vec<u32>,
    lowercase: bool,
    fingerprint: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).field("vocab_size", &self.tokens.len()).finish()
    }
}

impl Tokenizer {
    /// Reads `vocab.txt` (one token per line, LF or CRLF), `tokenizer.json`, or a folder that holds either.
    ///
    /// `lowercase` also strips accents, as uncased BERT does. A `tokenizer.json` that says otherwise is
    /// refused.
    ///
    /// # Errors
    ///
    /// [`DataError::MissingSpecialToken`] names the token and the file; [`DataError::BadTokenizer`] for a
    /// token that occurs twice, another model than WordPiece, or another casing; [`DataError::Io`].
    pub fn from_vocab_file(path: &Path, lowercase: bool) -> Result<Self, DataError> {
        load::from_file(path, lowercase)
    }

    /// Builds a tokenizer from tokens in id order. `origin` names their source in messages.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::from_vocab_file`].
    pub fn from_tokens(tokens: Vec<String>, lowercase: bool, origin: &Path) -> Result<Self, DataError> {
        let inner = wordpiece(&tokens, lowercase, origin)?;
        Self::assemble(inner, tokens, Vec::new(), lowercase, origin)
    }

    /// Checks the vocabulary and computes what is derived from it.
    fn assemble(
        mut inner: HfTokenizer,
        tokens: Vec<String>,
        added_special: Vec<u32>,
        lowercase: bool,
        origin: &Path,
    ) -> Result<Self, DataError> {
        inner.set_encode_special_tokens(true);
        let find = |token: &'static str| {
            tokens
                .iter()
                .position(|t| t == token)
                .map(|id| id as u32)
                .ok_or_else(|| DataError::MissingSpecialToken { path: origin.to_path_buf(), token })
        };
        let [pad, unk, cls, sep, mask] = SPECIAL_TOKENS;
        let special = SpecialIds {
            pad: find(pad)?,
            unk: find(unk)?,
            cls: find(cls)?,
            sep: find(sep)?,
            mask: find(mask)?,
        };
        let mut special_ids = vec![special.pad, special.unk, special.cls, special.sep, special.mask];
        special_ids.extend(added_special);
        special_ids.sort_unstable();
        special_ids.dedup();
        let is_continuation = tokens.iter().map(|t| t.len() > 2 && t.starts_with("##")).collect();
        let fingerprint = fingerprint(&inner, &tokens, origin)?;
        let path = origin.to_path_buf();
        let fast = FastPath::new(&inner, &tokens, lowercase, special.unk);
        Ok(Self { inner, fast, path, tokens, is_continuation, special, special_ids, lowercase, fingerprint })
    }

    /// Number of ids, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The token of an id, `None` outside the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// The id of a token, `None` if it is not in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of the five special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Every id that is never masked and never inserted, ascending.
    pub fn special_ids(&self) -> &[u32] {
        &self.special_ids
    }

    /// Whether text is lower-cased and stripped of accents.
    pub fn lowercase(&self) -> bool {
        self.lowercase
    }

    /// BLAKE3 (hex) of the vocabulary and of every rule that turns text into ids, wherever they were read
    /// from.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Tokens of one line, without `[CLS]` and `[SEP]`.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`] if the library refuses the line.
    pub fn encode_line(&self, line: &str) -> Result<EncodedLine, DataError> {
        match self.fast.as_ref().and_then(|fast| fast.encode(line)) {
            Some(encoded) => Ok(encoded),
            None => self.encode_with_library(line),
        }
    }

    /// The long way, for every line.
    pub(crate) fn encode_with_library(&self, line: &str) -> Result<EncodedLine, DataError> {
        let encoding = self.inner.encode(line, false).map_err(|source| DataError::Tokenizer {
            action: "encode a line",
            path: self.path.clone(),
            source,
        })?;
        let ids = encoding.get_ids().to_vec();
        let word_starts = ids.iter().map(|&id| !self.is_continuation[id as usize]).collect();
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| (start as u32, end as u32)).collect();
        Ok(EncodedLine { ids, word_starts, offsets })
    }

    /// Writes `vocab.txt`, `tokenizer.json` and `tokenizer_config.json` as Hugging Face reads them.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if the folder cannot be written.
    pub fn save_vocab(&self, dir: &Path) -> Result<(), DataError> {
        save::save(self, dir)
    }

    /// Names and contents of the files that [`save_vocab`](Self::save_vocab) writes.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`] if the tokenizer has no JSON form.
    pub fn vocab_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, DataError> {
        save::files(self)
    }
}

/// The tokenizer of `BertTokenizerFast` over the given tokens.
fn wordpiece(tokens: &[String], lowercase: bool, origin: &Path) -> Result<HfTokenizer, DataError> {
    let mut lines = std::collections::HashMap::with_capacity(tokens.len());
    for (line, token) in tokens.iter().enumerate() {
        if let Some(earlier) = lines.insert(token.as_str(), line) {
            return Err(DataError::BadTokenizer {
                path: origin.to_path_buf(),
                expected: "every token once".to_owned(),
                got: format!("`{token}` on lines {} and {}", earlier + 1, line + 1),
            });
        }
    }
    let failed =
        |source| DataError::Tokenizer { action: "build WordPiece", path: origin.to_path_buf(), source };
    // An empty vocabulary of the library's own map type; its reader would trim tokens.
    let mut vocab = WordPiece::read_bytes(b"").map_err(failed)?;
    vocab.extend(tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)));
    let model =
        WordPiece::builder().vocab(vocab).unk_token(SPECIAL_TOKENS[1].to_owned()).build().map_err(failed)?;
    let mut inner = HfTokenizer::new(model);
    inner.with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase))).map_err(failed)?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    Ok(inner)
}

/// Hash of vocabulary, normalizer, splitter and the model's limits.
fn fingerprint(inner: &HfTokenizer, tokens: &[String], origin: &Path) -> Result<String, DataError> {
    let failed = |source: serde_json::Error| DataError::Tokenizer {
        action: "describe the rules",
        path: origin.to_path_buf(),
        source: Box::new(source),
    };
    let mut hasher = blake3::Hasher::new();
    for token in tokens {
        hasher.update(&(token.len() as u64).to_le_bytes());
        hasher.update(token.as_bytes());
    }
    let normalizer = serde_json::to_string(&inner.get_normalizer()).map_err(failed)?;
    let splitter = serde_json::to_string(&inner.get_pre_tokenizer()).map_err(failed)?;
    let mut limits = String::new();
    if let tokenizers::ModelWrapper::WordPiece(model) = inner.get_model() {
        limits = format!(
            "{} {} {}",
            model.unk_token, model.continuing_subword_prefix, model.max_input_chars_per_word
        );
    }
    for rule in [normalizer, splitter, limits] {
        hasher.update(&(rule.len() as u64).to_le_bytes());
        hasher.update(rule.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests;
