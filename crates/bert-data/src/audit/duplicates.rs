//! How much of a stream of contents has been there before, in bounded memory.
//!
//! Contents are known by 64 bits of their BLAKE3. All different ones are kept as long as there are few; then
//! only those whose hash ends in `k` zero bits, `k` growing as needed. Such a sample of *contents*, unlike one of
//! occurrences, keeps every repetition of what it holds, so shares stay unbiased.

use serde::Serialize;
use std::collections::HashMap;

/// Different contents kept at a time.
const MAX_KEPT: usize = 1 << 20;

/// Repetitions in a corpus.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Duplicates {
    /// Share of the items that repeat an earlier one.
    pub share: f64,
    /// Share of the tokens that are in such items.
    pub token_share: f64,
    /// Occurrences of the most frequent item.
    pub most_frequent: u64,
    /// Document that holds the most frequent item first.
    pub most_frequent_document: Option<u64>,
    /// One in how many different items was looked at; 1 is exact.
    pub sampled_one_in: u64,
}

/// One content: how often, how long, where first.
#[derive(Clone, Copy, Debug)]
struct Seen {
    count: u64,
    num_tokens: u64,
    first_document: u64,
}

/// Counts contents.
#[derive(Debug)]
pub(super) struct DuplicateCounter {
    seen: HashMap<u64, Seen>,
    max_kept: usize,
    /// Zero bits a hash must end in to be kept.
    num_bits: u32,
}

impl DuplicateCounter {
    pub(super) fn new() -> Self {
        Self::with_limit(MAX_KEPT)
    }

    fn with_limit(max_kept: usize) -> Self {
        Self { seen: HashMap::new(), max_kept, num_bits: 0 }
    }

    fn is_kept(&self, hash: u64) -> bool {
        hash.trailing_zeros() >= self.num_bits
    }

    /// Counts one occurrence of the content with this hash.
    pub(super) fn add(&mut self, hash: &blake3::Hash, num_tokens: u64, document: u64) {
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let hash = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if !self.is_kept(hash) {
            return;
        }
        let unseen = Seen { count: 0, num_tokens, first_document: document };
        self.seen.entry(hash).or_insert(unseen).count += 1;
        while self.seen.len() > self.max_kept {
            self.num_bits += 1;
            let num_bits = self.num_bits;
            self.seen.retain(|hash, _| hash.trailing_zeros() >= num_bits);
        }
    }

    /// The shares so far.
    pub(super) fn finish(&self) -> Duplicates {
        let sum = |part: fn(&Seen) -> u64| self.seen.values().map(part).sum::<u64>();
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let most = self.seen.values().max_by_key(|seen| (seen.count, std::cmp::Reverse(seen.first_document)));
        Duplicates {
            share: share(sum(|seen| seen.count - 1), sum(|seen| seen.count)),
            token_share: share(
                sum(|seen| (seen.count - 1) * seen.num_tokens),
                sum(|seen| seen.count * seen.num_tokens),
            ),
            most_frequent: most.map_or(0, |seen| seen.count),
            most_frequent_document: most.map(|seen| seen.first_document),
            sampled_one_in: 1 << self.num_bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(contents: impl Iterator<Item = u64>, max_kept: usize) -> (Duplicates, usize) {
        let mut counter = DuplicateCounter::with_limit(max_kept);
        for (document, content) in contents.enumerate() {
            counter.add(&blake3::hash(&content.to_le_bytes()), 3, document as u64);
        }
        (counter.finish(), counter.seen.len())
    }

    #[test]
    fn few_contents_are_counted_exactly() {
        let (got, _) = count([1, 2, 3, 2, 4, 2, 5, 6, 7, 8].into_iter(), 100);
        let expected = Duplicates {
            share: 0.2,
            token_share: 0.2,
            most_frequent: 3,
            most_frequent_document: Some(1),
            sampled_one_in: 1,
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn many_contents_are_estimated_in_bounded_memory() {
        // 40,000 different contents, one in four of them twice: 10,000 of 50,000 repeat.
        let contents = (0..40_000).chain((0..40_000).step_by(4));
        let (got, num_kept) = count(contents, 5000);
        assert!(num_kept <= 5000 && got.sampled_one_in >= 8, "{got:?}");
        assert!((got.share - 0.2).abs() < 0.02, "{got:?}");
    }
}
