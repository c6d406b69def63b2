//! Ranks as threads of one process: a strict stand-in for message passing.
//!
//! Every collective is a rendezvous: all ranks lay down what they hold and what they believe to be
//! doing; only if all believe the same may they read each other's data. The first disagreement,
//! absence or abort ends the group: every rank gets the same error, at once and ever after.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{
    Call, CallKind, CommError, Communicator, DEFAULT_TIMEOUT, Exchanged, check_root, check_slices, own_len,
};
use crate::progress::{Deadline, IDLE_POLL, Pulse};
use crate::world::World;

/// What a rank lays down for the others to read.
enum Payload {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
    Halves(Vec<u16>),
}

/// What slices are made of.
trait Element: Copy + Default {
    fn hold(elements: Vec<Self>) -> Payload;
    fn lent(payload: &Payload) -> &[Self];
    fn released(payload: Payload) -> Vec<Self>;
}

impl Element for f32 {
    fn hold(elements: Vec<f32>) -> Payload {
        Payload::Floats(elements)
    }

    fn lent(payload: &Payload) -> &[f32] {
        let Payload::Floats(elements) = payload else { unreachable!("equal calls lay down equal kinds") };
        elements
    }

    fn released(payload: Payload) -> Vec<f32> {
        let Payload::Floats(elements) = payload else { unreachable!("equal calls lay down equal kinds") };
        elements
    }
}

impl Element for u16 {
    fn hold(elements: Vec<u16>) -> Payload {
        Payload::Halves(elements)
    }

    fn lent(payload: &Payload) -> &[u16] {
        let Payload::Halves(elements) = payload else { unreachable!("equal calls lay down equal kinds") };
        elements
    }

    fn released(payload: Payload) -> Vec<u16> {
        let Payload::Halves(elements) = payload else { unreachable!("equal calls lay down equal kinds") };
        elements
    }
}

struct Entry {
    call: Call,
    payload: Arc<Payload>,
}

struct State {
    /// Entries of the ranks that have come to this round; cleared when the round ends.
    entries: Vec<Option<Entry>>,
    done_reading: Vec<bool>,
    num_rounds: u64,
    departed: Vec<bool>,
    failure: Option<Failure>,
}

/// Why the group ended. Kept without a phase: each rank adds its own.
#[derive(Clone)]
enum Failure {
    Missing { phase: String, missing: Vec<usize>, waited: Duration },
    Aborted { rank: usize, code: i32 },
    Left { rank: usize },
    CallsDiffer { calls: Vec<(usize, String)> },
}

impl Failure {
    fn at(self, own_phase: &str) -> CommError {
        let phase = own_phase.to_owned();
        match self {
            Failure::Missing { phase, missing, waited } => CommError::PeersMissing { phase, missing, waited },
            Failure::Aborted { rank, code } => CommError::PeerAborted { phase, rank, code },
            Failure::Left { rank } => CommError::PeerLeft { phase, rank },
            Failure::CallsDiffer { calls } => CommError::CallsDiffer { calls },
        }
    }
}

struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock half-updated.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, state: &mut State, failure: Failure) {
        state.failure.get_or_insert(failure);
        self.changed.notify_all();
    }
}

/// Reaches a group from outside its communication threads.
#[derive(Clone)]
pub(crate) struct GroupHandle {
    group: Arc<Group>,
    rank: usize,
}

impl GroupHandle {
    /// Ends the group on behalf of this rank: every waiting or coming rank gets an error.
    pub(crate) fn abort(&self, code: i32) {
        let mut state = self.group.lock();
        self.group.fail(&mut state, Failure::Aborted { rank: self.rank, code });
    }

    /// Marks this rank as gone: peers that wait for it get an error, also its own pending calls.
    pub(crate) fn leave(&self) {
        let mut state = self.group.lock();
        state.departed[self.rank] = true;
        self.group.changed.notify_all();
    }
}

/// One rank of a group of threads. Create the whole group, then give each thread its own.
pub struct ThreadCommunicator {
    world: World,
    group: Arc<Group>,
    num_calls: u64,
    timeout: Duration,
    pulse: Arc<Pulse>,
    /// Working space: what others read must not change while they do.
    gathered: Vec<f32>,
}

impl ThreadCommunicator {
    /// Creates a group of `num_ranks` communicators, in rank order.
    ///
    /// # Panics
    ///
    /// If `num_ranks` is 0.
    pub fn group(num_ranks: usize) -> Vec<ThreadCommunicator> {
        assert!(num_ranks > 0, "a group has at least one rank");
        let state = State {
            entries: (0..num_ranks).map(|_| None).collect(),
            done_reading: vec![false; num_ranks],
            num_rounds: 0,
            departed: vec![false; num_ranks],
            failure: None,
        };
        let group = Arc::new(Group { state: Mutex::new(state), changed: Condvar::new() });
        let member = |rank| ThreadCommunicator {
            world: World::new(rank, num_ranks).expect("rank is below num_ranks"),
            group: Arc::clone(&group),
            num_calls: 0,
            timeout: DEFAULT_TIMEOUT,
            pulse: Arc::default(),
            gathered: Vec::new(),
        };
        (0..num_ranks).map(member).collect()
    }

