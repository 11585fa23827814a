//! The charts of one comparison.

use std::collections::BTreeSet;

use peerless_charts::{Axis, LineChart, Mark, Part, Row, Series, Span, SpanKind, StackedBars, Timeline, responsive};

use super::super::figures::{CellResult, FIGURES, Figure, SPREAD_FROM, Spread};
use super::super::outcome::{LifeState, Measured};
use super::super::spec::NO_FAULT;
use super::super::table::Compared;

/// Most lines in one chart: more cannot be told apart.
const MAX_LINES: usize = 8;

/// A chart with what has to be said about it.
pub(super) struct Chart {
    pub(super) svg: String,
    pub(super) caption: String,
}

impl Chart {
    fn new(draw: impl Fn(u32) -> String, caption: &str) -> Self {
        Self { svg: responsive(draw), caption: caption.to_owned() }
    }
}

/// All charts that have something to show.
pub(super) fn all(compared: &Compared) -> Vec<Chart> {
    let mut charts = learning(compared);
    charts.extend(recoveries(compared));
    charts.push(bars(compared, "Time", "time (s)", &FIGURES[0], "From the first round to the final state."));
    if compared.results.iter().any(|result| result.cell.fault != NO_FAULT) {
        let stalled = "Time in which the run got no further; docs/topologies.md has the definition.";
        charts.push(bars(compared, "Stalled", "time without progress (s)", &FIGURES[1], stalled));
        let again = "Samples of units whose result was there already or that nobody waited for any more.";
        charts.push(bars(compared, "Computed again", "samples computed again", &FIGURES[3], again));
    }
    charts.extend(costs(compared));
    charts.push(rounds(compared));
    charts.extend(scaling(compared));
    charts
}

fn axis(label: &str) -> Axis {
    Axis { label: label.to_owned(), ..Axis::default() }
}

fn from_zero(label: &str) -> Axis {
    Axis { from_zero: true, ..axis(label) }
}

/// Accuracy over time and over dollars: all cells in one chart, or one chart a fault.
fn learning(compared: &Compared) -> Vec<Chart> {
    let faults = compared.comparison.spec.fault_names();
    let panels: Vec<Option<String>> =
        if compared.results.len() <= MAX_LINES { vec![None] } else { faults.into_iter().map(Some).collect() };
    let mut charts = Vec::new();
    for panel in panels {
        let of_panel = |result: &&CellResult| panel.as_ref().is_none_or(|fault| *fault == result.cell.fault);
        let results: Vec<&CellResult> = compared.results.iter().filter(of_panel).collect();
        let fault = panel.as_ref().map(|fault| format!(", {}", fault_text(fault))).unwrap_or_default();
        let lines = |value: &dyn Fn(&Measured) -> Vec<(f64, f64)>| -> Vec<Series> {
            let line = |result: &&CellResult| {
                Some(Series { name: compared.name(result.cell), points: value(result.typical()?) })
            };
            results.iter().filter_map(line).filter(|series| !series.points.is_empty()).collect()
        };
        let evaluations = |run: &Measured| run.curves.evaluations.clone();
        let over_time = lines(&|run| evaluations(run).iter().map(|at| (at.at_s, 100.0 * at.accuracy)).collect());
        let over_cost = lines(&|run| evaluations(run).iter().map(|at| (at.spent_usd, 100.0 * at.accuracy)).collect());
        let chart = |title: String, x: &str, series: Vec<Series>, caption: &str| {
            let (x, y) = (from_zero(x), axis("accuracy on the test set (%)"));
            let draw = |width| {
                let (title, x, y, series) = (title.clone(), x.clone(), y.clone(), series.clone());
                LineChart { title, x, y, series, marks: Vec::new(), width }.svg()
            };
            Chart::new(draw, caption)
        };
        // One evaluation, that of the final state, is no line and is in the table.
        if over_time.iter().all(|series| series.points.len() < 2) {
            continue;
        }
        let caption = "Of each row of the table the run with the median time. Each marker is an evaluation.";
        charts.push(chart(format!("Accuracy over time{fault}"), "time (s)", over_time, caption));
        if over_cost.iter().flat_map(|series| &series.points).any(|&(usd, _)| usd > 0.0) {
            let caption =
                "What functions and machines of the peers had cost by then, at the prices of the specification.";
            charts.push(chart(format!("Accuracy over dollars{fault}"), "spent ($)", over_cost, caption));
        }
    }
    charts
}

