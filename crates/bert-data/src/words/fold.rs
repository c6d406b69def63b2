//! Full-width digits and letters as ordinary ones, with the way back to the text as it was written.
//!
//! WordPiece joins a run of full-width digits or letters into one word as it does ordinary ones, while the
//! segmenter knows the ordinary ones only. Punctuation is a token of its own either way and stays. Owns no text
//! but the copy, and makes one only where something is folded.

use std::borrow::Cow;

/// Full-width characters are this far behind the ordinary ones.
const DISTANCE: u32 = 0xFEE0;
/// Bytes that a full-width character, three bytes long, loses.
const NUM_BYTES_LOST: usize = 2;

/// A line with ordinary digits and letters.
pub(super) struct Folded<'a> {
    /// The line.
    pub(super) text: Cow<'a, str>,
    /// Where in `text` the characters are that were full-width, ascending.
    folds: Vec<usize>,
}

impl<'a> Folded<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        if !line.chars().any(|character| half_width(character).is_some()) {
            return Self { text: Cow::Borrowed(line), folds: Vec::new() };
        }
        let mut text = String::with_capacity(line.len());
        let mut folds = Vec::new();
        for character in line.chars() {
            if let Some(ascii) = half_width(character) {
                folds.push(text.len());
                text.push(ascii);
            } else {
                text.push(character);
            }
        }
        Self { text: Cow::Owned(text), folds }
    }

    /// The byte of the line as it was written that byte `offset` of `text` stands for.
    pub(super) fn original(&self, offset: usize) -> usize {
        offset + NUM_BYTES_LOST * self.folds.partition_point(|&fold| fold < offset)
    }
}

/// The ordinary form of a full-width digit or letter.
fn half_width(character: char) -> Option<char> {
    match character {
        '０'..='９' | 'Ａ'..='Ｚ' | 'ａ'..='ｚ' => char::from_u32(character as u32 - DISTANCE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_and_letters_are_folded_and_nothing_else() {
        assert_eq!(Folded::new("Ａ股１９９８年，ｚ！").text, "A股1998年，z！");
        assert!(matches!(Folded::new("A股1998年，．％").text, Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn every_border_of_a_character_comes_back(line in "[ab1２ＡｚＺ中国，é ]{0,30}") {
            let folded = Folded::new(&line);
            let borders = |text: &str| -> Vec<usize> {
                text.char_indices().map(|(offset, _)| offset).chain([text.len()]).collect()
            };
            let back: Vec<usize> = borders(&folded.text).into_iter().map(|offset| folded.original(offset)).collect();
            prop_assert_eq!(back, borders(&line));
        }
    }
}
