//! Tables: for a terminal, for documents, for programs.

use serde_json::{Value, json};

use super::agreement::Verdict;
use super::cells::{Cell, Comparison};
use super::figures::{CellResult, FIGURES, Figure, TARGET};
use super::outcome::Outcome;
use crate::output::{Align, table};

/// Version of the JSON; it grows when a field goes or changes its meaning.
const VERSION: u32 = 1;

/// An axis of the matrix.
type Axis = (&'static str, fn(&Cell) -> String);

const AXES: [Axis; 6] = [
    ("fault", |cell| cell.fault.clone()),
    ("topology", |cell| cell.topology.clone()),
    ("compute", |cell| cell.compute.clone()),
    ("model", |cell| cell.model.clone()),
    ("peers", |cell| cell.peers.to_string()),
    ("batch", |cell| cell.batch_size.to_string()),
];

/// A comparison and its results.
pub(crate) struct Compared<'a> {
    pub(crate) comparison: &'a Comparison,
    pub(crate) results: Vec<CellResult<'a>>,
}

/// A table as text.
pub(crate) struct Table {
    pub(crate) columns: Vec<(String, Align)>,
    pub(crate) rows: Vec<Vec<String>>,
    /// What is the same in all rows.
    pub(crate) fixed: String,
    /// Runs that failed, and why.
    pub(crate) failures: Vec<String>,
}

impl<'a> Compared<'a> {
    pub(crate) fn new(comparison: &'a Comparison, outcomes: &'a [Outcome]) -> Self {
        Self { comparison, results: CellResult::all(comparison, outcomes) }
    }

    /// The columns after the axes.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let target = self.comparison.spec.target_accuracy.map(|_| TARGET);
        target.into_iter().chain(FIGURES).collect()
    }

    /// The axes on which cells differ; the first two in any case, as rows need names.
    fn axes(&self) -> impl Iterator<Item = &'static Axis> {
        let cells = &self.comparison.cells;
        let differs = |axis: &Axis| cells.iter().any(|cell| (axis.1)(cell) != (axis.1)(&cells[0]));
        AXES.iter().enumerate().filter(move |(index, axis)| *index < 2 || differs(axis)).map(|(_, axis)| axis)
    }

    /// A name for a cell that tells it from the others.
    pub(crate) fn name(&self, cell: &Cell) -> String {
        let named = |axis: &Axis| match axis.0 {
            "peers" => format!("{} peers", (axis.1)(cell)),
            "batch" => format!("batch {}", (axis.1)(cell)),
            _ => (axis.1)(cell),
        };
        self.axes().map(named).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn table(&self) -> Table {
        let axes: Vec<&Axis> = self.axes().collect();
        let fixed = AXES.iter().filter(|axis| !axes.iter().any(|shown| shown.0 == axis.0));
        let fixed: Vec<String> = match self.comparison.cells.first() {
            Some(cell) => fixed.map(|axis| format!("{} {}", axis.0, (axis.1)(cell))).collect(),
            None => Vec::new(),
        };
        let figures = self.figures();
        let head = |axis: &&Axis| {
            (axis.0.to_owned(), if axis.0 == "peers" || axis.0 == "batch" { Align::Right } else { Align::Left })
        };
        let mut columns: Vec<(String, Align)> = axes.iter().map(head).collect();
        columns.push(("runs".to_owned(), Align::Right));
        columns.extend(figures.iter().map(|figure| (figure.head.to_owned(), Align::Right)));
        columns.push(("state".to_owned(), Align::Left));
        let row = |result: &CellResult| {
            let mut row: Vec<String> = axes.iter().map(|axis| (axis.1)(result.cell)).collect();
            row.push(runs(result));
            row.extend(figures.iter().map(|figure| result.show(figure)));
            row.push(state(result));
            row
        };
        let failures = self.results.iter().flat_map(|result| {
            let name = self.name(result.cell);
            result.failures().map(move |(number, reason)| format!("{name} #{number}: {reason}"))
        });
        Table {
            columns,
            rows: self.results.iter().map(row).collect(),
            fixed: fixed.join(", "),
            failures: failures.collect(),
        }
    }

    fn json(&self) -> Value {
        let figures = self.figures();
        let cells: Vec<Value> = self
            .results
            .iter()
            .map(|result| {
                let spreads: serde_json::Map<String, Value> =
                    figures.iter().map(|figure| (figure.key.to_owned(), json!(result.spread(figure)))).collect();
                let Cell { topology, compute, model, peers, batch_size, fault } = result.cell;
                json!({
                    "topology": topology, "compute": compute, "model": model, "peers": peers, "batch_size": batch_size, "fault": fault,
                    "figures": spreads,
                    "runs": result.outcomes.iter().map(|outcome| run(outcome, &figures)).collect::<Vec<_>>(),
                })
            })
            .collect();
        let Comparison { name, spec, .. } = self.comparison;
        json!({ "name": name, "title": spec.title, "repetitions": spec.repetitions, "cells": cells })
    }
}

