//! What this process may use and has used, and where: cores, memory, the name of the host.
//!
//! Owns the reading of /proc. Never changes a number that training computes.

use std::{fs, thread};

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
}
