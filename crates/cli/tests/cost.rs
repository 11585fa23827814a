//! The bill of a run, held against one computed by hand from the log of its invocations.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::Workplace;
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::ticket::JoinSecret;
use peerless_protocol::{DatasetSpec, Digest, EvaluationSpec, LearningRate, RunSpec, SPEC_VERSION, StateRef};
use peerless_store::{
    Batch, BillingRecord, InvocationRecord, Ledger, RoundRecord, RoundTimes, StateOrigin, ledger_path,
};
use serde_json::{Value, json};

/// One attempt on Lambda: round and unit, attempt, what its REPORT line says, how it ended and when.
struct Attempt {
    unit: Option<(u64, u32)>,
    attempt: u32,
    cold: bool,
    billed_ms: u64,
    requests: u32,
    outcome: &'static str,
    ended_s: u64,
}

const fn attempt(
    unit: Option<(u64, u32)>,
    attempt: u32,
    cold: bool,
    billed_ms: u64,
    requests: u32,
    outcome: &'static str,
    ended_s: u64,
) -> Attempt {
    Attempt { unit, attempt, cold, billed_ms, requests, outcome, ended_s }
}

/// What peer 1 called: functions of 1,769 MB, x86. Eight rounds of four units are an epoch.
const X86: [Attempt; 10] = [
    attempt(None, 1, true, 500, 1, "ok", 1),
    attempt(Some((0, 0)), 1, true, 341, 1, "ok", 2),
    attempt(Some((0, 1)), 1, false, 97, 1, "ok", 2),
    attempt(Some((0, 2)), 1, false, 55, 1, "died", 2),
    attempt(Some((0, 2)), 2, false, 101, 1, "ok", 3),
    attempt(Some((0, 3)), 1, false, 0, 0, "throttled", 2),
    attempt(Some((0, 3)), 2, false, 3000, 1, "timed-out", 5),
    attempt(Some((0, 3)), 3, false, 99, 1, "ok", 6),
    attempt(Some((9, 0)), 1, false, 80, 1, "discarded", 8),
    attempt(Some((9, 0)), 2, false, 100, 1, "ok", 9),
];
/// What peer 2 called: functions of 3,008 MB, arm64. It had the unit of round 9 before peer 1 had it.
const ARM64: [Attempt; 1] = [attempt(Some((9, 0)), 1, false, 120, 1, "ok", 8)];

const START_US: u64 = 1_760_000_000_000_000;
const HOUR_US: u64 = 3_600_000_000;

fn spec() -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "lenet5".into(),
        dataset: DatasetSpec { name: "mnist".into(), digest: Digest::of(b"data"), train_samples: 64, test_samples: 10 },
        seed: 7,
        units_per_round: 4,
        samples_per_unit: 2,
        rounds: 16,
        optimizer: "momentum".parse().unwrap(),
        learning_rate: LearningRate::constant(0.5),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 100, samples_per_unit: 5 },
        early_stopping: None,
        until_correct: None,
    }
}

fn tariff(name: &str, gb_second: &str, machine: Value) -> String {
    let price = json!({
        "usd_per_gb_second": gb_second, "usd_per_million_requests": "0.20",
        "date": "2026-01-01", "source": "test",
    });
    json!({
        "platforms": { "lambda": { "name": name, "memory_mb": null, "price": price } },
        "machine": machine, "bucket": null, "egress": null,
    })
    .to_string()
}

fn record(attempt: &Attempt, memory_mb: u32, id: u64) -> InvocationRecord {
    // The call takes longer than what is billed: the network is in between.
    let duration_us = attempt.billed_ms * 1000 + 12_345;
    InvocationRecord {
        id,
        round: attempt.unit.map(|(round, _)| round),
        unit: attempt.unit.map(|(_, unit)| unit),
        kind: if attempt.unit.is_some() { "gradient".into() } else { "initialise".into() },
        platform: "lambda".into(),
        cold: attempt.cold,
        outcome: attempt.outcome.into(),
        attempt: attempt.attempt,
        started_at_us: START_US + attempt.ended_s * 1_000_000 - duration_us,
        duration_us,
        session: Some(1),
        billing: BillingRecord {
            memory_mb,
            billed_ms: attempt.billed_ms,
            init_us: if attempt.cold { 120_000 } else { 0 },
            requests: attempt.requests,
            ..BillingRecord::default()
        },
        ..InvocationRecord::default()
    }
}

