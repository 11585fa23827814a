//! The entrance for the fuzz target (`fuzz/`), compiled for it alone (`--cfg fuzzing`).

use std::collections::BTreeMap;

use peerless_protocol::UnitKind;
use peerless_protocol::function::{Place, TensorRef, Work};

use crate::report::parse_report;

/// Takes what a function program wrote to stdout as the report of each kind of work.
pub fn read_report(line: &[u8]) {
    let parameters = TensorRef { place: Place::Path("/p".into()), offset: 0, elements: 1, digest: None };
    let output = Place::Path("/o".into());
    let unit = |unit_kind| Work::Unit {
        round: 1,
        unit: 2,
        unit_kind,
        parameters: parameters.clone(),
        output: output.clone(),
        dataset: BTreeMap::new(),
    };
    let works =
        [Work::Ping, Work::Initialise { output: output.clone() }, unit(UnitKind::Gradient), unit(UnitKind::Evaluation)];
    for work in works {
        if let Ok(report) = parse_report(line, 7, &(&work).into()) {
            assert_eq!(report.invocation, 7);
        }
    }
}
