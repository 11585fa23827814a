//! A round of a real run, exported as a state machine of AWS Step Functions.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Ended, Workplace};
use peerless_protocol::function::{Place, Task, Work};
use peerless_protocol::{Digest, RoundPlan, UnitKind};
use serde_json::Value;

const SECRET: &str = "s3cretKey";

fn export(place: &Workplace, run: &str, folder: &str, credentials: bool) -> Ended {
    let flags = ["--function", "peerless-unit", "--bucket", "s3://models/team", "--hours", "2", "--json"];
    let mut command: Command = place.command(&[&["deploy", "step-functions", run, "-o", folder], &flags[..]].concat());
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"] {
        command.env_remove(name);
    }
    if credentials {
        command.env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").env("AWS_SECRET_ACCESS_KEY", SECRET);
    }
    place.start(command).wait()
}

/// A run that has stopped before its end, with a checkpoint.
fn unfinished(place: &Workplace) {
    let limits = ["--function-price", "lambda-x86:1769", "--budget", "0.0003", "--run-dir", "run"];
    place.run(&[&["train", "--peers", "1", "--rounds", "500"], &limits[..]].concat()).failed(9, &["budget"]);
}

#[test]
fn a_round_is_exported_with_tasks_that_are_rights_for_its_objects_alone() {
    let place = Workplace::for_training();
    unfinished(&place);
    let ended = export(&place, "run", "round", true);
    let summary = ended.json();
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(SECRET));
    let folder = place.path().join("round");
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let tasks: Vec<Task> = serde_json::from_slice(&read("tasks.json")).unwrap();
    let parameters = read("parameters.f32");
    let number = summary["round"].as_u64().unwrap();
    let plan = RoundPlan::new(&tasks[0].spec, number);
    assert!(number > 0 && tasks.len() == plan.total() as usize, "{summary:#}");
    for (index, task) in (0..).zip(&tasks) {
        let Work::Unit { round, unit, unit_kind, parameters: from, output, dataset } = &task.work else {
            panic!("{task:?}")
        };
        assert_eq!((*round, *unit, *unit_kind), (number, index, UnitKind::Gradient));
        assert_eq!(from.digest, Some(Digest::of(&parameters)));
        assert_eq!((dataset.len(), from.elements * 4), (4, parameters.len() as u64));
        let (Place::Remote(from), Place::Remote(to)) = (&from.place, output) else { panic!("{task:?}") };
        let end = format!("/units/{unit}.f32");
        assert!(to.address().ends_with(&end) && from.address().ends_with("/parameters.f32"));
        for remote in [from, to] {
            assert!(remote.url.contains("X-Amz-Expires=7200") && remote.url.contains("X-Amz-Signature="));
            assert!(remote.address().contains("models") && remote.address().contains("/team/step-functions/"));
        }
    }
    let machine: Value = serde_json::from_slice(&read("state-machine.json")).unwrap();
    let reader = &machine["States"]["Units"]["ItemReader"]["Parameters"];
    assert_eq!((&reader["Bucket"], &reader["Key"]), (&"models".into(), &summary["tasks_key"]));
    assert!(!machine.to_string().contains("X-Amz"), "rights are in the tasks alone");
    for name in ["tasks.json", "parameters.f32", "state-machine.json"] {
        assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert!(export(&place, "run", "round", true).stderr.contains("cannot make round"), "nothing is overwritten");
}

#[test]
fn what_cannot_be_exported_is_said() {
    let place = Workplace::for_training();
    place.train(&["--peers", "1", "--rounds", "2", "--run-dir", "over"]);
    export(&place, "over", "round", true).failed(1, &["is finished"]);
    export(&place, "nowhere", "round", true).failed(1, &["nowhere"]);
    assert!(!place.path().join("round").exists());
}
