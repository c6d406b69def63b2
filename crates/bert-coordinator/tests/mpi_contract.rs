//! The contract of communicators and coordinators between processes: each test starts `mpirun` with
//! this very binary, in which every rank runs [`worker`]. Without `mpirun` they say "skipped".

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "the whole file is a test")]

use std::collections::HashSet;
use std::process::{self, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, panic, thread};

use bert_coordinator::{
    Communicator, Coordinator, CoordinatorError, CoordinatorOptions, Launch, MpiCommunicator, contract,
    detect_launcher,
};

/// Names the function that a rank runs.
const CASE: &str = "BERT_COORDINATOR_TEST_CASE";
/// After this time a case has failed and its processes are killed.
const HARD_LIMIT: Duration = Duration::from_secs(120);
const RANKS: [usize; 3] = [2, 3, 4];
/// What a rank says when its function has found everything as it must be.
const KEPT: &str = "this rank kept the contract";
/// Begins the name of a case in which rank 0 freezes; it ends with the moment, in milliseconds.
const MIDST: &str = "a rank freezes in the midst, after ";
const MIDST_ROUNDS: u64 = 3;
/// With what a job ends whose ranks were to fail.
const ABORT_CODE: i32 = 42;

/// How a job ended.
struct Ended {
    code: Option<i32>,
    output: String,
    seconds: f64,
}

/// Runs a case on `num_ranks` processes; `None` if this machine has no `mpirun`.
fn mpirun(num_ranks: usize, case: &str) -> Option<Ended> {
    if Command::new("mpirun").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("skipped: mpirun is not installed");
        return None;
    }
    let start = Instant::now();
    let mut child = Command::new("mpirun")
        .args(["-n", &num_ranks.to_string(), "--oversubscribe", "--bind-to", "none"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "worker", "--ignored", "--nocapture", "--test-threads", "1"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env(CASE, case)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdout, stderr) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > HARD_LIMIT {
            child.kill().unwrap();
            panic!("case {case} on {num_ranks} ranks hangs");
        }
        pause(Duration::from_millis(20));
    };
    let output = stdout.recv().unwrap() + &stderr.recv().unwrap();
    Some(Ended { code: status.code(), output, seconds: start.elapsed().as_secs_f64() })
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (text, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        text.send(String::from_utf8_lossy(&bytes).into_owned()).unwrap();
    });
    receiver
}

#[allow(clippy::disallowed_methods, reason = "a test waits for a process")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

/// Every rank must run to its end, and the job end with this exit code.
#[track_caller]
fn check_all(case: &str, code: i32) {
    let alone = (code == 0).then_some(1);
    for num_ranks in alone.into_iter().chain(RANKS) {
        let Some(ended) = mpirun(num_ranks, case) else { return };
        assert_eq!(ended.code, Some(code), "{case} on {num_ranks} ranks:\n{}", ended.output);
        assert_eq!(ended.output.matches(KEPT).count(), num_ranks, "{}", ended.output);
    }
}

/// Every rank must end in good order.
#[track_caller]
fn check(case: &str) {
    check_all(case, 0);
}

/// Every rank must see its error; then the job is aborted.
#[track_caller]
fn check_fails_together(case: &str) {
    check_all(case, ABORT_CODE);
}

/// The job must end with this exit code, in time, and say why.
#[track_caller]
fn check_ends(case: &str, code: i32, at_most_seconds: f64, said: &str) {
    for num_ranks in RANKS {
        let Some(ended) = mpirun(num_ranks, case) else { return };
        assert_eq!(ended.code, Some(code), "{case} on {num_ranks} ranks:\n{}", ended.output);
        assert!(ended.output.contains(said), "{case} on {num_ranks} ranks:\n{}", ended.output);
        assert!(ended.seconds < at_most_seconds, "{case} took {} s:\n{}", ended.seconds, ended.output);
    }
}

#[test]
fn processes_keep_the_contract() {
    check("collectives");
}

#[test]
fn data_longer_than_a_message_is_cut() {
    check("collectives in small messages");
}

#[test]
fn coordinators_of_processes_keep_the_contract() {
    check("coordination");
}

#[test]
fn other_lengths_are_an_error_on_every_rank() {
    check_fails_together("lengths differ");
}

#[test]
fn other_calls_are_an_error_on_every_rank() {
    check_fails_together("calls differ");
}

#[test]
fn a_skipped_call_is_an_error_on_every_rank() {
    check_fails_together("a call is skipped");
}

/// Counts of MPI are 32 bits wide: one slice of more than 2^31 bytes, on two ranks. Takes 4.4 GB of memory.
#[test]
fn a_slice_longer_than_mpi_can_count_arrives_whole() {
    if env::var_os("BERT_TRAIN_SLOW_TESTS").is_none() {
        println!("skipped: an exchange of more than 2^31 bytes; set BERT_TRAIN_SLOW_TESTS to run it");
        return;
    }
    let Some(ended) = mpirun(2, "a huge slice") else { return };
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert_eq!(ended.output.matches(KEPT).count(), 2, "{}", ended.output);
}

