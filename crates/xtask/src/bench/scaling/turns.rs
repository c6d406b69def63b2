//! Two sides that take turns: all programs are alive, those of one side run, the others are stopped.
//!
//! Owns processes and signals. A side that runs has the machine as the other one had it a moment ago, and no start-up is
//! measured.

use crate::bench::train::NUM_WARM_UP;
use crate::bench::train::ours::{Step, lines_of_steps};
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Until every program has made its first steps.
const START_LIMIT: Duration = Duration::from_secs(600);

/// One training, of one or several ranks.
pub struct Job {
    launcher: Child,
    /// Processes of the measured program.
    ranks: Vec<u32>,
    metrics: PathBuf,
    num_positions: f64,
    num_seen: usize,
}

/// Trainings that run at the same time.
pub struct Side {
    pub jobs: Vec<Job>,
}

/// What a side did in one turn, or in several.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Time in which the side was not stopped.
    pub seconds: f64,
    /// Real tokens of all steps that ended.
    pub num_tokens: f64,
    /// Of each job, the steps that no stop interrupted.
    pub whole: Vec<Vec<Step>>,
}

impl Job {
    /// Starts a training whose steps have `num_positions` places for tokens and that writes to `metrics`.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(mut command: Command, metrics: PathBuf, num_positions: usize) -> anyhow::Result<Self> {
        let launcher = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let launcher = launcher.with_context(|| format!("failed to start {command:?}"))?;
        Ok(Self { launcher, ranks: Vec::new(), metrics, num_positions: num_positions as f64, num_seen: 0 })
    }

    /// Waits until the first steps are done, and finds the processes of `program`.
    fn wait_for_steps(&mut self, program: &Path, num_steps: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.steps()?.len() < num_steps {
            let ended = self.launcher.try_wait().context("failed to ask for the state of a training")?;
            anyhow::ensure!(
                ended.is_none(),
                "a training ended before step {num_steps}; `{}` has no more",
                self.metrics.display()
            );
            anyhow::ensure!(start.elapsed() < START_LIMIT, "no step {num_steps} within {START_LIMIT:?}");
            pause(Duration::from_millis(200));
        }
        self.ranks = descendants(self.launcher.id())
            .into_iter()
            .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
            .collect();
        anyhow::ensure!(!self.ranks.is_empty(), "found no process of `{}`", program.display());
        Ok(())
    }

    /// All steps so far; a line that is being written does not count yet.
    fn steps(&self) -> anyhow::Result<Vec<Step>> {
        let text = fs::read_to_string(&self.metrics).unwrap_or_default();
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let lines = lines_of_steps(complete).with_context(|| format!("in `{}`", self.metrics.display()))?;
        lines.iter().map(|line| Step::read(line, self.num_positions)).collect()
    }

    /// Steps since the last look.
    fn new_steps(&mut self) -> anyhow::Result<Vec<Step>> {
        let mut steps = self.steps()?;
        let new = steps.split_off(self.num_seen.min(steps.len()));
        self.num_seen += new.len();
        Ok(new)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // What has ended already needs no signal.
        drop(signal("KILL", &self.ranks));
        drop(self.launcher.kill());
        drop(self.launcher.wait());
    }
}

impl Side {
    /// Waits until all its trainings run, and stops them.
    ///
    /// # Errors
    ///
    /// If one ends or does not come so far.
    pub fn get_ready(&mut self, program: &Path) -> anyhow::Result<()> {
        for job in &mut self.jobs {
            job.wait_for_steps(program, NUM_WARM_UP + 1)?;
        }
        self.signal("STOP")
    }

    /// Lets the side run for a while.
    ///
    /// # Errors
    ///
    /// If a training has ended or its metrics cannot be read.
    pub fn take_turn(&mut self, length: Duration) -> anyhow::Result<Taken> {
        // Steps that ended while this side was being stopped belong to no turn.
        for job in &mut self.jobs {
            job.new_steps()?;
        }
        let start = Instant::now();
        self.signal("CONT")?;
        pause(length);
        self.signal("STOP")?;
        let mut taken = Taken { seconds: start.elapsed().as_secs_f64(), ..Taken::default() };
        for job in &mut self.jobs {
            let steps = job.new_steps()?;
            taken.num_tokens += steps.iter().map(|step| step.num_tokens).sum::<f64>();
            // The first one was interrupted by the turn of the others.
            taken.whole.push(steps.into_iter().skip(1).collect());
        }
        Ok(taken)
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let all: Vec<u32> = self.jobs.iter().flat_map(|job| &job.ranks).copied().collect();
        signal(name, &all)
    }
}

