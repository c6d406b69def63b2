//! Shards: tokens on disk in the Megatron-LM indexed format, with word starts and a manifest beside them.
//!
//! ```text
//! <dir>/manifest.json        what was built from what, size and BLAKE3 of every file
//!       shard-00000.bin      token ids, little-endian u16 or i32
//!       shard-00000.idx      MMIDIDX: sentence lengths, sentence offsets, document borders
//!       shard-00000.words    one bit per token, lowest bit first: starts a word
//!       plans/               counts of sample plans; a cache that training writes and anybody may delete
//! ```
//! One sequence of the format is one sentence. A folder of shards is complete or it is not there: everything
//! is written to `<dir>.building` and renamed at the end. A build that was killed goes on after the last shard it
//! had finished. Building is shared by blocks of text ([`BuildShare`]); the result does not depend on the number of
//! shares or threads.
//!
//! One process calls [`prepare`]. Ranks that share a file system: one calls [`status`] and tells the others;
//! if there is something to build, it takes the [`BuildLock`] and looks once more, and then all call [`build`] with their share;
//! when all are done one calls [`finish`]; then all open [`crate::Corpus`], with [`Verify::Hashes`] on at least one rank per file system.

mod build;
mod indexed;
mod lock;
mod manifest;
mod write;

pub use build::{
    BuildProgress, BuildReport, BuildShare, BuildStatus, ShardBuildRequest, WhenStale, build, build_watched,
    finish, prepare, prepare_watched, ready, status,
};
pub use lock::BuildLock;
pub use manifest::{Counts, Manifest, ShardRecord, SourceRecord, SourceShards};

pub(crate) use indexed::Shard;

use crate::error::DataError;
use rayon::prelude::*;
use std::path::Path;

/// How much of a shard folder is checked before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Sizes and BLAKE3 of every file: reads everything once.
    Hashes,
    /// Sizes and headers only, for ranks that leave the hashing to another one on the same files.
    Sizes,
}

/// Whether a path is a folder with finished shards.
pub fn is_shard_folder(dir: &Path) -> bool {
    dir.join(manifest::MANIFEST_NAME).is_file()
}

/// Checks every file of a shard folder against its manifest.
///
/// # Errors
///
/// [`DataError::Damaged`] names the first file, in order, that is missing, has another size, or another hash.
pub fn verify(dir: &Path) -> Result<Manifest, DataError> {
    let manifest = Manifest::read(dir)?;
    check_files(dir, &manifest, Verify::Hashes)?;
    Ok(manifest)
}

/// Type of the token ids for a vocabulary.
pub(crate) fn token_type(vocab_size: u64) -> indexed::TokenType {
    indexed::TokenType::for_vocab(vocab_size as usize)
}

/// Compares the files with the manifest; the first damaged file in order is reported.
pub(crate) fn check_files(dir: &Path, manifest: &Manifest, verify: Verify) -> Result<(), DataError> {
    check_records(dir, &manifest.shards, verify)
}

/// Compares the files of shards with their records.
fn check_records(dir: &Path, shards: &[ShardRecord], verify: Verify) -> Result<(), DataError> {
    let files: Vec<_> = shards.iter().flat_map(ShardRecord::files).collect();
    let check = |(name, record): &(String, &crate::FileRecord)| -> Result<(), DataError> {
        let path = dir.join(name);
        let num_bytes = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(DataError::damaged(&path, "file", "one that the manifest names", "no such file"));
            }
            Err(e) => return Err(DataError::io("look at shard file", &path)(e)),
        };
        if num_bytes != record.num_bytes {
            return Err(DataError::damaged(&path, "bytes", record.num_bytes, num_bytes));
        }
        if verify == Verify::Hashes {
            let mut hasher = blake3::Hasher::new();
            crate::files::hash_range(&path, 0, num_bytes, &mut hasher)?;
            let got = hasher.finalize().to_hex().to_string();
            if got != record.blake3 {
                return Err(DataError::damaged(&path, "BLAKE3", &record.blake3, got));
            }
        }
        Ok(())
    };
    let results: Vec<Result<(), DataError>> = files.par_iter().map(check).collect();
    results.into_iter().collect()
}

#[cfg(test)]
mod megatron_tests;
#[cfg(test)]
pub(crate) mod synthetic;
#[cfg(test)]
mod tests;