fn fault_text(fault: &str) -> String {
    if fault == NO_FAULT { "no faults".to_owned() } else { fault.to_owned() }
}

/// For each fault: rounds over time in all topologies, and the peers' lives in each.
fn recoveries(compared: &Compared) -> Vec<Chart> {
    let mut charts = Vec::new();
    for fault in compared.comparison.spec.fault_names().iter().filter(|fault| *fault != NO_FAULT) {
        // One size and way to compute stands for all.
        let of_fault = || compared.results.iter().filter(|result| result.cell.fault == *fault);
        let Some(first) = of_fault().next() else { continue };
        let alike = |result: &&CellResult| {
            let (cell, first) = (result.cell, first.cell);
            (cell.peers, cell.batch_size) == (first.peers, first.batch_size)
                && (&cell.compute, &cell.model) == (&first.compute, &first.model)
        };
        let runs: Vec<(&str, &Measured)> = of_fault()
            .filter(alike)
            .filter_map(|result| Some((result.cell.topology.as_str(), result.typical()?)))
            .collect();
        if runs.is_empty() {
            continue;
        }
        charts.push(progress(fault, &runs));
        charts.extend(runs.iter().map(|(topology, run)| lives(fault, topology, run)));
    }
    charts
}

fn progress(fault: &str, runs: &[(&str, &Measured)]) -> Chart {
    let line = |(topology, run): &(&str, &Measured)| Series {
        name: (*topology).to_owned(),
        points: with_drops(&run.curves.progress),
    };
    let series: Vec<Series> = runs.iter().map(line).collect();
    let mut marks: Vec<Mark> = Vec::new();
    for (topology, run) in runs {
        for (at_s, label) in &run.curves.faults {
            let label = if runs.len() > 1 { format!("{}: {label}", short(topology)) } else { label.clone() };
            marks.push(Mark { at: *at_s, label });
        }
    }
    let title = format!("Recovery: {fault}");
    let draw = |width| {
        let (title, series, marks) = (title.clone(), series.clone(), marks.clone());
        LineChart { title, x: from_zero("time (s)"), y: from_zero("round"), series, marks, width }.svg()
    };
    Chart::new(
        draw,
        "The newest round that was applied, in one run each: flat where nothing goes on, down where rounds are done again.",
    )
}

/// Rounds over time; where rounds are done again, what was reached is lost at once, and not little by little since the
/// last round.
fn with_drops(progress: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::with_capacity(progress.len());
    for &(at_s, round) in progress {
        let round = round as f64;
        if let Some(&(_, before)) = points.last().filter(|(_, before)| *before > round) {
            points.push((at_s, before));
        }
        points.push((at_s, round));
    }
    points
}

/// A topology in the label of a mark.
fn short(topology: &str) -> &str {
    match topology {
        "parameter-server" => "ps",
        "all-reduce" => "ar",
        other => other,
    }
}

fn lives(fault: &str, topology: &str, run: &Measured) -> Chart {
    let row = |life: &super::super::outcome::Life| Row {
        name: if life.peer.parse::<u32>().is_ok() { format!("peer {}", life.peer) } else { life.peer.clone() },
        spans: life
            .spans
            .iter()
            .map(|span| Span { from: span.from_s, to: span.to_s, kind: kind(span.state), label: String::new() })
            .collect(),
    };
    let rows: Vec<Row> = run.curves.lives.iter().map(row).collect();
    let marks: Vec<Mark> =
        run.curves.faults.iter().map(|(at_s, label)| Mark { at: *at_s, label: label.clone() }).collect();
    let title = format!("Lives: {topology}, {fault}");
    let draw = |width| {
        let (title, rows, marks) = (title.clone(), rows.clone(), marks.clone());
        Timeline { title, x: axis("time since the first round (s)"), rows, marks, width }.svg()
    };
    Chart::new(draw, "")
}