impl Taken {
    /// Adds what was done in a further turn.
    pub fn add(&mut self, other: Taken) {
        self.seconds += other.seconds;
        self.num_tokens += other.num_tokens;
        self.whole.resize(self.whole.len().max(other.whole.len()), Vec::new());
        for (whole, other) in self.whole.iter_mut().zip(other.whole) {
            whole.extend(other);
        }
    }

    /// Tokens per second of all jobs together, in steps that no stop interrupted; `None` if a job has none.
    pub fn rate_of_whole_steps(&self) -> Option<f64> {
        let rate = |steps: &Vec<Step>| {
            let tokens: f64 = steps.iter().map(|step| step.num_tokens).sum();
            (!steps.is_empty()).then(|| tokens / steps.iter().map(|step| step.seconds).sum::<f64>())
        };
        self.whole.iter().map(rate).sum()
    }
}

/// A process and all that were started by it, directly or not.
fn descendants(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    std::iter::once(pid).chain(children.flat_map(descendants)).collect()
}

fn signal(name: &str, pids: &[u32]) -> anyhow::Result<()> {
    if pids.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("kill");
    command.arg(format!("-{name}")).args(pids.iter().map(u32::to_string)).stderr(Stdio::null());
    let status = command.status().context("failed to start `kill`")?;
    anyhow::ensure!(status.success(), "a training ended by itself: SIG{name} did not reach all of {pids:?}");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a turn is a length of time")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seconds: f64, num_tokens: f64) -> Step {
        Step {
            seconds,
            tokens_per_second: num_tokens / seconds,
            num_tokens,
            num_masked: 0.0,
            padded_share: 0.0,
            phases: [0.0; 5],
            minor_faults: None,
            processor_seconds: None,
        }
    }

    #[test]
    fn rates_of_jobs_add_up() {
        let mut taken = Taken::default();
        assert_eq!(taken.rate_of_whole_steps(), Some(0.0));
        taken.add(Taken { seconds: 3.0, num_tokens: 30.0, whole: vec![vec![step(1.0, 10.0)], Vec::new()] });
        assert_eq!(taken.rate_of_whole_steps(), None, "a job without a step says nothing");
        taken.add(Taken {
            seconds: 3.0,
            num_tokens: 50.0,
            whole: vec![vec![step(3.0, 10.0)], vec![step(2.0, 40.0)]],
        });
        assert_eq!(taken.rate_of_whole_steps(), Some(5.0 + 20.0));
        assert_eq!((taken.seconds, taken.num_tokens), (6.0, 80.0));
    }

    #[test]
    fn a_line_that_is_being_written_does_not_count() {
        let metrics = std::env::temp_dir().join(format!("bench-turns-{}", std::process::id()));
        let line = r#"{"kind": "train", "masked_tokens": 3, "padded_share": 0.5, "tokens_per_second": 8.0,
            "seconds": {"step": 2.0, "data_wait": 0.0, "forward": 0.1, "backward": 0.2,
            "communication_exposed": 0.0, "optimizer": 0.1}}"#
            .replace('\n', " ");
        let command = || {
            let mut command = Command::new("sleep");
            command.arg("60");
            command
        };
        let mut job = Job::start(command(), metrics.clone(), 32).unwrap();
        assert!(job.new_steps().unwrap().is_empty(), "no file is no step");
        fs::write(&metrics, format!("{line}\n{{\"kind\": \"eval\"}}\n{}", &line[..40])).unwrap();
        assert_eq!(job.new_steps().unwrap().iter().map(|step| step.num_tokens).collect::<Vec<_>>(), [16.0]);
        fs::write(&metrics, format!("{line}\n{{\"kind\": \"eval\"}}\n{line}\n")).unwrap();
        assert_eq!(job.new_steps().unwrap().len(), 1);
        assert!(job.new_steps().unwrap().is_empty());
        fs::remove_file(metrics).unwrap();
    }

    #[test]
    fn processes_are_found_stopped_and_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]);
        let mut job = Job::start(command, PathBuf::from("/nonexistent"), 1).unwrap();
        let start = Instant::now();
        while descendants(job.launcher.id()).len() < 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "sh starts sleep");
            pause(Duration::from_millis(10));
        }
        job.ranks = descendants(job.launcher.id());
        let ranks = job.ranks.clone();
        signal("STOP", &ranks).unwrap();
        let state = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next().unwrap())
        };
        let is_stopped = |pid: &u32| state(*pid) == Some('T');
        while !ranks.iter().all(is_stopped) {
            assert!(start.elapsed() < Duration::from_secs(20), "both are stopped");
            pause(Duration::from_millis(10));
        }
        drop(job);
        let is_gone = |pid: &u32| matches!(state(*pid), None | Some('Z'));
        while !ranks.iter().all(is_gone) {
            assert!(start.elapsed() < Duration::from_secs(20), "both are ended");
            pause(Duration::from_millis(10));
        }
    }
}
