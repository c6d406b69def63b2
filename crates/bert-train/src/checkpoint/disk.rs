//! Every file-system operation of a save, one by one.
//!
//! Owns the operations and the counting of them: each creation, write, flush, rename, link and removal is a *point* with
//! a number, from 1 at the start of the process. The environment variable [`FAULT_VARIABLE`] makes one point fail, so
//! that tests can walk over all of them. Knows nothing of what a checkpoint is.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind::DirectoryNotEmpty, Write},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bert_model::hf::{FileSink, Fill};
use crossbeam::channel;
use signal_hook::{consts::SIGKILL, low_level};

use super::{CheckpointError, FileEntry, io_error, manifest::sorted_entries};

/// Makes a point of a save fail: `kill@N`, `enospc@N`, `eio@N`, `pause@N`, each with or without `/rankR`; `list` names
/// every point in the log.
pub const FAULT_VARIABLE: &str = "BERT_TRAIN_SAVE_FAULT";

/// A file is written in pieces of this size; each piece is a point.
const PIECE_BYTES: usize = 1 << 20;
/// How long `pause` stops at its point.
const PAUSE: Duration = Duration::from_secs(1);
/// Far more files than a rank writes into one folder.
const MAX_RETRIES: u32 = 20;
/// Linux's number of "No space left on device".
const ENOSPC: i32 = 28;
/// Linux's number of "Input/output error".
const EIO: i32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Kill,
    Pause,
    Error(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    List,
    At(u64, Effect),
}

/// The file system as a save sees it.
#[derive(Debug, Default)]
pub struct Disk {
    fault: Option<Fault>,
    num_points: AtomicU64,
}

impl Disk {
    /// A file system with the fault that `value` (of [`FAULT_VARIABLE`]) describes, if it is meant for this rank.
    ///
    /// # Errors
    ///
    /// What is wrong with the value.
    pub fn with_fault(value: Option<&str>, rank: usize) -> Result<Self, String> {
        let Some(value) = value else { return Ok(Self::default()) };
        let fault = parse(value, rank).ok_or_else(|| {
            format!(
                "{FAULT_VARIABLE}={value} is no fault; expected kill@N, enospc@N, eio@N or pause@N, N from 1, with or \
                 without /rankR, or list; unset it to train"
            )
        })?;
        tracing::warn!("{FAULT_VARIABLE}={value}: saves of this run are made to fail; unset it to train");
        Ok(Self { fault, num_points: AtomicU64::new(0) })
    }

    /// Counts a point; returns what shall happen there.
    fn effect(&self, operation: &str, path: &Path) -> Option<Effect> {
        let number = self.num_points.fetch_add(1, Ordering::Relaxed) + 1;
        match self.fault? {
            Fault::List => {
                tracing::info!("save point {number}: {operation} `{}`", path.display());
                None
            }
            Fault::At(point, effect) if point == number => {
                tracing::warn!("save point {number}: {operation} `{}`: {effect:?}", path.display());
                Some(effect)
            }
            Fault::At(..) => None,
        }
    }

    fn point(&self, operation: &'static str, path: &Path) -> io::Result<()> {
        self.effect(operation, path).map_or(Ok(()), strike)
    }

    /// Makes a folder and those above it.
    pub(crate) fn create_folder(&self, path: &Path) -> Result<(), CheckpointError> {
        let create = || {
            self.point("create folder", path)?;
            fs::create_dir_all(path)
        };
        create().map_err(io_error("cannot create", path))
    }

    /// Creates a file, fills it and flushes it to disk; returns its length and hash under its path relative to `root`.
    fn write_file(&self, root: &Path, path: &Path, fill: &mut Fill<'_>) -> io::Result<FileEntry> {
        self.point("create", path)?;
        let file = File::create(path)?;
        let counted = CountedFile {
            disk: self,
            path,
            file,
            hasher: blake3::Hasher::new(),
            num_bytes: 0,
            has_failed: false,
        };
        let mut buffered = BufWriter::with_capacity(PIECE_BYTES, counted);
        fill(&mut buffered)?;
        let written = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
        self.point("fsync", path)?;
        written.file.sync_all()?;
        Ok(FileEntry {
            path: path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned(),
            num_bytes: written.num_bytes,
            blake3: written.hasher.finalize().to_hex().to_string(),
        })
    }

    /// Flushes the entries of a folder to disk.
    pub(crate) fn sync_folder(&self, path: &Path) -> Result<(), CheckpointError> {
        let sync = || {
            self.point("fsync folder", path)?;
            File::open(path)?.sync_all()
        };
        sync().map_err(io_error("cannot flush to disk", path))
    }

    /// Gives a file or folder another name.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), CheckpointError> {
        let rename = || {
            self.point("rename to", to)?;
            fs::rename(from, to)
        };
        rename().map_err(io_error("cannot rename to", to))
    }

    /// Makes a symbolic link.
    pub(crate) fn link(&self, target: &str, link: &Path) -> Result<(), CheckpointError> {
        let make = || {
            self.point("link", link)?;
            std::os::unix::fs::symlink(target, link)
        };
        make().map_err(io_error("cannot link", link))
    }

    /// Removes a file or a link.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<(), CheckpointError> {
        let remove = || {
            self.point("remove", path)?;
            fs::remove_file(path)
        };
        remove().map_err(io_error("cannot remove", path))
    }

    /// Removes a folder and all below it, entry by entry.
    ///
    /// A rank may outlive its killed launcher for a moment and still write into the folder that the next start removes:
    /// what has come in the meantime is removed as well.
    pub(crate) fn remove_folder(&self, path: &Path) -> Result<(), CheckpointError> {
        let mut num_retries = 0;
        loop {
            for entry in sorted_entries(path)? {
                let is_folder = entry.symlink_metadata().is_ok_and(|data| data.is_dir());
                if is_folder { self.remove_folder(&entry)? } else { self.remove_file(&entry)? }
            }
            let remove = || {
                self.point("remove folder", path)?;
                fs::remove_dir(path)
            };
            match remove() {
                Err(error) if error.kind() == DirectoryNotEmpty && num_retries < MAX_RETRIES => {
                    num_retries += 1
                }
                result => return result.map_err(io_error("cannot remove", path)),
            }
        }
    }
}

