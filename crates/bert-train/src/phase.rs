//! Where the time of a step goes.
//!
//! Owns the phases and the clock of the step: the only reader of time in the step loop.

use std::{fmt, time::Instant};

use serde::{Deserialize, Serialize};

/// Wall seconds of a rank's step by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeconds {
    /// Whole step, from its batch to its last parameter; `save` is not in it.
    pub step: f64,
    /// Waiting for batches.
    pub data_wait: f64,
    /// Forward passes.
    pub forward: f64,
    /// Backward passes, sums over slots included.
    pub backward: f64,
    /// Waiting for other ranks or for the wire.
    pub communication_exposed: f64,
    /// Update of the own slice.
    pub optimizer: f64,
    /// What training stood still for a checkpoint between the step before and this one.
    #[serde(default)]
    pub save: f64,
}

impl PhaseSeconds {
    /// Number of fields.
    pub const NUM_FIELDS: usize = 7;

    /// The fields in the order of their declaration.
    #[must_use]
    pub fn to_array(self) -> [f64; Self::NUM_FIELDS] {
        let Self { step, data_wait, forward, backward, communication_exposed, optimizer, save } = self;
        [step, data_wait, forward, backward, communication_exposed, optimizer, save]
    }

    /// The inverse of [`to_array`](Self::to_array).
    #[must_use]
    pub fn from_array(fields: [f64; Self::NUM_FIELDS]) -> Self {
        let [step, data_wait, forward, backward, communication_exposed, optimizer, save] = fields;
        Self { step, data_wait, forward, backward, communication_exposed, optimizer, save }
    }

    /// Field by field.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let mut sums = self.to_array();
        sums.iter_mut().zip(other.to_array()).for_each(|(sum, value)| *sum += value);
        Self::from_array(sums)
    }

    /// Each field divided by a number of steps; zeros for none.
    #[must_use]
    pub fn over(self, num_steps: u64) -> Self {
        let divisor = num_steps.max(1) as f64;
        Self::from_array(self.to_array().map(|sum| sum / divisor))
    }

    /// What the rank did itself in the step: all but waiting for others. Steps end together, so their whole times
    /// are equal; this part tells the ranks apart.
    #[must_use]
    pub fn own(&self) -> f64 {
        self.step - self.communication_exposed
    }

    /// The phases that [`own`](Self::own) consists of, with their keys.
    #[must_use]
    pub fn own_phases(&self) -> [(&'static str, f64); 4] {
        [
            ("data_wait", self.data_wait),
            ("forward", self.forward),
            ("backward", self.backward),
            ("optimizer", self.optimizer),
        ]
    }
}

impl fmt::Display for PhaseSeconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:.4} s: data {:.4}, forward {:.4}, backward {:.4}, communication {:.4}, optimizer {:.4}; save {:.4}",
            self.step,
            self.data_wait,
            self.forward,
            self.backward,
            self.communication_exposed,
            self.optimizer,
            self.save
        )
    }
}

/// The result of some work, and its wall seconds.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed().as_secs_f64())
}

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
