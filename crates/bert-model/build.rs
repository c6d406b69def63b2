//! Tells the programs and tests of a crate where libtorch lies, so that they run without environment variables.
//!
//! Shared by every crate that links one. Without the feature `libtorch` it does nothing.

use std::{env, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=../bert-model/build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if env::var_os("CARGO_FEATURE_LIBTORCH").is_none() {
        return;
    }
    // .cargo/config.toml sets it; cargo makes it absolute there, a user may not.
    let Some(folder) = env::var_os("LIBTORCH") else { return };
    match Path::new(&folder).join("lib").canonicalize() {
        Ok(libraries) => println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libraries.display()),
        Err(error) => println!(
            "cargo::error=no libtorch in `{}` ({error}); run launch/setup.sh --libtorch, or set LIBTORCH to the folder \
             of a libtorch 2.9.0",
            Path::new(&folder).display()
        ),
    }
}
