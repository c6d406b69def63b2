//! What this process may use and has used, and where: cores, memory, the name of the host.
//!
//! Owns the reading of /proc. Never changes a number that training computes.

use std::{fs, thread};

use rustix::time::{ClockId, clock_gettime};

use crate::config::Threads;

/// Compute threads of this rank.
///
/// `"auto"` takes the cores that the launcher bound this rank to, or, where it bound nothing, an equal share of the
/// machine for each of the `num_local_ranks` ranks on it.
#[must_use]
pub fn num_threads(threads: Threads, num_local_ranks: usize) -> usize {
    match threads {
        Threads::Count(count) => count,
        Threads::Auto(_) => {
            let usable = thread::available_parallelism().map_or(1, usize::from);
            let is_bound = online_cores().is_some_and(|online| usable < online);
            fair_share(usable, is_bound, num_local_ranks)
        }
    }
}

fn fair_share(usable: usize, is_bound: bool, num_local_ranks: usize) -> usize {
    if is_bound { usable } else { (usable / num_local_ranks.max(1)).max(1) }
}

fn online_cores() -> Option<usize> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let is_core = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    Some(text.lines().filter(is_core).count())
}

/// Largest resident memory of this process so far, in bytes; 0 where the system does not tell.
#[must_use]
pub fn peak_rss_bytes() -> u64 {
    fs::read_to_string("/proc/self/status").ok().and_then(|text| parse_peak(&text)).unwrap_or(0)
}

/// What this process has taken from the machine since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ResourceUse {
    /// Pages given to it without a disk being read: memory touched for the first time, or again after it went back to
    /// the system; 0 where the system does not tell.
    pub minor_faults: u64,
    /// Processor time of all its threads.
    pub processor_seconds: f64,
}

impl ResourceUse {
    /// Asks the system.
    #[must_use]
    pub fn now() -> Self {
        // To the nanosecond, where /proc would tell hundredths.
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            minor_faults: own_stat().and_then(|stat| stat_field(&stat, MINOR_FAULTS)).unwrap_or(0),
            processor_seconds: time.tv_sec as f64 + time.tv_nsec as f64 / 1e9,
        }
    }

    /// What was taken since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            processor_seconds: (self.processor_seconds - earlier.processor_seconds).max(0.0),
        }
    }
}

/// Wall seconds since this process was started, to a hundredth; `None` where the system does not tell.
#[must_use]
pub fn seconds_since_start() -> Option<f64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let started = stat_field(&own_stat()?, START_TICKS)? as f64 / TICKS_PER_SECOND;
    // In a container that tells its own uptime the two have different beginnings.
    Some(uptime.split_whitespace().next()?.parse::<f64>().ok()? - started).filter(|seconds| *seconds >= 0.0)
}

/// Fields of /proc/self/stat, counted from 0 behind the name of the program; proc(5) counts from 1 and at the
/// program's number.
const MINOR_FAULTS: usize = 7;
const START_TICKS: usize = 19;
/// `USER_HZ`, the unit of times in /proc on every machine that Linux runs on today but Alpha.
const TICKS_PER_SECOND: f64 = 100.0;

fn own_stat() -> Option<String> {
    fs::read_to_string("/proc/self/stat").ok()
}

fn stat_field(stat: &str, field_idx: usize) -> Option<u64> {
    // The name is in parentheses and may itself hold some, and blanks.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(field_idx)?.parse().ok()
}

/// Name of this machine, for messages.
#[must_use]
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "an unnamed host".to_string() } else { name.trim().to_string() }
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bound_rank_uses_its_cores_and_a_free_one_its_share() {
        assert_eq!(fair_share(3, true, 4), 3);
        assert_eq!(fair_share(8, false, 4), 2);
        assert_eq!(fair_share(2, false, 8), 1);
        assert_eq!(num_threads(Threads::Count(5), 2), 5);
    }

    #[test]
    fn peak_memory_is_read_in_bytes() {
        assert_eq!(parse_peak("VmPeak:\t 9 kB\nVmHWM:\t     12 kB\n"), Some(12 * 1024));
        assert!(peak_rss_bytes() > 0);
    }

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a) (b) R 1 2 3 4 5 6 1234 0 9 0 130 20 3 4 20 0 1 0 5678 99 1";
        assert_eq!(stat_field(stat, MINOR_FAULTS), Some(1234));
        assert_eq!(stat_field(stat, START_TICKS), Some(5678));
        assert_eq!(stat_field("7 (a", MINOR_FAULTS), None);
    }

    #[test]
    fn the_work_of_one_thread_is_work_of_the_process() {
        let of_this_thread = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let before = ResourceUse::now();
        let start = of_this_thread();
        while of_this_thread() - start < Duration::from_millis(20) {}
        let taken = ResourceUse::now().since(before).processor_seconds;
        assert!(taken >= 0.02, "{taken}");
    }

    #[test]
    fn touching_memory_counts_as_faults() {
        const PAGE_LEN: usize = 4096;
        let before = ResourceUse::now();
        // More than any allocator keeps back; a page of 2 MB at once would count once.
        let touched = vec![1_u8; 64 << 20];
        assert!(touched.iter().step_by(PAGE_LEN).all(|byte| *byte == 1));
        let taken = ResourceUse::now().since(before);
        assert!(taken.minor_faults >= 32, "{taken:?}");
        assert!(seconds_since_start().is_none_or(|seconds| seconds < 86_400.0));
    }
}
