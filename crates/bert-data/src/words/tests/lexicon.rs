//! Entries of a lexicon are one word wherever they stand, and are masked whole or not at all.

use super::*;
use crate::config::{MaskStrategy, MaskingConfig, SentenceObjective};
use crate::masking::Masker;
use bert_random::{Key, Purpose};
use proptest::prelude::*;

fn with_lexicon(language: Language, lines: &str) -> WordSegmenter {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lexicon.txt");
    std::fs::write(&path, lines).unwrap();
    WordSegmenter::new(language, Some(&path)).unwrap()
}

#[test]
fn lexicon_words_are_one_word() {
    let plain = WordSegmenter::new(Language::Zh, None).unwrap();
    let with = with_lexicon(Language::Zh, "苏诺斯 100000\nCOVID-19 100000\n\n");
    assert_ne!(joined(&plain, "在苏诺斯用COVID-19").0, joined(&with, "在苏诺斯用COVID-19").0);
    assert_eq!(joined(&with, "在苏诺斯用COVID-19").0, "在 苏+诺+斯 用 covid+-+19");
    assert!(with.lexicon_fingerprint().is_some());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lexicon.txt");
    std::fs::write(&path, "苏诺斯").unwrap();
    assert!(WordSegmenter::new(Language::En, Some(&path)).is_err());
}

#[test]
fn entries_win_over_the_dictionary_and_longer_ones_over_shorter_ones() {
    // The segmenter cuts 北京大学 as one word; frequencies, where somebody wrote them, decide nothing.
    for (lexicon, expected) in [
        ("京大 1\n", "在 北 京+大 学"),
        ("在北\n北京大学 100000\n", "在+北 京 大+学"),
        ("北京\n北京大\n", "在 北+京+大 学"),
        ("\u{feff}大学 3 n\r\n", "在 北+京 大+学"),
    ] {
        assert_eq!(joined(&with_lexicon(Language::Zh, lexicon), "在北京大学").0, expected, "{lexicon:?}");
    }
}

#[test]
fn entries_hold_spaces_and_either_width_but_do_not_cut_latin_words() {
    let lexicon = "bert 模型\niPhone\t\nbert 19\t\nＣＯＶＩＤ-１９\n大学 n\n";
    for language in [Language::Zh, Language::Auto] {
        let segmenter = with_lexicon(language, lexicon);
        for (line, expected) in [
            ("用bert 模型", "用 bert+模+型"),
            ("用BERT 模型", "用 bert 模+型"),
            ("用bert模型", "用 bert 模+型"),
            ("iPhone12", "i+##phone+##12"),
            ("iPhone 12, bert 19", "i+##phone [UNK] , bert+19"),
            ("COVID-19 2024", "covid+-+19 2024"),
            ("covid-19 COVID-192024", "covid - 19 covid - [UNK]"),
            ("在大学", "在 大+学"),
        ] {
            assert_eq!(joined(&segmenter, line), (expected.to_owned(), 0), "{line}");
        }
    }
}

#[test]
fn an_entry_longer_than_the_budget_is_never_masked() {
    let segmenter = with_lexicon(Language::Zh, "北京大学用模型\n");
    let line = "我们在北京大学用模型";
    let tokenizer = tokenizer();
    let mut encoded = tokenizer.encode_line(line).unwrap();
    segmenter.mark(line, &mut encoded);
    for strategy in [MaskStrategy::WholeWord, MaskStrategy::Ngram, MaskStrategy::Span] {
        for (max, is_ever_masked) in [(6, false), (7, true)] {
            let masker = masker(&tokenizer, strategy, 0.6, max);
            let (ids, starts) = sequence(&tokenizer, &encoded);
            let reaches =
                |n| masker.mask(&ids, &starts, Key::new(1, Purpose::Mask).with(n)).positions.len() > 3;
            assert_eq!((0..200).any(reaches), is_ever_masked, "{strategy:?} {max}");
        }
    }
}

fn masker(tokenizer: &Tokenizer, strategy: MaskStrategy, mlm_probability: f64, max: usize) -> Masker {
    let config = MaskingConfig {
        strategy,
        mlm_probability,
        max_predictions_per_seq: max,
        ngram_weights: vec![0.4, 0.3, 0.2, 0.1],
        ..crate::testing::config(SentenceObjective::Nsp).masking
    };
    Masker::new(&config, tokenizer.special(), tokenizer.special_ids(), tokenizer.vocab_size()).unwrap()
}

