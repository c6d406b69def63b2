//! Finding checkpoints: which are there, and which is the newest that can be trusted.
//!
//! Owns the search. Never repairs and never deletes.

use std::path::{Path, PathBuf};

use super::{CheckpointError, CheckpointState, manifest::sorted_entries};

/// Complete checkpoints of a run, oldest first.
///
/// # Errors
///
/// [`CheckpointError::Io`] if the folder cannot be listed.
pub fn list(checkpoints: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let is_checkpoint = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix("step-").is_some_and(|step| step.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut found: Vec<PathBuf> = sorted_entries(checkpoints)?.into_iter().filter(is_checkpoint).collect();
    // Names of nine digits sort as text; longer ones are newer.
    found.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    Ok(found)
}

/// A checkpoint to continue from, and the newer ones that were passed over because they are damaged.
#[derive(Debug)]
pub struct Found {
    /// The folder.
    pub path: PathBuf,
    /// Its manifest.
    pub state: CheckpointState,
    /// Why each newer one was passed over.
    pub passed_over: Vec<String>,
}

/// The newest checkpoint whose every file is intact; `None` if the run has none at all.
///
/// # Errors
///
/// [`CheckpointError::NoneVerified`] if there are checkpoints and all of them are damaged.
pub fn newest_verified(checkpoints: &Path) -> Result<Option<Found>, CheckpointError> {
    if !checkpoints.exists() {
        return Ok(None);
    }
    let mut passed_over = Vec::new();
    for path in list(checkpoints)?.into_iter().rev() {
        match CheckpointState::verify(&path) {
            Ok(state) => return Ok(Some(Found { path, state, passed_over })),
            Err(error) => passed_over.push(crate::error::chain_of(&error)),
        }
    }
    if passed_over.is_empty() {
        return Ok(None);
    }
    Err(CheckpointError::NoneVerified { dir: checkpoints.to_path_buf(), details: passed_over.join("; ") })
}

/// The checkpoint at `path`, verified.
///
/// # Errors
///
/// [`CheckpointError`] names what is wrong with it.
pub fn at(path: &Path) -> Result<Found, CheckpointError> {
    let state = CheckpointState::verify(path)?;
    Ok(Found { path: path.to_path_buf(), state, passed_over: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::checkpoint::manifest::tests::small_checkpoint;

    #[test]
    fn a_damaged_newest_is_passed_over_and_named() {
        let dir = tempfile::tempdir().unwrap();
        small_checkpoint(&dir.path().join("step-000000005"), 5);
        small_checkpoint(&dir.path().join("step-000000010"), 10);
        fs::write(dir.path().join("step-000000010/weights"), [9, 9, 9]).unwrap();
        let found = newest_verified(dir.path()).unwrap().unwrap();
        assert_eq!(found.state.step, 5);
        assert!(found.passed_over[0].contains("step-000000010"), "{:?}", found.passed_over);
    }

    #[test]
    fn damaged_checkpoints_alone_are_an_error_not_a_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        small_checkpoint(&dir.path().join("step-000000005"), 5);
        fs::write(dir.path().join("step-000000005/state.json"), "{").unwrap();
        assert!(matches!(newest_verified(dir.path()), Err(CheckpointError::NoneVerified { .. })));
    }

    #[test]
    fn no_checkpoint_is_a_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        assert!(newest_verified(dir.path()).unwrap().is_none());
        assert!(newest_verified(&dir.path().join("absent")).unwrap().is_none());
    }

    #[test]
    fn steps_beyond_nine_digits_are_newer() {
        let dir = tempfile::tempdir().unwrap();
        small_checkpoint(&dir.path().join("step-999999999"), 999_999_999);
        small_checkpoint(&dir.path().join("step-1000000000"), 1_000_000_000);
        assert_eq!(list(dir.path()).unwrap().last().unwrap(), &dir.path().join("step-1000000000"));
    }
}
