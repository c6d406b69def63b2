//! `pytorch_model.bin`: a dictionary of tensors as `torch.save` writes it, in both of its forms.
//!
//! Since torch 1.6 it is a ZIP archive with `data.pkl` and one entry per storage; before, pickles one after another
//! with the storages behind them. No pickle code is run, see [`super::pickle`].

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
    rc::Rc,
};

use super::{
    HfError,
    pickle::{self, Refusal, TensorRecord, Value},
    tensor_index::StoredTensor,
    zip::Archive,
};

/// Far above the description of any state dict.
const MAX_PICKLE_LEN: u64 = 64 << 20;
/// First number of the older form, little-endian.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;

/// First byte and length in bytes of each storage, by key.
type Places = HashMap<Rc<str>, (u64, u64)>;

/// Lists the tensors of a ZIP archive of torch.
pub(super) fn index_zip(
    path: &Path,
    file: &mut BufReader<File>,
    file_len: u64,
) -> Result<Vec<StoredTensor>, HfError> {
    let mut archive = Archive::new(path, file, file_len);
    let entries = archive.entries()?;
    let found = entries.iter().find_map(|entry| Some((entry, entry.name.strip_suffix("data.pkl")?)));
    let Some((pickle, folder)) = found else {
        return Err(archive.damaged("data.pkl in the archive", "none"));
    };
    if pickle.len > MAX_PICKLE_LEN {
        return Err(archive.damaged(format!("at most {MAX_PICKLE_LEN} bytes of data.pkl"), "more"));
    }
    let byte_order = entries.iter().find(|entry| entry.name == format!("{folder}byteorder"));
    if let Some(entry) = byte_order
        && archive.bytes_at(entry.start, entry.len.min(16))? != b"little"
    {
        return Err(archive.damaged("little-endian values", "another byte order"));
    }
    let bytes = archive.bytes_at(pickle.start, pickle.len)?;
    let state = pickle::read(&mut &bytes[..]).map_err(refused(path))?;
    let prefix = format!("{folder}data/");
    let places = entries
        .iter()
        .filter_map(|entry| Some((entry.name.strip_prefix(&prefix)?.into(), (entry.start, entry.len))))
        .collect();
    stored_tensors(path, &state, &places)
}

/// Lists the tensors of a file in torch's older form.
pub(super) fn index_legacy(
    path: &Path,
    file: &mut BufReader<File>,
    file_len: u64,
) -> Result<Vec<StoredTensor>, HfError> {
    let mut source = file.by_ref().take(MAX_PICKLE_LEN);
    let mut next = || pickle::read(&mut source).map_err(refused(path));
    let (magic, protocol, _machine) = (next()?, next()?, next()?);
    let is_legacy = matches!(&magic, Value::Long(bytes) if **bytes == LEGACY_MAGIC)
        && matches!(protocol, Value::Int(LEGACY_PROTOCOL));
    if !is_legacy {
        return Err(damaged(path, "a file of torch.save", "another pickle"));
    }
    let (state, keys) = (next()?, next()?);
    let Value::List(keys) = keys else { return Err(damaged(path, "a list of storages", "something else")) };

    let storages: HashMap<Rc<str>, u64> = tensors_of(path, &state)?
        .into_values()
        .map(|tensor| {
            let width = tensor.storage.element.num_bytes();
            (tensor.storage.key.clone(), tensor.storage.num_elements.saturating_mul(width))
        })
        .collect();
    let io_error = |source| HfError::Io { action: "read", path: path.into(), source };
    let mut places = Places::new();
    for key in &keys.values {
        let Value::Text(key) = key else { return Err(damaged(path, "names of storages", "something else")) };
        let Some(&num_bytes) = storages.get(key) else {
            return Err(damaged(path, "storages that a tensor uses", format!("`{key}`")));
        };
        // Each storage begins with its number of elements in eight bytes.
        let start = file.stream_position().map_err(io_error)? + 8;
        let end = start.saturating_add(num_bytes);
        if end > file_len {
            return Err(damaged(
                path,
                format!("storage `{key}` up to byte {end}"),
                format!("{file_len} bytes"),
            ));
        }
        file.seek(SeekFrom::Start(end)).map_err(io_error)?;
        places.insert(key.clone(), (start, num_bytes));
    }
    stored_tensors(path, &state, &places)
}

/// Places of all tensors, each inside of its storage.
fn stored_tensors(path: &Path, state: &Value, places: &Places) -> Result<Vec<StoredTensor>, HfError> {
    let mut stored = Vec::new();
    for (name, tensor) in tensors_of(path, state)? {
        let storage = &tensor.storage;
        let Some(&(start, num_bytes)) = places.get(&storage.key) else {
            return Err(damaged(path, format!("storage `{}`", storage.key), "none of this name"));
        };
        let width = storage.element.num_bytes();
        let place = StoredTensor {
            name,
            element: storage.element,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            start: start.saturating_add(tensor.offset.saturating_mul(width)),
        };
        let end = place.span_len().and_then(|len| len.checked_add(tensor.offset)?.checked_mul(width));
        if end.is_none_or(|end| end > num_bytes) {
            let expected = format!("`{}` inside of a storage of {num_bytes} bytes", place.name);
            let got =
                format!("shape {:?}, strides {:?}, offset {}", place.shape, place.strides, tensor.offset);
            return Err(damaged(path, expected, got));
        }
        stored.push(place);
    }
    Ok(stored)
}

/// The entries of a state dict; a name that occurs twice means its last value, as in Python.
fn tensors_of<'a>(path: &Path, state: &'a Value) -> Result<BTreeMap<String, &'a TensorRecord>, HfError> {
    let Value::Dict(entries) = state else {
        return Err(damaged(path, "a dictionary of tensors (a state dict)", "another value"));
    };
    let pairs = entries.values.chunks_exact(2).map(|pair| match pair {
        [Value::Text(name), Value::Tensor(tensor)] => Ok((name.to_string(), &**tensor)),
        [Value::Text(name), _] => Err(damaged(path, "a tensor for each name", format!("none for `{name}`"))),
        _ => Err(damaged(path, "names of tensors", "another key")),
    });
    pairs.collect()
}

fn refused(path: &Path) -> impl Fn(Refusal) -> HfError + '_ {
    |refusal| damaged(path, refusal.expected, refusal.got)
}

fn damaged(path: &Path, expected: impl Into<String>, got: impl Into<String>) -> HfError {
    HfError::Damaged { path: path.into(), expected: expected.into(), got: got.into() }
}
