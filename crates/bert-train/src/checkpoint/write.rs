//! Writing a checkpoint: temporary sibling, files on disk, manifest last, rename, links, retention.
//!
//! Owns the order of these steps. A kill at any point leaves either the old set of checkpoints or the old set and
//! one more; what it left behind is removed at the next start. What is deleted loses its name first, so a folder
//! that is half there is never found under the name of a checkpoint.

use std::path::{Path, PathBuf};

use super::{
    BEST, CheckpointError, CheckpointState, FileEntry, LATEST, STATE_FILE,
    disk::{Disk, Folder},
    manifest::sorted_entries,
    read,
};

/// Prefix of folders that are being written.
const UNFINISHED_PREFIX: &str = ".unfinished-";
/// Prefix of folders that are being deleted.
const DELETED_PREFIX: &str = ".deleted-";
/// Suffix of links that are being made.
const LINK_SUFFIX: &str = ".new";
/// Folder of the model in a checkpoint.
pub(crate) const MODEL: &str = "model";
/// Folder of the moments in a checkpoint.
pub(crate) const OPTIMIZER: &str = "optimizer";

/// Folder name of the checkpoint after `step` updates.
#[must_use]
pub fn folder_name(step: u64) -> String {
    format!("step-{step:09}")
}

/// Where the files of an unfinished checkpoint go.
#[must_use]
pub fn temporary_folder(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("{UNFINISHED_PREFIX}{}", folder_name(step)))
}

/// Makes the sub-folders of the temporary folder that this rank writes into; any rank may come first.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn begin(disk: &Disk, checkpoints: &Path, step: u64, names: &[&str]) -> Result<PathBuf, CheckpointError> {
    let folder = temporary_folder(checkpoints, step);
    names.iter().try_for_each(|name| disk.create_folder(&folder.join(name)))?;
    Ok(folder)
}

/// Removes what a kill or a failure left behind: unfinished and half-deleted folders, links that were being made.
/// Returns their names.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn clean(disk: &Disk, checkpoints: &Path) -> Result<Vec<String>, CheckpointError> {
    let mut removed = Vec::new();
    for path in sorted_entries(checkpoints)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(UNFINISHED_PREFIX) || name.starts_with(DELETED_PREFIX) {
            disk.remove_folder(&path)?;
        } else if [LATEST, BEST].iter().any(|link| name == format!("{link}{LINK_SUFFIX}")) {
            disk.remove_file(&path)?;
        } else {
            continue;
        }
        removed.push(name);
    }
    Ok(removed)
}

/// Seals the temporary folder with its manifest and gives it its final name; returns that path.
///
/// # Errors
///
/// [`CheckpointError`]; the temporary folder then stays unfinished and no other checkpoint has changed.
pub fn finish(
    disk: &Disk,
    checkpoints: &Path,
    temporary: &Path,
    state: CheckpointState,
) -> Result<PathBuf, CheckpointError> {
    let target = checkpoints.join(folder_name(state.step));
    let state = state.seal(temporary)?;
    state.files.iter().try_for_each(|entry| check_visible(temporary, entry))?;
    for name in [MODEL, OPTIMIZER] {
        disk.sync_folder(&temporary.join(name))?;
    }
    write_state(disk, temporary, &state)?;
    disk.sync_folder(temporary)?;
    if CheckpointState::verify(&target).is_ok() {
        // The same step again, because the run was resumed before it: the weights are equal, so the one that
        // is there stays, and no moment exists in which neither is.
        disk.remove_folder(temporary)?;
        point(disk, checkpoints, LATEST, state.step)?;
        return Ok(target);
    }
    let damaged = if target.exists() { Some(take_name(disk, &target)?) } else { None };
    disk.rename(temporary, &target)?;
    disk.sync_folder(checkpoints)?;
    point(disk, checkpoints, LATEST, state.step)?;
    damaged.map_or(Ok(()), |path| disk.remove_folder(&path))?;
    Ok(target)
}

/// Rank 0 sees the file that some rank wrote, in its whole length.
fn check_visible(folder: &Path, entry: &FileEntry) -> Result<(), CheckpointError> {
    let path = folder.join(&entry.path);
    let problem = match path.metadata() {
        Ok(data) if data.len() == entry.num_bytes => return Ok(()),
        Ok(data) => format!("expected {} bytes, got {}", entry.num_bytes, data.len()),
        Err(error) => error.to_string(),
    };
    Err(CheckpointError::NotShared { path, problem })
}

