//! Tests that start one process at a time.

#[path = "../support/mod.rs"]
mod support;

mod command_line;
mod refusals;
