//! Rules on what a Rust file does, with comments and literals blanked out.
//!
//! Owns where `unsafe`, files, clocks, printing and panics may stand. Test code is freer: it may unwrap, print and
//! read clocks.

mod blank;

use super::{Fault, SourceFile};
use blank::blank_comments_and_literals;
use std::collections::BTreeMap;

/// A Rust file with its code separated from its words.
pub struct RustFile {
    path: String,
    text: String,
    code: String,
    /// Index of the first line of the tests.
    tests_start: usize,
}

impl RustFile {
    /// Returns the file; `test_modules` are the paths declared under `#[cfg(test)]`, see [`test_modules`].
    pub fn new(file: &SourceFile, test_modules: &[String]) -> Self {
        let code = blank_comments_and_literals(&file.text);
        let is_test = file.path.split('/').any(|part| part == "tests" || part == "tests.rs")
            || test_modules.iter().any(|module| file.path.starts_with(module.as_str()));
        let tests_start = if is_test { 0 } else { tests_start(&code) };
        Self { path: file.path.clone(), text: file.text.clone(), code, tests_start }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns all lines of code, counted from 1.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(idx, line)| (idx + 1, line))
    }

    /// Returns the lines of code that are no tests.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code_lines().take(self.tests_start)
    }

    /// Returns the crate that the file belongs to.
    fn package(&self) -> &str {
        self.path.strip_prefix("crates/").and_then(|rest| rest.split('/').next()).unwrap_or("")
    }
}

/// Returns the index of the first `#[cfg(test)]` that opens a block; one before a `mod name;` ends nothing here.
fn tests_start(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let opens_block = |idx: usize| {
        let item = lines[idx + 1..].iter().find(|line| !line.trim_start().starts_with("#["));
        lines[idx].trim() == "#[cfg(test)]" && item.is_some_and(|line| !line.trim_end().ends_with(';'))
    };
    (0..lines.len()).find(|idx| opens_block(*idx)).unwrap_or(lines.len())
}

/// Returns the path prefixes (without `.rs`) of all modules declared as `#[cfg(test)] mod name;`.
pub fn test_modules(files: &[SourceFile]) -> Vec<String> {
    let mut modules = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let Some((folder, name)) = file.path.rsplit_once('/') else { continue };
        let folder = match name {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
            _ => file.path.trim_end_matches(".rs").to_owned(),
        };
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
        let names =
            declared.filter_map(|pair| pair[1].strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name));
        modules.extend(names.flat_map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/")]));
    }
    modules
}

/// Returns whether `pattern` occurs and is not part of a longer word.
pub fn has_word(line: &str, pattern: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(pattern).any(|(start, found)| {
        let (before, after) = (&line[..start], &line[start + found.len()..]);
        let cut_before = found.starts_with(is_word) && before.ends_with(is_word);
        let cut_after = found.ends_with(is_word) && after.starts_with(is_word);
        !cut_before && !cut_after
    })
}

/// Returns a fault per line of `lines` that holds one of `patterns`.
fn find<'a>(
    file: &RustFile,
    lines: impl Iterator<Item = (usize, &'a str)>,
    patterns: &[&str],
    expected: &str,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (line, code) in lines {
        let found = patterns.iter().find(|pattern| has_word(code, pattern));
        faults.extend(
            found.map(|pattern| Fault::new(&file.path, line, format!("{expected}, got `{pattern}`"))),
        );
    }
    faults
}

/// `unsafe` stands in the MPI module, in the vector dispatch of the kernels, in the allocator and where libtorch's memory is
/// read, only.
pub fn unsafe_places(file: &RustFile) -> Vec<Fault> {
    const ALLOWED: [&str; 4] = [
        "crates/bert-coordinator/src/comm/mpi",
        "crates/bert-kernels/src/huge_pages.rs",
        "crates/bert-kernels/src/simd",
        "crates/bert-model/src/ops/raw/libtorch",
    ];
    if ALLOWED.iter().any(|place| file.path.starts_with(place)) {
        return Vec::new();
    }
    let expected = format!("expected unsafe code only below {}", ALLOWED.join("*, "));
    find(file, file.code_lines(), &["unsafe"], &expected)
}

