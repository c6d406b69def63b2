//! Trains BERT: joins model, data and ranks.
//!
//! - [`config`], [`cli`]: what the user asks for.
//! - [`launch`]: from there to a session on every rank; [`device`]: the backend; [`session`]: the course of a run.
//! - [`step`]: one optimization step, on one screen; [`trainer`], [`optimizer`], [`schedule`], [`verdict`],
//!   [`control`], [`phase`], [`figures`]: its parts. [`task`]: what differs between pre-training and classification.
//! - [`run_dir`], [`run_lock`]: the folder of a run, for one start at a time. [`checkpoint`], [`saver`]: complete or not there. [`eval`], [`metrics`], [`class_metrics`], [`report`],
//!   [`screen`], [`stragglers`]: what is told. [`lineage`]: where the first weights come from.
//! - [`fault`]: what goes wrong on request; [`diagnosis`], [`arrival`], [`peers`], [`failure_record`]: what is said when something does.
//!
//! This crate owns files, clock, signals and messages. It knows no MPI call (bert-coordinator), no tensor operation
//! (bert-model) and no text (bert-data). Only its binary prints and exits.

pub mod arrival;
mod block_norms;
pub mod checkpoint;
pub mod class_metrics;
pub mod cli;
pub mod config;
pub mod control;
pub mod data_settings;
mod debug_checks;
pub mod device;
pub mod diagnosis;
pub mod dry_run;
pub mod error;
pub mod eval;
pub mod failure_record;
pub mod fault;
pub mod figures;
mod initial_weights;
mod lamb;
pub mod launch;
pub mod lineage;
pub mod machine;
pub mod metrics;
pub mod optimizer;
pub mod peers;
pub mod phase;
pub mod ranks;
pub mod report;
pub mod run_dir;
pub mod run_lock;
pub mod saver;
pub mod schedule;
pub mod screen;
pub mod session;
pub mod setup;
mod shard_building;
pub mod signals;
pub mod step;
pub mod stragglers;
pub mod task;
pub mod terminal;
pub mod trainer;
pub mod verdict;
