//! Real peers in network namespaces of their own, on a network with delay, loss and partitions. Needs
//! root and `ip`; what cannot be had is skipped with a line that says so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
#[path = "../src/train/network.rs"]
mod network;

use std::process::Command;

use common::{Running, Workplace, skip, undisturbed, wait_until};
use network::Network;
use rustix::process::{Signal, kill_process};

const RUN: [&str; 2] = ["--rounds", "60"];

/// Namespaces for so many peers, if this machine allows it.
fn network(peers: usize) -> Option<Network> {
    Network::create(peers).map_err(|error| skip(&format!("no network namespaces here: {error:#}"))).ok()
}

/// Starts a peer in its namespace. The first one makes the run.
fn start(place: &Workplace, network: &Network, number: usize, peers: usize, flags: &[&str]) -> Running {
    let (name, expect, listen) =
        (number.to_string(), (peers - 1).to_string(), format!("{}:0", network.address(number)));
    let peer = ["peer", "start", "--run-dir", "run", "--functions", "1", "--name", &name, "--expect", &expect];
    let arguments = [&peer[..], &["--listen", &listen], flags].concat();
    let running = place.start(place.wrapped(&network.wrapper(number), &arguments));
    wait_until("the run is there", || place.path().join("run/run.json").exists());
    running
}

/// Starts peers 1 to `peers` of a run with these flags.
fn start_all(place: &Workplace, network: &Network, peers: usize, flags: &[&str]) -> Vec<Running> {
    (1..=peers).map(|number| start(place, network, number, peers, if number == 1 { flags } else { &[] })).collect()
}

/// Waits until a peer has ended with the final state, and checks that it is the right one.
fn finishes(place: &Workplace, name: &str, peer: Running, flags: &[&str]) {
    let ended = peer.wait();
    assert_eq!(ended.code, Some(0), "peer {name}: {}", ended.stderr);
    let status = place.status("run", name).unwrap();
    assert_eq!(status["phase"], "finished", "{status:#}");
    assert_eq!(status["state_digest"], undisturbed(flags), "peer {name}");
}

fn finish(place: &Workplace, peers: Vec<Running>, flags: &[&str]) {
    peers.into_iter().enumerate().for_each(|(index, peer)| finishes(place, &(index + 1).to_string(), peer, flags));
}

