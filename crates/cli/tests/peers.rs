//! Peers that are started by hand, and what they refuse.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::net::TcpListener;

use common::{Running, Workplace, wait_until};
use serde_json::Value;

/// A peer of a long run in `run`, and a ticket to it.
fn inviting(place: &Workplace, run: &str, more: &[&str]) -> (Running, String) {
    let arguments = ["peer", "start", "--run-dir", run, "--print-ticket"];
    let peer = place.start(place.command(&[&arguments, more].concat()));
    wait_until("there is a ticket", || peer.stdout().ends_with('\n'));
    let ticket = peer.stdout().trim().to_owned();
    (peer, ticket)
}

fn digest(place: &Workplace, run: &str, peer: &str) -> Value {
    let status = place.status(run, peer).unwrap();
    assert_eq!(status["phase"], "finished", "{status:#}");
    status["state_digest"].clone()
}

#[test]
fn a_peer_that_joins_by_ticket_ends_with_the_same_state() {
    let place = Workplace::for_training();
    let (first, ticket) = inviting(&place, "first", &["--rounds", "60"]);
    let second = place.start(place.command(&["peer", "join", &ticket, "--dir", "second"]));
    for peer in [first, second] {
        let ended = peer.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("numerics fingerprint"), "{}", ended.stderr);
    }
    assert_eq!(digest(&place, "first", "1"), digest(&place, "second", "1"));
}

#[test]
fn peers_that_are_started_in_one_run_directory_find_each_other() {
    let place = Workplace::for_training();
    let start = |more: &[&str]| {
        let arguments = [&["peer", "start", "--run-dir", "run"], more].concat();
        place.start(place.command(&arguments))
    };
    let first = start(&["--rounds", "60", "--expect", "1"]);
    wait_until("the run is there", || place.path().join("run/run.json").exists());
    let second = start(&["--name", "second", "--expect", "1"]);
    for peer in [first, second] {
        let ended = peer.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("PeerConnected"), "{}", ended.stderr);
    }
    assert_eq!(digest(&place, "run", "1"), digest(&place, "run", "second"));
    let listed = place.run(&["peer", "list", "run", "--json"]).json();
    let phases: Vec<&Value> = listed.as_array().unwrap().iter().map(|peer| &peer["phase"]).collect();
    assert_eq!(phases, ["finished", "finished"]);
}

#[test]
fn a_peer_with_another_spec_is_refused() {
    let place = Workplace::for_training();
    let (_peer, _) = inviting(&place, "run", &["--rounds", "100000"]);
    let other = place.run(&["peer", "start", "--run-dir", "run", "--rounds", "100000", "--lr", "0.01"]);
    other.failed(2, &["run holds run", "the flags describe another run", "hint: "]);
    let (_other, ticket) = inviting(&place, "other", &["--rounds", "99999"]);
    let joining = place.run(&["peer", "join", &ticket, "--dir", "run"]);
    joining.failed(1, &["run holds run", "not the ticket's", "hint: name another directory"]);
}

#[test]
fn a_peer_directory_or_port_in_use_is_named() {
    let place = Workplace::for_training();
    let (_peer, _) = inviting(&place, "run", &["--rounds", "100000"]);
    let again = place.run(&["peer", "start", "--run-dir", "run", "--name", "1"]);
    again.failed(5, &["is in use by process", "hint: "]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let busy = place.run(&["peer", "start", "--run-dir", "run", "--listen", &address]);
    busy.failed(5, &[&address, "is in use by another process", "hint: --listen 127.0.0.1:0"]);
}

#[test]
fn a_ticket_that_is_damaged_stale_or_of_another_run_is_refused() {
    let place = Workplace::for_training();
    let (peer, ticket) = inviting(&place, "run", &["--rounds", "100000"]);
    let printed = place.run(&["peer", "ticket", "run"]);
    assert_eq!(printed.stdout.trim(), ticket);
    let refused = |ticket: &str, code: i32, parts: &[&str]| {
        place.run(&["peer", "join", ticket, "--dir", "joined"]).failed(code, parts);
        assert!(!place.path().join("joined").exists(), "something was written for {ticket}");
    };
    refused("hello", 2, &["not a ticket", "hint: `peerless peer ticket`"]);
    refused(&ticket[..ticket.len() - 3], 2, &["the ticket is damaged"]);
    let (_other, others) = inviting(&place, "other", &["--rounds", "99999"]);
    assert_ne!(ticket, others);
    // The same run, but invited with another secret: as if the run had been made again.
    let secret = place.path().join("run/join-secret");
    fs::write(&secret, "7".repeat(64)).unwrap();
    let forged = place.run(&["peer", "ticket", "run"]).stdout.trim().to_owned();
    refused(&forged, 1, &["wrong join secret"]);
    drop(peer);
    refused(&ticket, 1, &["none of the ticket's 1 peers answered"]);
}

#[test]
fn an_address_that_nobody_can_reach_needs_another_one_to_advertise() {
    let place = Workplace::new();
    let refused = place.run(&["peer", "start", "--run-dir", "run", "--listen", "0.0.0.0:4000"]);
    refused.failed(2, &["not one to be reached at", "hint: add --advertise"]);
    assert!(place.files().is_empty());
}
