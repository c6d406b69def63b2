//! The run folder: which file is where, and whether this folder may be used.
//!
//! Owns the paths below `runs/<name>/` and `run.json`. What is in a checkpoint is the business of
//! [`crate::checkpoint`].

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    config::{Config, fingerprint},
    error::TrainError,
    lineage::Ancestor,
};

/// Paths of a run.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

/// `run.json`: what produced this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of this program.
    pub version: String,
    /// Version line of the MPI library, or how the ranks are made without one.
    pub communicator: String,
    /// Ranks of the last start.
    pub num_ranks: usize,
    /// Whether any fitting number of ranks gives the bits of the last start.
    #[serde(default)]
    pub equal_for_any_num_ranks: bool,
    /// Compute threads per rank of the last start.
    pub threads_per_rank: usize,
    /// Backend of the tensors.
    pub backend: String,
    /// Fingerprint of the token shards.
    pub corpus_fingerprint: String,
    /// Fingerprint of the tokenizer.
    pub tokenizer_fingerprint: String,
    /// Hash over names, shapes and order of all parameters.
    pub layout_hash: String,
    /// Hash of the keys that change numbers.
    pub config_hash: String,
    /// Those keys.
    pub numeric_keys: Value,
    /// Where the first weights came from.
    pub init_from: String,
    /// Models that this one descends from, its parent first.
    #[serde(default)]
    pub lineage: Vec<Ancestor>,
}

impl RunDir {
    /// The folder at `root`; nothing is created.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `checkpoints/`
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// `run.lock`, held by rank 0.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("run.lock")
    }

    /// `ranks.lock`, shared by the other ranks.
    #[must_use]
    pub fn ranks_lock(&self) -> PathBuf {
        self.root.join("ranks.lock")
    }

    /// `metrics.jsonl`
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// `predictions-SET.jsonl`, by the best checkpoint.
    #[must_use]
    pub fn predictions(&self, set: &str) -> PathBuf {
        self.root.join(format!("predictions-{set}.jsonl"))
    }

    /// `logs/rank-N.jsonl`
    #[must_use]
    pub fn log(&self, rank: usize) -> PathBuf {
        self.root.join("logs").join(format!("rank-{rank}.jsonl"))
    }

    /// `errors/rank-N.json`
    #[must_use]
    pub fn error(&self, rank: usize) -> PathBuf {
        self.root.join("errors").join(format!("rank-{rank}.json"))
    }

    /// Creates the folder with its sub-folders.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] names the folder that cannot be made or written.
    pub fn create(&self) -> Result<(), TrainError> {
        for path in [self.root.clone(), self.checkpoints(), self.root.join("logs"), self.root.join("errors")]
        {
            fs::create_dir_all(&path).map_err(|source| TrainError::Io {
                step: "cannot create a folder of the run; check run.dir and its permissions",
                path,
                source,
            })?;
        }
        let probe = self.root.join(".writable");
        write_file(&probe, b"")?;
        fs::remove_file(&probe).map_err(|source| TrainError::Io {
            step: "cannot write into the run folder",
            path: probe,
            source,
        })
    }

    /// Compares the record of an earlier start, if there is one, with this configuration.
    ///
    /// # Errors
    ///
    /// [`TrainError::OtherRun`] names the keys that differ.
    pub fn check_same_run(&self, config: &Config) -> Result<(), TrainError> {
        let path = self.root.join("run.json");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let record: RunRecord = serde_json::from_str(&text).map_err(|error| {
            TrainError::Setup(format!(
                "`{}` is damaged ({error}); restore it or move the folder aside",
                path.display()
            ))
        })?;
        let here = fingerprint::numeric_keys(config).map_err(|error| TrainError::Setup(error.to_string()))?;
        let differences = fingerprint::differences(&record.numeric_keys, &here);
        if differences.is_empty() {
            return Ok(());
        }
        Err(TrainError::OtherRun { path: self.root.clone(), differences: differences.join("; ") })
    }

    /// Writes `config.toml` and `run.json`.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`].
    pub fn write_record(&self, config: &Config, record: &RunRecord) -> Result<(), TrainError> {
        let text = toml::to_string(config)
            .map_err(|error| TrainError::Setup(format!("the configuration cannot be written: {error}")))?;
        write_file(&self.root.join("config.toml"), text.as_bytes())?;
        let json =
            serde_json::to_string_pretty(record).map_err(|error| TrainError::Setup(error.to_string()))?;
        write_file(&self.root.join("run.json"), json.as_bytes())
    }
}

/// Writes a whole file through a sibling and a rename, so that it is never seen half-written.
///
/// # Errors
///
/// [`TrainError::Io`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let io_error = |source| TrainError::Io { step: "cannot write", path: path.to_path_buf(), source };
    let mut sibling = path.as_os_str().to_owned();
    sibling.push(".new");
    let mut file = File::create(&sibling).map_err(io_error)?;
    file.write_all(bytes).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    fs::rename(&sibling, path).map_err(io_error)
}