#[test]
fn a_missing_rank_is_named() {
    check_fails_together("a rank is missing");
}

#[test]
fn a_panic_on_any_thread_ends_the_job() {
    check_ends("a rank panics", 7, 20.0, "the last rank fails as this test wants");
}

#[test]
fn a_frozen_process_is_named_and_the_job_ends() {
    check_ends("a rank freezes", 5, 60.0, "no sign of rank");
}

/// Whoever had its message from the frozen rank goes on to the next call, and waits there for those that had not: they are
/// not to blame.
#[test]
fn only_the_frozen_process_is_named_wherever_it_froze() {
    for num_ranks in [3, 4] {
        for delay in 0..MIDST_ROUNDS {
            let Some(ended) = mpirun(num_ranks, &format!("{MIDST}{delay}")) else { return };
            assert_eq!(ended.code, Some(ABORT_CODE), "delay {delay}, {num_ranks} ranks:\n{}", ended.output);
            let named = ended.output.matches("no sign of rank 0 within").count();
            assert_eq!(named, num_ranks - 1, "delay {delay}, {num_ranks} ranks:\n{}", ended.output);
        }
    }
}

#[test]
fn a_frozen_process_does_not_hold_up_the_shutdown() {
    check_ends("a rank freezes before shutdown", 5, 60.0, "shutdown: no sign of rank");
}

#[test]
fn an_abort_after_the_shutdown_ends_the_process_at_once() {
    check_ends("an abort after shutdown", 6, 20.0, "leaves with code 6");
}

#[test]
fn a_killed_process_ends_the_job() {
    check_ends("a rank is killed", 128 + 9, 30.0, "signal 9");
}

#[test]
fn a_rank_that_exits_without_leave_ends_the_job() {
    for num_ranks in RANKS {
        let Some(ended) = mpirun(num_ranks, "a rank exits") else { return };
        assert_ne!(ended.code, Some(0), "{}", ended.output);
        assert!(ended.seconds < 30.0, "{}", ended.output);
    }
}

/// What a rank of a job does. Started by `mpirun`, never on its own.
#[test]
#[ignore = "started by mpirun from the other tests"]
fn worker() {
    let Ok(case) = env::var(CASE) else {
        println!("skipped: started without a case");
        return;
    };
    let launcher = detect_launcher(|name| env::var(name).ok()).expect("mpirun is detected");
    match case.as_str() {
        "collectives" => contract_of_processes(None),
        "collectives in small messages" => contract_of_processes(Some(1000)),
        "coordination" => {
            let coordinator = launch(Duration::from_secs(30));
            assert_eq!(coordinator.world().rank(), launcher.rank);
            assert_eq!(Some(coordinator.world().num_ranks()), launcher.num_ranks);
            contract::coordination(&coordinator);
            coordinator.shutdown().unwrap();
            println!("{KEPT}");
        }
        "a huge slice" => gathers_a_huge_slice(),
        "lengths differ" => failing_together(contract::lengths_differ),
        "calls differ" => failing_together(contract::calls_differ),
        "a call is skipped" => failing_together(contract::a_call_is_skipped),
        "a rank is missing" => failing_together(contract::a_rank_is_missing),
        "a rank panics" => panics_on_another_thread(),
        "a rank freezes" => freezes(),
        "a rank is killed" => is_killed(),
        "a rank freezes before shutdown" => freezes_before_shutdown(),
        "an abort after shutdown" => aborts_after_shutdown(),
        "a rank exits" => exits_without_leave(),
        other => match other.strip_prefix(MIDST).map(str::parse) {
            Some(Ok(delay)) => freezes_in_the_midst(Duration::from_millis(delay)),
            _ => panic!("unknown case {other}"),
        },
    }
}

fn contract_of_processes(max_message_len: Option<usize>) {
    let mut comm = MpiCommunicator::init().unwrap();
    assert!(comm.library().contains("MPI") || comm.library().contains("MPICH"), "{}", comm.library());
    if let Some(max_len) = max_message_len {
        comm.set_max_message_len(max_len);
    }
    contract::collectives(&mut comm);
    comm.shutdown().unwrap();
    println!("{KEPT}");
}

