//! Sums formed shard by shard and membership without everyone talking to everyone: the same model.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::faults;
use peerless_protocol::{Crowd, Time};
use peerless_simulation::{Cut, Fault, Network, Outcome, Reference, Setup, World, small_spec};
use proptest::prelude::*;

/// As many shards: enough for several at each peer, few enough that signatures do not take all the time.
const ELEMENTS: usize = 12;

/// Everything that is for crowds, from three peers on.
const SMALL_CROWD: Crowd = Crowd { sharded_from: 3, sparse_from: 3 };

/// Ample time for a round of one peer by itself.
const ALONE: Duration = Duration::from_millis(700);

fn world(peers: usize, crowd: Crowd, network: Network, units: u32, rounds: u64, seed: u64) -> (World, Arc<Reference>) {
    let reference = Arc::new(Reference::new(small_spec(units, rounds), ELEMENTS).unwrap());
    (World::new(Setup { crowd, network, ..Setup::new(peers) }, Arc::clone(&reference), seed), reference)
}

fn told(outcome: &Outcome) -> String {
    outcome.log.iter().map(|line| format!("{line}\n")).collect()
}

fn assert_finished(outcome: &Outcome, reference: &Reference, peers: impl IntoIterator<Item = usize>) {
    assert_eq!(outcome.violation, None, "{}", told(outcome));
    for peer in peers {
        let finished = outcome.finished.get(&peer);
        assert_eq!(finished, Some(&reference.final_digest()), "peer {peer}\n{}", told(outcome));
    }
}

#[test]
fn undisturbed_peers_compute_every_unit_once() {
    let (world, reference) = world(10, Crowd::default(), Network::default(), 20, 10, 1);
    let outcome = world.run();
    assert_finished(&outcome, &reference, 0..10);
    // 10 rounds of 20 gradient units; 3 evaluations on the way and one at the end, of 3 units each.
    assert_eq!(outcome.metrics.units, 10 * 20 + 4 * 3, "{}", told(&outcome));
}

#[test]
fn the_shards_of_an_owner_that_dies_are_summed_by_others() {
    for peer in 0..8 {
        let (mut world, reference) = world(8, Crowd::default(), Network::default(), 8, 12, 2);
        world.schedule(Time(60_000 + 1_000 * peer as u64), Fault::Crash(peer));
        assert_finished(&world.run(), &reference, (0..8).filter(|other| *other != peer));
    }
}

#[test]
fn whoever_is_left_alone_with_the_shards_of_the_dead_computes_what_they_lack_at_once() {
    // About when totals are on their way: some shards' arrive, others' owners die first.
    for (survivor, at) in (0..8).flat_map(|survivor| (0..30).map(move |step| (survivor, 44_500 + 50 * step))) {
        let reference = Arc::new(Reference::new(small_spec(8, 12), ELEMENTS).unwrap());
        // Less than the time after which late units are looked for.
        let setup = Setup { stall: ALONE, ..Setup::new(8) };
        let mut world = World::new(setup, Arc::clone(&reference), 2);
        for peer in (0..8).filter(|peer| *peer != survivor) {
            world.schedule(Time(at), Fault::Crash(peer));
        }
        assert_finished(&world.run(), &reference, [survivor]);
    }
}

#[test]
fn peers_on_both_sides_of_the_threshold_understand_each_other() {
    let (mut world, reference) = world(8, Crowd::default(), Network::default(), 8, 20, 3);
    world.schedule(Time(50_000), Fault::Cut(1, Cut::both_ways([0])));
    world.schedule(Time(3_000_000), Fault::Mend(1));
    assert_finished(&world.run(), &reference, 0..8);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crowd_ends_with_the_state_of_the_serial_run_whatever_happens(
        seed: u64,
        units in 1..9_u32,
        slowest in 100..40_000_u64,
        loss_percent in 0..30_u64,
        duplicate_percent in 0..30_u64,
        faults in faults(5),
    ) {
        let network = Network { delay: 50..slowest, loss_percent, duplicate_percent, ..Network::default() };
        let (mut world, reference) = world(6, SMALL_CROWD, network, units, 15, seed);
        faults.into_iter().for_each(|(at, fault)| world.schedule(Time(at), fault));
        let outcome = world.run();
        prop_assert_eq!(&outcome.violation, &None, "{}", told(&outcome));
        prop_assert_eq!(outcome.finished.get(&0), Some(&reference.final_digest()), "{}", told(&outcome));
    }
}
