//! Google's training instances, instance by instance, on a text of our own.

use bert_data::Tokenizer;
use bert_data::compat::google::{GoogleInstance, GoogleSettings, create_training_instances};
use std::path::Path;

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
