//! Whether what a function answered is the report that was asked for.

use peerless_protocol::UnitKind;
use peerless_protocol::function::{Output, Report, Work};

use crate::error::ProtocolViolation;
use crate::metering::WorkLabel;

/// Longest report, in bytes. The largest is that of an initialisation with its layout: a hundred
/// bytes per tensor.
pub const MAX_REPORT_BYTES: usize = 4 << 20;

/// Bytes of a line that is no report to quote in the error.
const EXCERPT_CHARS: usize = 120;

/// Most characters of why something is no report, or of what a platform says about a function that failed.
pub(crate) const REASON_CHARS: usize = 400;

/// Checks that a line answers the task that was sent.
pub(crate) fn parse_report(line: &[u8], invocation: u64, work: &Expected) -> Result<Report, ProtocolViolation> {
    let report: Report = serde_json::from_slice(line).map_err(|error| ProtocolViolation::NotAReport {
        excerpt: String::from_utf8_lossy(line).chars().take(EXCERPT_CHARS).collect(),
        // Serde quotes a string that is none of the report's fields in full.
        reason: error.to_string().chars().take(REASON_CHARS).collect(),
    })?;
    if report.invocation != invocation {
        return Err(ProtocolViolation::WrongInvocation { expected: invocation, found: report.invocation });
    }
    if report.outcome.as_ref().is_ok_and(|output| !work.fits(output)) {
        return Err(ProtocolViolation::WrongOutput { expected: work.label });
    }
    Ok(report)
}

/// What kind of output a task asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    label: WorkLabel,
    gradient: bool,
}

impl From<&Work> for Expected {
    fn from(work: &Work) -> Self {
        Self {
            label: WorkLabel::from(work),
            gradient: matches!(work, Work::Unit { unit_kind: UnitKind::Gradient, .. }),
        }
    }
}

impl Expected {
    /// Whether a gradient unit was asked for.
    pub(crate) fn is_gradient(&self) -> bool {
        self.gradient
    }

    fn fits(&self, output: &Output) -> bool {
        match (self.label, output) {
            (WorkLabel::Unit { .. }, Output::Unit { digest, .. }) => digest.is_some() == self.gradient,
            (WorkLabel::Initialise, Output::Initialised { .. }) | (WorkLabel::Ping, Output::Pong) => true,
            (WorkLabel::Unit { .. } | WorkLabel::Initialise | WorkLabel::Ping, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use peerless_protocol::function::Place;

    use super::*;

    #[test]
    fn what_is_said_about_a_long_line_is_short() {
        let line = format!("\"{}\"", "x".repeat(100_000));
        let garbage = parse_report(line.as_bytes(), 7, &Expected::from(&Work::Ping)).unwrap_err();
        assert!(garbage.to_string().len() < 700, "{garbage}");
    }

    #[test]
    fn a_report_of_something_else_is_a_violation() {
        let ping = Expected::from(&Work::Ping);
        let pong = br#"{"invocation":7,"outcome":{"Ok":{"kind":"pong"}},"duration_us":1,"peak_memory_bytes":2}"#;
        assert_eq!(parse_report(pong, 7, &ping).map(|report| report.duration_us), Ok(1));
        let other = ProtocolViolation::WrongInvocation { expected: 8, found: 7 };
        assert_eq!(parse_report(pong, 8, &ping), Err(other));
        let initialise = Expected::from(&Work::Initialise { output: Place::Path("/x".into()) });
        let wrong = ProtocolViolation::WrongOutput { expected: WorkLabel::Initialise };
        assert_eq!(parse_report(pong, 7, &initialise), Err(wrong));
        let garbage = parse_report(&[0xff; 1000], 7, &ping);
        assert!(
            matches!(garbage, Err(ProtocolViolation::NotAReport { excerpt, .. }) if excerpt.chars().count() == EXCERPT_CHARS)
        );
    }
}
