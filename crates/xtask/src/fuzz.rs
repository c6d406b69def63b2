//! `cargo xtask fuzz`: the fuzz targets of bert-data and bert-model under cargo-fuzz, one after the other.
//!
//! Owns their names and limits. The targets of a crate are a workspace of their own in its folder `fuzz`.

use crate::steps::cargo;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A fuzz target and its limits.
struct Target {
    name: &'static str,
    crate_name: &'static str,
    /// Largest single allocation, in MB.
    malloc_limit_mb: u32,
    /// Longest input, in bytes.
    max_len: u32,
}

impl Target {
    const fn of_data(name: &'static str, malloc_limit_mb: u32) -> Self {
        Self { name, crate_name: "bert-data", malloc_limit_mb, max_len: 4096 }
    }

    const fn of_model(name: &'static str, max_len: u32) -> Self {
        Self { name, crate_name: "bert-model", malloc_limit_mb: 64, max_len }
    }

    fn folder(&self, root: &Path) -> PathBuf {
        root.join("crates").join(self.crate_name).join("fuzz")
    }
}

const TARGETS: [Target; 10] = [
    Target::of_data("shard", 64),
    Target::of_data("manifest", 64),
    Target::of_data("counts", 64),
    Target::of_data("jsonl", 64),
    // Unpacking Zstandard may ask for a window of 128 MB.
    Target::of_data("text", 192),
    Target::of_data("parquet", 64),
    Target::of_data("vocab", 64),
    Target::of_data("lexicon", 64),
    // The smallest whole model of tests/golden/tiny takes 30 KB as a file of torch.
    Target::of_model("weights", 32768),
    Target::of_model("model-config", 4096),
];

/// Runs one target, or all, for this many seconds each; stops at the first finding.
///
/// # Errors
///
/// If there is no such target, cargo-fuzz is not installed, or a target fails.
pub fn run(root: &Path, target: Option<&str>, num_seconds: u32) -> anyhow::Result<()> {
    let chosen: Vec<_> = TARGETS.iter().filter(|t| target.is_none_or(|name| name == t.name)).collect();
    let known = TARGETS.map(|target| target.name).join(", ");
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
    chosen.into_iter().try_for_each(|target| run_one(root, target, num_seconds))
}

fn run_one(root: &Path, target: &Target, num_seconds: u32) -> anyhow::Result<()> {
    let &Target { name, malloc_limit_mb, max_len, .. } = target;
    let folder = target.folder(root);
    println!("==> fuzz {name}: {num_seconds} s");
    std::fs::create_dir_all(folder.join("corpus").join(name))
        .with_context(|| format!("failed to create the corpus of `{name}`"))?;
    let corpus = format!("corpus/{name}");
    let seeds = format!("seeds/{name}");
    let mut command = cargo();
    command.args(["fuzz", "run", "--fuzz-dir", ".", name, &corpus, &seeds]);
    if target.crate_name == "bert-model" {
        command.arg("../tests/golden/tiny");
    }
    command
        .args(["--", "-rss_limit_mb=512", &format!("-malloc_limit_mb={malloc_limit_mb}")])
        .args([format!("-max_total_time={num_seconds}"), "-timeout=10".to_owned()])
        .args(["-print_final_stats=1".to_owned(), format!("-max_len={max_len}")])
        .current_dir(&folder)
        // The sanitizer needs a flag that stable compilers hide. Never in a folder of ordinary builds: their
        // build scripts notice the variable, and everything would be built again.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("CARGO_TARGET_DIR");
    let status = command.status().with_context(|| format!("failed to start cargo fuzz for `{name}`"))?;
    let artifacts = folder.join("artifacts").join(name);
    anyhow::ensure!(status.success(), "fuzz target {name} failed ({status}); see {}", artifacts.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_target_has_a_file_seeds_and_a_place_in_the_manifest() {
        for target in &TARGETS {
            let (name, folder) = (target.name, target.folder(&root()));
            let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            assert!(folder.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
            assert!(folder.join("seeds").join(name).is_dir(), "{name}");
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            let num_targets = TARGETS.iter().filter(|other| other.crate_name == target.crate_name).count();
            assert_eq!(manifest.matches("[[bin]]").count(), num_targets, "{name}");
        }
    }

    #[test]
    fn an_unknown_target_is_named() {
        let error = run(&root(), Some("planted"), 1).unwrap_err().to_string();
        assert!(error.contains("planted") && error.contains("lexicon"), "{error}");
    }
}
