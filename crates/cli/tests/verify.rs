//! `peerless verify` on real runs: what is right passes, and whatever is wrong is found and named.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::lying::{LYING_FUNCTION, function_program};
use common::{Running, Workplace, wait_until};
use rusqlite::Connection;
use serde_json::Value;

/// A run that takes a second: small units, and one evaluation at its end.
const SMALL: [&str; 6] = ["--rounds", "6", "--batch-size", "8", "--evaluate-every", "100"];

/// Not a test of its own: what function processes run.
#[test]
#[ignore = "started as a function by the tests below"]
fn lying_function() {
    common::lying::serve();
}

fn trained(place: &Workplace) -> Value {
    let summary = place.train(&[&["--peers", "2", "--run-dir", "run"], &SMALL[..]].concat());
    ["1", "2"].iter().for_each(|peer| fold(&ledger(place, peer)));
    summary
}

/// Brings what is in the write-ahead log into the database, so that the one file is all there is.
fn fold(ledger: &Path) {
    let connection = Connection::open(ledger).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.pragma_update(None, "journal_mode", "DELETE").unwrap();
}

fn ledger(place: &Workplace, peer: &str) -> PathBuf {
    place.path().join("run/peers").join(peer).join("ledger.sqlite")
}

/// The JSON of a verification that found something.
fn found(place: &Workplace, more: &[&str]) -> Vec<Value> {
    let ended = place.run(&[&["verify", "run", "--json"], more].concat());
    assert_eq!(ended.code, Some(8), "{} {}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("not verified"), "{}", ended.stderr);
    let document: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(document["verified"], false);
    document["findings"].as_array().unwrap().clone()
}

/// Changes the ledger of peer 1, looks what is found, and changes it back.
fn tampered(place: &Workplace, change: &str) -> Vec<Value> {
    let path = ledger(place, "1");
    let before = fs::read(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch(change).unwrap();
    let findings = found(place, &[]);
    fs::write(&path, before).unwrap();
    findings
}

fn has(findings: &[Value], check: &str, round: u64, part: &str) -> Value {
    let fits = |finding: &&Value| {
        finding["check"] == check && finding["round"] == round && finding["what"].as_str().unwrap().contains(part)
    };
    findings.iter().find(fits).unwrap_or_else(|| panic!("no {check} {round} {part:?} in {findings:#?}")).clone()
}

#[test]
fn a_clean_run_is_verified_and_every_contribution_recomputed() {
    let place = Workplace::for_training();
    trained(&place);
    let document = place.run(&["verify", "run", "--recompute", "1", "--json"]).json();
    assert_eq!((&document["verified"], &document["findings_total"]), (&Value::from(true), &Value::from(0)));
    let checks = &document["checks"];
    for check in ["spec", "ledger", "signature", "coverage", "chain", "agreement", "file", "recomputation"] {
        assert!(checks[check]["checked"].as_u64().unwrap() > 0, "{check}: {document:#}");
    }
    let result = &document["recompute"]["result"];
    assert_eq!(result["equal"], result["chosen"], "{document:#}");
    assert!(result["chosen"].as_u64().unwrap() >= 6, "{document:#}");

    let text = place.run(&["verify", "run"]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    assert!(text.stdout.contains("signatures") && !text.stdout.contains("wrong:"), "{}", text.stdout);
}

#[test]
fn whatever_is_changed_in_a_ledger_is_found_and_named() {
    let place = Workplace::for_training();
    trained(&place);
    let of_round = "rowid = (SELECT min(rowid) FROM contributions WHERE round = 3)";
    let author: String = Connection::open(ledger(&place, "1"))
        .unwrap()
        .query_row(&format!("SELECT peer FROM contributions WHERE {of_round}"), [], |row| row.get(0))
        .unwrap();

    let change = format!("UPDATE contributions SET signature = '{}' WHERE {of_round}", "5".repeat(128));
    let finding = has(&tampered(&place, &change), "signature", 3, "invalid signature");
    assert_eq!((&finding["author"]["peer"], &finding["found_at"]), (&Value::from(author), &Value::from("1")));
    for column in ["digest", "state_digest"] {
        let change = format!("UPDATE contributions SET {column} = '{}' WHERE {of_round}", "a".repeat(64));
        has(&tampered(&place, &change), "signature", 3, "invalid signature");
    }
    let change = format!("UPDATE contributions SET signature = NULL WHERE {of_round}");
    has(&tampered(&place, &change), "signature", 3, "without a signature");

    let findings = tampered(&place, &format!("UPDATE states SET digest = '{}' WHERE round = 3", "a".repeat(64)));
    has(&findings, "chain", 2, "its result was state");
    has(&findings, "agreement", 3, "peers 1 recorded aaaa");

    let findings = tampered(&place, &format!("DELETE FROM contributions WHERE {of_round}"));
    has(&findings, "coverage", 3, "missing");
    let double = format!("INSERT INTO contributions SELECT * FROM contributions WHERE {of_round}");
    has(&tampered(&place, &double), "coverage", 3, "more than once");
    let findings = tampered(&place, "DELETE FROM rounds WHERE round = 3");
    has(&findings, "chain", 3, "not recorded");
    has(&findings, "coverage", 3, "not recorded");

    // And as it was, it is right.
    assert_eq!(place.run(&["verify", "run", "--json"]).json()["verified"], true);
}

#[test]
fn files_that_are_damaged_missing_or_of_another_run_are_named() {
    let place = Workplace::for_training();
    trained(&place);
    let checkpoints = place.path().join("run/peers/1/checkpoints");
    let checkpoint = fs::read_dir(&checkpoints).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&checkpoint).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&checkpoint, &bytes).unwrap();
    let findings = found(&place, &[]);
    assert_eq!((&findings[0]["check"], &findings[0]["found_at"]), (&Value::from("file"), &Value::from("1")));
    bytes[last] ^= 1;
    fs::write(&checkpoint, &bytes).unwrap();

    let path = ledger(&place, "2");
    let ledger = fs::read(&path).unwrap();
    fs::write(&path, b"this is not a database, but something else of some length").unwrap();
    let findings = found(&place, &[]);
    assert_eq!((&findings[0]["check"], findings.len()), (&Value::from("ledger"), 1), "{findings:#?}");
    fs::remove_file(&path).unwrap();
    assert_eq!(found(&place, &[])[0]["check"], "ledger");

    let other = [&["--peers", "1", "--run-dir", "other", "--seed", "9"], &SMALL[..]].concat();
    place.train(&other);
    fold(&place.path().join("other/peers/1/ledger.sqlite"));
    fs::copy(place.path().join("other/peers/1/ledger.sqlite"), &path).unwrap();
    let findings = found(&place, &[]);
    has(&findings, "signature", 0, "invalid signature");
    fs::write(&path, ledger).unwrap();
    fs::copy(place.path().join("other/peers/1/spec"), place.path().join("run/peers/2/spec")).unwrap();
    let findings = found(&place, &[]);
    assert_eq!((&findings[0]["check"], &findings[0]["found_at"]), (&Value::from("spec"), &Value::from("2")));

    fs::create_dir_all(place.path().join("empty/peers/1")).unwrap();
    for file in ["run.json", "join-secret"] {
        fs::copy(place.path().join("run").join(file), place.path().join("empty").join(file)).unwrap();
    }
    place.run(&["verify", "empty"]).failed(1, &["there is no ledger to verify", "hint: "]);
    place.run(&["verify", "run", "--recompute", "2"]).failed(2, &["a number from 0 to 1"]);
}

/// Starts a peer in a run directory, with a function program.
fn peer(place: &Workplace, run: &str, name: &str, program: &Path, more: &[&str]) -> Running {
    let program = program.to_str().unwrap();
    // The program starts this test's and the real function's, which are here.
    let built = Path::new(env!("CARGO_BIN_EXE_peerless")).parent().unwrap().to_str().unwrap();
    let arguments = ["peer", "start", "--run-dir", run, "--name", name, "--function-program", program];
    place.start(place.command(&[&arguments[..], &["--function-read", built], more].concat()))
}

fn id(place: &Workplace, run: &str, peer: &str) -> Value {
    place.status(run, peer).unwrap()["peer"].clone()
}

#[test]
fn a_peer_that_announces_wrong_sums_is_named_by_recomputing() {
    let place = Workplace::for_training();
    let honest = function_program(&place, "honest", &[]);
    let liar = function_program(&place, "liar", &[(LYING_FUNCTION, "2..4")]);
    let first = peer(&place, "run", "1", &honest, &[&["--expect", "1"], &SMALL[..]].concat());
    wait_until("the run is there", || place.path().join("run/run.json").exists());
    let second = peer(&place, "run", "2", &liar, &["--expect", "1"]);
    for peer in [first, second] {
        let ended = peer.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    // All peers took its bytes as announced: nothing else is wrong.
    assert_eq!(place.run(&["verify", "run", "--json"]).json()["verified"], true);
    let findings = found(&place, &["--recompute", "1"]);
    let (liar, honest) = (id(&place, "run", "2"), id(&place, "run", "1"));
    assert!(!findings.is_empty());
    for finding in &findings {
        assert_eq!(finding["check"], "recomputation", "{finding:#}");
        assert_eq!((&finding["author"]["peer"], &finding["author"]["name"]), (&liar, &Value::from("2")), "{honest}");
        assert!((2..4).contains(&finding["round"].as_u64().unwrap()), "{finding:#}");
    }
    let text = place.run(&["verify", "run", "--recompute", "1"]);
    assert!(text.stdout.contains(&format!("peer 2 ({})", liar.as_str().unwrap())), "{}", text.stdout);
}

/// Two peers that agree and one that computes other bits come together at the same round.
#[test]
fn the_state_that_more_peers_hold_wins_and_the_divergence_is_told_everywhere() {
    let place = Workplace::for_training();
    let go = place.path().join("go");
    let gate = ("PEERLESS_TEST_GATE", go.to_str().unwrap());
    let honest = function_program(&place, "honest", &[gate]);
    let liar = function_program(&place, "liar", &[gate, (LYING_FUNCTION, "2..3")]);
    let mut peers = vec![peer(&place, "run", "1", &honest, &[&["--expect", "1"], &SMALL[..]].concat())];
    wait_until("the run is there", || place.path().join("run/run.json").exists());
    peers.push(peer(&place, "run", "2", &honest, &["--expect", "1"]));
    fs::create_dir_all(place.path().join("apart/peers")).unwrap();
    for file in ["join-secret", "run.json"] {
        fs::copy(place.path().join("run").join(file), place.path().join("apart").join(file)).unwrap();
    }
    peers.push(peer(&place, "apart", "3", &liar, &[]));
    // All functions wait at round 3.
    let digest = |run: &str, peer: &str| {
        let status = place.status(run, peer)?;
        (status["round"] == 3).then(|| status["state_digest"].clone())
    };
    let all = [("run", "1"), ("run", "2"), ("apart", "3")];
    wait_until("all are at round 3", || all.iter().all(|(run, peer)| digest(run, peer).is_some()));
    assert_eq!(digest("run", "1"), digest("run", "2"));
    let (right, wrong) = (digest("run", "1").unwrap(), digest("apart", "3").unwrap());
    assert_ne!(right, wrong);

    // Peers find each other by their run directory.
    let third = place.path().join("apart/peers/3");
    std::os::unix::fs::symlink(&third, place.path().join("run/peers/3")).unwrap();
    let diverged = |run: &str, peer: &str| place.status(run, peer).unwrap()["divergences"].as_u64().unwrap() > 0;
    wait_until("it is noticed", || all.iter().all(|(run, peer)| diverged(run, peer)));
    wait_until("the third knows that most hold the other state", || {
        place.status("apart", "3").unwrap()["last_divergence"]["winner"] == right
    });
    let status = place.run(&["status", "run"]);
    assert!(status.stdout.contains("DIVERGENCE at peer 3"), "{}", status.stdout);
    fs::write(&go, "").unwrap();
    let mut logs = Vec::new();
    for peer in peers {
        let ended = peer.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        logs.push(ended.stderr);
    }
    assert!(logs[2].contains("peers hold different states for one round"), "{}", logs[2]);
    let last = |run: &str, peer: &str| place.status(run, peer).unwrap()["state_digest"].clone();
    assert_eq!(last("run", "1"), last("apart", "3"));
    assert_eq!(last("run", "1"), last("run", "2"));

    let ledger = Connection::open(third.join("ledger.sqlite")).unwrap();
    let (own, winner): (String, String) = ledger
        .query_row(
            "SELECT detail ->> 'own', detail ->> 'winner' FROM events WHERE kind = 'divergence'
             AND detail ->> 'own' <> detail ->> 'winner'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!((Value::from(own), Value::from(winner)), (wrong, right));
    drop(ledger);

    // What was settled by the rule is a note; who computed wrong bits is found by recomputing.
    let document = place.run(&["verify", "run", "--json"]).json();
    assert!(document["notes"].as_object().unwrap().keys().any(|note| note.contains("lost")), "{document:#}");
    let liar = id(&place, "apart", "3");
    let findings = found(&place, &["--recompute", "1"]);
    assert!(!findings.is_empty());
    for finding in &findings {
        assert_eq!((&finding["check"], &finding["author"]["peer"]), (&Value::from("recomputation"), &liar));
    }
}
