//! Reasons why a model refuses to be built or to run.

use crate::{backend::BackendKind, config::ConfigError};

/// Reasons why a model refuses to be built or to run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The configuration describes no BERT.
    #[error("failed to build the model: its configuration is not valid")]
    Config(#[from] ConfigError),
    /// A batch does not fit the model or contradicts itself.
    #[error("batch.{field}: expected {expected}, got {got}")]
    Batch {
        /// Field of [`PretrainBatch`](crate::PretrainBatch).
        field: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was given.
        got: String,
    },
    /// Values handed over for a bucket do not fill it.
    #[error("bucket `{bucket}`: expected {expected} values, got {got}")]
    BucketLen {
        /// Name of the bucket.
        bucket: String,
        /// Its size.
        expected: usize,
        /// Number of values given.
        got: usize,
    },
    /// A backend that this program was built without.
    #[error("backend {backend}: not compiled in; {}", .backend.how_to_build())]
    NotCompiledIn {
        /// The backend asked for.
        backend: BackendKind,
    },
    /// A CUDA device that is not there.
    #[error(
        "CUDA device {device_idx}: libtorch sees {num_devices} devices; expected one for each rank of this machine and \
         a libtorch with CUDA, named by LIBTORCH when building"
    )]
    NoDevice {
        /// The device asked for.
        device_idx: usize,
        /// Devices that libtorch sees.
        num_devices: usize,
    },
    /// Whole stages as one operation, on tensors that are not in main memory.
    #[error("backend {backend}: fused stages need tensors in main memory; use composed stages there")]
    NotFused {
        /// The backend asked for.
        backend: BackendKind,
    },
    /// bf16 in composed stages.
    #[error("backend {backend}: bf16 needs fused stages, which need tensors in main memory; use f32 there")]
    ComposedBf16 {
        /// The backend asked for.
        backend: BackendKind,
    },
}
