//! Lines over a common axis, with vertical marks.

use crate::axis::{Axis, Fitted};
use crate::layout::{self, LINE, Placed, SAMPLE};
use crate::style;
use crate::svg::{Anchor, Canvas};
use crate::thin::thin;

/// A line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// x and y in the order in which they are joined. A point that cannot be drawn leaves a gap.
    pub points: Vec<(f64, f64)>,
}

/// A vertical line with a label, such as a fault. One that is outside of a given range is left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mark {
    /// Its x.
    pub at: f64,
    /// What it is.
    pub label: String,
}

/// Lines over a common axis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LineChart {
    /// What it shows.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines. The first ones have the colours that are told apart best.
    pub series: Vec<Series>,
    /// Vertical lines.
    pub marks: Vec<Mark>,
    /// Width in CSS pixels; the height follows.
    pub width: u32,
}

/// Where the lines are, in pixels.
struct Plot {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Fitted,
    y: Fitted,
}

impl Plot {
    fn x(&self, value: f64) -> f64 {
        self.left + self.x.place(value) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - self.y.place(value) * (self.bottom - self.top)
    }
}

impl LineChart {
    /// The chart as an `<svg>` element.
    #[must_use]
    pub fn svg(&self) -> String {
        let width = f64::from(self.width.max(120));
        let mut canvas = Canvas::default();
        let top = layout::title(&mut canvas, &self.title, width);
        let bottom = match self.axes(width) {
            Some((x, y)) => self.draw(&mut canvas, x, y, top, width),
            None => no_data(&mut canvas, top, width),
        };
        canvas.finish(width, bottom, &self.title, &self.description())
    }

    fn description(&self) -> String {
        let names: Vec<&str> = self.series.iter().map(|series| series.name.as_str()).collect();
        let marks = if self.marks.is_empty() { String::new() } else { format!(", with {} marks", self.marks.len()) };
        format!("Lines of {} over {}: {}{marks}", self.y.label, self.x.label, names.join(", "))
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        let takes = |&(x, y): &(f64, f64)| self.x.takes(x) && self.y.takes(y);
        self.series.iter().flat_map(|series| series.points.iter().copied()).filter(takes)
    }

    fn axes(&self, width: f64) -> Option<(Fitted, Fitted)> {
        let y = self.y.fit(self.points().map(|(_, y)| y), 5, true)?;
        let marks = self.marks.iter().map(|mark| mark.at);
        let x = self.x.fit(self.points().map(|(x, _)| x).chain(marks), (width / 90.0) as usize, false)?;
        Some((x, y))
    }

    fn draw(&self, canvas: &mut Canvas, x: Fitted, y: Fitted, top: f64, width: f64) -> f64 {
        let ticks = y.ticks.iter().map(|(_, label)| layout::width(label, 11.0)).fold(0.0, f64::max);
        let (left, right) = (ticks + 10.0, width - 14.0);
        let mut plot = Plot { left, right, top, bottom: 0.0, x, y };
        let shown = self.marks.iter().filter(|mark| plot.x.holds(mark.at));
        let marks: Vec<(f64, String)> = shown.map(|mark| (plot.x(mark.at), mark.label.clone())).collect();
        let (placed, without) = layout::place_labels(&marks, left, right);
        let lanes = self.heading(canvas, &placed, without, top, width);
        plot.top = lanes + layout::lanes_height(&placed) + 10.0;
        plot.bottom = plot.top + (width * 0.36).clamp(170.0, 300.0);
        grid(canvas, &plot);
        layout::draw_marks(canvas, &marks, &placed, lanes, plot.top, plot.bottom);
        for (index, series) in self.series.iter().enumerate() {
            self.draw_series(canvas, &plot, index, series);
        }
        let below = plot.bottom + 16.0;
        let label = layout::cut(&self.x.label, width - left, 12.0);
        canvas.text((left + right) / 2.0, below + LINE, Anchor::Middle, "pc-label", &label);
        let items: Vec<(String, &str)> =
            self.series.iter().enumerate().map(|(index, series)| (sample(index), series.name.as_str())).collect();
        layout::legend(canvas, &items, below + LINE + 12.0, width) + 2.0
    }

