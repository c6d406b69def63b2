//! Writing a tokenizer the way Hugging Face reads it.
//!
//! The saved `tokenizer.json` adds `[CLS] A [SEP] B [SEP]` and treats special tokens as such; the tokenizer
//! used on a corpus does neither.

use super::{SPECIAL_TOKENS, Tokenizer};
use crate::error::DataError;
use crate::files::write_atomically;
use std::path::Path;
use tokenizers::AddedToken;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::processors::bert::BertProcessing;

/// Writes the three files; see [`Tokenizer::save_vocab`].
pub(super) fn save(tokenizer: &Tokenizer, dir: &Path) -> Result<(), DataError> {
    files(tokenizer)?.iter().try_for_each(|(name, bytes)| write_atomically(&dir.join(name), bytes))
}

/// Names and contents of the three files; see [`Tokenizer::vocab_files`].
pub(super) fn files(tokenizer: &Tokenizer) -> Result<Vec<(&'static str, Vec<u8>)>, DataError> {
    let mut vocab = tokenizer.tokens.join("\n");
    vocab.push('\n');

    let failed = |source| DataError::Tokenizer { action: "write", path: "tokenizer.json".into(), source };
    let special = tokenizer.special;
    let mut inner = tokenizer.inner.clone();
    inner.set_encode_special_tokens(false);
    let [_, _, cls, sep, _] = SPECIAL_TOKENS;
    let processing = BertProcessing::new((sep.to_owned(), special.sep), (cls.to_owned(), special.cls));
    inner.with_post_processor(Some(processing));
    inner.with_decoder(Some(WordPieceDecoder::default()));
    inner.add_special_tokens(SPECIAL_TOKENS.map(|t| AddedToken::from(t, true))).map_err(failed)?;
    let json = inner.to_string(true).map_err(failed)?;

    let [pad, unk, cls, sep, mask] = SPECIAL_TOKENS;
    let config = serde_json::json!({
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": tokenizer.lowercase,
        "tokenize_chinese_chars": true,
        "strip_accents": null,
        "pad_token": pad,
        "unk_token": unk,
        "cls_token": cls,
        "sep_token": sep,
        "mask_token": mask,
    });
    let config = format!("{config:#}\n");
    Ok(vec![
        ("vocab.txt", vocab.into_bytes()),
        ("tokenizer.json", json.into_bytes()),
        ("tokenizer_config.json", config.into_bytes()),
    ])
}
