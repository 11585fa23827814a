//! A projection as tables for people, as CSV for charts and as JSON for programs.

use serde_json::{Value, json};

use super::inputs::Inputs;
use super::map::{Best, Cell};
use super::published::{Basis, Origin, Row};
use super::sweep::{LeftOut, Point, Setup};
use crate::model::ARCHITECTURES;
use crate::output::{Align, table, thousands};

/// Version of JSON and CSV; it grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// Another architecture is as good if it takes no more than so many times as much: the model is not more exact.
const CLOSE: f64 = 1.05;

/// A part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Section {
    /// Which architecture is quickest and cheapest, over peers and failure rates
    Map,
    /// The same where each architecture has the number of peers that is best for it
    Best,
    /// Times and dollars of every combination
    Points,
    /// Published and measured points beside what the model says
    Published,
}

/// Everything that a projection says.
pub(crate) struct Projection<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) setup: &'a Setup,
    pub(crate) points: Vec<Point>,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) rows: Vec<Row>,
}

impl Projection<'_> {
    /// The sections that are asked for.
    pub(crate) fn text(&self, sections: &[Section]) -> String {
        let mut parts = Vec::new();
        if sections.iter().any(|section| *section != Section::Published) {
            parts.push(self.head());
        }
        for section in sections {
            parts.push(match section {
                Section::Map => self.map(),
                Section::Best => self.best(),
                Section::Points => self.table(),
                Section::Published => self.published(),
            });
        }
        parts.join("\n\n")
    }

    fn head(&self) -> String {
        let Setup { units_per_round, epochs, machine, .. } = self.setup;
        let Inputs { date, machine: measured_on, program, load, .. } = self.inputs;
        let mut lines = vec![
            format!(
                "projected: {epochs} epochs, {units_per_round} units a round, whoever computes them; machines with {} cores \
                 and {} MB",
                machine.cores,
                thousands(machine.memory_mb.into())
            ),
            format!("from units measured {date} on {measured_on}"),
            format!("with {program}; {load}"),
            "H: optimizer steps that a unit takes before it communicates; what that does to accuracy is not in the model"
                .to_owned(),
        ];
        let mut reasons: Vec<(String, Vec<String>, &str)> = Vec::new();
        for LeftOut { model, local_steps, peers, architecture, reason } in &self.left_out {
            let what = format!("{model} with {}, H = {local_steps}", architecture.name());
            match reasons.last_mut() {
                Some((last, numbers, _)) if *last == what => numbers.push(peers.to_string()),
                _ => reasons.push((what, vec![peers.to_string()], reason)),
            }
        }
        let reasons = reasons
            .into_iter()
            .map(|(what, peers, reason)| format!("left out: {what}, peers {}: {reason}", peers.join(", ")));
        lines.extend(reasons);
        lines.join("\n")
    }

    fn map(&self) -> String {
        let mut parts = Vec::new();
        for model in &self.setup.models {
            for &local_steps in &self.setup.local_steps {
                let elements = self.inputs.models.get(model).map_or(0, |input| input.measured.elements);
                parts.push(format!(
                    "{model} ({} MB), H = {local_steps}\n{}",
                    megabytes(elements),
                    self.block(model, local_steps)
                ));
            }
        }
        let legend = ARCHITECTURES.map(|architecture| format!("{} {}", architecture.code(), architecture.name()));
        parts.push(format!("{}\n~  another one is within 5 %\n-  none of them", legend.join("\n")));
        parts.join("\n\n")
    }

    /// Failure rates down, peers across; time on the left, dollars on the right.
    fn block(&self, model: &str, local_steps: u32) -> String {
        let peers: Vec<String> = self.setup.peers.iter().map(u32::to_string).collect();
        let mut columns = vec![("failures/h", Align::Right), ("quickest:", Align::Left)];
        columns.extend(peers.iter().map(|peers| (peers.as_str(), Align::Right)));
        columns.push(("cheapest:", Align::Left));
        columns.extend(peers.iter().map(|peers| (peers.as_str(), Align::Right)));
        let code = |best: Option<Best>| match best {
            None => "-".to_owned(),
            Some(best) if best.lead.is_some_and(|(_, times)| times < CLOSE) => format!("{}~", best.architecture.code()),
            Some(best) => format!("{} ", best.architecture.code()),
        };
        let row = |rate: f64| {
            let here: Vec<&Cell> = self
                .cells
                .iter()
                .filter(|cell| cell.model == model && cell.local_steps == local_steps)
                .filter(|cell| cell.rate == rate && cell.peers.is_some())
                .collect();
            let mut row = vec![rate.to_string(), String::new()];
            row.extend(here.iter().map(|cell| code(cell.quickest)));
            row.push(String::new());
            row.extend(here.iter().map(|cell| code(cell.cheapest)));
            row
        };
        table(&columns, &self.setup.rates.iter().map(|rate| row(*rate)).collect::<Vec<_>>())
    }

    fn best(&self) -> String {
        let columns = [
            ("model", Align::Left),
            ("H", Align::Right),
            ("failures/h", Align::Right),
            ("quickest", Align::Left),
            ("peers", Align::Right),
            ("run", Align::Right),
            ("$", Align::Right),
            ("next best", Align::Left),
            ("cheapest", Align::Left),
            ("peers", Align::Right),
            ("run", Align::Right),
            ("$", Align::Right),
            ("next best", Align::Left),
        ];
        let of = |best: Option<Best>| {
            let Some(best) = best else {
                return vec!["none".to_owned(), "-".into(), "-".into(), "-".into(), "-".into()];
            };
            let next = best.lead.map_or_else(
                || "-".to_owned(),
                |(architecture, times)| format!("{} x {times:.2}", architecture.code()),
            );
            vec![
                best.architecture.name().to_owned(),
                best.peers.to_string(),
                seconds(best.total_us),
                dollars(best.usd),
                next,
            ]
        };
        let rows = self.cells.iter().filter(|cell| cell.peers.is_none()).map(|cell| {
            let mut row = vec![cell.model.clone(), cell.local_steps.to_string(), cell.rate.to_string()];
            row.extend(of(cell.quickest));
            row.extend(of(cell.cheapest));
            row
        });
        table(&columns, &rows.collect::<Vec<_>>())
    }

    fn table(&self) -> String {
        let columns = [
            ("model", Align::Left),
            ("H", Align::Right),
            ("peers", Align::Right),
            ("failures/h", Align::Right),
            ("architecture", Align::Left),
            ("round", Align::Right),
            ("epoch", Align::Right),
            ("$ an epoch", Align::Right),
            ("lost a failure", Align::Right),
            ("run", Align::Right),
            ("functions $", Align::Right),
            ("machines $", Align::Right),
            ("total $", Align::Right),
        ];
        let row = |point: &Point| {
            let outcome = &point.outcome;
            vec![
                point.model.clone(),
                point.local_steps.to_string(),
                point.peers.to_string(),
                point.rate.to_string(),
                point.architecture.name().to_owned(),
                seconds(outcome.usual.round_us()),
                seconds(point.epoch_us),
                dollars(point.epoch_usd),
                outcome.loss_us.map_or_else(|| "-".to_owned(), seconds),
                seconds(outcome.total_us),
                dollars(outcome.functions_usd),
                dollars(outcome.machines_usd),
                dollars(outcome.usd()),
            ]
        };
        table(&columns, &self.points.iter().map(row).collect::<Vec<_>>())
    }

    fn published(&self) -> String {
        let columns = [
            ("figure", Align::Left),
            ("reference", Align::Right),
            ("", Align::Left),
            ("model", Align::Right),
            ("", Align::Left),
            ("unit", Align::Left),
            ("off by", Align::Right),
            ("source", Align::Left),
            ("note", Align::Left),
        ];
        let row = |row: &Row| {
            let origin = match row.origin {
                Origin::Published => "published",
                Origin::PublishedSecondHand => "published (second-hand)",
                Origin::Measured => "measured",
            };
            let (basis, error) = match row.basis {
                Basis::Fitted => ("fitted", "-".to_owned()),
                Basis::Projected => ("projected", format!("{:+.1} %", row.error_percent)),
                Basis::ListPrices => ("list prices", format!("{:+.1} %", row.error_percent)),
            };
            vec![
                row.what.clone(),
                significant(row.reference),
                origin.to_owned(),
                significant(row.ours),
                basis.to_owned(),
                row.unit.to_owned(),
                error,
                row.source.to_owned(),
                row.note.clone(),
            ]
        };
        table(&columns, &self.rows.iter().map(row).collect::<Vec<_>>())
    }

    /// One line for each combination, with a head.
    pub(crate) fn csv(&self) -> String {
        let mut lines = vec![
            "model,elements,local_steps,peers,failures_per_hour,architecture,round_s,compute_s,exchange_s,peer_s,start_s,\
             rounds,epoch_s,epoch_usd,lost_per_failure_s,run_s,run_without_failures_s,functions_usd,machines_usd,total_usd,\
             quickest,cheapest"
                .to_owned(),
        ];
        lines.extend(self.points.iter().map(|point| {
            let (outcome, usual) = (&point.outcome, &point.outcome.usual);
            let elements = self.inputs.models.get(&point.model).map_or(0, |input| input.measured.elements);
            let wins = self.wins(point);
            let times = [usual.round_us(), usual.compute_us, usual.exchange_us, usual.peer_us, usual.start_us];
            let mut fields = vec![
                point.model.clone(),
                elements.to_string(),
                point.local_steps.to_string(),
                point.peers.to_string(),
                point.rate.to_string(),
                point.architecture.name().to_owned(),
            ];
            fields.extend(times.map(|us| number(us / 1e6)));
            fields.extend([
                outcome.rounds.to_string(),
                number(point.epoch_us / 1e6),
                number(point.epoch_usd),
                outcome.loss_us.map_or_else(String::new, |us| number(us / 1e6)),
                number(outcome.total_us / 1e6),
                number(outcome.undisturbed_us / 1e6),
                number(outcome.functions_usd),
                number(outcome.machines_usd),
                number(outcome.usd()),
                wins.0.to_string(),
                wins.1.to_string(),
            ]);
            fields.join(",")
        }));
        lines.join("\n")
    }

    /// Whether a point is the quickest and the cheapest of those with as many peers.
    fn wins(&self, point: &Point) -> (bool, bool) {
        let cell = self.cells.iter().find(|cell| {
            cell.peers == Some(point.peers)
                && cell.model == point.model
                && cell.local_steps == point.local_steps
                && cell.rate == point.rate
        });
        let is = |best: Option<Best>| best.is_some_and(|best| best.architecture == point.architecture);
        cell.map_or((false, false), |cell| (is(cell.quickest), is(cell.cheapest)))
    }

    pub(crate) fn document(&self) -> Value {
        let setup = self.setup;
        let constants: Vec<_> = setup.constants.list().into_iter().chain(setup.failures.list()).collect();
        json!({
            "version": VERSION, "label": "projected",
            "inputs": self.inputs,
            "setup": {
                "models": setup.models, "peers": setup.peers, "local_steps": setup.local_steps,
                "failures_per_hour": setup.rates, "units_per_round": setup.units_per_round, "epochs": setup.epochs, "speed": setup.speed,
                "machine": setup.machine, "memory_mb": setup.memory_mb, "tariff": setup.tariff,
            },
            "constants": constants,
            "published": self.rows,
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
            "cells": self.cells.iter().map(cell).collect::<Vec<_>>(),
            "left_out": self.left_out,
        })
    }
}

