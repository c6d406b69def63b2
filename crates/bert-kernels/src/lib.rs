//! Training kernels on plain slices: matrix products, attention, LayerNorm and what is fused with it, GELU, the MLM
//! head with its loss, dropout, AdamW, LAMB, sums and norms.
//!
//! Slices in, slices out. Nothing here knows burn, files, ranks or clocks. Each kernel stands beside its plain scalar
//! `reference`, which is what its tests compare it with.
//!
//! Results never depend on the number of threads. Element-wise work is split anywhere, sums run over a fixed number
//! of lanes in a fixed order, and Rust never fuses a multiplication with an addition on its own, so that those
//! do not depend on the vector width either. Matrix products fuse where the processor can: see [`gemm::Path`].
//! Threads come from the rayon pool of the caller.

pub mod adamw;
pub mod attention;
pub mod dropout;
pub mod embeddings;
pub mod gelu;
pub mod gemm;
pub mod huge_pages;
pub mod lamb;
mod lanes;
pub mod layer_norm;
pub mod math;
pub mod mlm_head;
pub mod residual;
mod simd;
pub mod slices;
pub mod stretch;
mod threads;

pub use simd::widest;
pub use threads::among_threads;
