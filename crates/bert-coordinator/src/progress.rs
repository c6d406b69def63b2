//! Waiting: the only place that sleeps or reads a clock, and only to end a wait.
//!
//! Measures nothing and decides nothing about the training.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// How often an idle or waiting thread looks up to see whether the run was aborted.
pub(crate) const IDLE_POLL: Duration = Duration::from_millis(20);

/// The moment after which a wait has failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Deadline {
        Deadline { start: Instant::now(), limit }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.start.elapsed() >= self.limit
    }

    /// Time to wait in one go: what is left, at most `longest`.
    pub(crate) fn next_wait(&self, longest: Duration) -> Duration {
        self.limit.saturating_sub(self.start.elapsed()).min(longest)
    }
}

/// Pauses between empty polls: first none, then the time slice, then a nap.
///
/// A thread that polls hot takes half of the compute where each rank has one core; a thread that
/// naps at once adds its nap to every message.
#[cfg(feature = "mpi")]
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    num_empty_polls: u32,
}

#[cfg(feature = "mpi")]
impl Backoff {
    const NUM_SPINS: u32 = 64;
    const NUM_YIELDS: u32 = 256;
    const NAPS: [Duration; 2] = [Duration::from_micros(20), Duration::from_micros(50)];

    /// Something arrived: poll quickly again.
    pub(crate) fn reset(&mut self) {
        self.num_empty_polls = 0;
    }

    /// Pauses after a poll that found nothing.
    pub(crate) fn pause(&mut self) {
        let polls = self.num_empty_polls;
        self.num_empty_polls = polls.saturating_add(1);
        if polls < Self::NUM_SPINS {
            std::hint::spin_loop();
        } else if polls < Self::NUM_SPINS + Self::NUM_YIELDS {
            thread::yield_now();
        } else {
            nap(Self::NAPS[usize::from(polls >= 2 * (Self::NUM_SPINS + Self::NUM_YIELDS))]);
        }
    }
}

/// Sleeps for a short, fixed time.
#[allow(clippy::disallowed_methods, reason = "this is the one place that waits")]
pub(crate) fn nap(duration: Duration) {
    thread::sleep(duration);
}

/// What the communication thread shows to the other threads of its rank: that it lives; and what
/// they may ask of it at any time: to end the job.
#[derive(Debug)]
pub struct Pulse {
    num_beats: AtomicU64,
    /// 0: no request, otherwise the exit code.
    abort_code: AtomicI32,
    owner: std::sync::OnceLock<ThreadId>,
}

impl Pulse {
    /// A pulse without a request.
    pub fn new() -> Pulse {
        Pulse {
            num_beats: AtomicU64::new(0),
            abort_code: AtomicI32::new(0),
            owner: std::sync::OnceLock::new(),
        }
    }

    /// Shows that the communication thread is making its rounds.
    pub fn beat(&self) {
        self.num_beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of beats so far.
    pub fn num_beats(&self) -> u64 {
        self.num_beats.load(Ordering::Relaxed)
    }

    /// Asks the communication thread to end the job with this exit code; the first request counts.
    /// Code 0 becomes 1: an abort is never a success.
    pub fn request_abort(&self, code: i32) {
        let code = if code == 0 { 1 } else { code };
        // A failed exchange means that an earlier request stands.
        let _ = self.abort_code.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The exit code of a requested abort.
    pub fn abort_requested(&self) -> Option<i32> {
        Some(self.abort_code.load(Ordering::SeqCst)).filter(|code| *code != 0)
    }

    /// Names the calling thread as the communication thread.
    pub(crate) fn adopt(&self) {
        // A second adoption is a no-op: one communication thread per pulse.
        let _ = self.owner.set(thread::current().id());
    }

    /// Whether the caller is the communication thread itself.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.owner.get() == Some(&thread::current().id())
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_abort_request_counts_and_is_never_zero() {
        let pulse = Pulse::new();
        assert_eq!(pulse.abort_requested(), None);
        pulse.request_abort(0);
        pulse.request_abort(4);
        assert_eq!(pulse.abort_requested(), Some(1));
    }

    #[test]
    fn a_deadline_of_zero_is_over_at_once() {
        assert!(Deadline::after(Duration::ZERO).is_over());
        let far = Deadline::after(Duration::from_secs(3600));
        assert!(!far.is_over());
        assert_eq!(far.next_wait(IDLE_POLL), IDLE_POLL);
    }
}
