//! Deliberate mistakes in the protocol are found by the invariants: the checks can fail.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use peerless_protocol::Mutant;
use peerless_simulation::{Failure, Invariant, Scenario, Setup, run_seed};

/// Seeds within which a mistake must be found.
const WITHIN: u64 = 1_000;

/// Seeds up to the one that caught a mistake that are run without it.
const CONTROLS: u64 = 10;

/// A crash while nobody knows yet how long a unit takes: only who takes over at once is in time.
const FIRST_ROUND: &str = "
about = \"a peer dies for ever in the first round, which has one unit\"
peers = \"2..6\"
units = 1
rounds = 5
stall_s = 8
within_ms = \"1..20\"
[faults.crash]
count = 1
forever_percent = 100
";

/// Where a mutant shows soonest, and the invariants that may catch it.
fn case(mutant: Mutant) -> (&'static str, &'static [Invariant]) {
    use Invariant::{
        ExactCover, Liveness, MemoryBounds, MessageBounds, NoSpinning, NothingForged, OneState, ProgressKept,
    };
    match mutant {
        Mutant::CoverMayMissAUnit | Mutant::CoverMayOverlap | Mutant::StaleContributionAccepted => {
            ("mixed", &[ExactCover])
        }
        Mutant::SignatureNotChecked | Mutant::ForgedAuthorAccepted | Mutant::ContentNotChecked => {
            ("adversary", &[NothingForged, OneState])
        }
        Mutant::EarlyContributionsWithoutLimit => ("adversary", &[MemoryBounds]),
        Mutant::NoReassignmentOfTheDead => ("first round", &[Liveness]),
        Mutant::NoBackups => ("mixed", &[Liveness, NoSpinning]),
        Mutant::NoFetchOfLostPayloads => ("mixed", &[Liveness, NoSpinning]),
        Mutant::NoUntangling => ("partitions", &[Liveness]),
        Mutant::ForgetsToCatchUp => ("mixed", &[Liveness]),
        Mutant::AdoptsAnOlderState => ("mixed", &[ProgressKept]),
        Mutant::KeepsPayloadsForEver => ("mixed", &[MemoryBounds]),
        Mutant::HeartbeatStorm => ("mixed", &[MessageBounds]),
    }
}

fn scenario(name: &str) -> Scenario {
    if name == "first round" { Scenario::parse(name, FIRST_ROUND).unwrap() } else { Scenario::load(name).unwrap() }
}

fn put_in(mutant: Mutant) -> impl Fn(&mut Setup) {
    move |setup| setup.prepare = Some(Arc::new(move |node| node.with_mutant(mutant)))
}

fn first_failure(scenario: &Scenario, seeds: u64, adjust: impl Fn(&mut Setup)) -> Option<Failure> {
    (0..seeds).find_map(|seed| {
        let violation = run_seed(scenario, seed, &adjust).outcome.violation?;
        Some(Failure { seed, violation })
    })
}

/// The mistake is found, by the invariant that is there for it; without the mistake the same seeds pass.
#[test]
fn every_mutant_is_caught_and_the_same_seeds_pass_without_it() {
    for mutant in Mutant::ALL {
        let (name, expected) = case(mutant);
        let scenario = scenario(name);
        let failure = first_failure(&scenario, WITHIN, put_in(mutant));
        let Failure { seed, violation } = failure.unwrap_or_else(|| panic!("{mutant:?} is not caught in {name}"));
        println!("{mutant:?}: after {} seeds of {name}: {violation:.160}", seed + 1);
        assert!(expected.contains(&violation.invariant), "{mutant:?} is caught by the wrong check: {violation}");
        for control in seed.saturating_sub(CONTROLS)..=seed {
            let violation = run_seed(&scenario, control, |_| {}).outcome.violation;
            assert_eq!(violation, None, "{name}, seed {control}, without a mistake");
        }
    }
}

#[test]
fn a_disk_that_reports_writes_too_early_is_caught() {
    let failure = first_failure(&scenario("crashes"), WITHIN, |setup| setup.disk_reports_too_early = true);
    let Failure { seed, violation } = failure.expect("not caught");
    println!("a disk that reports too early: after {} seeds of crashes: {violation}", seed + 1);
    assert_eq!(violation.invariant, Invariant::ProgressKept);
}

#[test]
#[ignore = "minutes: cargo test --release -p peerless-simulation --test mutants -- --ignored --nocapture"]
fn every_mutant_is_caught_in_the_mixed_scenario() {
    let mixed = scenario("mixed");
    let mut survivors = Vec::new();
    // Reassigning saves time and no more: backups do the same after the first deadline. The other test has a
    // scenario in which that is too late.
    for mutant in Mutant::ALL.into_iter().filter(|mutant| *mutant != Mutant::NoReassignmentOfTheDead) {
        match first_failure(&mixed, WITHIN, put_in(mutant)) {
            Some(Failure { seed, violation }) => {
                println!("| `{mutant:?}` | {} | {} |", seed + 1, violation.invariant);
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not caught within {WITHIN} seeds: {survivors:?}");
}
