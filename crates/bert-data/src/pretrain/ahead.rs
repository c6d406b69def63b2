//! What is done before it is needed: the plan of the next epoch, the documents of the next window.
//!
//! Changes the time that things take and nothing else.

use super::PretrainData;
use crate::error::DataError;
use crate::plan::{EpochPlan, Windows};
use bert_random::{Key, Purpose};
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};

/// Windows that count as read: more than threads at work near a border can mix.
const MAX_READ_WINDOWS: usize = 4;

/// Which windows were read, as epoch and window.
#[derive(Default)]
pub(super) struct ReadWindows {
    done: VecDeque<(u64, u64)>,
    /// The one of the latest sample.
    current: Option<(u64, u64)>,
}

impl ReadWindows {
    #[cfg(test)]
    pub(super) fn done(&self) -> Vec<(u64, u64)> {
        self.done.iter().copied().collect()
    }

    fn add(&mut self, window: (u64, u64)) {
        self.done.push_back(window);
        if self.done.len() > MAX_READ_WINDOWS {
            self.done.pop_front();
        }
    }
}

impl PretrainData {
    /// Prepares what comes after the samples of `epoch` that are being taken: the plan of the next epoch, and where
    /// samples are ordered by blocks the documents of the next window. Takes one thread, and ends early once
    /// `is_stopped`.
    pub(crate) fn look_ahead(&self, epoch: u64, is_stopped: &AtomicBool) -> Result<(), DataError> {
        self.plan_ahead(epoch + 1, is_stopped)?;
        self.read_window_ahead()
    }

    /// Plans an epoch, unless that is done or another process on these shards is at it.
    pub(super) fn plan_ahead(&self, epoch: u64, is_stopped: &AtomicBool) -> Result<(), DataError> {
        let copy = self.copy(epoch);
        if self.cached_plan(copy).is_none()
            && let Some(plan) = EpochPlan::ahead(&self.context, self.plan_site(copy), is_stopped)?
        {
            self.keep_plan(copy, Arc::new(plan));
        }
        Ok(())
    }

    /// Reads the documents of a window in runs before the first sample of it is taken, so that the samples find
    /// them in the page cache. Other threads wait meanwhile, as they would for the disk.
    pub(super) fn read_window(
        &self,
        epoch: u64,
        windows: &Windows,
        index_in_epoch: u64,
    ) -> Result<(), DataError> {
        let window = (epoch, windows.window_of(index_in_epoch));
        let mut read = self.read_windows.lock().unwrap_or_else(PoisonError::into_inner);
        read.current = Some(window);
        if !read.done.contains(&window) {
            self.read_documents(windows, window.1)?;
            read.add(window);
        }
        Ok(())
    }

    /// Reads the window after the one that samples are taken from; nobody waits for it.
    pub(super) fn read_window_ahead(&self) -> Result<(), DataError> {
        let lock = || self.read_windows.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((mut epoch, mut window)) = lock().current.map(|(epoch, window)| (epoch, window + 1)) else {
            return Ok(());
        };
        let windows_of = |epoch| {
            let plan = self.cached_plan(self.copy(epoch))?;
            self.windows(epoch, &plan, Key::new(self.config.seed, Purpose::Order).with(epoch))
        };
        let Some(mut windows) = windows_of(epoch) else { return Ok(()) };
        if window == windows.len() {
            (epoch, window) = (epoch + 1, 0);
            let Some(next) = windows_of(epoch) else { return Ok(()) };
            windows = next;
        }
        if lock().done.contains(&(epoch, window)) {
            return Ok(());
        }
        self.read_documents(&windows, window)?;
        lock().add((epoch, window));
        Ok(())
    }

    fn read_documents(&self, windows: &Windows, window: u64) -> Result<(), DataError> {
        let mut documents = windows.documents(&self.context, window).into_iter();
        documents.try_for_each(|documents| self.context.corpus.read_ahead(documents))
    }
}
