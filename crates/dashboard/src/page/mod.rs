//! The page: one document, of which the server sends the parts that change.

mod charts;
mod sections;
mod text;
mod topology;

use std::collections::BTreeMap;

use crate::snapshot::Snapshot;

/// The page's style sheet.
pub const STYLE: &str = include_str!("dashboard.css");
/// The charts' style sheet.
pub const CHART_STYLE: &str = peerless_charts::STYLE;
/// The page's script: puts in what the server sends, and says when it sends nothing.
pub const SCRIPT: &str = include_str!("dashboard.js");
/// The page's icon: three peers.
pub const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\"><path d=\"M16 7L7 24h18z\" \
    fill=\"none\" stroke=\"#0072b2\" stroke-width=\"2\"/><g fill=\"#0072b2\"><circle cx=\"16\" cy=\"7\" r=\"5\"/>\
    <circle cx=\"7\" cy=\"24\" r=\"5\"/><circle cx=\"25\" cy=\"24\" r=\"5\"/></g></svg>";
/// What a browser gets for a token: it goes on by itself, with the cookie.
pub const ADMITTED: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Peerless</title>\
    <meta http-equiv=\"refresh\" content=\"0;url=/\"><p>The token is right. <a href=\"/\">Go on to the dashboard</a>";

const DOCUMENT: &str = include_str!("dashboard.html");

/// Widths of charts in CSS pixels: of one of two columns, and of a whole line. Charts are drawn for a width, as letters
/// of one that is scaled down cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    column: u32,
    line: u32,
}

impl Widths {
    /// What a page asks for; without it, what fits everywhere.
    pub fn new(column: Option<u32>, line: Option<u32>) -> Self {
        let column = column.unwrap_or(330).clamp(260, 1_600);
        Self { column, line: line.unwrap_or(column).clamp(260, 2_400) }
    }
}

/// The contents of the elements that change, by id.
pub fn parts(snapshot: &Snapshot, widths: Widths) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("headline", sections::headline(snapshot)),
        ("problems", sections::problems(snapshot)),
        ("run", sections::run(snapshot)),
        ("figures", sections::figures(snapshot)),
        ("topology", topology::picture(snapshot, widths.column)),
        ("peers", sections::peers(snapshot)),
        ("loss", charts::loss(snapshot, widths.column)),
        ("accuracy", charts::accuracy(snapshot, widths.column)),
        ("times", charts::times(snapshot, widths.line)),
        ("functions", sections::functions(snapshot)),
        ("bill", sections::bill(snapshot)),
        ("lives", charts::lives(snapshot, widths.line)),
        ("stories", sections::stories(snapshot)),
    ])
}

/// The whole page as it is now.
pub fn page(snapshot: &Snapshot, widths: Widths) -> String {
    let parts = parts(snapshot, widths);
    let mut page = String::with_capacity(64 * 1024);
    // Places are looked for in the document alone, never in what was put in.
    let mut pieces = DOCUMENT.split("{{");
    page.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or(("", piece));
        page.push_str(parts.get(name).map_or("", String::as_str));
        page.push_str(rest);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_element() {
        let snapshot = crate::RunReader::new("/nonexistent".into()).read();
        for part in parts(&snapshot, Widths::new(None, None)).keys() {
            assert!(DOCUMENT.contains(&format!("id=\"{part}\"")), "{part}");
            assert!(DOCUMENT.contains(&format!("{{{{{part}}}}}")), "{part}");
        }
    }
}
