//! Writing a checkpoint: temporary sibling, files on disk, manifest last, rename, link.
//!
//! Owns the order of these steps. A kill at any point leaves either the old set of checkpoints or the old set and
//! one more; a temporary folder that a kill left behind is removed at the next save.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    BEST, CheckpointError, CheckpointState, LATEST, STATE_FILE, io_error,
    manifest::{files_below, sorted_entries},
    read,
};

/// Prefix of unfinished folders.
const TEMPORARY_PREFIX: &str = ".unfinished-";

/// Folder name of the checkpoint after `step` updates.
#[must_use]
pub fn folder_name(step: u64) -> String {
    format!("step-{step:09}")
}

/// Where the files of an unfinished checkpoint go.
#[must_use]
pub fn temporary_folder(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("{TEMPORARY_PREFIX}{}", folder_name(step)))
}

/// Makes an empty temporary folder with its sub-folders; removes what a kill left behind.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn begin(checkpoints: &Path, step: u64) -> Result<PathBuf, CheckpointError> {
    remove_unfinished(checkpoints)?;
    let folder = temporary_folder(checkpoints, step);
    for path in [folder.join("model"), folder.join("optimizer")] {
        fs::create_dir_all(&path).map_err(io_error("cannot create", &path))?;
    }
    Ok(folder)
}

/// Removes every unfinished folder.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn remove_unfinished(checkpoints: &Path) -> Result<(), CheckpointError> {
    for path in sorted_entries(checkpoints)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(TEMPORARY_PREFIX) {
            fs::remove_dir_all(&path).map_err(io_error("cannot remove the unfinished checkpoint", &path))?;
        }
    }
    Ok(())
}

/// Seals the temporary folder with its manifest and gives it its final name; returns that path.
///
/// # Errors
///
/// [`CheckpointError`]; the temporary folder then stays unfinished and no other checkpoint has changed.
pub fn finish(
    checkpoints: &Path,
    temporary: &Path,
    state: CheckpointState,
) -> Result<PathBuf, CheckpointError> {
    let target = checkpoints.join(folder_name(state.step));
    let state = state.seal(temporary)?;
    sync_all_below(temporary)?;
    write_state(temporary, &state)?;
    sync_folder(temporary)?;
    if CheckpointState::verify(&target).is_ok() {
        // The same step again, because the run was resumed before it: the weights are equal, so the one that
        // is there stays, and no moment exists in which neither is.
        fs::remove_dir_all(temporary).map_err(io_error("cannot remove", temporary))?;
        point(checkpoints, LATEST, state.step)?;
        return Ok(target);
    }
    if target.exists() {
        fs::remove_dir_all(&target).map_err(io_error("cannot replace the damaged", &target))?;
    }
    fs::rename(temporary, &target).map_err(io_error("cannot finish", &target))?;
    sync_folder(checkpoints)?;
    point(checkpoints, LATEST, state.step)?;
    Ok(target)
}

fn write_state(folder: &Path, state: &CheckpointState) -> Result<(), CheckpointError> {
    let path = folder.join(STATE_FILE);
    let json = serde_json::to_vec_pretty(state)
        .map_err(|error| CheckpointError::Format { path: path.clone(), message: error.to_string() })?;
    fs::write(&path, json).map_err(io_error("cannot write", &path))?;
    sync_file(&path)
}

fn sync_file(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("cannot flush to disk", path))
}

fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    sync_file(path)
}

fn sync_all_below(folder: &Path) -> Result<(), CheckpointError> {
    for path in files_below(folder)? {
        sync_file(&path)?;
    }
    sync_folder(&folder.join("model"))?;
    sync_folder(&folder.join("optimizer"))
}

/// Lets the link `name` point at the checkpoint of `step`, by a rename.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn point(checkpoints: &Path, name: &str, step: u64) -> Result<(), CheckpointError> {
    let sibling = checkpoints.join(format!("{name}.new"));
    if sibling.symlink_metadata().is_ok() {
        fs::remove_file(&sibling).map_err(io_error("cannot replace", &sibling))?;
    }
    std::os::unix::fs::symlink(folder_name(step), &sibling).map_err(io_error("cannot link", &sibling))?;
    fs::rename(&sibling, checkpoints.join(name)).map_err(io_error("cannot link", &sibling))?;
    sync_folder(checkpoints)
}

