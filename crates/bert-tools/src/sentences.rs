//! From texts to sentence vectors: encoding, batches of similar length, results in the order of the texts.
//!
//! Owns what is read of a text and which texts are computed together. Poolings are those of bert-model; files are the
//! business of the commands.

use bert_data::Tokenizer;
use bert_model::{Pooling, PretrainModel, TokenBatch};

use crate::{
    cli::SentenceModel,
    failure::ToolError,
    model_folder::{self, ModelFolder},
    table::thousands,
};

/// Batches that are encoded and sorted by length together: what is held in memory.
const BATCHES_PER_WINDOW: usize = 64;
/// `[CLS]` and `[SEP]`.
const NUM_FRAME_TOKENS: usize = 2;

/// What could not be read of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextCounts {
    /// Texts with more tokens than are read.
    pub num_truncated: u64,
    /// Tokens at the ends of these texts.
    pub num_cut_tokens: u64,
    /// Texts without any token.
    pub num_empty: u64,
}

impl TextCounts {
    /// What a reader of the result must know, one sentence each.
    pub fn warnings(&self, max_length: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.num_truncated > 0 {
            warnings.push(format!(
                "{} texts are longer than {max_length} tokens: {} tokens at their ends are not read",
                thousands(self.num_truncated),
                thousands(self.num_cut_tokens)
            ));
        }
        if self.num_empty > 0 {
            warnings
                .push(format!("{} texts are empty: they are read as [CLS] [SEP]", thousands(self.num_empty)));
        }
        warnings
    }
}

/// A model that turns texts into vectors.
pub struct SentenceEncoder {
    model: PretrainModel,
    tokenizer: Tokenizer,
    pooling: Pooling,
    batch_size: usize,
    max_length: usize,
    has_pooler: bool,
}

impl SentenceEncoder {
    /// Loads what the arguments name.
    ///
    /// # Errors
    ///
    /// If there is no model, it has no pooler although that is the pooling, or it has fewer positions than
    /// `--max-length`.
    pub fn load(arguments: &SentenceModel) -> anyhow::Result<Self> {
        let folder = model_folder::chosen(arguments.model.as_deref(), arguments.run.as_deref())?;
        let loaded = ModelFolder::load(&folder, &arguments.opening)?;
        let missing = loaded.missing_of("bert.pooler.");
        let has_pooler = missing.is_empty();
        if arguments.pooling == Pooling::Pooler && !has_pooler {
            let message = format!(
                "the model in `{}` has no pooler (missing: {}): choose another --pooling",
                folder.display(),
                missing.join(", ")
            );
            return Err(ToolError::Usage(message).into());
        }
        let longest = loaded.model.config().max_position_embeddings;
        let max_length = arguments.max_length.unwrap_or(longest);
        if !(NUM_FRAME_TOKENS + 1..=longest).contains(&max_length) {
            let message = format!(
                "--max-length is {max_length}, expected {} to {longest}, the model's positions",
                NUM_FRAME_TOKENS + 1
            );
            return Err(ToolError::Usage(message).into());
        }
        Ok(Self {
            model: loaded.model,
            tokenizer: loaded.tokenizer,
            pooling: arguments.pooling,
            batch_size: arguments.batch_size,
            max_length,
            has_pooler,
        })
    }

    /// The pooling that was asked for.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// The tokenizer of the model.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Numbers in a vector.
    pub fn width(&self) -> usize {
        self.model.config().hidden_size
    }

    /// Tokens read of a text, `[CLS]` and `[SEP]` included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// How many texts to hand over at once.
    pub fn window_size(&self) -> usize {
        self.batch_size * BATCHES_PER_WINDOW
    }

    /// The poolings that the model can do.
    pub fn poolings(&self) -> impl Iterator<Item = Pooling> {
        let has_pooler = self.has_pooler;
        let all = Pooling::NAMES.into_iter().map(|(_, pooling)| pooling);
        all.filter(move |pooling| has_pooler || *pooling != Pooling::Pooler)
    }

