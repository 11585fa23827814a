//! Units are dealt out by how fast peers were measured to be.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use peerless_protocol::Time;
use peerless_simulation::{DEFAULT_ELEMENTS, Fault, Outcome, Reference, Setup, World, small_spec};

const UNITS: u32 = 8;
const ROUNDS: u64 = 100;

/// Four peers, which are equally fast but for `faults`.
fn run(rounds: u64, seed: u64, faults: &[(u64, Fault)]) -> Outcome {
    let reference = Arc::new(Reference::new(small_spec(UNITS, rounds), DEFAULT_ELEMENTS).unwrap());
    let mut setup = Setup::new(4);
    setup.functions.unit = 20_000..20_001;
    let mut world = World::new(setup, Arc::clone(&reference), seed);
    faults.iter().for_each(|(at, fault)| world.schedule(Time(*at), fault.clone()));
    let outcome = world.run();
    assert_eq!(outcome.violation, None, "{}", told(&outcome));
    assert!(outcome.finished.values().all(|digest| *digest == reference.final_digest()), "{}", told(&outcome));
    outcome
}

fn told(outcome: &Outcome) -> String {
    outcome.log.iter().map(|line| format!("{line}\n")).collect()
}

/// What a peer says that it takes for a unit, in ms.
fn announcements(outcome: &Outcome, peer: &str) -> Vec<f64> {
    let lines = outcome.log.iter().map(ToString::to_string).filter(|line| line.contains(peer));
    lines.filter_map(|line| line.split_once("takes ")?.1.split_once(" ms for a unit")?.0.parse().ok()).collect()
}

#[test]
fn equal_peers_deal_out_every_unit_once_although_their_times_differ_from_unit_to_unit() {
    for seed in 0..10 {
        let outcome = run(ROUNDS, seed, &[]);
        // 33 evaluations on the way and one at the end, of 3 units each.
        assert_eq!(outcome.metrics.units, ROUNDS * u64::from(UNITS) + 34 * 3, "seed {seed}\n{}", told(&outcome));
    }
}

#[test]
fn a_run_does_not_wait_for_a_peer_that_is_ten_times_slower() {
    for seed in 0..10 {
        let equal = run(ROUNDS, seed, &[]).ended;
        let outcome = run(ROUNDS, seed, &[(0, Fault::Slow(0, 10))]);
        // Three peers take four thirds of the time of four.
        let ratio = outcome.ended.0 as f64 / equal.0 as f64;
        println!("seed {seed}: {ratio:.2} times the time of equal peers");
        assert!(ratio < 2.0, "{ratio:.2} times the time of equal peers, seed {seed}\n{}", told(&outcome));
    }
}

#[test]
fn a_peer_that_was_slow_for_a_while_is_measured_again_and_gets_its_share_back() {
    let outcome = run(900, 1, &[(0, Fault::Slow(0, 10)), (3_000_000, Fault::Slow(0, 1))]);
    let said = announcements(&outcome, "p0 ");
    let (slowest, last) = (said.iter().copied().fold(0.0, f64::max), *said.last().unwrap());
    assert!(slowest > 100.0 && (20.0..60.0).contains(&last), "{said:?}");
}
