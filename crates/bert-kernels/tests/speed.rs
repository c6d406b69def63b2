//! The largest products of a training step keep their speed.
//!
//! Never compares with a time: the bound is a share of what the same instruction reaches in registers, on the same
//! core, a tenth of a second before. Both are measured in the running time of their thread, so that waiting for a
//! busy core does not count, and the best of several attempts decides, so that a disturbed one does not.

#[path = "../benches/timing/mod.rs"]
mod timing;

use bert_kernels::gemm::{self, Matrix, PackedA, PackedB, Path, Precision};
use std::hint::black_box;
use timing::rate;

/// Undisturbed, the products below reach 0.8 to 0.95, and 0.6 beside eight programs that multiply or copy memory. A
/// blocking that misses its cache or a kernel that spills its sums falls below a half.
const FLOOR: f64 = 0.5;
const NUM_ATTEMPTS: usize = 8;

/// Rows, columns, depth for BERT-Small, 8 x 128 tokens: both halves of the feed-forward layer and the decoder of the
/// masked tokens, which are three quarters of a step.
const SHAPES: [[usize; 3]; 3] = [[1024, 2048, 512], [1024, 512, 2048], [153, 21128, 512]];

#[test]
fn products_reach_half_of_what_registers_reach() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        for path in [Precision::F32.path(), Precision::Bf16.path()] {
            for shape in SHAPES {
                let share = best_share(path, shape);
                assert!(share >= FLOOR, "{path}: {shape:?} reaches {share:.2} of the peak, expected {FLOOR}");
            }
        }
    });
}

#[test]
fn the_fastest_instruction_is_chosen() {
    for precision in [Precision::F32, Precision::Bf16] {
        let chosen = precision.path();
        let is_alike = |path: &Path| path.to_string().starts_with("f32") == (precision == Precision::F32);
        for other in Path::all().into_iter().filter(|path| *path != chosen).filter(is_alike) {
            let peak = |path: Path| rate(|| path.multiply_in_registers(black_box(100_000)));
            let mut shares = (0..NUM_ATTEMPTS).map(|_| peak(chosen) / peak(other));
            assert!(shares.any(|share| share >= FLOOR), "{other} is faster than {chosen}");
        }
    }
}

/// The best share of the peak, of as few attempts as it takes to reach the floor.
fn best_share(path: Path, [rows, cols, depth]: [usize; 3]) -> f64 {
    let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect() };
    let (mut a, mut b) = (PackedA::for_path(path), PackedB::for_path(path));
    a.pack(Matrix::new(&values(rows * depth), rows, depth));
    b.pack(Matrix::new(&values(depth * cols), depth, cols));
    let mut out = vec![0.0; rows * cols];
    let mut best = 0.0_f64;
    for _ in 0..NUM_ATTEMPTS {
        let peak = rate(|| path.multiply_in_registers(black_box(100_000)));
        let product = rate(|| {
            gemm::multiply(&a, &b, &mut out);
            black_box(&out);
            2 * rows * cols * depth
        });
        best = best.max(product / peak);
        if best >= FLOOR {
            break;
        }
    }
    best
}
