//! The training thread's handle on all communication of its rank.
//!
//! Requests go to one communication thread and are executed in the order of submission, which must
//! be the same on all ranks. `*_start` returns at once, so that messages travel while the backward
//! pass goes on; errors come back at `*_finish`. No call waits for ever.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::abort::{AbortHandle, Reach};
use crate::bucket::BucketPlan;
use crate::comm::{CommError, Communicator, SoloCommunicator, ThreadCommunicator};
use crate::error::CoordinatorError;
use crate::progress::{Deadline, Pulse};
use crate::wire::Wire;
use crate::worker::{OnDrop, Reply, Request, Worker};
use crate::world::World;

/// How the ranks of a run reach each other.
pub enum Launch {
    /// One rank.
    Solo,
    /// Ranks are threads of this process; each launches with its own member of the group.
    Thread(ThreadCommunicator),
    /// Ranks are processes under an MPI launcher. Needs the feature `mpi`. At most once per process.
    Mpi,
    /// Ranks are processes under MPI, reached through what this makes on the communication thread: for measurements.
    #[cfg(any(test, feature = "testing"))]
    Made(MakeCommunicator),
}

/// Makes a communicator, on the thread that will own it.
#[cfg(any(test, feature = "testing"))]
pub type MakeCommunicator = Box<dyn FnOnce() -> Result<Box<dyn Communicator>, CommError> + Send>;

/// Settings of a coordinator.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorOptions {
    /// Longest wait for peers in one operation; it must cover the slowest rank's slowest phase.
    pub timeout: Duration,
}

/// A reduced bucket: the own slice of the sum.
#[derive(Debug)]
pub struct ReducedSlice {
    /// The elements of the bucket that this rank owns.
    pub range: Range<usize>,
    /// A vector as long as the bucket, the one that was sent. In `range` stand the sums over all ranks, added in
    /// rank-tree order; the rest means nothing.
    pub bucket: Vec<f32>,
}

impl ReducedSlice {
    /// The sums: `range.len()` elements.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.bucket[self.range.clone()]
    }
}

/// Runs one communication thread and speaks for this rank.
pub struct Coordinator {
    world: World,
    library: String,
    timeout: Duration,
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    pulse: Arc<Pulse>,
    abort: AbortHandle,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    wire: Wire,
    all: Vec<Bucket>,
}

struct Bucket {
    plan: BucketPlan,
    bounds: Arc<[usize]>,
    reducing: Option<Receiver<Result<Vec<f32>, CommError>>>,
    gathering: Option<Receiver<Result<Vec<f32>, CommError>>>,
}

/// What the communication thread says once it is ready.
type Ready = Result<(World, String), CoordinatorError>;

/// A communication thread that does not beat for the timeout, but at least so long, is given up.
const MIN_PATIENCE: Duration = Duration::from_secs(2);

impl Coordinator {
    /// Starts the communication thread and, for MPI, initialises the library on it.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::Launch`] if the thread or the library cannot be started, or if this
    /// program was built without MPI; [`CoordinatorError::ThreadStuck`] if that takes longer than
    /// the timeout.
    pub fn launch(launch: Launch, options: CoordinatorOptions) -> Result<Coordinator, CoordinatorError> {
        let pulse = Arc::new(Pulse::new());
        let (reach, on_drop) = match &launch {
            Launch::Solo => (Reach::Solo, OnDrop::Leave),
            Launch::Thread(comm) => (Reach::Threads(comm.handle()), OnDrop::Leave),
            Launch::Mpi => (Reach::Processes(Arc::clone(&pulse)), OnDrop::Linger),
            #[cfg(any(test, feature = "testing"))]
            Launch::Made(_) => (Reach::Processes(Arc::clone(&pulse)), OnDrop::Linger),
        };
        Coordinator::start(move || connect(launch), pulse, AbortHandle { reach }, on_drop, options)
    }

