//! The innermost loops of matrix multiplication: one tile of the result in registers, per instruction set.
//!
//! Owns the micro-kernels, their tile sizes and which of them this processor can run. It never allocates, never
//! decides what is multiplied, and sums every element of a tile from the first to the last product.

use super::window::{Lines, Window};
use std::fmt;
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
mod x86;

/// Elements of the largest tile; see [`Kernel::tile_rows`] and [`Kernel::tile_cols`].
pub(crate) const MAX_TILE_LEN: usize = 14 * 32;

/// Some lanes of the left operand: at most as many as a tile has rows. Word `k` of the depth of lane `i` is
/// `words[i * lane_stride + k * depth_stride]`, and one of the strides is 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftPanel<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) lane_stride: usize,
    pub(crate) depth_stride: usize,
}

/// Memory that is fetched while a tile is multiplied. It is lent, not copied: a copy reads two fields at once which were just
/// written one by one, and for that waits until every earlier write has reached the cache, among them those of a whole tile.
#[derive(Debug)]
pub(crate) struct Fetched<'a> {
    /// Part of a panel that is multiplied later: into the second cache, evenly over the depth and at most a line per step.
    pub(crate) ahead: Option<&'a [u32]>,
    /// What is read or written as soon as this tile is done: into the first cache, a line every few steps.
    pub(crate) tiles: [&'a Lines; 2],
}

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

    /// Returns this kernel for use.
    ///
    /// # Panics
    ///
    /// If the processor lacks the instructions.
    pub(crate) fn checked(self) -> CheckedKernel {
        assert!(self.is_available(), "panels made for {self}, which this processor does not have");
        CheckedKernel(self)
    }
}

/// A kernel that this processor has: asked once per product, because a product has thousands of tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckedKernel(Kernel);

impl CheckedKernel {
    /// Adds the product of two panels to a tile of the result, or writes it if `fresh`. The tile has all columns, and
    /// as many rows as the left panel has lanes. Meanwhile `fetched` comes into the caches: asked for between products it
    /// costs nothing, and all at once it would wait for the memory.
    ///
    /// # Shapes
    ///
    /// - a: `[depth_words, rows]` or `[rows, depth_words]`, according to its strides
    /// - b: `[depth_words, tile_cols]`
    /// - tile: `[rows, tile_cols]`
    ///
    /// # Panics
    ///
    /// If the panels are of different depth, or the tile has another size.
    #[inline(always)]
    pub(crate) fn multiply(
        self,
        a: LeftPanel<'_>,
        b: &[u32],
        fresh: bool,
        fetched: &Fetched<'_>,
        mut tile: Window<'_>,
    ) {
        let Self(kernel) = self;
        let (depth, rows) = (b.len() / kernel.tile_cols(), tile.rows());
        assert_eq!(b.len(), depth * kernel.tile_cols(), "a panel of the right operand has whole rows");
        assert!(0 < rows && rows <= kernel.tile_rows(), "a tile has at most {} rows", kernel.tile_rows());
        assert_eq!(tile.cols(), kernel.tile_cols(), "a tile has all columns");
        assert!(a.lane_stride == 1 || a.depth_stride == 1, "a left panel has neighbours in memory");
        if depth > 0 {
            let last = (rows - 1) * a.lane_stride + (depth - 1) * a.depth_stride;
            assert!(last < a.words.len(), "both panels have the same depth");
        }
        if kernel == Kernel::Portable {
            return portable(a, b, fresh, tile);
        }
        // SAFETY: the processor has the instructions (checked when this kernel was made), every lane has `depth` words in both
        // panels, and the tile has as many rows and all columns (asserted).
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
        unsafe {
            // Without anything to fetch, one line is fetched over and over, which costs nothing.
            let step = |ahead: &[u32]| ahead.len().div_ceil(depth.max(1)).min(16);
            let ahead = fetched.ahead.map_or((b.as_ptr(), 0), |ahead| (ahead.as_ptr(), step(ahead)));
            let fetched = (ahead, fetched.tiles);
            x86::multiply(kernel, rows, &x86::Operands::new(a, b, depth, fresh, fetched, tile.raw()));
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("only the portable kernel is available");
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

/// Returns the bits of values where they lie.
pub(crate) fn words_of(values: &[f32]) -> &[u32] {
    // SAFETY: both types have the same size and alignment, and every pattern of bits is valid.
    #[expect(unsafe_code, reason = "the same memory as another type of the same layout")]
    unsafe {
        std::slice::from_raw_parts(values.as_ptr().cast(), values.len())
    }
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

fn portable(a: LeftPanel<'_>, b: &[u32], fresh: bool, mut tile: Window<'_>) {
    const COLS: usize = Kernel::Portable.tile_cols();
    for row in 0..tile.rows() {
        let Some(out) = tile.row(row).as_mut_array::<COLS>() else { unreachable!("the width was asserted") };
        let mut sums = if fresh { [0.0; COLS] } else { *out };
        // Without a depth there are no words.
        let lane =
            a.words.get(row * a.lane_stride..).unwrap_or_default().iter().step_by(a.depth_stride.max(1));
        for (a, b) in lane.zip(b.as_chunks::<COLS>().0) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += f32::from_bits(*a) * f32::from_bits(*b);
            }
        }
        *out = sums;
    }
}
