//! Rows of tokens without their padding: where each row begins, and where each token stood.
//!
//! Owns the way between the padded rows of a batch and the packed tokens of the model. All states inside of the
//! model are `[num_tokens, hidden]`; padding exists at the borders only.

use std::ops::Range;

/// The real tokens of some rows, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRows {
    /// `[num_rows + 1]` first token of each row, and at last the number of tokens.
    pub(crate) offsets: Vec<usize>,
    /// `[num_tokens]` position of each token among the padded ones, `row * row_len + column`.
    pub(crate) places: Vec<usize>,
    /// Tokens per padded row.
    pub(crate) row_len: usize,
}

impl TokenRows {
    /// Describes rows of `lengths` real tokens, each padded to `row_len`.
    pub(crate) fn new(lengths: &[u32], row_len: usize) -> Self {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        let mut places = Vec::new();
        offsets.push(0);
        for (row, &length) in lengths.iter().enumerate() {
            places.extend(row * row_len..row * row_len + length as usize);
            offsets.push(places.len());
        }
        Self { offsets, places, row_len }
    }

    pub(crate) fn num_rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn num_tokens(&self) -> usize {
        self.places.len()
    }

    /// The tokens of each row.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|row| row[0]..row[1])
    }

    /// The first token of each row.
    pub(crate) fn firsts(&self) -> &[usize] {
        &self.offsets[..self.num_rows()]
    }

    /// The token at a padded position, which must be a real one.
    pub(crate) fn token_at(&self, position: u32) -> usize {
        let position = position as usize;
        self.offsets[position / self.row_len] + position % self.row_len
    }

    /// The values of the real tokens.
    ///
    /// # Shapes
    ///
    /// - padded: `[num_rows * row_len]`
    /// - output: `[num_tokens]`
    pub(crate) fn without_padding<T: Copy>(&self, padded: &[T]) -> Vec<T> {
        self.places.iter().map(|&place| padded[place]).collect()
    }

    /// Puts states back to their padded positions; zeros elsewhere.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - output: `[num_rows * row_len, hidden]`
    pub(crate) fn pad(&self, states: &[f32], hidden: usize) -> Vec<f32> {
        let mut padded = vec![0.0; self.num_rows() * self.row_len * hidden];
        for (state, &place) in states.chunks_exact(hidden).zip(&self.places) {
            padded[place * hidden..(place + 1) * hidden].copy_from_slice(state);
        }
        padded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn padding_comes_and_goes(lengths in prop::collection::vec(1u32..6, 1..7), spare in 0usize..3) {
            let row_len = *lengths.iter().max().unwrap() as usize + spare;
            let rows = TokenRows::new(&lengths, row_len);
            prop_assert_eq!(rows.num_tokens(), lengths.iter().sum::<u32>() as usize);
            let padded: Vec<f32> = (0..lengths.len() * row_len).map(|position| position as f32 + 1.0).collect();
            let packed = rows.without_padding(&padded);
            for (token, &place) in rows.places.iter().enumerate() {
                prop_assert_eq!(rows.token_at(place as u32), token);
                prop_assert!(place % row_len < lengths[place / row_len] as usize);
            }
            let again = rows.pad(&packed, 1);
            for (position, value) in again.iter().enumerate() {
                let is_real = position % row_len < lengths[position / row_len] as usize;
                prop_assert_eq!(*value, if is_real { padded[position] } else { 0.0 });
            }
            let by_row: Vec<usize> = rows.rows().map(|row| row.len()).collect();
            prop_assert_eq!(by_row, lengths.iter().map(|&l| l as usize).collect::<Vec<_>>());
            prop_assert_eq!(rows.firsts().len(), rows.num_rows());
        }
    }
}
