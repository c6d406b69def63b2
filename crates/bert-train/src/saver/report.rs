//! What a rank tells the others about a save in the background; part of the control word.
//!
//! Owns the stages and their numbers. What follows from the reports of all ranks is decided in [`super::save`].

/// How far a rank is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveStage {
    /// Nothing to tell: no save, or one that is being written.
    #[default]
    Silent,
    /// The own files are on disk.
    Written,
    /// Rank 0: the checkpoint has its name.
    Finished,
    /// The save failed on this rank.
    Failed,
}

impl SaveStage {
    const ALL: [Self; 4] = [Self::Silent, Self::Written, Self::Finished, Self::Failed];

    /// The stage as a number.
    #[must_use]
    pub fn tag(self) -> u64 {
        self as u64
    }

    /// The stage of a number; `None` if there is no such stage.
    #[must_use]
    pub fn from_tag(tag: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(tag).ok()?).copied()
    }
}

/// A stage with what goes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveReport {
    /// How far.
    pub stage: SaveStage,
    /// Written: the own files as JSON. Failed: exit code and reason as JSON. Otherwise empty.
    pub text: String,
}
