//! `model.safetensors`: the header and the tensors of all buckets, one bucket in memory at a time.
//!
//! Format: <https://huggingface.co/docs/safetensors>. Tensors stand in layout order.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};

use super::{
    HfError, Mismatch,
    names::{Meaning, meaning},
};
use crate::layout::{ParameterLayout, ParameterSpec};

/// Longest header that is read; the format's own limit.
const MAX_HEADER_LEN: u64 = 100_000_000;
const LEN_BYTES: u64 = 8;
/// Values converted at a time.
const CHUNK_LEN: usize = 16_384;

/// Writes all buckets, in layout order, and syncs the file.
pub(super) fn write(
    path: &Path,
    layout: &ParameterLayout,
    read_bucket: &mut dyn FnMut(usize, &mut [f32]),
) -> Result<(), HfError> {
    let header = header(layout).map_err(|source| HfError::Format { path: path.into(), source })?;
    write_synced(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (bucket_idx, bucket) in layout.buckets.iter().enumerate() {
            let mut values = vec![0.0; bucket.num_elements];
            read_bucket(bucket_idx, &mut values);
            write_values(file, &values)?;
        }
        Ok(())
    })
}

/// Creates a file, fills it and syncs it.
pub(super) fn write_synced(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), HfError> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        fill(&mut file)?;
        file.into_inner()?.sync_all()
    };
    write().map_err(|source| HfError::Io { action: "write", path: path.into(), source })
}

fn header(layout: &ParameterLayout) -> Result<Vec<u8>, SafeTensorError> {
    let mut start = 0;
    let mut tensors = Vec::new();
    for spec in layout.buckets.iter().flat_map(|bucket| &bucket.parameters) {
        let end = start + 4 * spec.num_elements;
        let info = TensorInfo { dtype: Dtype::F32, shape: spec.shape.clone(), data_offsets: (start, end) };
        tensors.push((spec.name.clone(), info));
        start = end;
    }
    // `transformers` refuses a file that does not say which framework its names come from.
    let origin = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut header = serde_json::to_vec(&Metadata::new(Some(origin), tensors)?)?;
    header.resize(header.len().next_multiple_of(LEN_BYTES as usize), b' ');
    Ok(header)
}

fn write_values(file: &mut impl Write, values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * CHUNK_LEN);
    for chunk in values.chunks(CHUNK_LEN) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// What a file may lack, and what it may hold beside the parameters.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    /// Values of a parameter that the file lacks, or `None` to refuse the file.
    pub(super) fill_missing: &'a dyn Fn(&ParameterSpec) -> Option<Vec<f32>>,
    /// Whether a stored name is passed over.
    pub(super) is_ignored: &'a dyn Fn(&str) -> bool,
}

/// Reads all buckets after checking that the file holds exactly the parameters of `layout`, apart from what `reading`
/// allows.
pub(super) fn read(
    path: &Path,
    layout: &ParameterLayout,
    reading: Reading<'_>,
) -> Result<Vec<Vec<f32>>, HfError> {
    let io_error = |source| HfError::Io { action: "read", path: path.into(), source };
    let mut file = File::open(path).map_err(io_error)?;
    let (metadata, data_start) = read_metadata(path, &mut file)?;
    let (sources, ties) = match_names(path, layout, &metadata, reading)?;

    let mut buckets: Vec<_> = layout.buckets.iter().map(|bucket| vec![0.0; bucket.num_elements]).collect();
    let mut file = BufReader::new(file);
    for ((bucket_idx, spec), source) in layout.by_name().into_iter().zip(sources) {
        let values = &mut buckets[bucket_idx][spec.range()];
        match source {
            Source::Stored(start) => {
                read_values(&mut file, data_start + start, values).map_err(io_error)?;
            }
            Source::Filled(initial) => values.copy_from_slice(&initial),
        }
    }
    for (name, tied_to, start) in ties {
        let (bucket_idx, spec) = find(layout, tied_to);
        let mut values = vec![0.0; spec.num_elements];
        read_values(&mut file, data_start + start, &mut values).map_err(io_error)?;
        if values != buckets[bucket_idx][spec.range()] {
            return Err(HfError::Untied { path: path.into(), name, tied_to });
        }
    }
    Ok(buckets)
}

