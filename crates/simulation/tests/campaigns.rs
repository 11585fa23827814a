//! Seeds of every scenario: no invariant is violated.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{SystemTime, UNIX_EPOCH};

use peerless_simulation::{Campaign, Report, Scenario, run_seed};

/// Seeds of the mixed scenario that are run every time.
const FIXED: u64 = 200;

/// Seeds that differ from run to run, so that every run of the tests looks at something new.
const FRESH: u64 = 50;

fn campaign(scenario: &str, first_seed: u64, seeds: u64) -> Report {
    let scenario = Scenario::load(scenario).unwrap();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    Campaign { scenario, first_seed, seeds, jobs }.run(|_| {})
}

fn assert_no_violation(scenario: &str, report: &Report) {
    let replay = |seed| format!("peerless simulate --scenario {scenario} --replay {seed}");
    let failures: Vec<String> =
        report.failures.iter().map(|failure| format!("{}: {}", replay(failure.seed), failure.violation)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn no_fixed_seed_of_the_mixed_scenario_violates_an_invariant() {
    let report = campaign("mixed", 0, FIXED);
    assert_no_violation("mixed", &report);
    // The scenario is worth its name: every kind of fault happened, and was measured.
    let kinds = ["crash", "restart", "restart without disk", "restart after torn write", "pause", "partition"];
    let more = ["one-way cut", "slow peer", "failing unit", "join", "leave", "replayed message", "wrong author"];
    for kind in kinds.into_iter().chain(more) {
        assert!(report.metrics.faults.get(kind).is_some_and(|&count| count > 0), "no {kind} in {FIXED} seeds");
    }
    assert!(report.metrics.refused > 0 && !report.metrics.detect.is_empty() && !report.metrics.recover.is_empty());
}

#[test]
fn no_fresh_seed_of_the_mixed_scenario_violates_an_invariant() {
    let chosen = std::env::var("RANDOM").ok().map(|seed| seed.parse().expect("RANDOM must be a number"));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() * 1_000;
    let first: u64 = chosen.unwrap_or_else(now);
    println!("seeds {first} to {}; RANDOM={first} runs them again", first + FRESH - 1);
    assert_no_violation("mixed", &campaign("mixed", first, FRESH));
}

#[test]
fn no_scenario_violates_an_invariant() {
    for scenario in Scenario::built_in().unwrap().into_iter().filter(|scenario| scenario.name != "mixed") {
        // Thousands of signed shards a round take their time.
        let seeds = if scenario.name == "scale" { 1 } else { 10 };
        let report = campaign(&scenario.name, 1_000, seeds);
        assert_no_violation(&scenario.name, &report);
        assert!(report.metrics.rounds > 0, "{}: no round was done", scenario.name);
    }
}

#[test]
fn one_seed_gives_one_log_whether_or_not_it_is_written() {
    let scenario = Scenario::load("mixed").unwrap();
    for seed in 500..520 {
        let recorded = || run_seed(&scenario, seed, |setup| setup.record = true).outcome;
        let first = recorded();
        assert!(!first.log.is_empty());
        assert_eq!(first, recorded(), "seed {seed}");
        let unrecorded = run_seed(&scenario, seed, |_| {}).outcome;
        assert_eq!((first.metrics, first.finished), (unrecorded.metrics, unrecorded.finished), "seed {seed}");
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_report() {
    let scenario = Scenario::load("crashes").unwrap();
    let report = |jobs| Campaign { scenario: scenario.clone(), first_seed: 7, seeds: 12, jobs }.run(|_| {});
    let (one, four) = (report(1), report(4));
    assert_eq!((one.metrics.rounds, one.metrics.control), (four.metrics.rounds, four.metrics.control));
    assert_eq!(one.metrics.faults, four.metrics.faults);
}