fn applied(round: u64, at_us: u64) -> Batch {
    Batch {
        state: Some((StateRef { round: round + 1, digest: Digest::of(b"state") }, StateOrigin::Applied)),
        round: Some(RoundRecord {
            round,
            at_us,
            state_digest: Digest::of(b"state"),
            training_samples: 8,
            training_correct: 4,
            training_loss: None,
            evaluation: None,
            times: RoundTimes::default(),
            units_computed: 4,
            backup_units: 0,
        }),
        ..Batch::default()
    }
}

fn peer_ledger(place: &Workplace, peer: &str) -> PathBuf {
    ledger_path(&place.path().join("run/peers").join(peer))
}

/// A run directory with the ledgers of two peers.
fn recorded_run() -> Workplace {
    let place = Workplace::new();
    let run = RunDirectory::create(&place.path().join("run"), spec(), JoinSecret::generate().unwrap(), START_US);
    let run = run.unwrap();
    let machine = json!({ "name": "t2.large",
        "price": { "usd_per_hour": "0.0928", "date": "2026-01-01", "source": "test" } });
    let peers = [
        ("1", 1769, &X86[..], tariff("lambda-x86", "0.0000166667", machine)),
        ("2", 3008, &ARM64[..], tariff("lambda-arm64", "0.0000133334", Value::Null)),
    ];
    for (name, memory_mb, attempts, tariff) in peers {
        run.peer_directory(name).unwrap();
        let mut ledger = Ledger::open(&peer_ledger(&place, name)).unwrap();
        assert_eq!(ledger.begin_session(START_US, &tariff).unwrap(), 1);
        let invocations = attempts.iter().zip(1..).map(|(attempt, id)| record(attempt, memory_mb, id)).collect();
        ledger.record(&Batch { invocations, alive: Some((1, START_US + HOUR_US)), ..Batch::default() }).unwrap();
        ledger.record(&applied(0, START_US + HOUR_US / 4)).unwrap();
        ledger.record(&applied(9, START_US + HOUR_US)).unwrap();
    }
    place
}

/// The bill by hand, in units of 1 / (10^10 * 1,024 * 1,000) dollars.
const UNIT: u128 = 10_000_000_000 * 1024 * 1000;

fn by_hand(attempts: &[Attempt], memory_mb: u128, gb_second_e10: u128) -> u128 {
    let of = |attempt: &Attempt| {
        let compute = memory_mb * u128::from(attempt.billed_ms) * gb_second_e10;
        compute + u128::from(attempt.requests) * (UNIT / 5_000_000)
    };
    attempts.iter().map(of).sum()
}

/// With twelve digits behind the point, rounded half up.
fn dollars(units: u128) -> String {
    let pico = (units * 1_000_000_000_000 * 2 / UNIT).div_ceil(2);
    format!("{}.{:012}", pico / 1_000_000_000_000, pico % 1_000_000_000_000)
}

fn line<'a>(bill: &'a Value, by: &str, name: &str) -> &'a Value {
    let lines = bill[format!("by_{by}")].as_array().unwrap();
    lines.iter().find(|line| line[by] == name).unwrap_or_else(|| panic!("no {by} {name} in {bill:#}"))
}

