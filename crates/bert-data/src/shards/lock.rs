//! One build at a time for a shard folder.
//!
//! Two starts that both find no shards would write into the same unfinished folder, and the first to be done would take it
//! away from the other. `<dir>.lock` is held while shards are built; the kernel releases what a dead process held. Waiting
//! is the business of the caller: nothing here reads a clock.

use super::build::sibling;
use crate::error::DataError;
use crate::files::parent_of;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

/// Keeps other builds of a shard folder out until it is dropped.
#[derive(Debug)]
pub struct BuildLock {
    /// `None` on a file system that has no locks.
    _held: Option<File>,
}

impl BuildLock {
    /// Takes the lock of the shard folder `dir`, which need not exist. Look for shards once more afterwards: whoever held the
    /// lock before may have built them.
    ///
    /// # Errors
    ///
    /// [`DataError::InUse`] if another process builds these shards; [`DataError::Io`] if the file cannot be made.
    pub fn take(dir: &Path) -> Result<Self, DataError> {
        let path = sibling(dir, "lock");
        let parent = parent_of(&path);
        fs::create_dir_all(parent).map_err(DataError::io("create folder", parent))?;
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(DataError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let told = fs::read_to_string(&path).unwrap_or_default();
                let holder = if told.trim().is_empty() { "another process" } else { told.trim() };
                return Err(DataError::InUse { path: dir.to_path_buf(), holder: holder.to_owned() });
            }
            // Building without a lock is what a single start needs.
            Err(TryLockError::Error(_)) => return Ok(Self { _held: None }),
        }
        let told = file.set_len(0).and_then(|()| writeln!(file, "process {}", std::process::id()));
        told.map_err(DataError::io("write", &path))?;
        Ok(Self { _held: Some(file) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_build_is_refused_by_name_until_the_first_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let shards = dir.path().join("a/b/shards");
        let first = BuildLock::take(&shards).unwrap();
        let error = BuildLock::take(&shards).unwrap_err();
        assert!(matches!(error, DataError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        BuildLock::take(&dir.path().join("a/b/others")).unwrap();
        drop(first);
        BuildLock::take(&shards).unwrap();
    }
}
