//! Collective operations between ranks, and what can go wrong in them.
//!
//! All ranks call the same operations, in the same order, with equal phases and bounds. Whoever
//! breaks that gets an error that names the ranks, not a hang and not an overrun. Buffers are
//! handed over and handed back, so that an implementation may leave them to a transfer that never
//! ends. Sums, buckets and threads are not the business of this module.

mod call;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "mpi")]
mod mpi_ffi;
mod solo;
mod thread;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use call::group_by_value;
use call::{Call, CallKind};
#[cfg(feature = "mpi")]
pub use mpi::MpiCommunicator;
pub use solo::SoloCommunicator;
pub(crate) use thread::GroupHandle;
pub use thread::ThreadCommunicator;

use crate::progress::Pulse;
use crate::world::World;

/// Wait for peers where nobody has configured another.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The buffers of a finished exchange.
#[derive(Debug, Default)]
pub struct Exchanged<T = f32> {
    /// What was sent, given back unchanged for reuse.
    pub send: Vec<T>,
    /// What was received.
    pub recv: Vec<T>,
}

/// What the peers must know of a collective of slices before it begins.
#[derive(Clone, Copy, Debug)]
pub struct Upcoming<'a> {
    /// Which operation.
    pub kind: SlicesKind,
    /// Its phase.
    pub phase: &'a str,
    /// Its bounds.
    pub bounds: &'a [usize],
}

/// The collectives of slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlicesKind {
    /// [`Communicator::fold_slices`] or [`Communicator::all_to_all_slices`].
    AllToAll,
    /// [`Communicator::all_to_all_halves`].
    AllToAllHalves,
    /// [`Communicator::all_gather_slices`].
    AllGather,
}

/// Collective operations of one rank.
///
/// `phase` names the step of the training in errors; it must be equal on all ranks. After an
/// error the communicator stays in that error: the ranks no longer stand at the same place.
///
/// # Errors
///
/// Every operation returns a [`CommError`] if the ranks disagree on the call, if a peer did not
/// come within the timeout, failed or left, or if the library reports an error.
pub trait Communicator {
    /// Place of this rank among all.
    fn world(&self) -> World;

    /// Name and version of what carries the messages, for run records.
    fn library(&self) -> String;

    /// Sets the longest wait for peers per operation, and the pulse to beat while waiting.
    fn configure(&mut self, timeout: Duration, pulse: Arc<Pulse>);

