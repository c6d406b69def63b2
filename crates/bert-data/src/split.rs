//! Which documents are held out: the first places of one keyed permutation of all documents.
//!
//! Membership and a uniform draw of another document are O(1). One bit per document is kept, since planning asks for
//! the side of every document.

use crate::error::DataError;
use bert_random::{Key, Permutation, Purpose, Stream};

/// One side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Documents that are trained on.
    Training,
    /// Documents that are only evaluated.
    HeldOut,
}

/// The split of a corpus into training and held-out documents.
pub(crate) struct Split {
    order: Permutation,
    num_held_out: u64,
    /// One bit per document, lowest first; nothing if none is held out.
    is_held_out: Vec<u64>,
}

impl Split {
    /// Holds out `validation_fraction` of the documents, rounded, at least `min_documents` and leaving as
    /// many; a fraction of 0 holds out none. Keyed by (seed, Split).
    ///
    /// `objective` is named in the error if there are too few documents.
    pub(crate) fn new(
        num_documents: u64,
        validation_fraction: f64,
        min_documents: u64,
        objective: &'static str,
        seed: u64,
    ) -> Result<Self, DataError> {
        if !(0.0..1.0).contains(&validation_fraction) {
            return Err(DataError::config(
                "validation_fraction",
                "at least 0 and below 1",
                validation_fraction,
            ));
        }
        let holds_out = validation_fraction > 0.0;
        let (needed, place) = if holds_out {
            (2 * min_documents, "in the corpus (half of them held out)")
        } else {
            (min_documents, "in the corpus")
        };
        if num_documents < needed {
            return Err(DataError::TooFewDocuments {
                objective,
                place,
                expected: needed,
                got: num_documents,
            });
        }
        let wanted = (num_documents as f64 * validation_fraction).round() as u64;
        let num_held_out =
            if holds_out { wanted.clamp(min_documents, num_documents - min_documents) } else { 0 };
        let order = Permutation::new(num_documents, Key::new(seed, Purpose::Split));
        let num_words = if holds_out { num_documents.div_ceil(64) } else { 0 };
        let mut is_held_out = vec![0; num_words as usize];
        for document in (0..num_held_out).map(|place| order.at(place)) {
            is_held_out[(document / 64) as usize] |= 1 << (document % 64);
        }
        Ok(Self { order, num_held_out, is_held_out })
    }

    /// The side a document is on.
    pub(crate) fn side(&self, document: u64) -> Side {
        let word = self.is_held_out.get((document / 64) as usize).copied().unwrap_or(0);
        if word >> (document % 64) & 1 == 1 { Side::HeldOut } else { Side::Training }
    }

    /// Documents on a side.
    pub(crate) fn num_documents(&self, side: Side) -> u64 {
        match side {
            Side::HeldOut => self.num_held_out,
            Side::Training => self.order.len() - self.num_held_out,
        }
    }

    /// The `idx`-th document of a side, in the order of the split.
    pub(crate) fn document(&self, side: Side, idx: u64) -> u64 {
        match side {
            Side::HeldOut => self.order.at(idx),
            Side::Training => self.order.at(self.num_held_out + idx),
        }
    }

    /// A document of the same side other than `own`, uniformly.
    pub(crate) fn other_document(&self, own: u64, stream: &mut Stream) -> u64 {
        let side = self.side(own);
        let own_place = match side {
            Side::HeldOut => self.order.inverse(own),
            Side::Training => self.order.inverse(own) - self.num_held_out,
        };
        let place = stream.below(self.num_documents(side) - 1);
        self.document(side, if place >= own_place { place + 1 } else { place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_out(num_documents: u64, fraction: f64, min: u64) -> Vec<u64> {
        let split = Split::new(num_documents, fraction, min, "nsp", 7).unwrap();
        (0..num_documents).filter(|&d| split.side(d) == Side::HeldOut).collect()
    }

    #[test]
    fn at_least_the_minimum_and_never_all() {
        for (num_documents, fraction, min, expected) in [
            (100, 0.1, 1, 10),
            (100, 0.001, 1, 1),
            (10, 0.999, 1, 9),
            (10, 0.01, 2, 2),
            (7, 0.0, 2, 0),
            (4, 0.9, 2, 2),
        ] {
            assert_eq!(held_out(num_documents, fraction, min).len(), expected, "{num_documents} {fraction}");
        }
        let split = Split::new(1000, 0.1, 1, "nsp", 7).unwrap();
        let is_first = |document| split.order.inverse(document) < split.num_held_out;
        assert!((0..1000).all(|document| (split.side(document) == Side::HeldOut) == is_first(document)));
        let error = Split::new(3, 0.1, 2, "nsp", 7).err().unwrap();
        assert!(matches!(error, DataError::TooFewDocuments { expected: 4, got: 3, .. }), "{error}");
        assert!(Split::new(1, 0.0, 2, "nsp", 7).is_err());
        assert!(Split::new(10, 1.0, 1, "none", 7).is_err());
    }

    #[test]
    fn other_documents_are_uniform_on_the_same_side() {
        let split = Split::new(12, 0.25, 2, "nsp", 3).unwrap();
        let mut stream = Key::new(1, Purpose::Pair).stream();
        for own in 0..12 {
            let mut counts = [0u32; 12];
            (0..8000).for_each(|_| counts[split.other_document(own, &mut stream) as usize] += 1);
            let expected = 8000.0 / (split.num_documents(split.side(own)) - 1) as f64;
            for other in 0..12 {
                let is_candidate = other != own && split.side(other) == split.side(own);
                let got = f64::from(counts[other as usize]);
                // Six standard deviations of a binomial count.
                let bound = if is_candidate { 6.0 * expected.sqrt() } else { 0.0 };
                let expected = if is_candidate { expected } else { 0.0 };
                assert!((got - expected).abs() <= bound, "{own} -> {other}: {got} of {expected}");
            }
        }
    }
}
