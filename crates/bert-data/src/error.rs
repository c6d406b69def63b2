//! The one error type of this crate: what failed, where, what was expected, what was found, what to do.
//!
//! Nothing here prints or decides on an exit code; [`DataError::kind`] tells callers which of the three
//! families an error belongs to.

use std::io;
use std::path::{Path, PathBuf};

/// The family of a [`DataError`], for callers that map errors to exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataErrorKind {
    /// The caller asked for something that cannot be done: a setting, a missing path, a corpus too small.
    Config,
    /// Bytes on disk are not what they should be: a damaged shard, text that is not UTF-8, a stale build.
    Damaged,
    /// The world failed: I/O, a worker thread.
    Other,
}

/// Reasons why text did not become batches. `Display` never repeats the source error.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused an operation on a file or folder.
    #[error("failed to {action} `{path}`")]
    Io {
        /// What was tried, as a verb phrase ("open shard").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A source of text names nothing that exists.
    #[error("no text at `{path}`: expected {expected}; correct the path of this source")]
    MissingText {
        /// The source as it was given.
        path: PathBuf,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// A source of text has a format that is not read.
    #[error(
        "cannot read `{path}`: expected text with one sentence per line, .jsonl or .parquet, got a .{extension} file"
    )]
    UnsupportedText {
        /// The file.
        path: PathBuf,
        /// Its extension.
        extension: String,
    },
    /// All sources together hold no sentence.
    #[error("the corpus is empty: no sentence in {got}; expected text with one sentence per line")]
    EmptyCorpus {
        /// The files and folders that were looked at.
        got: String,
    },
    /// A byte of a text file is not UTF-8.
    #[error(
        "`{path}` is not UTF-8: invalid byte at offset {byte}; convert the file to UTF-8, or read it without `strict` to have such bytes replaced"
    )]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first invalid byte in the file.
        byte: u64,
    },
    /// A file of text is not what its name says, or holds something else than text.
    #[error("cannot read the text of `{path}` at {place}: expected {expected}, got {got}")]
    BadText {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: String,
        /// What was expected there.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A table of labelled texts has a format that is not read.
    #[error("cannot read `{path}`: expected .tsv, .csv or .jsonl, got a file ending in `{extension}`")]
    UnsupportedTable {
        /// The file.
        path: PathBuf,
        /// Its extension.
        extension: String,
    },
    /// A table lacks a column that was asked for.
    #[error("`{path}` has no column `{column}`; it has {present}: correct the name in [task], or the file")]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column that is not there.
        column: String,
        /// Those that are.
        present: String,
    },
    /// A table has column names only.
    #[error("`{path}` has no row: expected at least one below the column names")]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// A row has a class that is not one of those to be learned.
    #[error(
        "`{path}` line {line}: unknown label `{label}`; known are {known}: add it to task.labels, or correct the row"
    )]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The label there.
        label: String,
        /// The classes to be learned.
        known: String,
    },
    /// There is nothing to tell apart.
    #[error("`{path}`: all {num_rows} rows have the label `{label}`: expected at least two classes to learn")]
    OneClass {
        /// The file.
        path: PathBuf,
        /// The only label.
        label: String,
        /// How many rows have it.
        num_rows: usize,
    },
    /// One line of text is too long to be a sentence.
    #[error(
        "`{path}`: the line at byte {byte} is longer than {limit} bytes; \
         put one sentence (in .jsonl one document) on a line"
    )]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// Offset of the line's first byte in the file.
        byte: u64,
        /// The longest line accepted, in bytes.
        limit: u64,
    },
    /// A vocabulary lacks a token that BERT needs.
    #[error(
        "vocabulary `{path}` has no `{token}`: expected [PAD] [UNK] [CLS] [SEP] [MASK]; add the missing one"
    )]
    MissingSpecialToken {
        /// The vocabulary file.
        path: PathBuf,
        /// The token that is not there.
        token: &'static str,
    },
    /// A vocabulary or tokenizer file cannot be used.
    #[error("cannot use tokenizer `{path}`: expected {expected}, got {got}")]
    BadTokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What was found.
        got: String,
    },
    /// The tokenizer library failed.
    #[error("failed to {action} with tokenizer `{path}`")]
    Tokenizer {
        /// What was tried, as a verb phrase ("encode a line").
        action: &'static str,
        /// Where the tokenizer came from.
        path: PathBuf,
        /// What the library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting has no meaning, alone or with this corpus.
    #[error("setting `{setting}`: expected {expected}, got {got}")]
    Config {
        /// Name of the setting.
        setting: &'static str,
        /// What would be accepted.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A file of a shard folder is not what its manifest or header promises.
    #[error(
        "`{path}` is damaged: {what}: expected {expected}, got {got}; build the shards again with `bert shards build --rebuild`"
    )]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// The quantity that differs ("BLAKE3", "bytes").
        what: &'static str,
        /// What the manifest or format promises.
        expected: String,
        /// What was found.
        got: String,
    },
    /// Finished shards exist, made from other text, with another tokenizer or other settings.
    #[error(
        "shards in `{path}` were built with another {what}: expected {expected}, got {got}; \
         delete the folder, name another one, or replace it with `bert shards build --rebuild`"
    )]
    Stale {
        /// The shard folder.
        path: PathBuf,
        /// The input that differs.
        what: &'static str,
        /// The fingerprint or value asked for now.
        expected: String,
        /// The fingerprint or value the shards were built with.
        got: String,
    },
    /// Another process is building the same shards.
    #[error(
        "shards in `{path}` are being built by {holder}: wait until it has ended, or name another folder (`data.shards`)"
    )]
    InUse {
        /// The shard folder.
        path: PathBuf,
        /// Who builds, as it has told.
        holder: String,
    },
    /// A sentence objective needs more documents than the corpus, or one side of its split, has.
    #[error(
        "`{objective}` needs at least {expected} documents {place}, got {got}; \
         add documents, separate them by blank lines, or set the sentence objective to \"sop\" or \"none\""
    )]
    TooFewDocuments {
        /// The objective as it is written in a configuration.
        objective: &'static str,
        /// Where they are missing ("in the corpus").
        place: &'static str,
        /// How many are needed.
        expected: u64,
        /// How many there are.
        got: u64,
    },
    /// The corpus gives no sample at all.
    #[error("the {place} documents give no sample: expected at least {expected} tokens in one of them")]
    NoSamples {
        /// Which documents ("training", "held-out").
        place: &'static str,
        /// The shortest document that gives a sample, in tokens.
        expected: u64,
    },
    /// A worker thread of the prefetcher panicked or went away.
    #[error("a data worker failed at step {step}, slot {slot}: {message}")]
    Worker {
        /// The step the worker was preparing.
        step: u64,
        /// The slot of that step.
        slot: usize,
        /// The panic message.
        message: String,
    },
    /// The prefetcher was asked for more after it had reported an error.
    #[error("the prefetcher stopped at step {step} because of an earlier error")]
    Stopped {
        /// The step that failed.
        step: u64,
    },
}

