//! Counter-based randomness: keys, streams, O(1) permutations.
//!
//! Owns the one idea of this workspace: everything random is a pure function of (seed, purpose, epoch or
//! step, sample or slot). There is no global generator, no saved generator state, no clock and no entropy
//! from the machine here, and no dependency: whoever holds the same [`Key`] reads the same numbers.
//!
//! ```
//! use bert_random::{Key, Permutation, Purpose};
//!
//! let epoch = 3;
//! let order = Permutation::new(1_000, Key::new(42, Purpose::Order).with(epoch));
//! let sample = order.at(17);
//! let mut stream = Key::new(42, Purpose::Mask).with(epoch).with(sample).stream();
//! assert!(stream.below(10) < 10);
//! assert_eq!(order.inverse(sample), 17);
//! ```
//!
//! The numbers are part of the file format of a run: a changed stream changes every later batch of a
//! resumed run. Golden values in the tests pin them.

mod key;
mod normal;
mod permutation;
mod philox;
mod stream;

pub use key::{Key, Purpose};
pub use permutation::Permutation;
pub use stream::Stream;