    /// Ids of `[CLS] text [SEP]`, cut to what is read; what is lost by that is added to the counts.
    ///
    /// # Errors
    ///
    /// If the tokenizer refuses the text.
    pub fn encode(&self, text: &str, counts: &mut TextCounts) -> anyhow::Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode_line(text)?.ids;
        let num_cut = ids.len().saturating_sub(self.max_length - NUM_FRAME_TOKENS);
        counts.num_truncated += u64::from(num_cut > 0);
        counts.num_cut_tokens += num_cut as u64;
        counts.num_empty += u64::from(ids.is_empty());
        ids.truncate(ids.len() - num_cut);
        Ok(self.framed(&ids))
    }

    /// `[CLS] ids [SEP]`.
    pub fn framed(&self, ids: &[u32]) -> Vec<u32> {
        let special = self.tokenizer.special();
        [&[special.cls], ids, &[special.sep]].concat()
    }

    /// Vectors of rows of ids, `[num_rows * width]` in their order, computed in batches of similar length;
    /// `on_batch` hears how many more are done.
    ///
    /// # Errors
    ///
    /// If a row does not fit the model, or a vector is not finite.
    pub fn vectors_of(
        &self,
        rows: &[Vec<u32>],
        pooling: Pooling,
        mut on_batch: impl FnMut(usize),
    ) -> anyhow::Result<Vec<f32>> {
        let width = self.width();
        let mut vectors = vec![0.0; rows.len() * width];
        for batch in batches_by_length(rows, self.batch_size) {
            let computed = self.batch_vectors(rows, &batch, pooling)?;
            for (&row, vector) in batch.iter().zip(computed.chunks_exact(width)) {
                vectors[row * width..(row + 1) * width].copy_from_slice(vector);
            }
            on_batch(batch.len());
        }
        if vectors.iter().any(|value| !value.is_finite()) {
            let message = "a sentence vector is not finite: the weights of the model are damaged";
            return Err(ToolError::Damaged(message.to_owned()).into());
        }
        Ok(vectors)
    }

    fn batch_vectors(
        &self,
        rows: &[Vec<u32>],
        batch: &[usize],
        pooling: Pooling,
    ) -> anyhow::Result<Vec<f32>> {
        let row_len = batch.iter().map(|&row| rows[row].len()).max().unwrap_or(0);
        let mut input_ids = vec![self.tokenizer.special().pad; batch.len() * row_len];
        let mut lengths = Vec::with_capacity(batch.len());
        for (padded, &row) in input_ids.chunks_exact_mut(row_len).zip(batch) {
            padded[..rows[row].len()].copy_from_slice(&rows[row]);
            lengths.push(u32::try_from(rows[row].len())?);
        }
        let tokens = TokenBatch {
            num_rows: batch.len(),
            row_len,
            input_ids: &input_ids,
            token_type_ids: &vec![0; input_ids.len()],
            lengths: &lengths,
        };
        Ok(self.model.sentence_vectors(&tokens, pooling)?)
    }
}

/// Positions of rows in batches: each row once, shorter rows first, so that a batch has little padding.
fn batches_by_length(rows: &[Vec<u32>], batch_size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&row| rows[row].len());
    order.chunks(batch_size).map(<[usize]>::to_vec).collect()
}

/// Divides a vector by its length; the zero vector stays as it is.
pub fn normalize(vector: &mut [f32]) {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}

/// Cosine of the angle between two vectors; 0 if one of them is zero.
pub fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let lengths = (dot(left, left) * dot(right, right)).sqrt();
    if lengths > 0.0 { dot(left, right) / lengths } else { 0.0 }
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_row_once_and_rows_of_similar_length() {
        let rows: Vec<Vec<u32>> = [5, 2, 9, 2, 7].map(|len| vec![1; len]).into();
        assert_eq!(batches_by_length(&rows, 2), [vec![1, 3], vec![0, 4], vec![2]]);
        assert!(batches_by_length(&[], 2).is_empty());
    }

    #[test]
    fn cosines_do_not_depend_on_lengths() {
        let (left, right) = ([3.0, 4.0], [40.0, 30.0]);
        assert!((cosine(&left, &right) - 0.96).abs() < 1e-12);
        assert!((cosine(&left, &[-3.0, -4.0]) + 1.0).abs() < 1e-12);
        assert_eq!(cosine(&left, &[0.0, 0.0]), 0.0);
    }

    #[test]
    fn a_normalized_vector_has_length_one_and_zero_stays() {
        let mut vector = [3.0, 0.0, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.0, 0.8]);
        let mut zero = [0.0; 3];
        normalize(&mut zero);
        assert_eq!(zero, [0.0; 3]);
    }
}
