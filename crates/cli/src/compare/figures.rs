//! Figures of a cell: medians over its repetitions, and how far they are spread.

use serde::Serialize;

use super::cells::{Cell, Comparison};
use super::outcome::{Measured, Outcome};
use crate::output::thousands;

/// Repetitions from which on least and most are shown besides the median.
pub(crate) const SPREAD_FROM: usize = 5;

/// What the repetitions of a cell came to.
#[derive(Debug)]
pub(crate) struct CellResult<'a> {
    pub(crate) cell: &'a Cell,
    /// Outcomes by repetition.
    pub(crate) outcomes: Vec<&'a Outcome>,
}

/// Median, least and most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    /// For `--json`, with the unit.
    pub(crate) key: &'static str,
    /// For people, with the unit.
    pub(crate) head: &'static str,
    pub(crate) of: fn(&Measured) -> Option<f64>,
    pub(crate) show: fn(f64) -> String,
    /// Whether the spread is shown, too.
    pub(crate) spread: bool,
}

/// Time to an accuracy; a column only where one is asked for.
pub(crate) const TARGET: Figure =
    Figure { key: "target_s", head: "to target s", of: |run| run.target_s, show: seconds, spread: true };

/// The other columns.
pub(crate) const FIGURES: [Figure; 11] = [
    Figure { key: "train_s", head: "time s", of: |run| Some(run.train_s), show: seconds, spread: true },
    Figure { key: "stalled_s", head: "stalled s", of: |run| Some(run.stalled_s), show: seconds, spread: true },
    Figure {
        key: "rounds_redone",
        head: "redone",
        of: |run| Some(run.rounds_redone as f64),
        show: count,
        spread: true,
    },
    Figure {
        key: "samples_recomputed",
        head: "recomputed",
        of: |run| Some(run.samples_recomputed as f64),
        show: count,
        spread: true,
    },
    Figure { key: "invocations", head: "calls", of: |run| Some(run.invocations as f64), show: count, spread: false },
    Figure { key: "total_usd", head: "cost $", of: |run| Some(run.total_usd()), show: dollars, spread: false },
    Figure { key: "wasted_usd", head: "wasted $", of: |run| Some(run.wasted_usd), show: dollars, spread: false },
    Figure {
        key: "peer_memory_bytes",
        head: "peer MiB",
        of: |run| Some(run.peer_memory as f64),
        show: mib,
        spread: false,
    },
    Figure {
        key: "function_memory_bytes",
        head: "function MiB",
        of: |run| Some(run.function_memory as f64),
        show: mib,
        spread: false,
    },
    Figure { key: "bytes_sent", head: "sent MB", of: |run| Some(run.bytes_sent as f64), show: mb, spread: false },
    Figure { key: "test_accuracy", head: "accuracy %", of: |run| run.test_accuracy, show: percent, spread: false },
];

impl<'a> CellResult<'a> {
    /// The results of all cells, from outcomes in the order of the comparison's runs.
    pub(crate) fn all(comparison: &'a Comparison, outcomes: &'a [Outcome]) -> Vec<Self> {
        let mut results: Vec<Self> = comparison.cells.iter().map(|cell| Self { cell, outcomes: Vec::new() }).collect();
        for (run, outcome) in comparison.runs.iter().zip(outcomes) {
            results[run.cell].outcomes.push(outcome);
        }
        results
    }

    /// The runs that ended well.
    pub(crate) fn measured(&self) -> impl Iterator<Item = &'a Measured> {
        self.outcomes.iter().copied().filter_map(|outcome| outcome.result.as_ref().ok())
    }

    /// Why the others did not.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let failure =
            |(index, outcome): (usize, &&'a Outcome)| Some((index + 1, outcome.result.as_ref().err()?.as_str()));
        self.outcomes.iter().enumerate().filter_map(failure)
    }

    pub(crate) fn spread(&self, figure: &Figure) -> Option<Spread> {
        Spread::of(self.measured().filter_map(figure.of).collect())
    }

    /// The run that is shown where one has to stand for all: the one with the median time.
    pub(crate) fn typical(&self) -> Option<&'a Measured> {
        let mut runs: Vec<&Measured> = self.measured().collect();
        runs.sort_by(|a, b| a.train_s.total_cmp(&b.train_s));
        runs.get(runs.len().saturating_sub(1) / 2).copied()
    }

    /// A figure for people: `12.3 (11.9–13.0)` from [`SPREAD_FROM`] repetitions on.
    pub(crate) fn show(&self, figure: &Figure) -> String {
        let values = self.measured().filter_map(figure.of).count();
        match self.spread(figure) {
            None => "-".to_owned(),
            Some(Spread { median, min, max }) if figure.spread && values >= SPREAD_FROM => {
                format!("{} ({}–{})", (figure.show)(median), (figure.show)(min), (figure.show)(max))
            }
            Some(Spread { median, .. }) => (figure.show)(median),
        }
    }
}

impl Spread {
    /// `None` without values.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

fn seconds(value: f64) -> String {
    format!("{value:.2}")
}

fn count(value: f64) -> String {
    thousands(value.round() as u64)
}

/// Three significant digits, as costs of one run are small.
pub(crate) fn dollars(value: f64) -> String {
    if value <= 0.0 {
        return "0".to_owned();
    }
    let digits = (2.0 - value.log10().floor()).clamp(2.0, 10.0) as usize;
    format!("{value:.digits$}")
}

fn mib(value: f64) -> String {
    format!("{:.0}", value / f64::from(1 << 20))
}

fn mb(value: f64) -> String {
    format!("{:.1}", value / 1e6)
}

fn percent(value: f64) -> String {
    format!("{:.2}", 100.0 * value)
}

#[cfg(test)]
mod tests {
    use peerless_protocol::Digest;

    use super::*;

    fn outcome(train_s: f64) -> Outcome {
        Outcome::new(&[], Digest::of(b""), train_s, Ok(Measured { train_s, ..Measured::default() }))
    }

    #[test]
    fn medians_are_in_the_middle() {
        let median = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.median);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn spreads_are_shown_from_five_repetitions_on_and_failed_runs_do_not_count() {
        let cell = Cell {
            topology: "p2p".into(),
            compute: "functions".into(),
            model: "lenet5".into(),
            peers: 1,
            batch_size: 1,
            fault: "none".into(),
        };
        let mut outcomes: Vec<Outcome> = (1..=5).map(|time| outcome(f64::from(time))).collect();
        outcomes.push(Outcome::new(&[], Digest::of(b""), 9.0, Err("died".into())));
        let result = CellResult { cell: &cell, outcomes: outcomes.iter().collect() };
        assert_eq!(result.show(&FIGURES[0]), "3.00 (1.00–5.00)");
        assert_eq!(result.typical().unwrap().train_s, 3.0);
        assert_eq!(result.failures().collect::<Vec<_>>(), [(6, "died")]);
        let few = CellResult { cell: &cell, outcomes: outcomes.iter().take(2).collect() };
        assert_eq!(few.show(&FIGURES[0]), "1.50");
        let none = CellResult { cell: &cell, outcomes: outcomes.iter().skip(5).collect() };
        assert_eq!((none.show(&FIGURES[0]).as_str(), none.typical()), ("-", None));
    }

    #[test]
    fn dollars_have_three_digits_that_say_something() {
        assert_eq!([0.0, 0.001_234_5, 1.5, 12.0].map(dollars), ["0", "0.00123", "1.50", "12.00"]);
    }
}
