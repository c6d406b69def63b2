//! Settings of sampling, pairing, masking and batching, and their checks.
//!
//! Plain values without defaults: whatever changes numbers is written in a configuration by somebody.

use crate::error::DataError;

/// What the model is asked about two segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentenceObjective {
    /// Next sentence prediction (Devlin et al. 2019): label 1 if the second segment is from another document.
    Nsp,
    /// Sentence order prediction (Lan et al. 2020): label 1 if the two segments changed places.
    Sop,
    /// One segment, no label.
    None,
}

impl SentenceObjective {
    /// The name used in configurations and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nsp => "nsp",
            Self::Sop => "sop",
            Self::None => "none",
        }
    }

    /// Documents needed on each side of the split.
    pub(crate) fn min_documents(self) -> u64 {
        if self == Self::Nsp { 2 } else { 1 }
    }

    /// `[CLS]` and the `[SEP]`s.
    pub(crate) fn num_special(self) -> usize {
        if self == Self::None { 2 } else { 3 }
    }
}

/// What is masked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskStrategy {
    /// Single tokens (Devlin et al. 2019).
    Token,
    /// All tokens of a word.
    WholeWord,
    /// Consecutive words, their number drawn by [`MaskingConfig::ngram_weights`] (ALBERT, MacBERT).
    Ngram,
    /// Consecutive words from a uniform anchor, their number geometric (SpanBERT, Joshi et al. 2020).
    Span,
}

/// Shares of the three replacements of a chosen token. They sum to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplaceShares {
    /// `[MASK]`
    pub mask: f64,
    /// A uniformly drawn token that is not special.
    pub random: f64,
    /// The token itself.
    pub keep: f64,
}

/// What one draw of the replacement decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceUnit {
    /// Every token on its own (Google, Chinese-BERT-wwm).
    Token,
    /// All tokens of a unit alike (SpanBERT).
    Span,
}

/// Whether masks are new in every epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskMode {
    /// Samples and masks are keyed by the epoch.
    Dynamic,
    /// Epoch `e` repeats the samples and masks of copy `e mod num_copies`, as files with a `dupe_factor` do.
    Static {
        /// Number of copies, at least 1.
        num_copies: u64,
    },
}

/// Settings of masking.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskingConfig {
    /// What is masked together.
    pub strategy: MaskStrategy,
    /// Share of a sequence's tokens, special ones counted, that is masked.
    pub mlm_probability: f64,
    /// The most tokens masked in a sequence.
    pub max_predictions_per_seq: usize,
    /// Weight of 1, 2, .. words for [`MaskStrategy::Ngram`]; need not sum to 1. ALBERT: 6, 3, 2; MacBERT: .4,
    /// .3, .2, .1.
    pub ngram_weights: Vec<f64>,
    /// What a chosen token is replaced by.
    pub replace: ReplaceShares,
    /// What one draw of the replacement decides on.
    pub unit: ReplaceUnit,
    /// Whether masks are new in every epoch.
    pub mode: MaskMode,
}

/// The order of the samples of an epoch. Either way each comes exactly once, and the place of a sample is
/// computed, not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleOrder {
    /// One permutation of all samples: reads go everywhere.
    Global,
    /// Blocks of neighbouring documents are permuted, then the samples within a window of blocks. A window is
    /// read in runs before its first sample is, and the second segment of a negative pair comes from the block
    /// of the first: for corpora that do not fit in memory. A corpus that is sorted by subject gets more
    /// similar pairs that way.
    Blocks {
        /// Sentences in a block, rounded up to a multiple of 512; at least 1.
        block_sentences: u64,
        /// Blocks that are shuffled together, at least 1.
        window_blocks: u64,
    },
}

impl SampleOrder {
    /// Blocks of a size that suits disks: windows of two million sentences, some hundred megabytes.
    pub const BLOCKS: Self = Self::Blocks { block_sentences: 1 << 16, window_blocks: 32 };
}

