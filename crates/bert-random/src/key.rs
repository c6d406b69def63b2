//! Keys: the names of random streams.
//!
//! Owns how (seed, purpose, parts..) becomes 128 mixed bits. A key never yields numbers itself; it opens a
//! [`Stream`] or hands out bits for kernels that hash element indices.

use crate::philox::{philox4x32, split};
use crate::stream::Stream;

/// Changing this word changes every number of every run. It never changes within a major version.
const DERIVATION_VERSION: u32 = 1;
const ROOT_KEY: [u32; 2] = [0x6265_7274, 0x2d6b_6579];

/// What a stream of numbers is for. Streams of different purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Initial weights, further keyed by parameter name.
    Init,
    /// Dropout masks, further keyed by step, slot and site.
    Dropout,
    /// How documents are cut into samples, further keyed by epoch and document.
    SamplePlan,
    /// The order of samples within an epoch.
    Order,
    /// The partner of a sentence pair and its truncation.
    Pair,
    /// Masks in training, further keyed by epoch and sample.
    Mask,
    /// Masks in evaluation, further keyed by sample only.
    EvalMask,
    /// Which documents are held out.
    Split,
    /// Choices of the debug mode, such as the samples that are printed.
    Debug,
}

impl Purpose {
    /// Returns the number that stands for this purpose in every key; written out so that a reordered enum
    /// changes no stream.
    const fn tag(self) -> u32 {
        match self {
            Self::Init => 1,
            Self::Dropout => 2,
            Self::SamplePlan => 3,
            Self::Order => 4,
            Self::Pair => 5,
            Self::Mask => 6,
            Self::EvalMask => 7,
            Self::Split => 8,
            Self::Debug => 9,
        }
    }
}

/// Separates the uses of one key, so that no child key ever equals a block of numbers.
#[derive(Clone, Copy)]
pub(crate) enum Domain {
    Part = 0x7061_7274,
    Name = 0x6e61_6d65,
    Bits = 0x6269_7473,
    Stream = 0x7374_726d,
}

/// The name of a random stream: 128 bits derived from a seed, a [`Purpose`] and any number of parts.
///
/// Different (seed, purpose) give different keys, and different parts of one parent give different
/// children; both are exact, because Philox is a bijection of its counter. All other pairs of keys are equal
/// with the probability of 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u32; 4]);

