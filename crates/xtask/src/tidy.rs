//! The rules of this repository that neither compiler nor clippy knows.
//!
//! Owns what a fault is and the list of rules; each rule is a small pure function over file names and texts, in
//! the module of its kind. Only [`Repository::read`] touches files and runs commands.

mod arrows;
mod code;
mod layout;
mod text;

use crate::steps;
use anyhow::Context;
use code::RustFile;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// A tracked file. Files that are not text have an empty one.
#[derive(Debug)]
pub struct SourceFile {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    pub text: String,
}

/// A broken rule, with the place to look at and what is expected there.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    path: String,
    line: usize,
    message: String,
}

impl Fault {
    /// Returns the fault at `line`, counted from 1.
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Everything the rules look at.
pub struct Repository {
    files: Vec<SourceFile>,
    packages: Vec<arrows::Package>,
}

impl Repository {
    /// Reads all tracked files and the dependencies of all crates.
    ///
    /// # Errors
    ///
    /// If git or cargo cannot be run, or a tracked file cannot be read.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let listing = output(Command::new("git").args(["ls-files", "-z"]).current_dir(root))?;
        let paths = listing.split('\0').filter(|path| !path.is_empty() && root.join(path).exists());
        let files = paths.map(|path| read_file(root, path)).collect::<anyhow::Result<Vec<_>>>()?;
        let metadata = ["metadata", "--no-deps", "--format-version", "1"];
        let packages = arrows::parse(&output(steps::cargo().args(metadata).current_dir(root))?)?;
        Ok(Self { files, packages })
    }

    /// Returns how many files are checked.
    pub fn num_files(&self) -> usize {
        self.files.len()
    }
}

fn read_file(root: &Path, path: &str) -> anyhow::Result<SourceFile> {
    let bytes = std::fs::read(root.join(path)).with_context(|| format!("failed to read `{path}`"))?;
    Ok(SourceFile { path: path.to_owned(), text: String::from_utf8(bytes).unwrap_or_default() })
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    let message = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?} failed: {}", message.trim());
    String::from_utf8(output.stdout)
        .with_context(|| format!("{command:?} printed something that is not UTF-8"))
}

/// Returns all faults, ordered by file and line.
pub fn check(repository: &Repository) -> Vec<Fault> {
    let files = &repository.files;
    let test_modules = code::test_modules(files);
    let rust_files = files.iter().filter(|file| file.path.ends_with(".rs"));
    let rust_files: Vec<RustFile> = rust_files.map(|file| RustFile::new(file, &test_modules)).collect();
    let mut faults = arrows::check(&repository.packages, files);
    for file in &rust_files {
        faults.extend(text::module_header(file));
        faults.extend(text::length(file));
        faults.extend(text::forward_without_shapes(file));
        faults.extend(code::unsafe_places(file));
        faults.extend(code::unwraps(file));
        faults.extend(code::absences(file));
        faults.extend(code::printing(file));
        faults.extend(code::leftover_macros(file));
    }
    faults.extend(code::listings(&rust_files));
    faults.extend(files.iter().flat_map(text::leftover_words));
    faults.extend(layout::top_level(files));
    faults.extend(layout::forgotten_tests(files));
    faults.extend(layout::golden_without_generator(files));
    faults.sort();
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }

    /// Returns the faults as printed, without their messages after the first colon and blank.
    pub fn places(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(|fault| format!("{}:{}", fault.path, fault.line)).collect()
    }

    #[test]
    fn a_fault_is_printed_so_that_an_editor_can_open_it() {
        let fault = Fault::new("crates/a/src/lib.rs", 7, "expected a header");
        assert_eq!(fault.to_string(), "crates/a/src/lib.rs:7: expected a header");
    }

    /// The whole list on a small repository: one planted fault per rule, found in order.
    #[test]
    fn check_runs_every_rule() {
        let unwrap = "//! Header.\nfn f() {\n    g().unwrap();\n}\n";
        let model = "//! Header.\n\npub fn forward() {\n    std::fs::read(\"x\");\n    unsafe {}\n    println!();\n}\n";
        let files = vec![
            file("Cargo.toml", ""),
            file("configs/base.toml", &format!("# {}: choose\n", concat!("TO", "DO"))),
            file("crates/bert-data/src/lib.rs", unwrap),
            file("crates/bert-model/src/lib.rs", model),
            file("docs/a.md", ""),
            file("launch/local.sh", ""),
            file("scripts/run.sh", ""),
            file("tests/golden/loss.txt", ""),
        ];
        let faults = check(&Repository { files, packages: Vec::new() });
        let expected = [
            "configs/base.toml:1",
            "crates/bert-data/src/lib.rs:3",
            "crates/bert-model/src/lib.rs:3",
            "crates/bert-model/src/lib.rs:4",
            "crates/bert-model/src/lib.rs:5",
            "crates/bert-model/src/lib.rs:6",
            "scripts/run.sh:1",
            "tests/golden/loss.txt:1",
        ];
        assert_eq!(places(&faults), expected, "{faults:#?}");
    }
}
