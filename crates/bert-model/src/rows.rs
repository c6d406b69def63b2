//! Rows of tokens without their padding: where each row begins, and where each token stood.
//!
//! Owns the way between the padded rows of a batch and the packed tokens of the model, and which tokens' last states anybody
//! reads. All states inside of the model are `[num_tokens, hidden]`; padding exists at the borders only.

use std::{ops::Range, sync::Arc};

/// The tokens of a batch, and those of them whose last state is read: by the heads, by a pooling. The last layer computes no
/// other.
#[derive(Clone, Debug)]
pub(crate) struct BatchTokens {
    pub(crate) rows: Arc<TokenRows>,
    /// Nothing: all of them.
    pub(crate) read: Option<Arc<ReadTokens>>,
}

/// Some of the tokens of some rows, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadTokens {
    /// `[num_read]` which of all tokens.
    pub(crate) tokens: Vec<usize>,
    /// The same as rows of their own; the places are those that they have among all.
    pub(crate) rows: TokenRows,
}

/// The real tokens of some rows, or some of them, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRows {
    /// `[num_rows + 1]` first token of each row, and at last the number of tokens.
    pub(crate) offsets: Vec<usize>,
    /// `[num_tokens]` position of each token among the padded ones, `row * row_len + column`.
    pub(crate) places: Vec<usize>,
    /// Tokens per padded row.
    pub(crate) row_len: usize,
}

impl BatchTokens {
    /// All tokens are read.
    pub(crate) fn all(lengths: &[u32], row_len: usize) -> Self {
        Self { rows: Arc::new(TokenRows::new(lengths, row_len)), read: None }
    }

    /// Those at some padded positions are read, or all if there are no positions.
    pub(crate) fn reading(lengths: &[u32], row_len: usize, positions: Vec<usize>) -> Self {
        let all = Self::all(lengths, row_len);
        let read = all.rows.pick(positions);
        let is_part = (1..all.rows.num_tokens()).contains(&read.tokens.len());
        Self { read: is_part.then(|| Arc::new(read)), ..all }
    }

    /// Those whose state after `state_idx` of `num_layers` layers there is.
    pub(crate) fn at_state(&self, state_idx: usize, num_layers: usize) -> &TokenRows {
        if state_idx == num_layers { self.last() } else { &self.rows }
    }

    /// Those whose last state there is.
    pub(crate) fn last(&self) -> &TokenRows {
        self.read.as_ref().map_or(&self.rows, |read| &read.rows)
    }
}

/// The padded positions of the first tokens of rows.
pub(crate) fn first_positions(num_rows: usize, row_len: usize) -> impl Iterator<Item = usize> {
    (0..num_rows).map(move |row| row * row_len)
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

    /// The first token of each row; rows must have one.
    pub(crate) fn firsts(&self) -> &[usize] {
        &self.offsets[..self.num_rows()]
    }

    /// The token at a padded position, which must be one of these.
    pub(crate) fn token_at(&self, position: usize) -> usize {
        self.places.binary_search(&position).expect("a position of one of the tokens")
    }

    /// The tokens at some padded positions, in any order, which must be of these.
    fn pick(&self, mut positions: Vec<usize>) -> ReadTokens {
        positions.sort_unstable();
        positions.dedup();
        let tokens = positions.iter().map(|&position| self.token_at(position)).collect();
        let ends = (0..=self.num_rows()).map(|row| row * self.row_len);
        let offsets = ends.map(|end| positions.partition_point(|&position| position < end)).collect();
        ReadTokens { tokens, rows: Self { offsets, places: positions, row_len: self.row_len } }
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
                prop_assert_eq!(rows.token_at(place), token);
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

        #[test]
        fn what_is_read_keeps_its_row_and_place(
            lengths in prop::collection::vec(1u32..6, 1..7),
            spare in 0usize..3,
            choices in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let row_len = *lengths.iter().max().unwrap() as usize + spare;
            let rows = TokenRows::new(&lengths, row_len);
            let positions: Vec<usize> = choices.iter().map(|choice| rows.places[choice.index(rows.num_tokens())]).collect();
            let batch = BatchTokens::reading(&lengths, row_len, positions.clone());
            let Some(read) = &batch.read else {
                let num_read = rows.pick(positions).tokens.len();
                prop_assert!(num_read == 0 || num_read == rows.num_tokens());
                prop_assert_eq!(batch.last(), &rows);
                return Ok(());
            };
            prop_assert_eq!(batch.last().num_rows(), lengths.len());
            prop_assert!(read.tokens.is_sorted_by(|a, b| a < b));
            for (row, (part, whole)) in read.rows.rows().zip(rows.rows()).enumerate() {
                for idx in part {
                    prop_assert!(whole.contains(&read.tokens[idx]));
                    prop_assert_eq!(rows.places[read.tokens[idx]], read.rows.places[idx]);
                    prop_assert_eq!(read.rows.places[idx] / row_len, row);
                }
            }
            for position in positions {
                prop_assert_eq!(read.tokens[read.rows.token_at(position)], rows.token_at(position));
            }
        }
    }
}
