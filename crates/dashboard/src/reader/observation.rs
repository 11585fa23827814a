//! Events of all ledgers, as far as they tell of failures and recoveries.

use std::collections::BTreeMap;

use peerless_protocol::PeerId;
use peerless_store::EventRecord;
use serde_json::Value;

/// Events that are remembered, the newest ones.
const REMEMBERED: usize = 4_000;
/// Longest text of a cause that is kept, in characters.
const MAX_CAUSE: usize = 300;

/// What a ledger says.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A connection came up.
    Connected(PeerId),
    /// The last connection went down.
    Lost(PeerId),
    /// A connected peer is silent.
    Suspected(PeerId),
    /// It was heard again.
    Heard(PeerId),
    /// A unit that another peer owes is computed here.
    Backup(PeerId),
    /// A unit failed at a peer.
    UnitFailed {
        /// The unit.
        unit: u64,
        /// The peer.
        peer: Option<PeerId>,
        /// Why.
        cause: String,
    },
    /// This peer takes a state from others.
    CatchUp {
        /// The round that it was at.
        from: u64,
        /// The state that it takes.
        to: u64,
    },
    /// Different states for one round.
    Divergence {
        /// The round that starts from them.
        round: u64,
        /// Whether this peer's lost.
        lost: bool,
    },
    /// A round is applied again.
    Redone(u64),
    /// The budget pays for no more.
    BudgetUsedUp,
}

/// What one peer saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// When, in microseconds since the Unix epoch.
    pub at_us: u64,
    /// The round under way.
    pub round: Option<u64>,
    /// Who saw it.
    pub by: String,
    /// What.
    pub seen: Seen,
}

/// The newest observations of all peers.
#[derive(Debug, Default)]
pub struct Observations {
    /// By time; the number tells those of the same time apart.
    by_time: BTreeMap<(u64, u64), Observation>,
    number: u64,
}

impl Observations {
    /// Takes in the events of a ledger.
    pub fn add(&mut self, by: &str, events: &[EventRecord]) {
        for event in events {
            let Some(seen) = seen(event) else { continue };
            self.number += 1;
            let observation = Observation { at_us: event.at_us, round: event.round, by: by.to_owned(), seen };
            self.by_time.insert((event.at_us, self.number), observation);
            if self.by_time.len() > REMEMBERED {
                self.by_time.pop_first();
            }
        }
    }

    /// All of them, by time.
    pub fn iter(&self) -> impl Iterator<Item = &Observation> {
        self.by_time.values()
    }
}

/// What an event tells; `None` of those that tell nothing of failures, and of damaged ones.
fn seen(event: &EventRecord) -> Option<Seen> {
    let detail: Value = serde_json::from_str(&event.detail).ok()?;
    let peer = |field: &str| detail[field].as_str()?.parse().ok();
    Some(match event.kind.as_str() {
        "peer-connected" => Seen::Connected(peer("peer")?),
        "peer-lost" => Seen::Lost(peer("peer")?),
        "peer-suspected" => Seen::Suspected(peer("peer")?),
        "peer-heard" => Seen::Heard(peer("peer")?),
        "backup" => Seen::Backup(peer("instead_of")?),
        "unit-failed" => Seen::UnitFailed {
            unit: detail["unit"].as_u64()?,
            peer: peer("peer"),
            cause: text(&detail["cause"]).chars().take(MAX_CAUSE).collect(),
        },
        "catch-up" => Seen::CatchUp { from: detail["from"].as_u64()?, to: detail["to"].as_u64()? },
        "divergence" => Seen::Divergence { round: detail["round"].as_u64()?, lost: detail["own"] != detail["winner"] },
        "round-redone" => Seen::Redone(event.round?),
        "budget-used-up" => Seen::BudgetUsedUp,
        _ => return None,
    })
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Rounds that were applied again, with when they were applied before, in microseconds since the Unix epoch.
pub fn rounds_redone(events: &[EventRecord]) -> Vec<(u64, u64)> {
    let redone = events.iter().filter(|event| event.kind == "round-redone");
    let before = |event: &EventRecord| serde_json::from_str::<Value>(&event.detail).ok()?["before_at_us"].as_u64();
    redone.filter_map(|event| Some((event.round?, before(event)?))).collect()
}
