//! What every communicator must do, as one suite that runs on all of them.
//!
//! Each function is called by all ranks of a group, each with its own communicator, and panics
//! where the contract is broken. The functions that provoke errors leave the group unusable.

use std::sync::Arc;
use std::time::Duration;

use crate::progress::nap;
use crate::{
    BucketPlan, CommError, Communicator, Coordinator, CoordinatorError, Failure, Pulse, SlicesKind, SlotTree,
    Upcoming, Wire, exit_code, from_bf16, rank_tree_sum, slots_of_rank, to_bf16,
};

/// Wait for peers in the functions where one of them does not come.
const SHORT_TIMEOUT: Duration = Duration::from_millis(400);

/// A number that differs for every rank, round and place, exact in f32.
fn number(rank: usize, round: usize, place: usize) -> f32 {
    ((rank * 7919 + round * 613 + place * 31) % 65_521) as f32 - 30_000.5
}

fn numbers(rank: usize, round: usize, places: std::ops::Range<usize>) -> Vec<f32> {
    places.map(|place| number(rank, round, place)).collect()
}

/// Slice bounds of many forms: equal, uneven, with empty slices, empty, large.
fn bounds_of_many_forms(num_ranks: usize) -> Vec<Vec<usize>> {
    let uneven = |rank: usize| rank * (rank + 1) * 37 / 2;
    let last_owns_all = |rank: usize| if rank == num_ranks { 50 } else { 0 };
    let first_owns_all = |rank: usize| if rank == 0 { 0 } else { 50 };
    let bounds = |border: &dyn Fn(usize) -> usize| (0..=num_ranks).map(border).collect();
    vec![
        bounds(&|rank| rank * 10),
        bounds(&uneven),
        bounds(&last_owns_all),
        bounds(&first_owns_all),
        bounds(&|_| 0),
        bounds(&|rank| rank * 100_003),
        bounds(&|rank| rank * rank * 90_001),
    ]
}

/// Every operation, in every form that must succeed.
pub fn collectives(comm: &mut dyn Communicator) {
    assert!(!comm.library().is_empty());
    comm.barrier("contract").expect("barrier");
    gathers_bytes_of_uneven_lengths(comm);
    broadcasts_from_every_root(comm);
    for (round, bounds) in bounds_of_many_forms(comm.world().num_ranks()).iter().enumerate() {
        exchanges_slices(comm, round, bounds);
        exchanges_halves(comm, round, bounds);
        folds_slices(comm, round, bounds);
        foreseen_calls_give_the_same(comm, round, bounds);
    }
    refuses_wrong_arguments_and_goes_on(comm);
    comm.barrier("contract").expect("barrier at the end");
}

fn gathers_bytes_of_uneven_lengths(comm: &mut dyn Communicator) {
    let (rank, num_ranks) = (comm.world().rank(), comm.world().num_ranks());
    let message = |rank: usize, len: usize| (0..len).map(|i| (i * 3 + rank) as u8).collect::<Vec<u8>>();
    for unit in [0, 1, 33, 70_001] {
        let all = comm.all_gather_bytes("uneven bytes", &message(rank, rank * unit)).expect("all-gather");
        let expected: Vec<_> = (0..num_ranks).map(|rank| message(rank, rank * unit)).collect();
        assert_eq!(all, expected);
    }
}

fn broadcasts_from_every_root(comm: &mut dyn Communicator) {
    let (rank, num_ranks) = (comm.world().rank(), comm.world().num_ranks());
    for root in 0..num_ranks {
        for len in [0, 5, 70_001] {
            let own = vec![rank as u8 + 1; len + rank];
            let received = comm.broadcast_bytes("broadcast", root, &own).expect("broadcast");
            assert_eq!(received, vec![root as u8 + 1; len + root]);
        }
    }
}

