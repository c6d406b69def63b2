//! Slices of libtorch's tensors: the only `unsafe` of this crate.
//!
//! A slice is lent only while the tensor that owns the memory is borrowed, only of dense `f32` tensors in main
//! memory, and for writing only while nobody else holds that memory.

// burn calls its LibTorch backend deprecated; this module and the device factory name it, nothing else does.
#![allow(deprecated)]

use std::slice;

use burn::{
    backend::{LibTorchDevice, libtorch::TchTensor},
    tensor::{Shape, TensorData},
};

pub(super) use burn::backend::LibTorch;

use super::{Place, Raw};

pub(super) fn place_of(device: LibTorchDevice) -> Place {
    match device {
        LibTorchDevice::Cpu => Place::LibTorch,
        #[cfg(feature = "libtorch-cuda")]
        LibTorchDevice::Cuda(_) => Place::Elsewhere,
        other => unreachable!("the device factory makes no {other:?}"),
    }
}

impl Raw for LibTorch {
    fn contiguous(tensor: TchTensor) -> TchTensor {
        if tensor.tensor.is_contiguous() { tensor } else { TchTensor::new(tensor.tensor.contiguous()) }
    }

    #[expect(unsafe_code, reason = "libtorch hands out its memory as a pointer")]
    fn values(tensor: &TchTensor) -> &[f32] {
        let (start, len) = dense_memory(tensor);
        if len == 0 {
            return &[];
        }
        // SAFETY: the pointer is that of `len` consecutive initialised `f32` in main memory (`dense_memory`). They live as
        // long as `tensor`, which the result borrows. Whoever writes to them through this crate or burn asks first whether
        // the memory is held once, and the borrowed tensor holds it.
        unsafe { slice::from_raw_parts(start, len) }
    }

    fn from_values(values: Vec<f32>, shape: Shape) -> TchTensor {
        TchTensor::from_data::<f32>(TensorData::new(values, shape), LibTorchDevice::Cpu.into())
    }
}

/// Replaces the values of a contiguous tensor; in place if nobody else holds it.
///
/// # Panics
///
/// If the lengths differ.
#[expect(unsafe_code, reason = "libtorch hands out its memory as a pointer")]
pub(super) fn overwrite(mut tensor: TchTensor, values: &[f32]) -> TchTensor {
    if !tensor.can_mut() {
        tensor = TchTensor::new(tensor.tensor.copy());
    }
    let (start, len) = dense_memory(&tensor);
    assert_eq!(len, values.len(), "values for every place of a tensor");
    if len > 0 {
        // SAFETY: as in `Raw::values`; and no other tensor shares the memory (`can_mut`, or a fresh copy), while this one
        // is owned here.
        unsafe { slice::from_raw_parts_mut(start, len) }.copy_from_slice(values);
    }
    tensor
}

/// Start and length of a tensor's memory.
///
/// # Panics
///
/// If it is not dense, not `f32` or not in main memory.
fn dense_memory(tensor: &TchTensor) -> (*mut f32, usize) {
    let inner = &tensor.tensor;
    assert!(
        inner.device() == tch::Device::Cpu && inner.kind() == tch::Kind::Float && inner.is_contiguous(),
        "ops make their operands contiguous f32 in main memory first"
    );
    (inner.data_ptr().cast(), inner.numel())
}