#[test]
fn the_bill_is_the_one_computed_by_hand_from_the_log_of_invocations() {
    let place = recorded_run();
    let bill = place.run(&["cost", "run", "--json"]).json();
    let x86 = by_hand(&X86, 1769, 166_667);
    let arm64 = by_hand(&ARM64, 3008, 133_334);
    let machine = UNIT * 928 / 10_000;
    assert_eq!(bill["total"]["total_usd"], dollars(x86 + arm64 + machine), "{bill:#}");
    // The same by hand, once more: 4,373 ms of 1,769 MB and 120 ms of 3,008 MB, ten requests, an hour.
    let gb_s = [4.373 * 1769.0 / 1024.0, 0.120 * 3008.0 / 1024.0];
    let cents = 100.0 * (gb_s[0] * 0.0000166667 + gb_s[1] * 0.0000133334 + 10.0 * 0.2e-6 + 0.0928);
    let printed: f64 = bill["total"]["total_usd"].as_str().unwrap().parse().unwrap();
    assert!((100.0 * printed - cents).abs() < 1e-9, "{printed} against {cents} cents");
    assert_eq!(bill["total"]["requests_usd"], "0.000002000000");
    assert_eq!(line(&bill, "peer", "1")["total_usd"], dollars(x86 + machine));
    assert_eq!(line(&bill, "peer", "1")["peer_usd"], "0.092800000000");
    assert_eq!(line(&bill, "peer", "2")["total_usd"], dollars(arm64));
    assert_eq!(line(&bill, "platform", "lambda")["total_usd"], dollars(x86 + arm64));
    assert_eq!(line(&bill, "platform", "machines")["total_usd"], dollars(machine));
    // Rounds 0 and 9 are of the first and the second epoch; round 0 ended after a quarter of the hour.
    assert_eq!(line(&bill, "epoch", "set-up")["total_usd"], dollars(by_hand(&X86[..1], 1769, 166_667)));
    let first = by_hand(&X86[1..8], 1769, 166_667) + machine / 4;
    assert_eq!(line(&bill, "epoch", "1")["total_usd"], dollars(first));
    let second = by_hand(&X86[8..], 1769, 166_667) + arm64 + machine * 3 / 4;
    assert_eq!(line(&bill, "epoch", "2")["total_usd"], dollars(second));
    assert_eq!(bill["complete"], true);
}

#[test]
fn the_waste_of_failures_hedges_and_repetitions_is_told_apart() {
    let place = recorded_run();
    let bill = place.run(&["cost", "run", "--json", "--by", "peer"]).json();
    let failed = by_hand(&X86[3..4], 1769, 166_667) + by_hand(&X86[6..7], 1769, 166_667);
    let (discarded, repeated) = (by_hand(&X86[8..9], 1769, 166_667), by_hand(&X86[9..], 1769, 166_667));
    let wasted = &bill["wasted"];
    assert_eq!((&wasted["failed"]["usd"], &wasted["failed"]["invocations"]), (&json!(dollars(failed)), &json!(3)));
    assert_eq!(wasted["discarded"]["usd"], dollars(discarded));
    assert_eq!(wasted["repeated"]["usd"], dollars(repeated), "peer 2 was first");
    let all = failed + discarded + repeated;
    assert_eq!(bill["total"]["wasted_usd"], dollars(all));
    let functions = by_hand(&X86, 1769, 166_667) + by_hand(&ARM64, 3008, 133_334);
    let share = bill["total"]["wasted_share"].as_f64().unwrap();
    assert!((share - all as f64 / functions as f64).abs() < 1e-12, "{share}");
    assert_eq!(line(&bill, "peer", "2")["wasted_usd"], "0.000000000000");
    assert!(bill.get("by_epoch").is_none(), "{bill:#}");
}

