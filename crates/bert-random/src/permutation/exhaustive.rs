//! Every length up to 70,000, and lengths around powers of four as far as they go.
//!
//! Trying all 2.5 billion pairs of length and place takes minutes. It is not needed: the rounds do not know the
//! length, only the power of four above it, and cycle walking answers with the first value below the length. So
//! the order of `n` items is that of `n + 1` items with the item `n` taken out of its cycle: one place changes,
//! the one that led to it. A table goes down that way from a power of four, bijective at every step, and
//! [`Permutation::at`] has to agree where the table changed. At lengths spread over the whole range it has to
//! agree everywhere.

use super::*;
use crate::Purpose;

/// All lengths up to this one are checked.
const MAX_LEN: u64 = 70_000;
/// Every so many lengths all places are compared.
const FULL_CHECK_EVERY: u64 = 1021;

fn permutation(len: u64) -> Permutation {
    Permutation::new(len, Key::new(42, Purpose::Order))
}

/// The order of `items.len()` items and its inverse, as tables.
struct Table {
    items: Vec<u64>,
    places: Vec<u64>,
}

impl Table {
    /// Reads the whole order; every item must come exactly once.
    fn read(len: u64) -> Self {
        let permutation = permutation(len);
        let items: Vec<u64> = (0..len).map(|i| permutation.at(i)).collect();
        let mut places = vec![u64::MAX; len as usize];
        for (place, &item) in (0..).zip(&items) {
            let before = std::mem::replace(&mut places[item as usize], place);
            assert_eq!(before, u64::MAX, "len {len}: {item} comes twice");
            assert_eq!(permutation.inverse(item), place, "len {len}");
        }
        Self { items, places }
    }

    /// Takes the last item out of its cycle. Returns the place whose item changed, or any if none did.
    fn shrink(&mut self) -> u64 {
        let (Some(item_of_last), Some(place_of_last)) = (self.items.pop(), self.places.pop()) else {
            return 0;
        };
        let last = self.items.len() as u64;
        if place_of_last == last {
            return 0; // it stood at its own place
        }
        self.items[place_of_last as usize] = item_of_last;
        self.places[item_of_last as usize] = place_of_last;
        place_of_last
    }
}

#[test]
fn every_length_up_to_seventy_thousand_is_a_bijection() {
    let mut num_lengths = 0;
    for power in 0..=9 {
        let smallest = if power == 0 { 1 } else { 4_u64.pow(power - 1) + 1 };
        let mut table = Table::read(4_u64.pow(power));
        for len in (smallest..4_u64.pow(power)).rev() {
            let changed = table.shrink();
            if len > MAX_LEN {
                continue;
            }
            num_lengths += 1;
            let permutation = permutation(len);
            for place in [changed, 0, len / 2, len - 1] {
                let item = table.items[place as usize];
                assert_eq!(permutation.at(place), item, "len {len}: at({place})");
                assert_eq!(permutation.inverse(item), place, "len {len}: inverse({item})");
            }
            if len % FULL_CHECK_EVERY == 0 {
                assert_eq!(Table::read(len).items, table.items, "len {len}");
            }
        }
    }
    assert_eq!(num_lengths, MAX_LEN - 9); // the powers of four themselves were read
}

/// All places up to 4^10 + 1; beyond, the ends and 1,000 places.
#[test]
fn lengths_around_larger_powers_of_four_are_bijections() {
    for power in 9..=10 {
        let around = 4_u64.pow(power);
        for len in [around - 1, around, around + 1] {
            Table::read(len);
        }
    }
    let mut places = Key::new(7, Purpose::Debug).stream();
    for power in 11..=31 {
        let around = 4_u64.pow(power);
        for len in [around - 1, around, around + 1] {
            let permutation = permutation(len);
            let sampled = (0..1000).map(|_| places.below(len));
            for i in [0, 1, len - 2, len - 1].into_iter().chain(sampled) {
                assert!(permutation.at(i) < len);
                assert_eq!(permutation.inverse(permutation.at(i)), i, "len {len}");
                assert_eq!(permutation.at(permutation.inverse(i)), i, "len {len}");
            }
        }
    }
}
