//! The ids of `BertTokenizerFast` on real lines, where the material is; it is not in the repository.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

use bert_data::Tokenizer;
use std::fs;
use std::path::{Path, PathBuf};

/// Made by `golden/tokenization.py` with transformers 4.57.6 and tokenizers 0.22.2; its head explains the lines.
const GOLDEN: &str = include_str!("golden/tokenization.txt");

/// The folder that `golden/tokenization.py` was given, if it is there.
fn material() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../material");
    let folder = std::env::var_os("BERT_TRAIN_MATERIAL").map_or(root, PathBuf::from).join("tokenization");
    folder.is_dir().then_some(folder)
}

/// What stands after `prefix` in the golden file, per line that begins with it.
fn golden(prefix: &str) -> Vec<&'static str> {
    GOLDEN.lines().filter_map(|line| line.strip_prefix(prefix)?.strip_prefix(' ')).collect()
}

/// Hash of the ids of a block of lines.
fn hash(tokenizer: &Tokenizer, lines: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for line in lines {
        let ids = tokenizer.encode_line(line).unwrap().ids;
        for number in std::iter::once(ids.len() as u32).chain(ids) {
            hasher.update(&number.to_le_bytes());
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[test]
fn ids_of_real_lines_are_those_of_bert_tokenizer_fast() {
    let Some(material) = material() else {
        println!("skipped: no material for tokenization; make it with golden/tokenization.py");
        return;
    };
    for language in ["zh", "en"] {
        let path = |kind: &str| material.join(format!("{language}.{kind}.txt"));
        for kind in ["lines", "vocab"] {
            let hash = blake3::hash(&fs::read(path(kind)).unwrap()).to_hex().to_string();
            assert_eq!(golden(&format!("{language} {kind}")), [hash], "other {kind} than the golden file's");
        }
        let text = fs::read_to_string(path("lines")).unwrap();
        let lines: Vec<&str> = text.strip_suffix('\n').unwrap().split('\n').collect();
        for (casing, lowercase) in [("uncased", true), ("cased", false)] {
            let tokenizer = Tokenizer::from_vocab_file(&path("vocab"), lowercase).unwrap();
            let expected = golden(&format!("{language} {casing} block"));
            let got: Vec<String> = lines
                .chunks(100)
                .enumerate()
                .map(|(idx, block)| format!("{idx} {}", hash(&tokenizer, block)))
                .collect();
            let num_equal = got.iter().zip(&expected).filter(|(got, expected)| got == *expected).count();
            println!("{language} {casing}: {num_equal} of {} blocks equal", expected.len());
            assert_eq!(got, expected, "{language} {casing}");
        }
    }
}
