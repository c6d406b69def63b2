//! The manifest of a shard folder: what was built from what, and how to know that it is still so.

use crate::error::DataError;
use crate::files::{FileRecord, parent_of, write_atomically};
use crate::text::InvalidByte;
use crate::tokenizer::SpecialIds;
use crate::words::Language;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Name of the manifest inside a shard folder.
pub(super) const MANIFEST_NAME: &str = "manifest.json";
/// Raised when the meaning of the files changes.
const FORMAT_VERSION: u32 = 2;

/// Sizes of a corpus or a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Documents with at least one token.
    pub num_documents: u64,
    /// Sentences with at least one token.
    pub num_sentences: u64,
    /// Tokens.
    pub num_tokens: u64,
    /// Tokens that are `[UNK]`.
    pub num_unknown: u64,
    /// Tokens that reach over the border of a segmented word.
    pub num_misaligned: u64,
    /// Lines that gave no token.
    pub num_empty_lines: u64,
    /// Bytes of text read.
    pub num_text_bytes: u64,
    /// Lines in which bytes were replaced because they were not UTF-8.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub num_invalid_lines: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Counts {
    /// Adds the sizes of another part.
    pub fn add(&mut self, other: &Counts) {
        self.num_documents += other.num_documents;
        self.num_sentences += other.num_sentences;
        self.num_tokens += other.num_tokens;
        self.num_unknown += other.num_unknown;
        self.num_misaligned += other.num_misaligned;
        self.num_empty_lines += other.num_empty_lines;
        self.num_text_bytes += other.num_text_bytes;
        self.num_invalid_lines += other.num_invalid_lines;
    }

    /// All numbers, with their names.
    fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("num_documents", self.num_documents),
            ("num_sentences", self.num_sentences),
            ("num_tokens", self.num_tokens),
            ("num_unknown", self.num_unknown),
            ("num_misaligned", self.num_misaligned),
            ("num_empty_lines", self.num_empty_lines),
            ("num_text_bytes", self.num_text_bytes),
            ("num_invalid_lines", self.num_invalid_lines),
        ]
    }
}

/// One shard and its three files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// Name without extension.
    pub name: String,
    /// BLAKE3 of the text it was built from: of the whole file if that cannot be cut.
    pub text_blake3: String,
    /// The first byte that was replaced because it was not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_invalid: Option<InvalidByte>,
    /// Sizes.
    pub counts: Counts,
    /// Token ids.
    pub bin: FileRecord,
    /// Sentence and document index.
    pub idx: FileRecord,
    /// Word starts.
    pub words: FileRecord,
}

impl ShardRecord {
    /// File names and what they should hold.
    pub(crate) fn files(&self) -> [(String, &FileRecord); 3] {
        [("bin", &self.bin), ("idx", &self.idx), ("words", &self.words)]
            .map(|(extension, record)| (format!("{}.{extension}", self.name), record))
    }
}

/// A text file the shards were built from, for people; it takes no part in any fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// Path when the shards were built.
    pub path: String,
    /// Size in bytes.
    pub num_bytes: u64,
}

/// The part of the shards that belongs to one of several sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceShards {
    /// Shards in a row.
    pub num_shards: u64,
    /// BLAKE3 over the text of the source, in blocks of `shard_text_bytes`.
    pub text_fingerprint: String,
}

/// The one field that every version of a manifest has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// Everything known about a shard folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub format_version: u32,
    /// BLAKE3 over all other fields but `sources`: names the corpus wherever its files lie.
    pub fingerprint: String,
    /// BLAKE3 over the text, in blocks of `shard_text_bytes`.
    pub text_fingerprint: String,
    /// Fingerprint of the tokenizer.
    pub tokenizer_fingerprint: String,
    /// Number of token ids.
    pub vocab_size: u64,
    /// Ids of the special tokens.
    pub special: SpecialIds,
    /// All ids that are never masked and never inserted, ascending.
    pub special_ids: Vec<u32>,
    /// How words were found.
    pub language: Language,
    /// BLAKE3 of the lexicon, if one was used.
    pub lexicon_fingerprint: Option<String>,
    /// Text per shard, in bytes.
    pub shard_text_bytes: u64,
    /// Sizes of the whole corpus.
    pub counts: Counts,
    /// The shards in order.
    pub shards: Vec<ShardRecord>,
    /// Which shards belong to which source, in order; empty if there is one source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_source: Vec<SourceShards>,
    /// The text files, in order.
    pub sources: Vec<SourceRecord>,
}

