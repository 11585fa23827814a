//! `peerless project`: tables, CSV and JSON, and what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::Workplace;
use serde_json::Value;

const ARCHITECTURES: usize = 7;

/// Whether every number in it is one.
fn has_only_numbers(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(f64::is_finite),
        Value::Array(values) => values.iter().all(has_only_numbers),
        Value::Object(fields) => fields.values().all(has_only_numbers),
        _ => true,
    }
}

#[test]
fn the_map_is_the_same_each_time_and_needs_neither_data_nor_measuring() {
    let place = Workplace::new();
    let flags = ["project", "--model", "lenet5,resnet18", "--peers", "1,4,16", "--rates", "0,1"];
    let map = place.run(&flags);
    assert_eq!(map.code, Some(0), "{}", map.stderr);
    assert_eq!(map.stdout, place.run(&flags).stdout);
    for part in
        ["projected:", "lenet5 (0.2 MB), H = 1", "resnet18", "H = 16", "pf p2p-functions", "quickest", "next best"]
    {
        assert!(map.stdout.contains(part), "{part:?} is not in {}", map.stdout);
    }
    assert!(map.stdout.lines().all(|line| line.chars().count() <= 160), "{}", map.stdout);
    assert!(place.files().is_empty());
}

#[test]
fn json_has_every_combination_and_its_cells_name_the_best_of_them() {
    let place = Workplace::new();
    let flags =
        ["project", "--model", "lenet5", "--peers", "2,8", "--rates", "0,0.1,1", "--local-steps", "1", "--json"];
    let found = place.run(&flags).json();
    assert!(has_only_numbers(&found));
    assert_eq!((&found["version"], &found["label"]), (&1.into(), &"projected".into()));
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.len() + 3 * found["left_out"].as_array().unwrap().len(), 2 * 3 * ARCHITECTURES);
    // Two numbers of peers and whatever is best, three rates.
    let cells = found["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 3 * 3);
    for cell in cells {
        let here = points.iter().filter(|point| {
            point["failures_per_hour"] == cell["failures_per_hour"]
                && (cell["peers"].is_null() || point["peers"] == cell["peers"])
        });
        let least = |field: &str| {
            let values = here.clone().map(|point| point[field].as_f64().unwrap());
            values.fold(f64::INFINITY, f64::min)
        };
        assert_eq!(cell["quickest"]["run_s"].as_f64(), Some(least("run_s")), "{cell:#}");
        assert_eq!(cell["cheapest"]["total_usd"].as_f64(), Some(least("total_usd")), "{cell:#}");
    }
    let runs = |rate: f64| -> Vec<f64> {
        let of = points.iter().filter(|point| point["failures_per_hour"].as_f64() == Some(rate));
        of.map(|point| point["run_s"].as_f64().unwrap()).collect()
    };
    assert!(runs(0.0).iter().zip(runs(1.0)).all(|(without, with)| *without < with));
}

#[test]
fn csv_has_a_head_and_as_many_fields_in_every_line() {
    let place = Workplace::new();
    let csv =
        place.run(&["project", "--model", "lenet5", "--peers", "4", "--rates", "0", "--local-steps", "1", "--csv"]);
    assert_eq!(csv.code, Some(0), "{}", csv.stderr);
    let lines: Vec<Vec<&str>> = csv.stdout.lines().map(|line| line.split(',').collect()).collect();
    assert!(lines.len() > 2 && lines.iter().all(|line| line.len() == lines[0].len()), "{}", csv.stdout);
    let column = |name: &str| lines[0].iter().position(|field| *field == name).unwrap();
    let winners = |name: &str| lines[1..].iter().filter(|line| line[column(name)] == "true").count();
    assert_eq!((winners("quickest"), winners("cheapest")), (1, 1));
}