/// Deletes all but the newest `keep_last` checkpoints, once the newest one has been read back and verified. The one
/// that the link `best` points at stays.
///
/// # Errors
///
/// [`CheckpointError`] if the newest one is damaged (then nothing is deleted) or a folder cannot be removed.
pub fn retain(checkpoints: &Path, keep_last: usize) -> Result<(), CheckpointError> {
    let found = read::list(checkpoints)?;
    if found.len() <= keep_last {
        return Ok(());
    }
    if let Some(newest) = found.last() {
        CheckpointState::verify(newest)?;
    }
    let best = fs::read_link(checkpoints.join(BEST)).ok();
    let is_best = |path: &PathBuf| {
        path.file_name().is_some() && path.file_name() == best.as_ref().and_then(|best| best.file_name())
    };
    for path in found[..found.len() - keep_last.max(1)].iter().filter(|path| !is_best(path)) {
        fs::remove_dir_all(path).map_err(io_error("cannot remove the old checkpoint", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::manifest::tests::small_checkpoint;

    fn save(checkpoints: &Path, step: u64) -> PathBuf {
        let temporary = begin(checkpoints, step).unwrap();
        let state = small_checkpoint(&temporary, step);
        fs::remove_file(temporary.join(STATE_FILE)).unwrap();
        finish(checkpoints, &temporary, state).unwrap()
    }

    #[test]
    fn a_finished_checkpoint_is_verified_and_latest() {
        let dir = tempfile::tempdir().unwrap();
        let path = save(dir.path(), 12);
        assert_eq!(path, dir.path().join("step-000000012"));
        assert_eq!(CheckpointState::verify(&path).unwrap().step, 12);
        assert_eq!(CheckpointState::verify(&dir.path().join(LATEST)).unwrap().step, 12);
    }

    #[test]
    fn an_unfinished_folder_is_no_checkpoint_and_is_removed_at_the_next_save() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = begin(dir.path(), 3).unwrap();
        assert!(read::list(dir.path()).unwrap().is_empty());
        save(dir.path(), 4);
        assert!(!unfinished.exists());
    }

    #[test]
    fn retention_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 3, 10] {
            save(dir.path(), step);
        }
        retain(dir.path(), 2).unwrap();
        let names: Vec<_> = read::list(dir.path()).unwrap();
        assert_eq!(names, [dir.path().join("step-000000003"), dir.path().join("step-000000010")]);
    }

    #[test]
    fn retention_keeps_the_best() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 3] {
            save(dir.path(), step);
        }
        point(dir.path(), BEST, 3).unwrap();
        point(dir.path(), BEST, 1).unwrap();
        retain(dir.path(), 1).unwrap();
        let names: Vec<_> = read::list(dir.path()).unwrap();
        assert_eq!(names, [dir.path().join("step-000000001"), dir.path().join("step-000000003")]);
        assert_eq!(CheckpointState::verify(&dir.path().join(BEST)).unwrap().step, 1);
    }

    #[test]
    fn retention_deletes_nothing_when_the_newest_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 3] {
            save(dir.path(), step);
        }
        fs::write(dir.path().join("step-000000003/weights"), [0, 0, 0]).unwrap();
        assert!(retain(dir.path(), 1).is_err());
        assert_eq!(read::list(dir.path()).unwrap().len(), 3);
    }

    #[test]
    fn saving_a_step_again_keeps_it_and_mends_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), 5);
        let path = save(dir.path(), 5);
        assert_eq!(CheckpointState::verify(&path).unwrap().step, 5);
        fs::write(path.join("weights"), [9]).unwrap();
        save(dir.path(), 5);
        assert_eq!(CheckpointState::verify(&path).unwrap().step, 5);
    }
}
