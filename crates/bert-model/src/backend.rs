//! The device factory: which backends are compiled in, where their tensors live, how many threads they use.
//!
//! Beside the access to slices in `ops::raw`, the only place that names a backend. Decides nothing: the caller
//! chooses a [`BackendKind`].

// burn calls its LibTorch backend deprecated; that is why it is named here and in `ops` only.
#![cfg_attr(feature = "libtorch", allow(deprecated))]

use std::fmt;

use burn::tensor::Device;

use crate::error::ModelError;

/// Who computes, and where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// burn's pure Rust CPU backend; always compiled in.
    Flex,
    /// libtorch on the CPU; needs the cargo feature `libtorch`.
    LibTorch,
    /// libtorch on a CUDA device; needs the cargo feature `libtorch-cuda` and a libtorch with CUDA.
    LibTorchCuda {
        /// Index of the device on this machine.
        device_idx: usize,
    },
}

impl BackendKind {
    /// The name that configurations use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::LibTorch => "libtorch",
            Self::LibTorchCuda { .. } => "libtorch-cuda",
        }
    }

    /// How to get a program that holds the backend.
    #[must_use]
    pub fn how_to_build(self) -> &'static str {
        match self {
            Self::Flex => "it is in every build",
            Self::LibTorch => {
                "run `launch/setup.sh --libtorch`, then build with `cargo build --release --features libtorch`"
            }
            Self::LibTorchCuda { .. } => {
                "build with `cargo build --release --features libtorch-cuda`, where LIBTORCH names the folder of a \
                 libtorch 2.9.0 with CUDA"
            }
        }
    }

    /// Whether this program holds the backend.
    #[must_use]
    pub fn is_compiled_in(self) -> bool {
        match self {
            Self::Flex => true,
            Self::LibTorch => cfg!(feature = "libtorch"),
            Self::LibTorchCuda { .. } => cfg!(feature = "libtorch-cuda"),
        }
    }

    /// The CPU backends of this program, the embedded one first.
    #[must_use]
    pub fn compiled_in() -> Vec<Self> {
        [Self::Flex, Self::LibTorch].into_iter().filter(|kind| kind.is_compiled_in()).collect()
    }

    /// Fixes how many threads the backend's own operations use in this process.
    ///
    /// For flex it does nothing: its operations, and those of this crate, run in the caller's rayon pool.
    pub fn set_num_threads(self, num_threads: usize) {
        match self {
            Self::Flex => {}
            Self::LibTorch | Self::LibTorchCuda { .. } => set_libtorch_threads(num_threads),
        }
    }

    /// The device, without autodiff.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotCompiledIn`]; [`ModelError::NoDevice`] if the machine or its libtorch has no such device.
    pub(crate) fn device(self) -> Result<Device, ModelError> {
        match self {
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "libtorch")]
            Self::LibTorch => Ok(Device::libtorch()),
            #[cfg(feature = "libtorch-cuda")]
            Self::LibTorchCuda { device_idx } => cuda_device(device_idx),
            #[cfg(not(feature = "libtorch-cuda"))]
            _ => Err(ModelError::NotCompiledIn { backend: self }),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LibTorchCuda { device_idx } => write!(f, "{} (device {device_idx})", self.name()),
            _ => f.write_str(self.name()),
        }
    }
}

#[cfg(feature = "libtorch-cuda")]
fn cuda_device(device_idx: usize) -> Result<Device, ModelError> {
    let num_devices = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    let num_devices = usize::try_from(num_devices).unwrap_or(0);
    if device_idx < num_devices {
        Ok(Device::libtorch_cuda(device_idx))
    } else {
        Err(ModelError::NoDevice { device_idx, num_devices })
    }
}

#[cfg(feature = "libtorch")]
fn set_libtorch_threads(num_threads: usize) {
    use std::sync::Once;

    // libtorch refuses a second call; operations that run side by side would compete for the same cores.
    static ONE_OPERATION_AT_A_TIME: Once = Once::new();

    ONE_OPERATION_AT_A_TIME.call_once(|| tch::set_num_interop_threads(1));
    tch::set_num_threads(i32::try_from(num_threads).unwrap_or(i32::MAX));
}

#[cfg(not(feature = "libtorch"))]
fn set_libtorch_threads(_num_threads: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiled_in_backends_have_devices_and_others_say_how_to_get_them() {
        let compiled_in = BackendKind::compiled_in();
        assert_eq!(compiled_in[0], BackendKind::Flex);
        for kind in [BackendKind::Flex, BackendKind::LibTorch] {
            assert_eq!(kind.is_compiled_in(), compiled_in.contains(&kind));
            match kind.device() {
                Ok(_) => assert!(kind.is_compiled_in()),
                Err(error) => {
                    assert!(!kind.is_compiled_in());
                    assert!(error.to_string().contains("--features libtorch"), "{error}");
                }
            }
        }
        let absent = BackendKind::LibTorchCuda { device_idx: 99 };
        assert!(absent.device().is_err());
        assert_eq!(absent.to_string(), "libtorch-cuda (device 99)");
    }

    #[cfg(feature = "libtorch")]
    #[test]
    fn the_number_of_threads_reaches_libtorch() {
        for num_threads in [2, 1] {
            BackendKind::LibTorch.set_num_threads(num_threads);
            assert_eq!(tch::get_num_threads(), num_threads as i32);
            assert_eq!(tch::get_num_interop_threads(), 1);
        }
    }
}
