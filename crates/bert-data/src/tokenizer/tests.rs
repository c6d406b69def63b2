//! Tests of the tokenizer: reference behaviour, special tokens, refusals, files.

use super::*;
use std::fs;

fn tokens(extra: &[&str]) -> Vec<String> {
    SPECIAL_TOKENS.iter().chain(extra).map(|t| (*t).to_owned()).collect()
}

fn tokenizer(extra: &[&str], lowercase: bool) -> Tokenizer {
    Tokenizer::from_tokens(tokens(extra), lowercase, Path::new("test")).unwrap()
}

fn texts(tokenizer: &Tokenizer, line: &str) -> Vec<String> {
    let encoded = tokenizer.encode_line(line).unwrap();
    encoded.ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap().to_owned()).collect()
}

#[test]
fn words_are_split_cased_and_matched_as_in_bert() {
    let uncased = tokenizer(&["un", "##aff", "##able", "cafe", "!", "中", "国"], true);
    assert_eq!(
        texts(&uncased, "UNaffable  café!中国zzz"),
        ["un", "##aff", "##able", "cafe", "!", "中", "国", "[UNK]"]
    );
    let encoded = uncased.encode_line("Unaffable café").unwrap();
    assert_eq!(encoded.word_starts, [true, false, false, true]);
    assert_eq!(encoded.offsets, [(0, 2), (2, 5), (5, 9), (10, 15)]);
    let cased = tokenizer(&["un", "Un"], false);
    assert_eq!(texts(&cased, "Un un UN"), ["Un", "un", "[UNK]"]);
}

#[test]
fn special_tokens_in_text_stay_text() {
    let tokenizer = tokenizer(&["[", "]", "mask", "sep"], true);
    assert_eq!(texts(&tokenizer, "[MASK][SEP]"), ["[", "mask", "]", "[", "sep", "]"]);
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save_vocab(dir.path()).unwrap();
    let again = Tokenizer::from_vocab_file(&dir.path().join("tokenizer.json"), true).unwrap();
    assert_eq!(texts(&again, "[MASK][SEP]"), ["[", "mask", "]", "[", "sep", "]"]);
}

#[test]
fn all_file_forms_give_the_same_fingerprint() {
    let original = tokenizer(&["a", "##b", "中"], true);
    let dir = tempfile::tempdir().unwrap();
    original.save_vocab(dir.path()).unwrap();
    let crlf = dir.path().join("crlf.txt");
    fs::write(&crlf, tokens(&["a", "##b", "中"]).join("\r\n")).unwrap();
    for path in [dir.path().join("vocab.txt"), dir.path().join("tokenizer.json"), dir.path().into(), crlf] {
        let read = Tokenizer::from_vocab_file(&path, true).unwrap();
        assert_eq!(read.fingerprint(), original.fingerprint(), "{}", path.display());
        assert_eq!(read.special_ids(), [0, 1, 2, 3, 4]);
        assert_eq!(read.vocab_size(), 8);
    }
    let cased = Tokenizer::from_vocab_file(&dir.path().join("vocab.txt"), false).unwrap();
    assert_ne!(cased.fingerprint(), original.fingerprint());
    let error = Tokenizer::from_vocab_file(&dir.path().join("tokenizer.json"), false).unwrap_err();
    assert!(error.to_string().contains("lowercase"), "{error}");
}

#[test]
fn a_missing_special_token_is_named_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocab.txt");
    fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[MASK]\nx\n").unwrap();
    let error = Tokenizer::from_vocab_file(&path, true).unwrap_err();
    assert!(matches!(&error, DataError::MissingSpecialToken { token: "[SEP]", .. }), "{error}");
    assert!(error.to_string().contains("vocab.txt"), "{error}");
}

#[test]
fn a_token_that_occurs_twice_is_refused() {
    let error = Tokenizer::from_tokens(tokens(&["x", "y", "x"]), true, Path::new("v")).unwrap_err();
    assert!(error.to_string().contains("lines 6 and 8"), "{error}");
}

#[test]
fn a_damaged_or_foreign_tokenizer_json_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::from_tokens(tokens(&["a", "##b"]), true, Path::new("test"))
        .unwrap()
        .save_vocab(dir.path())
        .unwrap();
    let path = dir.path().join("tokenizer.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut file = good.clone();
        *file.pointer_mut(pointer).unwrap() = value;
        file.to_string()
    };
    let precompiled = serde_json::json!({"type": "Sequence", "normalizers": [{"type": "Precompiled"}]});
    for (text, part) in [
        (good.to_string().replace("true", "troe"), "the JSON of a tokenizer"),
        ("[1]".to_owned(), "the JSON of a tokenizer"),
        (changed("/model/type", "BPE".into()), "another model, `BPE`"),
        (changed("/normalizer", precompiled), "SentencePiece"),
        (changed("/added_tokens/4/id", 7.into()), "the added token `[MASK]` at id 7, got id 4"),
        (changed("/added_tokens/4/id", u64::MAX.into()), "tokenizer.json"),
        (changed("/model/vocab/a", 9.into()), "ids without gaps (id 5)"),
        (changed("/model/vocab/a", u32::MAX.into()), "ids without gaps (id 5)"),
        (changed("/model/vocab/a", 4.into()), "ids without gaps"),
        (changed("/model/continuing_subword_prefix", "@@".into()), "the continuation prefix"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Tokenizer::from_vocab_file(&path, true).unwrap_err();
        for part in [part, "tokenizer.json"] {
            assert!(error.to_string().contains(part), "expected `{part}` in: {error}");
        }
    }
    // What text does not need is not looked at.
    fs::write(&path, changed("/decoder", serde_json::json!({"type": "damaged"}))).unwrap();
    assert_eq!(Tokenizer::from_vocab_file(&path, true).unwrap().vocab_size(), 7);
}
