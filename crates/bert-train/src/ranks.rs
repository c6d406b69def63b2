//! Doing something on all ranks and agreeing on how it went.
//!
//! Owns the way from a local result to a common one. A phase may last longer than the timeout of the
//! communicator: the ranks keep in touch while they work, so only a rank that is really gone is named.

use std::{sync::mpsc, thread, time::Duration};

use bert_coordinator::Coordinator;

use crate::error::TrainError;

/// First and later pauses between two rounds of keeping in touch.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(200)];

/// Turns the local result of a phase into a common one: if any rank failed, all do, with the same words.
///
/// # Errors
///
/// The failure of the lowest failing rank, or what the coordinator says if a rank is gone.
pub fn agree<T>(
    coordinator: &Coordinator,
    phase: &str,
    local: Result<T, TrainError>,
) -> Result<T, TrainError> {
    coordinator.try_agree(phase, local.map_err(|error| error.to_failure()))?.map_err(TrainError::Agreed)
}

/// Runs `work` on every rank and agrees on the result; may take any time.
///
/// # Errors
///
/// As [`agree`].
pub fn together<T: Send>(
    coordinator: &Coordinator,
    phase: &str,
    work: impl FnOnce() -> Result<T, TrainError> + Send,
) -> Result<T, TrainError> {
    let local = thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let worker = scope.spawn(move || {
            let result = work();
            // The receiver waits for this value or for the end of this thread.
            let _ = sender.send(());
            result
        });
        wait_for_all(coordinator, phase, &receiver)?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    agree(coordinator, phase, local)
}

/// Returns once every rank has reported the end of its work.
fn wait_for_all(coordinator: &Coordinator, phase: &str, done: &mpsc::Receiver<()>) -> Result<(), TrainError> {
    let mut is_done = false;
    for round in 0_usize.. {
        let pause = PAUSES[usize::from(round > 8)];
        is_done = is_done || !matches!(done.recv_timeout(pause), Err(mpsc::RecvTimeoutError::Timeout));
        let states = coordinator.all_gather_bytes(phase, &[u8::from(is_done)])?;
        if states.iter().all(|state| state.as_slice() == [1]) {
            break;
        }
    }
    Ok(())
}