    pub(crate) fn handle(&self) -> GroupHandle {
        GroupHandle { group: Arc::clone(&self.group), rank: self.world.rank() }
    }

    /// Lays down `payload`, waits for all ranks, lets `read` see all payloads in rank order, waits
    /// until all have read, and returns the own payload with what `read` made.
    fn exchange<R>(
        &mut self,
        call: Call,
        payload: Payload,
        read: impl FnOnce(&[Arc<Payload>]) -> R,
    ) -> Result<(Payload, R), CommError> {
        self.num_calls += 1;
        let own = Arc::new(payload);
        let phase = call.phase.clone();
        let payloads = self.meet(call, Arc::clone(&own))?;
        let result = read(&payloads);
        drop(payloads);
        self.part(&phase)?;
        let own = Arc::into_inner(own).expect("every rank has dropped what it read");
        Ok((own, result))
    }

    /// First half of a round: returns the payloads of all ranks once all have come and agree.
    fn meet(&self, call: Call, payload: Arc<Payload>) -> Result<Vec<Arc<Payload>>, CommError> {
        let phase = call.phase.clone();
        let mut state = self.group.lock();
        if let Some(failure) = state.failure.clone() {
            return Err(failure.at(&phase));
        }
        state.entries[self.world.rank()] = Some(Entry { call, payload });
        if state.entries.iter().all(Option::is_some) {
            self.group.changed.notify_all();
        }
        let absent = |state: &State| indices_where(&state.entries, Option::is_none);
        let mut state = self.wait_for(state, &phase, absent)?;
        if let Some(calls) = differing_calls(&state) {
            self.group.fail(&mut state, Failure::CallsDiffer { calls: calls.clone() });
            return Err(CommError::CallsDiffer { calls });
        }
        Ok(state.entries.iter().flatten().map(|entry| Arc::clone(&entry.payload)).collect())
    }

    /// Second half of a round: returns once all ranks have read.
    fn part(&self, phase: &str) -> Result<(), CommError> {
        let mut state = self.group.lock();
        let round = state.num_rounds;
        state.done_reading[self.world.rank()] = true;
        if state.done_reading.iter().all(|done| *done) {
            state.done_reading.fill(false);
            state.entries.fill_with(|| None);
            state.num_rounds += 1;
            self.group.changed.notify_all();
        }
        let still_reading = |state: &State| match state.num_rounds == round {
            true => indices_where(&state.done_reading, |done| !done),
            false => Vec::new(),
        };
        self.wait_for(state, phase, still_reading).map(drop)
    }

    /// Waits until `awaited` names no rank; ends the group if a named rank is gone or too late.
    fn wait_for<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        phase: &str,
        awaited: impl Fn(&State) -> Vec<usize>,
    ) -> Result<MutexGuard<'a, State>, CommError>
    where
        Self: 'a,
    {
        let mut deadline = Deadline::after(self.timeout);
        loop {
            // First: a round that is complete succeeds on all ranks, whatever happened since.
            let missing = awaited(&state);
            if missing.is_empty() {
                return Ok(state);
            }
            if let Some(failure) = state.failure.clone() {
                return Err(failure.at(phase));
            }
            let own_rank = self.world.rank();
            let gone = missing.iter().copied().chain([own_rank]).find(|rank| state.departed[*rank]);
            if let Some(rank) = gone {
                self.group.fail(&mut state, Failure::Left { rank });
            } else if deadline.is_over() {
                let (phase, waited) = (phase.to_owned(), self.timeout);
                self.group.fail(&mut state, Failure::Missing { phase, missing, waited });
            } else {
                self.pulse.beat();
                let (guard, _) = self
                    .group
                    .changed
                    .wait_timeout(state, deadline.next_wait(IDLE_POLL))
                    .unwrap_or_else(PoisonError::into_inner);
                state = guard;
            }
        }
    }

    fn call(&self, kind: CallKind, phase: &str, extent: usize, bounds: &[usize]) -> Call {
        Call::new(kind, self.num_calls, phase, extent, bounds)
    }

    fn all_to_all<T: Element>(
        &mut self,
        (kind, phase): (CallKind, &str),
        send: Vec<T>,
        bounds: &[usize],
        mut recv: Vec<T>,
    ) -> Result<Exchanged<T>, CommError> {
        check_slices(phase, self.world, bounds, send.len())?;
        let call = self.call(kind, phase, send.len(), bounds);
        let (rank, own_len) = (self.world.rank(), own_len(self.world, bounds));
        let read = |all: &[Arc<Payload>]| {
            recv.resize(all.len() * own_len, T::default());
            for (peer, payload) in all.iter().enumerate() {
                let slice = &T::lent(payload)[bounds[rank]..bounds[rank + 1]];
                recv[peer * own_len..][..own_len].copy_from_slice(slice);
            }
            recv
        };
        let (send, recv) = self.exchange(call, T::hold(send), read)?;
        Ok(Exchanged { send: T::released(send), recv })
    }
}

