//! From the tensors of a file to the parameters of a model.
//!
//! Every tensor is accounted for before the first value is read: it is a parameter of the right shape, a copy of
//! one, something without information, or it is on the list that refuses the file.

use std::{collections::BTreeMap, path::Path};

use super::{
    HfError, Mismatch,
    names::{Meaning, meaning},
    tensor_index::{StoredTensor, TensorIndex},
};
use crate::layout::{ParameterLayout, ParameterSpec};

/// What may differ between a file and a model without the file being refused.
pub(super) struct Rules<'a> {
    /// Parameters that the file may lack, by name.
    pub(super) may_be_missing: &'a dyn Fn(&str) -> bool,
    /// Tensors that the model may lack, by the name that they would have as parameters.
    pub(super) may_be_unexpected: &'a dyn Fn(&str) -> bool,
    /// Values of a missing parameter.
    pub(super) initial: &'a dyn Fn(&ParameterSpec) -> Vec<f32>,
}

/// The values of a model, and what was not in the file or not in the model.
#[derive(Debug)]
pub(super) struct Assigned {
    pub(super) buckets: Vec<Vec<f32>>,
    pub(super) initialised: Vec<String>,
    pub(super) left_out: Vec<String>,
}

/// Reads all buckets after checking that the file holds exactly the parameters of `layout`, apart from what the
/// rules allow.
pub(super) fn read(
    index: &TensorIndex,
    layout: &ParameterLayout,
    rules: &Rules<'_>,
) -> Result<Assigned, HfError> {
    let matched = match_names(index, layout, rules)?;
    let mut buckets: Vec<_> = layout.buckets.iter().map(|bucket| vec![0.0; bucket.num_elements]).collect();
    let mut initialised = Vec::new();
    let mut file = index.values()?;
    for ((bucket_idx, spec), source) in layout.by_name().into_iter().zip(&matched.sources) {
        let values = &mut buckets[bucket_idx][spec.range()];
        match source {
            Some(tensor) => file.read(tensor, values)?,
            None => {
                values.copy_from_slice(&(rules.initial)(spec));
                initialised.push(spec.name.clone());
            }
        }
    }
    for (tensor, tied_to) in matched.ties {
        let (bucket_idx, spec) = find(layout, tied_to);
        let mut values = vec![0.0; spec.num_elements];
        file.read(&tensor, &mut values)?;
        if values != buckets[bucket_idx][spec.range()] {
            return Err(HfError::Untied { path: index.path.clone(), name: tensor.name, tied_to });
        }
    }
    Ok(Assigned { buckets, initialised, left_out: matched.left_out })
}

/// Which tensor is which parameter.
struct Matched {
    /// For each parameter by ascending name: its tensor, `None` if it is to be initialised.
    sources: Vec<Option<StoredTensor>>,
    /// Copies of parameters with the parameter they repeat.
    ties: Vec<(StoredTensor, &'static str)>,
    /// Stored names that the model has no use for.
    left_out: Vec<String>,
}

fn match_names(index: &TensorIndex, layout: &ParameterLayout, rules: &Rules<'_>) -> Result<Matched, HfError> {
    let mut mismatch = Mismatch::default();
    let mut stored: BTreeMap<String, StoredTensor> = BTreeMap::new();
    let mut ties = Vec::new();
    for tensor in &index.tensors {
        let (parameter, tensor) = match meaning(&tensor.name) {
            Meaning::Ignored => continue,
            Meaning::TiedTo(parameter) => {
                check(tensor, &tensor.name, find(layout, parameter).1, &mut mismatch);
                ties.push((tensor.clone(), parameter));
                continue;
            }
            Meaning::Parameter(parameter) => (parameter, tensor.clone()),
            Meaning::Transposed(parameter) => (parameter, tensor.clone().transposed()),
        };
        if let Some(earlier) = stored.insert(parameter, tensor) {
            mismatch.unexpected.push(format!("{} (twice)", earlier.name));
        }
    }

    let mut sources = Vec::new();
    for (_, spec) in layout.by_name() {
        let source = stored.remove(&spec.name);
        match &source {
            Some(tensor) => check(tensor, &spec.name, spec, &mut mismatch),
            None if (rules.may_be_missing)(&spec.name) => {}
            None => mismatch.missing.push(spec.name.clone()),
        }
        sources.push(source);
    }
    let (left_out, unexpected): (Vec<_>, Vec<_>) =
        stored.into_iter().partition(|(name, _)| (rules.may_be_unexpected)(name));
    mismatch.unexpected.extend(unexpected.into_iter().map(|(name, _)| name));
    if mismatch.is_empty() {
        Ok(Matched { sources, ties, left_out: left_out.into_iter().map(|(_, tensor)| tensor.name).collect() })
    } else {
        Err(HfError::Mismatch { path: index.path.clone(), mismatch })
    }
}

fn check(tensor: &StoredTensor, name: &str, spec: &ParameterSpec, mismatch: &mut Mismatch) {
    if tensor.shape != spec.shape || !tensor.element.widens_to_f32() {
        let (shape, element) = (&tensor.shape, tensor.element);
        mismatch.reshaped.push(format!("{name} (expected F32 {:?}, got {element} {shape:?})", spec.shape));
    }
}

fn find<'a>(layout: &'a ParameterLayout, name: &str) -> (usize, &'a ParameterSpec) {
    let all = layout.by_name();
    all.into_iter().find(|(_, spec)| spec.name == name).expect("tied names are names of the layout")
}

/// The file of tensors in a folder.
pub(super) fn tensor_file_in(folder: &Path) -> Result<std::path::PathBuf, HfError> {
    let known = [super::TENSOR_FILE, super::TORCH_FILE].map(|name| folder.join(name));
    let found = known.into_iter().find(|path| path.exists());
    found.ok_or_else(|| HfError::NoWeights { folder: folder.into() })
}
