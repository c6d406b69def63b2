//! Tests that start several processes under mpirun.

#[path = "../support/mod.rs"]
mod support;

mod equality;
mod refusals;
mod resume;
