//! Text in, masked batches out.
//!
//! ```text
//! text -> lines -> WordPiece -> shards                 text, tokenizer, words, vocab, shards
//! shards -> sample plan -> order -> pair -> mask       corpus, split, plan, pairs, masking
//!        -> slots -> micro-batch -> prefetch           balance, batch, pretrain, prefetch, describe
//! corpus + samples -> figures and verdicts             audit
//! labelled rows -> tokens -> order -> micro-batch       classify
//! ```
//! Everything random is a pure function of (seed, purpose, epoch, document or sample), through keys of
//! `bert-random`; there is no generator and no iterator state. Hence a data position is one integer, and rank
//! counts, thread counts and restarts cannot change a batch.
//!
//! Not here: tensors, ranks, clocks, printing. Nothing is mapped into memory and nothing is `unsafe`.

#![forbid(unsafe_code)]

pub mod audit;
mod balance;
mod batch;
pub mod classify;
pub mod compat;
mod config;
mod corpus;
mod describe;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod masking;
mod pairs;
mod plan;
mod prefetch;
mod pretrain;
pub mod shards;
mod split;
#[cfg(test)]
mod testing;
pub mod text;
mod tokenizer;
pub mod vocab;
mod words;

pub use batch::{MicroBatch, Sample};
pub use config::{
    MaskMode, MaskStrategy, MaskingConfig, PretrainDataConfig, ReplaceShares, ReplaceUnit, SampleOrder,
    SentenceObjective,
};
pub use corpus::{Corpus, Document};
pub use describe::describe_row;
pub use error::{DataError, DataErrorKind};
pub use files::FileRecord;
pub use plan::MAX_SOURCE_WEIGHT;
pub use prefetch::{BatchSource, Prefetcher, StepBatches};
pub use pretrain::{EvalBaselines, PretrainData, SamplePosition, SourceFigures};
pub use tokenizer::{EncodedLine, SPECIAL_TOKENS, SpecialIds, Tokenizer};
pub use words::{Language, WordSegmenter};
