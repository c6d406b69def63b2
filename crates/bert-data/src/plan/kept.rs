//! Samples of the first runs of a plan, kept once they were planned.
//!
//! A cache and nothing else: it changes the time it takes to find a sample, never the sample. A run is planned for its
//! first sample; the some hundred others of it are looked up. Bounded: the runs behind the first 768 Ki samples are
//! planned anew for each of theirs.

use super::{Chunk, Second};
use std::sync::OnceLock;

/// Samples kept of one plan: 12 MiB.
const MAX_SAMPLES_KEPT: u64 = 768 << 10;

/// The runs of a plan that are kept.
pub(super) struct KeptRuns {
    /// One per run, empty until it is planned; `None` inside if its numbers do not fit.
    runs: Vec<OnceLock<Option<Box<[KeptSample]>>>>,
}

/// A sample in 16 bytes.
#[derive(Clone, Copy, Debug)]
struct KeptSample {
    /// Counted from the first document of the run.
    document: u32,
    start: u32,
    first_len: u16,
    rest_len: u16,
    target_tokens: u16,
    kind: Kind,
}

/// [`Second`] without its number.
#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    Next,
    RandomPiece,
    RandomInside,
    Swapped,
}

impl KeptSample {
    fn new(document: u64, chunk: &Chunk) -> Option<Self> {
        let (kind, target_tokens) = match chunk.second {
            Second::None => (Kind::None, 0),
            Second::Next => (Kind::Next, 0),
            Second::Swapped => (Kind::Swapped, 0),
            Second::Random { target_tokens, starts_inside: false } => (Kind::RandomPiece, target_tokens),
            Second::Random { target_tokens, starts_inside: true } => (Kind::RandomInside, target_tokens),
        };
        Some(Self {
            document: document.try_into().ok()?,
            start: chunk.first.start.try_into().ok()?,
            first_len: (chunk.first.end - chunk.first.start).try_into().ok()?,
            rest_len: (chunk.rest.end - chunk.rest.start).try_into().ok()?,
            target_tokens: target_tokens.try_into().ok()?,
            kind,
        })
    }

    fn chunk(self) -> Chunk {
        let start = u64::from(self.start);
        let cut = start + u64::from(self.first_len);
        let target_tokens = u64::from(self.target_tokens);
        Chunk {
            first: start..cut,
            rest: cut..cut + u64::from(self.rest_len),
            second: match self.kind {
                Kind::None => Second::None,
                Kind::Next => Second::Next,
                Kind::Swapped => Second::Swapped,
                Kind::RandomPiece => Second::Random { target_tokens, starts_inside: false },
                Kind::RandomInside => Second::Random { target_tokens, starts_inside: true },
            },
        }
    }
}

impl KeptRuns {
    /// Room for the first runs; `first_samples` is the number of samples before each run, and of all.
    pub(super) fn new(first_samples: &[u64]) -> Self {
        let num_runs = first_samples[1..].partition_point(|&end| end <= MAX_SAMPLES_KEPT);
        Self { runs: (0..num_runs).map(|_| OnceLock::new()).collect() }
    }

    /// Calls `visitor` for the samples of a run, in order, until it returns false. `plan` plans the run, for a visitor of
    /// the same kind; documents are counted from `first_document`.
    pub(super) fn visit<E>(
        &self,
        run_idx: usize,
        first_document: u64,
        plan: impl Fn(&mut dyn FnMut(u64, Chunk) -> bool) -> Result<(), E>,
        mut visitor: impl FnMut(u64, Chunk) -> bool,
    ) -> Result<(), E> {
        let Some(slot) = self.runs.get(run_idx) else { return plan(&mut visitor) };
        if slot.get().is_none() {
            let mut samples = Some(Vec::new());
            plan(&mut |document, chunk| {
                match KeptSample::new(document - first_document, &chunk) {
                    Some(sample) => samples.iter_mut().for_each(|samples| samples.push(sample)),
                    None => samples = None,
                }
                samples.is_some()
            })?;
            // Another thread may have been faster, with the same samples.
            drop(slot.set(samples.map(Vec::into_boxed_slice)));
        }
        let Some(Some(samples)) = slot.get() else { return plan(&mut visitor) };
        for sample in samples {
            if !visitor(first_document + u64::from(sample.document), sample.chunk()) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn chunk(start: u64, first_len: u64, rest_len: u64, second: Second) -> Chunk {
        let cut = start + first_len;
        Chunk { first: start..cut, rest: cut..cut + rest_len, second }
    }

    fn samples() -> Vec<(u64, Chunk)> {
        let random = |starts_inside| Second::Random { target_tokens: 65_535, starts_inside };
        vec![
            (70, chunk(0, 65_535, 1, Second::Next)),
            (70, chunk(9, 1, 65_535, Second::Swapped)),
            (71, chunk(u64::from(u32::MAX), 2, 0, random(false))),
            (582, chunk(3, 2, 0, random(true))),
            (582, chunk(5, 20, 0, Second::None)),
        ]
    }

    /// What a visitor sees, and how often the run was planned for two visits.
    fn visit(kept: &KeptRuns, run_idx: usize, samples: &[(u64, Chunk)]) -> (Vec<(u64, Chunk)>, usize) {
        let num_planned = Cell::new(0);
        let plan = |emit: &mut dyn FnMut(u64, Chunk) -> bool| {
            num_planned.set(num_planned.get() + 1);
            samples.iter().cloned().all(|(document, chunk)| emit(document, chunk));
            Ok::<(), ()>(())
        };
        let mut first = None;
        kept.visit(run_idx, 70, plan, |document, chunk| {
            first = Some((document, chunk));
            false
        })
        .unwrap();
        assert_eq!(first.as_ref(), samples.first());
        let mut seen = vec![];
        let visitor = |document, chunk| {
            seen.push((document, chunk));
            true
        };
        kept.visit(run_idx, 70, plan, visitor).unwrap();
        (seen, num_planned.get())
    }

    #[test]
    fn kept_samples_are_those_that_were_planned() {
        assert_eq!(size_of::<KeptSample>(), 16);
        let kept = KeptRuns::new(&[0, 5]);
        assert_eq!(visit(&kept, 0, &samples()), (samples(), 1));
    }

    #[test]
    fn what_does_not_fit_is_planned_again() {
        for odd in [
            chunk(1 << 32, 1, 1, Second::Next),
            chunk(0, 1 << 16, 1, Second::Next),
            chunk(0, 1, 1 << 16, Second::Next),
            chunk(0, 1, 0, Second::Random { target_tokens: 1 << 16, starts_inside: true }),
        ] {
            let mut samples = samples();
            samples.insert(2, (71, odd));
            let kept = KeptRuns::new(&[0, 6]);
            // Once to find out, and once per visit.
            assert_eq!(visit(&kept, 0, &samples), (samples.clone(), 3));
        }
    }

    #[test]
    fn memory_is_bounded_by_the_first_samples() {
        let kept = KeptRuns::new(&[0, 5, MAX_SAMPLES_KEPT, MAX_SAMPLES_KEPT + 1]);
        assert_eq!(kept.runs.len(), 2);
        assert_eq!(visit(&kept, 2, &samples()), (samples(), 2));
    }
}
