//! `model.safetensors`: its header, and writing all buckets with one of them in memory at a time.
//!
//! Format: <https://huggingface.co/docs/safetensors>. Tensors are written in layout order.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
};

use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};

use super::{
    FileSink, Fill, HfError,
    tensor_index::{ElementType, StoredTensor},
};
use crate::layout::ParameterLayout;

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
    sink: &mut dyn FileSink,
) -> Result<(), HfError> {
    let header = header(layout).map_err(|source| HfError::Format { path: path.into(), source })?;
    write_synced(sink, path, &mut |file| {
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
pub(super) fn write_synced(sink: &mut dyn FileSink, path: &Path, fill: &mut Fill<'_>) -> Result<(), HfError> {
    sink.file(path, fill).map_err(|source| HfError::Io { action: "write", path: path.into(), source })
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

fn write_values(file: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * CHUNK_LEN);
    for chunk in values.chunks(CHUNK_LEN) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Lists the tensors; every length is checked against the file before it is used.
pub(super) fn index(
    path: &Path,
    file: &mut BufReader<File>,
    file_len: u64,
) -> Result<Vec<StoredTensor>, HfError> {
    let (metadata, data_start) = read_metadata(path, file, file_len)?;
    let named = |name: String| {
        let info = metadata.info(&name)?;
        let start = data_start + info.data_offsets.0 as u64;
        Some(StoredTensor::row_major(name, element_type(info.dtype), info.shape.clone(), start))
    };
    Ok(metadata.offset_keys().into_iter().filter_map(named).collect())
}

fn element_type(dtype: Dtype) -> ElementType {
    match dtype {
        Dtype::F32 => ElementType::F32,
        Dtype::F16 => ElementType::F16,
        Dtype::BF16 => ElementType::Bf16,
        other => ElementType::Other { num_bytes: other.bitsize().div_ceil(8) as u64 },
    }
}

fn read_metadata(path: &Path, file: &mut BufReader<File>, file_len: u64) -> Result<(Metadata, u64), HfError> {
    let io_error = |source| HfError::Io { action: "read", path: path.into(), source };
    let format_error = |source| HfError::Format { path: path.into(), source };
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
