//! Child processes with a hard timeout: nothing that a test starts outlives it.

use std::{
    fs::File,
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::NamedTempFile;

/// No test process may take longer.
const TIMEOUT: Duration = Duration::from_secs(100);

/// What a finished process left behind.
#[derive(Debug)]
pub struct Finished {
    pub exit_code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    #[track_caller]
    pub fn expect_code(self, expected: i32) -> Self {
        assert_eq!(self.exit_code, Some(expected), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Exactly one `error:` line, and it contains all of these.
    #[track_caller]
    pub fn expect_error(self, parts: &[&str]) -> Self {
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error:")).collect();
        assert_eq!(errors.len(), 1, "stderr:\n{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in:\n{}", self.stderr);
        }
        self
    }
}

/// A process group that is killed when the test ends, however it ends.
pub struct Running {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    started: Instant,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let (stdout, stderr) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(stdout.reopen().unwrap()).stderr(stderr.reopen().unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, stdout, stderr, started: Instant::now() }
    }

    /// Waits until `condition` holds while the process runs.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        while !condition() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended ({status}) before {what}:\n{}", self.text().1);
            }
            self.check_timeout();
        }
    }

    /// Sends a signal to the process itself (`mpirun` passes it on).
    pub fn signal(&self, name: &str) {
        run_kill(name, &self.child.id().to_string());
    }

    /// Sends a signal to the whole group: launcher and ranks.
    pub fn signal_group(&self, name: &str) {
        run_kill(name, &format!("-{}", self.child.id()));
    }

    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            self.check_timeout();
        };
        let (stdout, stderr) = self.text();
        Finished { exit_code: status.code().or(status.signal().map(|signal| 128 + signal)), stdout, stderr }
    }

    fn text(&self) -> (String, String) {
        let read = |file: &NamedTempFile| {
            let mut text = String::new();
            File::open(file.path()).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        (read(&self.stdout), read(&self.stderr))
    }

    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "a test that waits for another process has to sleep")]
    fn check_timeout(&mut self) {
        if self.started.elapsed() > TIMEOUT {
            run_kill("KILL", &format!("-{}", self.child.id()));
            panic!("still running after {TIMEOUT:?}:\n{}", self.text().1);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            run_kill("KILL", &format!("-{}", self.child.id()));
        }
        let _ = self.child.wait();
    }
}

fn run_kill(signal: &str, target: &str) {
    let arguments = [&format!("-{signal}"), "--", target];
    let status = Command::new("kill").args(arguments).status().unwrap();
    assert!(status.success() || signal == "KILL", "kill {arguments:?}: {status}");
}

/// Runs to the end.
#[track_caller]
pub fn run(command: Command) -> Finished {
    Running::start(command).finish()
}

/// `mpirun -n num_ranks`, more ranks than cores allowed.
pub fn mpirun(num_ranks: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.args(["--quiet", "--oversubscribe", "--bind-to", "none", "-n", &num_ranks.to_string()]);
    command
}

/// Whether there is an `mpirun`; says so where there is none, so that the test is counted as skipped.
pub fn has_mpirun() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: no mpirun on this machine; launch/setup.sh installs it");
    }
    found
}
