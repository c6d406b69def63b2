//! state.json: where training stands, and a BLAKE3 of every file of the checkpoint.
//!
//! Owns the format of the manifest and its verification.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{CheckpointError, STATE_FILE, io_error};
use crate::lineage::Ancestor;

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the checkpoint, with `/`.
    pub path: String,
    /// Length.
    pub num_bytes: u64,
    /// BLAKE3 of the contents, hexadecimal.
    pub blake3: String,
}

/// The best evaluation up to a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Updates after which it was made; the checkpoint of that step is kept.
    pub step: u64,
    /// What was compared; higher is better. Written as text that reads back to the same bits.
    #[serde(with = "exact")]
    pub score: f64,
}

/// Floats as text: a JSON number may read back to other bits.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Contents of `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointState {
    /// Completed updates.
    pub step: u64,
    /// Epoch of the next sample.
    pub epoch: u64,
    /// Samples consumed: the whole position of the data.
    pub position: u64,
    /// Hash of the keys that change numbers.
    pub config_hash: String,
    /// Fingerprint of the token shards.
    pub corpus_fingerprint: String,
    /// Fingerprint of the tokenizer.
    pub tokenizer_fingerprint: String,
    /// Hash over names, shapes and order of all parameters.
    pub layout_hash: String,
    /// Ranks that wrote the checkpoint; any number can read it.
    pub num_ranks: usize,
    /// Version of the program that wrote it.
    pub version: String,
    /// Where the first weights came from.
    pub init_from: String,
    /// Models that this one descends from, its parent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<Ancestor>,
    /// The best evaluation so far, where a task chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Every other file, sorted by path.
    pub files: Vec<FileEntry>,
    /// BLAKE3 of this object with an empty `digest`.
    pub digest: String,
}

impl CheckpointState {
    /// Fills in the digest.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Format`] if the object cannot be written as JSON.
    pub fn seal(mut self, path: &Path) -> Result<Self, CheckpointError> {
        self.files.sort();
        self.digest = self.compute_digest(path)?;
        Ok(self)
    }

    fn compute_digest(&self, path: &Path) -> Result<String, CheckpointError> {
        let unsealed = Self { digest: String::new(), ..self.clone() };
        let json = serde_json::to_vec(&unsealed).map_err(|error| CheckpointError::Format {
            path: path.to_path_buf(),
            message: error.to_string(),
        })?;
        Ok(blake3::hash(&json).to_hex().to_string())
    }

    /// Reads the manifest of a checkpoint and checks its own digest.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] names the file and what is wrong with it.
    pub fn read(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let path = checkpoint.join(STATE_FILE);
        if !path.exists() {
            return Err(CheckpointError::NotThere { path: checkpoint.to_path_buf() });
        }
        let text = fs::read_to_string(&path).map_err(io_error("cannot read", &path))?;
        let state: Self = serde_json::from_str(&text)
            .map_err(|error| CheckpointError::Format { path: path.clone(), message: error.to_string() })?;
        let digest = state.compute_digest(&path)?;
        if digest != state.digest {
            return Err(CheckpointError::Damaged {
                path,
                what: "digest",
                expected: state.digest,
                got: digest,
            });
        }
        Ok(state)
    }

    /// Reads the manifest and checks length and hash of every file that it lists.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] names the first file that is missing or differs.
    pub fn verify(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let state = Self::read(checkpoint)?;
        for entry in &state.files {
            verify_file(checkpoint, entry)?;
        }
        Ok(state)
    }
}

fn verify_file(checkpoint: &Path, expected: &FileEntry) -> Result<(), CheckpointError> {
    let path = checkpoint.join(&expected.path);
    let got = describe_file(checkpoint, &path)?;
    let damaged = |what, expected: &dyn ToString, got: &dyn ToString| CheckpointError::Damaged {
        path: path.clone(),
        what,
        expected: expected.to_string(),
        got: got.to_string(),
    };
    if got.num_bytes != expected.num_bytes {
        return Err(damaged("number of bytes", &expected.num_bytes, &got.num_bytes));
    }
    if got.blake3 != expected.blake3 {
        return Err(damaged("BLAKE3", &expected.blake3, &got.blake3));
    }
    Ok(())
}

