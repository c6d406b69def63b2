//! How work gets to the threads of the pool, for all kernels alike.
//!
//! Knows how finely work is cut, never what it is.

use std::sync::{Mutex, PoisonError};

use rayon::iter::{IndexedParallelIterator, MaxLen, MinLen};

/// Elements that one thread takes at a time; shorter slices are not worth waking a second thread.
pub(crate) const PARALLEL_CHUNK_LEN: usize = 16 * 1024;

/// Work that consists of independent items.
pub(crate) trait OverThreads: IndexedParallelIterator {
    /// Splits the items over the threads of the pool. A pool of one thread gets none of them: the calling thread, which
    /// is usually not of the pool, would have to wake it and to wait for it, hundreds of times in a training step.
    fn over_threads(self) -> MinLen<Self> {
        self.with_min_len(if is_alone() { usize::MAX } else { 1 })
    }

    /// The same for few large items: each is handed out on its own. Otherwise a thread takes several at once, and who is done
    /// first has nothing left to take.
    fn one_by_one(self) -> MinLen<MaxLen<Self>> {
        self.with_max_len(1).over_threads()
    }
}

impl<I: IndexedParallelIterator> OverThreads for I {}

/// Does work that calls many kernels on the first thread of the pool, if there are several: from elsewhere each call has to wake
/// one and to wait for it, and the same half of the rows would go to one thread in this kernel and to the other in the next. It
/// is always the same thread, because what a thread frees is kept for that thread.
///
/// # Panics
///
/// If the work does.
pub fn among_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if is_alone() {
        return work();
    }
    let work = Mutex::new(Some(work));
    let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let done = rayon::broadcast(|thread| if thread.index() == 0 { take().map(|work| work()) } else { None });
    done.into_iter().flatten().next().expect("the first thread takes part in every broadcast")
}

/// Does both, side by side where there is more than one thread.
pub(crate) fn join(first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    if is_alone() {
        first();
        second();
    } else {
        rayon::join(first, second);
    }
}

fn is_alone() -> bool {
    rayon::current_num_threads() == 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread::{self, ThreadId};

    use rayon::prelude::*;

    use super::*;

    /// Threads that take part, the caller standing outside of the pool.
    fn threads_at_work(num_threads: usize) -> HashSet<ThreadId> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        pool.install(|| {
            let seen = Mutex::new(HashSet::new());
            let note = || seen.lock().unwrap().extend([thread::current().id()]);
            [(); 64].par_iter().over_threads().for_each(|()| note());
            join(note, note);
            seen.into_inner().unwrap()
        })
    }

    #[test]
    fn one_thread_does_everything_and_several_at_most_their_number() {
        assert_eq!(threads_at_work(1).len(), 1);
        assert!((1..=3).contains(&threads_at_work(3).len()));
    }

    #[test]
    fn work_goes_to_the_first_thread_of_several_and_stays_where_there_is_one() {
        for num_threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            pool.install(|| {
                for _ in 0..20 {
                    let nested = || among_threads(rayon::current_thread_index);
                    assert_eq!(among_threads(|| [rayon::current_thread_index(), nested()]), [Some(0); 2]);
                }
            });
        }
        let panicked = std::panic::catch_unwind(|| among_threads(|| panic!("as asked")));
        assert!(panicked.is_err());
    }

    #[test]
    fn every_item_is_done_once_whatever_the_number_of_threads() {
        for num_threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            let mut counts = vec![0; 1000];
            pool.install(|| {
                counts.par_chunks_mut(7).over_threads().for_each(|c| c.iter_mut().for_each(|c| *c += 1))
            });
            assert!(counts.iter().all(|count| *count == 1), "{num_threads} threads");
        }
    }
}
