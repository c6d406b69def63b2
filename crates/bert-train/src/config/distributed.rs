//! `[distributed]`: what travels between ranks, and whether their number shows in the bits.

use bert_coordinator::sums_like_one_rank;
use serde::{Deserialize, Serialize};

use super::Config;

/// `[distributed]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistributedSection {
    /// Who holds the optimizer's moments.
    pub optimizer_state: OptimizerState,
    /// Form of gradients between ranks.
    pub wire: Wire,
    /// Whether gradients and parameters travel while the step goes on; otherwise when there is nothing else to do.
    pub overlap: bool,
    /// A rank that is silent for longer is named and the run ends.
    pub timeout_seconds: f64,
}

/// Value of `distributed.optimizer_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerState {
    /// Each rank holds its slice.
    Sharded,
    /// Each rank holds everything.
    Replicated,
}

/// Value of `distributed.wire`. Parameters always travel as f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// As they are.
    F32,
    /// The sum of each rank rounded once to bf16, then added in f32.
    Bf16,
}

impl From<Wire> for bert_coordinator::Wire {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::F32 => Self::F32,
            Wire::Bf16 => Self::Bf16,
        }
    }
}

impl Config {
    /// Why the weights of this run depend on its number of ranks; `None` if they do not.
    #[must_use]
    pub fn rank_dependence(&self, num_ranks: usize) -> Option<String> {
        if self.distributed.wire == Wire::Bf16 {
            let cause = "distributed.wire = \"bf16\" rounds the sum of each rank";
            return Some(format!(
                "{cause}: the weights differ in the last bits from those of any other number of ranks"
            ));
        }
        let num_slots = self.num_slots();
        (!sums_like_one_rank(num_slots, num_ranks)).then(|| {
            format!(
                "{num_slots} slots over {num_ranks} ranks: the weights differ in the last bits from those of 1, 2, 4 or 8 ranks"
            )
        })
    }
}
