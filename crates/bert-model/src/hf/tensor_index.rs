//! Where the tensors of a file lie, whatever its format, and how their values become `f32`.
//!
//! The readers of the formats fill an index after checking every place against the length of the file, so reading
//! values never allocates more than the file holds. Which tensor is which parameter is not known here.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{HfError, npz_file, safetensors_file, torch_file};

/// Values converted at a time.
const CHUNK_LEN: usize = 16_384;

/// Type of stored elements, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ElementType {
    F32,
    F16,
    Bf16,
    /// Anything that no parameter has.
    Other {
        num_bytes: u64,
    },
}

impl ElementType {
    /// Bytes of one element.
    pub(super) fn num_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other { num_bytes } => num_bytes,
        }
    }

    /// Whether every value has an equal `f32`.
    pub(super) fn widens_to_f32(self) -> bool {
        !matches!(self, Self::Other { .. })
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 => f.write_str("F32"),
            Self::F16 => f.write_str("F16"),
            Self::Bf16 => f.write_str("BF16"),
            Self::Other { num_bytes } => write!(f, "another type of {num_bytes} bytes"),
        }
    }
}

/// A tensor inside of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredTensor {
    pub(super) name: String,
    pub(super) element: ElementType,
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, per dimension.
    pub(super) strides: Vec<usize>,
    /// First byte of the first element, from the start of the file.
    pub(super) start: u64,
}

impl StoredTensor {
    /// A row-major tensor.
    pub(super) fn row_major(name: String, element: ElementType, shape: Vec<usize>, start: u64) -> Self {
        let strides = row_major_strides(&shape);
        Self { name, element, shape, strides, start }
    }

    /// The same values with the dimensions in the opposite order.
    pub(super) fn transposed(mut self) -> Self {
        self.shape.reverse();
        self.strides.reverse();
        self
    }

    /// Elements from the first to the last one that is used; `None` if that is more than can be counted.
    pub(super) fn span_len(&self) -> Option<u64> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let last = self.shape.iter().zip(&self.strides).try_fold(0_u64, |last, (&size, &stride)| {
            last.checked_add(((size - 1) as u64).checked_mul(stride as u64)?)
        });
        last?.checked_add(1)
    }

    /// Number of elements; `None` if that is more than can be counted.
    pub(super) fn num_elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))
    }
}

/// Strides of a tensor without gaps whose last index runs fastest.
pub(super) fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim].saturating_mul(shape[dim]);
    }
    strides
}

/// All tensors of a file.
#[derive(Debug)]
pub(super) struct TensorIndex {
    pub(super) path: PathBuf,
    pub(super) tensors: Vec<StoredTensor>,
}

impl TensorIndex {
    /// Reads what a file says about its tensors; the first bytes decide which format it is.
    pub(super) fn open(path: &Path) -> Result<Self, HfError> {
        let io_error = |source| HfError::Io { action: "read", path: path.into(), source };
        let mut file = BufReader::new(File::open(path).map_err(io_error)?);
        let len = file.get_ref().metadata().map_err(io_error)?.len();
        let mut first = [0; 4];
        let num_read = file.by_ref().take(4).read(&mut first).map_err(io_error)?;
        file.rewind().map_err(io_error)?;
        let is_npz = path.extension().is_some_and(|extension| extension == "npz");
        let tensors = match &first[..num_read] {
            b"PK\x03\x04" if is_npz => npz_file::index(path, &mut file, len)?,
            b"PK\x03\x04" => torch_file::index_zip(path, &mut file, len)?,
            [0x80, 0x02, 0x8a, 0x0a] => torch_file::index_legacy(path, &mut file, len)?,
            _ if path.extension().is_some_and(|extension| extension == "safetensors") => {
                safetensors_file::index(path, &mut file, len)?
            }
            _ => {
                let expected = "a .safetensors, .npz or pytorch_model.bin file".into();
                let got = "another format (or one of torch before 0.4: save it again with a newer torch)";
                return Err(HfError::Damaged { path: path.into(), expected, got: got.into() });
            }
        };
        let index = Self { path: path.into(), tensors };
        index.check_places(len)?;
        Ok(index)
    }

    /// No tensor reaches beyond the file.
    fn check_places(&self, file_len: u64) -> Result<(), HfError> {
        for tensor in &self.tensors {
            let num_bytes = tensor.span_len().and_then(|len| len.checked_mul(tensor.element.num_bytes()));
            let end = num_bytes.and_then(|num_bytes| tensor.start.checked_add(num_bytes));
            if tensor.num_elements().is_none() || end.is_none_or(|end| end > file_len) {
                return Err(HfError::Damaged {
                    path: self.path.clone(),
                    expected: format!("tensors inside of {file_len} bytes"),
                    got: format!("`{}` of shape {:?} at byte {}", tensor.name, tensor.shape, tensor.start),
                });
            }
        }
        Ok(())
    }

