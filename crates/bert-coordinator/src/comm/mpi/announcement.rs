//! By what ranks tell each other what they are about to do.
//!
//! Owns when a call is announced: at its beginning, or, where it is foreseen, with the call before it. So ranks that have a row of
//! calls to make meet once per call, and not twice.

use super::super::call::WIRE_LEN;
use super::super::mpi_ffi::{Buffer, Direction, Flight, Message};
use super::super::{Call, CallKind, CommError, SlicesKind, Upcoming, own_len};
use super::{MpiCommunicator, TAG_CALL};
use crate::progress::Backoff;

/// What is known of later calls.
#[derive(Default)]
pub(super) struct Ahead {
    /// The call after the next one, with the number of bytes that this rank will send, until the peers are told of it.
    pub(super) next: Option<(Call, usize)>,
    /// A call that the peers were told of beforehand, and the messages by which they were.
    told: Option<(Call, Flight)>,
}

impl MpiCommunicator {
    /// A collective of slices after `num_before` calls, with the number of payload bytes that this rank announces: the same whether
    /// it begins or is foreseen.
    pub(super) fn slices_call(
        &self,
        num_before: u64,
        Upcoming { kind, phase, bounds }: Upcoming<'_>,
    ) -> (Call, usize) {
        let extent = bounds.last().copied().unwrap_or(0);
        let (kind, payload_len) = match kind {
            SlicesKind::AllToAll => (CallKind::AllToAllSlices, extent * size_of::<f32>()),
            SlicesKind::AllToAllHalves => (CallKind::AllToAllHalves, extent * size_of::<u16>()),
            SlicesKind::AllGather => {
                (CallKind::AllGatherSlices, own_len(self.world, bounds) * size_of::<f32>())
            }
        };
        (Call::new(kind, num_before, phase, extent, bounds), payload_len)
    }

    /// Announces a collective of slices and returns it. Its bounds tell all ranks the lengths.
    pub(super) fn announce_slices(&self, upcoming: Upcoming<'_>) -> Result<Call, CommError> {
        let (call, payload_len) = self.slices_call(self.num_calls, upcoming);
        self.announce(&call, payload_len)?;
        Ok(call)
    }

    /// Tells all peers what comes next and checks that they all do the same. Returns the number of
    /// payload bytes that each rank announces.
    pub(super) fn announce(&self, call: &Call, payload_len: usize) -> Result<Vec<usize>, CommError> {
        let num_ranks = self.world.num_ranks();
        let mut flight = self.tell_in_time(call, payload_len)?;
        let inbox = flight.hold(Buffer::Bytes(vec![0; num_ranks * WIRE_LEN]));
        let place = |peer: usize| peer * WIRE_LEN..(peer + 1) * WIRE_LEN;
        for peer in self.peers() {
            self.post(&mut flight, call, Message::receive(peer, TAG_CALL, inbox, place(peer)))?;
        }
        let mut lens = vec![0; num_ranks];
        lens[self.world.rank()] = payload_len;
        let mut calls = vec![(self.world.rank(), call.to_string())];
        let mut all_agree = true;
        self.drive(&mut flight, call, Backoff::for_peers(), |flight, message| {
            if message.direction == Direction::Receive {
                let peer = message.peer;
                match Call::from_wire(flight.received(inbox, place(peer))) {
                    Some((peer_call, peer_len)) => {
                        all_agree &= call.agrees_with(&peer_call);
                        lens[peer] = usize::try_from(peer_len).unwrap_or(usize::MAX);
                        calls.push((peer, peer_call.to_string()));
                    }
                    None => {
                        all_agree = false;
                        calls.push((peer, "an unreadable message (another program version?)".to_owned()));
                    }
                }
            }
            Ok(())
        })
        // All are heard first, so that the one that differs is told from the others. Who disagrees with those that came
        // is a better reason than that somebody else did not come.
        .or_else(|err| if all_agree { Err(err) } else { Ok(()) })?;
        if all_agree {
            return Ok(lens);
        }
        calls.sort();
        Err(CommError::CallsDiffer { calls })
    }

    /// Starts to tell all peers of a call.
    fn tell(&self, call: &Call, payload_len: usize) -> Result<Flight, CommError> {
        let mut flight = Flight::new();
        let outbox = flight.hold(Buffer::Bytes(call.to_wire(payload_len as u64).to_vec()));
        for peer in self.peers() {
            self.post(&mut flight, call, Message::send(peer, TAG_CALL, outbox, 0..WIRE_LEN))?;
        }
        Ok(flight)
    }

    /// Tells the peers of a call, unless they were told before, and of the one after it if that is foreseen. Returns the messages
    /// about the first one.
    fn tell_in_time(&self, call: &Call, payload_len: usize) -> Result<Flight, CommError> {
        let mut ahead = self.ahead.borrow_mut();
        let flight = match ahead.told.take() {
            Some((told, flight)) if told == *call => flight,
            _ => self.tell(call, payload_len)?,
        };
        if let Some((next, next_len)) = ahead.next.take() {
            let flight = self.tell(&next, next_len)?;
            ahead.told = Some((next, flight));
        }
        Ok(flight)
    }
}
