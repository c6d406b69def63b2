//! Ranks: communicators, the communication thread, fixed-order reduction, agreement.
//!
//! - [`World`], [`slots_of_rank`]: who does what, as pure arithmetic.
//! - [`SlotTree`], [`rank_tree_sum`]: the one order in which gradients are added.
//! - [`Wire`]: the form of gradients between ranks.
//! - [`BucketPlan`]: how a bucket is cut into blocks (for norms) and slices (for ranks).
//! - [`Communicator`]: collectives between ranks: [`SoloCommunicator`], [`ThreadCommunicator`] and,
//!   with the feature `mpi`, `MpiCommunicator`.
//! - [`Coordinator`]: one communication thread per rank, and the training thread's handle on it.
//!
//! This crate knows no tensor, no file, no environment variable and no terminal; it reads a clock
//! only to end a wait. Its only `unsafe` code is behind the feature `mpi`, in `comm/mpi_ffi.rs`.

mod abort;
mod agree;
mod bucket;
mod comm;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod coordinator;
mod error;
mod fingerprint;
mod launcher;
mod progress;
mod slot_tree;
mod wire;
mod worker;
mod world;

pub use abort::AbortHandle;
pub use agree::Failure;
pub use bucket::{Block, BucketPlan, NORM_BLOCK_LEN};
#[cfg(feature = "mpi")]
pub use comm::MpiCommunicator;
pub use comm::{
    CommError, Communicator, Exchanged, SlicesKind, SoloCommunicator, ThreadCommunicator, Upcoming,
};
pub use coordinator::{Coordinator, CoordinatorOptions, Launch, ReducedSlice};
pub use error::{CoordinatorError, exit_code};
pub use launcher::{LauncherInfo, detect_launcher};
pub use progress::Pulse;
pub use slot_tree::{SlotTree, rank_tree_sum};
pub use wire::{Wire, from_bf16, to_bf16};
pub use world::{PlanError, World, slots_of_rank, sums_like_one_rank};
