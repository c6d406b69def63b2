//! The communication thread: owns the communicator and does what it is asked, in order.
//!
//! It sums what it receives, so that the training thread only ever waits for finished slices.
//! It never decides what is sent, and it never waits without a deadline.

use std::sync::Arc;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use crate::comm::{CommError, Communicator, Exchanged};
use crate::progress::{IDLE_POLL, Pulse, nap};
use crate::slot_tree::rank_tree_sum;
use crate::wire::{Wire, pack, rank_tree_sum_bf16, round_in_place};

pub(crate) type Reply<T> = Sender<Result<T, CommError>>;

/// A finished reduction: the own slice of the sum, and the sent buffer for reuse.
pub(crate) struct Reduced {
    pub(crate) values: Vec<f32>,
    pub(crate) buffer: Vec<f32>,
}

/// What the training thread asks for. Executed strictly in the order of submission.
pub(crate) enum Request {
    Barrier { phase: String, reply: Reply<()> },
    AllGatherBytes { phase: String, bytes: Vec<u8>, reply: Reply<Vec<Vec<u8>>> },
    BroadcastBytes { phase: String, root: usize, bytes: Vec<u8>, reply: Reply<Vec<u8>> },
    Reduce { phase: String, send: Vec<f32>, bounds: Arc<[usize]>, wire: Wire, reply: Reply<Reduced> },
    Gather { phase: String, own: Vec<f32>, bounds: Arc<[usize]>, reply: Reply<Vec<f32>> },
    Recycle { buffer: Vec<f32> },
    Shutdown { reply: Reply<()> },
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
    pulse: Arc<Pulse>,
    on_drop: OnDrop,
    /// Working space for received parts.
    parts: Vec<f32>,
    /// The same for bf16: what is sent, and received parts.
    halves: Exchanged<u16>,
    pool: BufferPool,
}

impl Worker {
    pub(crate) fn new(
        comm: Box<dyn Communicator>,
        requests: Receiver<Request>,
        pulse: Arc<Pulse>,
        on_drop: OnDrop,
    ) -> Worker {
        let (parts, halves, pool) = (Vec::new(), Exchanged::default(), BufferPool::default());
        Worker { comm, requests, pulse, on_drop, parts, halves, pool }
    }

    /// Serves requests until shutdown.
    pub(crate) fn run(mut self) {
        loop {
            self.pulse.beat();
            if let Some(code) = self.pulse.abort_requested() {
                self.comm.abort(code);
            }
            match self.requests.recv_timeout(IDLE_POLL) {
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
                Ok(request) => self.serve(request),
                Err(RecvTimeoutError::Timeout) => self.comm.idle(),
                Err(RecvTimeoutError::Disconnected) => match self.on_drop {
                    OnDrop::Leave => return,
                    OnDrop::Linger => nap(IDLE_POLL),
                },
            }
        }
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
            Request::Reduce { phase, send, bounds, wire, reply } => {
                answer(&reply, self.reduce(&phase, send, &bounds, wire));
            }
            Request::Gather { phase, own, bounds, reply } => {
                answer(&reply, self.gather(&phase, own, &bounds));
            }
            Request::Recycle { buffer } => self.pool.put(buffer),
            Request::Shutdown { .. } => unreachable!("taken in run"),
        }
    }

    fn reduce(
        &mut self,
        phase: &str,
        mut send: Vec<f32>,
        bounds: &[usize],
        wire: Wire,
    ) -> Result<Reduced, CommError> {
        let world = self.comm.world();
        if world.num_ranks() == 1 {
            if wire == Wire::Bf16 {
                round_in_place(&mut send);
            }
            let buffer = self.pool.take(send.len());
            return Ok(Reduced { values: send, buffer });
        }
        let own_len = bounds[world.rank() + 1] - bounds[world.rank()];
        let buffer = match wire {
            Wire::F32 => {
                let parts = std::mem::take(&mut self.parts);
                let exchanged = self.comm.all_to_all_slices(phase, send, bounds, parts)?;
                self.parts = exchanged.recv;
                exchanged.send
            }
            Wire::Bf16 => {
                let Exchanged { send: mut halves, recv } = std::mem::take(&mut self.halves);
                pack(&send, &mut halves);
                self.halves = self.comm.all_to_all_halves(phase, halves, bounds, recv)?;
                send
            }
        };
        let mut values = self.pool.take(own_len);
        values.resize(own_len, 0.0);
        match wire {
            Wire::F32 => rank_tree_sum(&mut self.parts, world.num_ranks(), &mut values),
            Wire::Bf16 => rank_tree_sum_bf16(&self.halves.recv, world.num_ranks(), &mut values),
        }
        Ok(Reduced { values, buffer })
    }

    fn gather(&mut self, phase: &str, own: Vec<f32>, bounds: &[usize]) -> Result<Vec<f32>, CommError> {
        let world = self.comm.world();
        if world.num_ranks() == 1 {
            return Ok(own);
        }
        let recv = self.pool.take(bounds[world.num_ranks()]);
        let exchanged = self.comm.all_gather_slices(phase, own, bounds, recv)?;
        self.pool.put(exchanged.send);
        Ok(exchanged.recv)
    }
}

fn answer<T>(reply: &Reply<T>, result: Result<T, CommError>) {
    // The asking side is gone only while its rank is unwinding; nobody is left to tell.
    let _ = reply.send(result);
}

/// Vectors of earlier steps.
#[derive(Default)]
struct BufferPool {
    buffers: Vec<Vec<f32>>,
}

impl BufferPool {
    /// More than any run has buckets twice; beyond it buffers are freed.
    const MAX_BUFFERS: usize = 512;

    /// Returns a vector with room for `len` elements, of any length and content. Vectors more than
    /// twice as large are left for larger buckets.
    fn take(&mut self, len: usize) -> Vec<f32> {
        let fitting =
            self.buffers.iter().enumerate().filter(|(_, b)| (len..=2 * len).contains(&b.capacity()));
        match fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(idx, _)| idx) {
            Some(idx) => self.buffers.swap_remove(idx),
            None => Vec::with_capacity(len),
        }
    }

    fn put(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 && self.buffers.len() < Self::MAX_BUFFERS {
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_gives_the_smallest_vector_that_fits() {
        let mut pool = BufferPool::default();
        for len in [100, 15, 12, 40] {
            pool.put(Vec::with_capacity(len));
        }
        pool.put(Vec::new());
        assert_eq!(pool.take(11).capacity(), 12);
        assert_eq!(pool.take(11).capacity(), 15);
        assert_eq!(pool.take(11).capacity(), 11, "40 is left for a larger bucket");
        assert_eq!(pool.buffers.len(), 2);
    }
}
