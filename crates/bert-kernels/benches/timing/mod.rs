//! Rates of work on one thread, in the time for which that thread has run: waiting for a busy processor does not count.

use rustix::time::{ClockId, clock_gettime};

/// Seconds of one measurement: long against interruptions by the system, short against what neighbours of a shared machine do.
const LONG_ENOUGH: f64 = 0.1;

/// Repeats `work`, which returns how many operations it did, and returns 10^9 operations per second.
pub fn rate(mut work: impl FnMut() -> usize) -> f64 {
    work();
    let (start, mut operations) = (seconds(), 0);
    loop {
        operations += work();
        let passed = seconds() - start;
        if passed >= LONG_ENOUGH {
            return operations as f64 / passed / 1e9;
        }
    }
}

/// Returns for how long this thread has run, to the nanosecond. What /proc says is brought up to date at ticks of the clock only, every 4 ms
/// or so: an error of 4 % in either direction, of which the best of many measurements always takes the favourable one.
fn seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
