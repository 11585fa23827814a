//! Lanes over time: who was there when.

use crate::axis::{Axis, Fitted};
use crate::layout::{self, LINE, SAMPLE};
use crate::line::{Mark, no_data, x_ticks};
use crate::style::Fills;
use crate::svg::{Anchor, Canvas};

const LANE: f64 = 20.0;
const BETWEEN: f64 = 8.0;

/// What a peer is during a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpanKind {
    /// It takes part.
    #[default]
    Alive,
    /// It is dead, or has not begun.
    Dead,
    /// It lives and takes a state from others, or does rounds again.
    CatchingUp,
    /// Its process is stopped, or it is silent.
    Stopped,
    /// It has the final state.
    Finished,
}

impl SpanKind {
    const ALL: [Self; 5] = [Self::Alive, Self::Dead, Self::CatchingUp, Self::Stopped, Self::Finished];

    /// Its name in the legend.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::CatchingUp => "catching up",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }

    /// The fill that it has; `None` for that of what is not there.
    fn fill(self) -> Option<usize> {
        match self {
            Self::Alive => Some(0),
            Self::Dead => None,
            Self::CatchingUp => Some(1),
            Self::Finished => Some(2),
            Self::Stopped => Some(3),
        }
    }
}

/// A time in a lane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Span {
    /// When it begins, on the axis.
    pub from: f64,
    /// When it ends.
    pub to: f64,
    /// What the peer is.
    pub kind: SpanKind,
    /// What else is to be said; shown where there is room, and when it is pointed at.
    pub label: String,
}

/// A lane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Whose it is.
    pub name: String,
    /// Its spans. Later ones lie over earlier ones.
    pub spans: Vec<Span>,
}

/// Lanes over time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// What it shows.
    pub title: String,
    /// The axis of time.
    pub x: Axis,
    /// One lane a peer.
    pub rows: Vec<Row>,
    /// Vertical lines.
    pub marks: Vec<Mark>,
    /// Width in CSS pixels; the height follows.
    pub width: u32,
}

impl Timeline {
    /// The chart as an `<svg>` element.
    #[must_use]
    pub fn svg(&self) -> String {
        let width = f64::from(self.width.max(120));
        let mut canvas = Canvas::default();
        let top = layout::title(&mut canvas, &self.title, width);
        let drawn = self.spans().next().is_some();
        let ends = self.spans().flat_map(|span| [span.from, span.to]);
        let times = ends.chain(self.marks.iter().map(|mark| mark.at));
        let bottom = match self.x.fit(times, (width / 90.0) as usize, false).filter(|_| drawn) {
            Some(axis) => self.draw(&mut canvas, &axis, top, width),
            None => no_data(&mut canvas, top, width),
        };
        canvas.finish(width, bottom, &self.title, &self.description())
    }

    fn spans(&self) -> impl Iterator<Item = &Span> {
        let takes = |span: &&Span| self.x.takes(span.from) && self.x.takes(span.to) && span.from <= span.to;
        self.rows.iter().flat_map(|row| &row.spans).filter(takes)
    }

    fn description(&self) -> String {
        let names: Vec<&str> = self.rows.iter().map(|row| row.name.as_str()).collect();
        format!("One lane over {} for each of {}", self.x.label, names.join(", "))
    }

    fn draw(&self, canvas: &mut Canvas, axis: &Fitted, top: f64, width: f64) -> f64 {
        let fills = Fills::new(&self.title, self.width);
        canvas.push(&fills.definitions(4));
        let names = self.rows.iter().map(|row| layout::width(&row.name, 12.0)).fold(0.0, f64::max);
        let (left, right) = ((names + 10.0).min(0.3 * width), width - 14.0);
        let place = |value: f64| left + axis.place(value).clamp(0.0, 1.0) * (right - left);
        let shown = self.marks.iter().filter(|mark| axis.holds(mark.at));
        let marks: Vec<(f64, String)> = shown.map(|mark| (place(mark.at), mark.label.clone())).collect();
        let (placed, without) = layout::place_labels(&marks, left, right);
        let lanes = top + if without > 0 { LINE } else { 0.0 };
        if let Some(text) = layout::without_label(without) {
            canvas.text(width, top + 10.0, Anchor::End, "pc-count", &text);
        }
        let plot = lanes + layout::lanes_height(&placed) + 6.0;
        let bottom = plot + self.rows.len() as f64 * (LANE + BETWEEN);
        for (index, row) in self.rows.iter().enumerate() {
            let y = plot + index as f64 * (LANE + BETWEEN);
            canvas.text(left - 8.0, y + 14.0, Anchor::End, "pc-category", &layout::cut(&row.name, left - 8.0, 12.0));
            self.draw_row(canvas, row, &fills, &place, y);
        }
        layout::draw_marks(canvas, &marks, &placed, lanes, plot, bottom);
        canvas.line((left, bottom), (right, bottom), "pc-axis");
        x_ticks(canvas, axis, place, bottom);
        canvas.text((left + right) / 2.0, bottom + 16.0 + LINE, Anchor::Middle, "pc-label", &self.x.label);
        layout::legend(canvas, &self.legend(&fills), bottom + 16.0 + LINE + 12.0, width) + 2.0
    }

