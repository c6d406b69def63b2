//! From what a user wrote (files, folders, patterns) to a sorted list of text files.
//!
//! Never opens a file for reading and never follows the order of a folder listing.

use super::format::TextFormat;
use crate::error::DataError;
use crate::files::sorted_entries;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// What a source may be, for messages.
const EXPECTED: &str = "a file of text, a folder with .txt, .jsonl or .parquet files (.gz and .zst too), or a \
                        pattern with * or ? that matches one";

/// A text file and its size when it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes, as it lies on disk.
    pub num_bytes: u64,
    /// How it is read.
    pub format: TextFormat,
}

/// The text files of a corpus in their final order: sources as given, sorted within each source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSources {
    files: Vec<TextFile>,
    /// Number of files of each source and those before it.
    file_ends: Vec<usize>,
}

impl TextSources {
    /// Lists the files behind the sources.
    ///
    /// A source is a file, a folder (every `.txt`, `.jsonl` and `.parquet` below it,
    /// the first two also with `.gz` or `.zst` behind) or a path with `*` and `?` in some components.
    ///
    /// # Errors
    ///
    /// [`DataError::MissingText`] if a source matches nothing; [`DataError::UnsupportedText`] for a format
    /// that is not read; [`DataError::EmptyCorpus`] if no source is given or all files are empty.
    pub fn list(sources: &[PathBuf]) -> Result<Self, DataError> {
        let (mut files, mut file_ends) = (Vec::new(), Vec::new());
        for source in sources {
            let num_before = files.len();
            for path in expand(source)? {
                collect(&path, &mut files)?;
            }
            if files.len() == num_before {
                return Err(DataError::MissingText { path: source.clone(), expected: EXPECTED });
            }
            file_ends.push(files.len());
        }
        if files.iter().all(|f| f.num_bytes == 0) {
            let names: Vec<String> = sources.iter().map(|s| format!("`{}`", s.display())).collect();
            let got = if names.is_empty() { "an empty list of sources".to_owned() } else { names.join(", ") };
            return Err(DataError::EmptyCorpus { got });
        }
        Ok(Self { files, file_ends })
    }

    /// The files in their final order.
    pub fn files(&self) -> &[TextFile] {
        &self.files
    }

    /// Number of sources.
    pub fn num_sources(&self) -> usize {
        self.file_ends.len()
    }

    /// Index of the source that a file belongs to.
    pub fn source_of(&self, file_idx: usize) -> usize {
        self.file_ends.partition_point(|&end| end <= file_idx)
    }

    /// Size of the whole corpus in bytes.
    pub fn num_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.num_bytes).sum()
    }
}

/// Adds a file, or all files of text below a folder, in sorted order.
fn collect(path: &Path, files: &mut Vec<TextFile>) -> Result<(), DataError> {
    let metadata = fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            DataError::MissingText { path: path.to_path_buf(), expected: EXPECTED }
        }
        _ => DataError::Io { action: "look at", path: path.to_path_buf(), source },
    })?;
    if !metadata.is_dir() {
        let refused = |extension| DataError::UnsupportedText { path: path.to_path_buf(), extension };
        let format = TextFormat::of(path).map_err(refused)?;
        files.push(TextFile { path: path.to_path_buf(), num_bytes: metadata.len(), format });
        return Ok(());
    }
    for entry in sorted_entries(path)? {
        if TextFormat::is_found_in_folders(&entry) || entry.is_dir() {
            collect(&entry, files)?;
        }
    }
    Ok(())
}

/// The paths behind a source, sorted; the source itself if it is no pattern.
fn expand(source: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = vec![PathBuf::new()];
    for component in source.components() {
        let name = component.as_os_str().to_string_lossy();
        if !matches!(component, Component::Normal(_)) || !name.contains(['*', '?']) {
            paths.iter_mut().for_each(|p| p.push(component));
            continue;
        }
        let mut matched = Vec::new();
        for folder in paths {
            let listed = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.clone() };
            if !listed.is_dir() {
                continue;
            }
            for entry in sorted_entries(&listed)? {
                let Some(entry_name) = entry.file_name().map(|n| n.to_string_lossy().into_owned()) else {
                    continue;
                };
                if matches(&name, &entry_name) && !entry_name.starts_with('.') {
                    matched.push(folder.join(entry_name));
                }
            }
        }
        paths = matched;
    }
    Ok(paths)
}

/// Whether a name fits a pattern of `*` (any run) and `?` (any one character).
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((star_p, star_n)) = star {
            star = Some((star_p, star_n + 1));
            p = star_p + 1;
            n = star_n + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("part-??.txt", "part-07.txt", true),
            ("part-??.txt", "part-7.txt", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("史*", "史记", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn folders_and_patterns_are_sorted_and_errors_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["b.txt", "a.txt", "sub/c.txt", "d.md"] {
            fs::write(dir.path().join(name), "x\n").unwrap();
        }
        let names = |source: PathBuf| -> Vec<String> {
            let listed = TextSources::list(&[source]).unwrap();
            listed
                .files()
                .iter()
                .map(|f| f.path.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names(dir.path().to_path_buf()), ["a.txt", "b.txt", "c.txt"]);
        assert_eq!(names(dir.path().join("?.txt")), ["a.txt", "b.txt"]);
        assert_eq!(names(dir.path().join("d.md")), ["d.md"]);
        for missing in ["nothing.txt", "*.none"] {
            let error = TextSources::list(&[dir.path().join(missing)]).unwrap_err();
            assert!(error.to_string().contains(missing), "{error}");
        }
    }

    #[test]
    fn empty_corpus_and_other_formats_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.txt");
        fs::write(&empty, "").unwrap();
        let error = TextSources::list(std::slice::from_ref(&empty)).unwrap_err();
        assert!(matches!(&error, DataError::EmptyCorpus { got } if got.contains("empty.txt")), "{error}");
        let table = dir.path().join("x.csv");
        fs::write(&table, "a,b").unwrap();
        assert!(matches!(TextSources::list(&[table]), Err(DataError::UnsupportedText { .. })));
        assert!(matches!(TextSources::list(&[]), Err(DataError::EmptyCorpus { .. })));
    }
}
