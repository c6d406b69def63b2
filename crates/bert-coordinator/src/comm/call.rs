//! What a rank is about to do, in a form that ranks can compare before they do it.

use std::fmt;

use crate::fingerprint::Fingerprint;

/// The collective operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    Barrier = 1,
    AllGatherBytes = 2,
    BroadcastBytes = 3,
    AllToAllSlices = 4,
    AllGatherSlices = 5,
    AllToAllHalves = 6,
}

impl CallKind {
    fn name(self) -> &'static str {
        match self {
            CallKind::Barrier => "barrier",
            CallKind::AllGatherBytes => "all-gather of bytes",
            CallKind::BroadcastBytes => "broadcast of bytes",
            CallKind::AllToAllSlices => "all-to-all of slices",
            CallKind::AllGatherSlices => "all-gather of slices",
            CallKind::AllToAllHalves => "all-to-all of slices in bf16",
        }
    }
}

/// One call, without its data. Ranks whose calls are not equal must not exchange anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: CallKind,
    /// Calls made before this one.
    pub(crate) sequence: u64,
    /// Elements of the whole bucket; the root of a broadcast; otherwise 0.
    pub(crate) extent: u64,
    /// Fingerprint of bounds and phase.
    pub(crate) fingerprint: u64,
    pub(crate) phase: String,
}

impl Call {
    pub(crate) fn new(kind: CallKind, sequence: u64, phase: &str, extent: usize, bounds: &[usize]) -> Call {
        let mut hash = Fingerprint::new();
        hash.bytes(phase.as_bytes());
        for bound in bounds {
            hash.number(*bound as u64);
        }
        let (extent, fingerprint) = (extent as u64, hash.finish());
        Call { kind, sequence, extent, fingerprint, phase: phase.to_owned() }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}: {}", self.sequence, self.kind.name())?;
        match self.kind {
            CallKind::BroadcastBytes => write!(f, " from rank {}", self.extent)?,
            CallKind::AllToAllSlices | CallKind::AllGatherSlices | CallKind::AllToAllHalves => {
                write!(f, " over {} elements (layout {:016x})", self.extent, self.fingerprint)?;
            }
            CallKind::Barrier | CallKind::AllGatherBytes => {}
        }
        write!(f, ", {}", self.phase)
    }
}

/// `rank 2` or `ranks 0, 3`.
pub(crate) fn ranks(ranks: &[usize]) -> String {
    let list: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, list.join(", "))
}

/// Lists values with the ranks that hold them: `` `a` on ranks 0, 1; `b` on rank 2 ``.
pub(crate) fn group_by_value(values: &[(usize, String)]) -> String {
    let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
    for (rank, value) in values {
        match groups.iter_mut().find(|(known, _)| known == value) {
            Some((_, members)) => members.push(*rank),
            None => groups.push((value, vec![*rank])),
        }
    }
    let parts: Vec<String> =
        groups.iter().map(|(value, members)| format!("`{value}` on {}", ranks(members))).collect();
    parts.join("; ")
}

/// Longest phase text on the wire, in bytes; longer ones are cut there (their fingerprint is not).
#[cfg(feature = "mpi")]
const WIRE_PHASE_LEN: usize = 84;

/// Size of a call on the wire, in bytes: one small message.
#[cfg(feature = "mpi")]
pub(crate) const WIRE_LEN: usize = 128;

#[cfg(feature = "mpi")]
impl Call {
    /// Marks our messages; also a version: change it with the format.
    const MAGIC: u32 = 0xbe47_0001;

    /// Encodes the call, and the length of the payload that this rank will send, in bytes.
    pub(crate) fn to_wire(&self, payload_len: u64) -> [u8; WIRE_LEN] {
        let mut cut = self.phase.len().min(WIRE_PHASE_LEN);
        while !self.phase.is_char_boundary(cut) {
            cut -= 1;
        }
        let mut wire = Vec::with_capacity(WIRE_LEN);
        wire.extend_from_slice(&Self::MAGIC.to_le_bytes());
        wire.extend_from_slice(&[self.kind as u8, cut as u8, 0, 0]);
        for number in [self.sequence, self.extent, self.fingerprint, payload_len] {
            wire.extend_from_slice(&number.to_le_bytes());
        }
        wire.extend_from_slice(&self.phase.as_bytes()[..cut]);
        wire.resize(WIRE_LEN, 0);
        wire.try_into().expect("resized to the array's length")
    }

    /// Decodes a peer's call and payload length; `None` if these are not our bytes.
    pub(crate) fn from_wire(wire: &[u8]) -> Option<(Call, u64)> {
        let number = |at: usize| Some(u64::from_le_bytes(wire.get(at..at + 8)?.try_into().ok()?));
        if wire.get(..4)? != Self::MAGIC.to_le_bytes() {
            return None;
        }
        let kind = match wire.get(4)? {
            1 => CallKind::Barrier,
            2 => CallKind::AllGatherBytes,
            3 => CallKind::BroadcastBytes,
            4 => CallKind::AllToAllSlices,
            5 => CallKind::AllGatherSlices,
            6 => CallKind::AllToAllHalves,
            _ => return None,
        };
        let phase = wire.get(40..40 + usize::from(*wire.get(5)?))?;
        let phase = String::from_utf8_lossy(phase).into_owned();
        let call = Call { kind, sequence: number(8)?, extent: number(16)?, fingerprint: number(24)?, phase };
        Some((call, number(32)?))
    }

    /// Whether a peer's decoded call is this call. The text may have been cut; its fingerprint was not.
    pub(crate) fn agrees_with(&self, peer: &Call) -> bool {
        let key = |call: &Call| (call.kind, call.sequence, call.extent, call.fingerprint);
        key(self) == key(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_listed_with_their_ranks() {
        let values = [(0, "a"), (1, "b"), (2, "a")].map(|(rank, value)| (rank, value.to_owned()));
        assert_eq!(group_by_value(&values), "`a` on ranks 0, 2; `b` on rank 1");
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn calls_survive_the_wire() {
        for phase in ["", "reduce of bucket 3", &"长".repeat(200)] {
            let call = Call::new(CallKind::AllToAllSlices, 7, phase, 30, &[0, 10, 30]);
            let (back, payload_len) = Call::from_wire(&call.to_wire(99)).unwrap();
            assert!(call.agrees_with(&back));
            assert!(phase.starts_with(&back.phase));
            assert_eq!(payload_len, 99);
            let other = Call::new(CallKind::AllToAllSlices, 7, phase, 30, &[0, 20, 30]);
            assert!(!other.agrees_with(&back));
        }
        assert!(Call::from_wire(&[0; WIRE_LEN]).is_none());
        assert!(Call::from_wire(&[]).is_none());
    }
}
