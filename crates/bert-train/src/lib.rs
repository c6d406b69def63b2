//! Pre-trains BERT: joins model, data and ranks.
//!
//! - [`config`], [`cli`]: what the user asks for.
//! - [`launch`]: from there to a session on every rank; [`device`]: the backend; [`session`]: the course of a run.
//! - [`step`]: one optimization step, on one screen; [`trainer`], [`optimizer`], [`schedule`], [`verdict`],
//!   [`control`], [`phase`]: its parts.
//! - [`checkpoint`], [`saver`]: complete or not there. [`eval`], [`metrics`], [`report`], [`screen`]: what is told.
//!
//! This crate owns files, clock, signals and messages. It knows no MPI call (bert-coordinator), no tensor operation
//! (bert-model) and no text (bert-data). Only its binary prints and exits.

pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod control;
pub mod data_settings;
pub mod device;
pub mod dry_run;
pub mod error;
pub mod eval;
pub mod failure_record;
mod lamb;
pub mod launch;
pub mod machine;
pub mod metrics;
pub mod optimizer;
pub mod phase;
pub mod ranks;
pub mod report;
pub mod run_dir;
pub mod saver;
pub mod schedule;
pub mod screen;
pub mod session;
pub mod setup;
pub mod signals;
pub mod step;
pub mod terminal;
pub mod trainer;
pub mod verdict;
