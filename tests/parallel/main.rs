//! Tests that start several processes under mpirun.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

#[path = "../support/mod.rs"]
mod support;

mod classify;
mod equality;
mod faults;
mod refusals;
mod resume;
mod saves;
mod slurm;
