//! The optimizer's moments as safetensors by parameter name and range.
//!
//! Owns the names of the tensors: `PARAMETER/START/first_moment`, where START counts elements of the parameter.
//! A file holds the range of one rank; any number of ranks reads them back.

use std::{
    collections::HashMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use bert_model::{ParameterLayout, ParameterSpec};
use safetensors::{
    Dtype, SafeTensorError, SafeTensors,
    tensor::{Metadata, TensorInfo},
};

use super::{CheckpointError, disk::Folder, io_error};
use crate::optimizer::BucketState;

/// The two moments.
const MOMENTS: [&str; 2] = ["first_moment", "second_moment"];

/// Own ranges of all buckets: a piece of a parameter with its moments, as slices.
type Pieces<'a> = Vec<(String, &'a [f32])>;

/// Writes the own ranges of all buckets to `path` and waits until they are on disk.
///
/// # Errors
///
/// [`CheckpointError::Io`] or [`CheckpointError::Format`].
pub(crate) fn write(
    folder: &mut Folder<'_>,
    path: &Path,
    layout: &ParameterLayout,
    states: &[BucketState],
) -> Result<(), CheckpointError> {
    let pieces = pieces(layout, states);
    let header = header(&pieces).map_err(|error| format_error(path, &error))?;
    folder.write(path, &mut |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        pieces.iter().try_for_each(|(_, values)| file.write_all(bytemuck::cast_slice(values)))
    })
}

fn pieces<'a>(layout: &ParameterLayout, states: &'a [BucketState]) -> Pieces<'a> {
    let mut pieces = Vec::new();
    for (bucket, state) in layout.buckets.iter().zip(states) {
        for parameter in &bucket.parameters {
            let part = overlap(&extent(parameter), &state.range);
            if part.is_empty() {
                continue;
            }
            let own = part.start - state.range.start..part.end - state.range.start;
            for (moment, values) in MOMENTS.iter().zip([&state.first_moment, &state.second_moment]) {
                let name = format!("{}/{}/{moment}", parameter.name, part.start - parameter.offset);
                pieces.push((name, &values[own.clone()]));
            }
        }
    }
    pieces
}

