//! Which ranks of this machine have come, before MPI lets them know of each other.
//!
//! Owns one abstract Unix socket per rank, named by job and rank: it is there as long as its process, and nothing of it lies
//! about afterwards. Nobody connects to it. Never decides how a run ends.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use bert_coordinator::LauncherInfo;

use crate::machine;

/// The sockets of this machine.
const SOCKETS: &str = "/proc/net/unix";

/// This rank has come; gone when dropped.
#[derive(Debug)]
pub struct Arrival {
    job: String,
    rank: usize,
    num_ranks: usize,
    num_local_ranks: usize,
    /// What the others of this machine see.
    _socket: UnixDatagram,
}

impl Arrival {
    /// Shows that this rank has come. `None` where the launcher does not name the job, so that ranks of two jobs could not
    /// be told apart, or where the system has no such sockets: then nothing can be said of ranks that stay away.
    pub fn announce(launcher: &LauncherInfo, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let slurm_step = || Some(format!("{}.{}", variable("SLURM_JOB_ID")?, variable("SLURM_STEP_ID")?));
        let job = variable("PMIX_NAMESPACE").or_else(slurm_step)?;
        let num_local_ranks = variable("OMPI_COMM_WORLD_LOCAL_SIZE")
            .or_else(|| variable("SLURM_STEP_TASKS_PER_NODE"))
            .and_then(|number| number.parse().ok())?;
        let address = SocketAddr::from_abstract_name(socket_name(&job, launcher.rank)).ok()?;
        let socket = UnixDatagram::bind_addr(&address).ok()?;
        let (rank, num_ranks) = (launcher.rank, launcher.num_ranks?);
        Some(Self { job, rank, num_ranks, num_local_ranks, _socket: socket })
    }

    /// Who has come and who has not, as far as it is seen from this machine.
    #[must_use]
    pub fn look(&self) -> Seen {
        let sockets = fs::read_to_string(SOCKETS).unwrap_or_default();
        let came = ranks_of(&self.job, &sockets);
        let is_whole_job = self.num_local_ranks == self.num_ranks;
        // What is not even true of this rank says nothing of the others.
        if !came.contains(&self.rank) {
            return Seen { text: String::new(), is_speaker: self.rank == 0 };
        }
        let text = if is_whole_job {
            let missing: Vec<usize> = (0..self.num_ranks).filter(|rank| !came.contains(rank)).collect();
            match missing[..] {
                [] => "; all of them have been started, so it is MPI that does not come back".to_string(),
                _ => format!("; {} did not come", list(&missing)),
            }
        } else {
            let (num_local, host) = (self.num_local_ranks, machine::host_name());
            format!("; of {num_local} on {host} came {}", list(&came))
        };
        Seen { text, is_speaker: self.rank == if is_whole_job { came[0] } else { 0 } }
    }
}

/// What a rank knows of the others.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// To be added to a message; may be empty.
    pub text: String,
    /// Whether this rank is the one to say it.
    pub is_speaker: bool,
}

fn socket_name(job: &str, rank: usize) -> String {
    format!("bert-train/{job}/{rank}")
}

/// The ranks of a job among the system's list of sockets, ascending. An abstract name stands at the end of its line, after an `@`.
fn ranks_of(job: &str, sockets: &str) -> Vec<usize> {
    let prefix = format!("@{}", socket_name(job, 0).trim_end_matches('0'));
    let names = sockets.lines().filter_map(|line| line.split_whitespace().last());
    let mut ranks: Vec<usize> = names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
    ranks.sort_unstable();
    ranks.dedup();
    ranks
}

/// `rank 2` or `ranks 0, 3`.
fn list(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    fn announce(job: &str, rank: usize, num_ranks: usize, num_local_ranks: usize) -> Option<Arrival> {
        let launcher = LauncherInfo { name: "test", rank, num_ranks: Some(num_ranks) };
        let job = format!("{job}-{}", process::id());
        Arrival::announce(&launcher, |name| match name {
            "PMIX_NAMESPACE" => Some(job.clone()),
            "OMPI_COMM_WORLD_LOCAL_SIZE" => Some(num_local_ranks.to_string()),
            _ => None,
        })
    }

    #[test]
    fn who_did_not_come_is_named_and_the_first_that_came_speaks() {
        let first = announce("all-here", 1, 4, 4).unwrap();
        let second = announce("all-here", 3, 4, 4).unwrap();
        let other_job = announce("all", 0, 4, 4).unwrap();
        let text = "; ranks 0, 2 did not come".to_string();
        assert_eq!(first.look(), Seen { text: text.clone(), is_speaker: true });
        assert_eq!(second.look(), Seen { text, is_speaker: false });
        drop(first);
        assert_eq!(second.look().text, "; ranks 0, 1, 2 did not come");
        let [zero, one, two] = [0, 1, 2].map(|rank| announce("all-here", rank, 4, 4).unwrap());
        assert!(second.look().text.contains("all of them have been started"));
        drop((zero, one, two, other_job));
    }

    #[test]
    fn of_other_machines_nothing_is_claimed() {
        let third = announce("two-hosts", 2, 4, 2).unwrap();
        let seen = third.look();
        assert!(seen.text.starts_with("; of 2 on ") && seen.text.ends_with("came rank 2"), "{seen:?}");
        assert!(!seen.is_speaker, "rank 0 speaks, wherever it is");
    }

    #[test]
    fn without_a_name_of_the_job_nothing_is_announced() {
        let launcher = LauncherInfo { name: "PMI mpiexec", rank: 0, num_ranks: Some(2) };
        let local = |name: &str| (name == "OMPI_COMM_WORLD_LOCAL_SIZE").then(|| "2".to_string());
        assert!(Arrival::announce(&launcher, local).is_none());
    }

    #[test]
    fn a_list_of_the_system_is_read() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                       0000000000000000: 00000002 00000000 00000000 0002 01 23456 @bert-train/77/2\n\
                       0000000000000000: 00000002 00000000 00000000 0002 01 23457 @bert-train/77/10\n\
                       0000000000000000: 00000002 00000000 00000000 0002 01 23458 @bert-train/777/1\n\
                       0000000000000000: 00000002 00000000 00010000 0001 01 16163 /run/bert-train/77/3\n\
                       0000000000000000: 00000003 00000000 00000000 0001 03 20116\n";
        assert_eq!(ranks_of("77", sockets), [2, 10]);
    }
}
