//! Google's training instances, instance by instance, on a text of our own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

use bert_data::Tokenizer;
use bert_data::compat::google::{GoogleInstance, GoogleSettings, create_training_instances};
use std::fs;
use std::path::{Path, PathBuf};

const TEXT: &str = include_str!("golden/google_pairs.txt");
const HASHES: &str = include_str!("golden/google_pairs.hashes.txt");

fn tokenizer() -> Tokenizer {
    let vocab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/google_pairs.vocab.txt");
    Tokenizer::from_vocab_file(&vocab, true).unwrap()
}

fn hash(instance: &GoogleInstance, tokenizer: &Tokenizer) -> String {
    let mut line = Vec::new();
    instance.write_json(tokenizer, &mut line).unwrap();
    blake3::hash(&line).to_hex()[..16].to_owned()
}

/// `HASHES` were made by bert-tensorflow 1.0.4 on CPython 3.11.7: `golden/google_pairs.py`. The second settings
/// bind every limit: length, short sequences, predictions, and a seed of two words.
#[test]
fn instances_are_those_of_googles_script() {
    let tokenizer = tokenizer();
    let short = GoogleSettings {
        max_seq_length: 24,
        dupe_factor: 3,
        short_seq_prob: 0.5,
        masked_lm_prob: 0.3,
        max_predictions_per_seq: 4,
        seed: (1 << 40) + 7,
    };
    let mut got = Vec::new();
    for settings in [GoogleSettings::default(), short] {
        let instances = create_training_instances(TEXT, Path::new("golden"), &tokenizer, &settings).unwrap();
        got.extend(instances.iter().map(|instance| hash(instance, &tokenizer)));
    }
    let expected: Vec<&str> = HASHES.lines().collect();
    for (idx, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "instance {idx}");
    }
    assert_eq!(got.len(), expected.len());
}

#[test]
fn line_ends_do_not_matter_and_bad_input_is_refused() {
    let tokenizer = tokenizer();
    let make = |text: &str, max_seq_length: usize| {
        let settings = GoogleSettings { max_seq_length, ..GoogleSettings::default() };
        create_training_instances(text, Path::new("a.txt"), &tokenizer, &settings)
    };
    let expected = make(TEXT, 64).unwrap();
    assert_eq!(make(&TEXT.replace('\n', "\r\n"), 64).unwrap(), expected);
    assert_eq!(make(&TEXT.replace('\n', "\r"), 64).unwrap(), expected);
    assert!(make(" \n\u{1c}\n", 64).unwrap_err().to_string().contains("a.txt"));
    assert!(make(TEXT, 4).unwrap_err().to_string().contains("max_seq_length"));
    assert!(make(TEXT, 5).unwrap().iter().all(|instance| instance.ids.len() <= 5));
}

/// Texts of others, where they are: `google-pairs/NAME.{txt,vocab.txt,jsonl}` in the material folder, the last made
/// from the first two by `golden/google_pairs.py --instances NAME.jsonl NAME.txt NAME.vocab.txt`.
#[test]
fn instances_of_real_texts_are_those_of_googles_script() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../material");
    let folder = std::env::var_os("BERT_TRAIN_MATERIAL").map_or(root, PathBuf::from).join("google-pairs");
    let is_there = |name: &&str| folder.join(format!("{name}.jsonl")).is_file();
    let names: Vec<&str> = ["sample", "en", "zh"].into_iter().filter(is_there).collect();
    if names.is_empty() {
        println!("skipped: no material for Google's pairs; make it with golden/google_pairs.py");
    }
    for name in names {
        let read = |extension: &str| fs::read_to_string(folder.join(format!("{name}.{extension}"))).unwrap();
        let vocab = folder.join(format!("{name}.vocab.txt"));
        let tokenizer = Tokenizer::from_vocab_file(&vocab, true).unwrap();
        let settings = GoogleSettings::default();
        let got = create_training_instances(&read("txt"), Path::new(name), &tokenizer, &settings).unwrap();
        let expected = read("jsonl");
        let mut num_equal = 0;
        for (instance, expected) in got.iter().zip(expected.lines()) {
            let mut line = Vec::new();
            instance.write_json(&tokenizer, &mut line).unwrap();
            assert_eq!(String::from_utf8(line).unwrap().trim_end(), expected, "{name}, instance {num_equal}");
            num_equal += 1;
        }
        println!("{name}: {num_equal} of {} instances equal", expected.lines().count());
        assert_eq!((got.len(), num_equal), (expected.lines().count(), got.len()), "{name}");
    }
}