    /// Starts the communication thread, which makes its communicator itself.
    fn start(
        connect: impl FnOnce() -> Result<Box<dyn Communicator>, CoordinatorError> + Send + 'static,
        pulse: Arc<Pulse>,
        abort: AbortHandle,
        on_drop: OnDrop,
        options: CoordinatorOptions,
    ) -> Result<Coordinator, CoordinatorError> {
        let (requests, inbox) = unbounded();
        let (ready, when_ready) = bounded(1);
        let thread_pulse = Arc::clone(&pulse);
        let body = move || {
            thread_pulse.adopt();
            // If nobody waits for us any more, the closed inbox ends the worker.
            let _ = match connect() {
                Ok(mut comm) => {
                    comm.configure(options.timeout, Arc::clone(&thread_pulse));
                    let sent = ready.send(Ok((comm.world(), comm.library())));
                    Worker::new(comm, inbox, thread_pulse, on_drop).run();
                    sent
                }
                Err(err) => ready.send(Err(err)),
            };
        };
        let thread = thread::Builder::new()
            .name("communication".to_owned())
            .spawn(body)
            .map_err(|err| CoordinatorError::Launch { problem: format!("no communication thread: {err}") })?;
        let phase = "start of communication, which waits for all ranks of the launcher".to_owned();
        let ready: Ready = when_ready.recv_timeout(options.timeout).map_err(|err| match err {
            RecvTimeoutError::Timeout => CoordinatorError::ThreadStuck { phase, waited: options.timeout },
            RecvTimeoutError::Disconnected => CoordinatorError::ThreadDied { phase },
        })?;
        let (world, library) = ready?;
        let (requests, thread, buckets) = (Some(requests), Some(thread), Mutex::default());
        Ok(Coordinator { world, library, timeout: options.timeout, requests, thread, pulse, abort, buckets })
    }

    /// Place of this rank among all.
    pub fn world(&self) -> World {
        self.world
    }

    /// Name and version of what carries the messages.
    pub fn library(&self) -> &str {
        &self.library
    }

    /// Waits until every rank has come.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::PeerFailed`] and the other errors of waiting.
    pub fn barrier(&self, phase: &str) -> Result<(), CoordinatorError> {
        self.ask(phase, |phase, reply| Request::Barrier { phase, reply })
    }

