//! errors/rank-N.json: the first failure of a rank.
//!
//! Owns the file and the panic hook, which ends the whole job so that no peer waits for a dead rank.

use std::{
    fs,
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use bert_coordinator::AbortHandle;
use serde_json::json;

use crate::{
    error::{EXIT_FAILURE, chain_of},
    run_dir::{RunDir, write_file},
};

/// The step that this process is in; a panic has no other way to know it.
static STEP: AtomicU64 = AtomicU64::new(0);

/// Notes the step (from 1) that begins, for the record of a failure.
pub fn note_step(step: u64) {
    STEP.store(step, Ordering::Relaxed);
}

/// Writes the failure of a rank in words; does nothing before there is a run folder.
pub fn write_message(run_dir: Option<&RunDir>, rank: usize, exit_code: i32, message: &str) {
    let Some(path) = run_dir.map(|run_dir| run_dir.error(rank)) else { return };
    if !path.parent().is_some_and(|folder| folder.is_dir()) {
        return;
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let record = json!({
        "unix_seconds": seconds,
        "rank": rank,
        "step": STEP.load(Ordering::Relaxed),
        "exit_code": exit_code,
        "message": message,
    });
    if let Err(error) = write_file(&path, record.to_string().as_bytes()) {
        tracing::warn!("{}", chain_of(&error));
    }
}

/// Whether a rank has recorded a failure since then.
#[must_use]
pub fn has_record_since(run_dir: Option<&RunDir>, rank: usize, moment: SystemTime) -> bool {
    let Some(path) = run_dir.map(|run_dir| run_dir.error(rank)) else { return false };
    fs::metadata(path).and_then(|found| found.modified()).is_ok_and(|modified| modified >= moment)
}

/// That ranks have died without a word, in this step.
#[must_use]
pub fn describe_death(ranks: &[usize], what_is_known: &str) -> String {
    let names: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    format!(
        "step {}: rank {} was killed (out of memory, kill -9 or a crash){what_is_known}",
        STEP.load(Ordering::Relaxed),
        names.join(", ")
    )
}

/// After a panic of any thread: says it with `speak`, writes the record, and ends all ranks. Only the first panic counts.
pub fn install_panic_hook(abort: AbortHandle, rank: usize, run_dir: Option<RunDir>, speak: fn(&str)) {
    let has_panicked = AtomicBool::new(false);
    let trace = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            trace(info);
        }
        if !has_panicked.swap(true, Ordering::SeqCst) {
            let message = describe_panic(rank, STEP.load(Ordering::Relaxed), info);
            speak(&message);
            write_message(run_dir.as_ref(), rank, EXIT_FAILURE, &message);
        }
        abort.abort(EXIT_FAILURE);
    }));
}

fn describe_panic(rank: usize, step: u64, info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("no message");
    format!("rank {rank} panicked in step {step}: {message} ({place}); set RUST_BACKTRACE=1 for more")
}