/// How many runs ended well, and of how many if not all did.
fn runs(result: &CellResult) -> String {
    let (ended, all) = (result.measured().count(), result.outcomes.len());
    if ended == all { all.to_string() } else { format!("{ended} of {all}") }
}

/// The state that all runs end in.
fn state(result: &CellResult) -> String {
    let mut states: Vec<String> = result.measured().filter_map(|run| Some(run.state_digest?.short())).collect();
    states.sort_unstable();
    states.dedup();
    if states.is_empty() { "-".to_owned() } else { states.join(" ") }
}

fn run(outcome: &Outcome, figures: &[Figure]) -> Value {
    match &outcome.result {
        Err(reason) => json!({ "flags": outcome.flags, "wall_s": outcome.wall_s, "error": reason }),
        Ok(measured) => {
            let figures: serde_json::Map<String, Value> =
                figures.iter().map(|figure| (figure.key.to_owned(), json!((figure.of)(measured)))).collect();
            json!({
                "flags": outcome.flags, "wall_s": outcome.wall_s, "rounds": measured.rounds,
                "run_id": measured.run_id, "state_digest": measured.state_digest, "figures": figures,
            })
        }
    }
}

/// For a terminal.
pub(crate) fn text(all: &[Compared], verdict: &Verdict) -> String {
    let mut parts = Vec::new();
    for compared in all {
        let shown = compared.table();
        let mut lines = vec![heading(compared, &shown)];
        let columns: Vec<(&str, Align)> = shown.columns.iter().map(|(name, align)| (name.as_str(), *align)).collect();
        lines.push(table(&columns, &shown.rows));
        lines.extend(shown.failures.iter().map(|failure| format!("failed: {failure}")));
        parts.push(lines.join("\n"));
    }
    parts.push(verdict.text.clone());
    parts.join("\n\n")
}

fn heading(compared: &Compared, shown: &Table) -> String {
    let Comparison { name, spec, .. } = compared.comparison;
    let fixed = if shown.fixed.is_empty() { String::new() } else { format!(" ({})", shown.fixed) };
    format!("{name}: {}{fixed}", spec.title)
}

/// For documents.
pub(crate) fn markdown(all: &[Compared], verdict: &Verdict) -> String {
    let mut parts = Vec::new();
    for compared in all {
        let shown = compared.table();
        let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
        let rule =
            |(_, align): &(String, Align)| if *align == Align::Right { "---:".to_owned() } else { "---".to_owned() };
        let escape = |cell: &String| cell.replace('|', "\\|");
        let mut lines = vec![
            line(shown.columns.iter().map(|(name, _)| name.clone()).collect()),
            line(shown.columns.iter().map(rule).collect()),
        ];
        lines.extend(shown.rows.iter().map(|row| line(row.iter().map(escape).collect())));
        let failures: String = shown.failures.iter().map(|failure| format!("\n\nFailed: {failure}")).collect();
        parts.push(format!("### {}\n\n{}{failures}", heading(compared, &shown), lines.join("\n")));
    }
    let mut verdict = verdict.text.clone();
    // A sentence.
    if let Some(first) = verdict.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    parts.push(verdict + ".");
    parts.join("\n\n")
}

/// For programs.
pub(crate) fn document(all: &[Compared], verdict: &Verdict) -> Value {
    json!({
        "version": VERSION,
        "comparisons": all.iter().map(Compared::json).collect::<Vec<_>>(),
        "digests": verdict,
    })
}
