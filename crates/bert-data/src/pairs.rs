//! From a planned sample to a row of tokens: the random partner, truncation, `[CLS] A [SEP] B [SEP]`.
//!
//! Masks nothing. Everything drawn comes from the key of the sample.

use crate::corpus::{Document, Place};
use crate::error::DataError;
use crate::plan::{PlanContext, PlannedSample, Second, piece_ends};
use crate::tokenizer::SpecialIds;
use bert_random::{Key, Stream};
use std::ops::Range;

/// A row before masking. The vectors have one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) tokens: Vec<u32>,
    pub(crate) token_type_ids: Vec<u8>,
    pub(crate) word_starts: Vec<bool>,
    /// 0 or 1 where there is a sentence objective.
    pub(crate) label: Option<u8>,
    /// The document of a random second segment.
    pub(crate) other_document: Option<u64>,
    /// Tokens cut off to fit.
    pub(crate) num_truncated: usize,
}

/// What a row is made of: ranges of documents' tokens, cut to fit. No token was read.
struct Segments {
    first: Range<u64>,
    second: Option<Range<u64>>,
    /// The document of a random second segment, with its index.
    other: Option<(u64, Document)>,
    num_truncated: usize,
}

/// Puts a planned sample into `row`, whatever was there before.
pub(crate) fn build_row(
    context: &PlanContext,
    sample: &PlannedSample,
    special: SpecialIds,
    key: Key,
    row: &mut Row,
) -> Result<(), DataError> {
    let segments = Segments::new(context, sample, key)?;
    row.clear();
    row.label = match sample.chunk.second {
        Second::None => None,
        Second::Next => Some(0),
        Second::Random { .. } | Second::Swapped => Some(1),
    };
    row.num_truncated = segments.num_truncated;
    let place = context.corpus.place(sample.document)?;
    row.push_special(special.cls, 0);
    row.push_segment(context, place, segments.first, 0, special.sep)?;
    if let Some(second) = segments.second {
        let place = match &segments.other {
            Some((_, document)) => context.corpus.place_of(document)?,
            None => place,
        };
        row.other_document = segments.other.map(|(idx, _)| idx);
        row.push_segment(context, place, second, 1, special.sep)?;
    }
    Ok(())
}

/// Tokens of the row that [`build_row`] would build.
pub(crate) fn row_len(context: &PlanContext, sample: &PlannedSample, key: Key) -> Result<u32, DataError> {
    let Segments { first, second, .. } = Segments::new(context, sample, key)?;
    let with_sep = |tokens: Range<u64>| (tokens.end - tokens.start) as u32 + 1;
    Ok(1 + with_sep(first) + second.map_or(0, with_sep))
}

impl Segments {
    fn new(context: &PlanContext, sample: &PlannedSample, key: Key) -> Result<Self, DataError> {
        let mut stream = key.stream();
        let max_tokens = context.rules.max_tokens;
        let (first, rest) = (sample.chunk.first.clone(), sample.chunk.rest.clone());
        let (mut first, mut second, other) = match sample.chunk.second {
            Second::None => (first, None, None),
            Second::Next => (first, Some(rest), None),
            Second::Swapped => (rest, Some(first), None),
            Second::Random { target_tokens, starts_inside } => {
                let other = context.partner(sample.document, &mut stream);
                let document = context.corpus.document(other)?;
                let tokens = random_stretch(&document, max_tokens, target_tokens, starts_inside, &mut stream);
                (first, Some(tokens), Some((other, document)))
            }
        };
        let mut nothing = 0..0;
        let second_or_nothing = second.as_mut().unwrap_or(&mut nothing);
        let num_truncated = truncate(&mut first, second_or_nothing, max_tokens, &mut stream);
        Ok(Self { first, second, other, num_truncated })
    }
}

