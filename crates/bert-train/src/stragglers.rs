//! Ranks that hold the others up.
//!
//! Owns the rule: a rank whose own time per step is above the median of all ranks by a fifth, over 50 steps. Never
//! reads a clock, sends or logs: it judges the times that came with the control words.

use std::fmt;

use crate::phase::PhaseSeconds;

/// Steps that are judged together.
const WINDOW_STEPS: u64 = 50;
/// A straggler's own time is above this multiple of the median.
const LIMIT: f64 = 1.2;

/// A rank that holds the others up.
#[derive(Clone, Debug, PartialEq)]
pub struct Straggler {
    /// Which rank.
    pub rank: usize,
    /// Its machine.
    pub host: String,
    /// Its own time per step as a multiple of the median over ranks.
    pub factor: f64,
    /// Its own seconds per step: the whole step without waiting for others.
    pub own_seconds: f64,
    /// The phase that is furthest above the median of that phase.
    pub phase: &'static str,
    /// Seconds per step in that phase, and the median of all ranks.
    pub phase_seconds: (f64, f64),
}

impl fmt::Display for Straggler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, median) = self.phase_seconds;
        write!(
            formatter,
            "straggler: rank {} on {} took {:.2} times the median over the last {WINDOW_STEPS} steps ({:.4} s per step \
             without waiting for others); slowest phase {}: {own:.4} s, median {median:.4} s",
            self.rank, self.host, self.factor, self.own_seconds, self.phase
        )
    }
}

/// Collects the times of all ranks, and judges them every [`WINDOW_STEPS`] steps.
#[derive(Clone, Debug)]
pub struct Stragglers {
    hosts: Vec<String>,
    sums: Vec<PhaseSeconds>,
    num_steps: u64,
}

impl Stragglers {
    /// One host name for every rank.
    #[must_use]
    pub fn new(hosts: Vec<String>) -> Self {
        let sums = vec![PhaseSeconds::default(); hosts.len()];
        Self { hosts, sums, num_steps: 0 }
    }

    /// Takes the times of one step on all ranks; returns who was too slow once a window is full. A step without times
    /// (there is none before the first) does not count.
    pub fn add(&mut self, rank_seconds: &[PhaseSeconds]) -> Vec<Straggler> {
        if rank_seconds.len() != self.sums.len() || rank_seconds.iter().any(|seconds| seconds.step <= 0.0) {
            return Vec::new();
        }
        for (sum, seconds) in self.sums.iter_mut().zip(rank_seconds) {
            *sum = sum.plus(*seconds);
        }
        self.num_steps += 1;
        if self.num_steps < WINDOW_STEPS {
            return Vec::new();
        }
        let means: Vec<PhaseSeconds> = self.sums.iter().map(|sum| sum.over(self.num_steps)).collect();
        self.sums.fill(PhaseSeconds::default());
        self.num_steps = 0;
        find(&means, &self.hosts)
    }
}

/// The ranks whose own time is more than [`LIMIT`] times the median; `means` and `hosts` by rank.
#[must_use]
pub fn find(means: &[PhaseSeconds], hosts: &[String]) -> Vec<Straggler> {
    let median_own = median(means.iter().map(PhaseSeconds::own));
    let mut found = Vec::new();
    for (rank, seconds) in means.iter().enumerate() {
        if seconds.own() <= LIMIT * median_own {
            continue;
        }
        let medians = (0..).map(|idx: usize| median(means.iter().map(|rank| rank.own_phases()[idx].1)));
        let excess = |(_, own, median): &(&str, f64, f64)| own - median;
        let phases = seconds.own_phases().into_iter().zip(medians).map(|((key, own), m)| (key, own, m));
        let slowest = phases.max_by(|left, right| excess(left).total_cmp(&excess(right)));
        let (phase, own, median) = slowest.unwrap_or_default();
        found.push(Straggler {
            rank,
            host: hosts.get(rank).cloned().unwrap_or_default(),
            factor: seconds.own() / median_own.max(f64::MIN_POSITIVE),
            own_seconds: seconds.own(),
            phase,
            phase_seconds: (own, median),
        });
    }
    found
}

/// The middle value; of an even number the lower of the two, so that one of two ranks can be the slow one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All ranks end their steps at the same time: who is faster waits longer.
    fn seconds(forward: f64, backward: f64) -> PhaseSeconds {
        let step = 10.0;
        let (data_wait, optimizer) = (0.5, 0.25);
        let communication_exposed = step - forward - backward - data_wait - optimizer;
        PhaseSeconds { step, data_wait, forward, backward, communication_exposed, optimizer, save: 0.0 }
    }

    fn hosts(num_ranks: usize) -> Vec<String> {
        (0..num_ranks).map(|rank| format!("node{rank}")).collect()
    }

    #[track_caller]
    fn check(means: &[PhaseSeconds], expected: &[(usize, &str)]) {
        let found = find(means, &hosts(means.len()));
        let found: Vec<(usize, &str)> = found.iter().map(|found| (found.rank, found.phase)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_rank_above_the_median_by_a_fifth_is_named_with_its_phase() {
        let normal = seconds(1.0, 2.0);
        check(&[normal; 4], &[]);
        check(&[normal], &[]);
        check(&[normal, normal, seconds(1.0, 3.0)], &[(2, "backward")]);
        check(&[normal, seconds(2.5, 2.0), normal, normal], &[(1, "forward")]);
        check(&[seconds(1.5, 2.0), normal], &[]);
        check(&[seconds(1.8, 2.0), normal], &[(0, "forward")]);
        check(
            &[normal, seconds(1.9, 2.0), normal, seconds(1.0, 3.1), normal],
            &[(1, "forward"), (3, "backward")],
        );
    }

    #[test]
    fn the_limit_is_twenty_percent_of_the_own_time_not_of_the_step() {
        // Own time 3.75 s: 4.5 s are just allowed.
        check(&[seconds(1.0, 2.0), seconds(1.0, 2.0), seconds(1.0, 2.74)], &[]);
        check(&[seconds(1.0, 2.0), seconds(1.0, 2.0), seconds(1.0, 2.76)], &[(2, "backward")]);
    }

    #[test]
    fn a_window_is_fifty_steps_and_then_begins_anew() {
        let mut stragglers = Stragglers::new(hosts(3));
        let (normal, slow) = (seconds(1.0, 2.0), seconds(4.0, 2.0));
        assert!(stragglers.add(&[PhaseSeconds::default(); 3]).is_empty(), "no times before the first step");
        for window in 0..2 {
            for step in 1..50 {
                assert!(stragglers.add(&[normal, slow, normal]).is_empty(), "step {step} of window {window}");
            }
            let found = stragglers.add(&[normal, slow, normal]);
            let text = found.iter().map(ToString::to_string).collect::<String>();
            assert!(text.contains("rank 1 on node1 took 1.80 times"), "{text}");
            assert!(text.contains("slowest phase forward: 4.0000 s, median 1.0000 s"), "{text}");
        }
        for step in 0..100 {
            assert!(stragglers.add(&[normal; 3]).is_empty(), "step {step}");
        }
    }

    #[test]
    fn a_short_hiccup_is_no_straggler() {
        let mut stragglers = Stragglers::new(hosts(2));
        let (normal, slow) = (seconds(1.0, 2.0), seconds(4.0, 2.0));
        for step in 0..50 {
            let own = if step == 20 { slow } else { normal };
            assert!(stragglers.add(&[normal, own]).is_empty(), "step {step}");
        }
    }
}
