//! Budgets with real processes: they are never passed, and what was stopped ends with the same state.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Workplace, undisturbed, wait_until};
use serde_json::Value;

const ROUNDS: [&str; 2] = ["--rounds", "60"];
/// Local functions as if each were one of 1,769 MB on AWS Lambda. However fast the machine, the run of all rounds
/// costs at least $0.000064: 280 calls at $0.2 a million, each of at least one billed millisecond.
const PRICE: [&str; 2] = ["--function-price", "lambda-x86:1769"];

/// What the ledgers say that a run has cost, exactly enough to compare: in picodollars.
fn spent(place: &Workplace, run: &str) -> u64 {
    pico(&place.run(&["cost", run, "--json"]).json()["total"]["total_usd"])
}

fn pico(dollars: &Value) -> u64 {
    let (whole, fraction) = dollars.as_str().unwrap().split_once('.').unwrap();
    assert_eq!(fraction.len(), 12, "{dollars}");
    whole.parse::<u64>().unwrap() * 1_000_000_000_000 + fraction.parse::<u64>().unwrap()
}

#[test]
fn no_limit_is_passed_and_what_was_stopped_ends_with_the_same_state() {
    let place = Workplace::for_training();
    for (run, limit) in [("small", 30_000_000_u64), ("middle", 45_000_000), ("large", 60_000_000)] {
        let budget = format!("0.{limit:012}");
        let limited = [&["train", "--peers", "2", "--run-dir", run, "--budget", &budget], &ROUNDS[..], &PRICE].concat();
        let stopped = place.run(&limited);
        stopped.failed(9, &["the budget of $0.0", "is used up at round", "peerless train --resume"]);
        let before = spent(&place, run);
        assert!(before <= limit, "{run}: {before} of {limit} picodollars");
        assert!(before >= limit / 10, "{run}: only {before} of {limit} picodollars were used");
        // The same budget pays for nothing more, and nothing more is spent.
        let again = [&["train", "--resume", run, "--budget", &budget], &PRICE[..]].concat();
        place.run(&again).failed(9, &["is used up"]);
        assert_eq!(spent(&place, run), before, "{run}");
        let summary = place.train(&[&["--resume", run], &PRICE[..]].concat());
        assert_eq!(summary["state_digest"], undisturbed(&ROUNDS), "{run}: {summary:#}");
        assert_eq!(pico(&summary["cost"]["total_usd"]), spent(&place, run), "{run}");
        assert!(spent(&place, run) > limit, "{run}: the rest cost nothing?");
    }
}

#[test]
fn time_of_machines_counts_and_no_limit_is_passed() {
    let place = Workplace::for_training();
    // Two peers at a dollar an hour each: four and six seconds of both.
    for (run, limit) in [("four", 2_222_000_000_u64), ("six", 3_333_000_000)] {
        let budget = format!("0.{limit:012}");
        let arguments = ["--peers", "2", "--rounds", "100000", "--peer-price", "1", "--run-dir", run, "--budget"];
        let stopped = place.run(&[&["train"], &arguments[..], &[budget.as_str()]].concat());
        stopped.failed(9, &["is used up"]);
        let spent = spent(&place, run);
        assert!(spent <= limit && spent >= limit / 8, "{run}: {spent} of {limit} picodollars");
    }
}

#[test]
fn the_others_take_over_the_work_of_a_peer_whose_budget_is_used_up() {
    let place = Workplace::for_training();
    let start = |name: &str, more: &[&str]| {
        let peer = ["peer", "start", "--run-dir", "run", "--name", name, "--functions", "1", "--expect", "1"];
        place.start(place.command(&[&peer[..], &ROUNDS, &PRICE, more].concat()))
    };
    let poor = start("poor", &["--budget", "0.00002"]);
    wait_until("the run is made", || place.path().join("run/run.json").exists());
    let rich = start("rich", &[]);
    let poor = poor.wait();
    assert_eq!(poor.code, Some(9), "{}", poor.stderr);
    assert!(poor.stderr.contains("is used up after") && poor.stderr.contains("--budget MORE"), "{}", poor.stderr);
    let rich = rich.wait();
    assert_eq!(rich.code, Some(0), "{}", rich.stderr);
    assert!(rich.stderr.contains(&undisturbed(&ROUNDS)), "{}", rich.stderr);
    let bill = place.run(&["cost", "run", "--json", "--by", "peer"]).json();
    let line = |name: &str| bill["by_peer"].as_array().unwrap().iter().find(|line| line["peer"] == name).unwrap();
    let (poor, rich) = (pico(&line("poor")["total_usd"]), pico(&line("rich")["total_usd"]));
    assert!(poor <= 20_000_000, "{poor} picodollars");
    assert!(rich > poor, "{rich} picodollars");
    assert!(place.events("run", "poor").contains(&"budget-used-up".to_owned()));
}

