//! Counts of a plan, kept in a file beside the shards, so that a restart does not count again.
//!
//! A cache and nothing else: a file that is absent, damaged or cannot be written changes the time it takes,
//! never a sample. A name holds everything the counts depend on.
//!
//! ```text
//! <shards>/plans/<fingerprint>.counts
//!   magic [8]  fingerprint [32]  runs u64  samples u64  negatives u64  BLAKE3 of the above [32]
//!   per run: samples, negatives, as LEB128     BLAKE3 of the whole file before it [32]
//! ```

use super::{PlanContext, PlanSite};
use crate::split::Side;
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::PathBuf;

/// Raise when planning gives other samples, or the file another form; old files are then passed over.
const MAGIC: [u8; 8] = *b"BERTPLN1";
/// Below this many runs counting takes a millisecond or two, and no file is written.
const MIN_RUNS: usize = 64;
const HASH_LEN: usize = 32;
const HEADER_LEN: usize = 8 + HASH_LEN + 3 * 8;

/// Samples of some documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) num_samples: u64,
    pub(super) num_negative: u64,
}

impl Totals {
    pub(super) fn of_label(&self, is_negative: bool) -> u64 {
        if is_negative { self.num_negative } else { self.num_samples - self.num_negative }
    }

    /// The label of a place, and how many places with that label are before it: the first `n` places hold
    /// `n * num_negative / num_samples` negative samples, rounded down.
    pub(super) fn spread(&self, place: u64) -> (bool, u64) {
        assert!(place < self.num_samples, "place {place} of {}", self.num_samples);
        let (num_samples, num_negative) = (u128::from(self.num_samples), u128::from(self.num_negative));
        let negatives_before = |place: u64| (u128::from(place) * num_negative / num_samples) as u64;
        let before = negatives_before(place);
        let is_negative = negatives_before(place + 1) > before;
        (is_negative, if is_negative { before } else { place - before })
    }
}

impl std::ops::Sub for Totals {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            num_samples: self.num_samples - other.num_samples,
            num_negative: self.num_negative - other.num_negative,
        }
    }
}

/// Another process is counting.
pub(super) struct WouldBlock;

/// Where the counts of one plan are kept.
pub(super) struct CountsFile {
    folder: PathBuf,
    fingerprint: [u8; HASH_LEN],
    num_runs: usize,
}

impl CountsFile {
    pub(super) fn new(context: &PlanContext, site: &PlanSite) -> Self {
        let fingerprint = fingerprint(context, site);
        let folder = context.corpus.dir().join("plans");
        Self { folder, fingerprint, num_runs: context.runs.len() }
    }

    /// Says that this process is counting ahead, until the lock is dropped. Where nothing can be locked, or counting is
    /// too quick to share, everybody may count.
    ///
    /// # Errors
    ///
    /// If another process has said so.
    pub(super) fn try_lock(&self) -> Result<Option<File>, WouldBlock> {
        if self.num_runs < MIN_RUNS || !self.make_folder() {
            return Ok(None);
        }
        let Ok(folder) = File::open(&self.folder) else { return Ok(None) };
        match folder.try_lock() {
            Ok(()) => Ok(Some(folder)),
            Err(TryLockError::WouldBlock) => Err(WouldBlock),
            Err(TryLockError::Error(_)) => Ok(None),
        }
    }

    /// Makes the folder, only inside of a shard folder that is still there. Returns whether it is there.
    fn make_folder(&self) -> bool {
        self.folder.is_dir() || fs::create_dir(&self.folder).is_ok()
    }

    /// The sums over all runs, if they are known.
    pub(super) fn read_totals(&self) -> Option<Totals> {
        let mut header = [0; HEADER_LEN + HASH_LEN];
        File::open(self.path()).ok()?.read_exact(&mut header).ok()?;
        self.parse_header(&header)
    }

    /// The counts of every run, if they are known.
    pub(super) fn read(&self) -> Option<Vec<Totals>> {
        let bytes = fs::read(self.path()).ok()?;
        let totals = self.parse_header(&bytes)?;
        let (content, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_LEN)?)?;
        if blake3::hash(content).as_bytes() != hash {
            return None;
        }
        let mut numbers = content.get(HEADER_LEN + HASH_LEN..)?;
        // Every run takes two bytes at least, so a header cannot ask for more memory than the file is long.
        if numbers.len() / 2 < self.num_runs {
            return None;
        }
        let mut counts = Vec::with_capacity(self.num_runs);
        let mut sum = Totals::default();
        for _ in 0..self.num_runs {
            let count = Totals { num_samples: take(&mut numbers)?, num_negative: take(&mut numbers)? };
            if count.num_negative > count.num_samples {
                return None;
            }
            sum.num_samples = sum.num_samples.checked_add(count.num_samples)?;
            sum.num_negative = sum.num_negative.checked_add(count.num_negative)?;
            counts.push(count);
        }
        (numbers.is_empty() && sum == totals).then_some(counts)
    }

    /// Keeps the counts, if there is a point in it and the folder can be written.
    pub(super) fn write(&self, counts: &[Totals]) {
        if counts.len() < MIN_RUNS {
            return;
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.fingerprint);
        let num_samples = counts.iter().map(|count| count.num_samples).sum();
        let num_negative = counts.iter().map(|count| count.num_negative).sum();
        for number in [counts.len() as u64, num_samples, num_negative] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(blake3::hash(&bytes).as_bytes());
        for count in counts {
            put(&mut bytes, count.num_samples);
            put(&mut bytes, count.num_negative);
        }
        bytes.extend(blake3::hash(&bytes).as_bytes());
        let path = self.path();
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        if !self.make_folder() {
            return;
        }
        let is_kept = fs::write(&temporary, &bytes).and_then(|()| fs::rename(&temporary, &path)).is_ok();
        if !is_kept {
            let _ = fs::remove_file(&temporary);
        }
    }

    fn path(&self) -> PathBuf {
        let name = blake3::Hash::from_bytes(self.fingerprint).to_hex();
        self.folder.join(format!("{}.counts", &name[..32]))
    }

    fn parse_header(&self, bytes: &[u8]) -> Option<Totals> {
        let (header, hash) = bytes.get(..HEADER_LEN + HASH_LEN)?.split_at(HEADER_LEN);
        let (names, numbers) = header.split_at(8 + HASH_LEN);
        let is_ours = names[..8] == MAGIC && names[8..] == self.fingerprint;
        if !is_ours || blake3::hash(header).as_bytes() != hash {
            return None;
        }
        let [num_runs, num_samples, num_negative] = numbers.as_chunks::<8>().0 else { return None };
        (u64::from_le_bytes(*num_runs) == self.num_runs as u64).then_some(Totals {
            num_samples: u64::from_le_bytes(*num_samples),
            num_negative: u64::from_le_bytes(*num_negative),
        })
    }
}

