//! The core of a round, explored exhaustively with `stateright`: every order of every event of a few
//! peers over a few rounds, with every placing of a bounded number of faults.
//!
//! What is explored is the protocol's own state machine, `Node`, and not a model of it; only clock,
//! network, functions and store around it are models. docs/model-checking.md says what is abstracted
//! and what was found.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod actions;
mod configuration;
mod hashing;
mod network;
mod process;
mod recovery;
mod symbols;
mod system;

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use peerless_protocol::{Effect, Mutant, PayloadRef, StateRef};
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::actions::Action;
use crate::configuration::{Faults, Peers};
use crate::hashing::hash_of;
use crate::network::Order;
use crate::system::{Peer, System};

const ONE_STATE: &str = "all peers have the serial run's state at each round";
const EXACTLY_ONCE: &str = "an applied cover holds each unit exactly once";
const NOT_HELD: &str = "what is used of a payload is in the store";
const GOES_BACK: &str = "no peer goes back behind a state that it had";
const STOPS: &str = "no peer gives up";
const RECOVERS: &str = "without further faults every live peer reaches the last round";
const FINISHES: &str = "all peers finish";
const CATCHES_UP: &str = "a state is taken from others";

fn properties() -> Vec<Property<Peers>> {
    vec![
        Property::always(ONE_STATE, |peers, system| !peers.is_first_violation(system, ONE_STATE)),
        Property::always(EXACTLY_ONCE, |peers, system| !peers.is_first_violation(system, EXACTLY_ONCE)),
        Property::always(NOT_HELD, |peers, system| !peers.is_first_violation(system, NOT_HELD)),
        Property::always(GOES_BACK, |peers, system| !peers.is_first_violation(system, GOES_BACK)),
        Property::always(STOPS, |peers, system| !peers.is_first_violation(system, STOPS)),
        Property::always(RECOVERS, |peers, system| !peers.is_first_violation(system, RECOVERS)),
        Property::sometimes(FINISHES, |_: &Peers, system: &System| system.is_done()),
        Property::sometimes(CATCHES_UP, |_: &Peers, system: &System| {
            let fetching = |effect: &_| matches!(effect, Effect::FetchState { .. });
            system
                .peers
                .iter()
                .filter_map(|peer| peer.process.as_ref())
                .any(|process| process.owed.iter().any(fetching))
        }),
    ]
}

impl Peers {
    fn violates(&self, system: &System, property: &str) -> bool {
        match property {
            ONE_STATE if system.violation != Some(ONE_STATE) => {
                let mut states = system.peers.iter().flat_map(|peer| &peer.disk).map(|meta| meta.state);
                !states.all(|state| self.symbols.serial.get(state.round as usize) == Some(&state))
            }
            RECOVERS => !self.recovery.holds(self, system),
            _ => system.violation == Some(property),
        }
    }

    /// Whether this is the first state seen which violates a property, and `property` is the one. A search in breadth
    /// sees those first that the fewest steps lead to; stateright by itself keeps the last one of a block of states.
    fn is_first_violation(&self, system: &System, property: &'static str) -> bool {
        let first = (hash_of(system), property);
        self.violates(system, property) && *self.first_violation.get_or_init(|| first) == first
    }
}

/// How an exploration ended.
struct Explored {
    states: usize,
    /// Different processes and different things that happened to them.
    reactions: (usize, usize),
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
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    Explored { states, reactions: checker.model().reactions.count(), depth, violation, examples }
}

/// Explores a configuration of the sound protocol to the end.
fn holds(peers: Peers) {
    let (start, name) = (Instant::now(), peers.to_string());
    let found = explore(peers);
    let (seconds, (processes, reactions)) = (start.elapsed().as_secs_f64(), found.reactions);
    println!(
        "{name}: {} states ({processes} of single peers, {reactions} reactions), depth {}, {seconds:.1} s",
        found.states, found.depth
    );
    if let Some((property, history)) = found.violation {
        panic!("{name} violates {property:?} after {history:#?}");
    }
    assert_eq!(found.examples, 2, "{name} never finishes, or never takes a state from others");
}

/// What the properties look at, in every state that can be reached: disks, who runs, with which state, and which
/// cover is being applied.
fn outcomes(peers: &Peers) -> BTreeSet<u64> {
    let (mut seen, mut outcomes, mut actions) = (HashSet::new(), BTreeSet::new(), Vec::new());
    let mut pending = peers.init_states();
    while let Some(system) = pending.pop() {
        if !seen.insert(hash_of(&system)) {
            continue;
        }
        let outcome = system.peers.iter().map(|peer| (peer.left, states(peer), running(peer)));
        outcomes.insert(hash_of(&outcome.collect::<Vec<_>>()));
        peers.actions(&system, &mut actions);
        pending.extend(actions.drain(..).filter_map(|action| peers.next_state(&system, action)));
    }
    println!("{peers}, merging {}: {} states, {} outcomes", peers.merging, seen.len(), outcomes.len());
    outcomes
}

