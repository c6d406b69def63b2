//! Tensors as plain slices: how a backend stores them.
//!
//! [`Raw`] is what the handwritten ops ask of a backend whose tensors lie in main memory. The free functions do the
//! same for whole [`Tensor`]s outside of an op, wherever they lie. Nothing here computes.

#[cfg(feature = "libtorch")]
mod libtorch;

use std::sync::Arc;

use burn::{
    Tensor,
    backend::{
        Backend, DispatchDevice, DispatchKindConversion, DispatchTensor, Flex,
        flex::{FlexTensor, Layout},
        tensor::FloatTensor,
    },
    tensor::{Bytes, DType, Device, Shape},
};

/// Backends whose float tensors are `f32` in main memory.
pub(crate) trait Raw: Backend {
    /// Returns the same values in row-major order without gaps; no copy if they already are.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The values of a contiguous tensor.
    ///
    /// # Panics
    ///
    /// If the tensor is not contiguous or not `f32`.
    fn values(tensor: &FloatTensor<Self>) -> &[f32];

    /// Makes a tensor of values, row-major.
    fn from_values(values: Vec<f32>, shape: Shape) -> FloatTensor<Self>;
}

impl Raw for Flex {
    fn contiguous(tensor: FlexTensor) -> FlexTensor {
        if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
    }

    fn values(tensor: &FlexTensor) -> &[f32] {
        tensor.as_slice().expect("ops make their operands contiguous f32 first")
    }

    fn from_values(values: Vec<f32>, shape: Shape) -> FlexTensor {
        FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
    }
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Flex,
    #[cfg(feature = "libtorch")]
    LibTorch,
    /// Not in main memory.
    #[cfg(feature = "libtorch-cuda")]
    Elsewhere,
}

fn place_of(device: &Device) -> Place {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Flex(_) => Place::Flex,
        #[cfg(feature = "libtorch")]
        DispatchDevice::LibTorch(device) => libtorch::place_of(*device),
        other => unreachable!("the device factory makes no {other:?}"),
    }
}

/// Whether the handwritten ops can reach the tensors of this device.
pub(crate) fn is_main_memory(device: &Device) -> bool {
    match place_of(device) {
        Place::Flex => true,
        #[cfg(feature = "libtorch")]
        Place::LibTorch => true,
        #[cfg(feature = "libtorch-cuda")]
        Place::Elsewhere => false,
    }
}

/// Calls `read` with the values of a tensor, row-major; copies only if it is strided or not in main memory.
pub(crate) fn with_values<const D: usize, R>(tensor: Tensor<D>, read: impl FnOnce(&[f32]) -> R) -> R {
    match place_of(&tensor.device()) {
        Place::Flex => read_as::<Flex, D, R>(tensor, read),
        #[cfg(feature = "libtorch")]
        Place::LibTorch => read_as::<libtorch::LibTorch, D, R>(tensor, read),
        #[cfg(feature = "libtorch-cuda")]
        Place::Elsewhere => {
            let data = tensor.without_autodiff().into_data();
            read(data.as_slice().expect("float tensors of this crate are f32"))
        }
    }
}

/// Writes the values of a tensor, row-major, to `out`.
///
/// # Panics
///
/// If the lengths differ.
pub(crate) fn copy_to<const D: usize>(tensor: Tensor<D>, out: &mut [f32]) {
    with_values(tensor, |values| out.copy_from_slice(values));
}

/// Values of several tensors, one after another, in one piece of memory. Where the backend can, the tensors lie in it.
pub(crate) struct SharedValues(FlexTensor);

impl SharedValues {
    /// Takes over a vector; no copy.
    pub(crate) fn new(values: Vec<f32>) -> Self {
        let shape = Shape::from([values.len()]);
        Self(Flex::from_values(values, shape))
    }

    /// All values.
    pub(crate) fn values(&self) -> &[f32] {
        self.0.storage()
    }

    /// A tensor of the values from `start` on, outside of autodiff; it lies there where the backend can.
    ///
    /// # Panics
    ///
    /// If there are fewer values.
    pub(crate) fn tensor<const D: usize>(
        &self,
        start: usize,
        shape: [usize; D],
        device: &Device,
    ) -> Tensor<D> {
        let end = start + shape.iter().product::<usize>();
        assert!(end <= self.values().len(), "values of a tensor of shape {shape:?} from {start} on");
        match place_of(device) {
            Place::Flex => {
                let shape = Shape::from(shape);
                let strides = Layout::contiguous(shape.clone()).strides().to_vec();
                let layout = Layout::new(shape, strides, start);
                Tensor::from_primitive::<Flex>(FlexTensor::from_arc(self.0.data_arc(), layout, DType::F32))
            }
            #[cfg(feature = "libtorch")]
            _ => from_values(self.values()[start..end].to_vec(), shape, device),
        }
    }

    /// The memory that a tensor lies in, if that is of this kind.
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        match place_of(&tensor.device()) {
            Place::Flex => Some(Self(primitive::<Flex, D>(tensor.clone()))),
            #[cfg(feature = "libtorch")]
            _ => None,
        }
    }

    /// As [`SharedValues::tensor`], with the shape of `old`; what does not lie here is written to `old` itself if nobody else
    /// holds it.
    ///
    /// # Panics
    ///
    /// If there are fewer values.
    pub(crate) fn put<const D: usize>(&self, old: Tensor<D>, start: usize) -> Tensor<D> {
        match place_of(&old.device()) {
            #[cfg(feature = "libtorch")]
            Place::LibTorch => {
                let values = &self.values()[start..start + old.shape().num_elements()];
                let new = libtorch::overwrite(primitive::<libtorch::LibTorch, D>(old), values);
                Tensor::from_primitive::<libtorch::LibTorch>(new)
            }
            _ => self.tensor(start, old.dims(), &old.device()),
        }
    }

    /// The whole memory as a vector, if no tensor lies in it any more; no copy.
    pub(crate) fn into_values(self) -> Option<Vec<f32>> {
        let memory = self.0.data_arc();
        drop(self.0);
        Arc::try_unwrap(memory).ok()?.try_into_vec().ok()
    }
}

/// Makes a tensor of values, row-major, outside of autodiff.
///
/// # Panics
///
/// If the length is not the product of the shape.
pub(crate) fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "values of a tensor of shape {shape:?}");
    match place_of(device) {
        // No copy.
        Place::Flex => Tensor::from_primitive::<Flex>(Flex::from_values(values, Shape::from(shape))),
        #[cfg(feature = "libtorch")]
        _ => {
            let data = burn::tensor::TensorData::new(values, shape);
            Tensor::from_data(data, &device.clone().without_autodiff())
        }
    }
}

fn primitive<B: Raw, const D: usize>(tensor: Tensor<D>) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    B::contiguous(tensor.without_autodiff().try_into_primitive::<B>().expect("its device says where it lies"))
}

fn read_as<B: Raw, const D: usize, R>(tensor: Tensor<D>, read: impl FnOnce(&[f32]) -> R) -> R
where
    DispatchTensor: DispatchKindConversion<B>,
{
    read(B::values(&primitive::<B, D>(tensor)))
}
