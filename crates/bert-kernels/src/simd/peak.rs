//! The most products per second that a micro-kernel's instruction can reach.
//!
//! Owns loops over registers that touch no memory. Nothing but measurements calls them.

use super::tile::Kernel;
use std::hint::black_box;

/// Independent sums: enough to hide the latency of the instruction, few enough for the registers.
const NUM_SUMS: usize = 14;
/// Sums that the compiler spreads over vectors by itself.
const NUM_PORTABLE_SUMS: usize = 32;

/// Runs the kernel's instruction `rounds` times on independent sums; returns the multiplications and additions.
///
/// # Panics
///
/// If the processor lacks the instruction.
pub(crate) fn multiply_in_registers(kernel: Kernel, rounds: usize) -> usize {
    assert!(kernel.is_available(), "{kernel} is not available here");
    #[cfg(target_arch = "x86_64")]
    match kernel {
        Kernel::Portable => {}
        Kernel::Avx2 => return 2 * 8 * NUM_SUMS * x86::avx2(rounds),
        Kernel::Avx512 => return 2 * 16 * NUM_SUMS * x86::avx512(rounds),
        Kernel::Avx512Bf16 => return 2 * 32 * NUM_SUMS * x86::avx512_bf16(rounds),
    }
    let (mut sums, factor) = ([0.0_f32; NUM_PORTABLE_SUMS], black_box(0.5));
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = *sum * factor + factor);
    }
    black_box(sums);
    2 * NUM_PORTABLE_SUMS * rounds
}

/// Written as instructions: from vector types the compiler makes loops that move sums through memory.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    /// Defines a function that runs an instruction on 14 registers, `rounds` times, and returns `rounds`.
    macro_rules! loop_over_registers {
        ($name:ident, $instruction:literal, $kind:literal) => {
            pub(super) fn $name(rounds: usize) -> usize {
                if rounds == 0 {
                    return 0;
                }
                // SAFETY: the caller has checked that the processor has the instruction; it reads and writes
                // vector registers only, all of which are declared.
                #[expect(unsafe_code, reason = "instructions over registers only")]
                unsafe {
                    loop_over_registers!(@asm $instruction, $kind, rounds,
                        "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13");
                }
                rounds
            }
        };
        (@asm $instruction:literal, $kind:literal, $rounds:ident, $($register:literal)*) => {
            asm!(
                $(concat!("vxorps xmm", $register, ", xmm", $register, ", xmm", $register),)*
                "vxorps xmm15, xmm15, xmm15",
                "2:",
                $(concat!($instruction, " ", $kind, "mm", $register, ", ", $kind, "mm15, ", $kind, "mm15"),)*
                "dec {left}",
                "jnz 2b",
                "vzeroupper",
                left = inout(reg) $rounds => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nomem, nostack),
            )
        };
    }

    loop_over_registers!(avx512, "vfmadd231ps", "z");
    loop_over_registers!(avx512_bf16, "vdpbf16ps", "z");
    loop_over_registers!(avx2, "vfmadd231ps", "y");
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
