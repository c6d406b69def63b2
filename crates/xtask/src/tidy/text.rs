//! Rules on the text of a file, comments included: header, length, documented shapes, leftovers.

use super::code::{RustFile, has_word};
use super::{Fault, SourceFile};

const MAX_LINES: usize = 500;
/// Written in pieces, so that this file does not find itself.
const LEFTOVERS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const TEXT_ENDINGS: [&str; 8] = [".rs", ".toml", ".md", ".sh", ".py", ".yml", ".yaml", ".sbatch"];

/// Every Rust file opens by saying what it owns.
pub fn module_header(file: &RustFile) -> Option<Fault> {
    let has_header = file.text().starts_with("//!");
    (!has_header).then(|| {
        Fault::new(
            file.path(),
            1,
            "expected `//!` on the first line: what the file owns and what it never does",
        )
    })
}

/// No Rust file is longer than two screens of a long day.
pub fn length(file: &RustFile) -> Option<Fault> {
    let num_lines = file.text().lines().count();
    let message = || format!("expected at most {MAX_LINES} lines, got {num_lines}: split the file by idea");
    (num_lines > MAX_LINES).then(|| Fault::new(file.path(), MAX_LINES + 1, message()))
}

/// Every public `forward` documents the shapes of what it takes and gives.
pub fn forward_without_shapes(file: &RustFile) -> Vec<Fault> {
    let lines: Vec<&str> = file.text().lines().collect();
    let is_forward = |code: &str| code.contains("pub fn forward(") || code.contains("pub fn forward<");
    let forwards = file.code_lines().filter(|(_, code)| is_forward(code)).map(|(line, _)| line);
    forwards
        .filter(|line| !documentation_above(&lines, *line).any(|text| text.trim() == "/// # Shapes"))
        .map(|line| {
            Fault::new(file.path(), line, "expected a section `# Shapes` in the documentation of `forward`")
        })
        .collect()
}

/// Returns the documentation and attribute lines directly above `line` (counted from 1), from the bottom up.
fn documentation_above<'a>(lines: &'a [&str], line: usize) -> impl Iterator<Item = &'a str> {
    let above = lines[..line - 1].iter().rev().copied();
    above.take_while(|text| !text.trim().is_empty() && !text.trim_end().ends_with(['}', ';']))
}

/// Nothing is left for later in any text file.
pub fn leftover_words(file: &SourceFile) -> Vec<Fault> {
    if !TEXT_ENDINGS.iter().any(|ending| file.path.ends_with(ending)) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (idx, line) in file.text.lines().enumerate() {
        let found = LEFTOVERS.iter().find(|word| has_word(line, word));
        let message =
            |word| format!("expected finished work, got {word}: do it or write it into the issue tracker");
        faults.extend(found.map(|word| Fault::new(&file.path, idx + 1, message(word))));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, places};
    use super::*;

    fn rust(text: &str) -> RustFile {
        RustFile::new(&file("crates/bert-model/src/a.rs", text), &[])
    }

    #[test]
    fn a_missing_header_is_found() {
        assert!(module_header(&rust("//! Owns it.\n")).is_none());
        for text in ["", "// Owns it.\n", "\n//! Late.\n", "use a::b;\n"] {
            assert!(module_header(&rust(text)).is_some(), "{text:?}");
        }
    }

    #[test]
    fn a_long_file_is_found() {
        assert!(length(&rust(&"\n".repeat(500))).is_none());
        assert_eq!(length(&rust(&"\n".repeat(501))).unwrap().line, 501);
    }

    #[test]
    fn a_forward_without_shapes_is_found() {
        let good = "/// Encodes.\n///\n/// # Shapes\n///\n/// - x: `[n]`\n#[must_use]\npub fn forward(\n";
        assert!(forward_without_shapes(&rust(good)).is_empty());
        let foreign = format!("{good}) {{}}\n\n/// Encodes.\npub fn forward<T>(x: T) {{}}\n");
        assert_eq!(places(&forward_without_shapes(&rust(&foreign))), ["crates/bert-model/src/a.rs:11"]);
        assert!(forward_without_shapes(&rust("pub fn forward_at() {}\n// pub fn forward()\n")).is_empty());
        let borrowed = "/// # Shapes\npub fn other() {}\npub fn forward() {}\n";
        assert_eq!(forward_without_shapes(&rust(borrowed)).len(), 1);
    }

    #[test]
    fn leftovers_are_found_as_whole_words() {
        for word in LEFTOVERS {
            let text = format!("# fine\n# {word}: later\n");
            assert_eq!(places(&leftover_words(&file("configs/a.toml", &text))), ["configs/a.toml:2"]);
            assert!(leftover_words(&file("configs/a.toml", &format!("x{word}x {word}_"))).is_empty());
            assert!(leftover_words(&file("tests/golden/corpus.txt", &text)).is_empty());
        }
    }
}
