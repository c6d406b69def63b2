//! What the handle does when its communication thread dies, hangs or lags behind.

use std::collections::HashSet;
use std::sync::Barrier;

use super::*;
use crate::comm::Exchanged;
use crate::progress::nap;

/// A communicator whose barrier does not come back as it should.
struct Broken {
    in_barrier: fn(),
}

impl Communicator for Broken {
    fn world(&self) -> World {
        World::SOLO
    }

    fn library(&self) -> String {
        "broken".to_owned()
    }

    fn configure(&mut self, _timeout: Duration, _pulse: Arc<Pulse>) {}

    fn barrier(&mut self, _phase: &str) -> Result<(), CommError> {
        (self.in_barrier)();
        Ok(())
    }

    fn all_gather_bytes(&mut self, _phase: &str, _bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommError> {
        unreachable!("not called by these tests")
    }

    fn broadcast_bytes(&mut self, _phase: &str, _root: usize, _bytes: &[u8]) -> Result<Vec<u8>, CommError> {
        unreachable!("not called by these tests")
    }

    fn all_to_all_slices(
        &mut self,
        _phase: &str,
        _send: Vec<f32>,
        _bounds: &[usize],
        _recv: Vec<f32>,
    ) -> Result<Exchanged, CommError> {
        unreachable!("not called by these tests")
    }

    fn all_to_all_halves(
        &mut self,
        _phase: &str,
        _send: Vec<u16>,
        _bounds: &[usize],
        _recv: Vec<u16>,
    ) -> Result<Exchanged<u16>, CommError> {
        unreachable!("not called by these tests")
    }

    fn all_gather_slices(
        &mut self,
        _phase: &str,
        _bucket: Vec<f32>,
        _bounds: &[usize],
    ) -> Result<Vec<f32>, CommError> {
        unreachable!("not called by these tests")
    }

    fn shutdown(&mut self) -> Result<(), CommError> {
        Ok(())
    }

    fn abort(&mut self, _code: i32) {}
}

const OPTIONS: CoordinatorOptions = CoordinatorOptions { timeout: Duration::from_millis(500) };

fn with_broken(in_barrier: fn()) -> Coordinator {
    let connect = move || Ok(Box::new(Broken { in_barrier }) as Box<dyn Communicator>);
    let abort = AbortHandle { reach: Reach::Solo };
    Coordinator::start(connect, Arc::default(), abort, OnDrop::Leave, OPTIONS).unwrap()
}

#[test]
fn a_dead_communication_thread_is_an_error() {
    let coordinator = with_broken(|| panic!("the communication thread fails as this test wants"));
    let first = coordinator.barrier("step 1").unwrap_err();
    assert!(matches!(first, CoordinatorError::ThreadDied { .. }), "{first:?}");
    let later = coordinator.barrier("step 2").unwrap_err();
    assert!(matches!(later, CoordinatorError::ThreadDied { .. }), "{later:?}");
    assert!(coordinator.shutdown().is_err());
}

#[test]
fn a_stuck_communication_thread_is_an_error() {
    let coordinator = with_broken(|| nap(Duration::from_secs(4)));
    let err = coordinator.barrier("step 1").unwrap_err();
    assert!(matches!(err, CoordinatorError::ThreadStuck { .. }), "{err:?}");
    assert_eq!(err.exit_code(), 5);
}

#[test]
fn a_failed_connection_is_an_error() {
    let connect = || Err(CoordinatorError::Launch { problem: "no network".to_owned() });
    let abort = AbortHandle { reach: Reach::Solo };
    let err =
        Coordinator::start(connect, Arc::default(), abort, OnDrop::Leave, OPTIONS).map(drop).unwrap_err();
    assert_eq!(err.to_string(), "failed to start communication: no network");
}

#[test]
fn the_handle_can_be_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Coordinator>();
    check::<AbortHandle>();
}

/// Runs `body` on two ranks that are threads; they share a barrier outside the coordinator.
fn on_two_ranks(body: impl Fn(&Coordinator, &Barrier) + Sync) {
    let meeting = Barrier::new(2);
    let options = CoordinatorOptions { timeout: Duration::from_secs(30) };
    thread::scope(|scope| {
        for comm in ThreadCommunicator::group(2) {
            let (body, meeting) = (&body, &meeting);
            scope.spawn(move || {
                let coordinator = Coordinator::launch(Launch::Thread(comm), options).unwrap();
                body(&coordinator, meeting);
                coordinator.shutdown().unwrap();
            });
        }
    });
}

/// If a start waited for the peer, this test would never end.
#[test]
fn starting_does_not_wait_for_peers() {
    on_two_ranks(|coordinator, meeting| {
        coordinator.set_buckets(vec![BucketPlan::from_tensor_lens(&[5]); 3], Wire::F32).unwrap();
        if coordinator.world().rank() == 1 {
            meeting.wait();
        }
        for bucket_idx in 0..3 {
            coordinator.reduce_start(bucket_idx, vec![bucket_idx as f32; 5]).unwrap();
        }
        if coordinator.world().rank() == 0 {
            meeting.wait();
        }
        for bucket_idx in (0..3).rev() {
            let reduced = coordinator.reduce_finish(bucket_idx).unwrap();
            assert!(reduced.values().iter().all(|value| *value == 2.0 * bucket_idx as f32));
        }
    });
}

#[test]
fn steps_after_the_first_allocate_no_buckets() {
    [Wire::F32, Wire::Bf16].into_iter().for_each(check_that_buckets_are_reused);
}

#[track_caller]
fn check_that_buckets_are_reused(wire: Wire) {
    const LEN: usize = 50_000;
    on_two_ranks(|coordinator, _| {
        coordinator.set_buckets(vec![BucketPlan::from_tensor_lens(&[LEN]); 2], wire).unwrap();
        let mut gradients = vec![vec![1.0; LEN]; 2];
        let mut seen = HashSet::new();
        for step in 0..10 {
            for (bucket_idx, gradient) in gradients.drain(..).enumerate() {
                coordinator.reduce_start(bucket_idx, gradient).unwrap();
            }
            for bucket_idx in 0..2 {
                let reduced = coordinator.reduce_finish(bucket_idx).unwrap();
                coordinator.gather_start(bucket_idx, reduced.bucket).unwrap();
            }
            for bucket_idx in 0..2 {
                let mut whole = coordinator.gather_finish(bucket_idx).unwrap();
                assert_eq!(whole, vec![2.0; LEN], "step {step}");
                seen.insert(whole.as_ptr() as usize);
                whole.fill(1.0);
                gradients.push(whole);
            }
        }
        assert!(seen.len() <= 2, "two buckets serve all steps, got {}", seen.len());
    });
}
