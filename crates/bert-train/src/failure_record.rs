//! errors/rank-N.json: the first failure of a rank.
//!
//! Owns the file and the panic hook, which ends the whole job so that no peer waits for a dead rank.

use std::{
    panic,
    time::{SystemTime, UNIX_EPOCH},
};

use bert_coordinator::AbortHandle;
use serde_json::json;

use crate::{
    error::{EXIT_FAILURE, TrainError, chain_of},
    run_dir::{RunDir, write_file},
};

/// Writes the failure of a rank; does nothing before there is a run folder.
pub fn write(run_dir: Option<&RunDir>, rank: usize, error: &TrainError) {
    write_message(run_dir, rank, error.exit_code(), &chain_of(error));
}

fn write_message(run_dir: Option<&RunDir>, rank: usize, exit_code: i32, message: &str) {
    let Some(path) = run_dir.map(|run_dir| run_dir.error(rank)) else { return };
    if !path.parent().is_some_and(|folder| folder.is_dir()) {
        return;
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let record = json!({"unix_seconds": seconds, "rank": rank, "exit_code": exit_code, "message": message});
    if let Err(error) = write_file(&path, record.to_string().as_bytes()) {
        tracing::warn!("{}", chain_of(&error));
    }
}

/// After a panic of any thread: writes the record and ends all ranks.
pub fn install_panic_hook(abort: AbortHandle, rank: usize, run_dir: Option<RunDir>) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        write_message(run_dir.as_ref(), rank, EXIT_FAILURE, &format!("panic: {info}"));
        abort.abort(EXIT_FAILURE);
    }));
}
