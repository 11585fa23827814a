//! Whatever happens to messages and peers, the model is the one of the serial run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::faults;
use peerless_protocol::{Digest, RunSpec, StopReason, Time};
use peerless_simulation::{
    Cut, DEFAULT_ELEMENTS, DiskFate, Fault, Network, Outcome, Reference, Setup, World, small_spec,
};
use proptest::prelude::*;

fn final_digest(spec: &RunSpec) -> Digest {
    Reference::new(spec.clone(), DEFAULT_ELEMENTS).unwrap().final_digest()
}

fn run(spec: &RunSpec, peers: usize, network: Network, seed: u64, faults: &[(u64, Fault)]) -> Outcome {
    let reference = Arc::new(Reference::new(spec.clone(), DEFAULT_ELEMENTS).unwrap());
    let mut world = World::new(Setup { network, ..Setup::new(peers) }, reference, seed);
    faults.iter().for_each(|(at, fault)| world.schedule(Time(*at), fault.clone()));
    world.run()
}

fn told(outcome: &Outcome) -> String {
    outcome.log.iter().map(|line| format!("{line}\n")).collect()
}

fn assert_finished(outcome: &Outcome, spec: &RunSpec, peers: &[usize]) {
    assert_eq!(outcome.violation, None, "{}", told(outcome));
    let expected = final_digest(spec);
    for peer in peers {
        let finished = outcome.finished.get(peer);
        assert_eq!(finished, Some(&expected), "peer {peer} at {:?}\n{}", outcome.ended, told(outcome));
    }
}

#[test]
fn one_peer_alone_trains_the_model_of_the_serial_run() {
    let spec = small_spec(4, 10);
    assert_finished(&run(&spec, 1, Network::default(), 1, &[]), &spec, &[0]);
}

#[test]
fn undisturbed_peers_compute_every_unit_once() {
    let spec = small_spec(4, 20);
    let outcome = run(&spec, 4, Network::default(), 2, &[]);
    assert_finished(&outcome, &spec, &[0, 1, 2, 3]);
    // 20 rounds of 4 gradient units; 6 evaluations on the way and one at the end, of 3 units each.
    assert_eq!(outcome.metrics.units, 20 * 4 + 7 * 3, "{}", told(&outcome));
}

#[test]
fn the_last_peer_alive_goes_on_alone() {
    let spec = small_spec(4, 20);
    let faults = [(150_000, Fault::Crash(0)), (250_000, Fault::Crash(1)), (300_000, Fault::Crash(3))];
    assert_finished(&run(&spec, 4, Network::default(), 3, &faults), &spec, &[2]);
}

#[test]
fn a_restarted_peer_catches_up_with_or_without_its_disk() {
    let spec = small_spec(4, 40);
    for restart in [DiskFate::Kept, DiskFate::Lost, DiskFate::Torn] {
        let faults = [(200_000, Fault::Crash(1)), (600_000, Fault::Restart(1, restart))];
        assert_finished(&run(&spec, 3, Network::default(), 4, &faults), &spec, &[0, 1, 2]);
    }
}

#[test]
fn a_frozen_peer_is_backed_up_and_catches_up_when_it_goes_on() {
    let spec = small_spec(4, 60);
    let faults = [(200_000, Fault::Freeze(0)), (2_500_000, Fault::Thaw(0))];
    let outcome = run(&spec, 3, Network::default(), 5, &faults);
    assert_finished(&outcome, &spec, &[0, 1, 2]);
    assert!(outcome.log.iter().any(|line| line.text.contains("computes unit")), "nobody backed the frozen peer up");
}

#[test]
fn both_sides_of_a_partition_go_on_and_end_with_the_same_model() {
    let spec = small_spec(4, 80);
    let faults = [(200_000, Fault::Cut(1, Cut::both_ways([0, 1]))), (3_000_000, Fault::Mend(1))];
    assert_finished(&run(&spec, 4, Network::default(), 6, &faults), &spec, &[0, 1, 2, 3]);
}

#[test]
fn a_unit_that_fails_at_one_peer_is_computed_by_another() {
    let spec = small_spec(4, 10);
    let outcome = run(&spec, 3, Network::default(), 7, &[(1, Fault::UnitFails(0, 2)), (1, Fault::UnitFails(1, 2))]);
    assert_finished(&outcome, &spec, &[0, 1, 2]);
}

#[test]
fn a_unit_that_fails_everywhere_stops_every_peer_with_its_number_and_cause() {
    let spec = small_spec(4, 10);
    let faults: Vec<_> = (0..3).map(|peer| (1, Fault::UnitFails(peer, 2))).collect();
    let outcome = run(&spec, 3, Network::default(), 8, &faults);
    assert_eq!(outcome.stopped.len(), 3, "{}", told(&outcome));
    for reason in outcome.stopped.values() {
        let cause = "function crashed".to_string();
        assert_eq!(*reason, StopReason::UnitFailedEverywhere { round: 0, unit: 2, cause });
    }
}

#[test]
fn one_seed_gives_one_history() {
    let spec = small_spec(4, 15);
    let network = Network { delay: 50..20_000, loss_percent: 10, duplicate_percent: 10, ..Network::default() };
    let faults = [(100_000, Fault::Crash(1)), (400_000, Fault::Restart(1, DiskFate::Kept))];
    let run = || run(&spec, 4, network.clone(), 99, &faults);
    assert_eq!(run(), run());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// What campaigns draw from a seed is here drawn by something that shrinks what fails.
    #[test]
    fn whatever_happens_the_states_are_those_of_the_serial_run(
        seed: u64,
        peers in 1..6_usize,
        units in 1..9_u32,
        slowest in 100..40_000_u64,
        loss_percent in 0..30_u64,
        duplicate_percent in 0..30_u64,
        faults in faults(5),
    ) {
        let spec = small_spec(units, 25);
        let faults: Vec<(u64, Fault)> = faults.into_iter().filter(|(_, fault)| match fault {
            Fault::Crash(peer) | Fault::Restart(peer, _) | Fault::Freeze(peer) | Fault::Thaw(peer)
            | Fault::UnitFails(peer, _) => *peer < peers,
            _ => true,
        }).collect();
        let network = Network { delay: 50..slowest, loss_percent, duplicate_percent, ..Network::default() };
        let outcome = run(&spec, peers, network, seed, &faults);
        prop_assert_eq!(&outcome.violation, &None, "{}", told(&outcome));
        prop_assert_eq!(outcome.finished.get(&0), Some(&final_digest(&spec)), "{}", told(&outcome));
    }
}