    /// The vertical axis' label, and how many marks have none; returns where labels of marks may begin.
    fn heading(&self, canvas: &mut Canvas, placed: &[Placed], without: usize, top: f64, width: f64) -> f64 {
        let mut y = top + 12.0;
        canvas.text(0.0, y, Anchor::Start, "pc-label", &layout::cut(&self.y.label, width, 12.0));
        if let Some(text) = layout::without_label(without) {
            if layout::width(&text, 12.0) + layout::width(&self.y.label, 12.0) + 20.0 > width {
                y += LINE;
            }
            canvas.text(width, y, Anchor::End, "pc-count", &text);
        }
        y + if placed.is_empty() { 0.0 } else { 6.0 }
    }

    fn draw_series(&self, canvas: &mut Canvas, plot: &Plot, index: usize, series: &Series) {
        let inside = |&(x, y): &(f64, f64)| self.x.takes(x) && self.y.takes(y) && plot.x.holds(x) && plot.y.holds(y);
        let runs = series.points.split(|point| !inside(point)).filter(|run| !run.is_empty());
        let lines: Vec<Vec<(f64, f64)>> =
            runs.map(|run| thin(&run.iter().map(|&(x, y)| (plot.x(x), plot.y(y))).collect::<Vec<_>>())).collect();
        if lines.is_empty() {
            return;
        }
        let data: String = lines.iter().map(|line| path(line)).collect();
        let name = crate::svg::escape(&series.name);
        let (colour, dashes) = (style::colour(index), style::dashes(index));
        canvas.push(&format!(
            "<g><title>{name}</title><path d=\"{data}\" class=\"pc-line pc-s{colour}\"{dashes}/>{}</g>",
            markers(&lines, index)
        ));
    }
}

pub(crate) fn no_data(canvas: &mut Canvas, top: f64, width: f64) -> f64 {
    canvas.text(width / 2.0, top + 40.0, Anchor::Middle, "pc-label", "no data");
    top + 70.0
}

fn grid(canvas: &mut Canvas, plot: &Plot) {
    for (value, label) in &plot.y.ticks {
        let y = plot.y(*value);
        canvas.line((plot.left, y), (plot.right, y), "pc-grid");
        canvas.text(plot.left - 6.0, y + 4.0, Anchor::End, "pc-tick", label);
    }
    canvas.line((plot.left, plot.bottom), (plot.right, plot.bottom), "pc-axis");
    x_ticks(canvas, &plot.x, |value| plot.x(value), plot.bottom);
}

/// Ticks below `bottom`; a label that would lie over the one before is left out.
pub(crate) fn x_ticks(canvas: &mut Canvas, axis: &Fitted, place: impl Fn(f64) -> f64, bottom: f64) {
    let mut free_from = f64::NEG_INFINITY;
    for (value, label) in &axis.ticks {
        let (x, half) = (place(*value), layout::width(label, 11.0) / 2.0);
        canvas.line((x, bottom), (x, bottom + 4.0), "pc-axis");
        let x = x.max(half);
        if x - half >= free_from {
            canvas.text(x, bottom + 16.0, Anchor::Middle, "pc-tick", label);
            free_from = x + half + 6.0;
        }
    }
}

