//! Streams: numbers of one key, in order.
//!
//! Owns the conversion of Philox blocks into integers, fractions, choices and normal deviates. A stream is
//! local to the function that opened it; it is never stored, sent or saved. Every result is built from exact
//! integer and IEEE operations, so it does not depend on the machine's mathematical library.

use crate::key::{Domain, Key};
use crate::normal::{Lanes, NUM_LANES, NUM_TOGETHER, inverse_cdf, inverse_cdf_of_each};
use crate::philox::join;

/// A local generator over the numbers of one [`Key`]: (key, counter), the counter starting at 0.
#[derive(Clone, Debug)]
pub struct Stream {
    key: Key,
    next_block: u64,
    words: [u32; 4],
    num_used: usize,
}

impl Stream {
    pub(crate) fn new(key: Key) -> Self {
        Self { key, next_block: 0, words: [0; 4], num_used: 4 }
    }

    /// Returns 32 uniform bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if self.num_used >= self.words.len() {
            self.refill();
        }
        let word = self.words[self.num_used];
        self.num_used += 1;
        word
    }

    /// Computes the next block.
    #[inline]
    fn refill(&mut self) {
        self.words = self.take_block();
        self.num_used = 0;
    }

    /// Computes the next block without keeping it.
    #[inline(always)]
    fn take_block(&mut self) -> [u32; 4] {
        let block = self.key.block(Domain::Stream, self.next_block);
        self.next_block += 1;
        block
    }

    /// Returns 64 uniform bits: the next two words, low word first.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        if let Some([low, high]) = self.words.get(self.num_used..self.num_used + 2) {
            self.num_used += 2;
            return join([*low, *high]);
        }
        let low = self.next_u32();
        join([low, self.next_u32()])
    }

    /// Returns a uniform integer of `0..n`, without bias.
    ///
    /// Method: [Fast Random Integer Generation in an Interval, Lemire, 2018](https://arxiv.org/abs/1805.10941).
    ///
    /// # Panics
    ///
    /// If `n` is 0: there is no integer below it.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "below(n) needs n > 0: the range 0..0 is empty");
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if (product as u64) < n {
            let num_biased = n.wrapping_neg() % n; // 2^64 mod n
            while (product as u64) < num_biased {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// Returns a uniform multiple of 2^-53 in `[0, 1)`.
    #[inline]
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Returns a uniform multiple of 2^-24 in `[0, 1)`.
    #[inline]
    pub fn unit_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / (1_u32 << 24) as f32)
    }

    /// Returns true with probability `p`; never for `p <= 0`, always for `p >= 1`.
    #[inline]
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit_f64() < p
    }

    /// Returns an index with a probability in proportion to its weight. Weights need not sum to 1.
    ///
    /// # Panics
    ///
    /// If a weight is negative or not finite, or if no weight is positive.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        assert!(
            weights.iter().all(|w| w.is_finite() && *w >= 0.0),
            "weights must be finite and >= 0: {weights:?}"
        );
        let total: f64 = weights.iter().sum();
        let last = weights.iter().rposition(|w| *w > 0.0).expect("weighted() needs a positive weight");
        let mut rest = self.unit_f64() * total;
        for (idx, weight) in weights[..last].iter().enumerate() {
            if rest < *weight {
                return idx;
            }
            rest -= weight;
        }
        last // rounding of the sum can leave a rest behind the last weight
    }

    /// Puts `items` into a uniformly drawn order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// Returns a standard normal deviate: the inverse distribution function at one uniform draw.
    pub fn normal(&mut self) -> f64 {
        inverse_cdf(self.open_unit_f64())
    }

    /// Returns a uniform odd multiple of 2^-54 in `(0, 1)`.
    #[inline]
    fn open_unit_f64(&mut self) -> f64 {
        open_unit(self.next_u64())
    }

    /// What as many calls of [`Stream::open_unit_f64`] return, from whole blocks where one begins.
    #[inline(always)]
    fn fill_open_unit(&mut self, numbers: &mut [Lanes]) {
        for lanes in numbers {
            let mut bits = [0; NUM_LANES];
            if self.num_used == self.words.len() {
                for pair in bits.as_chunks_mut().0 {
                    let [a, b, c, d] = self.take_block();
                    *pair = [join([a, b]), join([c, d])];
                }
            } else {
                bits.fill_with(|| self.next_u64());
            }
            for (number, bits) in lanes.iter_mut().zip(bits) {
                *number = open_unit(bits);
            }
        }
    }

    /// Returns a standard normal deviate, redrawn until its magnitude is at most `limit_sd`.
    ///
    /// # Panics
    ///
    /// If `limit_sd` is below 0.01 or not a number: hardly any draw would be accepted.
    pub fn truncated_normal(&mut self, limit_sd: f64) -> f64 {
        assert!(limit_sd >= 0.01, "truncated_normal needs a limit of at least 0.01 sd, got {limit_sd}");
        loop {
            let deviate = self.normal();
            if deviate.abs() <= limit_sd {
                return deviate;
            }
        }
    }

    /// Passes what as many calls of [`Stream::truncated_normal`] return to `take`, in order, and is used up by it. Several
    /// times as fast for many of them, and faster still in a caller that is compiled for wide vectors.
    ///
    /// # Panics
    ///
    /// As [`Stream::truncated_normal`].
    #[inline(always)]
    pub fn truncated_normals(mut self, limit_sd: f64, count: usize, mut take: impl FnMut(f64)) {
        assert!(limit_sd >= 0.01, "truncated_normals needs a limit of at least 0.01 sd, got {limit_sd}");
        let (mut numbers, mut num_left) = ([Lanes::default(); NUM_TOGETHER / NUM_LANES], count);
        while num_left > 0 {
            // At two standard deviations every twentieth is drawn again.
            let num_wanted = num_left + num_left / 16;
            let numbers = &mut numbers[..num_wanted.div_ceil(NUM_LANES).min(NUM_TOGETHER / NUM_LANES)];
            self.fill_open_unit(numbers);
            inverse_cdf_of_each(numbers);
            let deviates = numbers.as_flattened().iter();
            for deviate in deviates.filter(|deviate| deviate.abs() <= limit_sd).take(num_left) {
                take(*deviate);
                num_left -= 1;
            }
        }
    }
}

#[inline(always)]
fn open_unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests;
