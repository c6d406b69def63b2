//! `bert-train`: the way from the command line to an exit code.
//!
//! Owns printing and exiting. Everything else is in the library.

use std::{env, process::ExitCode, thread, time::Duration};

use bert_coordinator::{Coordinator, CoordinatorError, LauncherInfo, detect_launcher};
use bert_kernels::huge_pages::{HugePages, keep_freed_memory};
use bert_train::{
    arrival::Arrival,
    cli::Arguments,
    config::{self, Config},
    error::{EXIT_DONE, EXIT_STOPPED, TrainError, chain_of},
    failure_record, launch,
    peers::{Peers, Watch},
    ranks::agree,
    run_dir::RunDir,
    session::Outcome,
    signals::StopFlag,
};
use clap::Parser;

/// A step streams through hundreds of megabytes.
#[global_allocator]
static ALLOCATOR: HugePages = HugePages;

fn main() -> ExitCode {
    keep_freed_memory();
    let arguments = Arguments::parse();
    let launcher = detect_launcher(|name| env::var(name).ok());
    let exit_code = match run(&arguments, launcher.as_ref()) {
        Ok(exit_code) => exit_code,
        Err(error) => {
            // What comes before the ranks know each other ends here. Every rank sees it alike, unless some are missing:
            // rank 0 speaks, and its end makes the launcher end the others, which otherwise speak for themselves.
            let is_first = launcher.as_ref().is_none_or(|launcher| launcher.rank == 0);
            if !is_first && error.broken_exchange().is_some() {
                wait_for_launcher();
            }
            if is_first || error.broken_exchange().is_some() {
                print_error(&error);
            }
            error.exit_code()
        }
    };
    ExitCode::from(u8::try_from(exit_code).unwrap_or(1))
}

/// How long a rank that need not speak leaves the others to say and note why the run ends.
const GRACE: Duration = Duration::from_secs(2);

fn print_error(error: &TrainError) {
    print_message(&chain_of(error));
}

#[expect(clippy::print_stderr, reason = "the one place that prints an error")]
fn print_message(message: &str) {
    eprintln!("error: {message}");
}

#[expect(clippy::print_stdout, reason = "the answer to --print-config and --dry-run")]
fn print(text: &str) {
    println!("{text}");
}

fn run(arguments: &Arguments, launcher: Option<&LauncherInfo>) -> Result<i32, TrainError> {
    let stop =
        StopFlag::install().map_err(|error| TrainError::Setup(format!("no signal handler: {error}")))?;
    let loaded = config::load(&arguments.config, &arguments.all_overrides()).map_err(TrainError::from);
    if arguments.print_config || arguments.dry_run {
        let config = loaded?;
        if launcher.is_none_or(|launcher| launcher.rank == 0) {
            print(&launch::describe(&config, arguments.dry_run, launcher)?);
        }
        return Ok(EXIT_DONE);
    }
    if arguments.debug {
        return run_debug(&loaded?, launcher, &stop);
    }
    run_ranks(loaded, launcher, &stop)
}

/// `--debug`: the ranks are threads of this process.
fn run_debug(config: &Config, launcher: Option<&LauncherInfo>, stop: &StopFlag) -> Result<i32, TrainError> {
    if launcher.is_some_and(LauncherInfo::has_peers) {
        let message = "--debug makes its own ranks (--debug-ranks N); start it without a launcher";
        return Err(TrainError::Usage(message.to_string()));
    }
    for sample in launch::debug(config, stop)? {
        print(&sample);
    }
    print("debug: every check held");
    Ok(EXIT_DONE)
}

