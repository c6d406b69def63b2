//! Archives of numpy arrays (`numpy.savez`).
//!
//! Format: `numpy.lib.format`, versions 1 to 3. The name of an array is that of its entry without `.npy`.

use std::{fs::File, io::BufReader, path::Path};

use super::{
    HfError,
    tensor_index::{ElementType, StoredTensor},
    zip::{Archive, Entry},
};

/// Far above the header of any array.
const MAX_HEADER_LEN: u64 = 65_536;

/// Lists the arrays; every length is checked against the file before it is used.
pub(super) fn index(
    path: &Path,
    file: &mut BufReader<File>,
    file_len: u64,
) -> Result<Vec<StoredTensor>, HfError> {
    let mut archive = Archive::new(path, file, file_len);
    let entries = archive.entries()?;
    entries.iter().map(|entry| array(&mut archive, entry)).collect()
}

fn array(archive: &mut Archive<'_>, entry: &Entry) -> Result<StoredTensor, HfError> {
    let Some(name) = entry.name.strip_suffix(".npy") else {
        return Err(archive.damaged("entries NAME.npy", format!("`{}`", entry.name)));
    };
    let start = archive.bytes_at(entry.start, entry.len.min(12))?;
    let (header_len, header_start) = match &start[..] {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => (u64::from(u16::from_le_bytes([*a, *b])), 10),
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d] => {
            (u64::from(u32::from_le_bytes([*a, *b, *c, *d])), 12)
        }
        _ => return Err(archive.damaged("a numpy array", format!("something else in `{}`", entry.name))),
    };
    if header_len > MAX_HEADER_LEN || header_start + header_len > entry.len {
        let expected = format!("a header inside of {} bytes", entry.len);
        return Err(archive.damaged(expected, format!("{header_len} bytes in `{}`", entry.name)));
    }
    let header = archive.bytes_at(entry.start + header_start, header_len)?;
    let header = String::from_utf8_lossy(&header);
    let Some((element, is_column_major, shape)) = parse(&header) else {
        return Err(archive.damaged("the header of a numpy array", format!("`{}`", header.trim())));
    };
    let place = entry.start + header_start + header_len;
    let tensor = if is_column_major {
        let reversed = shape.into_iter().rev().collect();
        StoredTensor::row_major(name.into(), element, reversed, place).transposed()
    } else {
        StoredTensor::row_major(name.into(), element, shape, place)
    };
    let num_bytes = tensor.num_elements().map(|len| (len as u64).saturating_mul(element.num_bytes()));
    if num_bytes != Some(entry.len - header_start - header_len) {
        let got = format!("`{}` of shape {:?} in {} bytes", entry.name, tensor.shape, entry.len);
        return Err(archive.damaged("as many bytes as the shape needs", got));
    }
    Ok(tensor)
}

/// Type, order and shape from `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(header: &str) -> Option<(ElementType, bool, Vec<usize>)> {
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start());
    let descr = after("'descr':")?.strip_prefix('\'')?.split('\'').next()?;
    let element = match descr {
        "<f4" => ElementType::F32,
        "<f2" => ElementType::F16,
        other => {
            let digits = other.trim_start_matches(|c: char| !c.is_ascii_digit());
            ElementType::Other { num_bytes: digits.parse().ok()? }
        }
    };
    let order = after("'fortran_order':")?;
    let is_column_major = order.starts_with("True");
    if !is_column_major && !order.starts_with("False") {
        return None;
    }
    let shape = after("'shape':")?.strip_prefix('(')?.split(')').next()?;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    Some((element, is_column_major, sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_numpy_are_understood() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n";
        assert_eq!(parse(header), Some((ElementType::F32, false, vec![3, 4])));
        let header = "{'descr': '<f2', 'fortran_order': True, 'shape': (5,), }\n";
        assert_eq!(parse(header), Some((ElementType::F16, true, vec![5])));
        let header = "{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n";
        assert_eq!(parse(header), Some((ElementType::Other { num_bytes: 8 }, false, vec![])));
        assert_eq!(parse("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4)}"), None);
        assert_eq!(parse("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}"), None);
    }
}
