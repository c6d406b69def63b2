//! The most products per second that a micro-kernel's instruction can reach.
//!
//! Owns loops over registers that touch no memory. Nothing but measurements calls them.

use super::tile::Kernel;
use std::hint::black_box;

/// Independent sums: enough to hide the latency of the instruction, few enough for the registers.
const NUM_SUMS: usize = 24;

/// Runs the kernel's instruction `rounds` times on independent sums; returns the multiplications and additions.
///
/// # Panics
///
/// If the processor lacks the instruction.
pub(crate) fn multiply_in_registers(kernel: Kernel, rounds: usize) -> usize {
    assert!(kernel.is_available(), "{kernel} is not available here");
    let (sum, per_round) = match kernel {
        Kernel::Portable => (portable(rounds, black_box(0.5)), 2 * NUM_SUMS),
        // SAFETY: the processor has the instructions (asserted).
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
        Kernel::Avx2 => unsafe { (x86::avx2(rounds, black_box(0.5)), 2 * 8 * x86::NUM_AVX2_SUMS) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
        Kernel::Avx512 => unsafe { (x86::avx512(rounds, black_box(0.5)), 2 * 16 * NUM_SUMS) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
        Kernel::Avx512Bf16 => unsafe { (x86::avx512_bf16(rounds, black_box(0)), 2 * 32 * NUM_SUMS) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("availability was asserted"),
    };
    black_box(sum);
    rounds * per_round
}

fn portable(rounds: usize, factor: f32) -> f32 {
    let mut sums = [0.0; NUM_SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    sums.iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::NUM_SUMS;
    use std::arch::x86_64::*;

    /// As many as 16 registers hold.
    pub(super) const NUM_AVX2_SUMS: usize = 12;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(rounds: usize, factor: f32) -> f32 {
        let factor = _mm512_set1_ps(factor);
        let mut sums = [_mm512_setzero_ps(); NUM_SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(factor, factor, *sum);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn avx512_bf16(rounds: usize, factors: i32) -> f32 {
        // The bits of a vector of pairs; zero stands for any number, since the speed does not depend on it.
        let factors = _mm512_cvtne2ps_pbh(
            _mm512_castsi512_ps(_mm512_set1_epi32(factors)),
            _mm512_castsi512_ps(_mm512_set1_epi32(factors)),
        );
        let mut sums = [_mm512_setzero_ps(); NUM_SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factors, factors);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(rounds: usize, factor: f32) -> f32 {
        let factor = _mm256_set1_ps(factor);
        let mut sums = [_mm256_setzero_ps(); NUM_AVX2_SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(factor, factor, *sum);
            }
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_kernel_counts_its_work() {
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
            let one = multiply_in_registers(kernel, 1);
            assert!(one > 0);
            assert_eq!(multiply_in_registers(kernel, 100), 100 * one, "{kernel}");
        }
    }
}
