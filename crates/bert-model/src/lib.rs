//! BERT on burn: stages with staged backward, initialisation, Hugging Face files.
//!
//! A model is a list of stages: embeddings, encoder layers, heads. [`PretrainModel`] runs them forward one by one
//! on detached boundaries and backward one by one, handing each stage's gradients to a [`GradientSink`] the moment
//! they are complete, so that a caller can reduce them over ranks while the next stage still computes.
//! [`ClassifyModel`] has the same stages with a classifier as the last one.
//!
//! # Shapes
//!
//! `num_rows` sequences with `num_tokens` real tokens in all; `hidden` the width of the residual stream, which is kept
//! as `[num_tokens, hidden]` throughout, without padding; `heads * head_size = hidden`. Linear weights are `[out, in]`.
//!
//! # What is not here
//!
//! No ranks, no clock, no generator state: dropout and initialisation are functions of a
//! [`Key`](bert_random::Key). Files are read and written in [`hf`] only. Results do not depend on the number of
//! threads: work is split by output, never by the summed dimension. (libtorch's own operations do as they like: there the
//! number of threads is part of what the bits depend on.)

mod backend;
mod batch;
mod classify;
mod compute;
mod config;
mod embeddings;
mod encoder;
mod error;
mod fused;
mod grow;
mod heads;
pub mod hf;
mod infer;
mod init;
mod layers;
mod layout;
mod loss;
mod ops;
mod parameters;
mod pooling;
mod pretrain;
mod rows;
mod sentence;
mod stages;
#[cfg(test)]
mod test_support;

pub use backend::BackendKind;
pub use batch::{ClassifyBatch, PretrainBatch, TokenBatch};
pub use bert_kernels::gemm::Precision;
pub use classify::{ClassLosses, ClassifierConfig, ClassifyModel};
pub use compute::{Compute, StageForm};
pub use config::{ConfigError, HiddenAct, ModelConfig};
pub use error::ModelError;
pub use grow::grow_vocabulary;
pub use init::{initial_bucket, initial_range};
pub use layout::{BucketLayout, ParameterLayout, ParameterSpec};
pub use loss::{BatchLosses, LossScale};
pub use pooling::Pooling;
pub use pretrain::PretrainModel;
pub use stages::GradientSink;
