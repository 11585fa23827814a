//! Topologies and kinds of compute: whatever runs where, and whatever dies, the final state is the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Workplace, same_state};

const RUN: [&str; 2] = ["--rounds", "40"];

/// Trains with these flags in the run directory `run`; checks the state on all peers.
fn train(place: &Workplace, flags: &[&str]) -> serde_json::Value {
    let arguments = [&["train", "--json", "--run-dir", "run"], flags, &RUN].concat();
    same_state(place.start(place.command(&arguments)), &RUN)
}

#[test]
fn instances_compute_the_same_state_in_one_process_each_that_stays() {
    let place = Workplace::for_training();
    let flags = ["--peers", "2", "--compute", "instance", "--peer-price", "t2.large"];
    let summary = train(&place, &flags);
    assert_eq!(summary["functions"]["cold_starts"], 2, "{summary:#}");
    let cost = &summary["cost"];
    assert_eq!(cost["total_usd"], cost["peers_usd"], "an instance costs by the hour alone: {summary:#}");
    assert!(cost["peers_usd"].as_str() > Some("0.000000000000"), "{summary:#}");
}
