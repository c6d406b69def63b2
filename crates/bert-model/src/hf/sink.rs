//! Where the files of a folder go.
//!
//! Owns the seam between what a file contains and how it reaches the disk; a caller that must survive kills and full
//! disks brings its own [`FileSink`].

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// Contents of a file, written piece by piece.
pub type Fill<'a> = dyn FnMut(&mut dyn Write) -> io::Result<()> + 'a;

/// Takes the files of a folder one after the other.
pub trait FileSink {
    /// Creates the file at `path`, lets `fill` write it, and syncs it.
    ///
    /// # Errors
    ///
    /// What the system or `fill` says.
    fn file(&mut self, path: &Path, fill: &mut Fill<'_>) -> io::Result<()>;
}

/// Ordinary files.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainFiles;

impl FileSink for PlainFiles {
    fn file(&mut self, path: &Path, fill: &mut Fill<'_>) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        fill(&mut file)?;
        file.into_inner()?.sync_all()
    }
}
