//! A random order of `0..len` that is computed, not stored.
//!
//! Owns the Feistel network with cycle walking. It knows nothing of samples or epochs, and holds a few words
//! whatever the length.

use crate::key::Key;

/// Eight rounds, two more than the published attacks on small domains call for; also what makes all orders of
/// three and four items equally frequent.
const NUM_ROUNDS: usize = 8;

/// A bijection of `0..len`, drawn by a [`Key`].
///
/// A Feistel network permutes the next power of four; results outside `0..len` are fed through again until
/// they fall inside (cycle walking), on average less than four times. Papers:
/// [How to Construct Pseudorandom Permutations, Luby and Rackoff, 1988](https://doi.org/10.1137/0217022),
/// [Ciphers with Arbitrary Finite Domains, Black and Rogaway, 2002](https://doi.org/10.1007/3-540-45760-7_9).
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u64,
    num_half_bits: u32,
    round_keys: [u64; NUM_ROUNDS],
}

impl Permutation {
    /// Returns the order of `0..len` that belongs to `key`. Any length works, 0 and 1 included.
    #[must_use]
    pub fn new(len: u64, key: Key) -> Self {
        let num_bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut stream = key.stream();
        Self {
            len,
            num_half_bits: num_bits.div_ceil(2),
            round_keys: std::array::from_fn(|_| stream.next_u64()),
        }
    }

    /// Returns the number of items.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether there are no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the item at place `i`.
    ///
    /// # Panics
    ///
    /// If `i` is not below `len`.
    #[must_use]
    pub fn at(&self, i: u64) -> u64 {
        self.check(i);
        self.walk(i, |value| self.round_keys.iter().fold(value, |v, key| self.round(v, *key)))
    }

    /// Returns the place of `item`: `inverse(at(i)) == i`.
    ///
    /// # Panics
    ///
    /// If `item` is not below `len`.
    #[must_use]
    pub fn inverse(&self, item: u64) -> u64 {
        self.check(item);
        self.walk(item, |value| self.round_keys.iter().rev().fold(value, |v, key| self.undo_round(v, *key)))
    }

    fn check(&self, i: u64) {
        assert!(i < self.len, "index {i} is outside of a permutation of {} items", self.len);
    }

    /// Applies `step` until the value is an item. It ends, because the cycle of a bijection returns to its start.
    fn walk(&self, start: u64, step: impl Fn(u64) -> u64) -> u64 {
        let mut value = step(start);
        while value >= self.len {
            value = step(value);
        }
        value
    }

    fn round(&self, value: u64, key: u64) -> u64 {
        let (left, right) = (value >> self.num_half_bits, value & self.half_mask());
        right << self.num_half_bits | (left ^ mix(right, key) & self.half_mask())
    }

    fn undo_round(&self, value: u64, key: u64) -> u64 {
        let (right, mixed) = (value >> self.num_half_bits, value & self.half_mask());
        (mixed ^ mix(right, key) & self.half_mask()) << self.num_half_bits | right
    }

    fn half_mask(&self) -> u64 {
        (1 << self.num_half_bits) - 1 // at most 32 bits
    }
}

/// Mixes a half word with a round key: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(value: u64, key: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(key);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Purpose;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn permutation(len: u64, part: u64) -> Permutation {
        Permutation::new(len, Key::new(42, Purpose::Order).with(part))
    }

    /// Every item exactly once, and the inverse leads back.
    #[track_caller]
    fn check_bijection(len: u64) {
        let permutation = permutation(len, len);
        let mut seen = vec![false; len as usize];
        for i in 0..len {
            let item = permutation.at(i);
            assert!(item < len, "len {len}: at({i}) = {item}");
            assert!(!std::mem::replace(&mut seen[item as usize], true), "len {len}: {item} comes twice");
            assert_eq!(permutation.inverse(item), i, "len {len}");
        }
    }

    #[test]
    fn every_small_length_is_a_bijection() {
        (0..=2100).for_each(check_bijection);
    }

    #[test]
    fn lengths_around_powers_of_four_are_bijections() {
        for power in 0..=8 {
            let len = 4_u64.pow(power);
            [len - 1, len, len + 1].into_iter().for_each(check_bijection);
        }
    }

    #[test]
    fn empty_and_single_permutations_hold_what_they_can() {
        assert!(permutation(0, 0).is_empty());
        assert_eq!(permutation(1, 0).at(0), 0);
    }

    #[test]
    #[should_panic(expected = "index 5 is outside of a permutation of 5 items")]
    fn an_index_outside_is_refused() {
        let _ = permutation(5, 0).at(5);
    }

    /// Over many keys, all orders of 2, 3 and 4 items are equally frequent.
    #[test]
    fn all_orders_of_a_few_items_are_equally_frequent() {
        for (len, num_orders, limit) in [(2, 2, 10.8), (3, 6, 20.5), (4, 24, 49.7)] {
            let mut counts: BTreeMap<Vec<u64>, u64> = BTreeMap::new();
            for part in 0..48_000 {
                let permutation = permutation(len, part);
                *counts.entry((0..len).map(|i| permutation.at(i)).collect()).or_default() += 1;
            }
            assert_eq!(counts.len(), num_orders);
            let expected = 48_000.0 / num_orders as f64;
            let statistic: f64 = counts.values().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
            assert!(statistic < limit, "{len} items: chi-square {statistic}"); // p = 0.001
        }
    }

    /// Over many keys, every place holds every item equally often, and so do neighbouring places together.
    #[test]
    fn places_and_neighbours_are_uniform() {
        for len in [5_u64, 7, 10, 16, 17, 33] {
            let num_keys = 20_000;
            let mut places = vec![0_u64; (len * len) as usize];
            let mut distances = vec![0_u64; len as usize];
            for part in 0..num_keys {
                let permutation = permutation(len, part);
                for i in 0..len {
                    places[(i * len + permutation.at(i)) as usize] += 1;
                    let next = permutation.at((i + 1) % len);
                    distances[((next + len - permutation.at(i)) % len) as usize] += 1;
                }
            }
            assert_eq!(distances[0], 0);
            check_uniform(&places, len);
            check_uniform(&distances[1..], len);
        }
    }

    #[track_caller]
    fn check_uniform(counts: &[u64], len: u64) {
        let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        let statistic: f64 = counts.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
        let degrees = counts.len() as f64 - 1.0;
        assert!(
            statistic < degrees + 5.0 * (2.0 * degrees).sqrt(),
            "len {len}: chi-square {statistic} of {degrees}"
        );
    }

    proptest! {
        #[test]
        fn the_inverse_leads_back_at_any_length(len in 1..=u64::MAX, place: u64, part: u64) {
            let permutation = permutation(len, part);
            let place = place % len;
            prop_assert!(permutation.at(place) < len);
            prop_assert_eq!(permutation.inverse(permutation.at(place)), place);
        }
    }

    /// Origin: `tests/golden.py`, an independent transcription in Python. A change here breaks the resumption
    /// of every run.
    #[test]
    fn golden_order() {
        let permutation = permutation(1_000_003, 3);
        let items: Vec<u64> = (0..5).map(|i| permutation.at(i)).collect();
        assert_eq!(items, GOLDEN_ORDER);
    }

    const GOLDEN_ORDER: [u64; 5] = [680674, 211873, 259091, 712472, 834417];
}
