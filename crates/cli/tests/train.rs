//! Training with real processes: whatever dies on the way, the final state is the same, bit for bit.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::sync::OnceLock;

use common::{Workplace, wait_until};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

/// The run that all tests here train. Long enough for several deaths, short enough for many tests.
const ROUNDS: &str = "60";

/// The final digest of one peer that nothing happens to.
fn undisturbed() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| {
        let summary = Workplace::new().train(&["--peers", "1", "--rounds", ROUNDS]);
        summary["state_digest"].as_str().unwrap().to_owned()
    })
}

/// Checks a summary: the state is the right one on every peer that finished. Returns how they ended.
fn ends(summary: &Value) -> Vec<String> {
    assert_eq!(summary["state_digest"], undisturbed(), "{summary:#}");
    let peers = summary["peers"].as_array().unwrap();
    for peer in peers.iter().filter(|peer| peer["exit"] == "finished") {
        assert_eq!(peer["state_digest"], summary["state_digest"], "{summary:#}");
        assert_eq!(peer["rounds"], 60, "{summary:#}");
    }
    peers.iter().map(|peer| peer["exit"].as_str().unwrap().to_owned()).collect()
}

/// A run of three peers in `run`, with a watcher in the background, at `steps` optimizer steps.
fn under_way(place: &Workplace, steps: u64) -> common::Running {
    let arguments = ["train", "--json", "--peers", "3", "--rounds", ROUNDS, "--run-dir", "run"];
    let watcher = place.start(place.command(&arguments));
    place.wait_for_steps("run", 3, steps);
    watcher
}

