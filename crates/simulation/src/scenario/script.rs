//! Faults at given times.

use serde::Deserialize;

use super::{FaultKind, Scenario, ScenarioError};
use crate::adversary::AttackKind;
use crate::disk::DiskFate;

/// One `[[script]]` of a scenario: a fault at a given time, for given peers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedFault {
    /// When, in ms of virtual time.
    pub at_ms: f64,
    /// What.
    pub fault: FaultKind,
    /// The peers that it happens to, by number; the side that is cut off for a partition. Numbers beyond
    /// the seed's peers are left out.
    #[serde(default)]
    pub peers: Vec<usize>,
    /// How long it lasts, in ms; for ever without it.
    #[serde(default)]
    pub lasts_ms: Option<f64>,
    /// What becomes of the disk of a peer that starts again.
    #[serde(default = "kept")]
    pub disk: DiskFate,
    /// How many times slower.
    #[serde(default = "ten")]
    pub factor: u64,
    /// The unit that fails.
    #[serde(default)]
    pub unit: u32,
    /// What is sent in an attack.
    #[serde(default)]
    pub attack: Option<AttackKind>,
}

fn kept() -> DiskFate {
    DiskFate::Kept
}

fn ten() -> u64 {
    10
}

impl ScriptedFault {
    pub(super) fn validate(&self, scenario: &Scenario, index: usize) -> Result<(), ScenarioError> {
        let wrong = |field: &str, value: String, expected: &str| {
            Err(scenario.wrong(&format!("{field} of script {}", index + 1), value, expected.into()))
        };
        let time = |time: f64| (0.0..=1e9).contains(&time);
        if !time(self.at_ms) {
            return wrong("at_ms", self.at_ms.to_string(), "between 0 and 10^9");
        }
        if let Some(lasts) = self.lasts_ms.filter(|lasts| !time(*lasts)) {
            return wrong("lasts_ms", lasts.to_string(), "between 0 and 10^9");
        }
        match self.fault {
            FaultKind::Flap => wrong("fault", "flap".into(), "several crashes or partitions, one script each"),
            FaultKind::Attack if self.peers.len() != 2 => {
                wrong("peers", format!("{:?}", self.peers), "two peers: who sends, and who gets it")
            }
            FaultKind::Join => Ok(()),
            _ if self.peers.is_empty() => wrong("peers", "empty".into(), "a list such as [0, 2]"),
            _ => Ok(()),
        }
    }
}