    /// Returns the bytes of every rank, in rank order.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::PeerFailed`] and the other errors of waiting.
    pub fn all_gather_bytes(&self, phase: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CoordinatorError> {
        let bytes = bytes.to_vec();
        self.ask(phase, |phase, reply| Request::AllGatherBytes { phase, bytes, reply })
    }

    /// Returns the bytes of rank `root`.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::PeerFailed`] and the other errors of waiting.
    pub fn broadcast_bytes(
        &self,
        phase: &str,
        root: usize,
        bytes: &[u8],
    ) -> Result<Vec<u8>, CoordinatorError> {
        let bytes = bytes.to_vec();
        self.ask(phase, |phase, reply| Request::BroadcastBytes { phase, root, bytes, reply })
    }

    /// Plans the buckets that `reduce_start` and `gather_start` refer to, and the form of their gradients between ranks.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::Order`] if buckets of an earlier plan are on their way.
    pub fn set_buckets(&self, plans: Vec<BucketPlan>, wire: Wire) -> Result<(), CoordinatorError> {
        let mut buckets = self.lock();
        if buckets.all.iter().any(|bucket| bucket.reducing.is_some() || bucket.gathering.is_some()) {
            let problem = "buckets are still on their way; finish them first";
            return Err(CoordinatorError::Order { phase: "planning of buckets".to_owned(), problem });
        }
        let num_ranks = self.world.num_ranks();
        let bucket = |plan: BucketPlan| {
            let bounds = plan.slice_bounds(num_ranks).into();
            Bucket { plan, bounds, reducing: None, gathering: None }
        };
        *buckets = Buckets { wire, all: plans.into_iter().map(bucket).collect() };
        Ok(())
    }

    /// Starts the sum of a bucket's gradient over all ranks. Does not wait.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::BucketLength`], [`CoordinatorError::UnknownBucket`] or
    /// [`CoordinatorError::Order`] if the call does not fit the plan;
    /// [`CoordinatorError::ThreadDied`] if nobody can take it.
    pub fn reduce_start(&self, bucket_idx: usize, gradient: Vec<f32>) -> Result<(), CoordinatorError> {
        let phase = format!("reduction of bucket {bucket_idx}");
        let mut buckets = self.lock();
        let wire = buckets.wire;
        let bucket = bucket_mut(&mut buckets, bucket_idx)?;
        check_start(&phase, bucket.plan.num_elements(), gradient.len(), bucket.reducing.is_some())?;
        let (reply, when_done) = bounded(1);
        let bounds = Arc::clone(&bucket.bounds);
        self.submit(Request::Reduce { phase, bucket: gradient, bounds, wire, reply })?;
        bucket.reducing = Some(when_done);
        Ok(())
    }

    /// Waits for the sum that `reduce_start` began.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::PeerFailed`] and the other errors of waiting;
    /// [`CoordinatorError::Order`] if nothing was started.
    pub fn reduce_finish(&self, bucket_idx: usize) -> Result<ReducedSlice, CoordinatorError> {
        let phase = format!("reduction of bucket {bucket_idx}");
        let mut buckets = self.lock();
        let bucket = bucket_mut(&mut buckets, bucket_idx)?;
        let when_done = bucket.reducing.take().ok_or_else(|| not_started(&phase))?;
        let rank = self.world.rank();
        let range = bucket.bounds[rank]..bucket.bounds[rank + 1];
        drop(buckets);
        let bucket = self.wait(&phase, &when_done)?;
        Ok(ReducedSlice { range, bucket })
    }

    /// Starts to give the own slice of a bucket to all ranks. Does not wait.
    ///
    /// `bucket`: a vector as long as the bucket, with the values to give in [`ReducedSlice::range`]; those of the others
    /// will take their places around it.
    ///
    /// # Errors
    ///
    /// As [`Coordinator::reduce_start`].
    pub fn gather_start(&self, bucket_idx: usize, bucket: Vec<f32>) -> Result<(), CoordinatorError> {
        let phase = format!("gathering of bucket {bucket_idx}");
        let mut buckets = self.lock();
        let entry = bucket_mut(&mut buckets, bucket_idx)?;
        check_start(&phase, entry.plan.num_elements(), bucket.len(), entry.gathering.is_some())?;
        let (reply, when_done) = bounded(1);
        let bounds = Arc::clone(&entry.bounds);
        self.submit(Request::Gather { phase, bucket, bounds, reply })?;
        entry.gathering = Some(when_done);
        Ok(())
    }

    /// Waits for the whole bucket that `gather_start` began to collect.
    ///
    /// # Errors
    ///
    /// As [`Coordinator::reduce_finish`].
    pub fn gather_finish(&self, bucket_idx: usize) -> Result<Vec<f32>, CoordinatorError> {
        let phase = format!("gathering of bucket {bucket_idx}");
        let mut buckets = self.lock();
        let bucket = bucket_mut(&mut buckets, bucket_idx)?;
        let when_done = bucket.gathering.take().ok_or_else(|| not_started(&phase))?;
        drop(buckets);
        self.wait(&phase, &when_done)
    }

    /// A handle that can end the run of all ranks from any thread.
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// Ends the run of all ranks; see [`AbortHandle::abort`].
    pub fn abort(&self, code: i32) {
        self.abort.abort(code);
    }

    /// Leaves together with all ranks and finalises the library.
    ///
    /// After an error the library is not finalised (that could wait for ever); the launcher ends
    /// the other ranks as soon as this process exits with the error's code.
    ///
    /// # Errors
    ///
    /// The first error of this run's communication, or that of a peer that does not come.
    pub fn shutdown(mut self) -> Result<(), CoordinatorError> {
        self.ask("shutdown", |_, reply| Request::Shutdown { reply })?;
        let thread = self.thread.take();
        self.requests = None;
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(CoordinatorError::ThreadDied { phase: "shutdown".to_owned() }),
            _ => Ok(()),
        }
    }

