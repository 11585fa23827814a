//! The core of a round, explored exhaustively with `stateright`: every order of every event of a few
//! peers over a few rounds, with every placing of a bounded number of faults.
//!
//! What is explored is the protocol's own state machine, `Node`, and not a model of it; only clock,
//! network, functions and store around it are models. docs/model-checking.md says what is abstracted
//! and what was found.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod process;
mod recovery;
mod symbols;
mod system;

use std::time::Instant;

use peerless_protocol::Mutant;
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::system::{Action, Faults, Order, Peers, Start, System};

const ONE_STATE: &str = "all peers have the serial run's state at each round";
const EXACTLY_ONCE: &str = "an applied cover holds each unit exactly once";
const NOT_HELD: &str = "what is used of a payload is in the store";
const GOES_BACK: &str = "no peer goes back behind a state that it had";
const STOPS: &str = "no peer gives up";
const RECOVERS: &str = "without further faults every live peer reaches the last round";
const FINISHES: &str = "all peers finish";
const CATCHES_UP: &str = "a state is taken from others";

fn properties() -> Vec<Property<Peers>> {
    fn violates(system: &System, name: &str) -> bool {
        system.violation == Some(name)
    }
    vec![
        Property::always(ONE_STATE, |peers: &Peers, system: &System| {
            let mut states = system.peers.iter().flat_map(|peer| &peer.disk).map(|meta| meta.state);
            let serial = states.all(|state| peers.symbols.serial.get(state.round as usize) == Some(&state));
            serial && !violates(system, ONE_STATE)
        }),
        Property::always(EXACTLY_ONCE, |_, system| !violates(system, EXACTLY_ONCE)),
        Property::always(NOT_HELD, |_, system| !violates(system, NOT_HELD)),
        Property::always(GOES_BACK, |_, system| !violates(system, GOES_BACK)),
        Property::always(STOPS, |_, system| !violates(system, STOPS)),
        Property::always(RECOVERS, |peers, system| peers.recovery.holds(peers, system)),
        Property::sometimes(FINISHES, |_: &Peers, system: &System| system.is_done()),
        Property::sometimes(CATCHES_UP, |_: &Peers, system: &System| {
            let fetching = |effect: &_| matches!(effect, peerless_protocol::Effect::FetchState { .. });
            system
                .peers
                .iter()
                .filter_map(|peer| peer.process.as_ref())
                .any(|process| process.owed.iter().any(fetching))
        }),
    ]
}

/// How an exploration ended.
struct Explored {
    states: usize,
    depth: usize,
    violation: Option<(&'static str, Vec<Action>)>,
    /// How many of the properties that hold sometimes were seen to.
    examples: usize,
}

/// Explores in breadth on one thread, so that a counterexample is a shortest one.
fn explore(peers: Peers) -> Explored {
    let checker = peers.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (mut violation, mut examples) = (None, 0);
    for (property, path) in checker.discoveries() {
        if checker.model().property(property).expectation.discovery_is_failure() {
            violation = Some((property, path.into_actions()));
        } else {
            examples += 1;
        }
    }
    Explored { states: checker.unique_state_count(), depth: checker.max_depth(), violation, examples }
}

/// Explores a configuration of the sound protocol to the end.
fn holds(peers: Peers) {
    let (start, name) = (Instant::now(), peers.to_string());
    let found = explore(peers);
    println!("{name}: {} states, depth {}, {:.1} s", found.states, found.depth, start.elapsed().as_secs_f64());
    if let Some((property, history)) = found.violation {
        panic!("{name} violates {property:?} after {history:#?}");
    }
    assert_eq!(found.examples, 2, "{name} never finishes, or never takes a state from others");
}

/// Looks for a history that shows the mistake, and that it violates `expected`.
fn finds(mutant: Mutant, expected: &str, peers: Peers) {
    let (start, peers) = (Instant::now(), peers.with_mutant(mutant));
    let name = peers.to_string();
    let found = explore(peers);
    let Some((property, history)) = found.violation else {
        panic!("{mutant:?} is not found by {name} in {} states", found.states);
    };
    let (steps, took) = (history.len(), start.elapsed().as_secs_f64());
    println!("{mutant:?}: {property:?} violated in {steps} steps, {} states, {took:.1} s; {name}", found.states);
    history.iter().enumerate().for_each(|(step, action)| println!("  {:>2}. {action}", step + 1));
    assert_eq!(property, expected);
}

const NONE: Faults =
    Faults { crashes: 0, losses: 0, duplicates: 0, disconnections: 0, suspicions: 0, early_timeouts: 0 };

fn two_peers(rounds: u64, order: Order, faults: Faults) -> Peers {
    Peers::new(2, 2, rounds, order, faults)
}

/// Two peers whose views differ, as each knows a third one alone that has just died.
fn strangers(faults: Faults) -> Peers {
    Peers::new(3, 3, 1, Order::Kept, faults).starting(Start::Strangers)
}

#[test]
fn every_order_of_events_and_arrivals_in_a_round_is_sound() {
    holds(two_peers(1, Order::Any, NONE));
}

#[test]
fn a_loss_anywhere_in_a_round_is_made_up_for() {
    holds(two_peers(1, Order::Kept, Faults { losses: 1, ..NONE }));
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn a_repetition_anywhere_in_a_round_changes_nothing() {
    holds(two_peers(1, Order::Kept, Faults { duplicates: 1, ..NONE }));
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn a_wrong_suspicion_anywhere_in_a_round_changes_nothing() {
    holds(two_peers(1, Order::Kept, Faults { suspicions: 1, ..NONE }));
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn a_crash_anywhere_in_a_round_with_or_without_a_restart_is_survived() {
    holds(two_peers(1, Order::Kept, Faults { crashes: 1, ..NONE }));
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn a_cut_connection_anywhere_in_a_round_is_survived() {
    holds(two_peers(1, Order::Kept, Faults { disconnections: 1, ..NONE }));
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn two_rounds_are_sound() {
    holds(two_peers(2, Order::Kept, NONE));
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn sums_that_overlap_are_untangled() {
    holds(strangers(NONE));
}

#[test]
fn a_cover_that_misses_a_unit_is_found() {
    let faults = Faults { early_timeouts: 1, ..NONE };
    finds(Mutant::CoverMayMissAUnit, EXACTLY_ONCE, two_peers(1, Order::Kept, faults));
}

#[test]
fn a_contribution_computed_from_another_state_is_found() {
    finds(Mutant::StaleContributionAccepted, EXACTLY_ONCE, two_peers(2, Order::Kept, NONE));
}

#[test]
fn a_peer_that_never_catches_up_is_found() {
    let faults = Faults { losses: 1, ..NONE };
    finds(Mutant::ForgetsToCatchUp, RECOVERS, two_peers(1, Order::Kept, faults));
}

#[test]
fn peers_that_never_compute_for_others_are_found() {
    let faults = Faults { losses: 2, ..NONE };
    finds(Mutant::NoBackups, RECOVERS, two_peers(1, Order::Kept, faults));
}
