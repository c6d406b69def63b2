//! How work gets to the threads of the pool, for all kernels alike.
//!
//! Knows how finely work is cut and who waits how, never what the work is. The pool is rayon's; its own loops are not used
//! here, because their threads go to sleep after microseconds without work. A training step is hundreds of kernels in a row,
//! and to wake a thread takes as long as a small kernel.

use std::{
    hint,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rayon::{
    Yield,
    iter::{
        IndexedParallelIterator, ParallelIterator,
        plumbing::{Producer, ProducerCallback},
    },
};

/// Elements that one thread takes at a time; shorter slices are not worth waking a second thread.
pub(crate) const PARALLEL_CHUNK_LEN: usize = 16 * 1024;

/// Pieces of work per thread, so that a thread that is held up does not hold up the others.
const PIECES_PER_THREAD: usize = 16;

/// Work that consists of independent items.
pub(crate) trait OverThreads: IndexedParallelIterator {
    /// Does `job` with every item. Each thread of the pool begins with its own share of neighbouring items, the same share of
    /// every kernel, so that it finds in its caches what it left there; who is done with that helps the others.
    ///
    /// With a pool of one thread the calling thread does all of it: it is usually not of the pool, and would have to wake it
    /// and to wait for it, hundreds of times in a training step.
    ///
    /// # Panics
    ///
    /// If the job does.
    fn over_threads(self, job: impl Fn(Self::Item) + Send + Sync) {
        if is_alone() || self.len() <= 1 {
            self.with_min_len(usize::MAX).for_each(job);
        } else {
            let num_items = self.len();
            self.with_producer(Pieces { num_items, job });
        }
    }
}

impl<I: IndexedParallelIterator> OverThreads for I {}

/// Cuts items into pieces and does what is to be done with them.
struct Pieces<F> {
    num_items: usize,
    job: F,
}

impl<T, F: Fn(T) + Sync> ProducerCallback<T> for Pieces<F> {
    type Output = ();

    fn callback<P: Producer<Item = T>>(self, items: P) {
        let num_pieces = self.num_items.min(PIECES_PER_THREAD * rayon::current_num_threads());
        let mut rest = items;
        let mut pieces = Vec::with_capacity(num_pieces);
        for idx in 1..num_pieces {
            let (piece, others) = rest.split_at(share(self.num_items, idx - 1, num_pieces).len());
            pieces.push(Mutex::new(Some(piece)));
            rest = others;
        }
        pieces.push(Mutex::new(Some(rest)));
        for_each_idx(num_pieces, |idx| {
            let piece = pieces[idx].lock().unwrap_or_else(PoisonError::into_inner).take();
            piece.into_iter().flat_map(Producer::into_iter).for_each(&self.job);
        });
    }
}

/// The share of one of `num_shares` in `len` items that follow each other: all are as long, or longer by one.
pub(crate) fn share(len: usize, idx: usize, num_shares: usize) -> Range<usize> {
    idx * len / num_shares..(idx + 1) * len / num_shares
}

/// Calls `job` with every index below `num_jobs`, on all threads of the pool.
fn for_each_idx(num_jobs: usize, job: impl Fn(usize) + Sync) {
    let shares = Shares::new(num_jobs, rayon::current_num_threads());
    let num_others = rayon::current_num_threads().min(num_jobs).saturating_sub(1);
    let num_done = AtomicUsize::new(0);
    rayon::scope(|scope| {
        for _ in 0..num_others {
            scope.spawn(|_| {
                let _done = OnDrop(|| {
                    num_done.fetch_add(1, Ordering::Release);
                });
                shares.work_off(&job);
            });
        }
        shares.work_off(&job);
        help_until(|| num_done.load(Ordering::Acquire) == num_others);
    });
}

/// The indices that are left, of the share of each thread.
struct Shares {
    next: Vec<AtomicUsize>,
    num_jobs: usize,
}

impl Shares {
    fn new(num_jobs: usize, num_threads: usize) -> Self {
        let first = |thread| AtomicUsize::new(share(num_jobs, thread, num_threads).start);
        Self { next: (0..num_threads).map(first).collect(), num_jobs }
    }

    /// Takes indices until none is left: those of the share of this thread, then those of the others.
    fn work_off(&self, job: impl Fn(usize)) {
        let num_threads = self.next.len();
        let own = rayon::current_thread_index().unwrap_or(0);
        for thread in (own..own + num_threads).map(|thread| thread % num_threads) {
            let end = share(self.num_jobs, thread, num_threads).end;
            let take = || Some(self.next[thread].fetch_add(1, Ordering::Relaxed)).filter(|idx| *idx < end);
            std::iter::from_fn(take).for_each(&job);
        }
    }
}

/// Does work that calls many kernels on the first thread of the pool, if there are several, while the others stay awake for
/// their shares of the kernels: from elsewhere each kernel would have to wake them and be waited for. It is always the same
/// thread, because what a thread frees is kept for that thread.
///
/// # Panics
///
/// If the work does.
pub fn among_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if is_alone() || rayon::current_thread_index() == Some(0) {
        return work();
    }
    let work = Mutex::new(Some(work));
    let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let is_done = AtomicBool::new(false);
    let done = rayon::broadcast(|thread| {
        if thread.index() == 0 {
            let _done = OnDrop(|| is_done.store(true, Ordering::Release));
            return take().map(|work| work());
        }
        help_until(|| is_done.load(Ordering::Acquire));
        None
    });
    done.into_iter().flatten().next().expect("the first thread takes part in every broadcast")
}

