//! What the targets share: one folder per process, in memory where there is such a place.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Feeds bytes to an entry of bert-model.
///
/// # Panics
///
/// If there is no such entry, or a promise of the parser is broken.
pub fn feed(name: &str, data: &[u8]) {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let shared = Path::new("/dev/shm");
        let root = if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() };
        let dir = root.join(format!("bert-model-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder for the files of this target");
        dir
    });
    let entry = bert_model::hf::fuzzing::ENTRIES.iter().find(|(known, _)| *known == name);
    entry.expect("a known entry").1(dir, data);
}
