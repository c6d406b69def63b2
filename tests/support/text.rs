//! A small corpus of our own in Chinese and English, and a vocabulary for it.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use bert_random::{Key, Purpose, Stream};

/// Words that the sentences are made of; the vocabulary is their characters and the English words.
const SUBJECTS: [&str; 6] = ["曹操", "刘备", "孙权", "the engineer", "诸葛亮", "a small model"];
const VERBS: [&str; 6] = ["读了", "写下", "训练", "reads", "measures", "忘记了"];
const OBJECTS: [&str; 8] = [
    "三国演义",
    "一本书",
    "the long report",
    "神经网络",
    "2024 numbers",
    "许多数据",
    "a sentence",
    "天下大事",
];

fn pick<'a>(words: &[&'a str], stream: &mut Stream) -> &'a str {
    words[stream.below(words.len() as u64) as usize]
}

/// `num_documents` documents of 3 to 12 sentences, always the same ones.
pub fn corpus(num_documents: u64) -> String {
    let mut text = String::new();
    for document in 0..num_documents {
        let mut stream = Key::new(1, Purpose::Debug).with(document).stream();
        for _ in 0..3 + stream.below(10) {
            for clause in 0..=stream.below(3) {
                let comma = if clause > 0 { "，" } else { "" };
                let (subject, verb) = (pick(&SUBJECTS, &mut stream), pick(&VERBS, &mut stream));
                write!(text, "{comma}{subject}{verb}{}", pick(&OBJECTS, &mut stream)).unwrap();
            }
            text.push_str("。\n");
        }
        text.push('\n');
    }
    text
}

/// Sentences with the index of their subject's language as label: a table of tab-separated values.
pub fn labelled(rows: std::ops::Range<u64>) -> String {
    let mut text = String::from("label\ttext\n");
    for row in rows {
        let mut stream = Key::new(2, Purpose::Debug).with(row).stream();
        let subject = pick(&SUBJECTS, &mut stream);
        let (verb, object) = (pick(&VERBS, &mut stream), pick(&OBJECTS, &mut stream));
        let label = if subject.is_ascii() { "latin" } else { "hanzi" };
        writeln!(text, "{label}\t{subject}{verb}{object}").unwrap();
    }
    text
}

/// Special tokens, every character and every `##` character of the corpus, in sorted order.
pub fn write_vocabulary(corpus: &Path, vocabulary: &Path) {
    let text = fs::read_to_string(corpus).unwrap();
    let characters: BTreeSet<char> = text.chars().filter(|character| !character.is_whitespace()).collect();
    let mut tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).to_vec();
    tokens.extend(characters.iter().map(ToString::to_string));
    tokens.extend(characters.iter().filter(|c| c.is_ascii_alphanumeric()).map(|c| format!("##{c}")));
    fs::write(vocabulary, tokens.join("\n") + "\n").unwrap();
}
