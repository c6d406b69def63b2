//! Text in, masked batches out: tokenizer, shards, pairs, masks, prefetch.
mod corpus;
mod error;
mod files;
pub mod shards;
pub mod text;
mod tokenizer;
pub mod vocab;
mod words;

pub use corpus::{Corpus, Document};
pub use error::{DataError, DataErrorKind};
pub use files::FileRecord;
pub use tokenizer::{EncodedLine, SPECIAL_TOKENS, SpecialIds, Tokenizer};
pub use words::{Language, WordSegmenter};
