//! The other ranks as processes of this machine: whether they live, are stopped, or are gone.
//!
//! Owns what /proc says of them, and the thread that says who died when the launcher ends the job for it: Open MPI kills the
//! other ranks a second after one has died, long before any wait of theirs is over. Never decides how a run ends.

use std::{
    fs, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use bert_coordinator::{AbortHandle, Coordinator, exit_code};
use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::SIGTERM,
    iterator::{Handle, Signals},
};

use crate::{
    error::TrainError,
    failure_record::{self, has_record_since},
    machine,
    run_dir::RunDir,
};

/// How often, and with which pauses, the processes are looked at after a SIGTERM.
const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_millis(60);

/// Where a rank runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    host: String,
    pid: u32,
}

/// The processes of all ranks.
#[derive(Clone, Debug)]
pub struct Peers {
    own_rank: usize,
    places: Vec<Place>,
}

/// What the system says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alive,
    Stopped,
    Gone,
}

impl Peers {
    /// Tells the other ranks where this one runs, and learns the same of them.
    ///
    /// # Errors
    ///
    /// [`TrainError`] if a rank is gone already.
    pub fn meet(coordinator: &Coordinator) -> Result<Self, TrainError> {
        let json = |error: serde_json::Error| TrainError::Setup(error.to_string());
        let own = Place { host: machine::host_name(), pid: process::id() };
        let own = serde_json::to_vec(&own).map_err(json)?;
        let gathered = coordinator.all_gather_bytes("places of the ranks", &own)?;
        let places = gathered.iter().map(|place| serde_json::from_slice(place)).collect::<Result<_, _>>();
        Ok(Self { own_rank: coordinator.world().rank(), places: places.map_err(json)? })
    }

    /// The state of a rank's process, if it runs on this machine.
    fn state(&self, rank: usize) -> Option<State> {
        let (own, other) = (self.places.get(self.own_rank)?, self.places.get(rank)?);
        if own.host != other.host {
            return None;
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", other.pid));
        Some(stat.map_or(State::Gone, |stat| parse_state(&stat)))
    }

    /// What is known of these ranks beyond their silence; empty if nothing is.
    #[must_use]
    pub fn describe(&self, ranks: &[usize]) -> String {
        let describe = |rank: &usize| {
            let what = match self.state(*rank)? {
                State::Alive => "is alive, but not where the others are",
                State::Stopped => "is stopped (SIGSTOP or a debugger)",
                State::Gone => "is gone",
            };
            let Place { host, pid } = &self.places[*rank];
            Some(format!("; process {pid} of rank {rank} on {host} {what}"))
        };
        ranks.iter().filter_map(describe).collect()
    }

    /// Ranks on this machine whose processes are gone.
    fn gone(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|rank| self.state(*rank) == Some(State::Gone)).collect()
    }

    /// Whether this rank is the lowest on this machine that still lives.
    fn is_first_alive(&self) -> bool {
        let is_alive = |rank: &usize| matches!(self.state(*rank), Some(State::Alive));
        (0..self.places.len()).find(is_alive) == Some(self.own_rank)
    }
}

/// The third field; the second is a name in brackets and may hold anything.
fn parse_state(stat: &str) -> State {
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    match state {
        Some('T' | 't') => State::Stopped,
        None | Some('Z' | 'X' | 'x') => State::Gone,
        Some(_) => State::Alive,
    }
}

/// Looks at the other ranks when a SIGTERM comes; ends with this value.
pub struct Watch {
    handle: Handle,
    is_leaving: Arc<AtomicBool>,
}

impl Watch {
    /// Starts the thread. If a rank of this machine has died without a word, `speak` says so on one rank, every rank
    /// writes a record, and the job ends.
    ///
    /// # Errors
    ///
    /// [`TrainError`] if the system refuses the handler or the thread.
    pub fn start(
        peers: Peers,
        run_dir: Option<RunDir>,
        abort: AbortHandle,
        speak: fn(&str),
    ) -> Result<Self, TrainError> {
        let refused = |error: std::io::Error| TrainError::Setup(format!("no watch over the ranks: {error}"));
        let mut signals = Signals::new([SIGTERM]).map_err(refused)?;
        let (handle, started) = (signals.handle(), SystemTime::now());
        let is_leaving = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&is_leaving);
        let watch = move || {
            for _ in signals.forever() {
                let Some(gone) = look_for_dead(&peers, &is_over) else { continue };
                if gone.iter().any(|rank| has_record_since(run_dir.as_ref(), *rank, started)) {
                    return;
                }
                let message = failure_record::describe_death(&gone, &peers.describe(&gone));
                let speaks = peers.is_first_alive();
                if speaks {
                    speak(&message);
                }
                failure_record::write_message(run_dir.as_ref(), peers.own_rank, exit_code::PEER, &message);
                if speaks {
                    abort.abort(exit_code::PEER);
                }
                return;
            }
        };
        thread::Builder::new().name("watch".to_string()).spawn(watch).map_err(refused)?;
        Ok(Self { handle, is_leaving })
    }
}

impl Drop for Watch {
    /// From now on ranks may go.
    fn drop(&mut self) {
        self.is_leaving.store(true, Ordering::SeqCst);
        self.handle.close();
    }
}

/// Looks a few times; `None` if all ranks live, or this one is about to leave.
#[allow(clippy::disallowed_methods, reason = "the launcher's signal may come before the process is gone")]
fn look_for_dead(peers: &Peers, is_over: &AtomicBool) -> Option<Vec<usize>> {
    for _ in 0..LOOKS {
        let gone = peers.gone();
        if is_over.load(Ordering::SeqCst) {
            return None;
        }
        if !gone.is_empty() {
            return Some(gone);
        }
        thread::sleep(PAUSE);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_behind_any_name() {
        assert_eq!(parse_state("12 (bert-train) S 1 12"), State::Alive);
        assert_eq!(parse_state("12 (a) T (b) R 1 12"), State::Alive);
        assert_eq!(parse_state("12 (bert-train) T 1 12"), State::Stopped);
        assert_eq!(parse_state("12 (bert-train) Z 1 12"), State::Gone);
        assert_eq!(parse_state(""), State::Gone);
    }

    #[test]
    fn only_processes_of_this_machine_are_judged() {
        let place = |host: &str, pid| Place { host: host.to_string(), pid };
        // Process ids end at 4,194,304.
        let places = vec![place("here", process::id()), place("here", 4_194_305), place("there", 4_194_305)];
        let peers = Peers { own_rank: 0, places };
        assert_eq!(peers.gone(), [1]);
        assert!(peers.is_first_alive());
        assert_eq!(peers.describe(&[1, 2]), "; process 4194305 of rank 1 on here is gone");
        assert!(
            look_for_dead(&peers, &AtomicBool::new(true)).is_none(),
            "a rank that leaves looks at nobody"
        );
    }
}