fn point(point: &Point) -> Value {
    let (outcome, usual) = (&point.outcome, &point.outcome.usual);
    json!({
        "model": point.model, "local_steps": point.local_steps, "peers": point.peers, "failures_per_hour": point.rate,
        "architecture": point.architecture, "functions": usual.functions, "function_memory_mb": usual.memory_mb,
        "machines": point.architecture.machines(point.peers),
        "round_s": usual.round_us() / 1e6, "compute_s": usual.compute_us / 1e6,
        "exchange_s": usual.exchange_us / 1e6, "peer_s": usual.peer_us / 1e6, "start_s": usual.start_us / 1e6,
        "rounds": outcome.rounds, "epoch_s": point.epoch_us / 1e6, "epoch_usd": point.epoch_usd,
        "lost_per_failure_s": outcome.loss_us.map(|us| us / 1e6), "run_s": finite(outcome.total_us / 1e6),
        "run_without_failures_s": outcome.undisturbed_us / 1e6, "functions_usd": finite(outcome.functions_usd),
        "machines_usd": finite(outcome.machines_usd), "total_usd": finite(outcome.usd()),
    })
}

fn cell(cell: &Cell) -> Value {
    let best = |best: Option<Best>| {
        best.map(|best| {
            json!({
                "architecture": best.architecture, "peers": best.peers, "run_s": best.total_us / 1e6,
                "total_usd": finite(best.usd),
                "next": best.lead.map(|(architecture, times)| json!({ "architecture": architecture, "times": times })),
            })
        })
    };
    json!({
        "model": cell.model, "local_steps": cell.local_steps, "peers": cell.peers, "failures_per_hour": cell.rate,
        "quickest": best(cell.quickest), "cheapest": best(cell.cheapest),
    })
}

