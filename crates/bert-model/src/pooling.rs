//! From the states of a row's tokens to one vector: the poolings and their gradients, on plain slices.
//!
//! Owns which hidden states a pooling reads and how it weighs them. The pooler's own weights are not here: where a
//! pooling goes through them, its owner applies them to what comes out of this file.

use serde::{Deserialize, Serialize};

use crate::rows::{BatchTokens, TokenRows, first_positions};

/// How the states of a row become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The last state of `[CLS]`; in a classifier it goes through the pooler, as with [`Pooling::Pooler`].
    Cls,
    /// The last state of `[CLS]` through the pooler, `tanh(W h + b)`.
    Pooler,
    /// The mean of the last states of the real tokens.
    Mean,
    /// The maximum over the last states of the real tokens, element by element.
    Max,
    /// The mean over the real tokens of the first and of the last layer.
    FirstLastMean,
    /// The mean over the real tokens of the last two layers.
    #[serde(rename = "last2-mean")]
    Last2Mean,
}

/// What is done with the states of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    First,
    Mean,
    Max,
}

impl Pooling {
    /// All poolings with their names, in the order of the documentation.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("cls", Self::Cls),
        ("pooler", Self::Pooler),
        ("mean", Self::Mean),
        ("max", Self::Max),
        ("first-last-mean", Self::FirstLastMean),
        ("last2-mean", Self::Last2Mean),
    ];

    /// The name in configurations and on command lines.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, pooling)| *pooling == self).map_or("", |(name, _)| name)
    }

    /// Whether a classifier sends the pooled state through the pooler, as `BertForSequenceClassification` does.
    pub fn uses_pooler(self) -> bool {
        matches!(self, Self::Cls | Self::Pooler)
    }

    /// Weight of the states after `state_idx` layers (0: the embeddings); 0 where they are not read.
    pub(crate) fn weight(self, state_idx: usize, num_layers: usize) -> f32 {
        let others = match self {
            Self::Cls | Self::Pooler | Self::Mean | Self::Max => return f32::from(state_idx == num_layers),
            Self::FirstLastMean => [1, num_layers],
            Self::Last2Mean => [num_layers - 1, num_layers],
        };
        others.iter().filter(|other| **other == state_idx).count() as f32 * 0.5
    }

    /// The tokens of a batch, of which the pooling reads all, or the first ones.
    pub(crate) fn tokens(self, lengths: &[u32], row_len: usize) -> BatchTokens {
        match self.form() {
            Form::First => {
                BatchTokens::reading(lengths, row_len, first_positions(lengths.len(), row_len).collect())
            }
            Form::Mean | Form::Max => BatchTokens::all(lengths, row_len),
        }
    }

    fn form(self) -> Form {
        match self {
            Self::Cls | Self::Pooler => Form::First,
            Self::Max => Form::Max,
            Self::Mean | Self::FirstLastMean | Self::Last2Mean => Form::Mean,
        }
    }

    /// Adds `weight` times the pooled states of one layer to `pooled`.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - pooled: `[num_rows, hidden]`
    pub(crate) fn add_pooled(self, rows: &TokenRows, weight: f32, states: &[f32], pooled: &mut [f32]) {
        let hidden = pooled.len() / rows.num_rows();
        for (out, row) in pooled.chunks_exact_mut(hidden).zip(rows.rows()) {
            let states = &states[row.start * hidden..row.end * hidden];
            for (column, out) in out.iter_mut().enumerate() {
                let values = states.chunks_exact(hidden).map(|token| token[column]);
                *out += weight
                    * match self.form() {
                        Form::First => states[column],
                        Form::Mean => values.sum::<f32>() / row.len() as f32,
                        Form::Max => values.fold(f32::NEG_INFINITY, f32::max),
                    };
            }
        }
    }

    /// Adds to `gradient` what the states of one layer receive from the gradient of the pooled rows.
    ///
    /// The gradient of a maximum goes to the first token that reaches it.
    ///
    /// # Shapes
    ///
    /// - pooled_gradient: `[num_rows, hidden]`
    /// - states, gradient: `[num_tokens, hidden]`
    pub(crate) fn add_gradient(
        self,
        rows: &TokenRows,
        weight: f32,
        pooled_gradient: &[f32],
        states: &[f32],
        gradient: &mut [f32],
    ) {
        let hidden = pooled_gradient.len() / rows.num_rows();
        for (row, from) in rows.rows().zip(pooled_gradient.chunks_exact(hidden)) {
            let states = &states[row.start * hidden..row.end * hidden];
            let gradient = &mut gradient[row.start * hidden..row.end * hidden];
            for (column, from) in from.iter().enumerate() {
                match self.form() {
                    Form::First => gradient[column] += weight * from,
                    Form::Mean => {
                        let share = weight * from / row.len() as f32;
                        gradient.chunks_exact_mut(hidden).for_each(|g| g[column] += share);
                    }
                    Form::Max => {
                        let value = |token: usize| states[token * hidden + column];
                        let later_only = |best, token| if value(token) > value(best) { token } else { best };
                        let best = (1..row.len()).fold(0, later_only);
                        gradient[best * hidden + column] += weight * from;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of two tokens and of one, of width 2.
    const STATES: [f32; 6] = [1.0, -2.0, 3.0, 5.0, -1.0, 4.0];

    #[track_caller]
    fn check(pooling: Pooling, expected: [f32; 4], expected_gradient: [f32; 6]) {
        let rows = TokenRows::new(&[2, 1], 3);
        let mut pooled = [0.0; 4];
        pooling.add_pooled(&rows, 1.0, &STATES, &mut pooled);
        assert_eq!(pooled, expected, "{pooling:?}");
        let mut gradient = [0.0; 6];
        pooling.add_gradient(&rows, 1.0, &[10.0, 20.0, 30.0, 40.0], &STATES, &mut gradient);
        assert_eq!(gradient, expected_gradient, "{pooling:?}");
    }

    #[test]
    fn every_form_reads_its_row_and_gives_its_gradient_back() {
        check(Pooling::Cls, [1.0, -2.0, -1.0, 4.0], [10.0, 20.0, 0.0, 0.0, 30.0, 40.0]);
        check(Pooling::Mean, [2.0, 1.5, -1.0, 4.0], [5.0, 10.0, 5.0, 10.0, 30.0, 40.0]);
        check(Pooling::Max, [3.0, 5.0, -1.0, 4.0], [0.0, 0.0, 10.0, 20.0, 30.0, 40.0]);
    }

    #[test]
    fn weights_name_the_layers_that_are_read_and_add_up_to_one() {
        for (name, pooling) in Pooling::NAMES {
            assert_eq!(pooling.name(), name);
            assert_eq!(serde_json::to_value(pooling).unwrap(), name);
            for num_layers in 1..5 {
                let sum: f32 = (0..=num_layers).map(|idx| pooling.weight(idx, num_layers)).sum();
                assert_eq!(sum, 1.0, "{name} of {num_layers} layers");
                assert!(pooling.weight(num_layers, num_layers) > 0.0, "{name} reads the last layer");
            }
        }
        assert_eq!([0, 1, 2, 3].map(|idx| Pooling::FirstLastMean.weight(idx, 3)), [0.0, 0.5, 0.0, 0.5]);
        assert_eq!([0, 1, 2, 3].map(|idx| Pooling::Last2Mean.weight(idx, 3)), [0.0, 0.0, 0.5, 0.5]);
        assert_eq!(Pooling::Last2Mean.weight(0, 1), 0.5, "the embeddings stand in for a missing layer");
    }
}