fn write_state(disk: &Disk, folder: &Path, state: &CheckpointState) -> Result<(), CheckpointError> {
    let path = folder.join(STATE_FILE);
    let json = serde_json::to_vec_pretty(state)
        .map_err(|error| CheckpointError::Format { path: path.clone(), message: error.to_string() })?;
    Folder::new(disk, folder).write(&path, &mut |file| file.write_all(&json))
}

/// Lets the link `name` point at the checkpoint of `step`, by a rename.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn point(disk: &Disk, checkpoints: &Path, name: &str, step: u64) -> Result<(), CheckpointError> {
    let sibling = checkpoints.join(format!("{name}{LINK_SUFFIX}"));
    if sibling.symlink_metadata().is_ok() {
        disk.remove_file(&sibling)?;
    }
    disk.link(&folder_name(step), &sibling)?;
    disk.rename(&sibling, &checkpoints.join(name))?;
    disk.sync_folder(checkpoints)
}

/// Takes the name of a checkpoint from a folder that is to be deleted.
fn take_name(disk: &Disk, path: &Path) -> Result<PathBuf, CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let nameless = path.with_file_name(format!("{DELETED_PREFIX}{name}"));
    if nameless.exists() {
        disk.remove_folder(&nameless)?;
    }
    disk.rename(path, &nameless)?;
    Ok(nameless)
}

