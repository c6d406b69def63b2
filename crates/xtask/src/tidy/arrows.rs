//! Which crate may depend on which.
//!
//! Owns the arrows and absences of docs/architecture.md as a table. Reads `cargo metadata`, never a lock file: only
//! what a crate asks for itself counts.

use super::{Fault, SourceFile};
use anyhow::Context;
use serde_json::Value;

/// What one crate may see. Development dependencies count too: a test that joins crates belongs to bert-train.
struct Rule {
    package: &'static str,
    /// Crates of this workspace that it may depend on.
    workspace: &'static [&'static str],
    /// Crates from outside that it must not know; `burn` stands for `burn-*` as well.
    absent: &'static [&'static str],
}

const RULES: [Rule; 8] = [
    Rule { package: "bert-random", workspace: &[], absent: &["burn", "mpi", "rand", "serde"] },
    Rule {
        package: "bert-kernels",
        workspace: &["bert-random"],
        absent: &["burn", "mpi", "serde", "crossbeam", "memmap2"],
    },
    Rule {
        package: "bert-model",
        workspace: &["bert-kernels", "bert-random"],
        absent: &["blake3", "crossbeam", "mpi", "tokenizers"],
    },
    Rule { package: "bert-data", workspace: &["bert-random"], absent: &["burn", "mpi", "rand"] },
    Rule { package: "bert-coordinator", workspace: &[], absent: &["burn", "memmap2", "tempfile"] },
    Rule {
        package: "bert-train",
        workspace: &["bert-coordinator", "bert-data", "bert-kernels", "bert-model", "bert-random"],
        absent: &["mpi", "tch"],
    },
    Rule {
        package: "bert-tools",
        workspace: &["bert-data", "bert-model", "bert-random", "bert-train"],
        absent: &["mpi", "tch"],
    },
    Rule { package: "xtask", workspace: &[], absent: &["burn", "mpi"] },
];

/// A crate of the workspace with the names of all it asks for.
#[derive(Debug)]
pub struct Package {
    name: String,
    dependencies: Vec<String>,
}

/// Reads the output of `cargo metadata --no-deps --format-version 1`.
///
/// # Errors
///
/// If it is not what cargo prints.
pub fn parse(metadata: &str) -> anyhow::Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no list `packages`")?;
    packages.iter().map(parse_package).collect()
}

fn parse_package(package: &Value) -> anyhow::Result<Package> {
    let name = package["name"].as_str().context("a package of cargo metadata has no `name`")?;
    let dependencies = package["dependencies"].as_array().context("a package has no list `dependencies`")?;
    let names = dependencies.iter().filter_map(|dependency| dependency["name"].as_str());
    Ok(Package { name: name.to_owned(), dependencies: names.map(str::to_owned).collect() })
}

/// Returns a fault per dependency that no arrow allows, and per crate without a rule or without the shared lints.
pub fn check(packages: &[Package], files: &[SourceFile]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for package in packages {
        let manifest = Manifest::find(package, files);
        let Some(rule) = RULES.iter().find(|rule| rule.package == package.name) else {
            let message =
                format!("crate `{}` has no rule: add its arrows to xtask and the architecture", package.name);
            faults.push(Fault::new(&manifest.path, 1, message));
            continue;
        };
        let forbidden =
            package.dependencies.iter().filter_map(|name| Some((name, refusal(rule, packages, name)?)));
        faults.extend(
            forbidden.map(|(name, message)| Fault::new(&manifest.path, manifest.line_of(name), message)),
        );
        if !manifest.text.contains("[lints]\nworkspace = true") {
            faults.push(Fault::new(&manifest.path, 1, "expected `[lints]` with `workspace = true`"));
        }
    }
    faults
}

/// Returns why `rule` forbids the dependency `name`.
fn refusal(rule: &Rule, packages: &[Package], name: &str) -> Option<String> {
    // A crate may name itself in its tests, to switch on one of its own features.
    let is_ours = name != rule.package && packages.iter().any(|package| package.name == name);
    if is_ours && !rule.workspace.contains(&name) {
        let allowed = rule.workspace.join(", ");
        return Some(format!("{} must not depend on {name}; expected only: [{allowed}]", rule.package));
    }
    let matches = |absent: &&&str| name == **absent || name.starts_with(&format!("{absent}-"));
    let absent = rule.absent.iter().find(matches)?;
    Some(format!("{} must not know {absent}, got dependency {name}", rule.package))
}

