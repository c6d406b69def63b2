//! Other systems' results, bit for bit: proof that their semantics are understood. Nothing here trains a model.

pub mod google;
mod mt19937;

pub use mt19937::PythonRandom;
