//! Horizontal bars of stacked parts.

use crate::axis::{Axis, Fitted, Scale};
use crate::layout::{self, LINE, SAMPLE};
use crate::line::{no_data, x_ticks};
use crate::number::{drawable, short};
use crate::style::Fills;
use crate::svg::{Anchor, Canvas};

const BAR: f64 = 18.0;
/// Below this width labels stand above their bars.
const NARROW: f64 = 520.0;

/// What each bar has of one thing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    /// Its name in the legend.
    pub name: String,
    /// One value a category. What is missing, negative or cannot be drawn counts as nothing.
    pub values: Vec<f64>,
}

/// Horizontal bars, one a category, each of parts in a row. The sum stands behind each bar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StackedBars {
    /// What it shows.
    pub title: String,
    /// The axis of values. It begins at zero and is linear, whatever it says: lengths are compared.
    pub value: Axis,
    /// Labels of the bars; they may be long, and have line breaks.
    pub categories: Vec<String>,
    /// The parts of every bar.
    pub parts: Vec<Part>,
    /// Width in CSS pixels; the height follows.
    pub width: u32,
}

/// A bar with its label.
struct Bar<'a> {
    label: Vec<String>,
    name: &'a str,
    values: Vec<f64>,
    sum: String,
}

/// Where things are, in pixels.
struct Frame {
    left: f64,
    right: f64,
    above: bool,
}

impl StackedBars {
    /// The chart as an `<svg>` element.
    #[must_use]
    pub fn svg(&self) -> String {
        let width = f64::from(self.width.max(120));
        let mut canvas = Canvas::default();
        let top = layout::title(&mut canvas, &self.title, width);
        let known = self.parts.iter().flat_map(|part| &part.values).any(|&value| drawable(value));
        let bottom = match self.axis(width).filter(|_| known && !self.categories.is_empty()) {
            Some(axis) => self.draw(&mut canvas, &axis, top, width),
            None => no_data(&mut canvas, top, width),
        };
        canvas.finish(width, bottom, &self.title, &self.description())
    }

    fn description(&self) -> String {
        let bars = self.categories.iter().enumerate();
        let bars: Vec<String> = bars.map(|(index, name)| format!("{name}: {}", self.sum(index))).collect();
        format!("Bars of {}: {}", self.value.label, bars.join("; "))
    }

    fn values(&self, category: usize) -> Vec<f64> {
        let value = |part: &Part| part.values.get(category).copied().filter(|&v| drawable(v) && v > 0.0);
        self.parts.iter().map(|part| value(part).unwrap_or(0.0)).collect()
    }

    /// The sum of a bar's parts, or that it has none.
    fn sum(&self, category: usize) -> String {
        let known = self.parts.iter().filter_map(|part| part.values.get(category)).any(|&value| drawable(value));
        if known { short(self.values(category).iter().sum()) } else { "no data".to_owned() }
    }

    fn axis(&self, width: f64) -> Option<Fitted> {
        let range = self.value.range.map(|(_, to)| (0.0, to));
        let axis = Axis { scale: Scale::Linear, from_zero: true, range, ..self.value.clone() };
        let sums = (0..self.categories.len()).map(|category| self.values(category).iter().sum());
        axis.fit(sums, (width / 130.0) as usize, true)
    }

