//! The function protocol from Python: PyTorch computes the units.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Workplace, skip};

/// The program, and what its interpreter has to be allowed to read besides the system's folders.
fn program() -> Option<(PathBuf, Vec<String>)> {
    let modules = "import sys, torch, numpy, blake3; print(sys.prefix); print(sys.base_prefix)";
    // As the program's first line does.
    let python = Command::new("/usr/bin/env").args(["python3", "-c", modules]).output();
    match python {
        Ok(python) if python.status.success() => {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python-function/unit.py");
            let prefixes = String::from_utf8(python.stdout).unwrap().lines().map(str::to_owned).collect();
            Some((program.canonicalize().unwrap(), prefixes))
        }
        _ => {
            skip("python3 with torch, numpy and blake3 is not there (pip install torch numpy blake3)");
            None
        }
    }
}

#[test]
fn two_peers_with_functions_in_python_train_the_state_of_one() {
    let Some((program, prefixes)) = program() else { return };
    let place = Workplace::for_training();
    let train = |peers: &str, run: &str, faults: &[&str]| {
        let what = ["--model", "torch-cnn", "--rounds", "20", "--peers", peers, "--run-dir", run];
        let reads = prefixes.iter().flat_map(|prefix| ["--function-read", prefix]);
        let how: Vec<&str> = ["--function-program", program.to_str().unwrap()].into_iter().chain(reads).collect();
        place.train(&[&what[..], &how, faults].concat())
    };
    let one = train("1", "one", &[]);
    let two = train("2", "two", &["--fault", "kill:1@8"]);
    assert_eq!(one["state_digest"], two["state_digest"], "{two:#}");
    assert!(one["test_accuracy"].as_f64() > Some(0.5), "nothing was learned: {one:#}");
    let verified = place.run(&["verify", "two"]);
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
}
