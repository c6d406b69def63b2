//! One run of `cargo xtask bench communication`: our sum over ranks beside MPI_Allreduce, in one process, in turns.
//!
//! Started by mpirun with a task as JSON: `{"megabytes": [1, 4], "pairs": 9, "wire": "f32"}`. Rank 0 prints one JSON object
//! per size, with the seconds of every measurement of both sides; a measurement is that of the slowest rank. Ours is
//! what a training step does with its buckets, from the training thread through the channel and back: reduce (all-to-all of
//! slices, sum in rank-tree order) and gather, up to six on their way at once. Not timed: the barrier before, and filling the buffers.

#![expect(clippy::print_stdout, reason = "a binary talks to its user")]

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bert_coordinator::{
    BucketPlan, CommError, Communicator, Coordinator, CoordinatorError, CoordinatorOptions, Exchanged,
    Launch, MpiCommunicator, Pulse, Upcoming, Wire, World,
};
use mpi::collective::SystemOperation;
use mpi::topology::SimpleCommunicator;
use mpi::traits::CommunicatorCollectives;
use serde::Deserialize;
use serde_json::{Value, json};

/// The phase in which a broadcast is a call of the library's blocking all-reduce instead.
const LIBRARY: &str = "MPI_Allreduce";
const BYTES_PER_MB: usize = 1_000_000;
/// Bytes that one measurement sums at least, so that small ones are not measured alone.
const MEASURED_BYTES: usize = 32 * BYTES_PER_MB;
/// Buckets on their way at once at most; a small model has as many.
const MAX_BUCKETS: usize = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(task) = env::args().skip(1).find(|argument| argument.starts_with('{')) else {
        println!("skipped: started without a task; use `cargo xtask bench communication`");
        return Ok(());
    };
    let task: Task = serde_json::from_str(&task)?;
    let wire = if task.wire == "bf16" { Wire::Bf16 } else { Wire::F32 };
    let options = CoordinatorOptions { timeout: Duration::from_secs(60) };
    let make = || Ok(Box::new(BothSides::init()?) as Box<dyn Communicator>);
    let coordinator = Coordinator::launch(Launch::Made(Box::new(make)), options)?;
    for megabytes in task.megabytes {
        let len = megabytes * BYTES_PER_MB as f64 / size_of::<f32>() as f64;
        let line = measure(&coordinator, len as usize, wire, task.pairs)?;
        if coordinator.world().is_first() {
            println!("{line}");
        }
    }
    coordinator.shutdown()?;
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    megabytes: Vec<f64>,
    pairs: u64,
    wire: String,
}

/// Both sides in turns, after one round that is not counted.
fn measure(
    coordinator: &Coordinator,
    len: usize,
    wire: Wire,
    num_pairs: u64,
) -> Result<Value, CoordinatorError> {
    let num_rounds = (MEASURED_BYTES / (len * size_of::<f32>())).max(1);
    let num_buckets = num_rounds.min(MAX_BUCKETS);
    let num_rounds = num_rounds / num_buckets * num_buckets;
    coordinator.set_buckets(vec![BucketPlan::from_tensor_lens(&[len]); num_buckets], wire)?;
    let mut gradients = vec![vec![1.0f32; len]; num_buckets];
    let (mut ours, mut library) = (Vec::new(), Vec::new());
    for pair in 0..=num_pairs {
        let own = our_rounds(coordinator, &mut gradients, num_rounds)?;
        let own = slowest(coordinator, own)?;
        let request = [len as u64, num_rounds as u64, num_buckets as u64].map(u64::to_le_bytes).concat();
        let answer = coordinator.broadcast_bytes(LIBRARY, 0, &request)?;
        let peer = slowest(coordinator, seconds_of(&answer))?;
        if pair > 0 {
            ours.push(own / num_rounds as f64);
            library.push(peer / num_rounds as f64);
        }
    }
    let (num_ranks, name) = (coordinator.world().num_ranks(), coordinator.library());
    let num_bytes = len * size_of::<f32>();
    Ok(json!({"ranks": num_ranks, "bytes": num_bytes, "ours": ours, "library": library, "name": name}))
}