/// Deletes all but the newest `keep_last` checkpoints up to `step`, once that of `step` has been read back and
/// verified. The one that the link `best` points at stays, and so do those of later steps: they were passed over
/// when the run was resumed, and are replaced when training comes to them again.
///
/// # Errors
///
/// [`CheckpointError`] if the one of `step` is damaged (then nothing is deleted) or a folder cannot be removed.
pub fn retain(disk: &Disk, checkpoints: &Path, keep_last: usize, step: u64) -> Result<(), CheckpointError> {
    let newest = checkpoints.join(folder_name(step));
    let mut found = read::list(checkpoints)?;
    let Some(newest_idx) = found.iter().position(|path| *path == newest) else { return Ok(()) };
    found.truncate(newest_idx + 1);
    if found.len() <= keep_last {
        return Ok(());
    }
    CheckpointState::verify(&newest)?;
    let best = std::fs::read_link(checkpoints.join(BEST)).ok();
    let is_best = |path: &PathBuf| {
        path.file_name().is_some() && path.file_name() == best.as_ref().and_then(|best| best.file_name())
    };
    for path in found[..found.len() - keep_last.max(1)].iter().filter(|path| !is_best(path)) {
        let nameless = take_name(disk, path)?;
        disk.remove_folder(&nameless)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::checkpoint::manifest::tests::small_checkpoint;

    /// Rename, three files, three folders: what deleting a small checkpoint takes.
    const POINTS_OF_A_REMOVAL: u64 = 7;

    fn try_save(disk: &Disk, checkpoints: &Path, step: u64) -> Result<PathBuf, CheckpointError> {
        clean(disk, checkpoints)?;
        let temporary = begin(disk, checkpoints, step, &[MODEL, OPTIMIZER])?;
        let mut state = small_checkpoint(&temporary, step);
        fs::remove_file(temporary.join(STATE_FILE)).unwrap();
        let mut folder = Folder::new(disk, &temporary);
        folder.write(&temporary.join("model/more"), &mut |file| file.write_all(b"more"))?;
        state.files.append(&mut folder.entries);
        finish(disk, checkpoints, &temporary, state)
    }

    fn save(checkpoints: &Path, step: u64) -> PathBuf {
        try_save(&Disk::default(), checkpoints, step).unwrap()
    }

    fn retain_plainly(checkpoints: &Path, keep_last: usize, step: u64) -> Result<(), CheckpointError> {
        retain(&Disk::default(), checkpoints, keep_last, step)
    }

    fn steps(checkpoints: &Path) -> Vec<u64> {
        let verified = |path: &PathBuf| CheckpointState::verify(path).unwrap().step;
        read::list(checkpoints).unwrap().iter().map(verified).collect()
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
    fn an_unfinished_folder_is_no_checkpoint_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = begin(&Disk::default(), dir.path(), 3, &[MODEL]).unwrap();
        fs::create_dir_all(dir.path().join(".deleted-step-000000001/model")).unwrap();
        std::os::unix::fs::symlink("step-000000003", dir.path().join("latest.new")).unwrap();
        assert!(read::list(dir.path()).unwrap().is_empty());
        let removed = clean(&Disk::default(), dir.path()).unwrap();
        assert_eq!(removed, [".deleted-step-000000001", ".unfinished-step-000000003", "latest.new"]);
        assert!(!unfinished.exists());
        assert!(sorted_entries(dir.path()).unwrap().is_empty());
    }

    /// Whatever fails, and wherever: what was complete before is complete and found, the best one stays, and the next
    /// save goes well.
    #[test]
    fn an_error_at_any_point_loses_nothing() {
        let attempt = |disk: &Disk, checkpoints: &Path, best: u64| {
            try_save(disk, checkpoints, 5)?;
            point(disk, checkpoints, BEST, best)?;
            retain(disk, checkpoints, 1, 5)
        };
        let prepared = || {
            let dir = tempfile::tempdir().unwrap();
            for step in [1, 2, 3] {
                save(dir.path(), step);
            }
            point(&Disk::default(), dir.path(), BEST, 2).unwrap();
            dir
        };
        let counting = Disk::default();
        attempt(&counting, prepared().path(), 5).unwrap();
        let num_points = counting.num_points();
        assert!(num_points > 30, "{num_points}");
        for (kind, best, at_the_end) in [("enospc", 5, vec![5]), ("eio", 2, vec![2, 5])] {
            let num_points = if best == 2 { num_points - POINTS_OF_A_REMOVAL } else { num_points };
            for number in 1..=num_points {
                let dir = prepared();
                let error = attempt(&Disk::failing(number, kind), dir.path(), best).unwrap_err();
                assert!(error.to_string().contains(&*dir.path().to_string_lossy()), "{error}");
                let found = read::newest_verified(dir.path()).unwrap().unwrap();
                assert!(found.passed_over.is_empty(), "point {number}: {:?}", found.passed_over);
                let left = steps(dir.path());
                assert!(left == [1, 2, 3] || left.contains(&5), "point {number}: {left:?}");
                let best_now = CheckpointState::verify(&dir.path().join(BEST)).unwrap().step;
                assert!([2, best].contains(&best_now), "point {number}: {best_now}");
                attempt(&Disk::default(), dir.path(), best).unwrap();
                assert_eq!(steps(dir.path()), at_the_end, "point {number}");
                let num_links = 2;
                assert_eq!(sorted_entries(dir.path()).unwrap().len(), at_the_end.len() + num_links);
            }
        }
    }

    #[test]
    fn a_file_that_another_rank_wrote_elsewhere_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let temporary = begin(&Disk::default(), dir.path(), 5, &[MODEL, OPTIMIZER]).unwrap();
        let mut state = small_checkpoint(&temporary, 5);
        let path = "optimizer/rank-00001.safetensors".to_string();
        state.files.push(FileEntry { path, num_bytes: 1, blake3: String::new() });
        let error = finish(&Disk::default(), dir.path(), &temporary, state).unwrap_err();
        assert!(error.to_string().contains("rank-00001") && error.to_string().contains("share"), "{error}");
        assert!(read::list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn retention_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 3, 10] {
            save(dir.path(), step);
        }
        retain_plainly(dir.path(), 2, 10).unwrap();
        assert_eq!(steps(dir.path()), [3, 10]);
    }

    #[test]
    fn retention_keeps_the_best() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 3] {
            save(dir.path(), step);
        }
        point(&Disk::default(), dir.path(), BEST, 3).unwrap();
        point(&Disk::default(), dir.path(), BEST, 1).unwrap();
        retain_plainly(dir.path(), 1, 3).unwrap();
        assert_eq!(steps(dir.path()), [1, 3]);
        assert_eq!(CheckpointState::verify(&dir.path().join(BEST)).unwrap().step, 1);
    }

    #[test]
    fn retention_deletes_nothing_when_the_newest_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 3] {
            save(dir.path(), step);
        }
        fs::write(dir.path().join("step-000000003/weights"), [0, 0, 0]).unwrap();
        assert!(retain_plainly(dir.path(), 1, 3).is_err());
        assert_eq!(read::list(dir.path()).unwrap().len(), 3);
    }

    #[test]
    fn a_damaged_later_checkpoint_does_not_stand_in_the_way_of_retention() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 9] {
            save(dir.path(), step);
        }
        let damaged = dir.path().join("step-000000009/weights");
        fs::write(&damaged, [0, 0, 0]).unwrap();
        // Resumed after step 2, since that of step 9 is damaged.
        save(dir.path(), 3);
        retain_plainly(dir.path(), 1, 3).unwrap();
        fs::write(&damaged, [1, 2, 3]).unwrap();
        assert_eq!(steps(dir.path()), [3, 9]);
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
        assert_eq!(sorted_entries(dir.path()).unwrap().len(), 2);
    }
}
