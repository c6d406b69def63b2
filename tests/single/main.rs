//! Tests that start one process at a time.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

#[path = "../support/mod.rs"]
mod support;

mod classify;
mod command_line;
mod continuation;
mod faults;
mod lineage;
mod reference;
mod refusals;
mod saves;
mod shards;
