//! Training with functions that share no disk with their peers: wherever they are and whatever happens to
//! them, the final state is the same, bit for bit.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::TcpListener;
use std::time::Duration;

use common::proxy::Proxy;
use common::servers::{Server, TOKEN, train_with};
use common::{Running, Workplace, bill_shows_failures, same_state};
use rustix::process::Signal;
use serde_json::Value;

const RUN: [&str; 2] = ["--rounds", "60"];

/// Starts to train with the servers.
fn start(place: &Workplace, servers: &[&Server], more: &[&str]) -> Running {
    place.start(train_with(place, servers, &[&RUN, more].concat()))
}

/// Checks that the run ended with the right state everywhere, and without telling the token; its summary.
fn finished(training: Running) -> Value {
    let summary = same_state(training, &RUN);
    assert!(!summary.to_string().contains(TOKEN), "{summary:#}");
    summary
}

#[test]
fn functions_behind_http_give_the_state_of_local_ones() {
    let place = Workplace::for_training();
    let servers = [Server::start(&place), Server::start(&place)];
    let summary = finished(start(&place, &[&servers[0], &servers[1]], &["--peers", "3"]));
    assert!(summary["functions"]["invocations"].as_u64() >= Some(60 * 4), "{summary:#}");
    for server in &servers {
        assert!(!server.process.stderr().contains("error"), "{}", server.process.stderr());
    }
}

#[test]
fn functions_without_the_dataset_read_their_samples_through_the_peers() {
    let place = Workplace::for_training();
    let servers = [Server::without_dataset(&place), Server::without_dataset(&place)];
    // As many calls at a time as there are instances: nobody is turned away and goes on with its own cores.
    finished(start(&place, &[&servers[0], &servers[1]], &["--peers", "2", "--functions", "1"]));
    for peer in 1..=2 {
        // Not by means of functions of the peers' machine, which has the dataset.
        let log = std::fs::read_to_string(place.path().join(format!("run/peers/{peer}/peer.log"))).unwrap();
        assert!(!log.contains("functions of this machine"), "{log}");
    }
}

#[test]
fn connections_to_the_gateway_that_are_cut_cost_time_only() {
    let place = Workplace::for_training();
    let server = Server::without_dataset(&place);
    let gateway = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(gateway);
    let address = gateway.to_string();
    let flags = ["--peers", "1", "--functions", "1", "--gateway", &address, "--gateway-url", &proxy.url];
    let training = start(&place, &[&server], &flags);
    let mut cut = 0;
    for steps in (5..55).step_by(5) {
        place.wait_for_steps("run", 1, steps);
        cut += proxy.cut();
    }
    finished(training);
    assert!(cut >= 5, "only {cut} connections were cut");
    bill_shows_failures(&place);
}

#[test]
fn a_function_server_that_is_killed_and_comes_back_costs_time_only() {
    let place = Workplace::for_training();
    let (stays, goes) = (Server::start(&place), Server::start(&place));
    let training = start(&place, &[&goes, &stays], &["--peers", "2"]);
    place.wait_for_steps("run", 2, 10);
    let address = goes.url.strip_prefix("http://").unwrap().to_owned();
    goes.process.signal(Signal::KILL);
    place.wait_for_steps("run", 2, 25);
    let _back = Server::at(&place, &address);
    finished(training);
    bill_shows_failures(&place);
}

#[test]
fn a_function_server_that_is_stopped_for_a_while_is_waited_for() {
    let place = Workplace::for_training();
    let only = Server::start(&place);
    let training = start(&place, &[&only], &["--peers", "1"]);
    place.wait_for_steps("run", 1, 10);
    only.process.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(1));
    only.process.signal(Signal::CONT);
    finished(training);
}

#[test]
fn the_units_of_a_function_server_that_hangs_are_computed_by_another_one_and_the_bill_says_so() {
    let place = Workplace::for_training();
    let (works, hangs) = (Server::start(&place), Server::start(&place));
    let prices = ["--peers", "1", "--functions", "4", "--function-price", "http=lambda-x86:1769"];
    let training = start(&place, &[&works, &hangs], &prices);
    place.wait_for_steps("run", 1, 20);
    hangs.process.signal(Signal::STOP);
    place.wait_for_steps("run", 1, 40);
    hangs.process.signal(Signal::CONT);
    let summary = finished(training);
    assert!(summary["functions"]["hedged"].as_u64() > Some(0), "{summary:#}");
    let bill = place.run(&["cost", "--json", "--run-dir", "run"]).json();
    let discarded = &bill["wasted"]["discarded"];
    assert!(discarded["invocations"].as_u64() > Some(0), "{bill:#}");
    let dollars: f64 = discarded["usd"].as_str().unwrap().parse().unwrap();
    assert!(dollars > 0.0, "{bill:#}");
}

#[test]
fn what_a_peer_has_no_free_function_for_is_computed_elsewhere() {
    let place = Workplace::for_training();
    let server = Server::start(&place);
    finished(start(&place, &[&server], &["--peers", "1", "--functions", "1", "--burst", "2"]));
    let bill = place.run(&["cost", "--json", "--run-dir", "run"]).json();
    let invocations = |name: &str| {
        let platforms = bill["by_platform"].as_array().unwrap();
        platforms.iter().find(|line| line["platform"] == name)?["invocations"].as_u64()
    };
    assert!(invocations("process") > Some(0) && invocations("http") > Some(0), "{bill:#}");
}

#[test]
fn a_peer_that_bursts_goes_on_by_itself_when_the_server_dies() {
    let place = Workplace::for_training();
    let server = Server::start(&place);
    let training = start(&place, &[&server], &["--peers", "1", "--functions", "1", "--burst", "2"]);
    place.wait_for_steps("run", 1, 10);
    server.process.signal(Signal::KILL);
    finished(training);
}

#[test]
fn while_no_function_server_is_there_peers_go_on_with_their_own_cores_and_say_so() {
    let place = Workplace::for_training();
    let only = Server::start(&place);
    let training = start(&place, &[&only], &["--peers", "2"]);
    place.wait_for_steps("run", 2, 10);
    only.process.signal(Signal::KILL);
    finished(training);
    let log = std::fs::read_to_string(place.path().join("run/peers/1/peer.log")).unwrap();
    assert!(log.contains("going on with functions of this machine"), "{log}");
}

#[test]
fn a_wrong_token_is_said_to_be_one_and_not_shown() {
    let place = Workplace::new();
    let server = Server::start(&place);
    let mut command = place.command(&["train", "--peers", "1", "--rounds", "2", "--function-url", &server.url]);
    command.env("PEERLESS_FUNCTION_TOKEN", "an0ther");
    let ended = place.start(command).wait();
    assert_ne!(ended.code, Some(0));
    for part in ["denies access", "check the token", &server.url] {
        assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("an0ther"), "{}", ended.stderr);
}

#[test]
fn a_function_server_that_is_not_there_is_named() {
    let place = Workplace::new();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{unused}");
    let ended = place.run(&["train", "--peers", "1", "--rounds", "2", "--function-url", &url]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains(&unused.to_string()) && ended.stderr.contains("refused"), "{}", ended.stderr);
}
