//! Decisions that all ranks take together: did everybody succeed, is everybody the same?

use serde::{Deserialize, Serialize};

use crate::coordinator::Coordinator;
use crate::error::CoordinatorError;

/// A failure as it travels between ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code that the run shall end with.
    pub exit_code: i32,
    /// What went wrong, with its causes, on one line.
    pub message: String,
}

impl From<CoordinatorError> for Failure {
    fn from(err: CoordinatorError) -> Failure {
        Failure { exit_code: err.exit_code(), message: err.chain() }
    }
}

impl Coordinator {
    /// Returns `Ok` on every rank, or on every rank the failure of the lowest rank that failed.
    ///
    /// The message names that rank unless all ranks failed alike. All ranks pass the same `phase`.
    ///
    /// # Errors
    ///
    /// The shared failure. If the ranks cannot even exchange their results: the own failure where
    /// there is one, otherwise what broke the exchange.
    pub fn agree<T>(&self, phase: &str, local: Result<T, Failure>) -> Result<T, Failure> {
        self.try_agree(phase, local)?
    }

    /// As [`Coordinator::agree`], but tells what all ranks know from what broke the exchange: `Ok` holds
    /// the shared result.
    ///
    /// # Errors
    ///
    /// What broke the exchange, unless this rank has a failure of its own, which is then the result.
    pub fn try_agree<T>(
        &self,
        phase: &str,
        local: Result<T, Failure>,
    ) -> Result<Result<T, Failure>, CoordinatorError> {
        let own = local.as_ref().err();
        let gathered = to_message(&own).and_then(|message| self.all_gather_bytes(phase, &message));
        let all = gathered.and_then(|all| from_messages::<Option<Failure>>(phase, &all));
        match (all, local) {
            (Ok(all), Ok(value)) => Ok(shared_failure(all).map_or(Ok(value), Err)),
            (Ok(all), Err(own)) => Ok(Err(shared_failure(all).unwrap_or(own))),
            (Err(_), Err(own)) => Ok(Err(own)),
            (Err(err), Ok(_)) => Err(err),
        }
    }

    /// Checks that named values are equal on all ranks: program version, configuration, layout,
    /// corpus, precision.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::Handshake`] on every rank, naming the first item that differs and the
    /// ranks on each side; [`CoordinatorError::PeerFailed`] and the other errors of waiting.
    pub fn check_equal(&self, items: &[(&str, String)]) -> Result<(), CoordinatorError> {
        let phase = "handshake";
        let gathered = self.all_gather_bytes(phase, &to_message(&items)?)?;
        let ranks: Vec<Vec<(String, String)>> = from_messages(phase, &gathered)?;
        let names = |items: &Vec<(String, String)>| {
            items.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        };
        all_equal("the list of compared items", ranks.iter().map(names))?;
        for (item_idx, (name, _)) in items.iter().enumerate() {
            all_equal(name, ranks.iter().map(|items| items[item_idx].1.clone()))?;
        }
        Ok(())
    }
}

/// The failure of the lowest failing rank, as every rank shall report it.
fn shared_failure(all: Vec<Option<Failure>>) -> Option<Failure> {
    let alike = all.iter().all(|failure| *failure == all[0]);
    let num_failed = all.iter().flatten().count();
    let (rank, mut first) = all.into_iter().enumerate().find_map(|(rank, failure)| Some((rank, failure?)))?;
    if !alike {
        let others = match num_failed - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        first.message = format!("rank {rank}{others}: {}", first.message);
    }
    Some(first)
}

fn all_equal(item: &str, values: impl Iterator<Item = String>) -> Result<(), CoordinatorError> {
    let values: Vec<(usize, String)> = values.enumerate().collect();
    if values.iter().all(|(_, value)| *value == values[0].1) {
        return Ok(());
    }
    Err(CoordinatorError::Handshake { item: item.to_owned(), values })
}

fn to_message<T: Serialize>(value: &T) -> Result<Vec<u8>, CoordinatorError> {
    Ok(serde_json::to_vec(value).expect("strings and numbers always have a JSON form"))
}

fn from_messages<T: for<'de> Deserialize<'de>>(
    phase: &str,
    all: &[Vec<u8>],
) -> Result<Vec<T>, CoordinatorError> {
    let read = |(rank, message): (usize, &Vec<u8>)| {
        let unreadable = |_| CoordinatorError::UnreadableMessage { phase: phase.to_owned(), rank };
        serde_json::from_slice(message).map_err(unreadable)
    };
    all.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(message: &str) -> Option<Failure> {
        Some(Failure { exit_code: 3, message: message.to_owned() })
    }

    #[track_caller]
    fn check(all: &[Option<Failure>], expected: Option<&str>) {
        let shared = shared_failure(all.to_vec());
        assert_eq!(shared.as_ref().map(|failure| failure.message.as_str()), expected);
    }

    #[test]
    fn the_lowest_failing_rank_speaks_for_all() {
        check(&[None, None], None);
        check(&[None, failure("no shard"), None], Some("rank 1: no shard"));
        check(&[None, failure("no shard"), failure("no disk")], Some("rank 1 (and 1 more): no shard"));
        check(&[failure("bad key"), failure("bad key")], Some("bad key"));
        check(&[failure("bad key")], Some("bad key"));
    }
}
