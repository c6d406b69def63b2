//! Rates of work on one thread. Where Linux says how long the thread has run, waiting for a busy processor does not
//! count.

use std::sync::LazyLock;
use std::time::Instant;

/// Seconds of one measurement: long against the clock tick in which Linux counts running time.
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

/// Returns for how long this thread has run, or else the time since the first call.
fn seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let start = *START;
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let running = times.and_then(|times| times.split_whitespace().next()?.parse::<f64>().ok());
    running.map_or_else(|| start.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}