fn exchanges_slices(comm: &mut dyn Communicator, round: usize, bounds: &[usize]) {
    let (rank, num_ranks) = (comm.world().rank(), comm.world().num_ranks());
    let (own, all) = (bounds[rank]..bounds[rank + 1], 0..bounds[num_ranks]);
    let send = numbers(rank, round, all.clone());
    // Old content of another length must not shine through.
    let scratch = vec![f32::NAN; round * 11];
    let mut exchanged =
        comm.all_to_all_slices("all-to-all", send.clone(), bounds, scratch).expect("all-to-all");
    let expected: Vec<f32> = (0..num_ranks).flat_map(|peer| numbers(peer, round, own.clone())).collect();
    exchanged.recv[rank * own.len()..][..own.len()].copy_from_slice(&send[own.clone()]);
    assert_eq!(exchanged.recv, expected);
    assert_eq!(exchanged.send, send, "the sent buffer comes back as it was");

    let mut bucket = vec![f32::NAN; all.len()];
    bucket[own.clone()].copy_from_slice(&numbers(rank, round, own));
    let gathered = comm.all_gather_slices("all-gather", bucket, bounds).expect("all-gather");
    let expected: Vec<f32> =
        (0..num_ranks).flat_map(|peer| numbers(peer, round, bounds[peer]..bounds[peer + 1])).collect();
    assert_eq!(gathered, expected);
}

/// Some ranks foresee their calls and some do not; some of what is foreseen is taken back.
fn foreseen_calls_give_the_same(comm: &mut dyn Communicator, round: usize, bounds: &[usize]) {
    let (rank, num_ranks) = (comm.world().rank(), comm.world().num_ranks());
    let foresees = |call: usize| !(rank + call + round).is_multiple_of(3);
    let own = bounds[rank]..bounds[rank + 1];
    let gather = Upcoming { kind: SlicesKind::AllGather, phase: "foreseen", bounds };
    let all: Vec<f32> =
        (0..num_ranks).flat_map(|peer| numbers(peer, round, bounds[peer]..bounds[peer + 1])).collect();
    for call in 0..4 {
        comm.foresee(foresees(call).then_some(gather));
        let mut bucket = vec![f32::NAN; bounds[num_ranks]];
        bucket[own.clone()].copy_from_slice(&numbers(rank, round, own.clone()));
        assert_eq!(comm.all_gather_slices("foreseen", bucket, bounds).expect("all-gather"), all);
    }
    comm.foresee(None);
    let halves = Upcoming { kind: SlicesKind::AllToAllHalves, phase: "halves", bounds };
    let bucket = all.clone();
    comm.foresee(foresees(5).then_some(halves));
    // Whatever was foreseen of the last call above has been announced there: it comes now.
    comm.all_gather_slices("foreseen", bucket, bounds).expect("all-gather");
    comm.foresee(Some(gather));
    comm.foresee(None);
    exchanges_halves(comm, round, bounds);
}

/// The same between all ranks for elements of half the size.
fn exchanges_halves(comm: &mut dyn Communicator, round: usize, bounds: &[usize]) {
    let (rank, num_ranks) = (comm.world().rank(), comm.world().num_ranks());
    let halves = |rank, places| -> Vec<u16> {
        numbers(rank, round, places).into_iter().map(|number| (number + 30_000.5) as u16).collect()
    };
    let send = halves(rank, 0..bounds[num_ranks]);
    let scratch = vec![u16::MAX; round * 11];
    let mut exchanged = comm.all_to_all_halves("halves", send.clone(), bounds, scratch).expect("all-to-all");
    let own = bounds[rank]..bounds[rank + 1];
    exchanged.recv[rank * own.len()..][..own.len()].copy_from_slice(&send[own.clone()]);
    let expected: Vec<u16> = (0..num_ranks).flat_map(|peer| halves(peer, own.clone())).collect();
    assert_eq!(exchanged.recv, expected);
    assert_eq!(exchanged.send, send, "the sent buffer comes back as it was");
}

/// What comes out in the own slice is the fold of all parts, element by element, whatever the pieces are.
fn folds_slices(comm: &mut dyn Communicator, round: usize, bounds: &[usize]) {
    let (rank, num_ranks) = (comm.world().rank(), comm.world().num_ranks());
    let (own, all) = (bounds[rank]..bounds[rank + 1], 0..bounds[num_ranks]);
    let mut num_folded = 0;
    let mut fold = |parts: &mut [f32], own: &mut [f32]| {
        assert_eq!(parts.len(), num_ranks * own.len(), "one part per rank");
        num_folded += own.len();
        for (place, own) in own.iter_mut().enumerate() {
            let others = (0..num_ranks).filter(|peer| *peer != rank);
            // Not the same if parts change places.
            *own +=
                others.map(|peer| parts[peer * (parts.len() / num_ranks) + place] * peer as f32).sum::<f32>();
        }
    };
    let bucket = numbers(rank, round, all.clone());
    let scratch = vec![f32::NAN; round * 11];
    let folded = comm.fold_slices("fold", bucket.clone(), bounds, scratch, &mut fold).expect("fold");
    let others = |place| {
        (0..num_ranks).filter(|peer| *peer != rank).map(move |peer| number(peer, round, place) * peer as f32)
    };
    let expected: Vec<f32> = own.clone().map(|place| bucket[place] + others(place).sum::<f32>()).collect();
    assert_eq!(folded.send[own.clone()], expected, "the fold of the own slice");
    assert_eq!(num_folded, own.len(), "every element once");
    assert!(all.filter(|place| !own.contains(place)).all(|place| folded.send[place] == bucket[place]));
}

