//! Dropout whose mask is a pure function of (key bits, element index).
//!
//! Owns the hash that decides and the scaling. No mask is stored: backward computes it again. The key comes from
//! the caller, who derives it from the seed, the step, the slot and the site.
//! Paper: [Dropout, Srivastava et al., 2014](https://jmlr.org/papers/v15/srivastava14a.html).

use crate::simd::widest;
use crate::threads::{OverThreads, PARALLEL_CHUNK_LEN};
use bert_random::Key;
use rayon::prelude::*;

/// What decides about every element of one dropout site in one pass.
///
/// Element i is kept iff its 32-bit hash is at least `probability` · 2^32. The threshold is exact for every f32
/// from 2^-8 on, so that the expected value of a kept and scaled element is the element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Bits of the key of this site, step and slot; see [`Key::bits`].
    pub key_bits: u64,
    /// Share of the elements that become 0, in `[0, 1)`.
    pub probability: f32,
}

impl Dropout {
    /// Returns the dropout of a site.
    #[must_use]
    pub fn new(key: Key, probability: f32) -> Self {
        Self { key_bits: key.bits(), probability }
    }

    /// Returns whether element `index` is kept.
    ///
    /// # Panics
    ///
    /// If the probability is outside of `[0, 1)`.
    #[must_use]
    pub fn keeps(self, index: u64) -> bool {
        Mask::new(self, index).keeps(0)
    }
}

/// Writes the kept elements of `x`, scaled by 1 / (1 - probability), and zeros into `out`.
///
/// A dropped element gives 0 even if it is infinite or NaN.
///
/// # Shapes
///
/// - x, out: any, of equal length; elements count in memory order
///
/// # Panics
///
/// If the lengths differ or the probability is outside of `[0, 1)`.
pub fn forward(d: Dropout, x: &[f32], out: &mut [f32]) {
    forward_at(d, 0, x, out);
}

/// Writes the gradient of the input of [`forward`] into `grad_in`: the same mask and scale on `grad_out`.
///
/// # Panics
///
/// As [`forward`].
pub fn backward(d: Dropout, grad_out: &[f32], grad_in: &mut [f32]) {
    forward_at(d, 0, grad_out, grad_in);
}

/// Does [`forward`] on a part of the site's elements that starts at element `first_index`.
///
/// # Panics
///
/// As [`forward`].
pub fn forward_at(d: Dropout, first_index: u64, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "dropout needs an output as long as its input");
    if x.len() <= 2 * PARALLEL_CHUNK_LEN {
        return forward_chunk(d, first_index, x, out);
    }
    let chunks = out.par_chunks_mut(PARALLEL_CHUNK_LEN).zip(x.par_chunks(PARALLEL_CHUNK_LEN)).enumerate();
    chunks.over_threads(|(i, (out, x))| {
        forward_chunk(d, first_index + (i * PARALLEL_CHUNK_LEN) as u64, x, out)
    });
}

/// Does [`forward`], or equally [`backward`], in place on a part that starts at element `first_index`.
///
/// # Panics
///
/// If the probability is outside of `[0, 1)`.
pub fn apply_in_place(d: Dropout, first_index: u64, values: &mut [f32]) {
    if values.len() <= 2 * PARALLEL_CHUNK_LEN {
        return in_place_chunk(d, first_index, values);
    }
    let chunks = values.par_chunks_mut(PARALLEL_CHUNK_LEN).enumerate();
    chunks
        .over_threads(|(i, values)| in_place_chunk(d, first_index + (i * PARALLEL_CHUNK_LEN) as u64, values));
}

/// Drops elements of the row at `place` of a matrix with rows of `row_len` elements, from the first one on; none without
/// dropout.
pub(crate) fn drop_row(dropout: Option<Dropout>, place: u64, row_len: usize, row: &mut [f32]) {
    if let Some(dropout) = dropout.filter(|dropout| dropout.probability > 0.0) {
        apply_in_place(dropout, place * row_len as u64, row);
    }
}

