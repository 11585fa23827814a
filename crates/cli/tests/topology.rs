//! Topologies and kinds of compute: whatever runs where, and whatever dies, the final state is the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Workplace, same_state, undisturbed, wait_until};
use peerless_store::{Ledger, ledger_path};
use rustix::process::Signal;
use serde_json::Value;

const RUN: [&str; 2] = ["--rounds", "40"];

/// Trains with these flags in the run directory `run`; checks the state on all peers.
fn train(place: &Workplace, flags: &[&str]) -> Value {
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

const SERVER: [&str; 6] = ["--topology", "parameter-server", "--boot-s", "0.5", "--checkpoint-rounds", "10"];

fn ends(summary: &Value) -> Vec<&str> {
    summary["peers"].as_array().unwrap().iter().map(|peer| peer["exit"].as_str().unwrap()).collect()
}

/// Trains with a parameter server, three workers and these faults; checks the state.
fn train_with_server(place: &Workplace, faults: &[&str]) -> Value {
    let faults = faults.iter().flat_map(|fault| ["--fault", fault]);
    let flags: Vec<&str> = ["--peers", "3"].into_iter().chain(SERVER).chain(faults).collect();
    let summary = place.train(&[&["--run-dir", "run"], &flags[..], &RUN].concat());
    assert_eq!(summary["state_digest"], undisturbed(&RUN), "{summary:#}");
    summary
}

fn redone(summary: &Value) -> u64 {
    summary["lost_work"]["rounds_redone"].as_u64().unwrap()
}

/// Whose functions have computed units, by the ledgers.
fn computed(place: &Workplace, peer: &str) -> bool {
    let ledger = Ledger::open_read_only(&ledger_path(&place.path().join("run/peers").join(peer))).unwrap();
    let mut units = 0;
    ledger.visit_invocations(|record| units += u32::from(record.unit.is_some())).unwrap();
    units > 0
}

#[test]
fn a_parameter_server_trains_the_state_that_peers_train() {
    let place = Workplace::for_training();
    let summary = train_with_server(&place, &[]);
    assert_eq!(ends(&summary), ["finished"; 4]);
    assert_eq!(redone(&summary), 0, "{summary:#}");
    assert_eq!(["1", "2", "3", "server"].map(|peer| computed(&place, peer)), [true, true, true, false]);
    let contributions = |peer: usize| summary["peers"][peer]["contributions"].as_u64().unwrap();
    // Who has units in a round depends on measured speeds, but somebody has, and never the server.
    assert!((0..3).map(contributions).sum::<u64>() >= 41 && contributions(3) == 0, "{summary:#}");
    // A finished run stays finished.
    let again = place.run(&["train", "--resume", "run", "--json"]).json();
    assert_eq!(again["state_digest"], summary["state_digest"]);
}

#[test]
fn workers_that_die_are_replaced_by_the_others_and_may_come_back() {
    let place = Workplace::for_training();
    let summary = train_with_server(&place, &["kill:1@5", "kill:2@12", "restart:1@20"]);
    assert_eq!(ends(&summary), ["finished", "killed", "finished", "finished"]);
    assert_eq!(redone(&summary), 0, "workers hold nothing that can be lost: {summary:#}");
}

#[test]
fn a_server_that_dies_goes_on_from_its_checkpoint_and_the_rounds_since_are_done_again() {
    let place = Workplace::for_training();
    let summary = train_with_server(&place, &["kill:server@11"]);
    assert_eq!(ends(&summary), ["finished"; 4]);
    // Checkpoints are written beside the rounds, so the last one may still have been under way.
    assert!((1..=19).contains(&redone(&summary)), "{summary:#}");
    let lost = &summary["lost_work"];
    assert!(lost["samples_recomputed"].as_u64() >= Some(256), "{summary:#}");
    assert!(lost["stalled_s"].as_f64() >= Some(0.4), "the boot alone takes half a second: {summary:#}");
    let shown = place.run(&["runs", "show", "run", "--json"]).json();
    assert_eq!(shown["topology"], "parameter-server", "{shown:#}");
    assert_eq!(shown["lost_work"]["rounds_redone"], lost["rounds_redone"], "{shown:#}");
}

#[test]
fn a_server_that_dies_twice_and_a_worker_besides_change_nothing() {
    let place = Workplace::for_training();
    let summary = train_with_server(&place, &["kill:server@12", "kill:2@17", "kill:server@25"]);
    assert_eq!(ends(&summary), ["finished", "killed", "finished", "finished"]);
    assert!(redone(&summary) >= 2, "{summary:#}");
}

#[test]
fn a_run_whose_workers_are_all_gone_ends_and_can_be_resumed() {
    let place = Workplace::for_training();
    let flags = ["train", "--json", "--peers", "1", "--run-dir", "run", "--fault", "kill:1@15"];
    let ended = place.run(&[&flags[..], &SERVER, &RUN].concat());
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("no worker is left"), "{}", ended.stderr);
    let refused = place.run(&["train", "--resume", "run", "--topology", "p2p"]);
    refused.failed(2, &["topology"]);
    let summary = place.run(&["train", "--json", "--resume", "run"]).json();
    assert_eq!(summary["state_digest"], undisturbed(&RUN), "{summary:#}");
    assert_eq!(ends(&summary), ["finished"; 2]);
}