/// `[CLS] line [SEP]`
fn sequence(tokenizer: &Tokenizer, encoded: &EncodedLine) -> (Vec<u32>, Vec<bool>) {
    let special = tokenizer.special();
    let ids = [&[special.cls], encoded.ids.as_slice(), &[special.sep]].concat();
    let starts = [&[true], encoded.word_starts.as_slice(), &[true]].concat();
    (ids, starts)
}

/// A character, and it in the width that entries and text are compared in.
fn narrow(c: char) -> char {
    match c {
        'Ａ' => 'A',
        '２' => '2',
        _ => c,
    }
}

/// Characters `start..end` of the text for each entry that stands there: leftmost, then longest.
fn expected_occurrences(text: &[char], entries: &[String]) -> Vec<(usize, usize)> {
    let is_of_word = |idx: usize| text.get(idx).is_some_and(|&c| c.is_alphanumeric() && !is_cjk(c));
    let cuts_a_word = |idx: usize| idx > 0 && is_of_word(idx - 1) && is_of_word(idx);
    let mut found = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let ends = entries.iter().filter_map(|entry| {
            let entry: Vec<char> = entry.chars().map(narrow).collect();
            let end = start + entry.len();
            let stands = end <= text.len() && text[start..end].iter().map(|&c| narrow(c)).eq(entry);
            (stands && !cuts_a_word(start) && !cuts_a_word(end)).then_some(end)
        });
        match ends.max() {
            Some(end) => {
                found.push((start, end));
                start = end;
            }
            None => start += 1,
        }
    }
    found
}

/// Entries, and a text that they are planted in.
fn planted() -> impl Strategy<Value = (Vec<String>, String)> {
    let entry = "[苏诺斯北京大学梵Ab2Ａ２]([苏诺斯北京大学梵Ab2Ａ２ ，-]{0,5}[苏诺斯北京大学梵Ab2Ａ２])?";
    prop::collection::vec(entry, 1..6).prop_flat_map(|entries| {
        let planted = prop::sample::select(entries.clone());
        let piece = prop_oneof![planted, "[我们在北京大学用模型清华年Ab2Ａ２， -]{0,8}"];
        (Just(entries), prop::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat()))
    })
}

/// Every character is a token but 梵, which is `[UNK]`; letters and digits make words of several pieces.
fn tokenizer_of_characters() -> Tokenizer {
    let extra = "我 们 在 北 京 大 学 用 模 型 清 华 年 苏 诺 斯 ， - a ##a b ##b 2 ##2 ａ ##ａ ２ ##２";
    let tokens = SPECIAL_TOKENS.iter().copied().chain(extra.split(' ')).map(str::to_owned).collect();
    Tokenizer::from_tokens(tokens, true, Path::new("test")).unwrap()
}

proptest! {
    #[test]
    fn every_occurrence_is_one_word_and_masked_whole_or_not_at_all((entries, text) in planted(), seed: u64) {
        let tokenizer = tokenizer_of_characters();
        let segmenter = with_lexicon(Language::Zh, &entries.iter().map(|e| format!("{e}\t\n")).collect::<String>());
        let mut encoded = tokenizer.encode_line(&text).unwrap();
        prop_assert_eq!(segmenter.mark(&text, &mut encoded), 0);
        let chars: Vec<char> = text.chars().collect();
        let byte = |idx: usize| chars[..idx].iter().map(|c| c.len_utf8()).sum::<usize>();
        let token = |idx: usize| encoded.offsets.iter().filter(|&&(start, _)| (start as usize) < byte(idx)).count();
        let occurrences: Vec<_> =
            expected_occurrences(&chars, &entries).into_iter().map(|(a, b)| (token(a), token(b))).collect();
        let starts = &encoded.word_starts;
        for &(first, behind) in &occurrences {
            prop_assert!(starts[first] && !starts[first + 1..behind].contains(&true), "{:?}", starts);
            prop_assert!(starts.get(behind).is_none_or(|&start| start), "{:?}", starts);
        }
        let (ids, starts) = sequence(&tokenizer, &encoded);
        for strategy in [MaskStrategy::WholeWord, MaskStrategy::Ngram, MaskStrategy::Span] {
            let masker = masker(&tokenizer, strategy, 0.4, 80);
            for n in 0..20 {
                let masked = masker.mask(&ids, &starts, Key::new(seed, Purpose::Mask).with(n));
                for &(first, behind) in &occurrences {
                    let unk = tokenizer.special().unk;
                    let maskable: Vec<u32> =
                        (first as u32 + 1..behind as u32 + 1).filter(|&p| ids[p as usize] != unk).collect();
                    let chosen = maskable.iter().filter(|p| masked.positions.contains(p)).count();
                    prop_assert!(chosen == 0 || chosen == maskable.len(), "{} of {}", chosen, maskable.len());
                }
            }
        }
    }
}
