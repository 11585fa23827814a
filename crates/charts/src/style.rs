//! Colours, dashes, markers and hatches.

use std::fmt::Write;

/// Colours that a series can have before they repeat, with another dash.
pub(crate) const COLOURS: usize = 8;

/// The style sheet of all charts, for light and dark pages. Colours come from variables (`--pc-1` to `--pc-8`, `--pc-text`,
/// `--pc-faint`, `--pc-grid`, `--pc-bg`), which a page may set after it. The colours of series follow Okabe and Ito (jfly.uni-koeln.de/color),
/// darkened or lightened until they stand out from the page by 3 to 1.
pub const STYLE: &str = "\
:root{--pc-1:#0072b2;--pc-2:#c85200;--pc-3:#008060;--pc-4:#b0508a;--pc-5:#946800;--pc-6:#2a86b8;--pc-7:#5f5f5f;--pc-8:#6a3d9a;\
--pc-text:#1c1f23;--pc-faint:#585f66;--pc-grid:#dfe2e6;--pc-bg:#ffffff}
@media (prefers-color-scheme:dark){:root{--pc-1:#56b4e9;--pc-2:#ff9148;--pc-3:#2fc99b;--pc-4:#e59cc8;--pc-5:#f0c040;\
--pc-6:#9fd0f5;--pc-7:#b8b8b8;--pc-8:#bda4f2;--pc-text:#e8eaed;--pc-faint:#a8b0b8;--pc-grid:#3a4048;--pc-bg:#16191d}}
svg.pc{display:block;max-width:100%;height:auto;font:12px system-ui,-apple-system,\"Segoe UI\",\"DejaVu Sans\",sans-serif;fill:var(--pc-text)}
.pc-title{font-size:14px;font-weight:600}
.pc-label,.pc-count{fill:var(--pc-faint)}
.pc-tick{fill:var(--pc-faint);font-size:11px}
.pc-grid{stroke:var(--pc-grid);stroke-width:1}
.pc-axis{stroke:var(--pc-faint);stroke-width:1}
.pc-line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.pc-mark{stroke:var(--pc-text);stroke-width:1;stroke-dasharray:1 3;opacity:.8}
.pc-marktext{font-size:11px}
.pc-bar{stroke:var(--pc-bg);stroke-width:1}
.pc-hatch{stroke:var(--pc-bg);stroke-width:2;fill:none}
.pc-dot{fill:var(--pc-bg);stroke:none}
.pc-dead{stroke:var(--pc-text);stroke-width:1}
.pc-deadhatch{stroke:var(--pc-text);stroke-width:1;fill:none}
.pc-deadback{fill:var(--pc-bg)}
.pc-spantext{font-size:11px;paint-order:stroke;stroke:var(--pc-bg);stroke-width:4px;stroke-linejoin:round}
.pc-s1{stroke:var(--pc-1)}.pc-s2{stroke:var(--pc-2)}.pc-s3{stroke:var(--pc-3)}.pc-s4{stroke:var(--pc-4)}\
.pc-s5{stroke:var(--pc-5)}.pc-s6{stroke:var(--pc-6)}.pc-s7{stroke:var(--pc-7)}.pc-s8{stroke:var(--pc-8)}
.pc-f1{fill:var(--pc-1)}.pc-f2{fill:var(--pc-2)}.pc-f3{fill:var(--pc-3)}.pc-f4{fill:var(--pc-4)}\
.pc-f5{fill:var(--pc-5)}.pc-f6{fill:var(--pc-6)}.pc-f7{fill:var(--pc-7)}.pc-f8{fill:var(--pc-8)}
.pc-m{fill:var(--pc-bg);stroke-width:1.5}
.pc-narrow{display:none}
@media (max-width:640px){.pc-wide{display:none}.pc-narrow{display:block}}
@media print{.pc-wide{display:block}.pc-narrow{display:none}svg.pc{break-inside:avoid;print-color-adjust:exact;-webkit-print-color-adjust:exact}}
";

const DASHES: [&str; 7] = ["", "7 3", "2 4", "10 3 2 3", "4 2", "12 4", "7 2 2 2 2 2"];

/// Number of the colour of a series, from 1.
pub(crate) fn colour(index: usize) -> usize {
    index % COLOURS + 1
}

/// The dashes of a series. As many as colours, less one, so that 56 series differ in the pair.
pub(crate) fn dashes(index: usize) -> String {
    match DASHES[index % DASHES.len()] {
        "" => String::new(),
        dashes => format!(" stroke-dasharray=\"{dashes}\""),
    }
}

/// The marker of a series around a point.
pub(crate) fn marker(index: usize, (x, y): (f64, f64)) -> String {
    let class = format!("pc-m pc-s{}", colour(index));
    match index % 6 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" class=\"{class}\"/>"),
        1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"6\" height=\"6\" class=\"{class}\"/>", x - 3.0, y - 3.0),
        2 => path(&class, &format!("M{:.1} {:.1}l4 7h-8z", x, y - 4.5)),
        3 => path(&class, &format!("M{:.1} {:.1}l4 4-4 4-4-4z", x, y - 4.0)),
        4 => path(&class, &format!("M{:.1} {:.1}l4-7h-8z", x, y + 4.5)),
        _ => path(&class, &format!("M{:.1} {:.1}l7 7m0-7l-7 7", x - 3.5, y - 3.5)),
    }
}