impl Key {
    /// Returns the key of everything that serves `purpose` in a run with this `seed`.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let [low, high] = split(seed);
        Self(philox4x32([low, high, purpose.tag(), DERIVATION_VERSION], ROOT_KEY))
    }

    /// Returns the child key of an epoch, step, sample, slot or site. The order of parts matters.
    #[must_use]
    pub fn with(self, part: u64) -> Self {
        Self(self.block(Domain::Part, part))
    }

    /// Returns the child key of a name, such as that of a parameter. Names and numbers never share a child.
    #[must_use]
    pub fn with_name(self, name: &str) -> Self {
        // The length goes first: together with zero padding this keeps names apart that differ in length only.
        let start = Self(self.block(Domain::Name, name.len() as u64));
        name.as_bytes().chunks(8).fold(start, |key, chunk| {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            Self(key.block(Domain::Name, u64::from_le_bytes(bytes)))
        })
    }

    /// Returns 64 well-mixed bits, for kernels that hash (bits, element index) themselves.
    #[must_use]
    pub fn bits(self) -> u64 {
        let [low, high, ..] = self.block(Domain::Bits, 0);
        u64::from(high) << 32 | u64::from(low)
    }

    /// Opens the generator of this key at its first number.
    #[must_use]
    pub fn stream(self) -> Stream {
        Stream::new(self)
    }

    /// Returns block `counter` of this key in `domain`.
    #[inline(always)]
    pub(crate) fn block(self, domain: Domain, counter: u64) -> [u32; 4] {
        let [s0, s1, s2, s3] = self.0;
        let [low, high] = split(counter);
        philox4x32([low, high, s0, s1], [s2 ^ domain as u32, s3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const PURPOSES: [Purpose; 9] = [
        Purpose::Init,
        Purpose::Dropout,
        Purpose::SamplePlan,
        Purpose::Order,
        Purpose::Pair,
        Purpose::Mask,
        Purpose::EvalMask,
        Purpose::Split,
        Purpose::Debug,
    ];

    #[test]
    fn keys_of_a_small_run_are_all_different() {
        let mut seen = HashSet::new();
        for seed in [0, 1, 42, u64::MAX] {
            for purpose in PURPOSES {
                let root = Key::new(seed, purpose);
                assert!(seen.insert(root));
                for a in 0..60 {
                    assert!(seen.insert(root.with(a)));
                    for b in 0..60 {
                        assert!(seen.insert(root.with(a).with(b)), "{seed} {purpose:?} {a} {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_that_differ_by_padding_length_or_cut_differ() {
        let key = Key::new(7, Purpose::Init);
        let names =
            ["", "\0", "\0\0", "a", "a\0", "abcdefgh", "abcdefgh\0", "abcdefghabcdefgh", "bert.pooler"];
        let keys: HashSet<_> = names.iter().map(|name| key.with_name(name)).collect();
        assert_eq!(keys.len(), names.len());
        assert_ne!(key.with_name("ab").with_name("c"), key.with_name("a").with_name("bc"));
        assert_ne!(key.with_name("a"), key.with(u64::from(b'a')));
    }

    #[test]
    fn one_changed_bit_of_a_part_changes_half_of_the_bits() {
        let key = Key::new(11, Purpose::Mask);
        let mut num_changed = 0;
        for part in 0..500 {
            for bit in 0..64 {
                num_changed += (key.with(part).bits() ^ key.with(part ^ 1 << bit).bits()).count_ones();
            }
        }
        let mean = f64::from(num_changed) / (500.0 * 64.0);
        // The mean of 32,000 draws of Binomial(64, 1/2) has a standard deviation of 0.022.
        assert!((mean - 32.0).abs() < 0.12, "mean of changed bits: {mean}");
    }

    proptest! {
        #[test]
        fn order_of_parts_matters(seed: u64, a: u64, b: u64) {
            prop_assume!(a != b);
            let key = Key::new(seed, Purpose::Dropout);
            prop_assert_ne!(key.with(a).with(b), key.with(b).with(a));
            prop_assert_ne!(key.with(a), key.with(b));
        }

        #[test]
        fn children_and_blocks_of_numbers_never_meet(seed: u64, part: u64) {
            let key = Key::new(seed, Purpose::Order);
            prop_assert_ne!(key.with(part).0, key.block(Domain::Stream, part));
            prop_assert_ne!(key.with(part).0, key.block(Domain::Bits, part));
        }
    }

    /// Origin: computed by this crate at its first version and, independently, by the Python transcription
    /// in `tests/golden.py`. A change here breaks the resumption of every run.
    #[test]
    fn golden_keys() {
        let key = Key::new(42, Purpose::Mask);
        assert_eq!(key.0, GOLDEN_ROOT);
        assert_eq!(key.with(3).with(1 << 40).0, GOLDEN_CHILD);
        assert_eq!(key.with_name("bert.embeddings.word_embeddings.weight").0, GOLDEN_NAME);
        assert_eq!(key.bits(), GOLDEN_BITS);
    }

    const GOLDEN_ROOT: [u32; 4] = [0x4da7_df1e, 0xda0c_a071, 0x397c_1680, 0x3929_b816];
    const GOLDEN_CHILD: [u32; 4] = [0x77c9_5066, 0x8207_d864, 0x74df_c861, 0x4c6b_83da];
    const GOLDEN_NAME: [u32; 4] = [0xcd4f_d447, 0x8399_5b24, 0xc204_5382, 0xd685_c782];
    const GOLDEN_BITS: u64 = 0xc45a_e7a4_f08b_bf9d;
}
