//! The entries of `data.sources`: a path, or a path with a weight.
//!
//! Owns their two forms in TOML. What a path may be, and what a weight does, is the business of bert-data.

use serde::{Deserialize, Serialize};

/// An entry of `data.sources`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path, or { path = \"..\", weight = 2.0 }")]
pub enum SourceSection {
    /// File, folder or glob.
    Path(String),
    /// The same with a weight.
    Weighted(WeightedSource),
}

/// An entry of `data.sources` with a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedSource {
    /// File, folder or glob.
    pub path: String,
    /// How often the text is read in an epoch; once if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

impl SourceSection {
    /// File, folder or glob.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) | Self::Weighted(WeightedSource { path, .. }) => path,
        }
    }

    /// How often the text is read in an epoch.
    #[must_use]
    pub fn weight(&self) -> f64 {
        match self {
            Self::Path(_) | Self::Weighted(WeightedSource { weight: None, .. }) => 1.0,
            Self::Weighted(WeightedSource { weight: Some(weight), .. }) => *weight,
        }
    }
}