fn path(class: &str, data: &str) -> String {
    format!("<path d=\"{data}\" class=\"{class}\"/>")
}

/// The fills of one chart: a colour and a hatch for each index. Elements of one page share their ids, so these are made
/// from what the chart says.
#[derive(Debug)]
pub(crate) struct Fills {
    prefix: String,
}

impl Fills {
    /// For a chart of this title and width.
    pub(crate) fn new(title: &str, width: u32) -> Self {
        // FNV-1a.
        let hash = title
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { prefix: format!("pc-{hash:016x}-{width}") }
    }

    /// The id of a fill.
    pub(crate) fn id(&self, index: usize) -> String {
        format!("{}-{index}", self.prefix)
    }

    /// The id of the fill for what is not there.
    pub(crate) fn dead(&self) -> String {
        format!("{}-dead", self.prefix)
    }

    /// Definitions of the first `count` fills, and of the one for what is not there.
    pub(crate) fn definitions(&self, count: usize) -> String {
        let mut definitions = String::from("<defs>");
        for index in 0..count {
            let (size, hatch) = hatch(index);
            let _ = write!(
                definitions,
                "<pattern id=\"{}\" patternUnits=\"userSpaceOnUse\" width=\"{size}\" height=\"{size}\">\
                 <rect width=\"{size}\" height=\"{size}\" class=\"pc-f{}\"/>{hatch}</pattern>",
                self.id(index),
                colour(index),
            );
        }
        let _ = write!(
            definitions,
            "<pattern id=\"{}\" patternUnits=\"userSpaceOnUse\" width=\"8\" height=\"8\"><rect width=\"8\" height=\"8\" \
             class=\"pc-deadback\"/><path d=\"M0 0l8 8M8 0l-8 8\" class=\"pc-deadhatch\"/></pattern></defs>",
            self.dead()
        );
        definitions
    }
}

/// The size of the tile and what is drawn on it.
fn hatch(index: usize) -> (u32, &'static str) {
    match index % 6 {
        0 => (8, ""),
        1 => (8, "<path d=\"M-2 2l4-4M0 8l8-8M6 10l4-4\" class=\"pc-hatch\"/>"),
        2 => (6, "<circle cx=\"3\" cy=\"3\" r=\"1.4\" class=\"pc-dot\"/>"),
        3 => (6, "<path d=\"M0 3h6\" class=\"pc-hatch\"/>"),
        4 => (8, "<path d=\"M-2 6l4 4M0 0l8 8M6-2l4 4\" class=\"pc-hatch\"/>"),
        _ => (6, "<path d=\"M3 0v6\" class=\"pc-hatch\"/>"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn series_differ_without_colour() {
        let plain = |index| (dashes(index), marker(index, (0.0, 0.0)).replace(&format!("pc-s{}", colour(index)), ""));
        let looks: BTreeSet<_> = (0..42).map(plain).collect();
        assert_eq!(looks.len(), 42);
    }

    #[test]
    fn fills_of_different_charts_have_different_ids() {
        let ids: BTreeSet<_> =
            [("a", 1), ("a", 2), ("b", 1)].map(|(title, width)| Fills::new(title, width).id(0)).into();
        assert_eq!(ids.len(), 3);
        let fills = Fills::new("a", 1);
        let definitions = fills.definitions(8);
        assert!((0..8).all(|index| definitions.contains(&format!("id=\"{}\"", fills.id(index)))));
    }
}
