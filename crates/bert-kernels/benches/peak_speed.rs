//! What the cores can multiply at most, for `cargo xtask bench train`: `peak_speed f32 2 1024 2048 512`.
//!
//! Every thread works on its own: once in registers only, and once on a product of packed operands that are its
//! own. The two take turns, and the threads begin each turn together. The best turn is the one that others disturbed
//! least; all turns together say what was usual meanwhile. Prints one JSON line with 10^9 operations per second of all threads, turn
//! by turn, in the running time of each: waiting for a core that others use does not make the peak smaller.

#![expect(clippy::print_stdout, reason = "a benchmark reports by printing")]

mod timing;

use std::{hint::black_box, sync::Barrier, thread};

use bert_kernels::gemm::{self, Matrix, PackedA, PackedB, Path, Precision};
use timing::rate;

/// About three seconds: a core whose other half is used by somebody else now and then is seen in both states.
const NUM_TURNS: usize = 12;
/// About a hundredth of a second.
const ROUNDS_IN_REGISTERS: usize = 1_000_000;

/// `PRECISION THREADS ROWS COLS DEPTH`.
struct Task {
    path: Path,
    num_threads: usize,
    shape: [usize; 3],
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some(task) = Task::parse(&words) else {
        println!("expected: (f32|bf16) THREADS ROWS COLS DEPTH, got {words:?}");
        return;
    };
    let barrier = Barrier::new(task.num_threads);
    let rates: Vec<[Vec<f64>; 2]> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..task.num_threads).map(|_| scope.spawn(|| alone(|| measure(&task, &barrier)))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a measuring thread ends")).collect()
    });
    let [registers, product] = [0, 1].map(|kind| sums(&rates, kind));
    let path = task.path;
    println!(r#"{{"path": "{path}", "registers": {registers:.2?}, "product": {product:.2?}}}"#);
}

impl Task {
    fn parse(words: &[String]) -> Option<Self> {
        let [precision, num_threads, rows, cols, depth] = words else { return None };
        let precision = match precision.as_str() {
            "f32" => Precision::F32,
            "bf16" => Precision::Bf16,
            _ => return None,
        };
        let number = |word: &String| word.parse::<usize>().ok().filter(|number| *number > 0);
        Some(Self {
            path: precision.path(),
            num_threads: number(num_threads)?,
            shape: [number(rows)?, number(cols)?, number(depth)?],
        })
    }
}

/// Runs `work` in a pool of one thread, so that products stay on it.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread starts");
    pool.install(work)
}

/// Rates of one thread by turn: in registers, and of the product.
fn measure(task: &Task, barrier: &Barrier) -> [Vec<f64>; 2] {
    let [rows, cols, depth] = task.shape;
    let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect() };
    let (mut a, mut b) = (PackedA::for_path(task.path), PackedB::for_path(task.path));
    a.pack(Matrix::new(&values(rows * depth), rows, depth));
    b.pack(Matrix::new(&values(depth * cols), depth, cols));
    let mut out = vec![0.0; rows * cols];
    let mut rates: [Vec<f64>; 2] = Default::default();
    for _ in 0..NUM_TURNS {
        barrier.wait();
        rates[0].push(rate(|| task.path.multiply_in_registers(black_box(ROUNDS_IN_REGISTERS))));
        barrier.wait();
        rates[1].push(rate(|| {
            gemm::multiply(&a, &b, &mut out);
            black_box(&out);
            2 * rows * cols * depth
        }));
    }
    rates
}

/// The sum over the threads, turn by turn.
fn sums(rates: &[[Vec<f64>; 2]], kind: usize) -> Vec<f64> {
    (0..NUM_TURNS).map(|turn| rates.iter().map(|rates| rates[kind][turn]).sum()).collect()
}
