//! Small file habits shared by everything that writes: hash while writing, sync, then rename.
//!
//! Nothing here knows what the bytes mean.

use crate::error::DataError;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Size and BLAKE3 of a file, as a manifest keeps them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileRecord {
    /// Size in bytes.
    pub num_bytes: u64,
    /// BLAKE3 of the content, 64 lower-case hex digits.
    pub blake3: String,
}

/// A buffered file that hashes what is written to it.
pub(crate) struct HashingFile {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    num_bytes: u64,
}

impl HashingFile {
    /// Creates or truncates the file.
    pub(crate) fn create(path: &Path) -> Result<Self, DataError> {
        let file = File::create(path).map_err(DataError::io("create", path))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { path: path.to_path_buf(), file, hasher: blake3::Hasher::new(), num_bytes: 0 })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hasher.update(bytes);
        self.num_bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(DataError::io("write", &self.path))
    }

    /// Flushes and syncs the file, and says what was written.
    pub(crate) fn finish(self) -> Result<FileRecord, DataError> {
        let failed = |e: io::Error| DataError::io("sync", &self.path)(e);
        let file = self.file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(FileRecord { num_bytes: self.num_bytes, blake3: self.hasher.finalize().to_hex().to_string() })
    }
}

/// Hashes the bytes `start..end` of a file with bounded memory.
pub(crate) fn hash_range(
    path: &Path,
    start: u64,
    end: u64,
    hasher: &mut blake3::Hasher,
) -> Result<u64, DataError> {
    let mut file = File::open(path).map_err(DataError::io("open", path))?;
    file.seek(SeekFrom::Start(start)).map_err(DataError::io("seek in", path))?;
    let mut reader = file.take(end - start);
    let mut buffer = vec![0u8; 1 << 18];
    let mut num_bytes = 0;
    loop {
        let got = reader.read(&mut buffer).map_err(DataError::io("read", path))?;
        if got == 0 {
            return Ok(num_bytes);
        }
        hasher.update(&buffer[..got]);
        num_bytes += got as u64;
    }
}

/// Writes a file so that a reader sees the old content or the new one, never a part.
///
/// # Errors
///
/// [`DataError::Io`] if the folder cannot be written.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let folder = parent_of(path);
    fs::create_dir_all(folder).map_err(DataError::io("create folder", folder))?;
    let name = path.file_name().map_or_else(Default::default, |n| n.to_string_lossy().into_owned());
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let mut file = File::create(&temporary).map_err(DataError::io("create", &temporary))?;
    file.write_all(bytes).map_err(DataError::io("write", &temporary))?;
    file.sync_all().map_err(DataError::io("sync", &temporary))?;
    fs::rename(&temporary, path).map_err(DataError::io("rename to", path))?;
    sync_folder(folder)
}

/// Makes renames inside a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), DataError> {
    let handle = File::open(folder).map_err(DataError::io("open folder", folder))?;
    handle.sync_all().map_err(DataError::io("sync folder", folder))
}

/// The folder a path lies in, `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The entries of a folder, sorted by name. The only place that lists folders.
pub(crate) fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io("list", folder))? {
        entries.push(entry.map_err(DataError::io("list", folder))?.path());
    }
    entries.sort();
    Ok(entries)
}
