//! The wish to stop: SIGUSR1, SIGTERM and the first Ctrl-C ask for save-and-exit.
//!
//! Owns the flag. What follows from it is decided in the control word, so that all ranks stop at the same step.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    flag,
};

/// Set by a signal, read once a step.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Catches the signals from now on; a second Ctrl-C ends the process at once.
    ///
    /// # Errors
    ///
    /// If the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        let stop = Self::default();
        flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&stop.0))?;
        for signal in [SIGUSR1, SIGTERM, SIGINT] {
            flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    /// Whether a signal came.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
