//! The file parsers of this crate, each as a function of any bytes: what fuzzing calls, and the tests of its findings.
//!
//! An entry returns whatever the bytes are; it panics where a promise breaks: values that do not fit the layout, an
//! error that does not name its file, a file that changes when it is read and written. Built for tests and with
//! `--cfg fuzzing` only.

use std::{fs, path::Path};

use bert_random::{Key, Purpose};

use crate::{
    ParameterLayout,
    hf::{self, Allowed, CONFIG_FILE, ConfigFile, HfError, LoadedModel, PlainFiles, Source},
};

/// Reads bytes; the folder is for files of its own.
pub type Entry = fn(&Path, &[u8]);

/// Every entry with its name.
pub const ENTRIES: [(&str, Entry); 2] = [("weights", weights), ("model-config", model_config)];

/// The configuration that the golden weights fit.
const CONFIG: &[u8] = include_bytes!("../../tests/golden/tiny/config.json");
/// Weights of that configuration.
const WEIGHTS: &[u8] = include_bytes!("../../tests/golden/tiny/bf16.safetensors");

/// A file of tensors, under each name that one may have, with a configuration that says what must be in it.
fn weights(folder: &Path, bytes: &[u8]) {
    write(&folder.join(CONFIG_FILE), CONFIG);
    for name in ["weights.safetensors", "weights.bin", "weights.npz"] {
        let path = folder.join(name);
        write(&path, bytes);
        check_load(&Source::file(&path));
    }
}

/// A `config.json`, beside weights that fit one configuration only.
fn model_config(folder: &Path, bytes: &[u8]) {
    let (path, copy) = (folder.join(CONFIG_FILE), folder.join("written.json"));
    write(&path, bytes);
    write(&folder.join(hf::TENSOR_FILE), WEIGHTS);
    match ConfigFile::read(&path) {
        Ok(file) => {
            file.model().validate().expect("what is read is valid");
            file.write(&copy, &mut PlainFiles).expect("the folder can be written");
            let again = ConfigFile::read(&copy).expect("what is written can be read");
            assert_eq!(again.model(), file.model(), "nothing changes on the way");
        }
        Err(error) => check_names(&error, &path),
    }
    let tensors = folder.join(hf::TENSOR_FILE);
    check_load(&Source { config: path, tensors });
    // Refused or not: what matters is that it comes back.
    let _ = hf::load_classifier_config(folder);
}

/// Reads weights strictly and with leave for everything.
fn check_load(source: &Source) {
    match hf::load(source, &Allowed::NOTHING) {
        Ok(loaded) => {
            check_sizes(&loaded);
            assert!(loaded.initialised.is_empty() && loaded.left_out.is_empty(), "nothing was allowed");
        }
        Err(error) => check_error(&error, source),
    }
    let any = |_: &str| true;
    let allowed = Allowed { missing: &any, unexpected: &any, init_key: Some(Key::new(1, Purpose::Init)) };
    // Initial values of a large configuration are no lie: only small ones are asked for.
    let is_small =
        hf::ConfigFile::read(&source.config).is_ok_and(|file| file.model().num_parameters() < 1 << 20);
    if is_small {
        match hf::load(source, &allowed) {
            Ok(loaded) => check_sizes(&loaded),
            Err(error) => check_error(&error, source),
        }
    }
}

fn check_sizes(loaded: &LoadedModel) {
    let layout = ParameterLayout::new(loaded.config.model());
    let expected: Vec<_> = layout.buckets.iter().map(|bucket| bucket.num_elements).collect();
    assert_eq!(loaded.buckets.iter().map(Vec::len).collect::<Vec<_>>(), expected);
}

fn check_error(error: &HfError, source: &Source) {
    let message = error.to_string();
    let names = |path: &Path| message.contains(&path.display().to_string());
    assert!(names(&source.config) || names(&source.tensors), "an error without its file: {message}");
}

fn check_names(error: &HfError, path: &Path) {
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()), "an error without its file: {message}");
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("the folder can be written");
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The inputs kept for an entry, with their paths.
    fn inputs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let kept = [root.join("tests/fuzz_regressions").join(name), root.join("fuzz/seeds").join(name)];
        let golden = root.join("tests/golden/tiny");
        let folders = kept.into_iter().chain([golden]).filter(|folder| folder.is_dir());
        let paths =
            folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        paths.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }

    #[test]
    fn what_fuzzing_has_found_stays_fixed() {
        let folder = tempfile::tempdir().unwrap();
        for (name, entry) in ENTRIES {
            let inputs = inputs(name);
            assert!(inputs.len() > 8, "no seeds for `{name}`");
            for (path, bytes) in inputs {
                println!("{}", path.display());
                entry(folder.path(), &bytes);
            }
        }
    }
}
