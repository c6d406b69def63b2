//! Tests of word starts: the segmenter, the lexicon, and what masking makes of them.

use super::*;
use crate::tokenizer::{SPECIAL_TOKENS, Tokenizer};

fn tokenizer() -> Tokenizer {
    let extra = "我 们 在 北 京 大 学 用 bert 模 型 i ##phone ##12 2024 年 , 。 covid - 19 清 华 苏 诺 斯";
    let tokens = SPECIAL_TOKENS.iter().copied().chain(extra.split(' ')).map(str::to_owned).collect();
    Tokenizer::from_tokens(tokens, true, Path::new("test")).unwrap()
}

/// Tokens joined by `+` inside a word and by a space between words.
fn joined(segmenter: &WordSegmenter, line: &str) -> (String, usize) {
    let tokenizer = tokenizer();
    let mut encoded = tokenizer.encode_line(line).unwrap();
    let num_misaligned = segmenter.mark(line, &mut encoded);
    let mut text = String::new();
    for (idx, &id) in encoded.ids.iter().enumerate() {
        if idx > 0 {
            text.push(if encoded.word_starts[idx] { ' ' } else { '+' });
        }
        text.push_str(tokenizer.id_to_token(id).unwrap());
    }
    (text, num_misaligned)
}

#[test]
fn chinese_words_survive_latin_digits_unknown_and_dropped_characters() {
    let zh = WordSegmenter::new(Language::Zh, None).unwrap();
    for (line, expected) in [
        ("我们在北京大学", "我+们 在 北+京+大+学"),
        ("我们用BERT模型", "我+们 用 bert 模+型"),
        ("用iPhone12，在北京", "用 i+##phone+##12 [UNK] 在 北+京"),
        ("2024年在 北京大学。", "2024 年 在 北+京+大+学 。"),
        // A character outside the vocabulary keeps its place in the word.
        ("北京太学", "北+京 [UNK]+学"),
        // Private use: the normalizer drops it, offsets of what follows still fit.
        ("\u{e5e5}我们\u{e5e5}在北京", "我+们 在 北+京"),
    ] {
        assert_eq!(joined(&zh, line).0, expected, "{line}");
    }
}

#[test]
fn language_decides_and_auto_looks_at_the_line() {
    let en = WordSegmenter::new(Language::En, None).unwrap();
    let auto = WordSegmenter::new(Language::Auto, None).unwrap();
    assert_eq!(joined(&en, "我们 iphone12").0, "我 们 i+##phone+##12");
    assert_eq!(joined(&auto, "我们 iphone12").0, "我+们 i+##phone+##12");
    assert_eq!(joined(&auto, "covid - 19").0, "covid - 19");
}

#[test]
fn full_width_digits_and_letters_are_read_as_ordinary_ones() {
    let zh = WordSegmenter::new(Language::Zh, None).unwrap();
    // A B-share and an X-ray are words of the dictionary, a year is one token.
    for (line, expected) in [
        ("我们用Ｂ股", "我+们 用 [UNK]+[UNK]"),
        ("我们用B股", "我+们 用 [UNK]+[UNK]"),
        ("１９９８年在北京，Ｘ光", "[UNK] 年 在 北+京 [UNK] [UNK]+[UNK]"),
    ] {
        assert_eq!(joined(&zh, line), (expected.to_owned(), 0), "{line}");
    }
}

/// The word that is kept whole ends inside the token that stands for both.
#[test]
fn tokens_over_word_borders_are_counted() {
    let zh = WordSegmenter::new(Language::Zh, None).unwrap();
    let line = "我们在北京大学";
    assert_eq!(joined(&zh, line).1, 0);
    let offsets = vec![(0, 3), (3, 9), (9, 21)];
    let mut encoded = EncodedLine { ids: vec![1, 1, 1], word_starts: vec![true; 3], offsets };
    assert_eq!(zh.mark(line, &mut encoded), 1);
    assert_eq!(encoded.word_starts, [true, false, true]);
    // Letters that the segmenter does not know are cut one by one, but those cuts mark nothing.
    let line = "在Россия";
    let mut encoded =
        EncodedLine { ids: vec![1, 1], word_starts: vec![true; 2], offsets: vec![(0, 3), (3, 15)] };
    assert_eq!(zh.mark(line, &mut encoded), 0);
    // A token that begins in them and reaches into a word counts once.
    let mut encoded = EncodedLine { ids: vec![1], word_starts: vec![true], offsets: vec![(0, 4)] };
    assert_eq!(zh.mark("яв北京", &mut encoded), 0);
    encoded.offsets = vec![(0, 7)];
    assert_eq!(zh.mark("яв北京", &mut encoded), 1);
}

mod lexicon;