/// The header of a safetensors file with these pieces one after the other.
fn header(pieces: &Pieces<'_>) -> Result<Vec<u8>, SafeTensorError> {
    let mut start = 0;
    let mut tensors = Vec::with_capacity(pieces.len());
    for (name, values) in pieces {
        let end = start + size_of_val(*values);
        let info = TensorInfo { dtype: Dtype::F32, shape: vec![values.len()], data_offsets: (start, end) };
        tensors.push((name.clone(), info));
        start = end;
    }
    let mut header = serde_json::to_vec(&Metadata::new(None, tensors)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// Fills the own ranges of all buckets from the files of a checkpoint.
///
/// # Errors
///
/// [`CheckpointError`] if a file cannot be read, or if a range is not covered exactly once.
pub fn read(
    files: &[PathBuf],
    layout: &ParameterLayout,
    states: &mut [BucketState],
) -> Result<(), CheckpointError> {
    let places = places(layout);
    let mut num_filled = vec![0; states.len()];
    for path in files {
        let bytes = fs::read(path).map_err(io_error("cannot read", path))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| format_error(path, &error))?;
        for (name, view) in tensors.iter() {
            let (bucket_idx, piece, moment) =
                parse_name(name, view.shape(), &places).ok_or_else(|| CheckpointError::Format {
                    path: path.clone(),
                    message: format!("tensor `{name}` fits no parameter of this model"),
                })?;
            let state = &mut states[bucket_idx];
            num_filled[bucket_idx] += copy_piece(state, &piece, moment, view.data());
        }
    }
    let expected = |state: &BucketState| state.range.len() * MOMENTS.len();
    for ((bucket, state), got) in layout.buckets.iter().zip(states.iter()).zip(num_filled) {
        if got != expected(state) {
            let folder = files.first().and_then(|path| path.parent()).unwrap_or(Path::new("optimizer"));
            return Err(CheckpointError::Damaged {
                path: folder.to_path_buf(),
                what: "number of optimizer values",
                expected: format!("{} for bucket `{}`", expected(state), bucket.name),
                got: got.to_string(),
            });
        }
    }
    Ok(())
}

fn format_error(path: &Path, error: &dyn std::error::Error) -> CheckpointError {
    CheckpointError::Format { path: path.to_path_buf(), message: error.to_string() }
}

fn extent(parameter: &ParameterSpec) -> Range<usize> {
    parameter.offset..parameter.offset + parameter.num_elements
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// Parameter name to its bucket and its extent in it.
fn places(layout: &ParameterLayout) -> HashMap<&str, (usize, Range<usize>)> {
    let parameters = layout.buckets.iter().enumerate().flat_map(|(bucket_idx, bucket)| {
        bucket.parameters.iter().map(move |parameter| (bucket_idx, parameter))
    });
    parameters.map(|(idx, parameter)| (parameter.name.as_str(), (idx, extent(parameter)))).collect()
}

/// Bucket, range within the bucket and moment of a tensor.
fn parse_name(
    name: &str,
    shape: &[usize],
    places: &HashMap<&str, (usize, Range<usize>)>,
) -> Option<(usize, Range<usize>, usize)> {
    let mut parts = name.rsplitn(3, '/');
    let (moment, start, parameter) = (parts.next()?, parts.next()?, parts.next()?);
    let moment = MOMENTS.iter().position(|known| *known == moment)?;
    let (bucket_idx, extent) = places.get(parameter)?;
    let [len] = shape else { return None };
    let start = extent.start.checked_add(start.parse().ok()?)?;
    let end = start.checked_add(*len)?;
    (end <= extent.end).then_some((*bucket_idx, start..end, moment))
}

/// Copies what lies in the own range; returns the number of values copied.
fn copy_piece(state: &mut BucketState, piece: &Range<usize>, moment: usize, bytes: &[u8]) -> usize {
    let part = overlap(piece, &state.range);
    if part.is_empty() {
        return 0;
    }
    let values = &bytes[(part.start - piece.start) * 4..(part.end - piece.start) * 4];
    let own = part.start - state.range.start..part.end - state.range.start;
    let target = if moment == 0 { &mut state.first_moment } else { &mut state.second_moment };
    for (value, bytes) in target[own].iter_mut().zip(values.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
    part.len()
}

#[cfg(test)]
mod tests {
    use bert_model::BucketLayout;

    use super::*;
    use crate::checkpoint::disk::Disk;

    fn write_plainly(path: &Path, states: &[BucketState]) {
        write(&mut Folder::new(&Disk::default(), Path::new("")), path, &layout(), states).unwrap();
    }

    fn layout() -> ParameterLayout {
        let parameter = |name: &str, offset, num_elements| ParameterSpec {
            name: name.to_string(),
            shape: vec![num_elements],
            offset,
            num_elements,
            decay: true,
        };
        let bucket = |name: &str, parameters: Vec<ParameterSpec>| BucketLayout {
            name: name.to_string(),
            num_elements: parameters.iter().map(|parameter| parameter.num_elements).sum(),
            parameters,
        };
        ParameterLayout {
            buckets: vec![
                bucket("first", vec![parameter("a.weight", 0, 7), parameter("a.bias", 7, 3)]),
                bucket("second", vec![parameter("b.weight", 0, 11)]),
            ],
        }
    }

    fn states(bounds: &[Vec<usize>], rank: usize) -> Vec<BucketState> {
        let layout = layout();
        let ranges = bounds.iter().map(|bounds| bounds[rank]..bounds[rank + 1]);
        layout.buckets.iter().zip(ranges).map(|(bucket, range)| BucketState::new(bucket, range)).collect()
    }

    fn fill(states: &mut [BucketState]) {
        for (idx, state) in states.iter_mut().enumerate() {
            for (offset, element) in state.range.clone().enumerate() {
                state.first_moment[offset] = (idx * 100 + element) as f32;
                state.second_moment[offset] = -((idx * 100 + element) as f32);
            }
        }
    }

    #[test]
    fn any_number_of_ranks_reads_what_two_ranks_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let two = [vec![0, 4, 10], vec![0, 5, 11]];
        let files: Vec<PathBuf> = (0..2).map(|rank| dir.path().join(format!("rank-{rank}"))).collect();
        for (rank, path) in files.iter().enumerate() {
            let mut written = states(&two, rank);
            fill(&mut written);
            write_plainly(path, &written);
        }
        for bounds in [[vec![0, 10], vec![0, 11]], [vec![0, 3, 9, 10], vec![0, 1, 8, 11]]] {
            for rank in 0..bounds[0].len() - 1 {
                let (mut got, mut expected) = (states(&bounds, rank), states(&bounds, rank));
                fill(&mut expected);
                read(&files, &layout(), &mut got).unwrap();
                for (got, expected) in got.iter().zip(&expected) {
                    assert_eq!(got.first_moment, expected.first_moment);
                    assert_eq!(got.second_moment, expected.second_moment);
                }
            }
        }
    }

    #[test]
    fn a_missing_file_leaves_a_gap_that_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rank-0");
        write_plainly(&path, &states(&[vec![0, 4, 10], vec![0, 5, 11]], 0));
        let mut whole = states(&[vec![0, 10], vec![0, 11]], 0);
        let error = read(&[path], &layout(), &mut whole).unwrap_err();
        assert!(error.to_string().contains("20 for bucket `first`"), "{error}");
    }
}
