//! Data on stdout, talk on stderr.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use serde::Serialize;

/// Writes data to stdout. Unlike `println!`, a closed pipe is an error and not a panic.
pub(crate) fn data(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).context("cannot write to stdout")?;
    stdout.flush().context("cannot write to stdout")
}

/// Writes a value to stdout as JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    data(&serde_json::to_string_pretty(value)?)
}

/// Says something to a person. A stderr that nobody reads is no reason to stop.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says something with a label such as `error` in front of it.
pub(crate) fn label(label: &str, text: &str) {
    let (bold, plain) = if stderr_has_colour() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    say(&format!("{bold}{label}:{plain} {text}"));
}

/// Whether stderr is a terminal that may be written to in colour (<https://no-color.org>).
pub(crate) fn stderr_has_colour() -> bool {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !no_colour && !dumb
}

/// How a column of a table is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table with aligned columns, two spaces apart.
pub(crate) fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let lines = || std::iter::once(&head).chain(rows);
    let width = |index: usize| lines().filter_map(|row| row.get(index)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|index| width(index).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(columns).zip(&widths).map(|((cell, (_, align)), &width)| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A number with commas between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A fraction as a percentage with two digits behind the point.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".into(), "12".into()], vec!["bcd".into(), "3".into()]];
        let text = table(&[("x", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(text, "x     n\na    12\nbcd   3");
    }

    #[test]
    fn thousands_are_separated() {
        let written: Vec<String> = [0, 999, 1000, 12_345, 1_234_567].map(thousands).into();
        assert_eq!(written, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }
}
