//! Speed of matrix products, as a share of what the same instruction reaches in registers in the same run.
//!
//! `cargo bench -p bert-kernels --bench gemm [-- all]`: the paths that this processor takes, or all that it has.
//! One thread. Peak and products take turns, and the median of each counts.

#![expect(clippy::print_stdout, reason = "a benchmark reports by printing")]

mod timing;

use bert_kernels::gemm::{self, LeftScratch, Matrix, PackedA, PackedB, Path, Precision};
use std::hint::black_box;
use timing::rate;

const REPETITIONS: usize = 3;

/// Rows, columns, depth.
const SHAPES: [[usize; 3]; 8] = [
    [1024, 2048, 512],
    [1024, 512, 2048],
    [1024, 1536, 512],
    [1024, 512, 512],
    [512, 512, 1024],
    [153, 21128, 512],
    [153, 512, 21128],
    [21128, 512, 153],
];

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread starts");
    let all = std::env::args().any(|arg| arg == "all");
    let paths = if all { Path::all() } else { vec![Precision::F32.path(), Precision::Bf16.path()] };
    pool.install(|| paths.into_iter().for_each(report));
}

fn report(path: Path) {
    println!("{path}");
    println!(
        "  rows x  cols x depth    peak | multiply  share | with packing NN       NT       TN | left in place   (GF/s, share)"
    );
    for shape in SHAPES {
        let rates = measure(path, shape);
        let share = |i: usize| format!("{:6.1} {:2.0} %", rates[i], 100.0 * rates[i] / rates[0]);
        let [rows, cols, depth] = shape;
        println!(
            " {rows:>5} x {cols:>5} x {depth:>5}  {:6.1} | {}     |  {}  {}  {} | {}",
            rates[0],
            share(1),
            share(2),
            share(3),
            share(4),
            share(5),
        );
    }
}

/// Returns the rates of registers, of multiplying alone, and of packing and multiplying in three orientations,
/// and of multiplying a left operand that is not packed with a right one that is.
fn measure(path: Path, [rows, cols, depth]: [usize; 3]) -> [f64; 6] {
    let operations = 2 * rows * cols * depth;
    let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect() };
    let (left, right) = (values(rows * depth), values(depth * cols));
    let mut out = vec![0.0; rows * cols];
    let (mut a, mut b) = (PackedA::for_path(path), PackedB::for_path(path));
    let mut left_scratch = LeftScratch::for_path(path);
    let mut rates: [Vec<f64>; 6] = Default::default();
    for _ in 0..REPETITIONS {
        rates[0].push(rate(|| path.multiply_in_registers(black_box(100_000))));
        for (i, (a_turned, b_turned)) in
            [(false, false), (false, true), (true, false)].into_iter().enumerate()
        {
            rates[2 + i].push(rate(|| {
                a.pack(oriented(&left, [rows, depth], a_turned));
                b.pack(oriented(&right, [depth, cols], b_turned));
                gemm::multiply(&a, &b, &mut out);
                operations
            }));
        }
        rates[1].push(rate(|| {
            gemm::multiply(&a, &b, &mut out);
            operations
        }));
        rates[5].push(rate(|| {
            let left = Matrix::new(&left, rows, depth);
            gemm::multiply(left_scratch.take(left, false), &b, &mut out);
            operations
        }));
        black_box(&out);
    }
    rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[REPETITIONS / 2]
    })
}

fn oriented(values: &[f32], [rows, cols]: [usize; 2], turned: bool) -> Matrix<'_> {
    if turned { Matrix::new(values, cols, rows).transposed() } else { Matrix::new(values, rows, cols) }
}
