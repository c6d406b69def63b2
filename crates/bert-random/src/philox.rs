//! Philox4x32-10, the counter-based generator below every key and stream.
//!
//! Owns the ten rounds and nothing else: no state, no derivation of keys, no conversion to other types.
//! Paper: [Parallel Random Numbers: As Easy as 1, 2, 3, Salmon et al., SC'11](https://doi.org/10.1145/2063384.2063405).

const NUM_ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Weyl increments of the key: golden ratio and sqrt(3) - 1, both times 2^32.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Returns the block of four words that belongs to `counter` under `key`.
///
/// For a fixed key this is a bijection of the 128-bit counter.
#[inline(always)]
pub(crate) fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [a, b, c, d] = counter;
    let (low, high) = rounds(join([a, b]), join([c, d]), join(key));
    let ([a, b], [c, d]) = (split(low), split(high));
    [a, b, c, d]
}

/// All rounds. Never inlined, and one block at a time. Several blocks side by side would be faster, but the vectoriser of
/// LLVM 22 (for superwords) turns such code into wrong numbers at some call sites. One copy in the program means that the
/// known answers below check the very code that runs.
///
/// Words come and go in pairs because those pass in registers: four of them in memory are written one by one and then
/// loaded together, which stalls for as long as half of the rounds take.
#[inline(never)]
fn rounds(counter_low: u64, counter_high: u64, key: u64) -> (u64, u64) {
    let ([a, b], [c, d]) = (split(counter_low), split(counter_high));
    let (mut words, mut round_key) = ([a, b, c, d], split(key));
    for _ in 0..NUM_ROUNDS {
        words = round(words, round_key);
        round_key = [round_key[0].wrapping_add(KEY_STEPS[0]), round_key[1].wrapping_add(KEY_STEPS[1])];
    }
    let [a, b, c, d] = words;
    (join([a, b]), join([c, d]))
}

/// Two words as one number, low word first.
#[inline(always)]
pub(crate) fn join([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The words of a number, low word first.
#[inline(always)]
pub(crate) fn split(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

#[inline]
fn round(words: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (high0, low0) = multiply(MULTIPLIERS[0], words[0]);
    let (high1, low1) = multiply(MULTIPLIERS[1], words[2]);
    [high1 ^ words[1] ^ key[0], low1, high0 ^ words[3] ^ key[1], low0]
}

#[inline]
fn multiply(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(counter: [u32; 4], key: [u32; 2], expected: [u32; 4]) {
        assert_eq!(philox4x32(counter, key), expected, "{counter:08x?} under {key:08x?}");
    }

    /// Origin: the three `philox4x32 10` lines of `tests/kat_vectors` in Random123 (D. E. Shaw Research,
    /// release 1.14.0): counter, key, expected block.
    #[test]
    fn known_answers_of_random123() {
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }
}
