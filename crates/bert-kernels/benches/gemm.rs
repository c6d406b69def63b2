//! Speed of matrix products, as a share of what the same instruction reaches in registers in the same run.
//!
//! `cargo bench -p bert-kernels --bench gemm [-- f32|bf16]`. One thread; best of several repetitions, because
//! other work on the machine only ever makes them slower. Packing is timed apart from multiplying.

use bert_kernels::gemm::{self, Matrix, PackedA, PackedB, Path, Precision};
use std::hint::black_box;
use std::time::Instant;

const REPETITIONS: usize = 25;

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread starts");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.iter().all(|arg| arg.starts_with("--") || arg == name);
    pool.install(|| {
        for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            if is_wanted(name) {
                report(precision);
            }
        }
    });
}

fn report(precision: Precision) {
    let peak = peak(precision.path());
    println!("{}: peak {peak:.1} GF/s", precision.path());
    println!("rows x cols x depth       GF/s  share | with packing NN    NT    TN  share");
    for shape in [
        [1024, 2048, 512],
        [1024, 512, 2048],
        [1024, 1536, 512],
        [1024, 512, 512],
        [512, 512, 1024],
        [153, 21128, 512],
        [153, 512, 21128],
        [21128, 512, 153],
    ] {
        let rates = measure(precision, shape);
        let share = |rate: f64| 100.0 * rate / peak;
        println!(
            "{:>5} x {:>5} x {:>5}    {:6.1}  {:4.0} % |      {:6.1} {:5.1} {:5.1}  {:3.0} %",
            shape[0],
            shape[1],
            shape[2],
            rates[0],
            share(rates[0]),
            rates[1],
            rates[2],
            rates[3],
            share(rates[1]),
        );
    }
}

fn peak(path: Path) -> f64 {
    (0..1000).map(|_| timed(|| path.multiply_in_registers(black_box(5000)) as f64)).fold(0.0, f64::max)
}

/// Returns 10^9 operations per second of `work`, which returns how many it did.
fn timed(work: impl FnOnce() -> f64) -> f64 {
    let start = Instant::now();
    let operations = work();
    operations / start.elapsed().as_secs_f64() / 1e9
}

/// Returns the best rates of multiplying alone, and of packing and multiplying in three orientations.
fn measure(precision: Precision, [rows, cols, depth]: [usize; 3]) -> [f64; 4] {
    let operations = 2.0 * rows as f64 * cols as f64 * depth as f64;
    let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect() };
    let (left, right) = (values(rows * depth), values(depth * cols));
    let mut out = vec![0.0; rows * cols];
    let (mut a, mut b) = (PackedA::new(precision), PackedB::new(precision));
    let mut best = [0.0_f64; 4];
    for _ in 0..REPETITIONS {
        for (best, (a_turned, b_turned)) in
            best[1..].iter_mut().zip([(false, false), (false, true), (true, false)])
        {
            let rate = timed(|| {
                a.pack(oriented(&left, [rows, depth], a_turned));
                b.pack(oriented(&right, [depth, cols], b_turned));
                gemm::multiply(&a, &b, &mut out);
                operations
            });
            *best = best.max(rate);
        }
        let rate = timed(|| {
            gemm::multiply(&a, &b, &mut out);
            operations
        });
        best[0] = best[0].max(rate);
        black_box(&out);
    }
    best
}

fn oriented(values: &[f32], [rows, cols]: [usize; 2], turned: bool) -> Matrix<'_> {
    if turned { Matrix::new(values, cols, rows).transposed() } else { Matrix::new(values, rows, cols) }
}
