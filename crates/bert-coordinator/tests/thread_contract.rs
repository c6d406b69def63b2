//! The contract of communicators and coordinators with one rank and with ranks as threads.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "the whole file is a test")]

use std::thread;
use std::time::{Duration, Instant};

use bert_coordinator::{
    CommError, Communicator, Coordinator, CoordinatorError, CoordinatorOptions, Failure, Launch,
    SoloCommunicator, ThreadCommunicator, contract,
};

const GROUP_SIZES: [usize; 4] = [2, 3, 4, 8];
/// Long against every test, so that a wait that ends by timeout is told from one that ends at once.
const OPTIONS: CoordinatorOptions = CoordinatorOptions { timeout: Duration::from_secs(30) };
const AT_ONCE: Duration = Duration::from_secs(10);

/// Runs `body` on every rank of a new group; a panic of any rank is the panic of the test.
fn on_all_ranks<T: Send>(num_ranks: usize, body: impl Fn(ThreadCommunicator) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let body = &body;
        let ranks: Vec<_> = ThreadCommunicator::group(num_ranks)
            .into_iter()
            .map(|comm| scope.spawn(move || body(comm)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

fn launch(comm: ThreadCommunicator) -> Coordinator {
    Coordinator::launch(Launch::Thread(comm), OPTIONS).unwrap()
}

#[test]
fn solo_keeps_the_contract() {
    contract::collectives(&mut SoloCommunicator);
    let coordinator = Coordinator::launch(Launch::Solo, OPTIONS).unwrap();
    contract::coordination(&coordinator);
    coordinator.shutdown().unwrap();
}

#[test]
fn threads_keep_the_contract() {
    for num_ranks in [1].into_iter().chain(GROUP_SIZES) {
        on_all_ranks(num_ranks, |mut comm| contract::collectives(&mut comm));
    }
}

#[test]
fn coordinators_of_threads_keep_the_contract() {
    for num_ranks in [1].into_iter().chain(GROUP_SIZES) {
        on_all_ranks(num_ranks, |comm| {
            let coordinator = launch(comm);
            contract::coordination(&coordinator);
            coordinator.shutdown().unwrap();
        });
    }
}

#[test]
fn other_lengths_are_an_error_on_every_rank() {
    for num_ranks in GROUP_SIZES {
        on_all_ranks(num_ranks, |mut comm| contract::lengths_differ(&mut comm));
    }
}

#[test]
fn other_calls_are_an_error_on_every_rank() {
    for num_ranks in GROUP_SIZES {
        on_all_ranks(num_ranks, |mut comm| contract::calls_differ(&mut comm));
    }
}

#[test]
fn a_skipped_call_is_an_error_on_every_rank() {
    for num_ranks in GROUP_SIZES {
        on_all_ranks(num_ranks, |mut comm| contract::a_call_is_skipped(&mut comm));
    }
}

#[test]
fn another_wire_is_an_error_on_every_rank() {
    for num_ranks in GROUP_SIZES {
        on_all_ranks(num_ranks, |mut comm| contract::wires_differ(&mut comm));
    }
}

#[test]
fn a_missing_rank_is_named() {
    for num_ranks in GROUP_SIZES {
        on_all_ranks(num_ranks, |mut comm| contract::a_rank_is_missing(&mut comm));
    }
}

/// What the peers see when rank 1 of 3 ends in `end` while they wait for it.
fn peers_of(end: impl Fn(Coordinator) + Sync) -> Vec<CoordinatorError> {
    let start = Instant::now();
    let results = on_all_ranks(3, |comm| {
        let coordinator = launch(comm);
        coordinator.barrier("all here").unwrap();
        if coordinator.world().rank() == 1 {
            end(coordinator);
            return None;
        }
        Some(coordinator.barrier("step 7").unwrap_err())
    });
    assert!(start.elapsed() < AT_ONCE, "peers learn of it at once, not by timeout");
    results.into_iter().flatten().collect()
}

#[track_caller]
fn assert_rank_1_failed(errors: &[CoordinatorError]) {
    assert_eq!(errors.len(), 2);
    for err in errors {
        assert!(matches!(err, CoordinatorError::PeerFailed { ranks, .. } if *ranks == [1]), "{err:?}");
        assert_eq!(err.exit_code(), 5);
        assert!(err.chain().contains("step 7"), "{}", err.chain());
    }
}

#[test]
fn a_rank_that_panics_ends_the_group() {
    let errors = peers_of(|coordinator| {
        let panicked = thread::spawn(move || {
            let _owned = coordinator;
            panic!("rank 1 fails as this test wants");
        });
        assert!(panicked.join().is_err());
    });
    assert_rank_1_failed(&errors);
}

#[test]
fn a_rank_that_returns_early_ends_the_group() {
    assert_rank_1_failed(&peers_of(drop));
}

#[test]
fn a_rank_that_aborts_ends_the_group_from_any_thread() {
    let errors = peers_of(|coordinator| {
        let handle = coordinator.abort_handle();
        thread::spawn(move || handle.abort(4)).join().unwrap();
        assert!(coordinator.barrier("after the abort").is_err());
    });
    assert_rank_1_failed(&errors);
    let aborted = |err: &CoordinatorError| {
        matches!(err, CoordinatorError::PeerFailed { source: CommError::PeerAborted { code: 4, .. }, .. })
    };
    assert!(errors.iter().all(aborted), "{errors:?}");
}

#[test]
fn the_own_failure_is_reported_when_the_peers_are_gone() {
    on_all_ranks(2, |comm| {
        let coordinator = launch(comm);
        if coordinator.world().rank() == 1 {
            return;
        }
        let own = Failure { exit_code: 3, message: "shard `a` is damaged".to_owned() };
        assert_eq!(coordinator.agree::<()>("loading", Err(own.clone())), Err(own));
        let others = coordinator.agree("loading", Ok(())).unwrap_err();
        assert_eq!(others.exit_code, 5);
        assert!(others.message.contains("rank 1 left the group"), "{others}");
    });
}

#[test]
fn a_started_reduction_reports_its_error_at_finish() {
    on_all_ranks(2, |comm| {
        let coordinator = launch(comm);
        let plans = vec![bert_coordinator::BucketPlan::from_tensor_lens(&[8])];
        coordinator.set_buckets(plans, bert_coordinator::Wire::F32).unwrap();
        if coordinator.world().rank() == 1 {
            return;
        }
        coordinator.reduce_start(0, vec![1.0; 8]).unwrap();
        let err = coordinator.reduce_finish(0).unwrap_err();
        assert!(err.chain().contains("reduction of bucket 0"), "{}", err.chain());
        assert_eq!(err.exit_code(), 5);
        assert!(coordinator.shutdown().is_err(), "a failed run does not leave in good order");
    });
}

#[test]
fn mpi_without_its_feature_is_refused_with_advice() {
    if cfg!(feature = "mpi") {
        println!("skipped: this build has MPI");
        return;
    }
    let err = Coordinator::launch(Launch::Mpi, OPTIONS).map(drop).unwrap_err();
    assert!(err.to_string().contains("built without MPI"), "{err}");
}

#[test]
fn a_communicator_is_usable_behind_its_trait() {
    let mut comms: Vec<Box<dyn Communicator>> = vec![Box::new(SoloCommunicator)];
    comms
        .extend(ThreadCommunicator::group(1).into_iter().map(|comm| Box::new(comm) as Box<dyn Communicator>));
    for comm in &mut comms {
        contract::collectives(comm.as_mut());
        comm.shutdown().unwrap();
    }
}
