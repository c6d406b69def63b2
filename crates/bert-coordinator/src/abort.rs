//! Ending the whole run from any thread of any rank, also from a panic hook.

use std::process;
use std::sync::Arc;
use std::time::Duration;

use crate::comm::GroupHandle;
use crate::progress::{Deadline, IDLE_POLL, Pulse, nap};

/// How long the communication thread may take to end the job before the process ends itself.
const GRACE: Duration = Duration::from_secs(2);

/// Ends the run; clone it into panic hooks and signal handling threads.
#[derive(Clone)]
pub struct AbortHandle {
    pub(crate) reach: Reach,
}

/// How the other ranks are reached.
#[derive(Clone)]
pub(crate) enum Reach {
    /// There are none.
    Solo,
    /// Threads of this process.
    Threads(GroupHandle),
    /// Processes: the communication thread calls `MPI_Abort`.
    Processes(Arc<Pulse>),
}

impl AbortHandle {
    /// Ends the run of all ranks with this exit code (0 is taken as 1).
    ///
    /// For a single rank or MPI the process ends and this does not return: the communication
    /// thread calls `MPI_Abort`; if it cannot, the process is killed after two seconds. For ranks
    /// that are threads it marks the group, so that every rank gets an error at once, and returns.
    pub fn abort(&self, code: i32) {
        let code = if code == 0 { 1 } else { code };
        match &self.reach {
            Reach::Solo => process::exit(code),
            Reach::Threads(group) => group.abort(code),
            Reach::Processes(pulse) if pulse.has_left() => process::exit(code),
            Reach::Processes(pulse) => {
                pulse.request_abort(code);
                let mut deadline = Deadline::after(GRACE);
                while !deadline.is_over() && !pulse.is_own_thread() {
                    nap(IDLE_POLL);
                }
                process::abort();
            }
        }
    }
}