fn refuses_wrong_arguments_and_goes_on(comm: &mut dyn Communicator) {
    let num_ranks = comm.world().num_ranks();
    let argument = |result: Result<(), CommError>| assert!(matches!(result, Err(CommError::Argument { .. })));
    argument(comm.broadcast_bytes("root", num_ranks, &[]).map(drop));
    let too_few = vec![0; num_ranks];
    argument(comm.all_to_all_slices("bounds", Vec::new(), &too_few, Vec::new()).map(drop));
    let mut falling = vec![1; num_ranks + 1];
    falling[0] = 2;
    argument(comm.all_gather_slices("bounds", Vec::new(), &falling).map(drop));
    let equal: Vec<usize> = (0..=num_ranks).map(|rank| 2 * rank).collect();
    let got = comm.all_to_all_slices("length", vec![0.0; 1], &equal, Vec::new());
    let (phase, expected) = ("length".to_owned(), 2 * num_ranks);
    let refused = Err(CommError::BufferLength { phase, expected, got: 1 });
    assert_eq!(got.map(drop), refused);
    let got =
        comm.fold_slices("length", vec![0.0; 1], &equal, Vec::new(), &mut |_, _| panic!("nothing came"));
    assert_eq!(got.map(drop), refused);
}

#[track_caller]
fn assert_calls_differ(comm: &mut dyn Communicator, result: Result<(), CommError>) {
    let Err(err @ CommError::CallsDiffer { .. }) = result else {
        panic!("ranks that disagree got {result:?}");
    };
    let CommError::CallsDiffer { calls } = &err else { unreachable!("matched above") };
    assert!(calls.iter().any(|(rank, _)| *rank == comm.world().rank()), "the own call is named: {err}");
    assert!(calls.len() >= 2, "a differing call is named: {err}");
    let again = comm.barrier("after the failure");
    assert!(again.is_err(), "a failed group stays failed");
}

/// The last rank sends halves where the others send whole elements: an error on every rank. For at least two ranks.
pub fn wires_differ(comm: &mut dyn Communicator) {
    let bounds: Vec<usize> = (0..=comm.world().num_ranks()).map(|rank| rank * 3).collect();
    let len = bounds[comm.world().num_ranks()];
    let result = match is_last(comm) {
        true => comm.all_to_all_halves("wires", vec![1; len], &bounds, Vec::new()).map(drop),
        false => comm.all_to_all_slices("wires", vec![1.0; len], &bounds, Vec::new()).map(drop),
    };
    assert_calls_differ(comm, result);
}

fn is_last(comm: &dyn Communicator) -> bool {
    comm.world().rank() + 1 == comm.world().num_ranks()
}

/// The last rank's bucket is longer: an error on every rank. For at least two ranks.
pub fn lengths_differ(comm: &mut dyn Communicator) {
    let unit = if is_last(comm) { 4 } else { 3 };
    let bounds: Vec<usize> = (0..=comm.world().num_ranks()).map(|rank| rank * unit).collect();
    let send = vec![1.0; bounds[comm.world().num_ranks()]];
    let result = comm.all_to_all_slices("lengths", send, &bounds, Vec::new()).map(drop);
    assert_calls_differ(comm, result);
}

/// The last rank makes another call: an error on every rank. For at least two ranks.
pub fn calls_differ(comm: &mut dyn Communicator) {
    comm.barrier("together").expect("barrier");
    let result = match is_last(comm) {
        true => comm.barrier("calls"),
        false => comm.all_gather_bytes("calls", &[1, 2, 3]).map(drop),
    };
    assert_calls_differ(comm, result);
}

