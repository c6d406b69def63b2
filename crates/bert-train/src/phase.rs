//! Where the time of a step goes.
//!
//! Owns the clock of the step: the only reader of time in the step loop.

use std::time::Instant;

use crate::control::PhaseSeconds;

/// Splits the wall time of a step over its phases without a gap.
#[derive(Debug)]
pub struct PhaseClock {
    started: Instant,
    last: Instant,
    seconds: PhaseSeconds,
}

impl PhaseClock {
    /// Starts a step.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self { started: now, last: now, seconds: PhaseSeconds::default() }
    }

    /// Books the time since the last call on the phase that `phase` picks.
    pub fn lap(&mut self, phase: impl FnOnce(&mut PhaseSeconds) -> &mut f64) {
        let now = Instant::now();
        *phase(&mut self.seconds) += now.duration_since(self.last).as_secs_f64();
        self.last = now;
    }

    /// The seconds so far, `step` up to now.
    #[must_use]
    pub fn seconds(&self) -> PhaseSeconds {
        PhaseSeconds { step: self.started.elapsed().as_secs_f64(), ..self.seconds }
    }
}
