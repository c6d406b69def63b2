//! `cargo xtask fuzz`: the fuzz targets of bert-data under cargo-fuzz, one after the other.
//!
//! Owns their names and limits. The targets are a workspace of their own below crates/bert-data/fuzz.

use crate::steps::cargo;
use anyhow::Context;
use std::path::Path;
use std::process::Stdio;

const FOLDER: &str = "crates/bert-data/fuzz";
/// Each target with the largest single allocation allowed, in MB. Unpacking Zstandard may ask for a window of 128 MB.
const TARGETS: [(&str, u32); 8] = [
    ("shard", 64),
    ("manifest", 64),
    ("counts", 64),
    ("jsonl", 64),
    ("text", 192),
    ("parquet", 64),
    ("vocab", 64),
    ("lexicon", 64),
];

/// Runs one target, or all, for this many seconds each; stops at the first finding.
///
/// # Errors
///
/// If there is no such target, cargo-fuzz is not installed, or a target fails.
pub fn run(root: &Path, target: Option<&str>, num_seconds: u32) -> anyhow::Result<()> {
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _)| target.is_none_or(|t| t == *name)).collect();
    let known = TARGETS.map(|(name, _)| name).join(", ");
    anyhow::ensure!(
        !chosen.is_empty(),
        "expected a fuzz target of {known}; got {}",
        target.unwrap_or("none")
    );
    let version = cargo().args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    anyhow::ensure!(
        version.is_ok_and(|status| status.success()),
        "cargo-fuzz is not installed; install it with `cargo install --locked cargo-fuzz`"
    );
    for (name, malloc_limit_mb) in chosen {
        println!("==> fuzz {name}: {num_seconds} s");
        std::fs::create_dir_all(root.join(FOLDER).join("corpus").join(name))
            .with_context(|| format!("failed to create the corpus of `{name}`"))?;
        let status = cargo()
            .args([
                "fuzz",
                "run",
                "--fuzz-dir",
                ".",
                name,
                &format!("corpus/{name}"),
                &format!("seeds/{name}"),
            ])
            .args(["--", "-rss_limit_mb=512", &format!("-malloc_limit_mb={malloc_limit_mb}")])
            .args([format!("-max_total_time={num_seconds}"), "-timeout=10".to_owned()])
            .args(["-print_final_stats=1", "-max_len=4096"])
            .current_dir(root.join(FOLDER))
            // The sanitizer needs a flag that stable compilers hide. Never in a folder of ordinary builds: their
            // build scripts notice the variable, and everything would be built again.
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("CARGO_TARGET_DIR")
            .status()
            .with_context(|| format!("failed to start cargo fuzz for `{name}`"))?;
        anyhow::ensure!(
            status.success(),
            "fuzz target {name} failed ({status}); see {FOLDER}/artifacts/{name}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_target_has_a_file_seeds_and_a_place_in_the_manifest() {
        let folder = root().join(FOLDER);
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            assert!(folder.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
            assert!(folder.join("seeds").join(name).is_dir(), "{name}");
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    }

    #[test]
    fn an_unknown_target_is_named() {
        let error = run(&root(), Some("planted"), 1).unwrap_err().to_string();
        assert!(error.contains("planted") && error.contains("lexicon"), "{error}");
    }
}
