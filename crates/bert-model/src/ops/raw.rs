//! Tensors as plain slices: the one place that knows how a backend stores them.
//!
//! [`Raw`] is what the handwritten ops ask of a backend. The free functions do the same for whole [`Tensor`]s
//! outside of an op. Nothing here computes.

use burn::{
    Tensor,
    backend::{
        Backend, Flex,
        flex::{FlexTensor, Layout},
        tensor::FloatTensor,
    },
    tensor::{Bytes, DType, Shape},
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

    /// The values of a contiguous tensor, for writing; copies them first if somebody else holds the tensor.
    ///
    /// # Panics
    ///
    /// If the tensor is not contiguous or not `f32`.
    fn values_mut(tensor: &mut FloatTensor<Self>) -> &mut [f32];

    /// Wraps values, row-major, without a copy.
    fn from_values(values: Vec<f32>, shape: Shape) -> FloatTensor<Self>;
}

impl Raw for Flex {
    fn contiguous(tensor: FlexTensor) -> FlexTensor {
        match tensor.as_slice::<f32>() {
            Some(values) if values.len() == tensor.storage::<f32>().len() => tensor,
            _ => tensor.to_contiguous(),
        }
    }

    fn values(tensor: &FlexTensor) -> &[f32] {
        tensor.as_slice().expect("ops make their operands contiguous f32 first")
    }

    fn values_mut(tensor: &mut FlexTensor) -> &mut [f32] {
        assert!(
            tensor.is_contiguous() && tensor.layout().start_offset() == 0,
            "ops write whole tensors only"
        );
        tensor.storage_mut()
    }

    fn from_values(values: Vec<f32>, shape: Shape) -> FlexTensor {
        FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
    }
}

/// Calls `read` with the values of a tensor, row-major; copies only if it is strided.
pub(crate) fn with_values<const D: usize, R>(tensor: Tensor<D>, read: impl FnOnce(&[f32]) -> R) -> R {
    let primitive = Flex::contiguous(into_flex(tensor));
    read(Flex::values(&primitive))
}

/// Writes the values of a tensor, row-major, to `out`.
///
/// # Panics
///
/// If the lengths differ.
pub(crate) fn copy_to<const D: usize>(tensor: Tensor<D>, out: &mut [f32]) {
    with_values(tensor, |values| out.copy_from_slice(values));
}

/// Replaces the values of a tensor; in place if nobody else holds it. The result is outside of autodiff.
///
/// # Panics
///
/// If the lengths differ.
pub(crate) fn overwrite<const D: usize>(tensor: Tensor<D>, values: &[f32]) -> Tensor<D> {
    let mut primitive = Flex::contiguous(into_flex(tensor));
    Flex::values_mut(&mut primitive).copy_from_slice(values);
    Tensor::from_primitive::<Flex>(primitive)
}

/// Wraps values, row-major, as a tensor outside of autodiff; no copy.
///
/// # Panics
///
/// If the length is not the product of the shape.
pub(crate) fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "values of a tensor of shape {shape:?}");
    Tensor::from_primitive::<Flex>(Flex::from_values(values, Shape::from(shape)))
}

fn into_flex<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor.without_autodiff().try_into_primitive::<Flex>().expect("every device of this crate is flex")
}
