//! Cuts a document into sentences by the characters that end them.
//!
//! The rules follow Unicode's sentence boundaries (UAX #29) where they speak: closing quotes and brackets
//! belong to the sentence they close, a comma after them goes on with it (SB8a), a small letter after a full
//! stop too (SB8; here also after `!`, `?` and `…`). Beyond them `；` and `…` end a sentence, 。！？ need no
//! space after them, and a full stop after an initial or a common abbreviation ends nothing. Every line end
//! ends a sentence.
//!
//! Keeps every character but white space at the ends of a sentence.

/// End a sentence wherever they stand.
const FULL_STOPS: &[char] = &['。', '！', '？', '；', '｡', '…', '‥'];
/// End a sentence where white space or a word without spaces follows.
const MARKS: &[char] = &['!', '?', '.', '．'];
/// Belong to the sentence before them.
const CLOSERS: &[char] =
    &['”', '’', '」', '』', '﹂', '﹄', '）', ')', '】', '〕', '］', ']', '》', '〉', '»', '}', '｝'];
/// After the end of a sentence they say that it goes on.
const GOES_ON: &[char] = &[',', ':', ';', '，', '、', '：', '-', '—'];
/// Words that are followed by a full stop and do not end a sentence.
const ABBREVIATIONS: &[&str] = &[
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "no", "fig", "vol", "gen", "col", "lt",
    "sgt", "capt", "rev", "hon", "gov", "sen", "rep", "inc", "ltd", "co", "corp", "cf", "al", "e.g", "i.e",
    "approx", "dept",
];

/// Characters of the longest of them.
const LONGEST_ABBREVIATION: usize = 6;

/// The sentences of a document, without outer white space, none of them empty.
pub fn sentences(document: &str) -> impl Iterator<Item = &str> {
    document.split(is_line_end).flat_map(|line| Sentences { rest: line, is_quote_open: false })
}

/// Characters after which a new line begins.
fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// What is left of one line.
struct Sentences<'a> {
    rest: &'a str,
    /// Whether a straight quote has been opened in this line and not been closed.
    is_quote_open: bool,
}

impl<'a> Iterator for Sentences<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let end = self.find_end();
            let (sentence, rest) = self.rest.split_at(end);
            self.rest = rest;
            let sentence = sentence.trim();
            if !sentence.is_empty() {
                return Some(sentence);
            }
        }
    }
}

impl Sentences<'_> {
    /// Where the first sentence of the rest ends, in bytes.
    fn find_end(&mut self) -> usize {
        let text = self.rest;
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c == '"' {
                self.is_quote_open = !self.is_quote_open;
            }
            let is_full_stop = FULL_STOPS.contains(&c);
            if !is_full_stop && !MARKS.contains(&c) {
                continue;
            }
            // The whole run of marks, then what closes quotes and brackets.
            let mut is_strong = is_full_stop && c != '…' && c != '‥';
            let mut is_dot = c == '.';
            while let Some(&(_, next)) = chars.peek() {
                if FULL_STOPS.contains(&next) || MARKS.contains(&next) {
                    is_strong |= FULL_STOPS.contains(&next) && next != '…' && next != '‥';
                    is_dot = false;
                } else if !self.closes(next, chars.clone().nth(1).map(|(_, c)| c)) {
                    break;
                }
                chars.next();
            }
            let end = chars.peek().map_or(text.len(), |&(end, _)| end);
            if is_dot && is_abbreviation(&text[..at]) {
                continue;
            }
            if is_end(&text[end..], is_strong, is_full_stop) {
                return end;
            }
        }
        text.len()
    }

    /// Whether a character after the end of a sentence still belongs to it.
    fn closes(&mut self, c: char, after: Option<char>) -> bool {
        match c {
            '"' if self.is_quote_open => {
                self.is_quote_open = false;
                true
            }
            '\'' => after.is_none_or(|a| !a.is_alphanumeric()),
            _ => CLOSERS.contains(&c),
        }
    }
}

