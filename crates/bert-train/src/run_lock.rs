//! One start at a time in a run folder.
//!
//! Ranks outlive a killed launcher by seconds and train on: a start that did not wait for them would share its folder with
//! them, and lose lines or checkpoints. Rank 0 holds `run.lock` alone as long as it lives; the other ranks share
//! `ranks.lock`, and the next start waits until nobody has either. The kernel releases what a dead process held.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::Path,
    process, thread,
    time::{Duration, Instant},
};

use crate::{error::TrainError, machine, run_dir::RunDir};

/// Open MPI's ranks end within three seconds after mpirun was killed.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);

/// Keeps other starts out of a run folder until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    _held: File,
    /// How long this start waited for the ranks of an earlier one.
    pub waited: Duration,
    /// Why locks do not work here, if they do not.
    pub problem: Option<String>,
}

impl RunLock {
    /// For rank 0: waits for every rank of an earlier start to end, for as long as that can take and at most `longest`.
    ///
    /// # Errors
    ///
    /// [`TrainError::InUse`] if one lives on; [`TrainError::Io`] if the files cannot be made.
    pub fn of_first(run_dir: &RunDir, longest: Duration) -> Result<Self, TrainError> {
        let start = Instant::now();
        let is_over = || start.elapsed() >= longest.min(LONGEST_WAIT);
        let mut first = open(&run_dir.lock())?;
        let mut problem = obtain(run_dir, || first.try_lock(), is_over)?;
        // Nobody joins the ranks of a folder whose first rank is another one, so this file stays free.
        let ranks = open(&run_dir.ranks_lock())?;
        problem = problem.or(obtain(run_dir, || ranks.try_lock(), is_over)?);
        let holder = format!("process {} on {}\n", process::id(), machine::host_name());
        let told = first.set_len(0).and_then(|()| first.write_all(holder.as_bytes()));
        told.map_err(|source| io_error("cannot write", &run_dir.lock(), source))?;
        Ok(Self { _held: first, waited: start.elapsed(), problem })
    }

    /// For the other ranks, once rank 0 has its lock; `None` where they have no folder of their own.
    ///
    /// # Errors
    ///
    /// [`TrainError::InUse`] if rank 0 has died meanwhile and another start is beginning; [`TrainError::Io`] if the file
    /// cannot be opened.
    pub fn of_other(run_dir: &RunDir) -> Result<Option<Self>, TrainError> {
        if !run_dir.root().is_dir() {
            return Ok(None);
        }
        let ranks = open(&run_dir.ranks_lock())?;
        let problem = obtain(run_dir, || ranks.try_lock_shared(), || true)?;
        Ok(Some(Self { _held: ranks, waited: Duration::ZERO, problem }))
    }
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> TrainError {
    TrainError::Io { step, path: path.to_path_buf(), source }
}

fn open(path: &Path) -> Result<File, TrainError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    opened.map_err(|source| io_error("cannot open", path, source))
}

/// Tries until it works, cannot work on this file system (the reason is returned), or `is_over`.
fn obtain(
    run_dir: &RunDir,
    mut try_lock: impl FnMut() -> Result<(), TryLockError>,
    is_over: impl Fn() -> bool,
) -> Result<Option<String>, TrainError> {
    loop {
        match try_lock() {
            Ok(()) => return Ok(None),
            Err(TryLockError::Error(error)) => return Ok(Some(error.to_string())),
            Err(TryLockError::WouldBlock) if is_over() => return Err(in_use(run_dir)),
            Err(TryLockError::WouldBlock) => pause(),
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "waits for processes that nobody here can wait for in another way"
)]
pub(crate) fn pause() {
    thread::sleep(POLL);
}

fn in_use(run_dir: &RunDir) -> TrainError {
    let told = fs::read_to_string(run_dir.lock()).unwrap_or_default();
    let holder = if told.trim().is_empty() { "an unknown process" } else { told.trim() };
    TrainError::InUse { path: run_dir.root().to_path_buf(), holder: holder.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(60);

    fn folder() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path().to_path_buf());
        (dir, run_dir)
    }

    #[test]
    fn a_second_start_is_refused_and_told_who_is_there() {
        let (_dir, run_dir) = folder();
        let first = RunLock::of_first(&run_dir, SHORT).unwrap();
        assert!(first.problem.is_none());
        let error = RunLock::of_first(&run_dir, SHORT).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, TrainError::InUse { .. }), "{message}");
        assert!(message.contains(&format!("process {} on ", process::id())), "{message}");
        drop(first);
        assert!(RunLock::of_first(&run_dir, SHORT).is_ok());
    }

    #[test]
    fn a_start_waits_for_each_rank_of_the_last_one() {
        let (_dir, run_dir) = folder();
        let first = RunLock::of_first(&run_dir, SHORT).unwrap();
        let others = [(); 2].map(|()| RunLock::of_other(&run_dir).unwrap().unwrap());
        drop(first);
        assert!(RunLock::of_first(&run_dir, SHORT).is_err(), "two ranks live");
        let [second, third] = others;
        drop(second);
        assert!(RunLock::of_first(&run_dir, SHORT).is_err(), "one rank lives");
        thread::scope(|scope| {
            let next = scope.spawn(|| RunLock::of_first(&run_dir, 1000 * SHORT));
            drop(third);
            assert!(next.join().unwrap().is_ok());
        });
    }

    #[test]
    fn ranks_without_the_folder_need_no_lock() {
        let run_dir = RunDir::new("nowhere/at/all".into());
        assert!(RunLock::of_other(&run_dir).unwrap().is_none());
    }
}