/// Names everything that counts depend on.
fn fingerprint(context: &PlanContext, site: &PlanSite) -> [u8; HASH_LEN] {
    let PlanContext { corpus, split, rules, .. } = context;
    let PlanSite { side, key, repeats } = site;
    let settings = format!(
        "{} {} {} {:x} {} {} {:x} {:x} {}{}",
        corpus.fingerprint(),
        rules.objective.name(),
        rules.max_tokens,
        rules.short_seq_prob.to_bits(),
        *side == Side::HeldOut,
        split.num_documents(Side::HeldOut),
        key.with(0).bits(),
        key.with(1).bits(),
        super::RUN_SENTENCES,
        repeats.describe(),
    );
    *blake3::hash(settings.as_bytes()).as_bytes()
}

/// Appends a number as LEB128.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number as LEB128 from the front; `None` at the end and for a number that does not fit.
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Reads a file of counts made of any bytes, and checks what is believed of it.
///
/// The header names `num_runs` runs and the sums of `body`'s numbers, and both hashes fit if `body` is not the whole
/// file: the numbers behind them are reached.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any(dir: &std::path::Path, num_runs: u16, body: &[u8], is_whole_file: bool) {
    let file =
        CountsFile { folder: dir.to_path_buf(), fingerprint: [7; HASH_LEN], num_runs: num_runs.into() };
    let mut bytes = body.to_vec();
    if !is_whole_file {
        let (mut numbers, mut sums, mut is_first) = (body, [0u64; 2], true);
        while let Some(number) = take(&mut numbers) {
            let sum = &mut sums[usize::from(!is_first)];
            *sum = sum.wrapping_add(number);
            is_first = !is_first;
        }
        bytes = [&MAGIC[..], &file.fingerprint].concat();
        bytes.extend([u64::from(num_runs), sums[0], sums[1]].iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes.extend(body);
        bytes.extend(blake3::hash(&bytes).as_bytes());
    }
    fs::write(file.path(), &bytes).expect("the folder can be written");
    let totals = file.read_totals();
    if let Some(counts) = file.read() {
        assert_eq!(counts.len(), usize::from(num_runs));
        let num_samples = counts.iter().map(|count| count.num_samples).sum();
        let num_negative = counts.iter().map(|count| count.num_negative).sum();
        assert_eq!(totals, Some(Totals { num_samples, num_negative }));
        assert!(counts.iter().all(|count| count.num_negative <= count.num_samples), "{counts:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn file(dir: &Path, num_runs: usize) -> CountsFile {
        CountsFile { folder: dir.join("plans"), fingerprint: [7; HASH_LEN], num_runs }
    }

    fn counts(num_runs: usize) -> Vec<Totals> {
        (0..num_runs as u64).map(|n| Totals { num_samples: n * n, num_negative: n }).collect()
    }

    proptest! {
        #[test]
        fn numbers_come_back(numbers in prop::collection::vec(any::<u64>(), 0..20)) {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|&number| put(&mut bytes, number));
            let mut rest = bytes.as_slice();
            for &number in &numbers {
                prop_assert_eq!(take(&mut rest), Some(number));
            }
            prop_assert_eq!(take(&mut rest), None);
        }
    }

    #[test]
    fn counts_come_back_and_any_changed_byte_makes_them_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path(), 100);
        assert!(file.read().is_none() && file.read_totals().is_none());
        file.write(&counts(100));
        assert_eq!(file.read().unwrap(), counts(100));
        assert_eq!(file.read_totals(), Some(Totals { num_samples: 328_350, num_negative: 4950 }));
        let good = fs::read(file.path()).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            fs::write(file.path(), &bytes).unwrap();
            assert!(file.read().is_none(), "byte {at}");
            assert_eq!(file.read_totals().is_none(), at < HEADER_LEN + HASH_LEN, "byte {at}");
            fs::write(file.path(), &good[..at]).unwrap();
            assert!(file.read().is_none(), "{at} bytes");
        }
        assert_eq!(crate::files::sorted_entries(&dir.path().join("plans")).unwrap().len(), 1);
    }

    #[test]
    fn a_few_runs_or_a_folder_that_is_gone_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        file(dir.path(), MIN_RUNS - 1).write(&counts(MIN_RUNS - 1));
        assert!(!dir.path().join("plans").exists());
        let gone = dir.path().join("gone");
        file(&gone, 100).write(&counts(100));
        assert!(!gone.exists());
    }
}