fn kind(state: LifeState) -> SpanKind {
    match state {
        LifeState::Alive => SpanKind::Alive,
        LifeState::Dead => SpanKind::Dead,
        LifeState::Stopped => SpanKind::Stopped,
        LifeState::CatchingUp => SpanKind::CatchingUp,
        LifeState::Finished => SpanKind::Finished,
    }
}

/// One figure of all cells.
fn bars(compared: &Compared, title: &str, label: &str, figure: &Figure, caption: &str) -> Chart {
    let name = |result: &CellResult| match result.spread(figure) {
        Some(Spread { min, max, .. }) if result.outcomes.len() >= SPREAD_FROM => {
            format!("{}\n{} to {}", compared.name(result.cell), (figure.show)(min), (figure.show)(max))
        }
        _ => compared.name(result.cell),
    };
    let median = |result: &CellResult| result.spread(figure).map_or(f64::NAN, |spread| spread.median);
    let parts = vec![Part { name: title.to_owned(), values: compared.results.iter().map(median).collect() }];
    let spread = compared.comparison.spec.repetitions >= SPREAD_FROM;
    let caption =
        if spread { format!("{caption} Medians; below the name the least and the most.") } else { caption.to_owned() };
    let draw = |width| {
        let (title, parts) = (title.to_owned(), parts.clone());
        let categories = compared.results.iter().map(name).collect();
        StackedBars { title, value: axis(label), categories, parts, width }.svg()
    };
    Chart::new(draw, &caption)
}

/// A part of a bar: its name, and what it is of a run.
type NamedPart = (&'static str, fn(&Measured) -> f64);

/// Bars of parts, each the median over a cell's runs.
fn stacked(compared: &Compared, title: &str, label: &str, parts: &[NamedPart], caption: &str) -> Chart {
    let median = |result: &CellResult, of: fn(&Measured) -> f64| {
        Spread::of(result.measured().map(of).collect()).map_or(f64::NAN, |spread| spread.median)
    };
    let part = |&(name, of): &NamedPart| Part {
        name: name.to_owned(),
        values: compared.results.iter().map(|result| median(result, of)).collect(),
    };
    let parts: Vec<Part> = parts.iter().map(part).collect();
    let draw = |width| {
        let (title, parts) = (title.to_owned(), parts.clone());
        let categories = compared.results.iter().map(|result| compared.name(result.cell)).collect();
        StackedBars { title, value: axis(label), categories, parts, width }.svg()
    };
    Chart::new(draw, caption)
}

/// What was paid for; nothing where nothing costs anything.
fn costs(compared: &Compared) -> Option<Chart> {
    let costs = compared.results.iter().flat_map(CellResult::measured).any(|run| run.total_usd() > 0.0);
    let parts: [NamedPart; 3] = [
        ("functions, of use", |run| run.functions_usd - run.wasted_usd),
        ("functions, of no use", |run| run.wasted_usd),
        ("machines of the peers", |run| run.peers_usd),
    ];
    let caption = "Of no use are calls that failed, and results that were there already or that nobody waited for.";
    costs.then(|| stacked(compared, "Cost", "cost of a run ($)", &parts, caption))
}

fn rounds(compared: &Compared) -> Chart {
    let parts: [NamedPart; 6] = [
        ("compute", |run| run.curves.split.compute_ms),
        ("sum", |run| run.curves.split.sum_ms),
        ("transfer", |run| run.curves.split.transfer_ms),
        ("update", |run| run.curves.split.update_ms),
        ("digest and store", |run| run.curves.split.digest_ms),
        ("wait for others", |run| run.curves.split.wait_ms),
    ];
    let caption =
        "Means over the rounds of one peer, or of the server, whose computing is what its slowest worker took.";
    stacked(compared, "Where a round's time goes", "time of a round (ms)", &parts, caption)
}

/// Samples per second over the number of peers.
fn scaling(compared: &Compared) -> Option<Chart> {
    let peers: BTreeSet<u16> = compared.results.iter().map(|result| result.cell.peers).collect();
    if peers.len() < 2 {
        return None;
    }
    let mut series: Vec<Series> = Vec::new();
    for result in &compared.results {
        let mut cell = result.cell.clone();
        cell.peers = 0;
        let name = compared.name(&cell).replace(", 0 peers", "");
        let Some(speed) = Spread::of(result.measured().map(|run| run.samples_per_s).collect()) else { continue };
        let point = (f64::from(result.cell.peers), speed.median);
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => series.push(Series { name, points: vec![point] }),
        }
    }
    let draw = |width| {
        let (title, series) = ("Speed with more peers".to_owned(), series.clone());
        LineChart { title, x: axis("peers"), y: from_zero("samples per second"), series, marks: Vec::new(), width }
            .svg()
    };
    Some(Chart::new(draw, "Medians. All peers share the cores of this machine."))
}

