//! Speed of matrix products, as a share of what the same instruction reaches in registers in the same run.
//!
//! `cargo bench -p bert-kernels --bench gemm [-- all]`: the paths that this processor takes, or all that it has.
//! One thread. Where Linux says how long this thread has run, waiting for a busy processor does not count. Peak and
//! products take turns, and the best of each counts, because other work on the machine only ever makes them slower.

#![expect(clippy::print_stdout, reason = "a benchmark reports by printing")]

use bert_kernels::gemm::{self, Matrix, PackedA, PackedB, Path, Precision};
use std::hint::black_box;
use std::time::Instant;

const REPETITIONS: usize = 8;

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
        "  rows x  cols x depth    peak | multiply  share | with packing NN       NT       TN   (GF/s, share)"
    );
    for shape in SHAPES {
        let rates = measure(path, shape);
        let share = |i: usize| format!("{:6.1} {:2.0} %", rates[i], 100.0 * rates[i] / rates[0]);
        let [rows, cols, depth] = shape;
        println!(
            " {rows:>5} x {cols:>5} x {depth:>5}  {:6.1} | {}     |  {}  {}  {}",
            rates[0],
            share(1),
            share(2),
            share(3),
            share(4),
        );
    }
}

/// Returns 10^9 operations per second of `work`, which returns how many it did.
fn timed(work: impl FnOnce() -> usize) -> f64 {
    let (start, start_on_processor) = (Instant::now(), seconds_on_processor());
    let operations = work();
    let on_processor = seconds_on_processor().zip(start_on_processor).map(|(end, start)| end - start);
    operations as f64 / on_processor.unwrap_or_else(|| start.elapsed().as_secs_f64()) / 1e9
}

/// Returns how long this thread has run, where the system says so.
fn seconds_on_processor() -> Option<f64> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(times.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

/// Returns the best rates of registers, of multiplying alone, and of packing and multiplying in three orientations.
fn measure(path: Path, [rows, cols, depth]: [usize; 3]) -> [f64; 5] {
    let operations = 2 * rows * cols * depth;
    let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect() };
    let (left, right) = (values(rows * depth), values(depth * cols));
    let mut out = vec![0.0; rows * cols];
    let (mut a, mut b) = (PackedA::for_path(path), PackedB::for_path(path));
    let mut best = [0.0_f64; 5];
    let mut note = |i: usize, rate: f64| best[i] = best[i].max(rate);
    for _ in 0..REPETITIONS {
        for (i, (a_turned, b_turned)) in
            [(false, false), (false, true), (true, false)].into_iter().enumerate()
        {
            for _ in 0..4 {
                note(0, timed(|| path.multiply_in_registers(black_box(20_000))));
            }
            let rate = timed(|| {
                a.pack(oriented(&left, [rows, depth], a_turned));
                b.pack(oriented(&right, [depth, cols], b_turned));
                gemm::multiply(&a, &b, &mut out);
                operations
            });
            note(2 + i, rate);
            let rate = timed(|| {
                gemm::multiply(&a, &b, &mut out);
                operations
            });
            note(1, rate);
            black_box(&out);
        }
    }
    best
}

fn oriented(values: &[f32], [rows, cols]: [usize; 2], turned: bool) -> Matrix<'_> {
    if turned { Matrix::new(values, cols, rows).transposed() } else { Matrix::new(values, rows, cols) }
}