/// Whether a sentence ends before `rest`. After a strong mark (。) anything but a comma begins a new one; after
/// `…` anything but a small letter too; after `!`, `?` and `.` there must be white space or a character of a
/// script without spaces.
fn is_end(rest: &str, is_strong: bool, is_full_stop: bool) -> bool {
    let Some(next) = rest.chars().next() else { return true };
    let Some(begin) = rest.trim_start().chars().next() else { return true };
    if GOES_ON.contains(&begin) && !(next.is_whitespace() && matches!(begin, '-' | '—')) {
        return false;
    }
    if is_strong {
        return true;
    }
    if begin.is_lowercase() {
        return false;
    }
    is_full_stop || next.is_whitespace() || (!next.is_ascii() && next.is_alphabetic())
}

/// Whether the full stop after this text belongs to its last word: an initial, or a known abbreviation.
fn is_abbreviation(before: &str) -> bool {
    // A text may be one endless word: look no further back than what decides.
    let tail = before.char_indices().rev().nth(LONGEST_ABBREVIATION).map_or(before, |(at, _)| &before[at..]);
    let word = tail.rsplit(|c: char| c.is_whitespace() || "(\"'“‘[".contains(c)).next().unwrap_or_default();
    let mut chars = word.chars().rev();
    let last = chars.next().is_some_and(|c| c.is_uppercase());
    if last && chars.next().is_none_or(|c| c == '.') {
        return word != "I";
    }
    word.is_ascii() && ABBREVIATIONS.contains(&word.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(document: &str, expected: &[&str]) {
        assert_eq!(sentences(document).collect::<Vec<_>>(), expected, "{document}");
    }

    #[test]
    fn chinese_ends_need_no_space() {
        check("一。二！三？四；五……六", &["一。", "二！", "三？", "四；", "五……", "六"]);
        check("“你好。”他说。“走吧！”", &["“你好。”", "他说。", "“走吧！”"]);
        check(
            "他说：“好。”，然后走了。真的？！（是。）完",
            &["他说：“好。”，然后走了。", "真的？！", "（是。）", "完"],
        );
        check("好吗?我不知道!真的.", &["好吗?", "我不知道!", "真的."]);
        check("「一。」『二。』三", &["「一。」", "『二。』", "三"]);
        check("他说\"好。\"我说\"走。\"完", &["他说\"好。\"", "我说\"走。\"", "完"]);
        check("圆周率是3.14，网址a.b/c?d=e。", &["圆周率是3.14，网址a.b/c?d=e。"]);
    }

    #[test]
    fn english_ends_need_a_space_and_no_small_letter() {
        check("One. Two! Three? Four", &["One.", "Two!", "Three?", "Four"]);
        check(
            "Mr. J. Smith paid $3.50. \"Go.\" He left.",
            &["Mr. J. Smith paid $3.50.", "\"Go.\"", "He left."],
        );
        check("Well… he said, e.g. this. (Yes.) No.", &["Well… he said, e.g. this.", "(Yes.)", "No."]);
        check("“Why?” she asked. 'Because.' Then", &["“Why?” she asked.", "'Because.'", "Then"]);
        check("In the U.S. Army. It was I. Then", &["In the U.S. Army.", "It was I.", "Then"]);
        check("Wait... What? It is v1.2.3 now.", &["Wait...", "What?", "It is v1.2.3 now."]);
    }

    #[test]
    fn line_ends_end_sentences_and_white_space_is_none() {
        check(" a \r\n\n b\u{2028}c\u{3000}\n。\n", &["a", "b", "c", "。"]);
        check(" \n\t", &[]);
    }

    #[test]
    fn one_endless_word_with_full_stops_takes_no_time() {
        assert!(ABBREVIATIONS.iter().all(|word| word.len() <= LONGEST_ABBREVIATION));
        check(&"a.".repeat(1 << 20), &[&"a.".repeat(1 << 20)]);
        check("In (approx. 3) or xapprox. Then", &["In (approx. 3) or xapprox.", "Then"]);
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_is_lost(text in "[ab A.!?…。；”\"'()，\n]{0,60}") {
            let bare = |text: &str| text.split_whitespace().collect::<String>();
            let cut: Vec<&str> = sentences(&text).collect();
            prop_assert!(cut.iter().all(|s| !s.is_empty() && s.trim() == *s));
            prop_assert_eq!(bare(&cut.concat()), bare(&text));
        }
    }
}
