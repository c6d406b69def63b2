//! Matrix products of packed operands, in f32 or with operands rounded to bf16.
//!
//! Owns packing, blocking for the caches, the split over threads and what is done with a finished tile. An operand
//! is packed once and used as often as it is needed. Every element of the result is one sum over the depth from
//! the first product to the last, whatever the blocks, and threads share the result and never a sum: bits depend
//! on the operands and on the [`Path`] only. The AVX2 and AVX-512 paths in f32 give the same bits.
//! Method: [Anatomy of High-Performance Matrix Multiplication, Goto and van de Geijn, 2008](https://doi.org/10.1145/1356052.1356053).

mod cast;
mod driver;
mod fill;
mod left;
mod pack;

use driver::Output;
pub(crate) use driver::{Region, compute, compute_then};
pub use left::{Left, LeftScratch};
pub use pack::{Matrix, PackedA, PackedB};

use crate::gelu::GeluForm;
use crate::simd::tile::Kernel;
use crate::stretch;
use std::fmt;

/// What the operands of a product are rounded to; sums are f32 in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    F32,
    /// To the nearest bf16, ties to even.
    Bf16,
}

/// How this processor multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    precision: Precision,
    kernel: Kernel,
}

impl Precision {
    /// Returns the path that products of this precision take on this processor.
    #[must_use]
    pub fn path(self) -> Path {
        Path { precision: self, kernel: self.kernel() }
    }

    fn kernel(self) -> Kernel {
        match self {
            Self::F32 => Kernel::fastest_f32(),
            Self::Bf16 => Kernel::fastest_bf16(),
        }
    }
}

impl Path {
    /// Returns every path of this processor; what each precision takes on its own is [`Precision::path`].
    #[must_use]
    pub fn all() -> Vec<Self> {
        let kernels = Kernel::ALL.into_iter().filter(|kernel| kernel.is_available());
        let both = |kernel| [Precision::Bf16, Precision::F32].map(|precision| Self { precision, kernel });
        kernels.flat_map(both).filter(|path| path.is_possible()).collect()
    }

    fn is_possible(self) -> bool {
        self.precision == Precision::Bf16 || self.kernel.values_per_word() == 1
    }

    /// Returns whether bf16 is multiplied by instructions made for it.
    ///
    /// Where it is not, bf16 brings no speed over f32: values are rounded and then multiplied in f32.
    #[must_use]
    pub fn is_native_bf16(self) -> bool {
        self.kernel == Kernel::Avx512Bf16
    }

    /// Multiplies and adds in registers only, `rounds` times over independent sums, and returns the number of
    /// multiplications and additions done. The time it takes is the bound of every product on this path.
    #[must_use]
    pub fn multiply_in_registers(self, rounds: usize) -> usize {
        crate::simd::peak::multiply_in_registers(self.kernel, rounds)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.precision {
            Precision::F32 => write!(f, "f32 by {}", self.kernel),
            Precision::Bf16 if self.is_native_bf16() => write!(f, "bf16 by {}", self.kernel),
            Precision::Bf16 => {
                write!(f, "bf16 multiplied in f32 by {}, no faster than f32", self.kernel)
            }
        }
    }
}

/// Writes `a * b` into `out`.
///
/// # Shapes
///
/// - a: `[rows, depth]`; b: `[depth, cols]`; out: `[rows, cols]`
///
/// # Panics
///
/// If the shapes do not fit or the operands were packed for different precisions.
pub fn multiply<'a>(a: impl Into<Left<'a>>, b: &PackedB, out: &mut [f32]) {
    let out = Output { rows: [out], continues: false, read: &[] };
    driver::run(a.into(), b, out, driver::NOTHING);
}

/// Adds `a * b` to `out`. The sums go on from what is there.
///
/// # Shapes
///
/// As [`multiply`].
///
/// # Panics
///
/// As [`multiply`].
pub fn multiply_add<'a>(a: impl Into<Left<'a>>, b: &PackedB, out: &mut [f32]) {
    let out = Output { rows: [out], continues: true, read: &[] };
    driver::run(a.into(), b, out, driver::NOTHING);
}

/// Writes `a * b + bias` into `out`.
///
/// # Shapes
///
/// As [`multiply`]; bias: `[cols]`
///
/// # Panics
///
/// As [`multiply`], or if there is not one bias per column.
pub fn multiply_bias<'a>(a: impl Into<Left<'a>>, b: &PackedB, bias: &[f32], out: &mut [f32]) {
    assert_eq!(bias.len(), b.cols(), "a product needs one bias per column");
    multiply_then(
        a,
        b,
        out,
        &[],
        #[inline(always)]
        |_, first_col, sums| add_bias(sums, &bias[first_col..]),
    );
}

/// Adds as many biases as there are sums.
#[inline(always)]
fn add_bias(sums: &mut [f32], bias: &[f32]) {
    stretch::combine(
        sums,
        bias,
        #[inline(always)]
        |sum, bias| sum + bias,
    );
}

/// Writes the GELU of `a * b + bias` into `out`, and its derivative there into `derivative`: both need the same Φ.
///
/// # Shapes
///
/// As [`multiply`]; bias: `[cols]`; derivative, out: `[rows, cols]`
///
/// # Panics
///
/// As [`multiply_bias`].
pub fn multiply_bias_gelu<'a>(
    a: impl Into<Left<'a>>,
    b: &PackedB,
    bias: &[f32],
    form: GeluForm,
    derivative: &mut [f32],
    out: &mut [f32],
) {
    assert_eq!(bias.len(), b.cols(), "a product needs one bias per column");
    let output = Output { rows: [derivative, out], continues: false, read: &[] };
    driver::run(
        a.into(),
        b,
        output,
        Some(
            #[inline(always)]
            |_, first_col, [sums, out]: [&mut [f32]; 2]| form.finish(sums, &bias[first_col..], out),
        ),
    );
}

/// Writes `a * b` into `out` and passes each finished stretch of a row to `finish(row, first_col, values)`, which
/// may change it. A stretch is at most as wide as a tile and still in the first cache, and so are the values of `read` at
/// the same places, if `finish` reads there.
///
/// # Shapes
///
/// As [`multiply`]; read: `[rows, cols]`, or empty
///
/// # Panics
///
/// As [`multiply`].
pub fn multiply_then<'a>(
    a: impl Into<Left<'a>>,
    b: &PackedB,
    out: &mut [f32],
    read: &[f32],
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let out = Output { rows: [out], continues: false, read };
    driver::run(
        a.into(),
        b,
        out,
        Some(
            #[inline(always)]
            |row, first_col, [values]: [&mut [f32]; 1]| finish(row, first_col, values),
        ),
    );
}

/// Returns the nearest bf16 (ties to even) as f32; a NaN stays one.
#[must_use]
#[inline(always)]
pub fn round_to_bf16(value: f32) -> f32 {
    f32::from_bits(cast::bf16_in_upper_half(value))
}

/// The same results by the plainest loops.
pub mod reference {
    /// Returns `a * b`, summed in f64.
    ///
    /// # Shapes
    ///
    /// - a: `[rows, depth]`; b: `[depth, cols]`; result: `[rows, cols]`
    #[must_use]
    pub fn multiply(a: &[f32], b: &[f32], [rows, depth, cols]: [usize; 3]) -> Vec<f64> {
        let mut out = vec![0.0; rows * cols];
        for i in 0..rows {
            for j in 0..cols {
                let product = |k: usize| f64::from(a[i * depth + k]) * f64::from(b[k * cols + j]);
                out[i * cols + j] = (0..depth).map(product).sum();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
