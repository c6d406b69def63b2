//! Micro-batches ahead of time: worker threads make them, one caller takes them in order.
//!
//! Order and content do not depend on the number of workers. A worker's error or panic arrives where its
//! batch would have; nothing waits for a worker that is gone. Dropping the prefetcher joins its threads.

use crate::batch::MicroBatch;
use crate::error::DataError;
use crate::pretrain::PretrainData;
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// All micro-batches of one step that belong to one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepBatches {
    /// The step.
    pub step: u64,
    /// Epoch that the step begins in.
    pub epoch: u64,
    /// One per slot, in slot order.
    pub micro_batches: Vec<MicroBatch>,
}

/// Data of a task: any micro-batch of any step, as a pure function of both.
pub trait BatchSource: Send + Sync + 'static {
    /// The rows of `slot` of `step`, both from 0.
    ///
    /// # Errors
    ///
    /// [`DataError`] if the data cannot be read.
    fn micro_batch(&self, step: u64, slot: usize) -> Result<MicroBatch, DataError>;

    /// Prepares in the background what the steps after those of `epoch` need; ends early once `is_stopped`.
    ///
    /// # Errors
    ///
    /// [`DataError`] if the data cannot be read; a step that needs it meets the same error.
    fn look_ahead(&self, epoch: u64, is_stopped: &AtomicBool) -> Result<(), DataError>;
}

impl BatchSource for PretrainData {
    fn micro_batch(&self, step: u64, slot: usize) -> Result<MicroBatch, DataError> {
        Self::micro_batch(self, step, slot)
    }

    fn look_ahead(&self, epoch: u64, is_stopped: &AtomicBool) -> Result<(), DataError> {
        Self::look_ahead(self, epoch, is_stopped)
    }
}

/// Makes one micro-batch.
type MakeBatch = dyn Fn(u64, usize) -> Result<MicroBatch, DataError> + Send + Sync;

/// One micro-batch to be made, and where to put it.
struct Task {
    step: u64,
    slot: usize,
    reply: Sender<Result<MicroBatch, DataError>>,
}

/// A step whose micro-batches are under way.
struct PendingStep {
    step: u64,
    replies: Vec<Receiver<Result<MicroBatch, DataError>>>,
}

/// Keeps `depth_steps` steps of micro-batches ready.
pub struct Prefetcher {
    /// Closed on drop, which ends the workers.
    tasks: Option<Sender<Task>>,
    pending: VecDeque<PendingStep>,
    slots: Range<usize>,
    next_step: u64,
    workers: Vec<JoinHandle<()>>,
    ahead: Option<Ahead>,
    failed_step: Option<u64>,
}

/// A thread that prepares what follows the steps being made: the plan of the next epoch, the next window.
struct Ahead {
    /// Told the epoch of each step. Closed on drop, which ends the thread.
    epochs: Option<Sender<u64>>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    fn spawn<S: BatchSource>(data: Arc<S>) -> Result<Self, DataError> {
        let (epochs, inbox) = bounded::<u64>(1);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let flag = is_stopped.clone();
        let work = move || {
            for epoch in inbox {
                // What fails here fails again where it is needed, and is told there.
                drop(catch_unwind(AssertUnwindSafe(|| data.look_ahead(epoch, &flag))));
            }
        };
        let thread = std::thread::Builder::new()
            .name("look-ahead".to_owned())
            .spawn(work)
            .map_err(DataError::io("start a data worker", std::path::Path::new("look-ahead")))?;
        Ok(Self { epochs: Some(epochs), is_stopped, thread: Some(thread) })
    }

    /// Never waits: a thread that is busy is told again at the next step.
    fn tell(&self, epoch: u64) {
        if let Some(epochs) = &self.epochs {
            let _ = epochs.try_send(epoch);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.epochs = None;
        if let Some(thread) = self.thread.take() {
            // It catches panics of its work.
            drop(thread.join());
        }
    }
}

impl Prefetcher {
    /// Starts `num_threads` workers (at least one) on the given slots, from `first_step` on, `depth_steps`
    /// steps (at least one) ahead.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if a thread cannot be started.
    pub fn spawn<S: BatchSource>(
        data: Arc<S>,
        first_step: u64,
        slots: Range<usize>,
        num_threads: usize,
        depth_steps: usize,
    ) -> Result<Self, DataError> {
        let ahead = Ahead::spawn(data.clone())?;
        let make = move |step, slot| data.micro_batch(step, slot);
        let mut prefetcher = Self::spawn_with(Arc::new(make), first_step, slots, num_threads, depth_steps)?;
        prefetcher.ahead = Some(ahead);
        Ok(prefetcher)
    }

    /// The same over any function from step and slot.
    fn spawn_with(
        make: Arc<MakeBatch>,
        first_step: u64,
        slots: Range<usize>,
        num_threads: usize,
        depth_steps: usize,
    ) -> Result<Self, DataError> {
        let (tasks, inbox) = unbounded::<Task>();
        let mut prefetcher = Self {
            tasks: Some(tasks),
            pending: VecDeque::new(),
            slots,
            next_step: first_step,
            workers: Vec::new(),
            ahead: None,
            failed_step: None,
        };
        for idx in 0..num_threads.max(1) {
            let (make, inbox) = (make.clone(), inbox.clone());
            let worker = std::thread::Builder::new()
                .name(format!("prefetch-{idx}"))
                .spawn(move || work(&*make, &inbox))
                .map_err(DataError::io("start a data worker", std::path::Path::new("prefetch")))?;
            prefetcher.workers.push(worker);
        }
        (0..depth_steps.max(1)).for_each(|_| prefetcher.order_step());
        Ok(prefetcher)
    }