/// Rounds in groups of buckets, as a step hands over those of its stages.
fn our_rounds(
    coordinator: &Coordinator,
    gradients: &mut [Vec<f32>],
    num_rounds: usize,
) -> Result<f64, CoordinatorError> {
    coordinator.barrier("before")?;
    let start = Instant::now();
    for _group in 0..num_rounds / gradients.len() {
        for (idx, gradient) in gradients.iter_mut().enumerate() {
            coordinator.reduce_start(idx, std::mem::take(gradient))?;
        }
        for idx in 0..gradients.len() {
            let reduced = coordinator.reduce_finish(idx)?;
            coordinator.gather_start(idx, reduced.bucket)?;
        }
        for (idx, gradient) in gradients.iter_mut().enumerate() {
            *gradient = coordinator.gather_finish(idx)?;
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

/// A sum over ranks has taken as long as on the rank where it took longest.
fn slowest(coordinator: &Coordinator, seconds: f64) -> Result<f64, CoordinatorError> {
    let all = coordinator.all_gather_bytes("seconds", &seconds.to_le_bytes())?;
    Ok(all.iter().map(|bytes| seconds_of(bytes)).fold(0.0, f64::max))
}

fn seconds_of(bytes: &[u8]) -> f64 {
    f64::from_le_bytes(bytes.try_into().expect("8 bytes were sent"))
}

/// Ours, and on the same thread the library's own all-reduce.
struct BothSides {
    ours: MpiCommunicator,
    /// What is sent and received, as many pairs as ours has buckets: no side finds its data in the cache more than the other.
    pairs: Vec<[Vec<f32>; 2]>,
}

impl BothSides {
    fn init() -> Result<BothSides, CommError> {
        Ok(BothSides { ours: MpiCommunicator::init()?, pairs: Vec::new() })
    }

    /// Seconds of this many blocking all-reduces of `len` elements.
    fn library_rounds(&mut self, len: usize, num_rounds: u64, num_pairs: usize) -> Result<f64, CommError> {
        if self.pairs.first().is_none_or(|[send, _]| send.len() != len) {
            self.pairs = vec![[vec![1.0; len], vec![0.0; len]]; num_pairs];
        }
        self.ours.barrier("before")?;
        let start = Instant::now();
        for round in 0..num_rounds as usize {
            let [send, recv] = &mut self.pairs[round % num_pairs];
            SimpleCommunicator::world().all_reduce_into(&send[..], &mut recv[..], SystemOperation::sum());
        }
        let seconds = start.elapsed().as_secs_f64();
        let num_ranks = self.ours.world().num_ranks() as f32;
        let is_sum = |[_, recv]: &[Vec<f32>; 2]| recv.iter().all(|value| *value == num_ranks);
        assert!(self.pairs.iter().all(is_sum), "the library has summed");
        Ok(seconds)
    }
}

impl Communicator for BothSides {
    fn world(&self) -> World {
        self.ours.world()
    }

    fn library(&self) -> String {
        self.ours.library()
    }

    fn configure(&mut self, timeout: Duration, pulse: Arc<Pulse>) {
        self.ours.configure(timeout, pulse);
    }

    fn foresee(&mut self, call_after_next: Option<Upcoming<'_>>) {
        self.ours.foresee(call_after_next);
    }

    fn barrier(&mut self, phase: &str) -> Result<(), CommError> {
        self.ours.barrier(phase)
    }

    fn all_gather_bytes(&mut self, phase: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommError> {
        self.ours.all_gather_bytes(phase, bytes)
    }

    fn broadcast_bytes(&mut self, phase: &str, root: usize, bytes: &[u8]) -> Result<Vec<u8>, CommError> {
        if phase != LIBRARY {
            return self.ours.broadcast_bytes(phase, root, bytes);
        }
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let seconds = self.library_rounds(number(0) as usize, number(8), number(16) as usize)?;
        Ok(seconds.to_le_bytes().to_vec())
    }

    fn all_to_all_slices(
        &mut self,
        phase: &str,
        send: Vec<f32>,
        bounds: &[usize],
        recv: Vec<f32>,
    ) -> Result<Exchanged, CommError> {
        self.ours.all_to_all_slices(phase, send, bounds, recv)
    }

    fn fold_slices(
        &mut self,
        phase: &str,
        bucket: Vec<f32>,
        bounds: &[usize],
        parts: Vec<f32>,
        fold: &mut dyn FnMut(&mut [f32], &mut [f32]),
    ) -> Result<Exchanged, CommError> {
        self.ours.fold_slices(phase, bucket, bounds, parts, fold)
    }

    fn all_to_all_halves(
        &mut self,
        phase: &str,
        send: Vec<u16>,
        bounds: &[usize],
        recv: Vec<u16>,
    ) -> Result<Exchanged<u16>, CommError> {
        self.ours.all_to_all_halves(phase, send, bounds, recv)
    }

    fn all_gather_slices(
        &mut self,
        phase: &str,
        bucket: Vec<f32>,
        bounds: &[usize],
    ) -> Result<Vec<f32>, CommError> {
        self.ours.all_gather_slices(phase, bucket, bounds)
    }

    fn idle(&mut self) {
        self.ours.idle();
    }

    fn shutdown(&mut self) -> Result<(), CommError> {
        self.ours.shutdown()
    }

    fn abort(&mut self, code: i32) {
        self.ours.abort(code);
    }
}