    fn bars(&self, frame: &Frame) -> Vec<Bar<'_>> {
        let most = if frame.above { frame.right } else { frame.left - 10.0 };
        let bar = |(index, name)| Bar {
            label: layout::wrap(name, most, 12.0, 4),
            name,
            values: self.values(index),
            sum: self.sum(index),
        };
        self.categories.iter().map(String::as_str).enumerate().map(bar).collect()
    }

    fn frame(&self, width: f64) -> Frame {
        let lines = self.categories.iter().flat_map(|name| name.split('\n'));
        let label = lines.map(|line| layout::width(line, 12.0)).fold(0.0, f64::max) + 12.0;
        let sums = (0..self.categories.len()).map(|category| layout::width(&self.sum(category), 11.0));
        let right = width - sums.fold(0.0, f64::max) - 10.0;
        let above = width < NARROW;
        Frame { left: if above { 2.0 } else { label.min(0.4 * width) }, right, above }
    }

    fn draw(&self, canvas: &mut Canvas, axis: &Fitted, top: f64, width: f64) -> f64 {
        let fills = Fills::new(&self.title, self.width);
        canvas.push(&fills.definitions(self.parts.len()));
        let frame = self.frame(width);
        let place = |value: f64| frame.left + axis.place(value).clamp(0.0, 1.0) * (frame.right - frame.left);
        let bars = self.bars(&frame);
        let height = |bar: &Bar| {
            let text = LINE * bar.label.len() as f64;
            if frame.above { text + BAR + 10.0 } else { text.max(BAR) + 10.0 }
        };
        let bottom = top + 6.0 + bars.iter().map(height).sum::<f64>();
        let grid = |canvas: &mut Canvas, from: f64, to: f64| {
            for (value, _) in &axis.ticks {
                canvas.line((place(*value), from), (place(*value), to), "pc-grid");
            }
            canvas.line((frame.left, from), (frame.left, to), "pc-axis");
        };
        if !frame.above {
            grid(canvas, top, bottom);
        }
        let mut y = top + 6.0;
        for bar in &bars {
            // Lines do not cross labels that stand between bars.
            if frame.above {
                let from = y + LINE * bar.label.len() as f64;
                grid(canvas, from - 1.0, from + BAR + 5.0);
            }
            self.draw_bar(canvas, bar, &frame, &fills, &place, y);
            y += height(bar);
        }
        x_ticks(canvas, axis, place, bottom);
        let label = layout::cut(&self.value.label, width, 12.0);
        let middle = ((frame.left + frame.right) / 2.0).min(width - layout::width(&label, 12.0) / 2.0);
        canvas.text(middle, bottom + 16.0 + LINE, Anchor::Middle, "pc-label", &label);
        let sample = |index| format!("<rect width=\"{SAMPLE}\" height=\"12\" fill=\"url(#{})\"/>", fills.id(index));
        let items: Vec<(String, &str)> =
            self.parts.iter().enumerate().map(|(index, part)| (sample(index), part.name.as_str())).collect();
        // One part needs no legend: the title says what it is.
        let items = if items.len() > 1 { items } else { Vec::new() };
        layout::legend(canvas, &items, bottom + 16.0 + LINE + 12.0, width) + 2.0
    }

    fn draw_bar(
        &self,
        canvas: &mut Canvas,
        bar: &Bar,
        frame: &Frame,
        fills: &Fills,
        place: &impl Fn(f64) -> f64,
        y: f64,
    ) {
        let text = LINE * bar.label.len() as f64;
        let (mut line_y, bar_y) = if frame.above {
            (y + 11.0, y + text)
        } else {
            let tall = text.max(BAR);
            (y + (tall - text) / 2.0 + 12.0, y + (tall - BAR) / 2.0)
        };
        for line in &bar.label {
            let (x, anchor) = if frame.above { (0.0, Anchor::Start) } else { (frame.left - 8.0, Anchor::End) };
            canvas.text(x, line_y, anchor, "pc-category", line);
            line_y += LINE;
        }
        let mut sum = 0.0;
        for (index, (part, value)) in self.parts.iter().zip(&bar.values).enumerate().filter(|(_, (_, v))| **v > 0.0) {
            let (from, to) = (place(sum), place(sum + value));
            let title = format!("{}, {}: {}", bar.name, part.name, short(*value));
            canvas.bar((from, bar_y), (to - from, BAR), "pc-bar", &fills.id(index), &title);
            sum += value;
        }
        canvas.text(place(sum) + 6.0, bar_y + 13.0, Anchor::Start, "pc-tick", &bar.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars() -> StackedBars {
        StackedBars {
            title: "Cost".into(),
            value: Axis { label: "dollars".into(), ..Axis::default() },
            categories: vec!["p2p, no faults".into(), "parameter server, server dies\nat round 30".into()],
            parts: vec![
                Part { name: "functions".into(), values: vec![1.0, 2.0] },
                Part { name: "wasted".into(), values: vec![0.5] },
            ],
            width: 700,
        }
    }

    #[test]
    fn bars_have_labels_sums_and_a_legend() {
        let svg = bars().svg();
        for text in [">p2p, no faults<", ">at round 30<", ">1.5<", ">functions<", ">wasted<", ">dollars<"] {
            assert!(svg.contains(text), "{text}\n{svg}");
        }
        assert_eq!(svg.matches("class=\"pc-bar").count(), 3, "a part without a value has no bar");
    }

    #[test]
    fn values_that_cannot_be_drawn_count_as_nothing() {
        let mut chart = bars();
        chart.parts[0].values = vec![f64::NAN, -1.0];
        chart.parts[1].values = vec![f64::INFINITY, 3.0];
        let svg = chart.svg();
        assert!(svg.contains(">no data<") && svg.contains(">3<") && !svg.contains("NaN"), "{svg}");
        chart.parts.clear();
        assert!(chart.svg().contains("no data"));
        assert!(StackedBars::default().svg().contains("no data"));
    }

    #[test]
    fn zeros_are_drawn_as_zeros() {
        let mut chart = bars();
        chart.parts = vec![Part { name: "stalled".into(), values: vec![0.0, 0.0] }];
        let svg = chart.svg();
        assert!(!svg.contains("no data") && svg.matches(">0<").count() >= 2, "{svg}");
    }

    #[test]
    fn labels_are_above_the_bars_where_there_is_little_room() {
        let anchor_of = |svg: &str| {
            let line = svg.lines().find(|line| line.contains("pc-category")).unwrap().to_owned();
            line.split("text-anchor=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let mut chart = bars();
        assert_eq!(anchor_of(&chart.svg()), "end");
        chart.width = 356;
        assert_eq!(anchor_of(&chart.svg()), "start");
    }
}