/// Rank 0 owns everything. Only some elements are written, so that most of the sent memory is never made.
fn gathers_a_huge_slice() {
    const LEN: usize = (1 << 29) + 4099;
    const STRIDE: usize = 9_999_991;
    let mut comm = MpiCommunicator::init().unwrap();
    comm.configure(HARD_LIMIT, Arc::default());
    let mut bucket = vec![0.0f32; LEN];
    let places = || (0..LEN).step_by(STRIDE).chain([(1 << 28) - 1, 1 << 28, (1 << 29) - 1, 1 << 29, LEN - 1]);
    let value = |place: usize| (place % 65_521 + 1) as f32;
    if comm.world().rank() == 0 {
        places().for_each(|place| bucket[place] = value(place));
    }
    let gathered = comm.all_gather_slices("huge", bucket, &[0, LEN, LEN]).unwrap();
    assert!(gathered.len() * size_of::<f32>() > 1 << 31);
    places().for_each(|place| assert_eq!(gathered[place], value(place), "element {place}"));
    let num_written = gathered.iter().filter(|value| **value != 0.0).count();
    assert_eq!(num_written, places().collect::<HashSet<_>>().len());
    comm.shutdown().unwrap();
    println!("{KEPT}");
}

/// Runs a function after which the group is unusable. No rank may end before all have seen their
/// error: a launcher ends the job with the first process that leaves without finalising.
fn failing_together(body: fn(&mut dyn Communicator)) {
    let mut comm = MpiCommunicator::init().unwrap();
    body(&mut comm);
    println!("{KEPT}");
    pause(Duration::from_secs(3));
    comm.abort(ABORT_CODE);
}

fn launch(timeout: Duration) -> Coordinator {
    Coordinator::launch(Launch::Mpi, CoordinatorOptions { timeout }).unwrap()
}

/// Waits for peers that will not come, as the step of a training would.
fn wait_and_end(coordinator: &Coordinator) -> ! {
    let err: CoordinatorError = coordinator.barrier("step 7").expect_err("a peer does not come");
    println!("rank {}: {}", coordinator.world().rank(), err.chain());
    coordinator.abort(err.exit_code());
    unreachable!("an MPI process ends in abort");
}

fn panics_on_another_thread() {
    let coordinator = launch(Duration::from_secs(60));
    let abort = coordinator.abort_handle();
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        default_hook(info);
        abort.abort(7);
    }));
    coordinator.barrier("all here").unwrap();
    if is_last(&coordinator) {
        let _ = thread::spawn(|| panic!("the last rank fails as this test wants")).join();
    }
    wait_and_end(&coordinator);
}

fn is_last(coordinator: &Coordinator) -> bool {
    coordinator.world().rank() + 1 == coordinator.world().num_ranks()
}

/// Sends itself a signal that it cannot handle.
fn ends_by_signal(signal: &str) {
    let own_pid = process::id().to_string();
    Command::new("kill").args([&format!("-{signal}"), &own_pid]).status().unwrap();
    pause(HARD_LIMIT);
}

fn freezes() {
    let coordinator = launch(Duration::from_secs(6));
    coordinator.barrier("all here").unwrap();
    if is_last(&coordinator) {
        ends_by_signal("STOP");
    }
    wait_and_end(&coordinator);
}

fn freezes_in_the_midst(delay: Duration) {
    let mut comm = MpiCommunicator::init().unwrap();
    comm.barrier("all here").unwrap();
    comm.configure(Duration::from_secs(3), Arc::default());
    let num_ranks = comm.world().num_ranks();
    if comm.world().rank() == 0 {
        thread::spawn(move || {
            pause(delay);
            ends_by_signal("STOP");
        });
    }
    let bounds: Vec<usize> = (0..=num_ranks).map(|rank| rank * 100_000).collect();
    let err = loop {
        let bucket = vec![1.0; bounds[num_ranks]];
        if let Err(err) = comm.all_gather_slices("parameters", bucket, &bounds) {
            break err;
        }
    };
    println!("rank {}: {err}", comm.world().rank());
    // The job ends with the first of them.
    pause(Duration::from_secs(2));
    comm.abort(ABORT_CODE);
}

fn freezes_before_shutdown() {
    let coordinator = launch(Duration::from_secs(6));
    coordinator.barrier("all here").unwrap();
    if is_last(&coordinator) {
        ends_by_signal("STOP");
    }
    let abort = coordinator.abort_handle();
    let err = coordinator.shutdown().expect_err("a peer does not come");
    println!("{}", err.chain());
    abort.abort(err.exit_code());
}

fn is_killed() {
    let coordinator = launch(Duration::from_secs(60));
    coordinator.barrier("all here").unwrap();
    if is_last(&coordinator) {
        ends_by_signal("KILL");
    }
    wait_and_end(&coordinator);
}

fn aborts_after_shutdown() {
    let coordinator = launch(Duration::from_secs(20));
    let abort = coordinator.abort_handle();
    coordinator.shutdown().unwrap();
    println!("leaves with code 6");
    abort.abort(6);
}

fn exits_without_leave() {
    let coordinator = launch(Duration::from_secs(20));
    coordinator.barrier("all here").unwrap();
    if coordinator.world().rank() == 0 {
        process::exit(1);
    }
    wait_and_end(&coordinator);
}