fn path(points: &[(f64, f64)]) -> String {
    let step = |(index, (x, y)): (usize, &(f64, f64))| format!("{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
    points.iter().enumerate().map(step).collect()
}

/// Markers that are at least so many pixels apart, beginning elsewhere on each line.
fn markers(lines: &[Vec<(f64, f64)>], index: usize) -> String {
    const APART: f64 = 56.0;
    let few = lines.iter().map(Vec::len).sum::<usize>() <= 24;
    let mut last = f64::NEG_INFINITY;
    let mut markers = String::new();
    for (number, &point) in lines.iter().flatten().enumerate() {
        if number == 0 && !few {
            last = point.0 - APART + 13.0 * (index % 4) as f64;
        }
        if few || (point.0 - last).abs() >= APART {
            markers += &style::marker(index, point);
            last = point.0;
        }
    }
    markers
}

fn sample(index: usize) -> String {
    let (colour, dashes) = (style::colour(index), style::dashes(index));
    let marker = style::marker(index, (SAMPLE / 2.0, 6.0));
    format!("<path d=\"M0 6h{SAMPLE}\" class=\"pc-line pc-s{colour}\"{dashes}/>{marker}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axis::Scale;

    fn chart(points: &[(f64, f64)]) -> LineChart {
        LineChart {
            title: "Accuracy".into(),
            x: Axis { label: "time (s)".into(), ..Axis::default() },
            y: Axis { label: "accuracy (%)".into(), ..Axis::default() },
            series: vec![Series { name: "p2p".into(), points: points.to_vec() }],
            marks: Vec::new(),
            width: 600,
        }
    }

    #[test]
    fn a_chart_has_its_title_labels_and_names() {
        let svg = chart(&[(0.0, 10.0), (1.0, 90.0)]).svg();
        for part in
            ["role=\"img\"", "aria-label=\"Accuracy. Lines of accuracy (%) over time (s): p2p\"", "<title>Accuracy"]
        {
            assert!(svg.contains(part), "{part}\n{svg}");
        }
        for text in [">time (s)<", ">accuracy (%)<", ">p2p<", ">100<"] {
            assert!(svg.contains(text), "{text}\n{svg}");
        }
    }

    #[test]
    fn nothing_to_draw_is_said() {
        assert!(LineChart::default().svg().contains("no data"));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
            assert!(chart(&[(bad, 1.0), (1.0, bad)]).svg().contains("no data"), "{bad}");
        }
        let mut log = chart(&[(0.0, 1.0), (-1.0, 1.0)]);
        log.x.scale = Scale::Log10;
        assert!(log.svg().contains("no data"));
    }

    #[test]
    fn a_point_that_cannot_be_drawn_leaves_a_gap() {
        let svg = chart(&[(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, 2.0)]).svg();
        let path = svg.lines().find(|line| line.contains("pc-line")).unwrap();
        let data = path.split("d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(data.matches('M').count(), 2, "{data}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn many_points_are_thinned_to_the_width() {
        let points: Vec<(f64, f64)> = (0..100_000).map(|index| (f64::from(index), f64::from(index % 97))).collect();
        let svg = chart(&points).svg();
        assert!(svg.len() < 60_000, "{}", svg.len());
    }

    #[test]
    fn marks_are_drawn_where_they_belong_and_outside_ones_are_not() {
        let mut chart = chart(&[(0.0, 1.0), (10.0, 2.0)]);
        chart.x.range = Some((0.0, 10.0));
        let mark = |at, label: &str| Mark { at, label: label.into() };
        chart.marks = vec![mark(5.0, "kill 1"), mark(50.0, "later"), mark(f64::NAN, "never")];
        let svg = chart.svg();
        assert!(svg.contains(">kill 1<") && !svg.contains("later") && !svg.contains("never"), "{svg}");
        chart.marks = (0..200).map(|at| mark(f64::from(at) / 20.0, "kill a peer")).collect();
        assert!(chart.svg().contains("more marks without a label"));
    }

    #[test]
    fn marks_alone_widen_the_axis_but_make_no_chart() {
        let mut chart = chart(&[(0.0, 1.0), (1.0, 2.0)]);
        chart.marks = vec![Mark { at: 8.0, label: "kill".into() }];
        assert!(chart.svg().contains(">8<") || chart.svg().contains(">8.0<"));
        chart.series.clear();
        assert!(chart.svg().contains("no data"));
    }

    #[test]
    fn no_width_is_too_small() {
        let mut chart = chart(&[(0.0, 1.0), (1.0, 2.0)]);
        for width in [0, 1, 50, 356] {
            chart.width = width;
            assert!(chart.svg().starts_with("<svg"));
        }
    }
}