/// Settings of [`crate::PretrainData`].
#[derive(Clone, Debug, PartialEq)]
pub struct PretrainDataConfig {
    /// Longest row in tokens, special ones counted.
    pub max_seq_length: usize,
    /// Probability that a sample is filled to a uniformly drawn length only.
    pub short_seq_prob: f64,
    /// What the model is asked about two segments.
    pub objective: SentenceObjective,
    /// Masking.
    pub masking: MaskingConfig,
    /// How often each source is read in an epoch, in millionths at the finest, up to [`crate::MAX_SOURCE_WEIGHT`].
    /// Empty: all of them once.
    pub source_weights: Vec<f64>,
    /// The order of the samples of an epoch.
    pub order: SampleOrder,
    /// Rows per step over all ranks.
    pub global_batch_size: usize,
    /// Rows per slot.
    pub micro_batch_size: usize,
    /// Share of the documents that is held out; 0 holds out none.
    pub validation_fraction: f64,
    /// Seed of everything random.
    pub seed: u64,
}

impl MaskingConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] names the setting.
    pub fn validate(&self) -> Result<(), DataError> {
        if !(self.mlm_probability > 0.0 && self.mlm_probability < 1.0) {
            return Err(DataError::config("mlm_probability", "above 0 and below 1", self.mlm_probability));
        }
        if self.max_predictions_per_seq == 0 {
            return Err(DataError::config("max_predictions_per_seq", "at least 1", 0));
        }
        let weights = &self.ngram_weights;
        let is_good = weights.iter().all(|w| w.is_finite() && *w >= 0.0) && weights.iter().sum::<f64>() > 0.0;
        if self.strategy == MaskStrategy::Ngram && !is_good {
            let expected = "weights of 1, 2, .. words, none negative, not all zero";
            return Err(DataError::config("ngram_weights", expected, format!("{weights:?}")));
        }
        let ReplaceShares { mask, random, keep } = self.replace;
        let is_share = [mask, random, keep].iter().all(|share| (0.0..=1.0).contains(share));
        if !is_share || (mask + random + keep - 1.0).abs() > 1e-9 {
            return Err(DataError::config(
                "replace",
                "three shares that sum to 1",
                format!("{:?}", self.replace),
            ));
        }
        if self.mode == (MaskMode::Static { num_copies: 0 }) {
            return Err(DataError::config("mode", "static with at least 1 copy", "0 copies"));
        }
        Ok(())
    }
}

impl PretrainDataConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] names the setting.
    pub fn validate(&self) -> Result<(), DataError> {
        if self.max_seq_length < 8 {
            return Err(DataError::config("max_seq_length", "at least 8", self.max_seq_length));
        }
        if !(0.0..=1.0).contains(&self.short_seq_prob) {
            return Err(DataError::config("short_seq_prob", "a probability", self.short_seq_prob));
        }
        if self.micro_batch_size == 0 {
            return Err(DataError::config("micro_batch_size", "at least 1", 0));
        }
        if self.global_batch_size == 0 || !self.global_batch_size.is_multiple_of(self.micro_batch_size) {
            let expected = format!("a multiple of micro_batch_size = {}", self.micro_batch_size);
            return Err(DataError::config("global_batch_size", &expected, self.global_batch_size));
        }
        if let SampleOrder::Blocks { block_sentences, window_blocks } = self.order
            && (block_sentences == 0 || window_blocks == 0)
        {
            let expected = "blocks of at least 1 sentence, windows of at least 1 block";
            return Err(DataError::config("order", expected, format!("{:?}", self.order)));
        }
        self.masking.validate()
    }

    /// Micro-batches per step.
    pub fn num_slots(&self) -> usize {
        self.global_batch_size / self.micro_batch_size
    }

    /// Tokens of a full row without special tokens.
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_seq_length - self.objective.num_special()
    }
}
