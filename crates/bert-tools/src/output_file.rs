//! A file that appears when it is complete, or not at all.
//!
//! Owns the unfinished sibling that is renamed at the end. What is written is the caller's business.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::failure::ToolError;

/// A file that is being written under another name.
#[derive(Debug)]
pub struct OutputFile {
    file: BufWriter<File>,
    unfinished: PathBuf,
    target: PathBuf,
    is_finished: bool,
}

impl OutputFile {
    /// Begins a file that will stand at `target`, in place of what is there.
    ///
    /// # Errors
    ///
    /// If the folder is not there or cannot be written.
    pub fn create(target: &Path) -> anyhow::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = target.with_file_name(format!(".unfinished-{name}-{}", std::process::id()));
        let file = File::create(&unfinished)
            .map_err(|error| ToolError::Usage(format!("cannot write `{}`: {error}", target.display())))?;
        Ok(Self { file: BufWriter::new(file), unfinished, target: target.to_owned(), is_finished: false })
    }

    /// Replaces the first bytes of the file, which must have been written before.
    pub fn overwrite_start(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(bytes)
    }

    /// Makes the file appear.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.unfinished, &self.target)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // The error that ended the writing is the one to report.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out.bin");
        fs::write(&target, "old").unwrap();
        let mut abandoned = OutputFile::create(&target).unwrap();
        abandoned.write_all(b"half").unwrap();
        drop(abandoned);
        assert_eq!(fs::read(&target).unwrap(), b"old");

        let mut file = OutputFile::create(&target).unwrap();
        file.write_all(b"??ole").unwrap();
        file.overwrite_start(b"wh").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old", "not before it is complete");
        file.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing stays behind");
    }
}
