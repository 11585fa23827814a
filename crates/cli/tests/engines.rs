//! `--engine` with the real program.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::Workplace;

/// Runs a command that must fail for wrong usage and leave nothing behind.
fn refused(arguments: &[&str], parts: &[&str]) {
    let place = Workplace::new();
    place.run(arguments).failed(2, parts);
    assert!(place.files().is_empty(), "{arguments:?} left {:?}", place.files());
}

#[test]
fn an_unknown_engine_is_refused_with_the_known_ones() {
    refused(&["train", "--engine", "tpu"], &["engine \"tpu\" is unknown, use one of flex, libtorch, wgpu, cuda"]);
}

#[cfg(not(feature = "engine-wgpu"))]
#[test]
fn a_missing_engine_names_the_feature_that_it_needs() {
    let needed = ["engine wgpu (cargo feature `engine-wgpu`)", "hint: build it with --features engine-wgpu"];
    let commands: [&[&str]; 5] = [
        &["train"],
        &["peer", "start", "--run-dir", "run"],
        &["bench", "unit", "lenet5:1"],
        &["function"],
        &["function", "--http", "127.0.0.1:0"],
    ];
    for command in commands {
        refused(&[command, &["--engine", "wgpu"]].concat(), &needed);
    }
}

#[cfg(feature = "engine-wgpu")]
#[test]
fn isolated_functions_have_no_gpu() {
    let needed = ["engine wgpu needs the machine's devices", "hint: add --function-isolation limits"];
    refused(&["train", "--engine", "wgpu"], &needed);
}

/// The numerics fingerprint of a short run with an engine.
fn fingerprint(engine: &str) -> String {
    let place = Workplace::for_training();
    let what = ["--rounds", "2", "--evaluate-every", "2", "--batch-size", "8", "--units-per-round", "2"];
    let summary = place.train(&[&what[..], &["--peers", "1", "--engine", engine]].concat());
    summary["fingerprint"].as_str().unwrap().to_owned()
}

#[test]
fn functions_compute_with_the_engine_that_is_asked_for() {
    let flex = peerless_training::Model::named("lenet5").unwrap().fingerprint().unwrap();
    assert_eq!(fingerprint("flex"), flex.to_string());
    #[cfg(feature = "engine-libtorch")]
    assert_ne!(fingerprint("libtorch"), flex.to_string());
}