#[test]
fn published_points_are_shown_with_label_source_and_error() {
    let place = Workplace::new();
    let table = place.run(&["project", "--table", "published"]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    let line = |part: &str| table.stdout.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}"));
    for (figure, parts) in [
        ("258 s: dollars", ["0.00665", "published (second-hand)", "list prices", "+0.0 %", "2309.14139"]),
        ("arm64's price", ["0.03567", "published (second-hand)", "list prices", "+0.0 %", "2309.14139"]),
        ("start of 100", ["18", "published (second-hand)", "projected", "-4.4 %", "2105.07806"]),
        ("a silent peer", ["177.6", "measured", "projected", "%", "docs/recovery.md"]),
    ] {
        for part in parts {
            assert!(line(figure).contains(part), "{part:?} is not in {:?}", line(figure));
        }
    }
}

#[test]
fn constants_and_prices_can_be_given() {
    let place = Workplace::new();
    let run = |flags: &[&str]| {
        let all = ["project", "--model", "resnet18", "--peers", "4", "--rates", "1", "--local-steps", "1", "--json"];
        let found = place.run(&[&all[..], flags].concat()).json();
        let points = found["points"].as_array().unwrap().clone();
        points.into_iter().find(|point| point["architecture"] == "all-reduce-instances").unwrap()
    };
    let (usual, field) = (run(&[]), |point: &Value, name: &str| point[name].as_f64().unwrap());
    assert!(field(&run(&["--peer-bandwidth", "12"]), "exchange_s") > 5.0 * field(&usual, "exchange_s"));
    assert!(field(&run(&["--boot-s", "300"]), "run_s") > 200.0 + field(&usual, "run_s"));
    assert!(field(&run(&["--machine-price", "g4dn.xlarge"]), "total_usd") > 5.0 * field(&usual, "total_usd"));
    assert!(field(&run(&["--checkpoint-rounds", "100"]), "lost_per_failure_s") > field(&usual, "lost_per_failure_s"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Workplace::new();
    place.run(&["project", "--model", "lenet6"]).failed(2, &["lenet6", "lenet5", "--measure"]);
    place.run(&["project", "--peers", "0"]).failed(2, &["1,2,4"]);
    place.run(&["project", "--rates=-1"]).failed(2, &["failures of a machine"]);
    place.run(&["project", "--local-steps", "0"]).failed(2, &["--local-steps"]);
    place.run(&["project", "--machine-price", "t9.huge"]).failed(2, &["t9.huge", "t2.large"]);
    place.run(&["project", "--measured", "nothing.toml"]).failed(2, &["nothing.toml"]);
    place.run(&["project", "--peers", "1..256", "--local-steps", "1..200"]).failed(2, &["combinations"]);
    fs::write(place.path().join("bad.toml"), "version = 7").unwrap();
    place.run(&["project", "--measured", "bad.toml"]).failed(2, &["bad.toml"]);
    let none = place.run(&["project", "--model", "lenet5", "--peers", "100", "--local-steps", "1", "--rates", "0"]);
    assert_eq!(none.code, Some(0), "{}", none.stderr);
    assert!(none.stdout.contains("left out: lenet5") && none.stdout.contains("none"), "{}", none.stdout);
}

#[test]
fn what_is_measured_here_can_be_projected_from() {
    let place = Workplace::for_training();
    let measured = place.run(&["project", "--measure", "2", "--model", "lenet5"]);
    assert_eq!(measured.code, Some(0), "{}", measured.stderr);
    fs::write(place.path().join("here.toml"), &measured.stdout).unwrap();
    let found = place.run(&["project", "--measured", "here.toml", "--json"]).json();
    assert_eq!(found["setup"]["models"], serde_json::json!(["lenet5"]));
    assert!(found["inputs"]["machine"].as_str().unwrap().contains("cores"), "{found:#}");
    let unit = &found["inputs"]["model"]["lenet5"]["measured"]["gradient"]["alone_us"];
    assert!(unit.as_f64().unwrap() > 100.0, "{unit}");
}