const ALL_REDUCE: [&str; 6] = ["--topology", "all-reduce", "--boot-s", "0.5", "--checkpoint-rounds", "10"];

/// Trains three workers by all-reduce with these faults; checks the state, which all must have.
fn train_by_all_reduce(place: &Workplace, faults: &[&str]) -> Value {
    let faults = faults.iter().flat_map(|fault| ["--fault", fault]);
    let flags: Vec<&str> = ["--peers", "3"].into_iter().chain(ALL_REDUCE).chain(faults).collect();
    let summary = place.train(&[&["--run-dir", "run"], &flags[..], &RUN].concat());
    assert_eq!(summary["state_digest"], undisturbed(&RUN), "{summary:#}");
    assert_eq!(ends(&summary), ["finished"; 3], "{summary:#}");
    summary
}

#[test]
fn all_reduce_trains_the_state_that_peers_train() {
    let place = Workplace::for_training();
    let summary = train_by_all_reduce(&place, &[]);
    assert_eq!(redone(&summary), 0, "{summary:#}");
    assert_eq!(["1", "2", "3"].map(|peer| computed(&place, peer)), [true; 3]);
}

#[test]
fn a_worker_of_an_all_reduce_that_dies_ends_all_and_they_go_on_from_the_checkpoint() {
    let place = Workplace::for_training();
    let summary = train_by_all_reduce(&place, &["kill:2@11"]);
    // Checkpoints are written beside the rounds, so the last one may still have been under way.
    assert!((1..=19).contains(&redone(&summary)), "{summary:#}");
    assert!(summary["lost_work"]["stalled_s"].as_f64() >= Some(0.4), "the boot takes half a second: {summary:#}");
    let events = summary["events"].as_array().unwrap();
    let starts = events.iter().filter(|event| event["kind"] == "peer-started").count();
    assert_eq!(starts, 6, "all three are started again: {events:#?}");
}

#[test]
fn an_all_reduce_that_is_interrupted_while_a_worker_is_replaced_can_be_resumed() {
    let place = Workplace::for_training();
    let flags = ["train", "--peers", "2", "--run-dir", "run", "--topology", "all-reduce", "--boot-s", "3600"];
    let watcher = place.start(place.command(&[&flags[..], &["--fault", "kill:1@15"], &RUN].concat()));
    wait_until("a worker is to be replaced", || watcher.stderr().contains("started again in 3600 s"));
    watcher.signal(Signal::INT);
    watcher.wait().failed(130, &["error: interrupted", "hint: go on: peerless train --resume run"]);
    let summary = place.run(&[&["train", "--json", "--resume", "run"][..], &ALL_REDUCE].concat()).json();
    assert_eq!(summary["state_digest"], undisturbed(&RUN), "{summary:#}");
}

#[test]
fn an_all_reduce_whose_worker_dies_in_the_last_round_ends_with_the_state_all_the_same() {
    let place = Workplace::for_training();
    let flags = ["--peers", "2", "--run-dir", "run", "--topology", "all-reduce", "--boot-s", "1"];
    let summary = place.train(&[&flags[..], &["--fault", "kill:1@40"], &RUN].concat());
    assert_eq!(summary["state_digest"], undisturbed(&RUN), "{summary:#}");
    assert!(ends(&summary).contains(&"finished"), "{summary:#}");
}

#[test]
fn faults_of_a_server_need_one() {
    let place = Workplace::new();
    place.run(&["train", "--fault", "kill:server@3"]).failed(2, &["kill:server@3", "--topology parameter-server"]);
    place.run(&["train", "--boot-s", "3"]).failed(2, &["--boot-s", "--topology parameter-server"]);
    assert!(place.files().is_empty(), "nothing is made before the flags are checked");
}
