//! The innermost loops of matrix multiplication: one tile of the result in registers, per instruction set.
//!
//! Owns the micro-kernels, their tile sizes and which of them this processor can run. It never allocates, never
//! decides what is multiplied, and sums every element of a tile from the first to the last product.

use std::fmt;
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

/// Elements of the largest tile; see [`Kernel::tile_rows`] and [`Kernel::tile_cols`].
pub(crate) const MAX_TILE_LEN: usize = 14 * 32;

/// A tile of the result, row by row without gaps; smaller tiles use its beginning.
#[repr(align(64))]
#[derive(Clone)]
pub(crate) struct Tile(pub(crate) [f32; MAX_TILE_LEN]);

/// A micro-kernel. Panels are made for one kernel and multiplied by the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// `vdpbf16ps`: pairs of bf16 are multiplied and added to f32.
    Avx512Bf16,
    /// f32 with fused multiply-add, 16 at a time.
    Avx512,
    /// f32 with fused multiply-add, 8 at a time.
    Avx2,
    /// f32 in plain Rust, multiplied and added in two roundings.
    Portable,
}

impl Kernel {
    /// Every kernel, fastest first on processors that have them all.
    pub(crate) const ALL: [Self; 4] = [Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Portable];

    /// Returns the fastest kernel of this processor whose operands are f32 words.
    pub(crate) fn fastest_f32() -> Self {
        let candidates = [Self::Avx512, Self::Avx2];
        candidates.into_iter().find(|kernel| kernel.is_available()).unwrap_or(Self::Portable)
    }

    /// Returns the fastest kernel of this processor for operands that are rounded to bf16.
    ///
    /// On Intel's cores `vdpbf16ps` runs once in two cycles and so multiplies half as fast as fused multiply-add
    /// in f32 does (measured); there the rounded values are multiplied in f32.
    pub(crate) fn fastest_bf16() -> Self {
        let worthwhile = Self::Avx512Bf16.is_available() && !is_intel();
        if worthwhile { Self::Avx512Bf16 } else { Self::fastest_f32() }
    }

    /// Returns whether this processor has the instructions.
    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Returns the rows of a tile: the width of a panel of the left operand.
    pub(crate) const fn tile_rows(self) -> usize {
        match self {
            Self::Avx512Bf16 | Self::Avx512 => 14,
            Self::Avx2 | Self::Portable => 6,
        }
    }

    /// Returns the columns of a tile: the width of a panel of the right operand.
    pub(crate) const fn tile_cols(self) -> usize {
        match self {
            Self::Avx512Bf16 | Self::Avx512 => 32,
            Self::Avx2 | Self::Portable => 16,
        }
    }

    /// Returns how many values lie in one 32-bit word of a panel.
    pub(crate) const fn values_per_word(self) -> usize {
        match self {
            Self::Avx512Bf16 => 2,
            Self::Avx512 | Self::Avx2 | Self::Portable => 1,
        }
    }