/// One rank of the run: alone, or of a launcher.
fn run_ranks(
    loaded: Result<Config, TrainError>,
    launcher: Option<&LauncherInfo>,
    stop: &StopFlag,
) -> Result<i32, TrainError> {
    let timeout_seconds = loaded.as_ref().map_or(60.0, |config| config.distributed.timeout_seconds);
    let arrival = launcher.and_then(|launcher| Arrival::announce(launcher, |name| env::var(name).ok()));
    let coordinator = match launch::connect(launcher, timeout_seconds) {
        Ok(coordinator) => coordinator,
        Err(error) => return report_absence(error, arrival),
    };
    drop(arrival);
    let rank = coordinator.world().rank();
    let run_dir = loaded.as_ref().ok().map(|config| RunDir::new(config.run_dir()));
    failure_record::install_panic_hook(coordinator.abort_handle(), rank, run_dir.clone(), print_message);
    let mut peers = None;
    let result = agree(&coordinator, "configuration", loaded).and_then(|config| {
        let met = &*peers.insert(Peers::meet(&coordinator)?);
        let _watch = Watch::start(met.clone(), run_dir.clone(), coordinator.abort_handle(), print_message)?;
        launch::run_rank(&config, &coordinator, launcher, stop, false).map(|run| run.outcome)
    });
    match result {
        Ok(Outcome::Done) => Ok(leave(coordinator, EXIT_DONE)),
        Ok(Outcome::Stopped) => Ok(leave(coordinator, EXIT_STOPPED)),
        Err(error) => {
            let is_speaker = is_speaker(&error, rank);
            let lost = error.broken_exchange().map_or(&[][..], CoordinatorError::lost_ranks);
            let known = peers.map_or(String::new(), |peers| peers.describe(lost));
            let message = chain_of(&error) + &known;
            if is_speaker {
                print_message(&message);
            }
            failure_record::write_message(run_dir.as_ref(), rank, error.exit_code(), &message);
            Ok(end(coordinator, &error, (!is_speaker).then_some(&message)))
        }
    }
}

/// Says which ranks did not come to the others, where that can be known; returns the exit code.
fn report_absence(error: TrainError, arrival: Option<Arrival>) -> Result<i32, TrainError> {
    let Some(arrival) = arrival.filter(|_| error.broken_exchange().is_some()) else { return Err(error) };
    let seen = arrival.look();
    if !seen.is_speaker {
        wait_for_launcher();
    }
    print_message(&(chain_of(&error) + &seen.text));
    // The others are about to look as well: a rank that is gone by then would be taken for one that did not come.
    wait_for_speaker();
    Ok(error.exit_code())
}

/// Rank 0 speaks for all; if it is gone, the lowest rank that is left.
fn is_speaker(error: &TrainError, rank: usize) -> bool {
    let gone = error.broken_exchange().map_or(&[][..], CoordinatorError::lost_ranks);
    (0..).find(|candidate| !gone.contains(candidate)) == Some(rank)
}

/// Leaves together with the other ranks.
fn leave(coordinator: Coordinator, exit_code: i32) -> i32 {
    let rank = coordinator.world().rank();
    match coordinator.shutdown() {
        Ok(()) => exit_code,
        Err(error) => {
            let error = TrainError::from(error);
            if is_speaker(&error, rank) {
                print_error(&error);
            } else {
                wait_for_speaker();
            }
            error.exit_code()
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the job must not end before the speaker has spoken")]
fn wait_for_speaker() {
    thread::sleep(GRACE);
}

/// The launcher ends the other ranks when one has ended, which takes Open MPI's mpirun about two seconds.
#[allow(clippy::disallowed_methods, reason = "the speaker has spoken already, if it is there")]
fn wait_for_launcher() {
    thread::sleep(3 * GRACE);
}

/// Ends after an error: together where all ranks know of it, by force where one of them is gone. What is `unsaid` gets said
/// if the speaker, which may wait elsewhere with another deadline, has not ended this rank meanwhile.
fn end(coordinator: Coordinator, error: &TrainError, unsaid: Option<&String>) -> i32 {
    let exit_code = error.exit_code();
    if error.broken_exchange().is_some() {
        if let Some(message) = unsaid {
            wait_for_launcher();
            print_message(message);
        }
        coordinator.abort(exit_code);
        return exit_code;
    }
    // A peer that does not come any more was ended by the launcher; the error has been printed already.
    let _ = coordinator.shutdown();
    exit_code
}
