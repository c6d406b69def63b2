//! How a model computes: on which backend, in which precision, in which form of its stages.

use bert_kernels::gemm::Precision;

use crate::{backend::BackendKind, error::ModelError};

/// Whether stages run as single operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageForm {
    /// A whole stage is one handwritten operation on packed tokens. Needs tensors in main memory.
    Fused,
    /// Stages are made of burn's own operations: slow, and everywhere; the reference.
    Composed,
}

/// Everything about a model that is not its configuration and not its weights.
///
/// A [`BackendKind`] alone stands for f32, fused where it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    /// Where tensors live.
    pub backend: BackendKind,
    /// What the operands of matrix products are rounded to. Parameters, gradients, sums and everything between two
    /// products are f32 in both cases.
    pub precision: Precision,
    /// How stages run.
    pub form: StageForm,
}

impl From<BackendKind> for Compute {
    fn from(backend: BackendKind) -> Self {
        let form = match backend {
            BackendKind::Flex | BackendKind::LibTorch => StageForm::Fused,
            BackendKind::LibTorchCuda { .. } => StageForm::Composed,
        };
        Self { backend, precision: Precision::F32, form }
    }
}

impl Compute {
    /// Refuses what cannot be computed.
    pub(crate) fn validate(self) -> Result<(), ModelError> {
        let in_main_memory = !matches!(self.backend, BackendKind::LibTorchCuda { .. });
        if self.form == StageForm::Fused && !in_main_memory {
            return Err(ModelError::NotFused { backend: self.backend });
        }
        if self.form == StageForm::Composed && self.precision == Precision::Bf16 {
            return Err(ModelError::ComposedBf16 { backend: self.backend });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let flex = Compute::from(BackendKind::Flex);
        assert_eq!((flex.form, flex.precision), (StageForm::Fused, Precision::F32));
        assert!(flex.validate().is_ok());
        assert!(Compute { precision: Precision::Bf16, ..flex }.validate().is_ok());
        let composed = Compute { form: StageForm::Composed, ..flex };
        assert!(composed.validate().is_ok());
        let error = Compute { precision: Precision::Bf16, ..composed }.validate().unwrap_err();
        assert!(error.to_string().contains("bf16"), "{error}");
        let cuda = Compute::from(BackendKind::LibTorchCuda { device_idx: 0 });
        assert_eq!(cuda.form, StageForm::Composed);
        let error = Compute { form: StageForm::Fused, ..cuda }.validate().unwrap_err();
        assert!(error.to_string().contains("main memory"), "{error}");
    }
}