#[test]
fn a_budget_for_less_than_the_first_call_is_not_passed_either() {
    let place = Workplace::for_training();
    let arguments = ["peer", "start", "--run-dir", "run", "--budget", "0.0000001"];
    let stopped = place.run(&[&arguments[..], &ROUNDS, &PRICE].concat());
    stopped.failed(9, &["is used up after 0 rounds"]);
    let ended = place.run(&["cost", "run", "--json"]);
    assert!(pico(&ended.json()["total"]["total_usd"]) <= 100_000, "{}", ended.stdout);
}

#[test]
fn the_bill_shows_what_killed_functions_cost() {
    let place = Workplace::for_training();
    let arguments = ["--peers", "2", "--run-dir", "run", "--fault", "kill-function:3@10"];
    let summary = place.train(&[&arguments[..], &ROUNDS, &PRICE].concat());
    assert_eq!(summary["state_digest"], undisturbed(&ROUNDS), "{summary:#}");
    let bill = place.run(&["cost", "run", "--json"]).json();
    let failed = &bill["wasted"]["failed"];
    assert!(failed["invocations"].as_u64().unwrap() >= 1 && pico(&failed["usd"]) > 0, "{bill:#}");
    let wasted: u64 = bill["wasted"].as_object().unwrap().values().map(|line| pico(&line["usd"])).sum();
    let total = pico(&bill["total"]["wasted_usd"]);
    assert!(wasted.abs_diff(total) <= 3, "{wasted} against {total}: rounded once each");
    assert_eq!(summary["cost"]["wasted_usd"], bill["total"]["wasted_usd"]);
    // People see it while the run goes on and in the end.
    let status = place.run(&["status", "run"]);
    assert!(status.stdout.contains("cost $0.00"), "{}", status.stdout);
    let text = place.run(&["cost", "run"]);
    assert!(text.stdout.contains("REHEARSED") && text.stdout.contains("lambda-x86 with 1,769 MB"), "{}", text.stdout);
}

#[test]
fn without_prices_nothing_costs_anything_and_a_projection_still_has_a_bill() {
    let place = Workplace::for_training();
    let summary = place.train(&[&["--peers", "1", "--run-dir", "run"], &ROUNDS[..]].concat());
    assert_eq!(summary["cost"]["total_usd"], "0.000000000000");
    let bill = place.run(&["cost", "run", "--json"]).json();
    assert_eq!(pico(&bill["total"]["total_usd"]), 0);
    assert!(bill["total"]["peer_h"].as_f64().unwrap() > 0.0, "{bill:#}");
    let projected = place.run(&["cost", "run", "--as", "lambda-arm64:1769", "--json"]).json();
    // What the calls alone cost, before any time: 280 at $0.2 a million.
    assert!(pico(&projected["total"]["total_usd"]) > 56_000_000, "{projected:#}");
}

#[test]
fn a_budget_without_a_price_is_refused_with_a_hint() {
    let place = Workplace::new();
    for command in [&["train"][..], &["peer", "start", "--run-dir", "run"]] {
        let ended = place.run(&[command, &["--budget", "0.5"]].concat());
        ended.failed(2, &["--budget needs a price", "--peer-price t2.large", "--function-price lambda-x86:1769"]);
        for wrong in ["-1", "much", "nan"] {
            let flag = format!("--budget={wrong}");
            assert_eq!(place.run(&[command, &[flag.as_str()]].concat()).code, Some(2));
        }
        let unknown = place.run(&[command, &["--function-price", "lambda-mips:512"]].concat());
        unknown.failed(2, &["no function price \"lambda-mips\""]);
    }
    assert_eq!(place.files(), Vec::<String>::new(), "nothing is made");
}
