//! Which backend computes: what `device.backend` means on this machine and in this build, and why.
//!
//! Owns the choice only; what a backend is and whether it is compiled in is bert-model's business.

use bert_model::{BackendKind, Compute};

use crate::config::{Backend, ConfigError, Precision};

/// The backend of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who computes.
    pub kind: BackendKind,
    /// Why, in words for the log.
    pub reason: String,
}

impl Choice {
    /// How a model computes here in this precision.
    #[must_use]
    pub fn compute(&self, precision: Precision) -> Compute {
        Compute { precision: precision.into(), ..self.kind.into() }
    }
}

impl From<Precision> for bert_model::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// Chooses the backend of a rank; `local_rank` counts the ranks of one machine and names its CUDA device.
///
/// # Errors
///
/// [`ConfigError::Value`] for a backend that this program was built without.
pub fn choose(backend: Backend, local_rank: usize) -> Result<Choice, ConfigError> {
    let kind = match backend {
        Backend::Auto => return Ok(automatic()),
        Backend::Flex => BackendKind::Flex,
        Backend::LibTorch => BackendKind::LibTorch,
        Backend::LibTorchCuda => BackendKind::LibTorchCuda { device_idx: local_rank },
    };
    if kind.is_compiled_in() {
        Ok(Choice { kind, reason: format!("device.backend = \"{}\"", kind.name()) })
    } else {
        Err(ConfigError::Value {
            key: "device.backend",
            got: format!("\"{}\", which this program was built without", kind.name()),
            expected: format!("\"auto\" or \"flex\"; for {}: {}", kind.name(), kind.how_to_build()),
        })
    }
}

/// What `"auto"` takes among the CPU backends of this build: flex.
///
/// libtorch needs about the same processor time (docs/operating.md), which does not pay for what it gives up: with it
/// the bits depend on the threads of a rank, and `run.threads_per_rank = "auto"` follows the number of ranks. CUDA has
/// to be asked for: it was never measured.
fn automatic() -> Choice {
    let reason = match BackendKind::compiled_in().len() {
        1 => "the only backend compiled in",
        _ => {
            "device.backend = \"auto\"; as fast as libtorch within the noise, and no number of threads shows in its bits"
        }
    };
    Choice { kind: BackendKind::Flex, reason: reason.to_string() }
}

/// Place of this process among the ranks of its machine, as the launcher tells; 0 if none does.
#[must_use]
pub fn local_rank(variable: impl Fn(&str) -> Option<String>) -> usize {
    let names =
        ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"];
    names.iter().find_map(|name| variable(name)?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_taken_if_it_is_compiled_in_and_refused_with_a_way_to_get_it_otherwise() {
        let wanted = [
            (Backend::Flex, "flex"),
            (Backend::LibTorch, "libtorch"),
            (Backend::LibTorchCuda, "libtorch-cuda"),
        ];
        for (backend, name) in wanted {
            match choose(backend, 3) {
                Ok(choice) => {
                    assert!(choice.kind.is_compiled_in());
                    assert_eq!(
                        (choice.kind.name(), choice.reason),
                        (name, format!("device.backend = \"{name}\""))
                    );
                }
                Err(error) => {
                    let message = error.to_string();
                    assert!(!cfg!(feature = "libtorch-cuda") && backend != Backend::Flex, "{message}");
                    let feature = format!("--features {name}`");
                    assert!(message.contains("device.backend") && message.contains(&feature), "{message}");
                }
            }
        }
        assert!(choose(Backend::Auto, 0).is_ok_and(|choice| choice.kind.is_compiled_in()));
    }

    #[test]
    fn the_local_rank_is_what_the_launcher_says() {
        let slurm = |name: &str| (name == "SLURM_LOCALID").then(|| " 2".to_string());
        assert_eq!(local_rank(slurm), 2);
        assert_eq!(local_rank(|_| Some("none".to_string())), 0);
        assert_eq!(local_rank(|_| None), 0);
    }
}