#[test]
fn four_peers_that_are_killed_and_restarted_end_with_the_state_of_one() {
    let place = Workplace::for_training();
    let faults = ["kill:1@10", "kill-function:2@15", "kill:3@25", "restart:1@40"];
    let faults: Vec<&str> = faults.iter().flat_map(|fault| ["--fault", fault]).collect();
    let summary = place.train(&[&["--peers", "4", "--rounds", ROUNDS], &faults[..]].concat());
    assert_eq!(ends(&summary), ["finished", "finished", "killed", "finished"]);
    // Each peer, the one that was restarted and what replaced the killed functions. Of peer 3's, those
    // that were not written down before it died are not counted.
    assert!(summary["functions"]["cold_starts"].as_u64().unwrap() > 4, "{summary:#}");
    let fired = summary["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "fault").count();
    assert!(fired >= 4, "{summary:#}");
}

#[test]
fn the_last_peer_alive_ends_with_the_same_state() {
    let place = Workplace::for_training();
    let faults = ["--fault", "kill:2@5", "--fault", "kill:3@10", "--fault", "kill:1@20"];
    let summary = place.train(&[&["--peers", "4", "--rounds", ROUNDS], &faults[..]].concat());
    assert_eq!(ends(&summary), ["killed", "killed", "killed", "finished"]);
}

#[test]
fn a_peer_that_was_stopped_for_a_while_ends_with_the_same_state() {
    let place = Workplace::for_training();
    let faults = ["--fault", "stop:2@10", "--fault", "cont:2@30"];
    let summary = place.train(&[&["--peers", "2", "--rounds", ROUNDS], &faults[..]].concat());
    assert_eq!(ends(&summary), ["finished", "finished"]);
}

#[test]
fn a_peer_that_stays_stopped_is_not_waited_for() {
    let place = Workplace::for_training();
    let summary = place.train(&["--peers", "2", "--rounds", ROUNDS, "--fault", "stop:2@10"]);
    assert_eq!(ends(&summary)[0], "finished");
}

#[test]
fn when_everything_is_killed_again_and_again_the_run_still_ends_with_the_same_state() {
    let place = Workplace::for_training();
    let mut watcher = under_way(&place, 4);
    for steps in [20, 38, 52] {
        place.kill_everything();
        drop(watcher);
        watcher = place.start(place.command(&["train", "--json", "--resume", "run"]));
        place.wait_for_steps("run", 3, steps);
    }
    place.kill_everything();
    let summary = place.train(&["--resume", "run"]);
    assert_eq!(ends(&summary), ["finished"; 3]);
}

#[test]
fn a_kill_during_a_checkpoint_write_leaves_the_checkpoint_before_it() {
    let place = Workplace::for_training();
    let arguments = ["train", "--peers", "2", "--rounds", ROUNDS, "--run-dir", "run", "--checkpoint-every", "1"];
    let watcher = place.start(place.command(&arguments));
    let checkpoints = [1, 2].map(|peer| place.path().join(format!("run/peers/{peer}/checkpoints")));
    let names = |folder| fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let writing = || checkpoints.iter().flat_map(names).any(|name| !name.to_string_lossy().ends_with(".safetensors"));
    let late = || ["1", "2"].iter().any(|peer| place.status("run", peer).is_some_and(|status| status["steps"] == 60));
    // A write takes a millisecond or so. Should all of them be missed, it is a kill at another moment.
    while !writing() && !late() {}
    place.kill_everything();
    drop(watcher);
    // What the newest states in shared memory would save is gone as well, as after a power cut.
    place.remove_tensors();
    let summary = place.train(&["--resume", "run"]);
    assert_eq!(ends(&summary), ["finished"; 2]);
}

#[test]
fn peers_do_not_need_the_watcher() {
    let place = Workplace::for_training();
    let watcher = under_way(&place, 5);
    watcher.signal(Signal::KILL);
    assert_eq!(watcher.wait().code, None);
    let finished = |peer: &str| place.status("run", peer).is_some_and(|status| status["phase"] == "finished");
    wait_until("all peers have finished", || ["1", "2", "3"].into_iter().all(finished));
    wait_until("all peers have ended", || place.processes().is_empty());
    let summary = place.train(&["--resume", "run"]);
    assert_eq!(ends(&summary), ["finished"; 3]);
    assert_eq!(summary["events"].as_array().map(Vec::len), Some(0), "no peer is started again: {summary:#}");
}

#[test]
fn a_run_whose_watcher_was_killed_can_be_watched_again() {
    let place = Workplace::for_training();
    let watcher = under_way(&place, 5);
    watcher.signal(Signal::KILL);
    assert_eq!(watcher.wait().code, None);
    let pids = ["1", "2", "3"].map(|peer| place.status("run", peer).unwrap()["pid"].clone());
    let summary = place.train(&["--resume", "run"]);
    assert_eq!(ends(&summary), ["finished"; 3]);
    let watched = summary["peers"].as_array().unwrap().iter().map(|peer| peer["pid"].clone());
    assert_eq!(watched.collect::<Vec<_>>(), pids, "living peers are not started again");
}

#[test]
fn peers_that_were_asked_to_end_with_the_watcher_do() {
    let place = Workplace::for_training();
    let arguments = ["train", "--peers", "2", "--rounds", "100000", "--run-dir", "run", "--end-with-watcher"];
    let watcher = place.start(place.command(&arguments));
    place.wait_for_steps("run", 2, 3);
    watcher.signal(Signal::KILL);
    assert_eq!(watcher.wait().code, None);
    wait_until("all peers have left", || place.processes().is_empty());
    for peer in ["1", "2"] {
        assert_eq!(place.status("run", peer).unwrap()["phase"], "left");
    }
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let place = Workplace::for_training();
    let watcher = under_way(&place, 15);
    watcher.signal(Signal::INT);
    let ended = watcher.wait();
    ended.failed(130, &["error: interrupted", "hint: go on: peerless train --resume run"]);
    assert!(place.processes().is_empty(), "peers are left behind");
    let summary = place.train(&["--resume", "run"]);
    assert_eq!(ends(&summary), ["finished"; 3]);
}

#[test]
fn when_every_peer_is_killed_the_run_fails_and_can_be_resumed() {
    let place = Workplace::for_training();
    let arguments = ["train", "--peers", "1", "--rounds", ROUNDS, "--run-dir", "run", "--fault", "kill:1@10"];
    place.run(&arguments).failed(3, &["no peer is left", "hint: go on: peerless train --resume run"]);
    assert_eq!(ends(&place.train(&["--resume", "run"])), ["finished"]);
}

#[test]
fn a_peer_that_dies_unexpectedly_is_reported_and_missed() {
    let place = Workplace::for_training();
    let watcher = under_way(&place, 5);
    let pid = place.status("run", "2").unwrap()["pid"].as_i64().unwrap();
    kill_process(rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    let ended = watcher.wait();
    assert!(ended.stderr.contains("peer 2 died (killed)"), "{}", ended.stderr);
    assert_eq!(ends(&ended.json()), ["finished", "killed", "finished"]);
}

#[test]
fn the_exported_model_is_evaluated_as_in_training() {
    let place = Workplace::for_training();
    let summary = place.train(&["--peers", "2", "--rounds", "20", "--run-dir", "run"]);
    let exported = place.run(&["export", "run", "-o", "model.safetensors", "--json"]).json();
    assert_eq!(exported["state_digest"], summary["state_digest"]);
    for source in ["model.safetensors", "run"] {
        let evaluated = place.run(&["eval", source, "--json"]).json();
        assert_eq!(evaluated["test_accuracy"], summary["test_accuracy"], "{source}");
        assert_eq!(evaluated["test_loss"], summary["test_loss"], "{source}");
    }
    let status = place.run(&["status", "run", "--json"]).json();
    assert_eq!((&status["states_agree"], status["peers"].as_array().map(Vec::len)), (&true.into(), Some(2)));
    let shown = place.run(&["runs", "show", "run", "--json"]).json();
    assert_eq!((&shown["state"], &shown["rounds_done"]), (&"finished".into(), &20.into()));
}

#[test]
fn a_peer_that_is_killed_and_started_again_goes_on_from_its_own_state() {
    let place = Workplace::for_training();
    place.train(&["--peers", "2", "--rounds", ROUNDS, "--run-dir", "run", "--fault", "restart:1@40"]);
    let log = fs::read_to_string(place.path().join("run/peers/1/peer.log")).unwrap();
    let starts = log.lines().filter_map(|line| line.split_once(" state round=")?.1.split(' ').next()?.parse().ok());
    let starts: Vec<u64> = starts.collect();
    assert!(matches!(starts[..], [0, again] if again >= 30), "it started from the states of {starts:?}\n{log}");
}

#[test]
fn the_summary_has_all_documented_fields() {
    let place = Workplace::for_training();
    let summary = place.train(&["--peers", "1", "--rounds", "2", "--seed", "9"]);
    let fields = [
        "version",
        "run_id",
        "name",
        "run_dir",
        "finish_reason",
        "rounds",
        "samples",
        "train_s",
        "wall_s",
        "samples_per_s",
        "test_accuracy",
        "test_loss",
        "state_digest",
        "fingerprint",
        "peers",
        "functions",
        "cost",
        "lost_work",
        "memory",
        "bytes_sent",
        "events",
    ];
    let has = |value: &Value, fields: &[&str]| {
        let found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = fields.to_vec();
        fields.sort_unstable();
        assert_eq!(found, fields);
    };
    has(&summary, &fields);
    let peer = ["name", "id", "pid", "state_digest", "rounds", "contributions", "backup_units", "refused", "exit"];
    has(&summary["peers"][0], &peer);
    has(&summary["functions"], &["invocations", "cold_starts", "failed", "retried", "hedged"]);
    has(&summary["lost_work"], &["rounds_redone", "samples_recomputed", "stalled_s"]);
    has(&summary["memory"], &["peer_bytes", "function_bytes"]);
    has(&summary["events"][0], &["at_unix_us", "round", "kind", "peer", "detail"]);
    assert_eq!((&summary["rounds"], &summary["samples"]), (&2.into(), &512.into()));
    assert_eq!(summary["finish_reason"], "rounds");
}

#[test]
fn a_run_learns_as_a_plain_loop_on_the_same_work_does() {
    let place = Workplace::for_training();
    let summary = place.train(&["--peers", "2", "--rounds", ROUNDS, "--run-dir", "run"]);
    let compared = place.run(&["bench", "loss", "run", "--json"]).json();
    let rounds = compared["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 60, "{compared:#}");
    let loss = |round: &Value| round["loop_loss"].as_f64().unwrap();
    assert!(loss(&rounds[59]) < 0.6 * loss(&rounds[0]), "it does not learn: {compared:#}");
    // Gradients are rounded to the grid of the exact sums, so that some digit differs.
    let difference = compared["largest_difference"].as_f64().unwrap();
    assert!(difference > 0.0 && difference < 1e-3, "{difference}");
    let accuracy = |test: &Value| test["accuracy"].as_f64().unwrap();
    assert_eq!(accuracy(&compared["run_test"]), summary["test_accuracy"].as_f64().unwrap());
    let apart = accuracy(&compared["loop_test"]) - accuracy(&compared["run_test"]);
    assert!(apart.abs() <= 0.002, "{compared:#}");
}
