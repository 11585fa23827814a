//! Bad input: a clear error, the documented exit code, and nothing half-written.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use common::{Ended, Workplace};

/// Runs a command that must fail and leave nothing behind.
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let place = Workplace::new();
    place.run(arguments).failed(code, parts);
    assert!(place.files().is_empty(), "{arguments:?} left {:?}", place.files());
}

#[test]
fn what_is_unknown_or_out_of_range_is_refused_by_name() {
    refused(
        &["train", "--model", "lenet6"],
        2,
        &["error: model \"lenet6\" is unknown, use one of lenet5, squeezenet1.1, mobilenet-v3-small, resnet18"],
    );
    refused(
        &["train", "--dataset", "mnits"],
        2,
        &["error: dataset \"mnits\" is unknown, use one of mnist, fashion-mnist, cifar10"],
    );
    refused(&["train", "--optimizer", "lion"], 2, &["lion", "nesterov"]);
    refused(&["train", "--units-per-round", "0"], 2, &["units_per_round is 0"]);
    refused(&["train", "--batch-size", "70000"], 2, &["samples_per_unit is 70000"]);
    refused(&["train", "--peers", "0"], 2, &["0 is not in 1..=256"]);
    refused(&["train", "--until-accuracy", "985"], 2, &["at most 1 (or 100%)"]);
    refused(&["train", "--schedule", "linear"], 2, &["cosine"]);
    refused(&["data", "pull", "mnits"], 2, &["dataset \"mnits\" is unknown"]);
}

#[test]
fn a_fault_that_cannot_happen_is_refused_with_the_part_that_is_wrong() {
    refused(&["train", "--fault", "hug:1@3"], 2, &["the action \"hug\" is unknown"]);
    refused(&["train", "--fault", "kill:1@soon"], 2, &["the round \"soon\""]);
    refused(&["train", "--peers", "2", "--fault", "kill:3@5"], 2, &["fault kill:3@5", "it has 2"]);
}

#[cfg(not(feature = "otel"))]
#[test]
fn traces_name_the_feature_that_they_need() {
    let needed = ["cargo feature `otel`", "hint: build it with --features otel"];
    refused(&["train", "--otlp", "http://localhost:4318"], 1, &needed);
    refused(&["trace"], 1, &needed);
}

#[test]
fn a_directory_without_a_run_is_said_to_be_none() {
    for command in [&["train", "--resume", "here"][..], &["status", "here"], &["runs", "show", "here"]] {
        refused(command, 1, &["here is no run directory", "hint: `peerless runs list`"]);
    }
    refused(&["status"], 1, &["there is no run in runs/", "hint: "]);
    refused(&["eval"], 1, &["there is no run in runs/"]);
    refused(&["export", "-o", "model.safetensors"], 1, &["there is no run in runs/"]);
}

#[test]
fn a_run_directory_of_a_newer_version_is_left_alone() {
    let place = Workplace::new();
    let run = place.path().join("run");
    fs::create_dir(&run).unwrap();
    let content = r#"{"format": 99, "run": "?"}"#;
    fs::write(run.join("run.json"), content).unwrap();
    for command in [&["train", "--resume", "run"][..], &["train", "--run-dir", "run"], &["status", "run"]] {
        place.run(command).failed(1, &["run.json has format 99", "use the newer peerless that wrote it"]);
    }
    assert_eq!(fs::read_to_string(run.join("run.json")).unwrap(), content);
    assert_eq!(fs::read_dir(&run).unwrap().count(), 1);
}

#[test]
fn a_second_run_in_one_directory_is_refused_with_the_way_to_resume() {
    let place = Workplace::for_training();
    place.train(&["--peers", "1", "--rounds", "1", "--run-dir", "run"]);
    let again = place.run(&["train", "--peers", "1", "--rounds", "2", "--run-dir", "run"]);
    again.failed(1, &["run already holds run", "hint: go on with it: peerless train --resume run"]);
    let changed = place.run(&["train", "--resume", "run", "--lr", "0.5"]);
    changed.failed(2, &["cannot be changed when it is resumed"]);
}

/// The dataset in a folder of its own, all files but one by link. Returns the folder of datasets.
fn copied_dataset(place: &Workplace, damaged: &str, damage: &dyn Fn(&mut Vec<u8>)) -> PathBuf {
    let pulled = Workplace::new().run(&["data", "pull", "mnist"]);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    let copy = place.path().join("data/mnist");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(pulled.stdout.trim()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name == damaged {
            let mut content = fs::read(entry.path()).unwrap();
            damage(&mut content);
            fs::write(copy.join(name), content).unwrap();
        } else if !name.starts_with('.') {
            symlink(entry.path(), copy.join(name)).unwrap();
        }
    }
    place.path().join("data")
}

fn train_on(place: &Workplace, data: &PathBuf, arguments: &[&str]) -> Ended {
    let mut command = place.command(arguments);
    command.env("PEERLESS_DATA", data);
    place.start(command).wait()
}

#[test]
fn a_damaged_dataset_is_refused_before_anything_is_made() {
    let changed = |content: &mut Vec<u8>| content[5_000] ^= 1;
    let truncated = |content: &mut Vec<u8>| content.truncate(1_234);
    for damage in [&changed as &dyn Fn(&mut Vec<u8>), &truncated] {
        let place = Workplace::new();
        let data = copied_dataset(&place, "t10k-labels-idx1-ubyte", damage);
        let train = train_on(&place, &data, &["train", "--rounds", "1"]);
        train.failed(4, &["have digest", "hint: `peerless data pull mnist`"]);
        let peer = train_on(&place, &data, &["peer", "start", "--run-dir", "run", "--rounds", "1"]);
        peer.failed(4, &["have digest", "hint: `peerless data pull mnist`"]);
        assert_eq!(place.files(), ["data"]);
    }
}

#[test]
fn a_file_that_is_no_model_is_not_evaluated() {
    let place = Workplace::new();
    fs::write(place.path().join("model.safetensors"), b"not a model at all").unwrap();
    place.run(&["eval", "model.safetensors"]).failed(1, &["is no peerless model", "hint: `peerless export`"]);
}

#[test]
fn the_commands_that_look_work_where_there_is_nothing() {
    let place = Workplace::new();
    assert_eq!(place.run(&["runs", "list", "--json"]).json(), serde_json::json!([]));
    let models = place.run(&["models", "--json"]).json();
    assert_eq!(models[0]["name"], "lenet5");
    let mut list = place.command(&["data", "list", "--json"]);
    list.env("PEERLESS_DATA", place.path().join("nothing"));
    assert_eq!(place.start(list).wait().json()[0]["state"], "not here");
    assert!(place.files().is_empty());
}
