//! A Slurm of a test's own: one controller and two nodes of one core each, all on this machine.
//!
//! Never touches a Slurm that is installed: configuration, state, ports and sockets are those of a temporary folder.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::process::{Running, run};

/// Longer than anything that a test waits for here.
const DEADLINE: Duration = Duration::from_secs(150);

/// A running cluster; its jobs and daemons end with it.
pub struct Slurm {
    dir: TempDir,
    _daemons: Vec<Running>,
}

impl Slurm {
    /// Starts the daemons and waits until both nodes are idle; says `skipped:` where Slurm is not installed, and in the
    /// second round of tests: how a program is launched and stopped does not depend on its backend.
    pub fn start() -> Option<Self> {
        if super::backend() != "flex" {
            println!("skipped: Slurm with another backend than flex");
            return None;
        }
        if let Some(missing) = ["slurmctld", "slurmd", "sbatch"].into_iter().find(|name| !answers(name)) {
            println!("skipped: Slurm; there is no `{missing}`; launch/setup.sh --slurm installs it");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("slurm.conf"), configuration(dir.path())).unwrap();
        // What a node keeps of PMIx under the same name as another one needs a folder of its own.
        for folder in ["state", "spool-n1", "spool-n2", "tmp-n1", "tmp-n2"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let daemon = |name: &str, arguments: &[&str]| {
            let mut command = command_in(dir.path(), name);
            command.arg("-D").args(arguments);
            Running::start(command)
        };
        let mut daemons = vec![daemon("slurmctld", &[])];
        daemons.extend(["n1", "n2"].map(|node| daemon("slurmd", &["-N", node])));
        let slurm = Self { dir, _daemons: daemons };
        wait_until("both nodes are idle", || slurm.ask("sinfo", &["-h", "-t", "idle", "-o", "%D"]) == "2");
        Some(slurm)
    }

    /// A command of Slurm that speaks to this cluster.
    pub fn command(&self, name: &str) -> Command {
        command_in(self.dir.path(), name)
    }

    /// What the command prints, without white space at its ends; empty if it fails.
    pub fn ask(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = self.command(name);
        let output = command.args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }

    /// Runs the command, which must succeed.
    #[track_caller]
    pub fn tell(&self, name: &str, arguments: &[&str]) {
        let mut command = self.command(name);
        command.args(arguments);
        run(command).expect_code(0);
    }

    /// Submits with `sbatch --parsable` and returns the job's number.
    #[track_caller]
    pub fn submit(&self, mut sbatch: Command) -> String {
        sbatch.env("SLURM_CONF", self.dir.path().join("slurm.conf"));
        run(sbatch).expect_code(0).stdout.trim().to_string()
    }

    /// State of a job, such as `RUNNING`.
    pub fn state(&self, job: &str) -> String {
        let text = self.ask("scontrol", &["show", "--oneliner", "job", job]);
        let field = text.split_whitespace().find_map(|field| field.strip_prefix("JobState="));
        field.unwrap_or_default().to_string()
    }

    /// Waits until the job is in this state.
    #[track_caller]
    pub fn wait_for_state(&self, job: &str, state: &str) {
        wait_until(&format!("job {job} is {state}"), || self.state(job) == state);
    }

    /// Waits until a requeued job has completed, and takes the two minutes away that Slurm lets it wait: they are set when the
    /// job is off its nodes, so asking once could be too early.
    #[track_caller]
    pub fn complete_now(&self, job: &str) {
        let of_the_job = format!("JobId={job}");
        wait_until("the requeued job has completed", || {
            let state = self.state(job);
            if state == "PENDING" {
                self.ask("scontrol", &["update", &of_the_job, "StartTime=now"]);
            }
            state == "COMPLETED"
        });
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // Steps are in sessions of their own, out of reach of the daemons' process groups.
        let jobs = self.ask("squeue", &["-h", "-o", "%i"]);
        for job in jobs.lines() {
            self.ask("scancel", &["--full", "--signal=KILL", job]);
            self.ask("scancel", &[job]);
        }
        let started = Instant::now();
        while !self.ask("squeue", &["-h"]).is_empty() && started.elapsed() < Duration::from_secs(10) {
            nap();
        }
    }
}

/// Whether the program can be started: without a configuration `sbatch` does not even tell its version.
fn answers(program: &str) -> bool {
    command_of(program).arg("-V").output().is_ok()
}

/// Debian keeps daemons where the `PATH` of a user may not look.
fn command_of(program: &str) -> Command {
    let in_sbin = Path::new("/usr/sbin").join(program);
    if in_sbin.exists() { Command::new(in_sbin) } else { Command::new(program) }
}

fn command_in(dir: &Path, name: &str) -> Command {
    let mut command = command_of(name);
    command.env("SLURM_CONF", dir.join("slurm.conf")).current_dir(dir);
    command
}

/// Without munge, cgroups or accounting, so that any user can start it in a container.
fn configuration(dir: &Path) -> String {
    let print = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let (host, user, dir) = (print("uname", "-n"), print("id", "-un"), dir.display());
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [controller, first, second] = listeners.map(|listener| listener.local_addr().unwrap().port());
    let node = format!("NodeHostname={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN");
    format!(
        "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={controller}\nSlurmUser={user}\nSlurmdUser={user}\n\
         AuthType=auth/none\nCredType=cred/none\nStateSaveLocation={dir}/state\nSlurmdSpoolDir={dir}/spool-%n\n\
         SlurmctldPidFile={dir}/slurmctld.pid\nSlurmdPidFile={dir}/slurmd-%n.pid\nTmpFS={dir}/tmp-%n\n\
         ProctrackType=proctrack/linuxproc\nTaskPlugin=task/affinity\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n\
         PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\nSchedulerParameters=sched_interval=2,bf_interval=2\nReturnToService=2\nMinJobAge=600\n\
         NodeName=n1 Port={first} {node}\nNodeName=n2 Port={second} {node}\n\
         PartitionName=main Nodes=n1,n2 Default=YES State=UP PriorityTier=1 GraceTime=60\n\
         PartitionName=urgent Nodes=n1,n2 State=UP PriorityTier=10\n"
    )
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        nap();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test that waits for other processes has to sleep")]
fn nap() {
    std::thread::sleep(Duration::from_millis(100));
}
