//! Ranks as processes under MPI.
//!
//! Every collective is built from messages between pairs: first all ranks tell each other what they
//! are about to do, and only ranks that agree exchange data, of lengths that both know. So a rank
//! that is elsewhere is an error that names it, and never an overrun. Progress is driven by polling,
//! with a deadline. The C functions are behind `mpi_ffi.rs`; no MPI collective is used, so nothing
//! depends on an algorithm that the library chooses.

mod announcement;
mod notices;
mod pieces;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mpi_ffi::{Buffer, Direction, Flight, Library, LibraryError, MAX_MESSAGE_LEN, Message};
use super::{
    Call, CallKind, CommError, Communicator, DEFAULT_TIMEOUT, Exchanged, SlicesKind, Upcoming, check_root,
    check_slices, own_len,
};
use crate::progress::{Backoff, Deadline, Pulse};
use crate::world::World;
use announcement::Ahead;
use notices::Notices;
use pieces::Pieces;

/// Tag of messages that announce a call.
const TAG_CALL: i32 = 1;
/// Tag of messages that carry its data.
const TAG_PAYLOAD: i32 = 2;
/// Tag of messages of one byte by which a rank shows that it waits.
const TAG_WAITING: i32 = 3;

/// What slices are made of.
trait Element: Copy + Default {
    fn hold(elements: Vec<Self>) -> Buffer;
    fn released(buffer: Buffer) -> Vec<Self>;
}

impl Element for f32 {
    fn hold(elements: Vec<f32>) -> Buffer {
        Buffer::Floats(elements)
    }

    fn released(buffer: Buffer) -> Vec<f32> {
        let Buffer::Floats(elements) = buffer else {
            unreachable!("a transfer returns the buffers it was given")
        };
        elements
    }
}

impl Element for u16 {
    fn hold(elements: Vec<u16>) -> Buffer {
        Buffer::Halves(elements)
    }

    fn released(buffer: Buffer) -> Vec<u16> {
        let Buffer::Halves(elements) = buffer else {
            unreachable!("a transfer returns the buffers it was given")
        };
        elements
    }
}

/// One process of an MPI job. Stays on the thread that created it.
pub struct MpiCommunicator {
    library: Library,
    version: String,
    world: World,
    num_calls: u64,
    timeout: Duration,
    pulse: Arc<Pulse>,
    notices: RefCell<Notices>,
    max_message_len: usize,
    ahead: RefCell<Ahead>,
    failure: Option<CommError>,
}

impl MpiCommunicator {
    /// Initialises MPI on the calling thread. Without a launcher this is a world of one rank.
    ///
    /// # Errors
    ///
    /// [`CommError::Library`] if MPI refuses, was initialised before, or lacks thread support.
    pub fn init() -> Result<MpiCommunicator, CommError> {
        let phase = "start of MPI";
        let library = Library::init().map_err(|err| library_error(phase, err))?;
        let (rank, num_ranks) = library.rank_and_size().map_err(|err| library_error(phase, err))?;
        let world = World::new(rank, num_ranks)
            .map_err(|err| CommError::Argument { phase: phase.to_owned(), problem: err.to_string() })?;
        Ok(MpiCommunicator {
            version: on_one_line(&library.version().map_err(|err| library_error(phase, err))?),
            library,
            world,
            num_calls: 0,
            timeout: DEFAULT_TIMEOUT,
            pulse: Arc::default(),
            notices: RefCell::new(Notices::new(num_ranks)),
            max_message_len: MAX_MESSAGE_LEN,
            ahead: RefCell::default(),
            failure: None,
        })
    }

    /// Cuts data into messages of at most `max_len` bytes (between 4 and 2^30, which is the default).
    pub fn set_max_message_len(&mut self, max_len: usize) {
        self.max_message_len = max_len.clamp(size_of::<f32>(), MAX_MESSAGE_LEN);
    }