    /// Says what the call after the next one will be, or that this is not known: the peers can be told of it while the next one
    /// is still under way, which spares a wait. If both are called it must be what was said.
    fn foresee(&mut self, _call_after_next: Option<Upcoming<'_>>) {}

    /// Waits until every rank has come.
    fn barrier(&mut self, phase: &str) -> Result<(), CommError>;

    /// Returns the bytes of every rank, in rank order; lengths may differ.
    fn all_gather_bytes(&mut self, phase: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommError>;

    /// Returns the bytes of rank `root`; what other ranks pass is ignored.
    fn broadcast_bytes(&mut self, phase: &str, root: usize, bytes: &[u8]) -> Result<Vec<u8>, CommError>;

    /// Gives slice `bounds[r]..bounds[r + 1]` of `send` to rank `r`.
    ///
    /// `send`: `bounds[p]` elements. `recv` (any length, is resized) comes back with `p` parts of
    /// the own slice's length, in rank order; the own one means nothing, it is in `send`.
    fn all_to_all_slices(
        &mut self,
        phase: &str,
        send: Vec<f32>,
        bounds: &[usize],
        recv: Vec<f32>,
    ) -> Result<Exchanged, CommError>;

    /// Folds the parts of the own slice into it: [`all_to_all_slices`](Communicator::all_to_all_slices), and what is
    /// received goes with the own slice of `bucket` through `fold(parts, own)`, which leaves its result in `own`.
    ///
    /// `fold` must treat every element alike and by itself: an implementation may call it for one piece of the slice
    /// after the other (`own.len()` elements of each part), while the next one is on its way. `parts` is working space
    /// of any length.
    fn fold_slices(
        &mut self,
        phase: &str,
        bucket: Vec<f32>,
        bounds: &[usize],
        parts: Vec<f32>,
        fold: &mut dyn FnMut(&mut [f32], &mut [f32]),
    ) -> Result<Exchanged, CommError> {
        let mut exchanged = self.all_to_all_slices(phase, bucket, bounds, parts)?;
        let rank = self.world().rank();
        fold(&mut exchanged.recv, &mut exchanged.send[bounds[rank]..bounds[rank + 1]]);
        Ok(exchanged)
    }

    /// As [`all_to_all_slices`](Communicator::all_to_all_slices), for elements of 16 bits (bf16).
    fn all_to_all_halves(
        &mut self,
        phase: &str,
        send: Vec<u16>,
        bounds: &[usize],
        recv: Vec<u16>,
    ) -> Result<Exchanged<u16>, CommError>;

    /// Gives the own slice to every rank.
    ///
    /// `bucket`: `bounds[p]` elements, of which the own slice counts. It comes back with rank `r`'s slice at
    /// `bounds[r]`.
    fn all_gather_slices(
        &mut self,
        phase: &str,
        bucket: Vec<f32>,
        bounds: &[usize],
    ) -> Result<Vec<f32>, CommError>;

    /// Called now and then between operations: lets the library deliver what peers still wait for.
    fn idle(&mut self) {}

    /// Leaves in good order, with all ranks. After an error it leaves nothing behind that waits
    /// for a peer, and returns the error.
    fn shutdown(&mut self) -> Result<(), CommError>;

    /// Ends the work of all ranks. MPI: ends the job and does not return. Threads: every rank of
    /// the group gets an error at once.
    fn abort(&mut self, code: i32);
}

/// What can go wrong between ranks. Repeatable: every call after the first error returns it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    /// Some ranks did not come in time: they are frozen, much slower, or wait elsewhere.
    #[error(
        "{phase}: no sign of {} within {} s; look at the logs of that rank, or raise distributed.timeout_seconds",
        call::ranks(missing), waited.as_secs_f32()
    )]
    PeersMissing {
        /// What the other ranks were doing.
        phase: String,
        /// The ranks that did not come.
        missing: Vec<usize>,
        /// How long the others waited.
        waited: Duration,
    },
    /// A rank asked to end the run.
    #[error("{phase}: rank {rank} aborted the run with exit code {code}")]
    PeerAborted {
        /// What this rank was doing.
        phase: String,
        /// Who aborted.
        rank: usize,
        /// The exit code it asked for.
        code: i32,
    },
    /// A rank ended without taking leave: it panicked, or it returned early.
    #[error("{phase}: rank {rank} left the group without finishing; it failed or returned early")]
    PeerLeft {
        /// What this rank was doing.
        phase: String,
        /// Who left.
        rank: usize,
    },
    /// The ranks stand at different places, or disagree on lengths.
    #[error(
        "ranks disagree on the call: {}; all ranks must make the same calls with the same lengths in the same order",
        group_by_value(calls)
    )]
    CallsDiffer {
        /// Rank and description of its call, as far as known.
        calls: Vec<(usize, String)>,
    },
    /// The caller's buffer does not fit its bounds.
    #[error("{phase}: the buffer holds {got} elements, but the bounds ask for {expected}")]
    BufferLength {
        /// The failing step.
        phase: String,
        /// Elements by the bounds.
        expected: usize,
        /// Elements in the buffer.
        got: usize,
    },
    /// The bounds are not `p + 1` ascending numbers from 0, or the root is not a rank.
    #[error("{phase}: {problem}")]
    Argument {
        /// The failing step.
        phase: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// The message passing library reported an error.
    #[error("{phase}: {function} failed with code {code}: {message}")]
    Library {
        /// The failing step.
        phase: String,
        /// The library's function.
        function: &'static str,
        /// Its return code.
        code: i32,
        /// The library's own words.
        message: String,
    },
}

/// Checks bounds and the length of the bucket.
fn check_slices(phase: &str, world: World, bounds: &[usize], got: usize) -> Result<(), CommError> {
    let num_ranks = world.num_ranks();
    if bounds.len() != num_ranks + 1 || bounds[0] != 0 || !bounds.is_sorted() {
        let problem = format!(
            "slice bounds must be {} ascending numbers from 0, one more than ranks; got {bounds:?}",
            num_ranks + 1
        );
        return Err(CommError::Argument { phase: phase.to_owned(), problem });
    }
    let expected = bounds[num_ranks];
    if got != expected {
        return Err(CommError::BufferLength { phase: phase.to_owned(), expected, got });
    }
    Ok(())
}

fn own_len(world: World, bounds: &[usize]) -> usize {
    bounds[world.rank() + 1] - bounds[world.rank()]
}

fn check_root(phase: &str, world: World, root: usize) -> Result<(), CommError> {
    if root < world.num_ranks() {
        return Ok(());
    }
    let problem = format!("the root must be one of {} ranks, got rank {root}", world.num_ranks());
    Err(CommError::Argument { phase: phase.to_owned(), problem })
}