struct Manifest<'a> {
    path: String,
    text: &'a str,
}

impl<'a> Manifest<'a> {
    fn find(package: &Package, files: &'a [SourceFile]) -> Self {
        let path = format!("crates/{}/Cargo.toml", package.name);
        let text = files.iter().find(|file| file.path == path).map_or("", |file| &file.text);
        Self { path, text }
    }

    fn line_of(&self, name: &str) -> usize {
        let is_entry =
            |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ', '=']));
        self.text.lines().position(is_entry).map_or(1, |idx| idx + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    /// Every crate with the lints, and `dependencies` asked for by `name`.
    fn check_one(name: &str, dependencies: &[&str]) -> Vec<String> {
        let named = |rule: &Rule| Package { name: rule.package.to_owned(), dependencies: Vec::new() };
        let mut packages: Vec<Package> = RULES.iter().map(named).collect();
        let package = packages.iter_mut().find(|package| package.name == name).unwrap();
        package.dependencies = dependencies.iter().map(|dependency| (*dependency).to_owned()).collect();
        let entries: String =
            dependencies.iter().map(|dependency| format!("{dependency}.workspace = true\n")).collect();
        let manifest = |rule: &Rule| {
            let entries = if rule.package == name { entries.as_str() } else { "" };
            let text = format!("[lints]\nworkspace = true\n[dependencies]\n{entries}");
            file(&format!("crates/{}/Cargo.toml", rule.package), &text)
        };
        let files: Vec<SourceFile> = RULES.iter().map(manifest).collect();
        check(&packages, &files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_arrows_of_the_design_pass() {
        assert!(
            check_one("bert-train", &["bert-model", "bert-data", "bert-coordinator", "blake3"]).is_empty()
        );
        assert!(check_one("bert-tools", &["bert-model", "bert-data", "bert-train"]).is_empty());
        assert!(check_one("bert-model", &["burn", "bert-kernels", "bert-random", "safetensors"]).is_empty());
        assert!(check_one("bert-coordinator", &["mpi", "crossbeam", "bert-coordinator"]).is_empty());
    }

    #[test]
    fn every_forbidden_arrow_is_found() {
        let forbidden = [
            ("bert-model", "bert-data"),
            ("bert-model", "bert-coordinator"),
            ("bert-model", "blake3"),
            ("bert-model", "crossbeam-channel"),
            ("bert-model", "mpi"),
            ("bert-data", "bert-model"),
            ("bert-data", "bert-kernels"),
            ("bert-data", "burn"),
            ("bert-data", "mpi"),
            ("bert-coordinator", "bert-random"),
            ("bert-coordinator", "bert-data"),
            ("bert-coordinator", "burn-tensor"),
            ("bert-kernels", "bert-model"),
            ("bert-kernels", "burn"),
            ("bert-random", "bert-kernels"),
            ("bert-train", "bert-tools"),
            ("bert-train", "tch"),
            ("bert-tools", "bert-kernels"),
            ("bert-tools", "bert-coordinator"),
            ("xtask", "bert-train"),
        ];
        for (package, dependency) in forbidden {
            let faults = check_one(package, &["anyhow", dependency]);
            assert_eq!(faults.len(), 1, "{package} -> {dependency}: {faults:?}");
            assert!(faults[0].starts_with(&format!("crates/{package}/Cargo.toml:5: ")), "{faults:?}");
            assert!(faults[0].contains(dependency), "{faults:?}");
        }
    }

    #[test]
    fn a_crate_without_rule_or_lints_is_found() {
        let package = |name: &str| Package { name: name.to_owned(), dependencies: Vec::new() };
        let faults = check(&[package("bert-extra"), package("xtask")], &[]);
        let messages: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(messages[0].contains("crate `bert-extra` has no rule"), "{messages:?}");
        assert!(messages[1].contains("[lints]"), "{messages:?}");
    }

    #[test]
    fn metadata_is_read_as_cargo_prints_it() {
        let metadata = r#"{"packages": [{"name": "bert-data", "dependencies": [
            {"name": "rayon", "kind": null, "optional": false}, {"name": "proptest", "kind": "dev"}]}]}"#;
        let packages = parse(metadata).unwrap();
        assert_eq!((packages[0].name.as_str(), packages[0].dependencies.len()), ("bert-data", 2));
        assert!(parse("[]").is_err() && parse("{").is_err());
    }
}