    /// Runs one call; after a failure all later ones fail alike.
    fn run<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T, CommError>) -> Result<T, CommError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = body(self);
        self.num_calls += 1;
        self.failure = result.as_ref().err().cloned();
        result
    }

    fn call(&self, kind: CallKind, phase: &str, extent: usize) -> Call {
        Call::new(kind, self.num_calls, phase, extent, &[])
    }

    /// All other ranks, beginning with the next one so that not all send to rank 0 first.
    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, num_ranks) = (self.world.rank(), self.world.num_ranks());
        (1..num_ranks).map(move |step| (rank + step) % num_ranks)
    }

    /// Exchanges data with all peers. Ranges count bytes, one per rank; the own ones are not used.
    fn transfer(
        &self,
        call: &Call,
        send: (Buffer, &[Range<usize>]),
        recv: (Buffer, &[Range<usize>]),
    ) -> Result<(Buffer, Buffer), CommError> {
        let mut flight = Flight::new();
        let outbox = flight.hold(send.0);
        let inbox = flight.hold(recv.0);
        for peer in self.peers() {
            let range = recv.1[peer].clone();
            self.post(&mut flight, call, Message::receive(peer, TAG_PAYLOAD, inbox, range))?;
        }
        for peer in self.peers() {
            let range = send.1[peer].clone();
            self.post(&mut flight, call, Message::send(peer, TAG_PAYLOAD, outbox, range))?;
        }
        self.drive(&mut flight, call, Backoff::for_data(), |_, _| Ok(()))?;
        let mut buffers = flight.into_buffers().into_iter();
        Ok((buffers.next().expect("outbox"), buffers.next().expect("inbox")))
    }

    /// Gives the own slice of a buffer to all peers and receives theirs, each in its place. Ranges count bytes.
    fn spread(&self, call: &Call, buffer: Buffer, slices: &[Range<usize>]) -> Result<Buffer, CommError> {
        let mut flight = Flight::new();
        let bucket = flight.hold(buffer);
        for peer in self.peers() {
            let message = Message::receive(peer, TAG_PAYLOAD, bucket, slices[peer].clone());
            self.post(&mut flight, call, message)?;
        }
        for peer in self.peers() {
            let own = slices[self.world.rank()].clone();
            self.post(&mut flight, call, Message::send(peer, TAG_PAYLOAD, bucket, own))?;
        }
        self.drive(&mut flight, call, Backoff::for_data(), |_, _| Ok(()))?;
        Ok(flight.into_buffers().pop().expect("one buffer was taken over"))
    }

    /// [`transfer`](Self::transfer) of vectors of one type.
    fn transfer_elements<T: Element>(
        &self,
        call: &Call,
        (send, send_ranges): (Vec<T>, &[Range<usize>]),
        (recv, recv_ranges): (Vec<T>, &[Range<usize>]),
    ) -> Result<Exchanged<T>, CommError> {
        let (send, recv) = self.transfer(call, (T::hold(send), send_ranges), (T::hold(recv), recv_ranges))?;
        Ok(Exchanged { send: T::released(send), recv: T::released(recv) })
    }

    fn all_to_all<T: Element>(
        &mut self,
        upcoming: Upcoming<'_>,
        send: Vec<T>,
        mut recv: Vec<T>,
    ) -> Result<Exchanged<T>, CommError> {
        let Upcoming { phase, bounds, .. } = upcoming;
        check_slices(phase, self.world, bounds, send.len())?;
        self.run(|comm| {
            let (num_ranks, own_len) = (comm.world.num_ranks(), own_len(comm.world, bounds));
            let call = comm.announce_slices(upcoming)?;
            recv.resize(num_ranks * own_len, T::default());
            let recv_ranges = part_ranges::<T>(num_ranks, own_len);
            comm.transfer_elements(&call, (send, &slice_ranges::<T>(bounds)), (recv, &recv_ranges))
        })
    }

    /// Starts a message, cut into as many as its length needs; an empty one needs none.
    fn post(&self, flight: &mut Flight, call: &Call, whole: Message) -> Result<(), CommError> {
        for start in whole.range.clone().step_by(self.max_message_len) {
            let range = start..whole.range.end.min(start + self.max_message_len);
            let message = Message { range, ..whole };
            flight.post(&self.library, message).map_err(|err| library_error(&call.phase, err))?;
        }
        Ok(())
    }

    /// Polls until every message is complete; `arrived` sees each of them.
    fn drive(
        &self,
        flight: &mut Flight,
        call: &Call,
        mut backoff: Backoff,
        mut arrived: impl FnMut(&mut Flight, &Message) -> Result<(), CommError>,
    ) -> Result<(), CommError> {
        let mut deadline = Deadline::after(self.timeout);
        let (mut notices, timeout) = (self.notices.borrow_mut(), self.timeout);
        let mut wait = Notices::wait(Instant::now(), timeout);
        loop {
            let done = flight.poll(&self.library).map_err(|err| library_error(&call.phase, err))?;
            for message in &done {
                arrived(flight, message)?;
            }
            if flight.pending().next().is_none() {
                return Ok(());
            }
            self.pulse.beat();
            if let Some(code) = self.pulse.abort_requested() {
                self.library.abort(code);
            }
            if deadline.is_over() {
                let missing = notices.silent(missing_peers(flight), Instant::now(), timeout);
                return Err(CommError::PeersMissing { phase: call.phase.clone(), missing, waited: timeout });
            }
            let looked = notices.look((&self.library, timeout), &mut wait, self.peers());
            looked.map_err(|err| library_error(&call.phase, err))?;
            match done.is_empty() {
                true => backoff.pause(&self.pulse),
                false => backoff.reset(),
            }
        }
    }
}

