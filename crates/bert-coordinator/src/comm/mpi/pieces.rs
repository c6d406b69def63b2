//! A slice that arrives in pieces, each folded into its place while the next ones are on their way.
//!
//! Owns which piece is asked for and sent when, and where it lies meanwhile: what was received is still in the cache
//! when it is folded. Arithmetic and waiting are not its business.

use std::ops::Range;

use super::super::mpi_ffi::{Buffer, Direction, Flight, Message};
use super::super::{Call, CommError, own_len};
use super::{MpiCommunicator, TAG_PAYLOAD};

/// Bytes of a piece.
const PIECE_LEN: usize = 128 << 10;
/// A slice whose parts are together no longer than this, in bytes, is one piece: it stays in the cache anyway.
const UNCUT_LEN: usize = 1 << 20;
/// Pieces on their way at once: while one is folded the others travel.
const NUM_SLOTS: usize = 3;

/// One exchange of f32. Places and lengths are in elements.
pub(super) struct Pieces<'a> {
    comm: &'a MpiCommunicator,
    call: &'a Call,
    bounds: &'a [usize],
    /// Index of the bucket in the flight.
    bucket: usize,
    /// Index of the slots in the flight: for each of them one piece of every rank.
    parts: usize,
    slots: [Slot; NUM_SLOTS],
    /// Per rank, the first element of its slice that was not yet sent to it; of the own slice, not yet asked for.
    next: Vec<usize>,
}

/// Room for one piece of every rank.
#[derive(Clone, Default)]
struct Slot {
    /// What it is for, in the bucket.
    piece: Range<usize>,
    /// Ranks whose part has not arrived.
    num_awaited: usize,
}

impl<'a> Pieces<'a> {
    /// Starts with the first pieces. `parts` is working space of any length.
    pub(super) fn start(
        (comm, call, bounds): (&'a MpiCommunicator, &'a Call, &'a [usize]),
        flight: &mut Flight,
        bucket: Vec<f32>,
        mut parts: Vec<f32>,
    ) -> Result<Pieces<'a>, CommError> {
        let (num_ranks, own_len) = (comm.world.num_ranks(), own_len(comm.world, bounds));
        let piece_len = piece_len(comm, own_len);
        let num_slots = own_len.div_ceil(piece_len.max(1)).min(NUM_SLOTS);
        parts.resize(num_slots * num_ranks * piece_len, 0.0);
        let (bucket, parts) = (flight.hold(Buffer::Floats(bucket)), flight.hold(Buffer::Floats(parts)));
        let (slots, next) = (Default::default(), bounds[..num_ranks].to_vec());
        let mut pieces = Pieces { comm, call, bounds, bucket, parts, slots, next };
        for slot_idx in 0..NUM_SLOTS {
            pieces.ask(flight, slot_idx)?;
        }
        for peer in comm.peers() {
            for _piece in 0..NUM_SLOTS {
                pieces.send(flight, peer)?;
            }
        }
        Ok(pieces)
    }

    /// Goes on after a message is complete: with the next piece to that peer, or, once a piece has come from all, with
    /// its fold and the next piece into its slot.
    pub(super) fn complete(
        &mut self,
        flight: &mut Flight,
        message: &Message,
        fold: &mut dyn FnMut(&mut [f32], &mut [f32]),
    ) -> Result<(), CommError> {
        if message.direction == Direction::Send {
            return self.send(flight, message.peer);
        }
        let slot_idx = message.range.start / (self.slot_len() * size_of::<f32>());
        let slot = &mut self.slots[slot_idx];
        slot.num_awaited -= 1;
        if slot.num_awaited > 0 {
            return Ok(());
        }
        let piece = slot.piece.clone();
        let start = slot_idx * self.slot_len();
        let parts = start..start + self.comm.world.num_ranks() * piece.len();
        let [parts, own] = flight.lend_floats([(self.parts, parts), (self.bucket, piece)]);
        fold(parts, own);
        self.ask(flight, slot_idx)
    }

    /// Elements of a slot.
    fn slot_len(&self) -> usize {
        self.comm.world.num_ranks() * piece_len(self.comm, own_len(self.comm.world, self.bounds))
    }

    /// The next piece of a rank's slice; empty after the last one.
    fn next_piece(&mut self, rank: usize) -> Range<usize> {
        let (start, end) = (self.next[rank], self.bounds[rank + 1]);
        self.next[rank] = end.min(start + piece_len(self.comm, end - self.bounds[rank]));
        start..self.next[rank]
    }

    /// Asks all peers for their part of the next piece of the own slice.
    fn ask(&mut self, flight: &mut Flight, slot_idx: usize) -> Result<(), CommError> {
        let piece = self.next_piece(self.comm.world.rank());
        if piece.is_empty() {
            return Ok(());
        }
        let start = slot_idx * self.slot_len();
        for peer in self.comm.peers() {
            let part = start + peer * piece.len();
            let range = bytes(part..part + piece.len());
            self.comm.post(flight, self.call, Message::receive(peer, TAG_PAYLOAD, self.parts, range))?;
        }
        self.slots[slot_idx] = Slot { piece, num_awaited: self.next.len() - 1 };
        Ok(())
    }

    /// Sends a peer the next piece of its slice.
    fn send(&mut self, flight: &mut Flight, peer: usize) -> Result<(), CommError> {
        let range = bytes(self.next_piece(peer));
        self.comm.post(flight, self.call, Message::send(peer, TAG_PAYLOAD, self.bucket, range))
    }
}

/// Elements of the pieces of a slice; the last one may be shorter. Both sides must come to the same number.
fn piece_len(comm: &MpiCommunicator, slice_len: usize) -> usize {
    let num_bytes = slice_len * size_of::<f32>();
    let is_whole = num_bytes * comm.world.num_ranks() <= UNCUT_LEN;
    let wanted = if is_whole { num_bytes } else { PIECE_LEN };
    slice_len.min(wanted.min(comm.max_message_len) / size_of::<f32>())
}

fn bytes(elements: Range<usize>) -> Range<usize> {
    elements.start * size_of::<f32>()..elements.end * size_of::<f32>()
}
