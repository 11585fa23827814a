//! `peerless plan` with the real function program, and against a real run.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::Workplace;
use serde_json::Value;

fn numbers(points: &[Value], field: &str) -> Vec<u64> {
    points.iter().map(|point| point[field].as_u64().unwrap()).collect()
}

fn seconds(point: &Value) -> f64 {
    point["prediction"]["total_s"].as_f64().unwrap()
}

fn dollars(point: &Value) -> f64 {
    point["costs"]["total_usd"].as_str().unwrap().parse().unwrap()
}

const QUICK: [&str; 7] = ["plan", "--measure", "2", "--rounds", "40", "--units-per-round", "8"];

#[test]
fn a_plan_has_every_combination_with_its_price_and_marks_the_front() {
    let place = Workplace::for_training();
    let flags = ["--peers", "1,2", "--functions", "1,2", "--memory", "8,512,1769", "--peer-price", "0.1"];
    let prices = ["--function-price", "lambda-x86,lambda-arm64", "--json"];
    let plan = place.run(&[&QUICK[..], &flags, &prices].concat()).json();
    let points = plan["points"].as_array().unwrap();
    // 2 numbers of peers, 2 of functions, 2 sizes that a function fits in, 2 prices.
    assert_eq!(points.len(), 16, "{plan:#}");
    assert!(!numbers(points, "memory_mb").contains(&8), "8 MB are too little for a function");
    assert!(plan["left_out"][0]["what"].as_str().unwrap().contains("8 MB"), "{plan:#}");
    let dominated = |point: &Value| {
        points.iter().any(|other| {
            (seconds(other) < seconds(point) && dollars(other) <= dollars(point))
                || (seconds(other) <= seconds(point) && dollars(other) < dollars(point))
        })
    };
    for point in points {
        assert!(seconds(point) > 0.0 && dollars(point) > 0.0);
        assert_eq!(point["pareto"], !dominated(point), "{point:#}");
    }
    // The cheaper cores are assumed to be as fast.
    assert!(points.iter().filter(|point| point["pareto"] == true).all(|point| point["price"] == "lambda-arm64"));
    assert!(plan["measured"]["gradient"]["alone_us"].as_f64().unwrap() > 0.0);
    assert!(plan["measured"]["memory_bytes"].as_u64().unwrap() > 1 << 20);
    let command = plan["suggestions"][0]["command"].as_str().unwrap();
    assert!(command.contains("--rounds 40 --units-per-round 8 --lambda NAME"), "{command}");
}

#[test]
fn a_table_shows_units_and_limits_are_kept() {
    let place = Workplace::for_training();
    let local = ["--platform", "local", "--peers", "1..2", "--functions", "1"];
    let table = place.run(&[&QUICK[..], &local].concat());
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    for part in [" ms ", " s ", "functions $", "quickest: peerless train --peers", "measured here (2 units"] {
        assert!(table.stdout.contains(part), "{part:?} is not in {}", table.stdout);
    }
    let limits = ["--budget", "0.000000001"];
    let none = place.run(&[&QUICK[..], &limits].concat());
    none.failed(1, &["keeps within the limits", "larger --budget"]);
}

#[test]
fn wrong_flags_are_refused_before_anything_is_measured() {
    let place = Workplace::new();
    place.run(&["plan", "--function-price", "lambda-x87"]).failed(2, &["lambda-x87", "lambda-arm64"]);
    place.run(&["plan", "--peers", "0"]).failed(2, &["1,2,4"]);
    place.run(&["plan", "--cold-start=-1"]).failed(2, &["--cold-start"]);
    place.run(&["plan", "--against", "here", "--peers", "2"]).failed(2, &["--peers"]);
    place.run(&["plan", "--against", "here", "--rounds", "2"]).failed(2, &["from the run"]);
    place.run(&["plan", "--against", "here"]).failed(1, &["here"]);
}

#[test]
fn a_run_is_held_against_its_prediction() {
    let place = Workplace::for_training();
    let prices = ["--function-price", "lambda-x86:1769", "--peer-price", "t2.large"];
    place.train(
        &[&["--peers", "2", "--rounds", "20", "--evaluate-every", "8", "--run-dir", "run"][..], &prices].concat(),
    );
    let bill = place.run(&["cost", "run", "--json"]).json();
    let found = place.run(&["plan", "--against", "run", "--measure", "3", "--json"]).json();
    assert_eq!((&found["peers"], &found["rounds"]), (&2.into(), &21.into()), "{found:#}");
    let actual = &found["actual"];
    assert_eq!(actual["costs"]["total_usd"], bill["total"]["total_usd"]);
    assert_eq!(actual["invocations"], bill["total"]["invocations"]);
    // 20 rounds of 4 gradients, evaluations after 8, 16 and 20 of them in 40 units, one start for each peer.
    assert_eq!(found["predicted"]["prediction"]["invocations"], 20 * 4 + 3 * 40 + 2, "{found:#}");
    for figure in ["round", "all_rounds", "functions", "functions_usd", "peers_usd", "total_usd"] {
        assert!(found["error_percent"][figure].is_f64(), "{figure}: {found:#}");
    }
    let text = place.run(&["plan", "--against", "run", "--measure", "2", "--as", "lambda-arm64:512"]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    assert!(text.stdout.contains("off by") && text.stdout.contains("21 rounds, 2 peers"), "{}", text.stdout);
}