fn states(peer: &Peer) -> Vec<StateRef> {
    peer.disk.iter().map(|meta| meta.state).collect()
}

/// The state of a peer that runs, and the sums that it is adding to it.
fn running(peer: &Peer) -> Option<(StateRef, BTreeSet<PayloadRef>)> {
    let process = peer.process.as_deref()?;
    let covers = process.owed.iter().filter_map(|effect| match effect {
        Effect::Apply { cover, .. } => Some(cover),
        _ => None,
    });
    let payloads = covers.flatten().filter_map(|part| part.contribution.payload);
    Some((process.node.state().state, payloads.collect()))
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

fn with_one(fault: &str) -> Faults {
    let count = |name| u8::from(name == fault);
    Faults {
        crashes: count("crash"),
        losses: count("loss"),
        duplicates: count("duplicate"),
        disconnections: count("disconnection"),
        suspicions: count("suspicion"),
        early_timeouts: count("early"),
    }
}

#[test]
fn every_order_of_events_and_arrivals_in_a_round_is_sound() {
    holds(two_peers(1, Order::Any, NONE));
}

#[test]
fn a_loss_anywhere_in_a_round_is_made_up_for() {
    holds(two_peers(1, Order::Kept, with_one("loss")));
}

#[test]
fn a_repetition_anywhere_in_a_round_changes_nothing() {
    holds(two_peers(1, Order::Kept, with_one("duplicate")));
}

#[test]
fn a_wrong_suspicion_anywhere_in_a_round_changes_nothing() {
    holds(two_peers(1, Order::Kept, with_one("suspicion")));
}

#[test]
fn a_crash_anywhere_in_a_round_with_or_without_a_restart_is_survived() {
    holds(two_peers(1, Order::Kept, with_one("crash")));
}

#[test]
fn a_cut_connection_anywhere_in_a_round_is_survived() {
    holds(two_peers(1, Order::Kept, with_one("disconnection")));
}

#[test]
fn a_wait_that_ends_early_anywhere_in_a_round_changes_nothing() {
    holds(two_peers(1, Order::Kept, with_one("early")));
}

#[test]
fn two_rounds_are_sound() {
    holds(two_peers(2, Order::Kept, NONE));
}

#[test]
fn sums_that_overlap_are_untangled() {
    holds(Peers::strangers(NONE));
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn a_fault_anywhere_in_two_rounds_is_survived() {
    for fault in ["early", "duplicate", "loss", "suspicion", "disconnection"] {
        holds(two_peers(2, Order::Kept, with_one(fault)));
    }
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn a_crash_anywhere_in_two_rounds_is_survived() {
    holds(two_peers(2, Order::Kept, with_one("crash")));
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn sums_that_overlap_are_untangled_with_a_fault_anywhere() {
    for fault in ["early", "duplicate", "loss", "suspicion", "disconnection", "crash"] {
        holds(Peers::strangers(with_one(fault)));
    }
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn three_peers_are_sound() {
    for units in 1..=3 {
        holds(Peers::new(3, units, 1, Order::Kept, NONE));
    }
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn two_faults_anywhere_in_a_round_are_survived() {
    holds(two_peers(1, Order::Kept, Faults { losses: 2, ..NONE }));
    holds(two_peers(1, Order::Kept, Faults { crashes: 1, losses: 1, ..NONE }));
    holds(two_peers(1, Order::Kept, Faults { crashes: 1, suspicions: 1, ..NONE }));
}

#[test]
fn merging_states_loses_no_outcome() {
    for faults in [NONE, with_one("loss")] {
        let peers = two_peers(1, Order::Kept, faults);
        let merged = outcomes(&peers);
        assert_eq!(merged, outcomes(&peers.without_merging()));
    }
}

#[test]
#[ignore = "explores for long; see docs/model-checking.md"]
fn merging_states_loses_no_outcome_of_other_faults() {
    for fault in ["early", "duplicate", "suspicion", "disconnection", "crash"] {
        let peers = two_peers(1, Order::Kept, with_one(fault));
        let merged = outcomes(&peers);
        assert_eq!(merged, outcomes(&peers.without_merging()), "with one {fault}");
    }
}

#[test]
fn a_unit_that_is_counted_twice_is_found() {
    finds(Mutant::CoverMayOverlap, EXACTLY_ONCE, Peers::strangers(NONE));
}

#[test]
fn sums_that_stay_entangled_are_found() {
    finds(Mutant::NoUntangling, RECOVERS, Peers::strangers(with_one("crash")));
}

#[test]
fn a_peer_that_goes_back_is_found() {
    finds(Mutant::AdoptsAnOlderState, GOES_BACK, two_peers(2, Order::Kept, NONE));
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