impl Manifest {
    /// Sets version and fingerprint, and writes the manifest into `dir`.
    pub(super) fn seal_and_write(&mut self, dir: &Path) -> Result<(), DataError> {
        let path = dir.join(MANIFEST_NAME);
        self.format_version = FORMAT_VERSION;
        self.fingerprint = self.compute_fingerprint(&path)?;
        let mut json = serde_json::to_vec_pretty(self).map_err(|e| json_error(&path, &e))?;
        json.push(b'\n');
        write_atomically(&path, &json)
    }

    /// Reads the manifest of a shard folder and checks it against its own fingerprint.
    ///
    /// # Errors
    ///
    /// [`DataError::Stale`] if another version of this format wrote it; [`DataError::Damaged`] if it cannot be
    /// parsed, was changed, or contradicts itself; [`DataError::Io`].
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(MANIFEST_NAME);
        let bytes = fs::read(&path).map_err(DataError::io("read manifest", &path))?;
        let manifest = Self::parse(&bytes, &path)?;
        let got = manifest.compute_fingerprint(&path)?;
        if got != manifest.fingerprint {
            return Err(DataError::damaged(&path, "fingerprint", &manifest.fingerprint, got));
        }
        manifest.check(&path)?;
        Ok(manifest)
    }

    /// Number of sources the shards were built from.
    pub fn num_sources(&self) -> usize {
        self.by_source.len().max(1)
    }

    /// The fields of a manifest of this version, as they are written there.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        // The version comes first: another one has other fields.
        let version: Version = serde_json::from_slice(bytes).map_err(|e| json_error(path, &e))?;
        if version.format_version != FORMAT_VERSION {
            return Err(DataError::Stale {
                path: parent_of(path).to_path_buf(),
                what: "version of the shard format",
                expected: FORMAT_VERSION.to_string(),
                got: version.format_version.to_string(),
            });
        }
        serde_json::from_slice(bytes).map_err(|e| json_error(path, &e))
    }

    /// Refuses names that lead out of the folder, ids outside the vocabulary, and sums that are not the sums.
    pub(crate) fn check(&self, path: &Path) -> Result<(), DataError> {
        let mut names = HashSet::new();
        for shard in &self.shards {
            let is_plain = shard.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if shard.name.is_empty() || !is_plain || !names.insert(&shard.name) {
                let expected = "letters, digits, `-` and `_`, each name once";
                return Err(DataError::damaged(path, "name of a shard", expected, &shard.name));
            }
        }
        let limit = self.vocab_size.min(1 << 31);
        let SpecialIds { pad, unk, cls, sep, mask } = self.special;
        let ids = [pad, unk, cls, sep, mask].into_iter().chain(self.special_ids.iter().copied());
        if let Some(id) = ids.into_iter().find(|&id| u64::from(id) >= limit) {
            let expected = format!("below the vocabulary's {limit}");
            return Err(DataError::damaged(path, "id of a special token", expected, id));
        }
        for (idx, (name, got)) in self.counts.named().into_iter().enumerate() {
            let sum: u128 = self.shards.iter().map(|shard| u128::from(shard.counts.named()[idx].1)).sum();
            if sum != u128::from(got) {
                return Err(DataError::damaged(path, name, format!("{sum}, the sum over its shards"), got));
            }
        }
        let num_of_sources: u128 = self.by_source.iter().map(|source| u128::from(source.num_shards)).sum();
        if !self.by_source.is_empty() && num_of_sources != self.shards.len() as u128 {
            return Err(DataError::damaged(path, "shards of all sources", self.shards.len(), num_of_sources));
        }
        Ok(())
    }

    /// The first byte of the corpus that was replaced because it was not UTF-8: its file, and where in it.
    pub fn first_invalid(&self) -> Option<(&str, u64)> {
        let first = self.shards.iter().find_map(|shard| shard.first_invalid)?;
        self.sources.get(first.file_idx).map(|source| (source.path.as_str(), first.byte))
    }

    /// BLAKE3 of everything but the fingerprint itself and the paths of the sources.
    pub(crate) fn compute_fingerprint(&self, path: &Path) -> Result<String, DataError> {
        let bare = Manifest { fingerprint: String::new(), sources: Vec::new(), ..self.clone() };
        let json = serde_json::to_vec(&bare).map_err(|e| json_error(path, &e))?;
        Ok(blake3::hash(&json).to_hex().to_string())
    }
}

/// A manifest that is not the JSON it should be.
pub(super) fn json_error(path: &Path, error: &serde_json::Error) -> DataError {
    DataError::damaged(path, "JSON", "the fields of this version", error)
}
