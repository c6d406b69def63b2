//! Time of the kernels around the matrix products of a training step, for 8 rows of 128 tokens and 2 of 512.
//!
//! `cargo bench -p bert-kernels --bench kernels [-- attention | head | element]`. One thread, medians; where a kernel multiplies, its share of what
//! the same instruction reaches in registers in the same run.
#![expect(clippy::print_stdout, reason = "a benchmark reports by printing")]

mod timing;

use bert_kernels::attention::{self, Attention, Inputs};
use bert_kernels::dropout::Dropout;
use bert_kernels::gelu::{self, GeluForm};
use bert_kernels::gemm::Precision;
use bert_kernels::mlm_head::{MlmGradients, MlmHead};
use bert_kernels::residual::{self, Gradients, ResidualNorm, Saved};
use std::hint::black_box;

const REPETITIONS: usize = 5;
const HIDDEN: usize = 512;
const HEADS: usize = 8;
const DROPOUT: Option<Dropout> = Some(Dropout { key_bits: 7, probability: 0.1 });

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread starts");
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|arg| arg == name);
    pool.install(|| {
        for precision in [Precision::F32, Precision::Bf16] {
            println!("{}", precision.path());
            let peak = median(|| precision.path().multiply_in_registers(black_box(100_000)));
            println!("peak {peak:.1} GF/s");
            if wanted("attention") {
                attention(precision, peak, 8, 128);
                attention(precision, peak, 2, 512);
            }
            if wanted("head") {
                head(precision, peak);
            }
        }
        if wanted("element") {
            element_wise();
        }
    });
}

/// Returns the median rate of `work`, in 10^9 of what it returns per second.
fn median(mut work: impl FnMut() -> usize) -> f64 {
    let mut rates: Vec<f64> = (0..REPETITIONS).map(|_| timing::rate(&mut work)).collect();
    rates.sort_by(f64::total_cmp);
    rates[REPETITIONS / 2]
}

fn report(name: &str, operations: usize, peak: f64, work: impl FnMut()) {
    let mut work = work;
    let rate = median(|| {
        work();
        operations
    });
    let milliseconds = operations as f64 / rate / 1e6;
    println!("{name:<32} {milliseconds:8.2} ms  {rate:6.1} GF/s  {:3.0} %", 100.0 * rate / peak);
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 31 % 251) as f32 / 251.0 - 0.5).collect()
}

fn attention(precision: Precision, peak: f64, num_rows: usize, row_len: usize) {
    let offsets: Vec<usize> = (0..=num_rows).map(|row| row * row_len).collect();
    let head_size = HIDDEN / HEADS;
    let places: Vec<usize> = (0..num_rows * row_len).collect();
    let attention = Attention {
        offsets: &offsets,
        query_offsets: &offsets,
        query_places: &places,
        num_heads: HEADS,
        head_size,
        padded_len: row_len,
        precision,
        dropout: DROPOUT,
    };
    let num_tokens = num_rows * row_len;
    let (queries, keys_values) = (values(num_tokens * HIDDEN), values(2 * num_tokens * HIDDEN));
    let inputs = Inputs { queries: &queries, keys_values: &keys_values };
    let (grad_context, mut context) = (values(num_tokens * HIDDEN), vec![0.0; num_tokens * HIDDEN]);
    let (mut grad_queries, mut grad_keys_values) = (queries.clone(), keys_values.clone());
    let mut statistics = vec![0.0; num_tokens * HEADS * 2];
    let product = 2 * num_tokens * row_len * HIDDEN;
    report(&format!("attention {num_rows} x {row_len} forward"), 2 * product, peak, || {
        attention::forward(attention, inputs, &mut context, &mut statistics);
    });
    report(&format!("attention {num_rows} x {row_len} backward"), 5 * product, peak, || {
        let gradients =
            attention::Gradients { queries: &mut grad_queries, keys_values: &mut grad_keys_values };
        attention::backward(attention, inputs, &statistics, &grad_context, gradients);
    });
}

fn head(precision: Precision, peak: f64) {
    let (num_masked, vocab_size) = (153, 21128);
    let (hidden, table, bias) =
        (values(num_masked * HIDDEN), values(vocab_size * HIDDEN), values(vocab_size));
    let labels: Vec<u32> = (0..num_masked as u32).map(|i| i * 97).collect();
    let mut gradients = (vec![0.0; hidden.len()], vec![0.0; table.len()], vec![0.0; vocab_size]);
    let mut head = MlmHead::new(precision);
    report("MLM head, forward and backward", 6 * num_masked * vocab_size * HIDDEN, peak, || {
        let (hidden_grad, table_grad, bias_grad) = (&mut gradients.0, &mut gradients.1, &mut gradients.2);
        let out = MlmGradients { hidden: hidden_grad, table: table_grad, bias: bias_grad };
        black_box(head.train(&table, &hidden, &bias, &labels, 1e-3, out));
    });
}

fn element_wise() {
    println!("element-wise, 10^9 elements per second in place of GF/s");
    let x = values(1024 * 2048);
    let mut out = vec![0.0; x.len()];
    for form in [GeluForm::Erf, GeluForm::Tanh] {
        report(&format!("GELU {form:?} forward"), x.len(), f64::INFINITY, || {
            gelu::forward(form, &x, &mut out)
        });
        report(&format!("copy, GELU {form:?} backward"), x.len(), f64::INFINITY, || {
            out.copy_from_slice(&x); // without it gradients would shrink from run to run to slow subnormal numbers
            gelu::backward(form, &x, &mut out);
        });
    }
    let num_rows = 1024;
    let places: Vec<usize> = (0..num_rows).collect();
    let (bias, gamma, beta) = (values(HIDDEN), values(HIDDEN), values(HIDDEN));
    let norm = ResidualNorm {
        bias: &bias,
        gamma: &gamma,
        beta: &beta,
        eps: 1e-12,
        dropout: DROPOUT,
        places: &places,
    };
    let len = num_rows * HIDDEN;
    let (input, mut sum, mut out) = (values(len), values(len), vec![0.0; len]);
    let (mut mean, mut rstd) = (vec![0.0; num_rows], vec![0.0; num_rows]);
    report("bias dropout residual LN forward", len, f64::INFINITY, || {
        residual::forward(norm, &input, &mut sum, &mut out, &mut mean, &mut rstd);
    });
    let (mut grad_residual, mut grad_x) = (vec![0.0; len], vec![0.0; len]);
    let (mut grad_bias, mut grad_gamma, mut grad_beta) =
        (vec![0.0; HIDDEN], vec![0.0; HIDDEN], vec![0.0; HIDDEN]);
    report("bias dropout residual LN backward", len, f64::INFINITY, || {
        let saved = Saved { sum: &sum, mean: &mean, rstd: &rstd };
        let gradients = Gradients { bias: &mut grad_bias, gamma: &mut grad_gamma, beta: &mut grad_beta };
        residual::backward(norm, saved, &input, &mut grad_residual, &mut grad_x, gradients);
    });
}
