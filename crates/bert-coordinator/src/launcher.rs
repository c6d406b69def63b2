//! Which launcher started this process, told from its environment variables alone.
//!
//! Reads no environment itself (the caller passes a lookup) and starts nothing. The answer decides
//! whether MPI is initialised; rank and size are then asked of MPI.

/// What a launcher has told this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LauncherInfo {
    /// Name of the launcher, for messages.
    pub name: &'static str,
    /// Rank of this process.
    pub rank: usize,
    /// Number of ranks; `None` where the launcher does not tell (plain PMIx).
    pub num_ranks: Option<usize>,
}

impl LauncherInfo {
    /// Whether this process has peers, or may have.
    pub fn has_peers(&self) -> bool {
        self.num_ranks != Some(1)
    }
}

/// Launchers with their variables for rank and size; the first that matches wins.
///
/// For Slurm the size is that of the job *step*: `SLURM_NTASKS` is also set in a batch script,
/// where no `srun` has started anything.
const LAUNCHERS: [(&str, &str, Option<&str>); 5] = [
    ("Open MPI mpirun", "OMPI_COMM_WORLD_RANK", Some("OMPI_COMM_WORLD_SIZE")),
    ("MVAPICH mpirun", "MV2_COMM_WORLD_RANK", Some("MV2_COMM_WORLD_SIZE")),
    ("Slurm srun", "SLURM_PROCID", Some("SLURM_STEP_NUM_TASKS")),
    ("PMI mpiexec", "PMI_RANK", Some("PMI_SIZE")),
    ("PMIx", "PMIX_RANK", None),
];

/// Detects the launcher; `None` if this process was started on its own.
///
/// `variable` looks up an environment variable. Values that are no rank count as not set.
pub fn detect_launcher(variable: impl Fn(&str) -> Option<String>) -> Option<LauncherInfo> {
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    LAUNCHERS.iter().find_map(|&(name, rank, size)| {
        let rank = number(rank)?;
        let num_ranks = match size {
            Some(size) => Some(number(size).filter(|size| rank < *size)?),
            None => None,
        };
        Some(LauncherInfo { name, rank, num_ranks })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], expected: Option<(&str, usize, Option<usize>)>) {
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let got = detect_launcher(lookup);
        assert_eq!(got.as_ref().map(|info| (info.name, info.rank, info.num_ranks)), expected);
    }

    #[test]
    fn launchers_are_told_apart() {
        check(&[], None);
        check(
            &[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4"), ("PMIX_RANK", "3")],
            Some(("Open MPI mpirun", 3, Some(4))),
        );
        check(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")], Some(("PMI mpiexec", 0, Some(2))));
        check(&[("PMIX_RANK", "1")], Some(("PMIx", 1, None)));
        check(&[("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2")], Some(("Slurm srun", 1, Some(2))));
    }

    #[test]
    fn a_batch_script_without_srun_is_no_launcher() {
        check(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")], None);
    }

    #[test]
    fn nonsense_counts_as_not_set() {
        check(&[("PMI_RANK", "first"), ("PMI_SIZE", "2")], None);
        check(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")], None);
    }
}