/// Length and hash of a file, by its path relative to the checkpoint.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn describe_file(checkpoint: &Path, path: &Path) -> Result<FileEntry, CheckpointError> {
    let file = File::open(path).map_err(io_error("cannot read", path))?;
    let num_bytes = file.metadata().map_err(io_error("cannot read", path))?.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(io_error("cannot read", path))?;
    let relative = path.strip_prefix(checkpoint).unwrap_or(path);
    Ok(FileEntry {
        path: relative.to_string_lossy().replace('\\', "/"),
        num_bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// All files below `folder`, sorted.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut files = Vec::new();
    for path in sorted_entries(folder)? {
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// The entries of a folder, sorted: the one place of this crate that lists a folder.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let entries = fs::read_dir(folder).map_err(io_error("cannot list", folder))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(io_error("cannot list", folder))?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A checkpoint of one small file.
    pub(crate) fn small_checkpoint(folder: &Path, step: u64) -> CheckpointState {
        fs::create_dir_all(folder).unwrap();
        let file = folder.join("weights");
        fs::write(&file, [1, 2, 3]).unwrap();
        let files = vec![describe_file(folder, &file).unwrap()];
        let word = || "x".to_string();
        let state = CheckpointState {
            step,
            epoch: 0,
            position: step * 8,
            config_hash: word(),
            corpus_fingerprint: word(),
            tokenizer_fingerprint: word(),
            layout_hash: word(),
            num_ranks: 2,
            version: word(),
            init_from: word(),
            lineage: Vec::new(),
            best: None,
            files,
            digest: String::new(),
        };
        let state = state.seal(folder).unwrap();
        fs::write(folder.join(STATE_FILE), serde_json::to_vec_pretty(&state).unwrap()).unwrap();
        state
    }

    #[test]
    fn an_intact_checkpoint_is_verified() {
        let dir = tempfile::tempdir().unwrap();
        let state = small_checkpoint(dir.path(), 7);
        assert_eq!(CheckpointState::verify(dir.path()).unwrap(), state);
    }

    #[test]
    fn scores_and_ancestors_read_back_to_the_same_bits() {
        let dir = tempfile::tempdir().unwrap();
        // 0.1 + 0.2 and a neighbour of it: digits that a careless reader rounds together.
        for bits in [(0.1f64 + 0.2).to_bits(), (0.1f64 + 0.2).to_bits() - 1, (-1.0f64 / 3.0).to_bits()] {
            let mut state = small_checkpoint(dir.path(), 7);
            state.best = Some(Best { step: 5, score: f64::from_bits(bits) });
            state.lineage = vec![Ancestor {
                path: "parent".to_string(),
                parameter_hash: "y".to_string(),
                step: Some(3),
                corpus_fingerprint: None,
                config_hash: None,
            }];
            let state = state.seal(dir.path()).unwrap();
            fs::write(dir.path().join(STATE_FILE), serde_json::to_vec_pretty(&state).unwrap()).unwrap();
            assert_eq!(CheckpointState::verify(dir.path()).unwrap(), state);
        }
    }

    #[test]
    fn a_flipped_byte_is_named() {
        let dir = tempfile::tempdir().unwrap();
        small_checkpoint(dir.path(), 7);
        fs::write(dir.path().join("weights"), [1, 2, 2]).unwrap();
        let error = CheckpointState::verify(dir.path()).unwrap_err();
        assert!(matches!(&error, CheckpointError::Damaged { what: "BLAKE3", .. }), "{error}");
        assert!(error.to_string().contains("weights"));
    }

    #[test]
    fn a_truncated_or_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        small_checkpoint(dir.path(), 7);
        fs::write(dir.path().join("weights"), [1]).unwrap();
        assert!(matches!(
            CheckpointState::verify(dir.path()).unwrap_err(),
            CheckpointError::Damaged { what: "number of bytes", .. }
        ));
        fs::remove_file(dir.path().join("weights")).unwrap();
        assert!(matches!(CheckpointState::verify(dir.path()).unwrap_err(), CheckpointError::Io { .. }));
    }

    #[test]
    fn every_flipped_byte_of_the_manifest_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let state = small_checkpoint(dir.path(), 7);
        let path = dir.path().join(STATE_FILE);
        let intact = fs::read(&path).unwrap();
        for idx in 0..intact.len() {
            let mut flipped = intact.clone();
            flipped[idx] ^= 1;
            fs::write(&path, &flipped).unwrap();
            // White space between the values carries nothing; everything else must be noticed.
            if let Ok(read) = CheckpointState::verify(dir.path()) {
                assert_eq!(read, state, "byte {idx}");
            }
        }
    }
}