    fn draw_row(&self, canvas: &mut Canvas, row: &Row, fills: &Fills, place: &impl Fn(f64) -> f64, y: f64) {
        let takes = |span: &&Span| self.x.takes(span.from) && self.x.takes(span.to) && span.from <= span.to;
        for span in row.spans.iter().filter(takes) {
            let (from, to) = (place(span.from), place(span.to));
            let label = if span.label.is_empty() { String::new() } else { format!(": {}", span.label) };
            let title = format!("{} {}{label}", row.name, span.kind.name());
            // A moment is still seen.
            let size = ((to - from).max(1.5), LANE);
            canvas.bar((from, y), size, class(span.kind), &fill(fills, span.kind), &title);
            if !span.label.is_empty() && layout::width(&span.label, 11.0) + 8.0 <= to - from {
                canvas.text((from + to) / 2.0, y + 14.0, Anchor::Middle, "pc-spantext", &span.label);
            }
        }
    }

    /// Of the kinds that there are.
    fn legend(&self, fills: &Fills) -> Vec<(String, &'static str)> {
        let there = |kind: &SpanKind| self.spans().any(|span| span.kind == *kind);
        let sample = |kind| {
            let (class, fill) = (class(kind), fill(fills, kind));
            format!("<rect width=\"{SAMPLE}\" height=\"12\" class=\"{class}\" fill=\"url(#{fill})\"/>")
        };
        SpanKind::ALL.into_iter().filter(there).map(|kind| (sample(kind), kind.name())).collect()
    }
}

fn class(kind: SpanKind) -> &'static str {
    if kind == SpanKind::Dead { "pc-dead" } else { "pc-bar" }
}

fn fill(fills: &Fills, kind: SpanKind) -> String {
    kind.fill().map_or_else(|| fills.dead(), |index| fills.id(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let span = |from, to, kind, label: &str| Span { from, to, kind, label: label.into() };
        Timeline {
            title: "Recovery".into(),
            x: Axis { label: "time (s)".into(), ..Axis::default() },
            rows: vec![
                Row { name: "peer 1".into(), spans: vec![span(0.0, 10.0, SpanKind::Alive, "")] },
                Row {
                    name: "peer 2".into(),
                    spans: vec![span(0.0, 4.0, SpanKind::Alive, ""), span(4.0, 8.0, SpanKind::Dead, "killed")],
                },
            ],
            marks: vec![Mark { at: 4.0, label: "kill:2@30".into() }],
            width: 700,
        }
    }

    #[test]
    fn lanes_have_names_spans_marks_and_a_legend_of_what_there_is() {
        let svg = timeline().svg();
        for text in [">peer 1<", ">peer 2<", ">killed<", ">kill:2@30<", ">alive<", ">dead<", ">time (s)<"] {
            assert!(svg.contains(text), "{text}\n{svg}");
        }
        assert!(!svg.contains("catching up"));
    }

    #[test]
    fn spans_that_cannot_be_drawn_are_left_out() {
        let mut chart = timeline();
        for row in &mut chart.rows {
            for span in &mut row.spans {
                (span.from, span.to) = (f64::NAN, span.to);
            }
        }
        assert!(chart.svg().contains("no data"));
        chart.rows[0].spans[0] = Span { from: 3.0, to: 1.0, ..Span::default() };
        assert!(chart.svg().contains("no data"), "ends before it begins");
        assert!(Timeline::default().svg().contains("no data"));
    }
}