/// Does what other threads have to give away until something has happened.
fn help_until(has_happened: impl Fn() -> bool) {
    /// Looks for work without a pause: a tenth of a millisecond, longer than what lies between two kernels.
    const SPINS: u32 = 1000;
    /// Looks for work after which nothing is expected soon, about ten milliseconds.
    const TURNS: u32 = 10_000;
    const NAP: Duration = Duration::from_micros(50);
    let mut num_idle = 0;
    while !has_happened() {
        num_idle += 1;
        match rayon::yield_now() {
            Some(Yield::Executed) => num_idle = 0,
            _ if num_idle < SPINS => hint::spin_loop(),
            _ if num_idle < TURNS => thread::yield_now(),
            _ => thread::park_timeout(NAP),
        }
    }
}

/// Does something at the end of a block, however it is left.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
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
    use std::thread::ThreadId;
    use std::time::Instant;

    use proptest::prelude::*;
    use rayon::prelude::*;

    use super::*;

    fn in_pool<R: Send>(num_threads: usize, work: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap().install(work)
    }

    /// Threads that take part, the caller standing outside of the pool.
    fn threads_at_work(num_threads: usize) -> HashSet<ThreadId> {
        in_pool(num_threads, || {
            let seen = Mutex::new(HashSet::new());
            let note = || seen.lock().unwrap().extend([thread::current().id()]);
            [(); 64].par_iter().over_threads(|()| note());
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
            in_pool(num_threads, || {
                for _ in 0..20 {
                    let nested = || among_threads(rayon::current_thread_index);
                    assert_eq!(among_threads(|| [rayon::current_thread_index(), nested()]), [Some(0); 2]);
                }
            });
        }
    }

    #[test]
    fn all_threads_take_part_at_once_even_after_a_pause() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let num_there = AtomicUsize::new(0);
        let deadline = Instant::now() + Duration::from_secs(60);
        pool.install(|| {
            among_threads(|| {
                // Long enough for the others to take naps.
                thread::park_timeout(Duration::from_millis(50));
                [(); 3].par_iter().over_threads(|()| {
                    num_there.fetch_add(1, Ordering::Relaxed);
                    while num_there.load(Ordering::Relaxed) < 3 && Instant::now() < deadline {
                        hint::spin_loop();
                    }
                });
            });
        });
        assert!(Instant::now() < deadline, "one of three threads never came");
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_threads_usable() {
        for num_threads in [1, 2, 3] {
            in_pool(num_threads, || {
                for bad in [0, 30, 63] {
                    let numbers: Vec<usize> = (0..64).collect();
                    let job = |number: &usize| assert_ne!(*number, bad, "as asked");
                    let kernel = || numbers.par_iter().over_threads(job);
                    assert!(std::panic::catch_unwind(|| among_threads(kernel)).is_err());
                    assert!(std::panic::catch_unwind(kernel).is_err());
                }
                assert_eq!(among_threads(|| 7), 7);
            });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_item_is_done_once_whatever_the_number_of_threads(
            num_items in 0usize..300,
            num_threads in 1usize..5,
            inside in any::<bool>(),
        ) {
            let mut counts = vec![0; num_items];
            in_pool(num_threads, || {
                let mut kernel = || counts.par_iter_mut().over_threads(|count| *count += 1);
                if inside { among_threads(kernel) } else { kernel() }
            });
            prop_assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
        }
    }
}
