//! Notices by which a rank that has waited for long shows that it lives, and waits itself.
//!
//! When a rank stops in the middle of a call, some peers have had its message and go on: they wait in the next call, for it
//! and for those that had not. Only who neither comes nor waits is to blame. Owns who was heard when; never ends a wait.

use std::time::{Duration, Instant};

use super::super::mpi_ffi::{Buffer, Flight, Library, LibraryError, Message};
use super::TAG_WAITING;

/// A wait of this part of the timeout is told, again and again.
const TELL_PART: u32 = 4;
/// Who was heard within this part of the timeout waits still: it speaks up twice as often.
const HEARD_PART: u32 = 2;
/// How often a waiting rank listens.
const LISTEN: Duration = Duration::from_millis(20);

/// What was told and heard.
pub(super) struct Notices {
    told: Flight,
    /// Index in `told` of the one byte that all notices consist of.
    byte: usize,
    /// Per rank.
    heard: Vec<Option<Instant>>,
}

/// When a waiting rank listens and speaks next.
pub(super) struct Wait {
    listen: Instant,
    tell: Instant,
}

impl Notices {
    pub(super) fn new(num_ranks: usize) -> Notices {
        let mut told = Flight::new();
        let byte = told.hold(Buffer::Bytes(vec![0]));
        Notices { told, byte, heard: vec![None; num_ranks] }
    }

    /// Begins a wait.
    pub(super) fn wait(now: Instant, timeout: Duration) -> Wait {
        Wait { listen: now + LISTEN, tell: now + timeout / TELL_PART }
    }

    /// To be called again and again while waiting for peers.
    pub(super) fn look(
        &mut self,
        (library, timeout): (&Library, Duration),
        wait: &mut Wait,
        peers: impl Iterator<Item = usize>,
    ) -> Result<(), LibraryError> {
        let now = Instant::now();
        if now >= wait.listen {
            wait.listen = now + LISTEN;
            self.listen(library)?;
        }
        if now >= wait.tell {
            wait.tell = now + timeout / TELL_PART;
            self.tell(library, peers)?;
        }
        Ok(())
    }

    /// Takes what has come, which also lets MPI work on whatever else is on its way.
    pub(super) fn listen(&mut self, library: &Library) -> Result<(), LibraryError> {
        while let Some(peer) = library.take_byte(TAG_WAITING)? {
            self.heard[peer] = Some(Instant::now());
        }
        Ok(())
    }

    /// Tells the peers, except those that have not taken the last notice.
    fn tell(&mut self, library: &Library, peers: impl Iterator<Item = usize>) -> Result<(), LibraryError> {
        self.told.poll(library)?;
        for peer in peers {
            if self.told.pending().all(|notice| notice.peer != peer) {
                self.told.post(library, Message::send(peer, TAG_WAITING, self.byte, 0..1))?;
            }
        }
        Ok(())
    }

    /// Those of the missing ranks that did not say that they wait themselves; all if every one of them did.
    pub(super) fn silent(&self, missing: Vec<usize>, now: Instant, timeout: Duration) -> Vec<usize> {
        let waits = |rank: &usize| {
            self.heard[*rank].is_some_and(|heard| now.duration_since(heard) < timeout / HEARD_PART)
        };
        match missing.iter().all(waits) {
            true => missing,
            false => missing.into_iter().filter(|rank| !waits(rank)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_itself_is_not_to_blame() {
        let (now, timeout) = (Instant::now() + Duration::from_secs(100), Duration::from_secs(8));
        let mut notices = Notices::new(4);
        assert_eq!(notices.silent(vec![0, 2], now, timeout), [0, 2], "nobody was heard");
        notices.heard[2] = Some(now - Duration::from_secs(2));
        assert_eq!(notices.silent(vec![0, 2], now, timeout), [0]);
        assert_eq!(notices.silent(vec![2], now, timeout), [2], "one must be named");
        notices.heard[0] = Some(now - Duration::from_secs(5));
        assert_eq!(notices.silent(vec![0, 2, 3], now, timeout), [0, 3], "that was too long ago");
    }
}
