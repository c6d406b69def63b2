//! A Slurm of a test's own: one controller and two nodes of one core each, all on this machine.
//!
//! Never touches a Slurm that is installed: configuration, state, ports and sockets are those of a temporary folder.

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use tempfile::TempDir;

use super::process::{Running, holds_within, run};

/// Longer than anything that a test waits for here.
const DEADLINE: Duration = Duration::from_secs(150);

/// A running cluster; its jobs and daemons end with it.
pub struct Slurm {
    dir: TempDir,
    daemons: Vec<Running>,
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
        let mut slurm = Self { dir, daemons: Vec::new() };
        slurm.start_daemon("slurmctld", &[]);
        slurm.wait_until("the controller answers", || slurm.ask("scontrol", &["ping"]).contains("UP"));
        for node in ["n1", "n2"] {
            slurm.start_daemon("slurmd", &["-N", node]);
        }
        slurm.wait_until("both nodes are idle", || {
            slurm.ask("sinfo", &["-h", "-t", "idle", "-o", "%D"]) == "2"
        });
        Some(slurm)
    }

    /// Starts a daemon, which ends with the cluster.
    fn start_daemon(&mut self, name: &str, arguments: &[&str]) {
        let mut command = self.command(name);
        command.arg("-D").args(arguments);
        self.daemons.push(Running::start(command));
    }

    /// A command of Slurm that speaks to this cluster.
    pub fn command(&self, name: &str) -> Command {
        let mut command = command_of(name);
        command.env("SLURM_CONF", self.dir.path().join("slurm.conf")).current_dir(self.dir.path());
        command
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

    /// State of a job, such as `RUNNING`.
    pub fn state(&self, job: &str) -> String {
        let text = self.ask("scontrol", &["show", "--oneliner", "job", job]);
        let field = text.split_whitespace().find_map(|field| field.strip_prefix("JobState="));
        field.unwrap_or_default().to_string()
    }

    /// Waits until the job is in this state.
    #[track_caller]
    pub fn wait_for_state(&self, job: &str, state: &str) {
        self.wait_until(&format!("job {job} is {state}"), || self.state(job) == state);
    }

    /// Lets a requeued job start in three seconds instead of two minutes and waits until it has completed. In the second in which
    /// it was requeued Slurm would take it for the one that has just ended ("credential revoked").
    #[track_caller]
    pub fn complete_soon(&self, job: &str) {
        self.wait_for_state(job, "PENDING");
        self.tell("scontrol", &["update", &format!("JobId={job}"), "StartTime=now+3"]);
        self.wait_for_state(job, "COMPLETED");
    }

    /// Waits until `condition` holds, or fails with what Slurm says of its jobs and what its daemons have logged.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        if holds_within(DEADLINE, condition) {
            return;
        }
        let logs = ["slurmctld.log", "slurmd-n1.log", "slurmd-n2.log"]
            .map(|name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default());
        let jobs = self.ask("scontrol", &["show", "job"]);
        panic!("not within {DEADLINE:?}: {what}\n{jobs}\n{}", logs.join("\n"));
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
        holds_within(Duration::from_secs(10), || self.ask("squeue", &["-h"]).is_empty());
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
         SlurmctldPidFile={dir}/slurmctld.pid\nSlurmdPidFile={dir}/slurmd-%n.pid\nSlurmctldLogFile={dir}/slurmctld.log\nSlurmdLogFile={dir}/slurmd-%n.log\nTmpFS={dir}/tmp-%n\n\
         ProctrackType=proctrack/linuxproc\nTaskPlugin=task/affinity\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n\
         PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\nSchedulerParameters=sched_interval=2,bf_interval=2\nReturnToService=2\nMinJobAge=600\n\
         NodeName=n1 Port={first} {node}\nNodeName=n2 Port={second} {node}\n\
         PartitionName=main Nodes=n1,n2 Default=YES State=UP PriorityTier=1 GraceTime=60\n\
         PartitionName=urgent Nodes=n1,n2 State=UP PriorityTier=10\n"
    )
}