/// Pieces of a document from a random one on, until there are `target_tokens` or the document ends.
fn random_stretch(
    document: &Document,
    max_tokens: u64,
    target_tokens: u64,
    starts_inside: bool,
    stream: &mut Stream,
) -> Range<u64> {
    let ends = piece_ends(&document.sentence_lengths, max_tokens);
    let mut idx = stream.below(ends.len() as u64) as usize;
    let piece_start = if idx == 0 { 0 } else { ends[idx - 1] };
    let piece_len = ends[idx] - piece_start;
    let skipped = if starts_inside && piece_len > 1 { 1 + stream.below(piece_len - 1) } else { 0 };
    let start = piece_start + skipped;
    while idx + 1 < ends.len() && ends[idx] - start < target_tokens {
        idx += 1;
    }
    start..ends[idx]
}

/// Cuts one token at a time from the longer segment (the second if they are equal), front or back with equal
/// probability, until both fit. Returns how many were cut.
fn truncate(a: &mut Range<u64>, b: &mut Range<u64>, max_tokens: u64, stream: &mut Stream) -> usize {
    let mut num_truncated = 0;
    while (a.end - a.start) + (b.end - b.start) > max_tokens {
        let longer = if a.end - a.start > b.end - b.start { &mut *a } else { &mut *b };
        if stream.chance(0.5) {
            longer.start += 1;
        } else {
            longer.end -= 1;
        }
        num_truncated += 1;
    }
    num_truncated
}

impl Row {
    fn clear(&mut self) {
        self.tokens.clear();
        self.token_type_ids.clear();
        self.word_starts.clear();
        (self.label, self.other_document, self.num_truncated) = (None, None, 0);
    }

    fn push_special(&mut self, id: u32, token_type: u8) {
        self.tokens.push(id);
        self.token_type_ids.push(token_type);
        self.word_starts.push(true);
    }

    /// Appends a segment and its `[SEP]`. Its first token starts a word, whatever was cut off before it.
    fn push_segment(
        &mut self,
        context: &PlanContext,
        place: Place,
        tokens: Range<u64>,
        token_type: u8,
        sep: u32,
    ) -> Result<(), DataError> {
        let start = self.tokens.len();
        context.corpus.read_at(place, tokens, &mut self.tokens, &mut self.word_starts)?;
        self.token_type_ids.resize(self.tokens.len(), token_type);
        if let Some(first) = self.word_starts.get_mut(start) {
            *first = true;
        }
        self.push_special(sep, token_type);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bert_random::Purpose;

    #[test]
    fn truncation_takes_from_the_longer_side_at_both_ends() {
        let (mut num_front, mut num_cut) = (0, 0);
        for n in 0..1000 {
            let (mut a, mut b) = (100..140, 500..520);
            let mut stream = Key::new(1, Purpose::Pair).with(n).stream();
            assert_eq!(truncate(&mut a, &mut b, 37, &mut stream), 23);
            // 40 and 20 are brought to 20 and 20 first; the second yields on a tie: 20, 19 -> 19, 19 -> 19,
            // 18.
            assert_eq!((a.end - a.start, b.end - b.start), (19, 18));
            num_front += (a.start - 100) + (b.start - 500);
            num_cut += 23;
        }
        let share = num_front as f64 / num_cut as f64;
        assert!((share - 0.5).abs() < 5.0 * 0.5 / (num_cut as f64).sqrt(), "{share}");
    }

    #[test]
    fn random_stretches_begin_anywhere_and_reach_the_target() {
        let document = |lengths: &[u32]| {
            let mut document = crate::corpus::tests::document();
            document.sentence_lengths = lengths.to_vec();
            document
        };
        let mut starts = std::collections::BTreeSet::new();
        for n in 0..200 {
            let mut stream = Key::new(1, Purpose::Pair).with(n).stream();
            let range = random_stretch(&document(&[5, 7, 11]), 100, 9, false, &mut stream);
            starts.insert(range.start);
            assert!(range.end == 12 || range.end == 23, "{range:?}");
            let inside = random_stretch(&document(&[6]), 100, 9, true, &mut stream);
            assert!((1..6).contains(&inside.start) && inside.end == 6, "{inside:?}");
        }
        assert_eq!(Vec::from_iter(starts), [0, 5, 12]);
    }
}
