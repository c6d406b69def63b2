//! One hash for the weights, independent of file layout and of the number of ranks.
//!
//! Owns the definition: BLAKE3 over name, shape and bytes of every parameter in name order; with the optimizer,
//! name and bytes of every moment follow, pieces of one parameter joined.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;

use super::{CheckpointError, io_error, manifest::sorted_entries};

/// Hash of the parameters of a checkpoint (and of its moments), hexadecimal.
///
/// # Errors
///
/// [`CheckpointError`] if a file cannot be read.
pub fn checkpoint_hash(checkpoint: &Path, with_optimizer: bool) -> Result<String, CheckpointError> {
    let mut hasher = hash_parameters(&checkpoint.join("model"))?;
    if with_optimizer {
        hash_moments(&mut hasher, &optimizer_files(checkpoint)?)?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Hash of the parameters of a model folder with a `model.safetensors`, hexadecimal.
///
/// # Errors
///
/// [`CheckpointError`] if the file cannot be read.
pub fn model_hash(folder: &Path) -> Result<String, CheckpointError> {
    Ok(hash_parameters(folder)?.finalize().to_hex().to_string())
}

fn hash_parameters(folder: &Path) -> Result<blake3::Hasher, CheckpointError> {
    let mut hasher = blake3::Hasher::new();
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).map_err(io_error("cannot read", &path))?;
    let tensors = parse(&path, &bytes)?;
    let parameters: BTreeMap<String, _> = tensors.tensors().into_iter().collect();
    for (name, view) in &parameters {
        update_text(&mut hasher, name);
        hasher.update(&(view.shape().len() as u64).to_le_bytes());
        for size in view.shape() {
            hasher.update(&(*size as u64).to_le_bytes());
        }
        hasher.update(view.data());
    }
    Ok(hasher)
}

/// The files of the moments, sorted.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn optimizer_files(checkpoint: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    sorted_entries(&checkpoint.join("optimizer"))
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, CheckpointError> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| CheckpointError::Format { path: path.to_path_buf(), message: error.to_string() })
}

fn update_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// `PARAMETER/START/MOMENT` as ((parameter, moment), start).
fn piece_key(name: &str) -> Option<((String, String), u64)> {
    let mut parts = name.rsplitn(3, '/');
    let (moment, start, parameter) = (parts.next()?, parts.next()?, parts.next()?);
    Some(((parameter.to_string(), moment.to_string()), start.parse().ok()?))
}

fn hash_moments(hasher: &mut blake3::Hasher, files: &[PathBuf]) -> Result<(), CheckpointError> {
    let mut contents = Vec::with_capacity(files.len());
    for path in files {
        contents.push((path, fs::read(path).map_err(io_error("cannot read", path))?));
    }
    let mut pieces: BTreeMap<((String, String), u64), &[u8]> = BTreeMap::new();
    for (path, bytes) in &contents {
        for (name, view) in parse(path, bytes)?.tensors() {
            let key = piece_key(&name).ok_or_else(|| CheckpointError::Format {
                path: path.to_path_buf(),
                message: format!("tensor name `{name}` is not PARAMETER/START/MOMENT"),
            })?;
            pieces.insert(key, view.data());
        }
    }
    let mut last = None;
    for ((name, _), data) in &pieces {
        if last != Some(name) {
            update_text(hasher, &name.0);
            update_text(hasher, &name.1);
            last = Some(name);
        }
        hasher.update(data);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;

    fn write_tensors(path: &Path, tensors: &[(&str, Vec<usize>, &[f32])]) {
        let views = tensors.iter().map(|(name, shape, values)| {
            (*name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
        });
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()).unwrap();
    }

    #[test]
    fn moments_in_one_or_two_files_have_one_hash() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        for folder in [&one, &two] {
            write_tensors(&folder.join("model/model.safetensors"), &[("w", vec![2, 3], &weights)]);
        }
        write_tensors(&one.join("optimizer/a"), &[("w/0/first_moment", vec![6], &weights)]);
        write_tensors(&two.join("optimizer/a"), &[("w/4/first_moment", vec![2], &weights[4..])]);
        write_tensors(&two.join("optimizer/b"), &[("w/0/first_moment", vec![4], &weights[..4])]);
        assert_eq!(checkpoint_hash(&one, true).unwrap(), checkpoint_hash(&two, true).unwrap());
        assert_ne!(checkpoint_hash(&one, true).unwrap(), checkpoint_hash(&one, false).unwrap());
    }

    #[test]
    fn shape_belongs_to_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        write_tensors(&one.join("model/model.safetensors"), &[("w", vec![2, 3], &weights)]);
        write_tensors(&two.join("model/model.safetensors"), &[("w", vec![3, 2], &weights)]);
        assert_ne!(checkpoint_hash(&one, false).unwrap(), checkpoint_hash(&two, false).unwrap());
    }
}
