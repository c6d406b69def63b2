//! Rules on where files lie: the top level, test modules, golden values.

use super::{Fault, SourceFile};
use std::collections::BTreeSet;

const FOLDERS: [&str; 8] = ["crates", "launch", "configs", "tests", "docs", ".cargo", ".config", ".ci"];
/// Folders that the repository promises to have.
const REQUIRED: [&str; 5] = ["crates", "launch", "configs", "tests", "docs"];
const ROOT_FILES: [&str; 15] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "NOTICE",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "clippy.toml",
    ".gitignore",
    ".gitattributes",
    ".editorconfig",
];

/// The top level is the promised folders and ordinary root files, nothing else.
pub fn top_level(files: &[SourceFile]) -> Vec<Fault> {
    let is_allowed = |path: &str| match path.split_once('/') {
        Some((folder, _)) => FOLDERS.contains(&folder),
        None => ROOT_FILES.contains(&path),
    };
    let strangers = files.iter().filter(|file| !is_allowed(&file.path));
    let message = format!("expected at the top only {} and ordinary root files", FOLDERS.join(", "));
    let mut faults: Vec<Fault> = strangers.map(|file| Fault::new(&file.path, 1, message.as_str())).collect();
    let present: BTreeSet<&str> =
        files.iter().filter_map(|file| Some(file.path.split_once('/')?.0)).collect();
    let missing = REQUIRED.iter().filter(|folder| !present.contains(**folder));
    faults.extend(
        missing.map(|folder| Fault::new(folder, 1, "expected this folder at the top level, got none")),
    );
    faults
}

/// Every module below `tests/` is declared by the file above it, and every `main.rs` is a target of a manifest;
/// a file that nobody names would be a test that never runs.
pub fn forgotten_tests(files: &[SourceFile]) -> Vec<Fault> {
    let below_tests =
        files.iter().filter(|file| file.path.starts_with("tests/") && file.path.ends_with(".rs"));
    let mut faults = Vec::new();
    for file in below_tests {
        if !is_declared(file, files) {
            let message =
                "expected `mod` in the file above (or `#[path]` in a main.rs, or `[[test]]` for a main.rs)";
            faults.push(Fault::new(&file.path, 1, message));
        }
    }
    faults
}

fn is_declared(file: &SourceFile, files: &[SourceFile]) -> bool {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    if name == "main.rs" {
        return files
            .iter()
            .any(|other| other.path.ends_with("Cargo.toml") && other.text.contains(&file.path));
    }
    // `mod.rs` is the module of its folder; everything else is one of its own name.
    let (folder, module) = match name {
        "mod.rs" => folder.rsplit_once('/').unwrap_or(("", folder)),
        _ => (folder, name.trim_end_matches(".rs")),
    };
    let parents = [format!("{folder}/main.rs"), format!("{folder}/mod.rs"), format!("{folder}.rs")];
    let declaration = format!("mod {module};");
    let declares = |other: &SourceFile| parents.contains(&other.path) && other.text.contains(&declaration);
    let by_path = |other: &SourceFile| {
        let from_tests = file.path.trim_start_matches("tests/");
        other.path.starts_with("tests/") && other.text.contains(&format!("#[path = \"../{from_tests}\"]"))
    };
    files.iter().any(|other| declares(other) || by_path(other))
}

/// Every golden file has a script beside it that made it: of the same name, or one that names the file.
pub fn golden_without_generator(files: &[SourceFile]) -> Vec<Fault> {
    let is_script = |path: &str| [".py", ".sh"].iter().any(|ending| path.ends_with(ending));
    let golden = files.iter().filter(|file| file.path.contains("tests/golden/") && !is_script(&file.path));
    let has_generator = |file: &&SourceFile| {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let stem = name.split('.').next().unwrap_or(name);
        files.iter().filter(|other| is_script(&other.path)).any(|script| {
            let (script_folder, script_name) = script.path.rsplit_once('/').unwrap_or(("", &script.path));
            script_folder == folder
                && (script_name.split('.').next() == Some(stem) || script.text.contains(name))
        })
    };
    let message =
        "expected a generator beside it: a .py or .sh of the same name, or one that names this file";
    golden
        .filter(|file| !file.path.ends_with(".md") && !has_generator(file))
        .map(|file| Fault::new(&file.path, 1, message))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, places};
    use super::*;

    fn paths(paths: &[&str]) -> Vec<SourceFile> {
        paths.iter().map(|path| file(path, "")).collect()
    }

    const GOOD: [&str; 7] = [
        "Cargo.toml",
        "README.md",
        "crates/a/Cargo.toml",
        "launch/a.sh",
        "configs/a.toml",
        "tests/a.rs",
        "docs/a.md",
    ];

    #[test]
    fn strangers_at_the_top_are_found() {
        assert!(top_level(&paths(&GOOD)).is_empty());
        let with = |stranger: &'static str| paths(&[&GOOD[..], &[stranger]].concat());
        for stranger in
            ["examples/a.rs", "scripts/run.sh", "notes.txt", "src/main.rs", ".github/workflows/ci.yml"]
        {
            assert_eq!(places(&top_level(&with(stranger))), [format!("{stranger}:1")]);
        }
        for ordinary in
            ["LICENSE-MIT", ".gitignore", ".cargo/config.toml", ".ci/ci.yml", ".config/nextest.toml"]
        {
            assert!(top_level(&with(ordinary)).is_empty(), "{ordinary}");
        }
    }

    #[test]
    fn a_missing_folder_is_found() {
        assert_eq!(places(&top_level(&paths(&GOOD[..6]))), ["docs:1"]);
    }

    #[test]
    fn a_forgotten_test_file_is_found() {
        let mut files = vec![
            file(
                "crates/bert-train/Cargo.toml",
                "[[test]]\nname = \"single\"\npath = \"../../tests/single/main.rs\"\n",
            ),
            file(
                "tests/single/main.rs",
                "#[path = \"../support/mod.rs\"]\nmod support;\nmod resume;\nmod deep;\n",
            ),
            file("tests/single/resume.rs", ""),
            file("tests/single/deep.rs", "mod inner;\n"),
            file("tests/single/deep/inner.rs", ""),
            file("tests/support/mod.rs", "mod run;\n"),
            file("tests/support/run.rs", ""),
        ];
        assert_eq!(forgotten_tests(&files), []);
        files.push(file("tests/single/forgotten.rs", ""));
        files.push(file("tests/parallel/main.rs", ""));
        assert_eq!(
            places(&forgotten_tests(&files)),
            ["tests/single/forgotten.rs:1", "tests/parallel/main.rs:1"]
        );
    }

    #[test]
    fn a_golden_file_without_generator_is_found() {
        let mut files = vec![
            file("tests/golden/adamw.json", ""),
            file("tests/golden/adamw.py", ""),
            file("tests/golden/loss_base.txt", ""),
            file("tests/golden/make.py", "open('loss_base.txt', 'w')"),
            file("tests/golden/README.md", ""),
            file("crates/a/tests/golden/b.bin", ""),
            file("crates/a/tests/golden/b.sh", ""),
        ];
        assert_eq!(golden_without_generator(&files), []);
        files.push(file("tests/golden/orphan.json", ""));
        files.push(file("crates/a/tests/golden/adamw.json", ""));
        let expected = ["tests/golden/orphan.json:1", "crates/a/tests/golden/adamw.json:1"];
        assert_eq!(places(&golden_without_generator(&files)), expected);
    }
}