/// A library's description without the long list of how it was built.
fn on_one_line(version: &str) -> String {
    let lines = version.lines().take_while(|line| !line.contains("configure:"));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// The peers that owe us something; if none does, those that do not take what we send.
fn missing_peers(flight: &Flight) -> Vec<usize> {
    let peers = |direction| {
        let mut peers: Vec<usize> =
            flight.pending().filter(|message| message.direction == direction).map(|m| m.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    };
    let missing = peers(Direction::Receive);
    if missing.is_empty() { peers(Direction::Send) } else { missing }
}

fn library_error(phase: &str, err: LibraryError) -> CommError {
    let LibraryError { function, code, message } = err;
    CommError::Library { phase: phase.to_owned(), function, code, message }
}

/// Byte ranges of the slices, one per rank.
fn slice_ranges<T>(bounds: &[usize]) -> Vec<Range<usize>> {
    bounds.windows(2).map(|pair| pair[0] * size_of::<T>()..pair[1] * size_of::<T>()).collect()
}

/// Byte ranges of `num_parts` parts of equal length.
fn part_ranges<T>(num_parts: usize, num_elements: usize) -> Vec<Range<usize>> {
    let part_len = num_elements * size_of::<T>();
    (0..num_parts).map(|part| part * part_len..(part + 1) * part_len).collect()
}

impl Communicator for MpiCommunicator {
    fn world(&self) -> World {
        self.world
    }

    fn library(&self) -> String {
        self.version.clone()
    }

    fn configure(&mut self, timeout: Duration, pulse: Arc<Pulse>) {
        self.timeout = timeout;
        self.pulse = pulse;
    }

    fn foresee(&mut self, call_after_next: Option<Upcoming<'_>>) {
        let next = call_after_next.map(|upcoming| self.slices_call(self.num_calls + 1, upcoming));
        self.ahead.get_mut().next = next;
    }

    fn barrier(&mut self, phase: &str) -> Result<(), CommError> {
        self.run(|comm| {
            let call = comm.call(CallKind::Barrier, phase, 0);
            comm.announce(&call, 0).map(drop)
        })
    }

    fn all_gather_bytes(&mut self, phase: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommError> {
        self.run(|comm| {
            let call = comm.call(CallKind::AllGatherBytes, phase, 0);
            let lens = comm.announce(&call, bytes.len())?;
            let mut end = 0;
            let place = |len: &usize| {
                let start = end;
                end += len;
                start..end
            };
            let ranges: Vec<Range<usize>> = lens.iter().map(place).collect();
            let mut all = vec![0; end];
            all[ranges[comm.world.rank()].clone()].copy_from_slice(bytes);
            let send = Buffer::Bytes(bytes.to_vec());
            let send_ranges = vec![0..bytes.len(); lens.len()];
            let (_, all) = comm.transfer(&call, (send, &send_ranges), (Buffer::Bytes(all), &ranges))?;
            let Buffer::Bytes(all) = all else { unreachable!("a transfer returns the buffers it was given") };
            Ok(ranges.into_iter().map(|range| all[range].to_vec()).collect())
        })
    }

    fn broadcast_bytes(&mut self, phase: &str, root: usize, bytes: &[u8]) -> Result<Vec<u8>, CommError> {
        check_root(phase, self.world, root)?;
        self.run(|comm| {
            let call = comm.call(CallKind::BroadcastBytes, phase, root);
            let is_root = comm.world.rank() == root;
            let lens = comm.announce(&call, if is_root { bytes.len() } else { 0 })?;
            let num_ranks = comm.world.num_ranks();
            let nothing = vec![0..0; num_ranks];
            let (send, recv) = (Buffer::Bytes(bytes.to_vec()), Buffer::Bytes(vec![0; lens[root]]));
            if is_root {
                let ranges = vec![0..bytes.len(); num_ranks];
                comm.transfer(&call, (send, &ranges), (recv, &nothing))?;
                return Ok(bytes.to_vec());
            }
            let mut ranges = nothing.clone();
            ranges[root] = 0..lens[root];
            let (_, received) = comm.transfer(&call, (send, &nothing), (recv, &ranges))?;
            let Buffer::Bytes(received) = received else {
                unreachable!("a transfer returns the buffers it was given")
            };
            Ok(received)
        })
    }

    fn all_to_all_slices(
        &mut self,
        phase: &str,
        send: Vec<f32>,
        bounds: &[usize],
        recv: Vec<f32>,
    ) -> Result<Exchanged, CommError> {
        self.all_to_all(Upcoming { kind: SlicesKind::AllToAll, phase, bounds }, send, recv)
    }

    fn fold_slices(
        &mut self,
        phase: &str,
        bucket: Vec<f32>,
        bounds: &[usize],
        parts: Vec<f32>,
        fold: &mut dyn FnMut(&mut [f32], &mut [f32]),
    ) -> Result<Exchanged, CommError> {
        if self.world.num_ranks() == 1 {
            let mut exchanged = self.all_to_all_slices(phase, bucket, bounds, parts)?;
            fold(&mut exchanged.recv, &mut exchanged.send);
            return Ok(exchanged);
        }
        check_slices(phase, self.world, bounds, bucket.len())?;
        self.run(|comm| {
            let call = comm.announce_slices(Upcoming { kind: SlicesKind::AllToAll, phase, bounds })?;
            let mut flight = Flight::new();
            let mut pieces = Pieces::start((comm, &call, bounds), &mut flight, bucket, parts)?;
            comm.drive(&mut flight, &call, Backoff::for_data(), |flight, message| {
                pieces.complete(flight, message, fold)
            })?;
            let mut buffers = flight.into_buffers().into_iter().map(f32::released);
            let (send, recv) = (buffers.next().expect("bucket"), buffers.next().expect("parts"));
            Ok(Exchanged { send, recv })
        })
    }

    fn all_to_all_halves(
        &mut self,
        phase: &str,
        send: Vec<u16>,
        bounds: &[usize],
        recv: Vec<u16>,
    ) -> Result<Exchanged<u16>, CommError> {
        self.all_to_all(Upcoming { kind: SlicesKind::AllToAllHalves, phase, bounds }, send, recv)
    }

    fn all_gather_slices(
        &mut self,
        phase: &str,
        bucket: Vec<f32>,
        bounds: &[usize],
    ) -> Result<Vec<f32>, CommError> {
        check_slices(phase, self.world, bounds, bucket.len())?;
        self.run(|comm| {
            let call = comm.announce_slices(Upcoming { kind: SlicesKind::AllGather, phase, bounds })?;
            comm.spread(&call, f32::hold(bucket), &slice_ranges::<f32>(bounds)).map(f32::released)
        })
    }

    fn idle(&mut self) {
        if let Err(err) = self.notices.get_mut().listen(&self.library) {
            self.failure.get_or_insert(library_error("between operations", err));
        }
    }

    fn shutdown(&mut self) -> Result<(), CommError> {
        self.barrier("shutdown")?;
        self.idle();
        self.library.finalize().map_err(|err| library_error("shutdown", err))
    }

    fn abort(&mut self, code: i32) {
        self.library.abort(code);
    }
}

#[cfg(test)]
mod tests {
    use super::on_one_line;

    #[test]
    fn versions_are_short() {
        let mpich = "MPICH Version:\t4.0.2\nMPICH Release date:\tThu Apr  7\nMPICH configure:\t--build=x\nMPICH CC:\tgcc\n";
        assert_eq!(on_one_line(mpich), "MPICH Version: 4.0.2 MPICH Release date: Thu Apr 7");
        assert_eq!(on_one_line("Open MPI v4.1.4,  package"), "Open MPI v4.1.4, package");
    }
}
