//! Tests that start one process at a time.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

#[path = "../support/mod.rs"]
mod support;

mod command_line;
mod continuation;
mod reference;
mod refusals;
