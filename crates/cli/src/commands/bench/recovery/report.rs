//! The figures, for people and programs.

use peerless_protocol::RunSpec;
use serde::Serialize;

use super::super::percentile;
use super::Kind;
use super::incident::Incident;
use super::measure::{Cost, Ledgers};
use crate::output::{Align, table};
use crate::train::agreement::Agreement;

/// What repetitions of one fault cost. Times in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    fault: &'static str,
    peers: u16,
    repetitions: usize,
    /// Median time between two commits when nothing happens.
    normal_round_ms: f64,
    /// Time until the next round is committed, beyond a normal round, at the worst surviving peer.
    gap_ms: Spread,
    /// Time lost in stalled rounds until the run was steady again.
    stalled_ms: Spread,
    /// From restart, SIGCONT or healing until all peers take part again; absent where nothing was away.
    back_ms: Option<Spread>,
    /// Gradient units computed more than once or thrown away.
    units_again: Spread,
    /// The same in samples.
    samples_again: Spread,
    /// Rounds of which peers' states were compared, and comparisons; all were equal.
    rounds: u64,
    states_compared: u64,
}

/// How values are spread over the repetitions.
#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    p95: f64,
    worst: f64,
    all: Vec<f64>,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let all: Vec<f64> = values.collect();
        let [median, p95, worst] = [50, 95, 100].map(|percent| percentile(&all, percent));
        Self { median, p95, worst, all }
    }

    fn cells(&self, digits: usize) -> [String; 3] {
        [self.median, self.p95, self.worst].map(|value| format!("{value:.digits$}"))
    }
}

impl Report {
    pub(super) fn new(
        kind: Kind,
        peers: u16,
        spec: &RunSpec,
        ledgers: &Ledgers,
        incidents: &[Incident],
        agreement: &Agreement,
    ) -> Self {
        let normal = ledgers.normal_round(incidents);
        let costs: Vec<Cost> = incidents.iter().map(|incident| ledgers.cost(incident, normal)).collect();
        let spread = |value: &dyn Fn(&Cost) -> f64| Spread::of(costs.iter().map(value));
        let samples = f64::from(spec.samples_per_unit);
        Self {
            fault: kind.name(),
            peers,
            repetitions: incidents.len(),
            normal_round_ms: normal,
            gap_ms: spread(&|cost| cost.gap),
            stalled_ms: spread(&|cost| cost.stalled),
            back_ms: (kind != Kind::Function).then(|| Spread::of(costs.iter().filter_map(|cost| cost.back))),
            units_again: spread(&|cost| cost.units_again as f64),
            samples_again: spread(&|cost| cost.units_again as f64 * samples),
            rounds: agreement.rounds(),
            states_compared: agreement.compared,
        }
    }
}

/// All reports as one table.
pub(super) fn text(reports: &[Report]) -> String {
    let columns = [
        ("fault", Align::Left),
        ("", Align::Left),
        ("median", Align::Right),
        ("p95", Align::Right),
        ("worst", Align::Right),
    ];
    let mut rows = Vec::new();
    for report in reports {
        let mut add = |what: &str, spread: &Spread, digits: usize| {
            let name = if what.starts_with("next") { report.fault } else { "" };
            rows.push([name.to_owned(), what.to_owned()].into_iter().chain(spread.cells(digits)).collect());
        };
        add("next round, beyond normal (ms)", &report.gap_ms, 1);
        add("lost in stalled rounds (ms)", &report.stalled_ms, 1);
        if let Some(back) = &report.back_ms {
            add("everybody is back after (ms)", back, 1);
        }
        add("units computed again", &report.units_again, 0);
        add("samples computed again", &report.samples_again, 0);
    }
    let mut lines = vec![table(&columns, &rows), String::new()];
    for report in reports {
        lines.push(format!(
            "{}: {} repetitions, {} peers, normal round {:.1} ms, {} rounds with the same states on all peers",
            report.fault, report.repetitions, report.peers, report.normal_round_ms, report.rounds
        ));
    }
    lines.join("\n")
}
