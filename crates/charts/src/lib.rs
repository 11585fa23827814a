//! Charts as SVG text: pure functions from data to `<svg>` elements that stand in a page with [`STYLE`].
//!
//! Series differ by dash and marker and bars by hatch besides colour, so that a chart is readable in grey. Text of the
//! caller is escaped. Values that cannot be drawn (NaN, infinities, beyond 10^300) are left out, and a chart without
//! data says so. There is no script, no external asset and no dependency.

mod axis;
mod bars;
mod layout;
mod line;
mod number;
mod style;
mod svg;
mod thin;
mod timeline;

pub use axis::{Axis, Scale};
pub use bars::{Part, StackedBars};
pub use line::{LineChart, Mark, Series};
pub use style::STYLE;
pub use svg::escape;
pub use timeline::{Row, Span, SpanKind, Timeline};

/// Width of a chart on a laptop, in CSS pixels.
pub const WIDE: u32 = 880;
/// Width of a chart on a phone, in CSS pixels.
pub const NARROW: u32 = 356;

/// A chart for laptops and one for phones, of which [`STYLE`] shows the one that fits: a chart that is only scaled down
/// has letters that nobody can read. `draw` gets the width in CSS pixels.
#[must_use]
pub fn responsive(draw: impl Fn(u32) -> String) -> String {
    format!("<div class=\"pc-wide\">{}</div><div class=\"pc-narrow\">{}</div>", draw(WIDE), draw(NARROW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_responsive_chart_is_drawn_at_both_widths() {
        let page = responsive(|width| format!("[{width}]"));
        assert_eq!(page, "<div class=\"pc-wide\">[880]</div><div class=\"pc-narrow\">[356]</div>");
    }

    #[test]
    fn every_class_of_a_series_has_a_colour_in_light_and_dark() {
        for index in 0..style::COLOURS {
            let variable = format!("--pc-{}:", index + 1);
            assert_eq!(STYLE.matches(&variable).count(), 2, "{variable}");
        }
    }
}