    fn ask<T>(
        &self,
        phase: &str,
        request: impl FnOnce(String, Reply<T>) -> Request,
    ) -> Result<T, CoordinatorError> {
        let (reply, when_done) = bounded(1);
        self.submit(request(phase.to_owned(), reply))?;
        self.wait(phase, &when_done)
    }

    fn submit(&self, request: Request) -> Result<(), CoordinatorError> {
        let died = || CoordinatorError::ThreadDied { phase: "submission of work".to_owned() };
        self.requests.as_ref().ok_or_else(died)?.send(request).map_err(|_| died())
    }

    /// Waits for a reply as long as the communication thread shows that it lives; its own
    /// deadlines end every wait for peers.
    fn wait<T>(&self, phase: &str, reply: &Receiver<Result<T, CommError>>) -> Result<T, CoordinatorError> {
        let patience = self.timeout.max(MIN_PATIENCE);
        let mut last_beat = self.pulse.num_beats();
        let mut silence = Deadline::after(patience);
        loop {
            match self.pulse.awaiting(|| reply.recv_timeout(Duration::from_millis(200))) {
                Ok(result) => return result.map_err(|err| CoordinatorError::from_comm(phase, err)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(CoordinatorError::ThreadDied { phase: phase.to_owned() });
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let beat = self.pulse.num_beats();
            if beat != last_beat {
                last_beat = beat;
                silence = Deadline::after(patience);
            } else if silence.is_over() {
                return Err(CoordinatorError::ThreadStuck { phase: phase.to_owned(), waited: patience });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        // A panic while the lock is held leaves every bucket in a valid state.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Coordinator {
    /// Without a shutdown: threads leave their group, which ends it; an MPI process stays able to
    /// abort and is ended by its launcher once it exits.
    fn drop(&mut self) {
        self.requests = None;
        let Some(thread) = self.thread.take() else { return };
        match &self.abort.reach {
            Reach::Processes(_) => return,
            Reach::Threads(group) => group.leave(),
            Reach::Solo => {}
        }
        // A panic of the communication thread has been printed where it happened.
        let _ = thread.join();
    }
}

/// Makes the communicator, on the communication thread.
fn connect(launch: Launch) -> Result<Box<dyn Communicator>, CoordinatorError> {
    match launch {
        Launch::Solo => Ok(Box::new(SoloCommunicator)),
        Launch::Thread(comm) => Ok(Box::new(comm)),
        #[cfg(any(test, feature = "testing"))]
        Launch::Made(make) => make().map_err(|err| CoordinatorError::Launch { problem: err.to_string() }),
        #[cfg(feature = "mpi")]
        Launch::Mpi => match crate::comm::MpiCommunicator::init() {
            Ok(comm) => Ok(Box::new(comm)),
            Err(err) => Err(CoordinatorError::Launch { problem: err.to_string() }),
        },
        #[cfg(not(feature = "mpi"))]
        Launch::Mpi => Err(CoordinatorError::Launch {
            problem: "this program was built without MPI; build it with the feature `mpi`, or start it \
                      without an MPI launcher"
                .to_owned(),
        }),
    }
}

fn bucket_mut(buckets: &mut Buckets, bucket_idx: usize) -> Result<&mut Bucket, CoordinatorError> {
    let num_buckets = buckets.all.len();
    buckets.all.get_mut(bucket_idx).ok_or(CoordinatorError::UnknownBucket { bucket_idx, num_buckets })
}

fn check_start(phase: &str, expected: usize, got: usize, busy: bool) -> Result<(), CoordinatorError> {
    let phase = phase.to_owned();
    if busy {
        return Err(CoordinatorError::Order {
            phase,
            problem: "started twice; finish it before the next start",
        });
    }
    if got != expected {
        return Err(CoordinatorError::BucketLength { phase, expected, got });
    }
    Ok(())
}

fn not_started(phase: &str) -> CoordinatorError {
    CoordinatorError::Order { phase: phase.to_owned(), problem: "finished before it was started" }
}

#[cfg(test)]
mod tests;