/// `KIND@N` or `KIND@N/rankR`; the inner `None` is a fault of another rank.
fn parse(value: &str, rank: usize) -> Option<Option<Fault>> {
    if value == "list" {
        return Some(Some(Fault::List));
    }
    let (kind, place) = value.split_once('@')?;
    let (point, of_rank) = match place.split_once("/rank") {
        Some((point, of_rank)) => (point, of_rank.parse().ok()?),
        None => (place, rank),
    };
    let effect = match kind {
        "kill" => Effect::Kill,
        "pause" => Effect::Pause,
        "enospc" => Effect::Error(ENOSPC),
        "eio" => Effect::Error(EIO),
        _ => return None,
    };
    let point = point.parse().ok().filter(|point| *point > 0)?;
    Some((of_rank == rank).then_some(Fault::At(point, effect)))
}

fn strike(effect: Effect) -> io::Result<()> {
    match effect {
        Effect::Kill => low_level::raise(SIGKILL),
        Effect::Error(number) => Err(io::Error::from_raw_os_error(number)),
        Effect::Pause => {
            // Nothing ever comes: the deadline is the pause.
            let _ = channel::never::<()>().recv_timeout(PAUSE);
            Ok(())
        }
    }
}

/// A file that hashes what is written to it, and leaves half of a piece behind where a write is made to fail.
struct CountedFile<'a> {
    disk: &'a Disk,
    path: &'a Path,
    file: File,
    hasher: blake3::Hasher,
    num_bytes: u64,
    /// The buffer above would try once more when it is dropped.
    has_failed: bool,
}

impl Write for CountedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.has_failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        self.has_failed = true;
        if let Some(effect) = self.disk.effect("write", self.path) {
            if effect != Effect::Pause {
                self.file.write_all(&bytes[..bytes.len() / 2])?;
            }
            strike(effect)?;
        }
        self.file.write_all(bytes)?;
        self.has_failed = false;
        self.hasher.update(bytes);
        self.num_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The files of one folder, and their entries for the manifest.
pub(crate) struct Folder<'a> {
    disk: &'a Disk,
    root: &'a Path,
    /// What was written so far.
    pub entries: Vec<FileEntry>,
}

impl<'a> Folder<'a> {
    /// An empty list for the files below `root`.
    pub(crate) fn new(disk: &'a Disk, root: &'a Path) -> Self {
        Self { disk, root, entries: Vec::new() }
    }

    /// Writes a file and flushes it to disk.
    pub(crate) fn write(&mut self, path: &Path, fill: &mut Fill<'_>) -> Result<(), CheckpointError> {
        self.file(path, fill).map_err(io_error("cannot write", path))
    }
}

impl FileSink for Folder<'_> {
    fn file(&mut self, path: &Path, fill: &mut Fill<'_>) -> io::Result<()> {
        let entry = self.disk.write_file(self.root, path, fill)?;
        self.entries.push(entry);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Disk {
        /// Points so far.
        pub(crate) fn num_points(&self) -> u64 {
            self.num_points.load(Ordering::Relaxed)
        }

        /// A file system whose point `point` fails with this error number.
        pub(crate) fn failing(point: u64, kind: &str) -> Self {
            Self::with_fault(Some(&format!("{kind}@{point}")), 0).unwrap()
        }
    }

    #[test]
    fn faults_are_for_the_rank_that_they_name() {
        assert_eq!(parse("kill@7", 3), Some(Some(Fault::At(7, Effect::Kill))));
        assert_eq!(parse("eio@7/rank1", 1), Some(Some(Fault::At(7, Effect::Error(EIO)))));
        assert_eq!(parse("eio@7/rank1", 0), Some(None));
        for value in ["", "kill", "kill@", "kill@0", "kill@x", "stab@3", "kill@3/rank", "kill@3/1"] {
            assert_eq!(parse(value, 0), None, "{value}");
            assert!(Disk::with_fault(Some(value), 0).unwrap_err().contains("unset it"));
        }
    }

    #[test]
    fn a_failed_write_leaves_half_a_file_and_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let disk = Disk::failing(2, "enospc");
        let mut folder = Folder::new(&disk, dir.path());
        let error = folder.write(&path, &mut |file| file.write_all(b"12345678")).unwrap_err();
        let text = crate::error::chain_of(&error);
        assert!(
            text.contains("file") && text.contains("No space left") && text.contains("free space"),
            "{text}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"1234");
        assert!(folder.entries.is_empty());
    }

    #[test]
    fn the_hash_of_what_was_written_is_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let disk = Disk::default();
        let mut folder = Folder::new(&disk, dir.path());
        let piece = vec![7; PIECE_BYTES / 2 + 1];
        folder.write(&path, &mut |file| (0..3).try_for_each(|_| file.write_all(&piece))).unwrap();
        let described = crate::checkpoint::manifest::describe_file(dir.path(), &path).unwrap();
        assert_eq!(folder.entries, [described]);
        assert!(disk.num_points() > 3);
    }
}