/// The last rank skips a call and comes to the next one: an error on every rank that names both
/// phases. For at least two ranks.
pub fn a_call_is_skipped(comm: &mut dyn Communicator) {
    comm.barrier("first").expect("barrier");
    let phase = if is_last(comm) { "bucket 2" } else { "bucket 1" };
    let result = comm.all_gather_bytes(phase, &[7]).map(drop);
    let text = format!("{result:?}");
    assert!(text.contains("bucket 1") && text.contains("bucket 2"), "{text}");
    assert_calls_differ(comm, result);
}

/// The last rank does not come: the others get an error that names it. For at least two ranks.
pub fn a_rank_is_missing(comm: &mut dyn Communicator) {
    comm.barrier("all here").expect("barrier");
    let missing = comm.world().num_ranks() - 1;
    comm.configure(SHORT_TIMEOUT, Arc::new(Pulse::new()));
    if is_last(comm) {
        nap(4 * SHORT_TIMEOUT);
        return;
    }
    let err = comm.barrier("one is missing").expect_err("the last rank does not come");
    let CommError::PeersMissing { phase, missing: named, waited } = &err else { panic!("{err}") };
    assert_eq!((phase.as_str(), *waited), ("one is missing", SHORT_TIMEOUT));
    assert!(named.contains(&missing), "{err}");
}

/// Everything that the coordinator offers, in every form that must succeed.
pub fn coordination(coordinator: &Coordinator) {
    coordinator.barrier("contract").expect("barrier");
    let world = coordinator.world();
    let all = coordinator.all_gather_bytes("ranks", &[world.rank() as u8]).expect("all-gather");
    assert_eq!(all, (0..world.num_ranks()).map(|rank| vec![rank as u8]).collect::<Vec<_>>());
    let root = world.num_ranks() - 1;
    let received = coordinator.broadcast_bytes("root", root, &[world.rank() as u8]).expect("broadcast");
    assert_eq!(received, [root as u8]);
    for num_slots in [8, 24].into_iter().filter(|slots| slots % world.num_ranks() == 0) {
        reduces_to_the_bits_of_one_rank(coordinator, num_slots);
    }
    reduces_rounded_sums(coordinator);
    agrees_on_the_lowest_failure(coordinator);
    compares_values(coordinator);
    refuses_wrong_order(coordinator);
}

/// Gradients of very different size: another order of addition gives other bits.
fn gradient(slot: usize, round: usize, len: usize) -> Vec<f32> {
    let value = |place| number(slot, round, place) * 2f32.powi(((slot * 5 + place * 3) % 23) as i32 - 11);
    (0..len).map(value).collect()
}

fn reduces_to_the_bits_of_one_rank(coordinator: &Coordinator, num_slots: usize) {
    let world = coordinator.world();
    let tensors: [&[usize]; 4] = [&[40_000, 3, 20_000], &[1], &[], &[16_384; 5]];
    let plans: Vec<BucketPlan> = tensors.iter().map(|lens| BucketPlan::from_tensor_lens(lens)).collect();
    coordinator.set_buckets(plans.clone(), Wire::F32).expect("no bucket is on its way");
    let own_slots = slots_of_rank(num_slots, world).expect("the slots were chosen to be divisible");
    for round in 0..3 {
        let sum = |slots: std::ops::Range<usize>, len| {
            let mut tree = SlotTree::new();
            slots.for_each(|slot| tree.push(gradient(slot, round, len)));
            tree.finish()
        };
        for (bucket_idx, plan) in plans.iter().enumerate() {
            let own_sum = sum(own_slots.clone(), plan.num_elements());
            coordinator.reduce_start(bucket_idx, own_sum).expect("reduce_start");
        }
        for (bucket_idx, plan) in plans.iter().enumerate() {
            let reduced = coordinator.reduce_finish(bucket_idx).expect("reduce_finish");
            assert_eq!(reduced.range, plan.slice_of_rank(world.rank(), world.num_ranks()));
            assert_eq!(reduced.values().len(), reduced.range.len());
            coordinator.gather_start(bucket_idx, reduced.bucket).expect("gather_start");
        }
        for (bucket_idx, plan) in plans.iter().enumerate().rev() {
            let whole = coordinator.gather_finish(bucket_idx).expect("gather_finish");
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            if crate::sums_like_one_rank(num_slots, world.num_ranks()) {
                assert_eq!(bits(&whole), bits(&sum(0..num_slots, plan.num_elements())));
            }
            let everywhere = coordinator.all_gather_bytes("bits", format!("{:?}", bits(&whole)).as_bytes());
            let everywhere = everywhere.expect("all-gather");
            assert!(everywhere.iter().all(|text| *text == everywhere[0]), "all ranks hold the same bits");
        }
    }
}

