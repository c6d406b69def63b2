//! Byte-pair merges over counted words, with every tie broken by piece numbers that depend on the text alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// Two neighbouring pieces.
type Pair = (u32, u32);

/// Words as pieces, and the pairs in them.
struct Merger {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
    words: Vec<(Vec<u32>, i64)>,
    counts: HashMap<Pair, i64>,
    /// Words a pair was seen in; may name words that no longer hold it.
    places: HashMap<Pair, Vec<u32>>,
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
}

/// Adds up to `num_merged` merged pieces to the alphabet, most frequent pair first.
pub(super) fn extend(
    alphabet: Vec<String>,
    words: &BTreeMap<String, u64>,
    num_merged: usize,
    min_frequency: u64,
) -> Vec<String> {
    let wanted = alphabet.len() + num_merged;
    let min_count = min_frequency.max(1) as i64;
    let mut merger = Merger::new(alphabet, words);
    while merger.tokens.len() < wanted {
        let Some((count, Reverse(pair))) = merger.queue.pop() else { break };
        let current = merger.counts.get(&pair).copied().unwrap_or(0);
        if current != count {
            if current > 0 {
                merger.queue.push((current, Reverse(pair)));
            }
            continue;
        }
        if count < min_count {
            break;
        }
        merger.merge(pair);
    }
    merger.tokens
}

impl Merger {
    fn new(alphabet: Vec<String>, words: &BTreeMap<String, u64>) -> Self {
        let ids: HashMap<String, u32> =
            alphabet.iter().enumerate().map(|(i, t)| (t.clone(), i as u32)).collect();
        let pieces = |word: &str| -> Option<Vec<u32>> {
            let piece = |(idx, c): (usize, char)| {
                let token = if idx == 0 { c.to_string() } else { format!("##{c}") };
                ids.get(&token).copied()
            };
            word.chars().enumerate().map(piece).collect()
        };
        // A word with a character outside the alphabet becomes [UNK] and has no pieces.
        let words: Vec<(Vec<u32>, i64)> =
            words.iter().filter_map(|(word, &count)| Some((pieces(word)?, count as i64))).collect();
        let mut counts: HashMap<Pair, i64> = HashMap::new();
        let mut places: HashMap<Pair, Vec<u32>> = HashMap::new();
        for (word_idx, (pieces, count)) in words.iter().enumerate() {
            for pair in pieces.windows(2).map(|w| (w[0], w[1])) {
                *counts.entry(pair).or_default() += count;
                places.entry(pair).or_default().push(word_idx as u32);
            }
        }
        let queue = counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        Self { tokens: alphabet, ids, words, counts, places, queue }
    }

    /// Replaces a pair by one piece in all words and queues the pairs this makes.
    fn merge(&mut self, pair: Pair) {
        let merged = self.id_of_merged(pair);
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown: Vec<Pair> = Vec::new();
        for word_idx in places {
            let (pieces, count) = &mut self.words[word_idx as usize];
            let count = *count;
            let after = replace(pieces, pair, merged);
            if after.len() == pieces.len() {
                continue;
            }
            for old in pieces.windows(2).map(|w| (w[0], w[1])) {
                *self.counts.entry(old).or_default() -= count;
            }
            for new in after.windows(2).map(|w| (w[0], w[1])) {
                *self.counts.entry(new).or_default() += count;
                if new.0 == merged || new.1 == merged {
                    self.places.entry(new).or_default().push(word_idx);
                    grown.push(new);
                }
            }
            *pieces = after;
        }
        self.counts.remove(&pair);
        grown.sort_unstable();
        grown.dedup();
        for pair in grown {
            self.queue.push((self.counts[&pair], Reverse(pair)));
        }
    }

    /// The id of the piece a pair makes, which may exist already by another way of merging.
    fn id_of_merged(&mut self, (left, right): Pair) -> u32 {
        let right = &self.tokens[right as usize];
        let token = format!("{}{}", self.tokens[left as usize], right.strip_prefix("##").unwrap_or(right));
        if let Some(&id) = self.ids.get(&token) {
            return id;
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(token.clone());
        self.ids.insert(token, id);
        id
    }
}

/// The pieces with every occurrence of the pair replaced, from the left.
fn replace(pieces: &[u32], pair: Pair, merged: u32) -> Vec<u32> {
    let mut after = Vec::with_capacity(pieces.len());
    let mut idx = 0;
    while idx < pieces.len() {
        if idx + 1 < pieces.len() && (pieces[idx], pieces[idx + 1]) == pair {
            after.push(merged);
            idx += 2;
        } else {
            after.push(pieces[idx]);
            idx += 1;
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_pairs_are_replaced_from_the_left() {
        assert_eq!(replace(&[1, 1, 1, 2], (1, 1), 9), [9, 1, 2]);
        assert_eq!(replace(&[2, 1], (1, 2), 9), [2, 1]);
    }
}
