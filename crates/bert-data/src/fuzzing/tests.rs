//! Everything that fuzzing has found, and the seeds it begins with, through the same entries.

use super::*;
use std::fs;
use std::path::PathBuf;

/// The inputs kept for an entry, with their paths.
fn inputs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("tests/fuzz_regressions").join(name), root.join("fuzz/seeds").join(name)];
    let listed = folders.iter().filter(|folder| folder.is_dir());
    let paths = listed.flat_map(|folder| crate::files::sorted_entries(folder).unwrap());
    paths.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

#[test]
fn what_fuzzing_has_found_stays_fixed() {
    let dir = tempfile::tempdir().unwrap();
    for (name, entry) in ENTRIES {
        let inputs = inputs(name);
        assert!(inputs.len() > 1, "no seeds for `{name}`");
        for (path, bytes) in inputs {
            println!("{}", path.display());
            entry(dir.path(), &bytes);
        }
    }
}
