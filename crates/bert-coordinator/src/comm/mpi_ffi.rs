//! The only unsafe code of this crate: MPI's C functions behind types that cannot be misused.
//!
//! [`Library`] proves that MPI is initialised and stays on the thread that did it. A [`Flight`]
//! owns the buffers of its transfers until MPI has let go of them; a flight that is dropped before
//! leaks them, because MPI may still write there. Every return code and every received length is
//! checked. Which messages are sent, and how long to wait, is decided in `mpi.rs`.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::ops::Range;
use std::{mem, process, ptr, slice};

use mpi::ffi;

/// Longest message in bytes: MPI counts in `c_int`.
pub(super) const MAX_MESSAGE_LEN: usize = 1 << 30;

/// A failed library call.
#[derive(Debug)]
pub(super) struct LibraryError {
    pub(super) function: &'static str,
    pub(super) code: c_int,
    pub(super) message: String,
}

/// Proof that MPI is initialised, on this thread (the raw pointer keeps it from being sent).
pub(super) struct Library {
    _stays_on_its_thread: PhantomData<*const ()>,
}

impl Library {
    /// Initialises MPI for use by the calling thread alone (`MPI_THREAD_FUNNELED`).
    pub(super) fn init() -> Result<Library, LibraryError> {
        let refuse = |message: &str| LibraryError {
            function: "MPI_Init_thread",
            code: 0,
            message: message.to_owned(),
        };
        let mut flag: c_int = 0;
        // SAFETY: MPI_Initialized may be called at any time; `flag` is valid for a write.
        check("MPI_Initialized", unsafe { ffi::MPI_Initialized(&mut flag) })?;
        if flag != 0 {
            return Err(refuse("MPI is already initialised; it can be started once per process"));
        }
        let mut provided: c_int = 0;
        // SAFETY: MPI is not initialised yet; null arguments are allowed since MPI-2; `provided` is
        // valid for a write; the constant is set by the linked C shim.
        check("MPI_Init_thread", unsafe {
            ffi::MPI_Init_thread(ptr::null_mut(), ptr::null_mut(), ffi::RSMPI_THREAD_FUNNELED, &mut provided)
        })?;
        // SAFETY: MPI is initialised; the handles are constants of the linked C shim.
        check("MPI_Comm_set_errhandler", unsafe {
            ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN)
        })?;
        // SAFETY: a constant of the linked C shim.
        if provided < unsafe { ffi::RSMPI_THREAD_FUNNELED } {
            return Err(refuse(
                "the MPI library offers no MPI_THREAD_FUNNELED; use one built with thread support",
            ));
        }
        Ok(Library { _stays_on_its_thread: PhantomData })
    }

    /// Rank of this process and number of ranks.
    pub(super) fn rank_and_size(&self) -> Result<(usize, usize), LibraryError> {
        let (mut rank, mut size): (c_int, c_int) = (0, 0);
        // SAFETY: MPI is initialised (self); both pointers are valid for a write.
        check("MPI_Comm_rank", unsafe { ffi::MPI_Comm_rank(ffi::RSMPI_COMM_WORLD, &mut rank) })?;
        // SAFETY: as above.
        check("MPI_Comm_size", unsafe { ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &mut size) })?;
        Ok((usize::try_from(rank).unwrap_or(0), usize::try_from(size).unwrap_or(1)))
    }

    /// The library's own description.
    pub(super) fn version(&self) -> Result<String, LibraryError> {
        // SAFETY: a constant of the linked C shim.
        let max_len = usize::try_from(unsafe { ffi::RSMPI_MAX_LIBRARY_VERSION_STRING }).unwrap_or(0);
        let mut text = vec![0; max_len.max(ffi::MPI_MAX_LIBRARY_VERSION_STRING as usize) + 1];
        let mut len: c_int = 0;
        // SAFETY: the buffer is larger than the longest version string by the library's constant.
        check("MPI_Get_library_version", unsafe {
            ffi::MPI_Get_library_version(text.as_mut_ptr(), &mut len)
        })?;
        Ok(c_text(&text))
    }

    /// Takes a message of one byte with this tag if one has come, and returns who sent it; in any case MPI works on whatever
    /// is on its way.
    pub(super) fn take_byte(&self, tag: c_int) -> Result<Option<usize>, LibraryError> {
        let mut flag: c_int = 0;
        let mut status = mem::MaybeUninit::<ffi::MPI_Status>::zeroed();
        // SAFETY: MPI is initialised, on this thread; flag and status are valid for writes.
        check("MPI_Iprobe", unsafe {
            ffi::MPI_Iprobe(ffi::RSMPI_ANY_SOURCE, tag, ffi::RSMPI_COMM_WORLD, &mut flag, status.as_mut_ptr())
        })?;
        if flag == 0 {
            return Ok(None);
        }
        // SAFETY: MPI_Iprobe has found a message and filled the status (plain C data, zeroed before).
        let source = unsafe { status.assume_init() }.MPI_SOURCE;
        let mut byte = 0_u8;
        // SAFETY: one byte is valid for a write, and MPI writes no more than that; the message has come already, so this
        // does not wait; the status is the library's constant for "not wanted".
        check("MPI_Recv", unsafe {
            ffi::MPI_Recv(
                (&raw mut byte).cast(),
                1,
                ffi::RSMPI_UINT8_T,
                source,
                tag,
                ffi::RSMPI_COMM_WORLD,
                ffi::RSMPI_STATUS_IGNORE,
            )
        })?;
        Ok(usize::try_from(source).ok())
    }

    /// Finalises MPI. Only when all ranks do the same: it waits for them without a deadline.
    pub(super) fn finalize(&self) -> Result<(), LibraryError> {
        // SAFETY: MPI is initialised, on this thread. Flights make no MPI call when dropped.
        check("MPI_Finalize", unsafe { ffi::MPI_Finalize() })
    }

    /// Ends all processes of the job.
    pub(super) fn abort(&self, code: i32) -> ! {
        // SAFETY: MPI is initialised, on this thread.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code) };
        process::abort()
    }
}