    /// The micro-batches of the next step; waits for them if they are not ready.
    ///
    /// # Errors
    ///
    /// What a worker met while making them, [`DataError::Worker`] if it panicked; [`DataError::Stopped`] at
    /// every call after that.
    pub fn next_step(&mut self) -> Result<StepBatches, DataError> {
        if let Some(step) = self.failed_step {
            return Err(DataError::Stopped { step });
        }
        let Some(PendingStep { step, replies }) = self.pending.pop_front() else {
            return Err(DataError::Stopped { step: self.next_step });
        };
        self.order_step();
        let mut micro_batches = Vec::with_capacity(replies.len());
        for (reply, slot) in replies.into_iter().zip(self.slots.clone()) {
            // A reply that will never come: its sender went down with the worker.
            let lost = || DataError::Worker { step, slot, message: "the worker went away".to_owned() };
            match reply.recv().unwrap_or_else(|_| Err(lost())) {
                Ok(batch) => micro_batches.push(batch),
                Err(error) => {
                    self.failed_step = Some(step);
                    self.stop();
                    return Err(error);
                }
            }
        }
        let epoch = micro_batches.first().map_or(0, |batch| batch.epoch);
        if let Some(ahead) = &self.ahead {
            ahead.tell(epoch);
        }
        Ok(StepBatches { step, epoch, micro_batches })
    }

    /// Puts the slots of one more step to work.
    fn order_step(&mut self) {
        let step = self.next_step;
        self.next_step += 1;
        let mut replies = Vec::with_capacity(self.slots.len());
        for slot in self.slots.clone() {
            let (reply, receiver) = bounded(1);
            replies.push(receiver);
            if let Some(tasks) = &self.tasks {
                // If all workers are gone the task is dropped, and with it the sender its receiver waits for.
                drop(tasks.send(Task { step, slot, reply }));
            }
        }
        self.pending.push_back(PendingStep { step, replies });
    }

    /// Takes back what nobody has begun, and ends the workers.
    fn stop(&mut self) {
        self.pending.clear();
        self.tasks = None;
        self.ahead = None;
        for worker in self.workers.drain(..) {
            // A worker catches panics of its work, and reports them there.
            drop(worker.join());
        }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes micro-batches until there is nobody left to make them for.
fn work(make: &MakeBatch, inbox: &Receiver<Task>) {
    for Task { step, slot, reply } in inbox {
        let made = catch_unwind(AssertUnwindSafe(|| make(step, slot)))
            .unwrap_or_else(|panic| Err(DataError::Worker { step, slot, message: message_of(&*panic) }));
        // Nobody waits for it any more if the prefetcher was dropped.
        drop(reply.send(made));
    }
}

/// The message of a panic.
fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn named(step: u64, slot: usize) -> MicroBatch {
        MicroBatch { step, slot, ..MicroBatch::default() }
    }

    #[test]
    fn steps_and_slots_come_in_order_whatever_the_threads() {
        for num_threads in [1, 2, 5] {
            let make = |step: u64, slot: usize| {
                if (step + slot as u64).is_multiple_of(3) {
                    std::thread::yield_now();
                }
                Ok(named(step, slot))
            };
            let mut prefetcher = Prefetcher::spawn_with(Arc::new(make), 7, 2..5, num_threads, 3).unwrap();
            for step in 7..40 {
                let got = prefetcher.next_step().unwrap();
                assert_eq!(got.step, step);
                assert_eq!(got.micro_batches, (2..5).map(|slot| named(step, slot)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_error_arrives_at_its_step_and_stays() {
        let make = |step, slot| {
            if (step, slot) == (4, 1) { Err(DataError::config("x", "y", "z")) } else { Ok(named(step, slot)) }
        };
        let mut prefetcher = Prefetcher::spawn_with(Arc::new(make), 0, 0..2, 3, 2).unwrap();
        (0..4).for_each(|_| drop(prefetcher.next_step().unwrap()));
        assert!(matches!(prefetcher.next_step(), Err(DataError::Config { .. })));
        assert!(matches!(prefetcher.next_step(), Err(DataError::Stopped { step: 4 })));
    }

    #[test]
    fn a_panic_arrives_as_an_error_with_its_message() {
        let make = |step: u64, slot: usize| {
            assert!(step != 2, "slot {slot} is cursed");
            Ok(named(step, slot))
        };
        let mut prefetcher = Prefetcher::spawn_with(Arc::new(make), 0, 3..4, 1, 4).unwrap();
        (0..2).for_each(|_| drop(prefetcher.next_step().unwrap()));
        let error = prefetcher.next_step().unwrap_err();
        assert!(
            matches!(&error, DataError::Worker { step: 2, slot: 3, message } if message.contains("cursed"))
        );
    }

    #[test]
    fn dropping_joins_and_makes_no_more_than_was_ordered() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let make = move |step, slot| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(named(step, slot))
        };
        let mut prefetcher = Prefetcher::spawn_with(Arc::new(make), 0, 0..2, 2, 3).unwrap();
        prefetcher.next_step().unwrap();
        drop(prefetcher);
        assert!(made.load(Ordering::SeqCst) <= 8);
        // The closure is gone with the threads that held it.
        assert_eq!(Arc::strong_count(&made), 1);
    }
}