#[test]
fn the_bill_for_people_has_tables_prices_and_their_sources() {
    let place = recorded_run();
    let text = place.run(&["cost", "run"]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    for part in ["peer ", "platform ", "epoch ", "set-up", "wasted ", "$0.092800", "t2.large", "(2026-01-01, test)"] {
        assert!(text.stdout.contains(part), "{part:?} is not in\n{}", text.stdout);
    }
    // The bill by hand is $0.092932609081.
    assert!(text.stdout.contains("total $0.092933"), "{}", text.stdout);
    assert!(!text.stdout.contains("PROJECTED"), "{}", text.stdout);
}

#[test]
fn a_projection_says_that_it_is_one_and_keeps_what_was_billed() {
    let place = recorded_run();
    let arguments = ["cost", "run", "--as", "lambda-arm64:512", "--peer-price", "1", "--json"];
    let bill = place.run(&arguments).json();
    // Billed times are kept; the throttled request is not billed at any memory size.
    let functions = by_hand(&X86, 512, 133_334) + by_hand(&ARM64, 512, 133_334);
    assert_eq!(bill["total"]["total_usd"], dollars(functions + 2 * UNIT), "{bill:#}");
    assert_eq!(bill["projected"]["functions"]["name"], "lambda-arm64");
    let text = place.run(&arguments[..arguments.len() - 1]);
    assert!(text.stdout.contains("PROJECTED: all invocations as if they had run as lambda-arm64 with 512 MB"));
}

#[test]
fn calls_whose_billed_time_nobody_said_are_counted_and_told() {
    let place = recorded_run();
    let unsaid = attempt(Some((9, 1)), 1, false, 0, 1, "timed-out", 9);
    let mut ledger = Ledger::open(&peer_ledger(&place, "1")).unwrap();
    ledger.record(&Batch { invocations: vec![record(&unsaid, 0, 99)], ..Batch::default() }).unwrap();
    drop(ledger);
    let bill = place.run(&["cost", "run", "--json"]).json();
    assert_eq!(line(&bill, "platform", "lambda")["estimated_invocations"], 1, "{bill:#}");
    assert_eq!(line(&bill, "peer", "2")["estimated_invocations"], 0);
    let said = "ESTIMATED: lambda did not say how long it bills 1 of 12 invocations; ";
    let text = place.run(&["cost", "run"]);
    assert!(text.stdout.contains(&format!("{said}their time is NOT COUNTED")), "{}", text.stdout);
    // 12.345 ms from call to end.
    let functions = by_hand(&X86, 512, 166_667) + by_hand(&ARM64, 512, 166_667);
    let counted = functions + 13 * 512 * 166_667 + UNIT / 5_000_000;
    let bill = place.run(&["cost", "run", "--as", "lambda-x86:512", "--json"]).json();
    assert_eq!(line(&bill, "platform", "lambda")["total_usd"], dollars(counted), "{bill:#}");
    let text = place.run(&["cost", "run", "--as", "lambda-x86:512"]);
    assert!(text.stdout.contains(&format!("{said}they count with the time")), "{}", text.stdout);
}

#[test]
fn own_prices_replace_those_that_were_recorded_under_the_same_name() {
    let place = recorded_run();
    let entry = "usd_per_hour = \"2\"\ndate = \"2026-02-01\"\nsource = \"invoice\"\n";
    fs::write(place.path().join("mine.toml"), format!("version = 1\n[machine.\"t2.large\"]\n{entry}")).unwrap();
    let bill = place.run(&["cost", "run", "--prices", "mine.toml", "--json"]).json();
    assert_eq!(bill["total"]["peer_usd"], "2.000000000000");
    fs::write(place.path().join("mine.toml"), "version = 1\n[machine.a]\nusd_per_week = \"2\"\n").unwrap();
    let refused = place.run(&["cost", "run", "--prices", "mine.toml"]);
    refused.failed(2, &["mine.toml, line 3", "usd_per_week"]);
}

#[test]
fn a_damaged_or_missing_ledger_is_named_and_the_rest_is_billed() {
    let place = recorded_run();
    let whole = place.run(&["cost", "run", "--json"]).json();
    fs::write(peer_ledger(&place, "2"), b"something else, and long enough to be looked at").unwrap();
    fs::create_dir(place.path().join("run/peers/3")).unwrap();
    let partial = place.run(&["cost", "run", "--json"]);
    assert_eq!(partial.code, Some(1));
    assert!(partial.stderr.contains("incomplete: peer 2"), "{}", partial.stderr);
    let bill: Value = serde_json::from_str(&partial.stdout).unwrap();
    assert_eq!(bill["complete"], false);
    let names: Vec<&Value> = bill["unreadable"].as_array().unwrap().iter().map(|it| &it["peer"]).collect();
    assert_eq!(names, ["2", "3"]);
    assert_eq!(line(&bill, "peer", "1")["compute_usd"], line(&whole, "peer", "1")["compute_usd"]);
    assert!(place.run(&["cost", "run"]).stdout.contains("INCOMPLETE: without peer 3"));
    fs::remove_file(peer_ledger(&place, "1")).unwrap();
    place.run(&["cost", "run"]).failed(1, &["no ledger to make a bill from"]);
}

#[test]
fn prices_that_make_no_sense_are_refused() {
    let place = recorded_run();
    place.run(&["cost", "run", "--as", "lambda-x86"]).failed(2, &["names no memory", "--as lambda-x86:1769"]);
    place.run(&["cost", "run", "--as", "lambda-mips:512"]).failed(2, &["lambda-mips", "lambda-arm64, lambda-x86"]);
    place.run(&["cost", "run", "--peer-price", "-3"]).failed(2, &["-3"]);
    place.run(&["cost", "run", "--as", "lambda-x86:0"]).failed(2, &["no memory size"]);
    place.run(&["cost", "nowhere"]).failed(1, &["nowhere"]);
}