fn indices_where<T>(items: &[T], wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| wanted(item)).map(|(idx, _)| idx).collect()
}

/// All calls with their ranks, unless they are equal.
fn differing_calls(state: &State) -> Option<Vec<(usize, String)>> {
    let mut calls = state.entries.iter().flatten().map(|entry| &entry.call);
    let first = calls.next()?;
    if calls.all(|call| call == first) {
        return None;
    }
    Some(state.entries.iter().flatten().map(|entry| entry.call.to_string()).enumerate().collect())
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        let Payload::Bytes(bytes) = self else { unreachable!("equal calls lay down equal kinds") };
        bytes
    }
}

impl Communicator for ThreadCommunicator {
    fn world(&self) -> World {
        self.world
    }

    fn library(&self) -> String {
        "threads (ranks of one process)".to_owned()
    }

    fn configure(&mut self, timeout: Duration, pulse: Arc<Pulse>) {
        self.timeout = timeout;
        self.pulse = pulse;
    }

    fn barrier(&mut self, phase: &str) -> Result<(), CommError> {
        let call = self.call(CallKind::Barrier, phase, 0, &[]);
        self.exchange(call, Payload::Bytes(Vec::new()), |_| ()).map(|_| ())
    }

    fn all_gather_bytes(&mut self, phase: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommError> {
        let call = self.call(CallKind::AllGatherBytes, phase, 0, &[]);
        let read = |all: &[Arc<Payload>]| all.iter().map(|payload| payload.bytes().to_vec()).collect();
        self.exchange(call, Payload::Bytes(bytes.to_vec()), read).map(|(_, gathered)| gathered)
    }

    fn broadcast_bytes(&mut self, phase: &str, root: usize, bytes: &[u8]) -> Result<Vec<u8>, CommError> {
        check_root(phase, self.world, root)?;
        let call = self.call(CallKind::BroadcastBytes, phase, root, &[]);
        let own = if root == self.world.rank() { bytes.to_vec() } else { Vec::new() };
        let read = |all: &[Arc<Payload>]| all[root].bytes().to_vec();
        self.exchange(call, Payload::Bytes(own), read).map(|(_, received)| received)
    }

    fn all_to_all_slices(
        &mut self,
        phase: &str,
        send: Vec<f32>,
        bounds: &[usize],
        recv: Vec<f32>,
    ) -> Result<Exchanged, CommError> {
        self.all_to_all((CallKind::AllToAllSlices, phase), send, bounds, recv)
    }

    fn all_to_all_halves(
        &mut self,
        phase: &str,
        send: Vec<u16>,
        bounds: &[usize],
        recv: Vec<u16>,
    ) -> Result<Exchanged<u16>, CommError> {
        self.all_to_all((CallKind::AllToAllHalves, phase), send, bounds, recv)
    }

    fn all_gather_slices(
        &mut self,
        phase: &str,
        bucket: Vec<f32>,
        bounds: &[usize],
    ) -> Result<Vec<f32>, CommError> {
        check_slices(phase, self.world, bounds, bucket.len())?;
        let call = self.call(CallKind::AllGatherSlices, phase, bucket.len(), bounds);
        let mut gathered = std::mem::take(&mut self.gathered);
        let read = |all: &[Arc<Payload>]| {
            gathered.clear();
            for (peer, payload) in all.iter().enumerate() {
                gathered.extend_from_slice(&f32::lent(payload)[bounds[peer]..bounds[peer + 1]]);
            }
            gathered
        };
        let (bucket, gathered) = self.exchange(call, Payload::Floats(bucket), read)?;
        let mut bucket = f32::released(bucket);
        bucket.copy_from_slice(&gathered);
        self.gathered = gathered;
        Ok(bucket)
    }

    fn shutdown(&mut self) -> Result<(), CommError> {
        self.barrier("shutdown")
    }

    fn abort(&mut self, code: i32) {
        self.handle().abort(code);
    }
}

impl Drop for ThreadCommunicator {
    fn drop(&mut self) {
        self.handle().leave();
    }
}
