//! Faults of real processes beyond kill -9: whatever happens, the final state is that of the undisturbed
//! run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::Workplace;

#[test]
fn recovery_is_measured_and_all_states_are_compared() {
    let place = Workplace::for_training();
    let arguments =
        ["bench", "recovery", "--fault", "kill", "--fault", "function", "--repetitions", "1", "--peers", "2"];
    let reports = place.run(&[&arguments[..], &["--json"]].concat()).json();
    let [kill, function] = &reports.as_array().unwrap()[..] else { panic!("{reports:#}") };
    assert_eq!((&kill["fault"], &function["fault"]), (&"kill".into(), &"function".into()));
    for report in [kill, function] {
        assert_eq!(report["gap_ms"]["all"].as_array().map(Vec::len), Some(1), "{reports:#}");
        assert!(report["normal_round_ms"].as_f64() > Some(0.0), "{reports:#}");
        assert!(report["states_compared"].as_u64() > Some(30), "{reports:#}");
    }
    assert!(kill["back_ms"]["worst"].as_f64() > Some(0.0) && function["back_ms"].is_null(), "{reports:#}");
    assert!(function["units_again"]["worst"].as_f64() >= Some(1.0), "the killed unit is computed again: {reports:#}");
    assert!(place.processes().is_empty(), "peers are left behind");
}
