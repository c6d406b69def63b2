//! How work gets to the threads of the pool, for all kernels alike.
//!
//! Knows how finely work is cut, never what it is.

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

/// Does work that calls many kernels on a thread of the pool, if there are several: from elsewhere each call has to wake one and
/// to wait for it, and the same half of the rows would go to one thread in this kernel and to the other in the next.
pub fn among_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if is_alone() { work() } else { rayon::scope(|_| work()) }
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
    use std::sync::Mutex;
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
    fn work_goes_to_the_pool_where_it_has_several_threads() {
        assert_eq!(among_threads(|| rayon::current_thread_index().is_some()), !is_alone());
        let here = thread::current().id();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let [outer, inner] =
            pool.install(|| [thread::current().id(), among_threads(|| thread::current().id())]);
        assert_eq!(outer, inner, "work that is there already stays on its thread");
        assert_ne!(here, inner);
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