    /// A reader of values.
    pub(super) fn values(&self) -> Result<ValueReader<'_>, HfError> {
        let file = File::open(&self.path).map_err(|source| self.io_error(source))?;
        Ok(ValueReader { index: self, file: BufReader::new(file) })
    }

    fn io_error(&self, source: io::Error) -> HfError {
        HfError::Io { action: "read", path: self.path.clone(), source }
    }
}

/// An open file of tensors.
pub(super) struct ValueReader<'a> {
    index: &'a TensorIndex,
    file: BufReader<File>,
}

impl ValueReader<'_> {
    /// Reads a whole tensor in row-major order.
    ///
    /// `out` must have its number of elements, and the element type must widen to `f32`.
    pub(super) fn read(&mut self, tensor: &StoredTensor, out: &mut [f32]) -> Result<(), HfError> {
        assert_eq!(Some(out.len()), tensor.num_elements(), "`{}` is read whole", tensor.name);
        let read = if tensor.strides == row_major_strides(&tensor.shape) || out.len() < 2 {
            read_values(&mut self.file, tensor.start, tensor.element, out)
        } else {
            let mut span = vec![0.0; tensor.span_len().unwrap_or(0) as usize];
            read_values(&mut self.file, tensor.start, tensor.element, &mut span)
                .map(|()| gather(&span, tensor, out))
        };
        read.map_err(|source| self.index.io_error(source))
    }
}

/// Puts strided values into row-major order.
fn gather(span: &[f32], tensor: &StoredTensor, out: &mut [f32]) {
    for (idx, value) in out.iter_mut().enumerate() {
        let (mut rest, mut place) = (idx, 0);
        for (size, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
            place += rest % size * stride;
            rest /= size;
        }
        *value = span[place];
    }
}

fn read_values(
    file: &mut (impl Read + Seek),
    start: u64,
    element: ElementType,
    values: &mut [f32],
) -> io::Result<()> {
    file.seek(SeekFrom::Start(start))?;
    let width = element.num_bytes() as usize;
    let mut bytes = vec![0; width * CHUNK_LEN.min(values.len())];
    for chunk in values.chunks_mut(CHUNK_LEN) {
        let bytes = &mut bytes[..width * chunk.len()];
        file.read_exact(bytes)?;
        let widened = chunk.iter_mut();
        match element {
            ElementType::F32 => {
                widened.zip(bytes.as_chunks().0).for_each(|(value, b)| *value = f32::from_le_bytes(*b));
            }
            ElementType::F16 => widened
                .zip(bytes.as_chunks().0)
                .for_each(|(value, b)| *value = half::f16::from_le_bytes(*b).to_f32()),
            ElementType::Bf16 => widened
                .zip(bytes.as_chunks().0)
                .for_each(|(value, b)| *value = half::bf16::from_le_bytes(*b).to_f32()),
            ElementType::Other { .. } => unreachable!("only types that widen are read"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_values_come_out_row_major() {
        // [2, 3] stored column by column, with a gap of one element after each column.
        let tensor = StoredTensor {
            name: "t".into(),
            element: ElementType::F32,
            shape: vec![2, 3],
            strides: vec![1, 3],
            start: 0,
        };
        assert_eq!(tensor.span_len(), Some(8));
        let mut out = [0.0; 6];
        gather(&[1.0, 4.0, 9.0, 2.0, 5.0, 9.0, 3.0, 6.0], &tensor, &mut out);
        assert_eq!(out, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn half_precision_widens_to_equal_values() {
        // 1.5, -2 and the smallest positive numbers of both types: IEEE 754 binary16 and bfloat16 bit patterns.
        let read = |element, bits: [u16; 3]| {
            let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            let mut values = [0.0; 3];
            read_values(&mut io::Cursor::new(bytes), 0, element, &mut values).unwrap();
            values
        };
        assert_eq!(read(ElementType::F16, [0x3e00, 0xc000, 0x0001]), [1.5, -2.0, 2f32.powi(-24)]);
        assert_eq!(
            read(ElementType::Bf16, [0x3fc0, 0xc000, 0x0001]),
            [1.5, -2.0, f32::from_bits(0x0001_0000)]
        );
    }

    #[test]
    fn sizes_that_overflow_are_counted_as_none() {
        let huge = StoredTensor::row_major("t".into(), ElementType::F32, vec![1 << 40, 1 << 40], 0);
        assert_eq!((huge.span_len(), huge.num_elements()), (None, None));
        let empty = StoredTensor::row_major("t".into(), ElementType::F32, vec![0, 7], 0);
        assert_eq!((empty.span_len(), empty.num_elements()), (Some(0), Some(0)));
    }
}
