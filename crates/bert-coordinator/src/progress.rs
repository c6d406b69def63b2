//! Waiting: the only place that sleeps or reads a clock, and only to end a wait.
//!
//! Measures nothing and decides nothing about the training.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// How often an idle or waiting thread looks up to see whether the run was aborted.
pub(crate) const IDLE_POLL: Duration = Duration::from_millis(20);

/// No thread looks up this rarely unless its process was stopped.
const STOPPED: Duration = Duration::from_secs(1);

/// The moment after which a wait has failed. Time in which this process itself was stopped does not count: whoever goes
/// on after a SIGSTOP must not find that the others have been silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    start: Instant,
    limit: Duration,
    last_look: Instant,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Deadline {
        let now = Instant::now();
        Deadline { start: now, limit, last_look: now }
    }

    /// Looks at the clock; to be called again and again while waiting.
    pub(crate) fn is_over(&mut self) -> bool {
        self.is_over_at(Instant::now())
    }

    fn is_over_at(&mut self, now: Instant) -> bool {
        let pause = now.duration_since(self.last_look);
        self.last_look = now;
        if pause >= STOPPED {
            self.start += pause;
        }
        now.duration_since(self.start) >= self.limit
    }

    /// Time to wait in one go: what is left, at most `longest`.
    pub(crate) fn next_wait(&self, longest: Duration) -> Duration {
        self.limit.saturating_sub(self.start.elapsed()).min(longest)
    }
}

/// Pauses between empty polls: first none, then the time slice, then a nap.
///
/// A thread that polls hot takes half of the compute where each rank has one core. A thread that gives its time slice away
/// gets it back only after whole slices of whoever else can run (Linux 6.18 lets it pay for one), and one that naps
/// wakes up a tenth of a millisecond later: both slow data down (naps, measured over TCP: by 1.8). So
/// no wait begins with either; a wait for a peer that may still be computing naps soon, one for data that flows late. Every
/// awakening costs the computation beside it a few microseconds, so as long as nobody here waits for the result, naps
/// get longer with the wait.
#[cfg(feature = "mpi")]
#[derive(Debug)]
pub(crate) struct Backoff {
    /// When polls began to find nothing.
    since: Option<Instant>,
    naps_after: Duration,
}

#[cfg(feature = "mpi")]
impl Backoff {
    /// As long as a peer takes for a piece of data, and no longer: it may need this core for that.
    const SPIN: Duration = Duration::from_micros(20);
    const NAPS: [Duration; 2] = [Duration::from_micros(20), Duration::from_micros(50)];
    /// While the training thread computes: naps of this part of the wait so far, at most `LONGEST_NAP`.
    const NAP_PART: u32 = 16;
    const LONGEST_NAP: Duration = Duration::from_millis(1);

    /// For a wait until peers come.
    pub(crate) fn for_peers() -> Backoff {
        Backoff { since: None, naps_after: Duration::from_micros(500) }
    }

    /// For data that is on its way.
    pub(crate) fn for_data() -> Backoff {
        Backoff { since: None, naps_after: Duration::from_millis(20) }
    }

    /// Something arrived: poll quickly again.
    pub(crate) fn reset(&mut self) {
        self.since = None;
    }

    /// Pauses after a poll that found nothing.
    pub(crate) fn pause(&mut self, pulse: &Pulse) {
        let now = Instant::now();
        let waited = now.duration_since(*self.since.get_or_insert(now));
        if waited < Self::SPIN {
            std::hint::spin_loop();
        } else if waited < self.naps_after {
            thread::yield_now();
        } else {
            nap(self.nap_len(waited, pulse.is_awaited()));
        }
    }

    fn nap_len(&self, waited: Duration, is_awaited: bool) -> Duration {
        let short = Self::NAPS[usize::from(waited >= 2 * self.naps_after)];
        if is_awaited { short } else { (waited / Self::NAP_PART).clamp(short, Self::LONGEST_NAP) }
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
    has_left: AtomicBool,
    /// The training thread waits for a result.
    is_awaited: AtomicBool,
    owner: OnceLock<ThreadId>,
}

impl Pulse {
    /// A pulse without a request.
    pub fn new() -> Pulse {
        Pulse {
            num_beats: AtomicU64::new(0),
            abort_code: AtomicI32::new(0),
            has_left: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            owner: OnceLock::new(),
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

    /// Notes that this rank has left its peers in good order: there is nobody to abort any more.
    pub(crate) fn leave(&self) {
        self.has_left.store(true, Ordering::SeqCst);
    }

    /// Whether this rank has left its peers in good order.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::SeqCst)
    }

    /// Runs `wait`, in which the training thread waits for a result.
    pub(crate) fn awaiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.is_awaited.store(true, Ordering::Relaxed);
        let result = wait();
        self.is_awaited.store(false, Ordering::Relaxed);
        result
    }

    /// Whether the training thread waits for a result now.
    #[cfg(feature = "mpi")]
    fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed)
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
    fn time_in_which_the_process_stood_still_does_not_count() {
        let mut deadline = Deadline::after(Duration::from_secs(3));
        let at = |seconds: f64| deadline.start + Duration::from_secs_f64(seconds);
        let looks = [0.5, 1.0, 60.0, 60.5, 61.0, 61.5, 62.0].map(at);
        let over = looks.map(|now| deadline.is_over_at(now));
        assert_eq!(over, [false, false, false, false, false, false, true], "59 s of 62 were a stop");
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn naps_grow_with_the_wait_unless_somebody_waits_for_its_end() {
        let backoff = Backoff::for_peers();
        let micros =
            |waited, is_awaited| backoff.nap_len(Duration::from_micros(waited), is_awaited).as_micros();
        assert_eq!(
            [500, 800, 1_600, 8_000, 16_000, 9_000_000].map(|w| micros(w, false)),
            [31, 50, 100, 500, 1000, 1000]
        );
        assert_eq!([500, 800, 1_600, 9_000_000].map(|waited| micros(waited, true)), [20, 20, 50, 50]);
    }

    #[test]
    fn a_result_is_awaited_while_somebody_waits() {
        let pulse = Pulse::new();
        let during = pulse.awaiting(|| pulse.is_awaited.load(Ordering::Relaxed));
        assert!(during && !pulse.is_awaited.load(Ordering::Relaxed));
    }

    #[test]
    fn a_deadline_of_zero_is_over_at_once() {
        assert!(Deadline::after(Duration::ZERO).is_over());
        let mut far = Deadline::after(Duration::from_secs(3600));
        assert!(!far.is_over());
        assert_eq!(far.next_wait(IDLE_POLL), IDLE_POLL);
    }
}
