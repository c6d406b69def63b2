//! The communication thread: owns the communicator and does what it is asked, in order.
//!
//! It sums what it receives, so that the training thread only ever waits for finished slices.
//! It never decides what is sent, and it never waits without a deadline.

use std::sync::Arc;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use crate::comm::{CommError, Communicator, Exchanged, SlicesKind, Upcoming};
use crate::progress::{IDLE_POLL, Pulse, nap};
use crate::slot_tree::rank_tree_sum_into_own;
use crate::wire::{Wire, pack, rank_tree_sum_bf16, round_in_place};

pub(crate) type Reply<T> = Sender<Result<T, CommError>>;

/// What the training thread asks for. Executed strictly in the order of submission.
pub(crate) enum Request {
    Barrier { phase: String, reply: Reply<()> },
    AllGatherBytes { phase: String, bytes: Vec<u8>, reply: Reply<Vec<Vec<u8>>> },
    BroadcastBytes { phase: String, root: usize, bytes: Vec<u8>, reply: Reply<Vec<u8>> },
    Reduce { phase: String, bucket: Vec<f32>, bounds: Arc<[usize]>, wire: Wire, reply: Reply<Vec<f32>> },
    Gather { phase: String, bucket: Vec<f32>, bounds: Arc<[usize]>, reply: Reply<Vec<f32>> },
    Shutdown { reply: Reply<()> },
}

impl Request {
    /// What the peers must know of it beforehand, if it is about slices.
    fn as_upcoming(&self) -> Option<Upcoming<'_>> {
        let (kind, phase, bounds) = match self {
            Request::Reduce { phase, bounds, wire: Wire::F32, .. } => (SlicesKind::AllToAll, phase, bounds),
            Request::Reduce { phase, bounds, wire: Wire::Bf16, .. } => {
                (SlicesKind::AllToAllHalves, phase, bounds)
            }
            Request::Gather { phase, bounds, .. } => (SlicesKind::AllGather, phase, bounds),
            _ => return None,
        };
        Some(Upcoming { kind, phase, bounds })
    }
}

/// What to do when the coordinator is dropped without a shutdown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDrop {
    /// End the thread: nobody depends on it.
    Leave,
    /// Stay to serve an abort until the process ends; the library must not be finalised.
    Linger,
}

pub(crate) struct Worker {
    comm: Box<dyn Communicator>,
    requests: Receiver<Request>,
    /// The request after the one that is served, if it had come when that began.
    next: Option<Request>,
    pulse: Arc<Pulse>,
    on_drop: OnDrop,
    /// Working space for received parts.
    parts: Vec<f32>,
    /// The same for bf16: what is sent, and received parts.
    halves: Exchanged<u16>,
}

impl Worker {
    pub(crate) fn new(
        comm: Box<dyn Communicator>,
        requests: Receiver<Request>,
        pulse: Arc<Pulse>,
        on_drop: OnDrop,
    ) -> Worker {
        let (parts, halves) = (Vec::new(), Exchanged::default());
        Worker { comm, requests, next: None, pulse, on_drop, parts, halves }
    }

    /// Serves requests until shutdown.
    pub(crate) fn run(mut self) {
        loop {
            self.pulse.beat();
            if let Some(code) = self.pulse.abort_requested() {
                self.comm.abort(code);
            }
            let request = self.next.take().map_or_else(|| self.requests.recv_timeout(IDLE_POLL), Ok);
            match request {
                Ok(Request::Shutdown { reply }) => {
                    let result = self.comm.shutdown();
                    if result.is_ok() {
                        self.pulse.leave();
                    }
                    let finished = result.is_ok() || self.on_drop == OnDrop::Leave;
                    answer(&reply, result);
                    if finished {
                        return;
                    }
                }
                Ok(request) => {
                    self.look_ahead();
                    self.serve(request);
                }
                Err(RecvTimeoutError::Timeout) => self.comm.idle(),
                Err(RecvTimeoutError::Disconnected) => match self.on_drop {
                    OnDrop::Leave => return,
                    OnDrop::Linger => nap(IDLE_POLL),
                },
            }
        }
    }

    /// Takes the request after the present one if it has come, and says so to the communicator.
    fn look_ahead(&mut self) {
        self.next = self.requests.try_recv().ok();
        self.comm.foresee(self.next.as_ref().and_then(Request::as_upcoming));
    }

    /// A reply that nobody waits for any more is dropped.
    fn serve(&mut self, request: Request) {
        match request {
            Request::Barrier { phase, reply } => answer(&reply, self.comm.barrier(&phase)),
            Request::AllGatherBytes { phase, bytes, reply } => {
                answer(&reply, self.comm.all_gather_bytes(&phase, &bytes));
            }
            Request::BroadcastBytes { phase, root, bytes, reply } => {
                answer(&reply, self.comm.broadcast_bytes(&phase, root, &bytes));
            }
            Request::Reduce { phase, bucket, bounds, wire, reply } => {
                answer(&reply, self.reduce(&phase, bucket, &bounds, wire));
            }
            Request::Gather { phase, bucket, bounds, reply } => {
                answer(&reply, self.comm.all_gather_slices(&phase, bucket, &bounds));
            }
            Request::Shutdown { .. } => unreachable!("taken in run"),
        }
    }

    /// Replaces the own slice of the bucket by its sum over all ranks.
    fn reduce(
        &mut self,
        phase: &str,
        mut bucket: Vec<f32>,
        bounds: &[usize],
        wire: Wire,
    ) -> Result<Vec<f32>, CommError> {
        let (rank, num_ranks) = (self.comm.world().rank(), self.comm.world().num_ranks());
        if num_ranks == 1 {
            if wire == Wire::Bf16 {
                round_in_place(&mut bucket);
            }
            return Ok(bucket);
        }
        let own = bounds[rank]..bounds[rank + 1];
        match wire {
            Wire::F32 => {
                let parts = std::mem::take(&mut self.parts);
                let mut sum =
                    |parts: &mut [f32], own: &mut [f32]| rank_tree_sum_into_own(parts, rank, num_ranks, own);
                let summed = self.comm.fold_slices(phase, bucket, bounds, parts, &mut sum)?;
                (bucket, self.parts) = (summed.send, summed.recv);
            }
            Wire::Bf16 => {
                let Exchanged { send: mut halves, recv } = std::mem::take(&mut self.halves);
                pack(&bucket, &mut halves);
                self.halves = self.comm.all_to_all_halves(phase, halves, bounds, recv)?;
                let Exchanged { send, recv } = &mut self.halves;
                recv[rank * own.len()..][..own.len()].copy_from_slice(&send[own.clone()]);
                rank_tree_sum_bf16(recv, num_ranks, &mut bucket[own]);
            }
        }
        Ok(bucket)
    }
}

fn answer<T>(reply: &Reply<T>, result: Result<T, CommError>) {
    // The asking side is gone only while its rank is unwinding; nobody is left to tell.
    let _ = reply.send(result);
}
