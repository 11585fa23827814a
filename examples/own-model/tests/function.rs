//! The program answers tasks. That a run trains its model is tested with `peerless`, in `crates/cli/tests/own_model.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

#[test]
fn the_example_answers_tasks_on_stdin() {
    let mut function = Command::new(env!("CARGO_BIN_EXE_own-model"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env_remove("PORT")
        .spawn()
        .unwrap();
    let spec = json!({
        "version": 1, "model": "two-towers", "seed": 1, "units_per_round": 4, "samples_per_unit": 64, "rounds": 60,
        "dataset": { "name": "mnist", "digest": "0".repeat(64), "train_samples": 60000, "test_samples": 10000 },
        "optimizer": { "momentum": { "momentum": 0.9, "nesterov": true, "weight_decay": 0.0 } }, "learning_rate": { "base": 0.05, "warm_up_rounds": 0, "schedule": "constant" },
        "clip_norm": null, "fraction_bits": 40, "evaluation": { "every_rounds": 234, "samples_per_unit": 250 },
        "early_stopping": null, "until_correct": null,
    });
    let task = json!({
        "version": 2, "invocation": 7, "run": "0".repeat(64), "spec": spec, "work": { "kind": "ping" },
    });
    writeln!(function.stdin.take().unwrap(), "{task}").unwrap();
    let ended = function.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&report["invocation"], &report["outcome"]["Ok"]["kind"]), (&7.into(), &"pong".into()), "{report}");
}