/// With bf16 every rank's part is rounded once, whoever owns the slice, and the sum is that of f32.
fn reduces_rounded_sums(coordinator: &Coordinator) {
    let world = coordinator.world();
    let plan = BucketPlan::from_tensor_lens(&[40_000, 3, 20_000]);
    let len = plan.num_elements();
    coordinator.set_buckets(vec![plan], Wire::Bf16).expect("no bucket is on its way");
    let rounded = |rank| gradient(rank, 5, len).into_iter().map(|value| from_bf16(to_bf16(value)));
    let mut parts: Vec<f32> = (0..world.num_ranks()).flat_map(rounded).collect();
    let mut expected = vec![f32::NAN; len];
    rank_tree_sum(&mut parts, world.num_ranks(), &mut expected);
    for _step in 0..2 {
        coordinator.reduce_start(0, gradient(world.rank(), 5, len)).expect("reduce_start");
        let reduced = coordinator.reduce_finish(0).expect("reduce_finish");
        assert_eq!(reduced.values(), &expected[reduced.range.clone()]);
        coordinator.gather_start(0, reduced.bucket).expect("gather_start");
        let whole = coordinator.gather_finish(0).expect("gather_finish");
        assert_eq!(whole, expected, "what is gathered is not rounded again");
    }
}

fn agrees_on_the_lowest_failure(coordinator: &Coordinator) {
    let (rank, num_ranks) = (coordinator.world().rank(), coordinator.world().num_ranks());
    assert_eq!(coordinator.agree("all fine", Ok(rank)), Ok(rank));
    let failure = |message: String| Failure { exit_code: 3, message };
    let alike = coordinator.agree::<()>("alike", Err(failure("bad key".to_owned())));
    assert_eq!(alike, Err(failure("bad key".to_owned())));
    let last = num_ranks - 1;
    let local = if rank == last { Err(failure("no shard".to_owned())) } else { Ok(()) };
    let expected = if num_ranks == 1 { "no shard".to_owned() } else { format!("rank {last}: no shard") };
    assert_eq!(coordinator.agree("one fails", local), Err(failure(expected)));
}

fn compares_values(coordinator: &Coordinator) {
    let (rank, num_ranks) = (coordinator.world().rank(), coordinator.world().num_ranks());
    let items = |precision: &str| [("version", "1".to_owned()), ("precision", precision.to_owned())];
    coordinator.check_equal(&items("f32")).expect("all are equal");
    if num_ranks == 1 {
        return;
    }
    let own = if rank == num_ranks - 1 { "bf16" } else { "f32" };
    let err = coordinator.check_equal(&items(own)).expect_err("the last rank differs");
    assert_eq!(err.exit_code(), exit_code::CONFIGURATION);
    let text = err.to_string();
    let named = format!("`bf16` on rank {}", num_ranks - 1);
    assert!(text.contains("ranks disagree on precision") && text.contains(&named), "{text}");
}

fn refuses_wrong_order(coordinator: &Coordinator) {
    let plans = vec![BucketPlan::from_tensor_lens(&[6])];
    coordinator.set_buckets(plans, Wire::F32).expect("no bucket is on its way");
    let unknown = coordinator.reduce_start(1, vec![0.0; 6]);
    assert!(matches!(unknown, Err(CoordinatorError::UnknownBucket { bucket_idx: 1, num_buckets: 1 })));
    let short = coordinator.reduce_start(0, vec![0.0; 5]);
    assert!(matches!(short, Err(CoordinatorError::BucketLength { expected: 6, got: 5, .. })));
    let early = coordinator.reduce_finish(0);
    assert!(matches!(early, Err(CoordinatorError::Order { .. })));
    coordinator.reduce_start(0, vec![0.0; 6]).expect("reduce_start");
    let twice = coordinator.reduce_start(0, vec![0.0; 6]);
    assert!(matches!(twice, Err(CoordinatorError::Order { .. })));
    let planned = coordinator.set_buckets(Vec::new(), Wire::F32);
    assert!(matches!(planned, Err(CoordinatorError::Order { .. })));
    coordinator.reduce_finish(0).expect("reduce_finish");
}
