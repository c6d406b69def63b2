//! The cargo commands behind each check.
//!
//! Owns their arguments and how one is run; the order is `main`'s. Every command uses the profile `release`: it is
//! the only one in use, because a second one would compile burn again.

use anyhow::Context;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// One command with the name it is reported by.
#[derive(Debug)]
pub struct Step {
    name: &'static str,
    args: Vec<&'static str>,
    env: Option<(&'static str, &'static str)>,
    /// Said before the command starts, where it does less than the user may expect.
    notice: Option<&'static str>,
}

impl Step {
    /// Returns the step that runs cargo with `args`.
    pub fn cargo(name: &'static str, args: &[&'static str]) -> Self {
        Self { name, args: args.to_vec(), env: None, notice: None }
    }

    /// Runs the command in `root`, with its output going to the terminal.
    ///
    /// # Errors
    ///
    /// If it cannot be started or reports a failure.
    pub fn run(&self, root: &Path) -> anyhow::Result<()> {
        let line = format!("cargo {}", self.args.join(" "));
        println!("==> {}: {line}", self.name);
        if let Some(notice) = self.notice {
            println!("{notice}");
        }
        let started = Instant::now();
        let status = cargo()
            .args(&self.args)
            .envs(self.env)
            .current_dir(root)
            .status()
            .with_context(|| format!("failed to start `{line}`"))?;
        anyhow::ensure!(status.success(), "step {} failed ({status}): `{line}`", self.name);
        println!("==> {}: passed in {:.1} s", self.name, started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Returns the cargo that started this program, or the one on the path.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Formatting of every file.
pub fn fmt() -> Step {
    Step::cargo("fmt", &["fmt", "--all", "--check"])
}

/// Clippy on everything, then the build without MPI, which must work on a machine that has none; where libtorch is
/// assembled, clippy also on the code of both of its features.
pub fn clippy(has_libtorch: bool) -> Vec<Step> {
    const FLAGS: [&str; 3] = ["--", "-D", "warnings"];
    let everything = ["clippy", "--release", "--workspace", "--all-targets"];
    let mut all = vec![
        Step::cargo("clippy", &[&everything[..], &FLAGS].concat()),
        Step::cargo("no-mpi", &["check", "--release", "-p", "bert-train", "--no-default-features"]),
    ];
    if has_libtorch {
        let with_libtorch = [&everything[..], &["--features", "libtorch-cuda"], &FLAGS].concat();
        all.push(Step::cargo("clippy-libtorch", &with_libtorch));
    }
    all
}

/// The documentation of every crate, with warnings as errors.
pub fn docs() -> Step {
    let step = Step::cargo("docs", &["doc", "--release", "--no-deps", "--workspace"]);
    Step { env: Some(("RUSTDOCFLAGS", "-D warnings")), ..step }
}

/// All tests, on every backend that is compiled in: on libtorch too where it is assembled. cargo-nextest enforces time
/// limits and runs multi-process tests one at a time; it leaves out the examples in the documentation, which follow on
/// their own.
pub fn test(has_nextest: bool, has_libtorch: bool) -> Vec<Step> {
    let features: &[&str] = if has_libtorch { &["--features", "libtorch"] } else { &[] };
    let step = |name, args: &[&'static str]| Step::cargo(name, &[args, features].concat());
    if has_nextest {
        let mut all = vec![step("test", &["nextest", "run", "--release", "--workspace"])];
        if has_libtorch {
            let programs = "package(bert-train) & kind(test)";
            let again =
                step("test-libtorch", &["nextest", "run", "--release", "--workspace", "-E", programs]);
            all.push(Step { env: Some(("BERT_TRAIN_TEST_BACKEND", "libtorch")), ..again });
        }
        all.push(step("doc-test", &["test", "--release", "--workspace", "--doc"]));
        return all;
    }
    let notice = "cargo-nextest is not installed: falling back to `cargo test`, without the time limits of \
                  .config/nextest.toml. Install it with `cargo install --locked cargo-nextest`.";
    vec![Step { notice: Some(notice), ..step("test", &["test", "--release", "--workspace"]) }]
}

/// Returns whether launch/setup.sh has assembled libtorch; cargo sets `LIBTORCH` (.cargo/config.toml).
pub fn has_libtorch() -> bool {
    std::env::var_os("LIBTORCH")
        .is_some_and(|folder| Path::new(&folder).join("lib/libtorch_cpu.so").is_file())
}

/// Returns whether `cargo nextest` can be run.
pub fn has_nextest(root: &Path) -> bool {
    let mut command = cargo();
    command.args(["nextest", "--version"]).current_dir(root).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_steps() -> Vec<Step> {
        let mut all = vec![fmt(), docs()];
        for has_libtorch in [false, true] {
            all.extend(clippy(has_libtorch));
            all.extend(test(true, has_libtorch));
            all.extend(test(false, has_libtorch));
        }
        all
    }

    #[test]
    fn every_compiling_step_uses_the_one_profile() {
        for step in all_steps().iter().filter(|step| step.name != "fmt") {
            assert!(step.args.contains(&"--release"), "{step:?}");
        }
    }

    #[test]
    fn without_nextest_the_user_is_told() {
        let fallback = test(false, false);
        assert_eq!(fallback.len(), 1);
        assert!(fallback[0].notice.is_some_and(|notice| notice.contains("not installed")));
    }

    #[test]
    fn a_failing_command_names_the_step() {
        let err = Step::cargo("planted", &["no-such-subcommand"]).run(Path::new(".")).unwrap_err();
        assert!(err.to_string().starts_with("step planted failed"), "{err}");
    }
}