impl DataError {
    /// The family of this error.
    pub fn kind(&self) -> DataErrorKind {
        use DataError as E;
        match self {
            E::MissingText { .. }
            | E::UnsupportedText { .. }
            | E::EmptyCorpus { .. }
            | E::LineTooLong { .. }
            | E::MissingSpecialToken { .. }
            | E::BadTokenizer { .. }
            | E::Config { .. }
            | E::TooFewDocuments { .. }
            | E::UnsupportedTable { .. }
            | E::MissingColumn { .. }
            | E::NoRows { .. }
            | E::OneClass { .. }
            | E::InUse { .. }
            | E::NoSamples { .. } => DataErrorKind::Config,
            E::UnknownLabel { .. } => DataErrorKind::Damaged,
            E::InvalidUtf8 { .. } | E::BadText { .. } | E::Damaged { .. } | E::Stale { .. } => {
                DataErrorKind::Damaged
            }
            E::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => DataErrorKind::Config,
            E::Io { .. } | E::Tokenizer { .. } | E::Worker { .. } | E::Stopped { .. } => DataErrorKind::Other,
        }
    }

    /// Attaches the action and the path to an I/O error.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
        let path = path.to_path_buf();
        move |source| DataError::Io { action, path, source }
    }

    /// A setting outside its range.
    pub(crate) fn config(setting: &'static str, expected: &str, got: impl ToString) -> DataError {
        DataError::Config { setting, expected: expected.to_owned(), got: got.to_string() }
    }

    /// A damaged file.
    pub(crate) fn damaged(
        path: &Path,
        what: &'static str,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        DataError::Damaged {
            path: path.to_path_buf(),
            what,
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}
