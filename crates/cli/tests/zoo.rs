//! Larger models on CIFAR-10: with two peers the same states as with one.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::{Workplace, skip};
use peerless_protocol::Digest;
use peerless_store::{Ledger, ledger_path};

/// The states after the first steps of a run that is not waited for: its end evaluates 10,000 images, which takes
/// minutes.
const STEPS: u64 = 2;

/// Whether CIFAR-10 is here now.
fn cifar10_is_here() -> bool {
    let pulled = Workplace::new().run(&["data", "pull", "cifar10"]);
    if pulled.code != Some(0) {
        skip(&pulled.stderr);
    }
    pulled.code == Some(0)
}

/// The digests of the first states with so many peers.
fn states(model: &str, peers: usize) -> Vec<Digest> {
    let place = Workplace::for_training();
    let peers_flag = peers.to_string();
    let what =
        ["--model", model, "--dataset", "cifar10", "--rounds", "1000", "--evaluate-every", "1000", "--lr", "0.01"];
    // With two samples, normalisations of single pixels make gradients beyond the grid.
    let how = ["--batch-size", "8", "--units-per-round", "2", "--run-dir", "run", "--peers", &peers_flag];
    let watcher = place.start(place.command(&[&["train", "--json"], &what[..], &how].concat()));
    let digests = |peer: usize| -> Option<Vec<Digest>> {
        let ledger = ledger_path(&place.path().join("run/peers").join(peer.to_string()));
        let ledger = Ledger::open_read_only(&ledger).ok()?;
        (0..=STEPS).map(|round| ledger.state_digest(round).ok()?).collect()
    };
    common::wait_until("the ledger of every peer has the states", || {
        assert!(watcher.is_running(), "{}", watcher.stderr());
        (1..=peers).all(|peer| digests(peer).is_some())
    });
    let all: Vec<_> = (1..=peers).map(|peer| digests(peer).unwrap()).collect();
    assert!(all.iter().all(|digests| *digests == all[0]), "peers of one run differ: {all:?}");
    all[0].clone()
}

#[test]
fn two_peers_train_mobilenet_and_resnet_to_the_states_of_one() {
    if !cifar10_is_here() {
        return;
    }
    for model in ["mobilenet-v3-small", "resnet18"] {
        let one = states(model, 1);
        assert_ne!(one[1], one[2], "{model} has not moved");
        assert_eq!(states(model, 2), one, "{model}");
    }
}
