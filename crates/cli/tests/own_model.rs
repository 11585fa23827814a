//! Models that this program does not know: function programs of others train them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use common::{Workplace, skip};

/// The program of `examples/own-model`, which `cargo test --workspace` builds beside this one.
fn own_model() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_peerless")).with_file_name("own-model");
    if program.is_file() {
        return Some(program);
    }
    skip(&format!("{} is not built: run the tests with --workspace", program.display()));
    None
}

#[test]
fn a_model_of_another_crate_is_trained_exported_and_verified() {
    let Some(program) = own_model() else { return };
    let place = Workplace::for_training();
    let train = |peers: &str, run: &str, faults: &[&str]| {
        let what = ["--model", "two-towers", "--rounds", "12", "--peers", peers, "--run-dir", run];
        place.train(&[&what[..], &["--function-program", program.to_str().unwrap()], faults].concat())
    };
    let one = train("1", "one", &[]);
    let three = train("3", "three", &["--fault", "kill:1@4", "--fault", "kill-function:1@6"]);
    assert_eq!(one["state_digest"], three["state_digest"], "{three:#}");
    assert!(one["test_accuracy"].as_f64() > Some(0.3), "nothing was learned: {one:#}");
    place.run(&["export", "three", "-o", "model.safetensors", "--json"]).json();
    let verified = place.run(&["verify", "three"]);
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
    place.run(&["eval", "three"]).failed(2, &["two-towers", "peerless models"]);
}

#[test]
fn a_model_that_the_functions_do_not_know_either_is_refused_by_name() {
    let Some(program) = own_model() else { return };
    let place = Workplace::for_training();
    let flags =
        ["train", "--model", "three-towers", "--function-program", program.to_str().unwrap(), "--run-dir", "run"];
    place.run(&flags).failed(3, &["three-towers", "two-towers"]);
    place.run(&["train", "--model", "two-towers"]).failed(2, &["two-towers", "--function-program"]);
}
