//! What `--debug` checks after every step beside what every run checks.
//!
//! Owns the comparison of parameters between ranks. Changes nothing.

use std::collections::BTreeMap;

use bert_coordinator::Coordinator;

use crate::{error::TrainError, task::TaskModel};

/// Compares every parameter with the other ranks, bit by bit.
///
/// # Errors
///
/// [`TrainError::UnequalParameters`] on every rank, with the first parameter that differs.
pub fn check_equal_parameters<M: TaskModel>(
    coordinator: &Coordinator,
    model: &M,
    step: u64,
) -> Result<(), TrainError> {
    let (mut hashes, mut names) = (Vec::new(), Vec::new());
    for (idx, bucket) in model.layout().buckets.iter().enumerate() {
        let mut values = vec![0.0_f32; bucket.num_elements];
        model.read_bucket(idx, &mut values);
        for spec in &bucket.parameters {
            let own = &values[spec.offset..spec.offset + spec.num_elements];
            hashes.extend_from_slice(blake3::hash(bytemuck::cast_slice(own)).as_bytes());
            names.push(spec.name.as_str());
        }
    }
    let gathered = coordinator.all_gather_bytes(&format!("parameters after step {step}"), &hashes)?;
    match first_difference(&gathered, &names) {
        None => Ok(()),
        Some((what, groups)) => Err(TrainError::UnequalParameters { step, what, groups }),
    }
}

/// The first name whose hashes are not all equal, how many more there are, and who agrees with whom.
fn first_difference(gathered: &[Vec<u8>], names: &[&str]) -> Option<(String, String)> {
    let hash_of = |rank: usize, idx: usize| gathered[rank].as_chunks::<{ blake3::OUT_LEN }>().0.get(idx);
    let differs = |idx: &usize| (1..gathered.len()).any(|rank| hash_of(rank, *idx) != hash_of(0, *idx));
    let differing: Vec<usize> = (0..names.len()).filter(differs).collect();
    let first = *differing.first()?;
    let mut groups: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for rank in 0..gathered.len() {
        groups.entry(hash_of(rank, first)).or_default().push(rank.to_string());
    }
    let mut groups: Vec<Vec<String>> = groups.into_values().collect();
    groups.sort();
    let groups: Vec<String> = groups.iter().map(|ranks| format!("[{}]", ranks.join(", "))).collect();
    let more = match differing.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some((format!("`{}`{more}", names[first]), groups.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ranks: &[[u8; 2]], expected: Option<(&str, &str)>) {
        let gathered: Vec<Vec<u8>> = ranks.iter().map(|r| [[r[0]; 32], [r[1]; 32]].concat()).collect();
        let found = first_difference(&gathered, &["a", "b"]);
        assert_eq!(found.as_ref().map(|(what, groups)| (what.as_str(), groups.as_str())), expected);
    }

    #[test]
    fn the_first_difference_is_named_with_its_ranks() {
        check(&[[1, 2], [1, 2], [1, 2]], None);
        check(&[[1, 2]], None);
        check(&[[1, 2], [1, 3], [1, 2]], Some(("`b`", "[0, 2], [1]")));
        check(&[[1, 2], [1, 2], [0, 3]], Some(("`a` (and 1 more)", "[0, 1], [2]")));
    }
}
