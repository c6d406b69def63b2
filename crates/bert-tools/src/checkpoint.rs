//! `bert checkpoint list | verify | hash | diff`.
//!
//! Owns finding the checkpoint that a path means and printing what the library says about it. Changes nothing.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bert_model::{ParameterLayout, ParameterSpec, hf};
use bert_train::checkpoint::{self, CheckpointState, STATE_FILE};

use crate::{
    cli::CheckpointCommand,
    failure::ToolError,
    table::{line, megabytes},
};

/// Runs the command.
///
/// # Errors
///
/// What is not there, damaged, or differs.
pub fn run(command: CheckpointCommand) -> anyhow::Result<()> {
    match command {
        CheckpointCommand::List(arguments) => list(&arguments.run),
        CheckpointCommand::Verify(arguments) => verify(&arguments.path),
        CheckpointCommand::Hash(arguments) => {
            let checkpoint = newest_of(&arguments.path)?;
            line(checkpoint::hash::checkpoint_hash(&checkpoint, arguments.optimizer)?);
            Ok(())
        }
        CheckpointCommand::Diff(arguments) => diff(&arguments.left, &arguments.right),
    }
}

/// The checkpoints below a run folder, or the path itself if it is a checkpoint.
fn all_of(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if path.join(STATE_FILE).exists() {
        return Ok(vec![path.to_path_buf()]);
    }
    let checkpoints = path.join("checkpoints");
    if !checkpoints.is_dir() {
        let message = format!("`{}` is neither a checkpoint nor a run folder", path.display());
        return Err(ToolError::Usage(message).into());
    }
    Ok(checkpoint::read::list(&checkpoints)?)
}

/// The newest checkpoint below a run folder, or the path itself if it is a checkpoint.
///
/// # Errors
///
/// If there is none.
pub fn newest_of(path: &Path) -> anyhow::Result<PathBuf> {
    all_of(path)?.pop().ok_or_else(|| {
        ToolError::Usage(format!("run folder `{}` holds no checkpoint yet", path.display())).into()
    })
}

/// The model folder that a path means: itself, or that of a checkpoint or of a run's newest one.
pub fn model_folder_of(path: &Path) -> anyhow::Result<PathBuf> {
    if path.join("config.json").exists() {
        return Ok(path.to_path_buf());
    }
    Ok(newest_of(path)?.join("model"))
}

fn list(run: &Path) -> anyhow::Result<()> {
    line(format!("{:>10} {:>8} {:>6} {:>12}  {}", "step", "epoch", "ranks", "size", "path"));
    for path in all_of(run)? {
        match CheckpointState::read(&path) {
            Ok(state) => {
                let num_bytes = state.files.iter().map(|file| file.num_bytes).sum();
                line(format!(
                    "{:>10} {:>8} {:>6} {:>12}  {}",
                    state.step,
                    state.epoch,
                    state.num_ranks,
                    megabytes(num_bytes),
                    path.display()
                ));
            }
            Err(error) => line(format!("{:>10}  {}", "damaged", bert_train::error::chain_of(&error))),
        }
    }
    Ok(())
}

/// Goes through all of them, so that every damaged one is named, and then fails with the first.
fn verify(path: &Path) -> anyhow::Result<()> {
    let mut first_error = None;
    for checkpoint in all_of(path)? {
        match CheckpointState::verify(&checkpoint) {
            Ok(state) => line(format!("whole    {} ({} files)", checkpoint.display(), state.files.len())),
            Err(error) => {
                line(format!("damaged  {}", checkpoint.display()));
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(()), |error| Err(error.into()))
}

fn diff(left: &Path, right: &Path) -> anyhow::Result<()> {
    let (layout, left_buckets) = load(left)?;
    let (right_layout, right_buckets) = load(right)?;
    if layout != right_layout {
        return Err(ToolError::Differs("the models have different shapes".to_string()).into());
    }
    let mut num_equal = 0;
    let mut num_different = 0;
    for (bucket_idx, bucket) in layout.buckets.iter().enumerate() {
        for parameter in &bucket.parameters {
            let (a, b) =
                (values(&left_buckets, bucket_idx, parameter), values(&right_buckets, bucket_idx, parameter));
            if a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())) {
                num_equal += 1;
                continue;
            }
            num_different += 1;
            let largest = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            line(format!("{:<70} largest difference {largest:.3e}", parameter.name));
        }
    }
    line(format!("{num_equal} parameters are equal bit by bit, {num_different} differ"));
    if num_different > 0 {
        return Err(ToolError::Differs(format!("{num_different} parameters differ")).into());
    }
    Ok(())
}

/// The parameters of a model, with or without a classifier.
fn load(path: &Path) -> anyhow::Result<(ParameterLayout, Vec<Vec<f32>>)> {
    let folder = model_folder_of(path)?;
    let step = || format!("cannot load the model in `{}`", folder.display());
    if let Ok(config) = hf::load_classifier_config(&folder) {
        let (_, buckets) = hf::load_classifier_folder(&folder).with_context(step)?;
        return Ok((ParameterLayout::for_classifier(&config.model, config.labels.len()), buckets));
    }
    let (config, buckets) = hf::load_folder(&folder).with_context(step)?;
    Ok((ParameterLayout::new(&config), buckets))
}

fn values<'a>(buckets: &'a [Vec<f32>], bucket_idx: usize, parameter: &ParameterSpec) -> &'a [f32] {
    &buckets[bucket_idx][parameter.offset..parameter.offset + parameter.num_elements]
}
