//! The generator of Python's module `random`: MT19937 with CPython's seeding and CPython's way to numbers.
//!
//! Owns what Google's script draws: `random()`, `randint` and `shuffle`, as CPython 3.2 and later have them.
//! Nothing of this crate but [`super`] may use it: its state is sequential, so a sample would depend on all
//! samples before it.

const STATE_LEN: usize = 624;
const SHIFT_LEN: usize = 397;

/// Python's `random.Random(seed)`.
///
/// Reference: Matsumoto and Nishimura, "Mersenne Twister", 1998; CPython `Modules/_randommodule.c`, `Lib/random.py`.
#[derive(Clone)]
pub struct PythonRandom {
    state: [u32; STATE_LEN],
    next: usize,
}

impl std::fmt::Debug for PythonRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PythonRandom").field("next", &self.next).finish_non_exhaustive()
    }
}

impl PythonRandom {
    /// `random.Random(seed)` for an integer that is not negative.
    pub fn new(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        let num_words = if words[1] == 0 { 1 } else { 2 };
        Self::from_key(&words[..num_words])
    }

    /// `init_by_array` of the reference implementation.
    fn from_key(key: &[u32]) -> Self {
        let mut state = [0u32; STATE_LEN];
        state[0] = 19_650_218;
        for i in 1..STATE_LEN {
            let mixed = state[i - 1] ^ state[i - 1] >> 30;
            state[i] = mixed.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        let mut i = 1;
        for round in 0..STATE_LEN.max(key.len()) {
            let j = round % key.len();
            let mixed = (state[i - 1] ^ state[i - 1] >> 30).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed).wrapping_add(key[j]).wrapping_add(j as u32);
            i = Self::next_cell(&mut state, i);
        }
        for _ in 1..STATE_LEN {
            let mixed = (state[i - 1] ^ state[i - 1] >> 30).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(i as u32);
            i = Self::next_cell(&mut state, i);
        }
        state[0] = 0x8000_0000;
        Self { state, next: STATE_LEN }
    }

    /// The cell after `i` while seeding; the last cell is copied to the first on the way round.
    fn next_cell(state: &mut [u32; STATE_LEN], i: usize) -> usize {
        if i + 1 < STATE_LEN {
            return i + 1;
        }
        state[0] = state[STATE_LEN - 1];
        1
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == STATE_LEN {
            self.twist();
        }
        let mut bits = self.state[self.next];
        self.next += 1;
        bits ^= bits >> 11;
        bits ^= bits << 7 & 0x9d2c_5680;
        bits ^= bits << 15 & 0xefc6_0000;
        bits ^ bits >> 18
    }

    fn twist(&mut self) {
        for i in 0..STATE_LEN {
            let joined = self.state[i] & 0x8000_0000 | self.state[(i + 1) % STATE_LEN] & 0x7fff_ffff;
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT_LEN) % STATE_LEN] ^ joined >> 1 ^ odd;
        }
        self.next = 0;
    }

    /// `random()`: uniform in [0, 1), 53 bits from two draws.
    pub fn random(&mut self) -> f64 {
        let high = self.next_u32() >> 5;
        let low = self.next_u32() >> 6;
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `randint(first, last)`: uniform, both ends included.
    ///
    /// # Panics
    ///
    /// If there is nothing between the ends, or more than 2^32 - 1 numbers.
    pub fn randint(&mut self, first: usize, last: usize) -> usize {
        assert!(first <= last, "randint({first}, {last})");
        first + self.below(last - first + 1)
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `_randbelow(n)`: as many bits as `n` itself has, drawn again until they are below it.
    fn below(&mut self, n: usize) -> usize {
        let num_bits = usize::BITS - n.leading_zeros();
        assert!((1..=32).contains(&num_bits), "expected 1 to 2^32 - 1 numbers, got {n}");
        loop {
            let drawn = (self.next_u32() >> (32 - num_bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPython 3.11.7: for each seed `r = random.Random(seed)`, then in this order `[r.random() for _ in
    /// range(3)]`, `[r.randint(0, 6) for _ in range(10)]`, `r.shuffle(x)` of `x = list(range(12))`,
    /// `r.randint(1, 1)`, `r.randint(5, 10**9)`, and `r.random()` after 2,000 more draws of it.
    #[test]
    fn draws_are_those_of_cpython() {
        for (seed, floats, ints, shuffled, wide, late) in GOLDEN {
            let mut random = PythonRandom::new(seed);
            assert_eq!([(); 3].map(|()| random.random()), floats, "seed {seed}");
            assert_eq!([(); 10].map(|()| random.randint(0, 6)), ints, "seed {seed}");
            let mut items: [usize; 12] = std::array::from_fn(|i| i);
            random.shuffle(&mut items);
            assert_eq!(items, shuffled, "seed {seed}");
            assert_eq!(random.randint(1, 1), 1);
            assert_eq!(random.randint(5, 1_000_000_000), wide, "seed {seed}");
            for _ in 0..2000 {
                random.random();
            }
            assert_eq!(random.random(), late, "seed {seed}");
        }
    }

    type Golden = (u64, [f64; 3], [usize; 10], [usize; 12], usize, f64);
    #[rustfmt::skip]
    const GOLDEN: [Golden; 3] = [
        (0, [0.8444218515250481, 0.7579544029403025, 0.420571580830845], [2, 4, 3, 3, 6, 6, 2, 3, 2, 4],
            [1, 5, 11, 7, 10, 0, 6, 9, 4, 2, 8, 3], 106046336, 0.925969264107557),
        (12345, [0.41661987254534116, 0.010169169457068361, 0.8252065092537432], [2, 6, 2, 1, 2, 4, 3, 1, 2, 0],
            [1, 10, 11, 3, 0, 5, 7, 9, 2, 8, 4, 6], 220883925, 0.6467346048907312),
        (1099511627783, [0.6137037779936511, 0.8149162973309487, 0.9450115087592873], [4, 5, 3, 2, 4, 1, 4, 3, 4, 5],
            [8, 2, 0, 10, 4, 3, 1, 11, 9, 7, 6, 5], 271358084, 0.11025756074235016),
    ];
}