fn forward_chunk(d: Dropout, first_index: u64, x: &[f32], out: &mut [f32]) {
    let num_before = num_before_next_region(first_index, x.len());
    let (x, x_rest) = x.split_at(num_before);
    let (out, out_rest) = out.split_at_mut(num_before);
    let mask = Mask::new(d, first_index);
    widest(
        #[inline(always)]
        || {
            for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
                *out = mask.apply(i as u32, *x);
            }
        },
    );
    if !x_rest.is_empty() {
        forward_chunk(d, first_index + num_before as u64, x_rest, out_rest);
    }
}

fn in_place_chunk(d: Dropout, first_index: u64, values: &mut [f32]) {
    let (values, rest) = values.split_at_mut(num_before_next_region(first_index, values.len()));
    let mask = Mask::new(d, first_index);
    widest(
        #[inline(always)]
        || {
            for (i, value) in values.iter_mut().enumerate() {
                *value = mask.apply(i as u32, *value);
            }
        },
    );
    if !rest.is_empty() {
        in_place_chunk(d, first_index + values.len() as u64, rest);
    }
}

/// Returns how many of `len` elements lie before the next multiple of 2^32, where the keys of the hash change.
fn num_before_next_region(first_index: u64, len: usize) -> usize {
    let room = (1 << 32) - (first_index & u64::from(u32::MAX));
    usize::try_from(room).map_or(len, |room| room.min(len))
}

/// The hash of one region of 2^32 elements, with everything that is equal for all of them computed ahead.
#[derive(Clone, Copy)]
struct Mask {
    first: u32,
    keys: [u32; 2],
    threshold: u32,
    scale: f32,
}

impl Mask {
    fn new(d: Dropout, first_index: u64) -> Self {
        let p = d.probability;
        assert!((0.0..1.0).contains(&p), "the dropout probability must be in [0, 1), got {p}");
        Self {
            first: first_index as u32,
            keys: region_keys(d.key_bits, first_index >> 32),
            threshold: (f64::from(p) * 2.0_f64.powi(32)).round() as u32,
            scale: 1.0 / (1.0 - p),
        }
    }

    #[inline(always)]
    fn keeps(self, offset: u32) -> bool {
        hash(self.first.wrapping_add(offset), self.keys) >= self.threshold
    }

    #[inline(always)]
    fn apply(self, offset: u32, value: f32) -> f32 {
        if self.keeps(offset) { value * self.scale } else { 0.0 }
    }
}

/// Mixes the key bits with the upper half of the element index (the finaliser of SplitMix64).
fn region_keys(key_bits: u64, region: u64) -> [u32; 2] {
    let mut z = key_bits.wrapping_add(region.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    [z as u32, (z >> 32) as u32]
}

/// Hashes the lower half of an element index in 32-bit operations only, so that it vectorises.
///
/// The constants are those of triple32 (Wellons, hash-prospector); the keys enter before the first and the
/// second of its three multiplications, so that the masks of two keys are not shifted copies of each other.
#[inline(always)]
fn hash(index: u32, keys: [u32; 2]) -> u32 {
    let mut x = index ^ keys[0];
    x = (x ^ x >> 17).wrapping_mul(0xed5a_d4bb).wrapping_add(keys[1]);
    x = (x ^ x >> 11).wrapping_mul(0xac4c_1b51);
    x = (x ^ x >> 15).wrapping_mul(0x3184_8bab);
    x ^ x >> 14
}

/// The same results by the plainest loop.
pub mod reference {
    use super::Dropout;

    /// See [`super::forward`].
    ///
    /// # Shapes
    ///
    /// - x, out: any, of equal length
    pub fn forward(d: Dropout, x: &[f32], out: &mut [f32]) {
        for i in 0..x.len() {
            out[i] = if d.keeps(i as u64) { x[i] / (1.0 - d.probability) } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests;