    /// Adds the product of two panels to a tile, or writes it if `fresh`. Meanwhile the beginning of `ahead`, which is
    /// needed soon, is fetched into the second cache, one line per step of the depth.
    ///
    /// # Shapes
    ///
    /// - a: `[depth_words, tile_rows]`
    /// - b: `[depth_words, tile_cols]`
    /// - tile: `[tile_rows, tile_cols]`
    ///
    /// # Panics
    ///
    /// If the panels are of different depth, or the processor lacks the instructions.
    #[inline]
    pub(crate) fn multiply(self, a: &[u32], b: &[u32], fresh: bool, ahead: Option<&[u32]>, tile: &mut Tile) {
        let depth = a.len() / self.tile_rows();
        assert_eq!(a.len(), depth * self.tile_rows(), "a panel of the left operand has whole rows");
        assert_eq!(b.len(), depth * self.tile_cols(), "both panels have the same depth");
        assert!(self.is_available(), "panels made for {self}, which this processor does not have");
        // Without anything to fetch, one line is fetched over and over, which costs nothing.
        let ahead = ahead.map_or((a.as_ptr(), 0), |ahead| (ahead.as_ptr(), 16));
        if fresh {
            tile.0[..self.tile_rows() * self.tile_cols()].fill(0.0);
        }
        match self {
            Self::Portable => portable(a, b, tile),
            // SAFETY: the processor has the instructions, and the panels have `depth` words per lane (asserted);
            // a tile is long enough for every kernel.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
            Self::Avx2 => unsafe { x86::avx2(a.as_ptr(), b.as_ptr(), depth, &mut tile.0) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
            Self::Avx512 => unsafe { x86::avx512(a.as_ptr(), b.as_ptr(), depth, ahead, &mut tile.0) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
            Self::Avx512Bf16 => unsafe {
                x86::avx512_bf16(a.as_ptr(), b.as_ptr(), depth, ahead, &mut tile.0)
            },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("availability was asserted"),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512Bf16 => "AVX-512 BF16",
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2 + FMA",
            Self::Portable => "portable",
        })
    }
}

/// Asks for the memory of `values`, which are about to be written.
#[inline(always)]
pub(crate) fn prefetch_for_writing(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(16) {
        // SAFETY: a prefetch changes nothing and may name any address.
        #[expect(unsafe_code, reason = "a hint to the processor")]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Asked once: a virtual machine may take long to answer.
fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static IS_INTEL: LazyLock<bool> = LazyLock::new(|| {
            let leaf = std::arch::x86_64::__cpuid(0);
            [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
        });
        *IS_INTEL
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn portable(a: &[u32], b: &[u32], tile: &mut Tile) {
    const ROWS: usize = Kernel::Portable.tile_rows();
    const COLS: usize = Kernel::Portable.tile_cols();
    let (sums, _) = tile.0.as_chunks_mut::<COLS>();
    let (a, _) = a.as_chunks::<ROWS>();
    let (b, _) = b.as_chunks::<COLS>();
    for (a, b) in a.iter().zip(b) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += f32::from_bits(*a) * f32::from_bits(*b);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions on panels whose lengths the caller has checked")]
mod x86 {
    use super::{Kernel, MAX_TILE_LEN};
    use std::arch::x86_64::*;

    /// Words that the right panel is fetched ahead: two lines per step, eight steps.
    const AHEAD: usize = 8 * 32;

    /// # Safety
    ///
    /// `a` and `b` must have `depth` times the tile's rows and columns.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(
        a: *const u32,
        b: *const u32,
        depth: usize,
        (mut ahead, ahead_step): (*const u32, usize),
        tile: &mut [f32; MAX_TILE_LEN],
    ) {
        const ROWS: usize = Kernel::Avx512.tile_rows();
        let (mut a, mut b) = (a.cast::<f32>(), b.cast::<f32>());
        let out = tile.as_mut_ptr();
        // SAFETY: reads stay in `depth` rows of each panel, reads and writes of the tile in its 14 x 32 elements;
        // a prefetch may name any address.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = [_mm512_load_ps(out.add(32 * i)), _mm512_load_ps(out.add(32 * i + 16))];
            }
            for _ in 0..depth {
                let (low, high) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + 16).cast());
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                ahead = ahead.wrapping_add(ahead_step);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm512_set1_ps(*a.add(i));
                    sums[0] = _mm512_fmadd_ps(factor, low, sums[0]);
                    sums[1] = _mm512_fmadd_ps(factor, high, sums[1]);
                }
                (a, b) = (a.add(ROWS), b.add(32));
            }
            for (i, sums) in sums.iter().enumerate() {
                _mm512_store_ps(out.add(32 * i), sums[0]);
                _mm512_store_ps(out.add(32 * i + 16), sums[1]);
            }
        }
    }

    /// # Safety
    ///
    /// As [`avx512`]; a word holds a pair of bf16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn avx512_bf16(
        a: *const u32,
        b: *const u32,
        depth: usize,
        (mut ahead, ahead_step): (*const u32, usize),
        tile: &mut [f32; MAX_TILE_LEN],
    ) {
        const ROWS: usize = Kernel::Avx512Bf16.tile_rows();
        let (mut a, mut b) = (a.cast::<i32>(), b.cast::<i32>());
        let out = tile.as_mut_ptr();
        // SAFETY: as in `avx512`; `__m512bh` and `__m512i` are the same 64 bytes.
        unsafe {
            let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = [_mm512_load_ps(out.add(32 * i)), _mm512_load_ps(out.add(32 * i + 16))];
            }
            for _ in 0..depth {
                let low = pairs(_mm512_loadu_si512(b.cast()));
                let high = pairs(_mm512_loadu_si512(b.add(16).cast()));
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + 16).cast());
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                ahead = ahead.wrapping_add(ahead_step);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factors = pairs(_mm512_set1_epi32(*a.add(i)));
                    sums[0] = _mm512_dpbf16_ps(sums[0], factors, low);
                    sums[1] = _mm512_dpbf16_ps(sums[1], factors, high);
                }
                (a, b) = (a.add(ROWS), b.add(32));
            }
            for (i, sums) in sums.iter().enumerate() {
                _mm512_store_ps(out.add(32 * i), sums[0]);
                _mm512_store_ps(out.add(32 * i + 16), sums[1]);
            }
        }
    }

    /// # Safety
    ///
    /// `a` and `b` must have `depth` times the tile's rows and columns.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(a: *const u32, b: *const u32, depth: usize, tile: &mut [f32; MAX_TILE_LEN]) {
        const ROWS: usize = Kernel::Avx2.tile_rows();
        let (mut a, mut b) = (a.cast::<f32>(), b.cast::<f32>());
        let out = tile.as_mut_ptr();
        // SAFETY: reads stay in `depth` rows of each panel, reads and writes of the tile in its first 6 x 16
        // elements.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = [_mm256_load_ps(out.add(16 * i)), _mm256_load_ps(out.add(16 * i + 8))];
            }
            for _ in 0..depth {
                let (low, high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm256_broadcast_ss(&*a.add(i));
                    sums[0] = _mm256_fmadd_ps(factor, low, sums[0]);
                    sums[1] = _mm256_fmadd_ps(factor, high, sums[1]);
                }
                (a, b) = (a.add(ROWS), b.add(16));
            }
            for (i, sums) in sums.iter().enumerate() {
                _mm256_store_ps(out.add(16 * i), sums[0]);
                _mm256_store_ps(out.add(16 * i + 8), sums[1]);
            }
        }
    }
}