/// An error is returned, not unwrapped.
pub fn unwraps(file: &RustFile) -> Vec<Fault> {
    find(file, file.product_lines(), &[".unwrap()"], "expected an error or `.expect(\"why it cannot fail\")`")
}

/// What a crate must not touch outside of its tests.
struct Absence {
    package: &'static str,
    /// Prefix of the paths below `src/` that may.
    except: Option<&'static str>,
    patterns: &'static [&'static str],
    expected: &'static str,
}

const FILES: &[&str] = &["fs", "File", "OpenOptions", "read_dir", "Mmap"];
const CLOCKS: &[&str] = &["Instant", "SystemTime"];
const ABSENCES: [Absence; 7] = [
    Absence {
        package: "bert-model",
        except: Some("hf"),
        patterns: FILES,
        expected: "expected files only in `hf`",
    },
    Absence {
        package: "bert-model",
        except: None,
        patterns: CLOCKS,
        expected: "expected no clock in the model",
    },
    Absence {
        package: "bert-coordinator",
        except: None,
        patterns: FILES,
        expected: "expected no files here",
    },
    Absence { package: "bert-random", except: None, patterns: FILES, expected: "expected no files here" },
    Absence { package: "bert-random", except: None, patterns: CLOCKS, expected: "expected no clock here" },
    Absence { package: "bert-kernels", except: None, patterns: FILES, expected: "expected no files here" },
    Absence { package: "bert-kernels", except: None, patterns: CLOCKS, expected: "expected no clock here" },
];

/// Files and clocks are out of reach for the crates that are to be pure. Their benchmarks need a clock, their fuzz targets a
/// folder.
pub fn absences(file: &RustFile) -> Vec<Fault> {
    let mut faults = Vec::new();
    if ["/benches/", "/fuzz/"].iter().any(|folder| file.path.contains(folder)) {
        return faults;
    }
    for absence in ABSENCES.iter().filter(|absence| absence.package == file.package()) {
        let excepted = |name| file.path.starts_with(&format!("crates/{}/src/{name}", absence.package));
        if !absence.except.is_some_and(excepted) {
            faults.extend(find(file, file.product_lines(), absence.patterns, absence.expected));
        }
    }
    faults
}

/// A directory is listed in one place per crate: the one that sorts.
pub fn listings(files: &[RustFile]) -> Vec<Fault> {
    let mut by_package: BTreeMap<&str, Vec<Fault>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.package().is_empty()) {
        let expected = "expected one caller per crate, the one that sorts the listing";
        by_package.entry(file.package()).or_default().extend(find(
            file,
            file.product_lines(),
            &["read_dir("],
            expected,
        ));
    }
    by_package.into_values().flat_map(|faults| faults.into_iter().skip(1)).collect()
}

/// Only binaries talk to the terminal or end the process. Build scripts talk to cargo by printing, and aborting
/// all ranks is what the coordinator's abort handle is for.
pub fn printing(file: &RustFile) -> Vec<Fault> {
    const PATTERNS: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "process::exit"];
    const BINARIES: [&str; 3] =
        ["crates/bert-train/src/main.rs", "crates/bert-tools/src/", "crates/xtask/src/"];
    if BINARIES.iter().any(|binary| file.path.starts_with(binary))
        || file.path.ends_with("/build.rs")
        || file.path.contains("/benches/")
    {
        return Vec::new();
    }
    let is_abort = file.path == "crates/bert-coordinator/src/abort.rs";
    let patterns = if is_abort { &PATTERNS[..4] } else { &PATTERNS };
    find(file, file.product_lines(), patterns, "expected printing and exiting in binaries only")
}

/// No macro that stands for missing or forgotten code, in tests neither.
pub fn leftover_macros(file: &RustFile) -> Vec<Fault> {
    find(file, file.code_lines(), &["todo!", "unimplemented!", "dbg!"], "expected finished code")
}

#[cfg(test)]
mod tests;