/// JSON has no number for what never ends.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// For CSV: empty where there is no number.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.6}") } else { String::new() }
}

fn megabytes(elements: u64) -> String {
    format!("{:.1}", 4e-6 * elements as f64)
}

fn seconds(us: f64) -> String {
    match us / 1e6 {
        seconds if !seconds.is_finite() => "never".to_owned(),
        seconds if seconds < 10.0 => format!("{seconds:.3} s"),
        seconds if seconds < 1e6 => format!("{} s", thousands(seconds.round() as u64)),
        seconds => format!("{seconds:.1e} s"),
    }
}

fn dollars(usd: f64) -> String {
    match usd {
        usd if !usd.is_finite() => "-".to_owned(),
        usd if usd < 1e6 => format!("{usd:.4}"),
        usd => format!("{usd:.1e}"),
    }
}

/// Four digits that say something.
fn significant(value: f64) -> String {
    let digits = 3 - value.abs().max(1e-9).log10().floor() as i32;
    let digits = usize::try_from(digits.max(0)).unwrap_or_default();
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_what_never_ends_says_so() {
        assert_eq!(
            [0.03567, 258.0, 41.2, 97.34, 0.0066507].map(significant),
            ["0.03567", "258", "41.2", "97.34", "0.006651"]
        );
        assert_eq!(
            [1.5e6, 12.4e6, 4e9, 1e15, f64::INFINITY].map(seconds),
            ["1.500 s", "12 s", "4,000 s", "1.0e9 s", "never"]
        );
        assert_eq!([0.5, f64::INFINITY].map(dollars), ["0.5000", "-"]);
        assert_eq!([number(0.5), number(f64::INFINITY)], ["0.500000", ""]);
        assert_eq!((finite(1.0), finite(f64::INFINITY)), (Some(1.0), None));
    }
}