/// Reads the header; every length is checked against the file before it is used.
fn read_metadata(path: &Path, file: &mut File) -> Result<(Metadata, u64), HfError> {
    let io_error = |source| HfError::Io { action: "read", path: path.into(), source };
    let format_error = |source| HfError::Format { path: path.into(), source };
    let file_len = file.metadata().map_err(io_error)?.len();
    if file_len < LEN_BYTES {
        return Err(format_error(SafeTensorError::HeaderTooSmall));
    }
    let mut len_bytes = [0; LEN_BYTES as usize];
    file.read_exact(&mut len_bytes).map_err(io_error)?;
    let header_len = u64::from_le_bytes(len_bytes);
    if header_len > MAX_HEADER_LEN {
        return Err(format_error(SafeTensorError::HeaderTooLarge));
    }
    if header_len > file_len - LEN_BYTES {
        return Err(format_error(SafeTensorError::InvalidHeaderLength));
    }
    let mut header = vec![0; header_len as usize];
    file.read_exact(&mut header).map_err(io_error)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|source| format_error(source.into()))?;

    let expected = LEN_BYTES + header_len + metadata.data_len() as u64;
    if file_len != expected {
        return Err(HfError::Length { path: path.into(), expected, got: file_len });
    }
    Ok((metadata, LEN_BYTES + header_len))
}

/// Where the values of a parameter come from.
enum Source {
    /// The file, from this byte of its data.
    Stored(u64),
    /// Somewhere else.
    Filled(Vec<f32>),
}

/// Stored copies of parameters: stored name, the parameter they repeat, first byte.
type Ties = Vec<(String, &'static str, u64)>;

/// Finds the tensor of each parameter, by ascending name of the parameter.
fn match_names(
    path: &Path,
    layout: &ParameterLayout,
    metadata: &Metadata,
    reading: Reading<'_>,
) -> Result<(Vec<Source>, Ties), HfError> {
    let mut mismatch = Mismatch::default();
    let mut stored: BTreeMap<String, TensorInfo> = BTreeMap::new();
    let mut ties = Ties::new();
    for name in metadata.offset_keys() {
        if (reading.is_ignored)(&name) {
            continue;
        }
        let Some(info) = metadata.info(&name).cloned() else { continue };
        match meaning(&name) {
            Meaning::Ignored => {}
            Meaning::TiedTo(parameter) => {
                check_info(&name, &info, find(layout, parameter).1, &mut mismatch);
                ties.push((name, parameter, info.data_offsets.0 as u64));
            }
            Meaning::Parameter(parameter) => {
                if stored.insert(parameter, info).is_some() {
                    mismatch.unexpected.push(format!("{name} (twice)"));
                }
            }
        }
    }

    let mut sources = Vec::new();
    for (_, spec) in layout.by_name() {
        match stored.remove(&spec.name) {
            Some(info) => {
                check_info(&spec.name, &info, spec, &mut mismatch);
                sources.push(Source::Stored(info.data_offsets.0 as u64));
            }
            None => match (reading.fill_missing)(spec) {
                Some(values) => sources.push(Source::Filled(values)),
                None => mismatch.missing.push(spec.name.clone()),
            },
        }
    }
    mismatch.unexpected.extend(stored.into_keys());
    if mismatch.is_empty() {
        Ok((sources, ties))
    } else {
        Err(HfError::Mismatch { path: path.into(), mismatch })
    }
}

fn check_info(name: &str, info: &TensorInfo, spec: &ParameterSpec, mismatch: &mut Mismatch) {
    if info.shape != spec.shape || info.dtype != Dtype::F32 {
        mismatch
            .reshaped
            .push(format!("{name} (expected F32 {:?}, got {} {:?})", spec.shape, info.dtype, info.shape));
    }
}

fn find<'a>(layout: &'a ParameterLayout, name: &str) -> (usize, &'a ParameterSpec) {
    let all = layout.by_name();
    all.into_iter().find(|(_, spec)| spec.name == name).expect("tied names are names of the layout")
}

fn read_values(file: &mut (impl Read + Seek), start: u64, values: &mut [f32]) -> io::Result<()> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![0; 4 * CHUNK_LEN.min(values.len())];
    for chunk in values.chunks_mut(CHUNK_LEN) {
        let bytes = &mut bytes[..4 * chunk.len()];
        file.read_exact(bytes)?;
        for (value, bytes) in chunk.iter_mut().zip(bytes.as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
    Ok(())
}