fn check(function: &'static str, code: c_int) -> Result<(), LibraryError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0 as c_char; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut len: c_int = 0;
    // SAFETY: MPI is initialised or was refused above with a code it can explain; the buffer is
    // larger than the longest error string by the library's constant.
    let told = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &mut len) };
    let message = if told == ffi::MPI_SUCCESS as c_int { c_text(&text) } else { "unknown error".to_owned() };
    Err(LibraryError { function, code, message })
}

/// Text up to the first zero byte; the buffers above always end with one.
fn c_text(text: &[c_char]) -> String {
    let bytes: Vec<u8> = text.iter().map(|c| u8::from_ne_bytes(c.to_ne_bytes())).collect();
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Memory that a transfer reads or writes.
pub(super) enum Buffer {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
    Halves(Vec<u16>),
}

impl Buffer {
    fn num_bytes(&self) -> usize {
        match self {
            Buffer::Bytes(bytes) => bytes.len(),
            Buffer::Floats(floats) => floats.len() * size_of::<f32>(),
            Buffer::Halves(halves) => halves.len() * size_of::<u16>(),
        }
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            Buffer::Bytes(bytes) => bytes.as_mut_ptr(),
            Buffer::Floats(floats) => floats.as_mut_ptr().cast(),
            Buffer::Halves(halves) => halves.as_mut_ptr().cast(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Send,
    Receive,
}

/// A message to or from one peer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) direction: Direction,
    pub(super) peer: usize,
    pub(super) tag: c_int,
    /// Index from [`Flight::hold`].
    pub(super) buffer_idx: usize,
    /// Bytes of the buffer.
    pub(super) range: Range<usize>,
}

impl Message {
    pub(super) fn send(peer: usize, tag: c_int, buffer_idx: usize, range: Range<usize>) -> Message {
        Message { direction: Direction::Send, peer, tag, buffer_idx, range }
    }

    pub(super) fn receive(peer: usize, tag: c_int, buffer_idx: usize, range: Range<usize>) -> Message {
        Message { direction: Direction::Receive, peer, tag, buffer_idx, range }
    }
}

struct Pending {
    message: Message,
    request: ffi::MPI_Request,
}

/// Transfers under way, with the buffers they use.
pub(super) struct Flight {
    buffers: Vec<Buffer>,
    pending: Vec<Pending>,
}

impl Flight {
    pub(super) fn new() -> Flight {
        Flight { buffers: Vec::new(), pending: Vec::new() }
    }

    /// Takes a buffer over and returns its index.
    pub(super) fn hold(&mut self, buffer: Buffer) -> usize {
        self.buffers.push(buffer);
        self.buffers.len() - 1
    }

    /// Starts one message of at most [`MAX_MESSAGE_LEN`] bytes.
    ///
    /// # Panics
    ///
    /// If the range is outside the buffer, too long, or in use by a message that would conflict.
    pub(super) fn post(&mut self, _library: &Library, message: Message) -> Result<(), LibraryError> {
        let Message { direction, peer, tag, buffer_idx, ref range } = message;
        let buffer = &mut self.buffers[buffer_idx];
        assert!(range.start <= range.end && range.end <= buffer.num_bytes(), "message outside its buffer");
        assert!(range.len() <= MAX_MESSAGE_LEN, "message longer than MPI can count");
        let conflicts = |other: &Pending| {
            let other = &other.message;
            other.buffer_idx == buffer_idx
                && (direction == Direction::Receive || other.direction == Direction::Receive)
                && range.start < other.range.end
                && other.range.start < range.end
        };
        assert!(!self.pending.iter().any(conflicts), "message overlaps one under way");
        let count = range.len() as c_int;
        let peer = c_int::try_from(peer).expect("ranks come from MPI as c_int");
        // SAFETY: the range lies inside the buffer (asserted).
        let start = unsafe { buffer.as_mut_ptr().add(range.start) };
        // SAFETY: constants of the linked C shim.
        let (byte, world, null) =
            unsafe { (ffi::RSMPI_UINT8_T, ffi::RSMPI_COMM_WORLD, ffi::RSMPI_REQUEST_NULL) };
        let mut request = null;
        let code = match direction {
            // SAFETY: MPI is initialised on this thread (`_library`). `count` bytes at `start`
            // belong to a heap buffer that this flight neither moves, frees nor lends out while the
            // request is pending, and that no pending receive overlaps (asserted).
            Direction::Send => unsafe {
                ffi::MPI_Isend(start.cast_const().cast(), count, byte, peer, tag, world, &mut request)
            },
            // SAFETY: as above; no other pending message overlaps, so MPI alone uses these bytes.
            Direction::Receive => unsafe {
                ffi::MPI_Irecv(start.cast(), count, byte, peer, tag, world, &mut request)
            },
        };
        let function = if direction == Direction::Send { "MPI_Isend" } else { "MPI_Irecv" };
        check(function, code)?;
        self.pending.push(Pending { message, request });
        Ok(())
    }

    /// Lets MPI make progress; returns the messages that are complete now.
    pub(super) fn poll(&mut self, _library: &Library) -> Result<Vec<Message>, LibraryError> {
        let mut done = Vec::new();
        let mut idx = 0;
        while idx < self.pending.len() {
            if test(&mut self.pending[idx])? {
                done.push(self.pending.remove(idx).message);
            } else {
                idx += 1;
            }
        }
        Ok(done)
    }

    /// Messages that are not complete.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Message> {
        self.pending.iter().map(|pending| &pending.message)
    }

    /// Bytes that have been received.
    ///
    /// # Panics
    ///
    /// If a message is still writing there, or the buffer holds no bytes.
    pub(super) fn received(&self, buffer_idx: usize, range: Range<usize>) -> &[u8] {
        let writes = |message: &Message| {
            message.buffer_idx == buffer_idx
                && message.direction == Direction::Receive
                && message.range.start < range.end
                && range.start < message.range.end
        };
        assert!(!self.pending().any(writes), "these bytes are still being received");
        match &self.buffers[buffer_idx] {
            Buffer::Bytes(bytes) => &bytes[range],
            Buffer::Floats(_) | Buffer::Halves(_) => panic!("a buffer of numbers lends no bytes"),
        }
    }

    /// Lends numbers of two different buffers for a computation. Ranges count elements.
    ///
    /// # Panics
    ///
    /// If a message is under way there, if a range is outside its buffer, or if a buffer holds no f32.
    pub(super) fn lend_floats(&mut self, places: [(usize, Range<usize>); 2]) -> [&mut [f32]; 2] {
        assert_ne!(places[0].0, places[1].0, "two places of one buffer");
        places.map(|(buffer_idx, range)| {
            let bytes = range.start * size_of::<f32>()..range.end * size_of::<f32>();
            let uses = |message: &Message| {
                message.buffer_idx == buffer_idx
                    && message.range.start < bytes.end
                    && bytes.start < message.range.end
            };
            assert!(!self.pending().any(uses), "a message is under way there");
            let Buffer::Floats(floats) = &mut self.buffers[buffer_idx] else {
                panic!("only a buffer of f32 lends f32")
            };
            assert!(range.start <= range.end && range.end <= floats.len(), "a place outside its buffer");
            // SAFETY: the range lies inside the vector (asserted), no message touches it (asserted), and none can be
            // posted or polled while the result borrows the flight. The other slice is of another vector (asserted).
            unsafe { slice::from_raw_parts_mut(floats.as_mut_ptr().add(range.start), range.len()) }
        })
    }

    /// Returns the buffers in the order in which they were taken over.
    ///
    /// # Panics
    ///
    /// If a message is not complete.
    pub(super) fn into_buffers(mut self) -> Vec<Buffer> {
        assert!(self.pending.is_empty(), "messages are still under way");
        mem::take(&mut self.buffers)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.pending.is_empty() {
            // MPI may still read or write: the memory can never be used for anything else.
            mem::forget(mem::take(&mut self.buffers));
        }
    }
}

/// Tests one request; a completed receive must have the expected length.
fn test(pending: &mut Pending) -> Result<bool, LibraryError> {
    let mut flag: c_int = 0;
    let mut status = mem::MaybeUninit::<ffi::MPI_Status>::zeroed();
    // SAFETY: the request was started by `Flight::post` and is not complete (completed ones are
    // removed at once); flag and status are valid for writes.
    check("MPI_Test", unsafe { ffi::MPI_Test(&mut pending.request, &mut flag, status.as_mut_ptr()) })?;
    if flag == 0 {
        return Ok(false);
    }
    if pending.message.direction == Direction::Receive {
        let mut count: c_int = 0;
        // SAFETY: MPI_Test has completed a receive and filled the status (plain C data, zeroed
        // before); `count` is valid for a write.
        check("MPI_Get_count", unsafe {
            ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &mut count)
        })?;
        let expected = pending.message.range.len();
        if usize::try_from(count) != Ok(expected) {
            let message =
                format!("rank {} sent {count} bytes where {expected} were expected", pending.message.peer);
            return Err(LibraryError { function: "MPI_Get_count", code: 0, message });
        }
    }
    Ok(true)
}