/// Whether a command in the namespace of a peer worked.
fn inside(network: &Network, peer: usize, words: &[&str]) -> bool {
    let wrapper = network.wrapper(peer);
    let mut command = Command::new(&wrapper[0]);
    command.args(&wrapper[1..]).args(words);
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn peers_on_a_network_that_delays_and_loses_packets_end_with_the_same_state() {
    let place = Workplace::for_training();
    let Some(network) = network(3) else { return };
    let netem = "tc qdisc add dev port root netem delay 15ms 5ms loss 2%";
    let peers = 1..=3;
    if !peers.clone().all(|peer| inside(&network, peer, &netem.split(' ').collect::<Vec<_>>())) {
        skip("this kernel has no netem: no delay, and loss by nftables and a slow link by tbf instead");
        let slow = "tc qdisc add dev port root tbf rate 30mbit burst 16kb latency 100ms";
        let chain = ["nft", "add", "chain", "inet", "loss", "in", "{ type filter hook input priority 0; }"];
        let drop = "nft add rule inet loss in numgen random mod 100 < 2 drop";
        for peer in peers {
            let lossy = inside(&network, peer, &["nft", "add", "table", "inet", "loss"])
                && inside(&network, peer, &chain)
                && inside(&network, peer, &drop.split(' ').collect::<Vec<_>>());
            if !inside(&network, peer, &slow.split(' ').collect::<Vec<_>>()) || !lossy {
                return skip("neither netem nor tbf and nftables");
            }
        }
    }
    let peers = start_all(&place, &network, 3, &RUN);
    finish(&place, peers, &RUN);
}

#[test]
fn both_sides_of_a_partition_go_on_and_end_with_the_same_state_when_it_heals() {
    // Enough of them that no side ends before it misses the other, on a fast machine either.
    const RUN: [&str; 2] = ["--rounds", "150"];
    let place = Workplace::for_training();
    let Some(network) = network(4) else { return };
    let peers = start_all(&place, &network, 4, &RUN);
    place.wait_for_steps("run", 4, 5);
    network.cut_off(&[3, 4]).unwrap();
    let steps = |peer: usize| place.steps("run", &peer.to_string());
    let at_the_cut = [1, 2, 3, 4].map(steps);
    let misses = |peer: usize| {
        let events = place.events("run", &peer.to_string());
        events.iter().any(|kind| kind == "peer-suspected" || kind == "peer-lost")
    };
    // A round whose results were under way may still be applied; these are rounds of the side alone.
    wait_until("every peer misses the other side and has gone on", || {
        [1, 2, 3, 4].iter().all(|&peer| steps(peer) >= at_the_cut[peer - 1] + 4 && misses(peer))
    });
    network.heal().unwrap();
    finish(&place, peers, &RUN);
}

#[test]
fn one_peer_that_is_cut_off_again_and_again_ends_with_the_same_state() {
    let place = Workplace::for_training();
    let Some(network) = network(3) else { return };
    let peers = start_all(&place, &network, 3, &RUN);
    for steps in [5, 15, 25, 35] {
        place.wait_for_steps("run", 3, steps);
        network.cut_off(&[2]).unwrap();
        place.wait_for_steps("run", 3, steps + 5);
        network.heal().unwrap();
    }
    finish(&place, peers, &RUN);
}

/// Rounds that together take several times as long as the state takes over a slow link, on a fast machine too, where a
/// peer that waits for nobody may need a tenth of a second for each.
const SLOW_ROUNDS: [&str; 6] = ["--rounds", "24", "--batch-size", "800", "--evaluate-every", "100"];

/// Bytes that a peer's port has received.
fn received(network: &Network, peer: usize) -> u64 {
    let wrapper = network.wrapper(peer);
    let file = "/sys/class/net/port/statistics/rx_bytes";
    let output = Command::new(&wrapper[0]).args(&wrapper[1..]).args(["cat", file]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default()
}

#[test]
fn a_joiner_whose_donor_is_killed_during_the_transfer_ends_with_the_same_state() {
    let place = Workplace::for_training();
    let Some(network) = network(4) else { return };
    let slow = "tc qdisc add dev port root tbf rate 4mbit burst 16kb latency 400ms";
    if !(1..=3).all(|peer| inside(&network, peer, &slow.split(' ').collect::<Vec<_>>())) {
        return skip("no tbf to make links slow");
    }
    let mut peers = start_all(&place, &network, 3, &SLOW_ROUNDS);
    place.wait_for_steps("run", 3, 1);
    let joiner = start(&place, &network, 4, 1, &[]);
    // The state has half a megabyte; the handshakes and messages before it far less.
    wait_until("the transfer is under way", || received(&network, 4) > 100_000);
    let donors = [1, 2, 3].map(|peer| place.status("run", &peer.to_string()).unwrap()["pid"].as_i64().unwrap());
    let killed = rustix::process::Pid::from_raw(i32::try_from(donors[0]).unwrap()).unwrap();
    kill_process(killed, Signal::KILL).unwrap();
    let first = peers.remove(0);
    assert_eq!(first.wait().code, None, "killed");
    for (name, peer) in ["2", "3", "4"].into_iter().zip(peers.into_iter().chain([joiner])) {
        finishes(&place, name, peer, &SLOW_ROUNDS);
    }
}

#[test]
fn a_joiner_that_is_killed_while_it_joins_joins_again_and_ends_with_the_same_state() {
    let place = Workplace::for_training();
    let Some(network) = network(2) else { return };
    let slow = "tc qdisc add dev port root tbf rate 4mbit burst 16kb latency 400ms";
    if !inside(&network, 1, &slow.split(' ').collect::<Vec<_>>()) {
        return skip("no tbf to make links slow");
    }
    let first = start(&place, &network, 1, 1, &SLOW_ROUNDS);
    place.wait_for_steps("run", 1, 1);
    for half in [50_000, 150_000] {
        let before = received(&network, 2);
        let joiner = start(&place, &network, 2, 1, &[]);
        wait_until("the transfer is under way", || received(&network, 2) > before + half);
        joiner.signal(Signal::KILL);
        assert_eq!(joiner.wait().code, None, "killed");
    }
    let joiner = start(&place, &network, 2, 1, &[]);
    finishes(&place, "1", first, &SLOW_ROUNDS);
    finishes(&place, "2", joiner, &SLOW_ROUNDS);
}
