//! `peerless compare`: real runs, real processes, small.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Workplace, undisturbed, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const SPEC: &str = "\
title = \"Deaths & <stragglers>\"
target-accuracy = 0.05
[axes]
topologies = [\"p2p\", \"parameter-server\"]
peers = [2]
faults = [\"dies\", \"slow\"]
[train]
rounds = 14
evaluate-every = 7
function-price = \"lambda-x86:1769\"
[topology.parameter-server]
boot-s = 0.4
checkpoint-rounds = 20
[faults.dies.inject]
p2p = [\"kill:2@7\"]
parameter-server = [\"kill:server@7\"]
[faults.slow]
inject = [\"slow:1@2\"]
";

fn write(place: &Workplace, name: &str, spec: &str) {
    fs::write(place.path().join(name), spec).unwrap();
}

/// What was kept of the runs, by path.
fn outcomes(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.file_name().is_some_and(|name| name == "outcome.json") {
            found.push((path.clone(), fs::read_to_string(path).unwrap()));
        } else if path.is_dir() {
            found.extend(outcomes(&path));
        }
    }
    found.sort();
    found
}

fn cell<'a>(document: &'a Value, topology: &str, fault: &str) -> &'a Value {
    let cells = document["comparisons"][0]["cells"].as_array().unwrap();
    cells.iter().find(|cell| cell["topology"] == topology && cell["fault"] == fault).unwrap()
}

fn median(cell: &Value, figure: &str) -> f64 {
    cell["figures"][figure]["median"].as_f64().unwrap_or_else(|| panic!("{figure} in {cell:#}"))
}

#[test]
fn a_matrix_is_run_once_goes_on_after_an_interrupt_and_all_runs_end_in_the_same_state() {
    let place = Workplace::for_training();
    write(&place, "try.toml", SPEC);
    let out = place.path().join("compare");
    let command = ["compare", "try.toml", "--json", "--html", "report.html", "--note", "a <note>"];
    let running = place.start(place.command(&command));
    wait_until("the first run has ended", || !outcomes(&out).is_empty());
    running.signal(Signal::INT);
    running.wait().failed(130, &["interrupted", "the same command goes on"]);
    let first = outcomes(&out);
    assert!(first.len() < 4, "interrupted before the end");

    let ended = place.run(&command);
    let document = ended.json();
    let all = outcomes(&out);
    assert_eq!(all.len(), 4, "{}", ended.stderr);
    assert!(first.iter().all(|run| all.contains(run)), "what was done is not done again");
    assert_eq!(document["digests"]["agree"], true, "{document:#}");
    let digest = undisturbed(&["--rounds", "14", "--evaluate-every", "7"]);
    for topology in ["p2p", "parameter-server"] {
        for fault in ["dies", "slow"] {
            let cell = cell(&document, topology, fault);
            assert_eq!(cell["runs"][0]["state_digest"], digest, "{cell:#}");
            for figure in ["train_s", "target_s", "invocations", "total_usd", "peer_memory_bytes", "bytes_sent"] {
                assert!(median(cell, figure) > 0.0, "{figure} in {cell:#}");
            }
        }
    }
    let server = cell(&document, "parameter-server", "dies");
    assert!(median(server, "rounds_redone") >= 1.0 && median(server, "stalled_s") > 0.3, "{server:#}");
    assert_eq!(median(cell(&document, "p2p", "dies"), "rounds_redone"), 0.0);

    let page = fs::read_to_string(place.path().join("report.html")).unwrap();
    for part in [
        "Deaths &amp; &lt;stragglers&gt;",
        "a &lt;note&gt;",
        "<svg",
        "Recovery: dies",
        "kill:server@7",
        "Specification",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for foreign in ["<script", "src=", "@import", "url(http", "NaN"] {
        assert!(!page.contains(foreign), "{foreign}");
    }

    let again = place.run(&["compare", "try.toml"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("4 runs in 4 cells, of which 4 are done"), "{}", again.stderr);
    assert!(again.stdout.contains("digests: all 4 runs of the same work end in the same state"), "{}", again.stdout);
    assert_eq!(outcomes(&out), all, "nothing is run again");

    // Another state in one of them.
    let (path, text) = &all[0];
    let other = "0".repeat(64);
    fs::write(path, text.replace(&digest, &other)).unwrap();
    let differ = place.run(&["compare", "try.toml", "--markdown"]);
    assert_eq!(differ.code, Some(6), "{}", differ.stderr);
    assert!(differ.stdout.contains("DIFFER") && differ.stdout.contains("| --- |"), "{}", differ.stdout);
}

#[test]
fn a_run_that_fails_is_in_the_table_and_the_others_go_on() {
    let place = Workplace::for_training();
    let spec = "title = \"t\"\n[axes]\ntopologies = [\"p2p\"]\npeers = [1]\nfaults = [\"all-die\", \"none\"]\n\
                [train]\nrounds = 8\n[faults.all-die]\ninject = [\"kill:1@3\"]";
    write(&place, "fails.toml", spec);
    let ended = place.run(&["compare", "fails.toml", "--out", "kept"]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    for part in ["0 of 1", "failed: all-die, p2p #1: no peer is left", "all 1 runs", "1 failed"] {
        assert!(ended.stdout.contains(part), "{part} in {}", ended.stdout);
    }
    let again = place.run(&["compare", "fails.toml", "--out", "kept"]);
    assert!(again.stderr.contains("of which 1 are done"), "what failed is tried again: {}", again.stderr);
}

#[test]
fn a_specification_that_is_wrong_is_refused_before_anything_runs() {
    let place = Workplace::new();
    let axes = "title = \"t\"\n[axes]\ntopologies = [\"p2p\"]\npeers = [2]\n";
    let cases = [
        ("title = \"t\"".to_owned(), "axes"),
        ("title = \"t\"\n[axes]\ntopologies = []".to_owned(), "topologies is empty"),
        ("title = \"t\"\n[axes]\ntopologies = [\"star\"]".to_owned(), "star"),
        (format!("{axes}[train]\nspeed = 3"), "--speed"),
        (format!("{axes}[faults.dies]\ninject = [\"kill:3@5\"]"), "kill:3@5"),
        (format!("{axes}[faults.dies.inject]\nparameter-server = []"), "p2p"),
    ];
    for (spec, part) in cases {
        write(&place, "bad.toml", &spec);
        place.run(&["compare", "bad.toml"]).failed(2, &["bad.toml", part]);
    }
    place.run(&["compare", "missing.toml"]).failed(2, &["missing.toml"]);
    assert!(!place.path().join("compare").exists(), "nothing is made");
}

#[test]
fn the_shipped_experiments_are_valid() {
    let place = Workplace::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    let mut specs: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().display().to_string()).collect();
    specs.sort();
    assert_eq!(specs.len(), 8);
    let command: Vec<&str> = ["compare", "--dry-run"].into_iter().chain(specs.iter().map(String::as_str)).collect();
    let listed = place.run(&command);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert!(listed.stdout.contains("kill:server@105") && listed.stderr.contains("runs in"), "{}", listed.stdout);
    assert!(place.files().is_empty(), "nothing is made");
}