#[cfg(test)]
mod tests {
    use peerless_protocol::Digest;

    use super::super::super::cells::Comparison;
    use super::super::super::outcome::{Curves, Evaluated, Life, LifeSpan, Outcome};
    use super::*;

    fn comparison(text: &str) -> Comparison {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("try.toml");
        std::fs::write(&path, text).unwrap();
        Comparison::read(&path).unwrap()
    }

    fn run(usd: f64) -> Measured {
        let curves = Curves {
            evaluations: [1.0, 2.0].map(|at_s| Evaluated { at_s, spent_usd: usd, accuracy: 0.9 }).into(),
            progress: vec![(0.1, 0), (0.2, 1)],
            faults: vec![(0.15, "kill:1@1".into())],
            lives: vec![Life {
                peer: "1".into(),
                spans: vec![LifeSpan { from_s: 0.0, to_s: 0.2, state: LifeState::Alive }],
            }],
            ..Curves::default()
        };
        Measured { functions_usd: usd, samples_per_s: 100.0, train_s: 1.0, curves, ..Measured::default() }
    }

    fn drawn(comparison: &Comparison, measured: &Measured) -> String {
        let outcome = Outcome::new(&[], Digest::of(b""), 1.0, Ok(measured.clone()));
        let outcomes = vec![outcome; comparison.runs.len()];
        all(&Compared::new(comparison, &outcomes)).into_iter().map(|chart| chart.svg).collect()
    }

    const SMALL: &str = "title = \"t\"\n[axes]\ntopologies = [\"p2p\"]\n";

    #[test]
    fn charts_are_drawn_of_what_there_is() {
        let faults = comparison(&format!("{SMALL}[faults.dies]\ninject = [\"kill:1@1\"]"));
        let with = drawn(&faults, &run(0.5));
        for title in
            ["Accuracy over time", "Accuracy over dollars", "Recovery: dies", "Lives: p2p, dies", "Stalled", ">Cost<"]
        {
            assert!(with.contains(title), "{title}");
        }
        assert!(!with.contains("Speed with more peers"));
        let without = drawn(&comparison(SMALL), &run(0.0));
        for title in ["Accuracy over dollars", "Recovery", "Stalled", ">Cost<"] {
            assert!(!without.contains(title), "{title}");
        }
        let scaling = comparison("title = \"t\"\n[axes]\ntopologies = [\"p2p\"]\npeers = [1, 2]");
        assert!(drawn(&scaling, &run(0.0)).contains("Speed with more peers"));
    }

    #[test]
    fn lost_rounds_are_a_drop() {
        let points = with_drops(&[(1.0, 8), (2.0, 9), (7.0, 5), (8.0, 6)]);
        assert_eq!(points, [(1.0, 8.0), (2.0, 9.0), (7.0, 9.0), (7.0, 5.0), (8.0, 6.0)]);
    }

    #[test]
    fn runs_that_all_failed_leave_charts_without_data() {
        let comparison = comparison(&format!("{SMALL}[faults.dies]\ninject = [\"kill:1@1\"]"));
        let outcomes = vec![Outcome::new(&[], Digest::of(b""), 1.0, Err("no".into())); comparison.runs.len()];
        let charts = all(&Compared::new(&comparison, &outcomes));
        assert!(charts.iter().all(|chart| chart.svg.contains("no data")));
    }
}
