//! An allocator that asks for huge pages below large allocations, and keeps what is freed.
//!
//! A training step streams through parameters, moments and gradients of hundreds of megabytes. On pages of 4 KB the
//! processor spends a part of that time on page tables, most of all in virtual machines, which have two of them; and the
//! first touch of every page is a fault. Linux gives pages of 2 MB to those who ask (`madvise`, the setting of most
//! distributions), PyTorch and glibc do not ask by default. In every other respect this is the allocator of the system.

#![allow(unsafe_code, reason = "an allocator is called with raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};

/// The allocator; a program states it as its `#[global_allocator]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HugePages;

/// Bytes of a huge page of x86-64, and of Arm with pages of 4 KB; elsewhere the advice is of no use and does no harm.
const HUGE_PAGE_LEN: usize = 2 << 20;

// SAFETY: every call goes to the system's allocator unchanged, and every result comes from it unchanged.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `System` asks for.
        advise(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        advise(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above; `start` came from `System`.
        advise(unsafe { System.realloc(start, layout, new_size) }, new_size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above; `start` came from `System`.
        unsafe { System.dealloc(start, layout) }
    }
}

/// Asks for huge pages where whole ones lie inside of an allocation; returns its start.
fn advise(start: *mut u8, len: usize) -> *mut u8 {
    let skipped = start.align_offset(HUGE_PAGE_LEN);
    if cfg!(target_os = "linux") && !start.is_null() && skipped < len {
        let whole_len = (len - skipped) / HUGE_PAGE_LEN * HUGE_PAGE_LEN;
        if whole_len > 0 {
            // SAFETY: these pages lie inside of the allocation, which was just made. The advice changes neither their
            // contents nor who may touch them. It may be refused: then the pages stay small.
            unsafe { libc::madvise(start.wrapping_add(skipped).cast(), whole_len, libc::MADV_HUGEPAGE) };
        }
    }
    start
}

/// Tells glibc to keep what is freed for the next step, where it would give it back to the system and fault it in again,
/// page by page: what lies above its threshold at once, and the end of the heap when enough of it is free. It adapts both
/// to what a program frees, so whether a step is spared was a matter of the order in which buffers grew. The heaps of other
/// threads than the first are mappings of a fixed size, each given back once it is empty, unless less than a wanted reserve
/// would be left: a reserve as large as a mapping keeps them. It is address space, not memory. (One heap for all threads would
/// keep them as well, and threads that allocate much, as in building shards, would wait for each other.)
///
/// For other libraries of C, and other systems, this does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The largest value that glibc takes.
        const MMAP_THRESHOLD: libc::c_int = 32 << 20;
        /// The size of a heap of a thread, on machines of 64 bits.
        const HEAP_LEN: libc::c_int = 64 << 20;
        // SAFETY: mallopt may be called at any time and takes plain numbers; a refusal leaves what was.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, HEAP_LEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What the system notes of the memory at an address; `None` where it does not tell.
    fn flags_at(address: usize) -> Option<String> {
        let maps = fs::read_to_string("/proc/self/smaps").ok()?;
        let holds = |line: &str| {
            let (first, end) = line.split_once(' ')?.0.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some((number(first)?..number(end)?).contains(&address))
        };
        let mut lines = maps.lines().skip_while(|line| holds(line) != Some(true));
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"))?;
        Some(flags.to_string())
    }

    #[test]
    fn large_allocations_ask_for_huge_pages() {
        let layout = Layout::from_size_align(8 * HUGE_PAGE_LEN, 64).unwrap();
        // SAFETY: the size is not 0, and the memory is given back once.
        let start = unsafe { HugePages.alloc(layout) };
        let flags = flags_at(start as usize + layout.size() / 2);
        // SAFETY: as above.
        unsafe { HugePages.dealloc(start, layout) };
        let is_known = fs::exists("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or(false);
        match flags.filter(|_| is_known) {
            Some(flags) => assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}"),
            None => println!("skipped: this system does not say what was asked of its memory"),
        }
    }

    /// Pages that this thread touched for the first time so far.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn num_faults() -> i64 {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the place is large enough, and zeros are a valid value if the call fails.
        unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init().ru_minflt
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn what_a_thread_frees_is_kept_for_its_next_step() {
        keep_freed_memory();
        let step = || {
            let before = num_faults();
            // More than one heap of a thread holds, in pieces that are below the threshold of a mapping of their own.
            let buffers: Vec<Vec<u8>> = (1..=4).map(|value| vec![value; 20 << 20]).collect();
            assert!(buffers.iter().zip(1..).all(|(buffer, value)| buffer.last() == Some(&value)));
            drop(buffers);
            num_faults() - before
        };
        let steps = std::thread::spawn(move || std::array::from_fn(|_| step()));
        let num_faults: [i64; 4] = steps.join().unwrap();
        assert!(num_faults[1..].iter().all(|faults| *faults < 100), "{num_faults:?}");
    }

    #[test]
    fn memory_keeps_its_contents_as_it_grows() {
        let layout = Layout::from_size_align(100, 4).unwrap();
        // SAFETY: sizes are not 0, and the memory is used within them and given back once, with its last layout.
        unsafe {
            let start = HugePages.alloc_zeroed(layout);
            assert_eq!(start.add(99).read(), 0);
            start.add(99).write(7);
            let start = HugePages.realloc(start, layout, 3 * HUGE_PAGE_LEN);
            assert_eq!([start.read(), start.add(99).read()], [0, 7]);
            start.add(3 * HUGE_PAGE_LEN - 1).write(1);
            HugePages.dealloc(start, Layout::from_size_align(3 * HUGE_PAGE_LEN, 4).unwrap());
        }
    }
}
