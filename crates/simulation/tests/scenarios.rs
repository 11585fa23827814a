//! Scenario files: what can be written, and what is said about what cannot.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use peerless_simulation::{Scenario, run_seed};

const SMALL: &str = "about = \"two peers\"\npeers = 2\nunits = 4\nrounds = 80\n";

fn log(text: &str) -> Vec<String> {
    let scenario = Scenario::parse("test.toml", text).unwrap();
    let run = run_seed(&scenario, 1, |setup| setup.record = true);
    assert_eq!(run.outcome.violation, None);
    run.outcome.log.iter().map(ToString::to_string).collect()
}

#[test]
fn a_script_happens_at_its_time_and_the_timeline_says_why_a_peer_is_lost() {
    let script = "[[script]]\nat_ms = 150\nfault = \"pause\"\npeers = [1]\nlasts_ms = 1800\n";
    let lines = log(&format!("{SMALL}{script}"));
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("150.000 ms") && has("FAULT: p1 stands still"), "{lines:#?}");
    assert!(has("with p0; without p1: too far behind (it stands still since 150.0 ms)"), "{lines:#?}");
    assert!(has("FAULT: p1 goes on") && has("is behind at round"), "{lines:#?}");
}

#[test]
fn a_peer_that_is_heard_by_nobody_is_left_out_and_catches_up_when_it_is_heard_again() {
    let script = "[[script]]\nat_ms = 100\nfault = \"one-way-cut\"\npeers = [1]\nlasts_ms = 1500\n";
    let lines = log(&format!("{SMALL}{script}"));
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("without p1: too far behind (nothing passes from there)"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("p1   begins round 7") && line.contains("with p0 p1")), "{lines:#?}");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_line_or_field_and_remedy() {
    let cases = [
        ("peers = 2", "about = \"x\"\npeers = two\n", vec!["test.toml", "line 2"]),
        ("an unknown field", &format!("{SMALL}colour = 1\n"), vec!["line 5", "colour"]),
        ("a range backwards", &SMALL.replace("peers = 2", "peers = \"9..2\""), vec!["line 2", "smaller number first"]),
        ("too many peers", &SMALL.replace("peers = 2", "peers = 5000"), vec!["peers is 5000", "between 1 and 1024"]),
        ("an unknown fault", &format!("{SMALL}[faults.fire]\ncount = 1\n"), vec!["line 5", "fire", "crash"]),
        (
            "a script of nobody",
            &format!("{SMALL}[[script]]\nat_ms = 1\nfault = \"crash\"\n"),
            vec!["peers of script 1"],
        ),
        (
            "a loss of everything",
            &format!("{SMALL}[network]\nloss_percent = 100\n"),
            vec!["network.loss_percent is 100", "between 0 and 90"],
        ),
    ];
    for (what, text, expected) in cases {
        let error = Scenario::parse("test.toml", text).expect_err(what).to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{what}: {error}");
    }
    let error = Scenario::load("no-such-scenario").unwrap_err().to_string();
    assert!(error.contains("no-such-scenario") && error.contains("mixed"), "{error}");
}
