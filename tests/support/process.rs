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

    /// Process id of a rank that this process (`mpirun`) has started, once it is there.
    #[track_caller]
    pub fn rank_pid(&mut self, rank: usize) -> u32 {
        let parent = self.child.id();
        let mut found = None;
        self.wait_until("the start of the rank", || {
            found = rank_of(parent, rank);
            found.is_some()
        });
        found.unwrap()
    }

    /// Moment of the start.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits until the run has logged this many steps.
    #[track_caller]
    pub fn wait_for_step(&mut self, workspace: &super::Workspace, name: &str, step: usize) {
        self.wait_until("the step", || workspace.has_logged(name, step));
    }

    /// Waits until the process has written this to standard error.
    #[track_caller]
    pub fn wait_for_text(&mut self, text: &str) {
        while !self.text().1.contains(text) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended ({status}) without saying \"{text}\":\n{}", self.text().1);
            }
            self.check_timeout();
        }
    }

    /// Sends a signal to the whole group: the launcher and what it has not put into groups of their own.
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

/// The child of `parent` that Open MPI or MPICH calls by this rank.
fn rank_of(parent: u32, rank: usize) -> Option<u32> {
    let names = [format!("OMPI_COMM_WORLD_RANK={rank}"), format!("PMI_RANK={rank}")];
    let is_rank = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
            && variables.any(|variable| names.iter().any(|name| name.as_bytes() == variable))
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let mut pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.find(is_rank)
}

/// Sends a signal to one process.
pub fn signal_pid(signal: &str, pid: u32) {
    run_kill(signal, &pid.to_string());
}

/// Whether the process is there and not a mere entry waiting for its parent.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether the process ends within a few seconds: a launcher may end before all that it has killed.
pub fn has_ended(pid: u32) -> bool {
    holds_within(Duration::from_secs(5), || !is_alive(pid))
}

/// Whether `condition` comes to hold within this time.
#[expect(clippy::disallowed_methods, reason = "a test that waits for another process has to sleep")]
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
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
