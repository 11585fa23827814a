//! Where text goes: widths, line breaks, legends and the labels of marks.

use crate::svg::{Anchor, Canvas};

/// Height of a line of text of 11 or 12 px, in pixels.
pub(crate) const LINE: f64 = 16.0;
/// Rows that labels of marks are staggered in.
const LANES: usize = 4;
/// Width of a legend's sample.
pub(crate) const SAMPLE: f64 = 26.0;

/// Pixels that a text takes at most, in the wider of the usual fonts.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    let ems = |letter: char| match letter {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '|' | '\'' | '!' | ' ' => 0.34,
        'f' | 't' | 'r' | '(' | ')' | '-' | '/' | 'I' => 0.43,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.98,
        'A'..='Z' => 0.72,
        letter if letter.is_ascii() || matches!(letter, '\u{2212}' | '\u{2013}' | 'µ' | '·') => 0.63,
        _ => 1.0,
    };
    text.chars().map(ems).sum::<f64>() * size
}

/// A text cut to a width, with an ellipsis where something is missing.
pub(crate) fn cut(text: &str, most: f64, size: f64) -> String {
    if width(text, size) <= most {
        return text.to_owned();
    }
    let mut kept = String::new();
    for letter in text.chars() {
        if width(&kept, size) + width(&letter.to_string(), size) + size > most {
            break;
        }
        kept.push(letter);
    }
    kept.trim_end().to_owned() + "…"
}

/// Lines no wider than `most`, broken at spaces and where the text has line breaks. What does not fit on `lines` is cut.
pub(crate) fn wrap(text: &str, most: f64, size: f64, lines: usize) -> Vec<String> {
    let mut wrapped: Vec<String> = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if line.is_empty() || width(&longer, size) <= most {
                line = longer;
            } else {
                wrapped.push(std::mem::replace(&mut line, word.to_owned()));
            }
        }
        wrapped.push(line);
    }
    if wrapped.len() > lines {
        let rest = wrapped.split_off(lines.saturating_sub(1)).join(" ");
        // Longer than the line, so that the cut shows.
        wrapped.push(rest + " …");
    }
    wrapped.iter().map(|line| cut(line, most, size)).collect()
}

/// Draws the title at the top; returns where it ends.
pub(crate) fn title(canvas: &mut Canvas, text: &str, width: f64) -> f64 {
    let mut y = 4.0;
    for line in wrap(text, width - 4.0, 14.5, 3).iter().filter(|line| !line.is_empty()) {
        y += 18.0;
        canvas.text(0.0, y - 4.0, Anchor::Start, "pc-title", line);
    }
    y + 4.0
}

/// Draws samples with names in as many rows as they need; returns where they end. A sample is drawn from (0, 0) on, in
/// [`SAMPLE`] by 12 pixels.
pub(crate) fn legend(canvas: &mut Canvas, items: &[(String, &str)], top: f64, most: f64) -> f64 {
    let (mut x, mut y) = (0.0, top);
    for (sample, name) in items {
        let name = cut(name, most - SAMPLE - 8.0, 12.0);
        let wide = SAMPLE + 6.0 + width(&name, 12.0) + 16.0;
        if x > 0.0 && x + wide - 16.0 > most {
            (x, y) = (0.0, y + 18.0);
        }
        canvas.push(&format!("<g transform=\"translate({x:.1} {y:.1})\">{sample}</g>"));
        canvas.text(x + SAMPLE + 6.0, y + 10.0, Anchor::Start, "pc-legend", &name);
        x += wide;
    }
    if items.is_empty() { top } else { y + 20.0 }
}

/// A label that has a place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    /// Where its line is.
    pub(crate) x: f64,
    /// The row, 0 at the top.
    pub(crate) lane: usize,
    /// Where the text is, from and to.
    pub(crate) text: (f64, f64),
    /// The text.
    pub(crate) label: String,
}

/// Labels of vertical lines in rows above a plot from `left` to `right`: no label lies over another one or over a line
/// that comes from above it. Returns those that have a place, and how many have none.
pub(crate) fn place_labels(marks: &[(f64, String)], left: f64, right: f64) -> (Vec<Placed>, usize) {
    let mut sorted: Vec<&(f64, String)> = marks.iter().filter(|(_, label)| !label.is_empty()).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut placed: Vec<Placed> = Vec::new();
    let mut without = 0;
    for (x, label) in sorted {
        let wide = width(label, 11.0);
        let candidates =
            (0..LANES).flat_map(|lane| [(lane, (x + 3.0, x + 3.0 + wide)), (lane, (x - 3.0 - wide, x - 3.0))]);
        let mut fitting = candidates.filter(|(_, text)| text.0 >= left - 1.0 && text.1 <= right + 1.0);
        match fitting.find(|&(lane, text)| placed.iter().all(|other| !collide(other, *x, lane, text))) {
            Some((lane, text)) => placed.push(Placed { x: *x, lane, text, label: label.clone() }),
            None => without += 1,
        }
    }
    (placed, without)
}

fn collide(other: &Placed, x: f64, lane: usize, text: (f64, f64)) -> bool {
    let covers = |span: (f64, f64), x: f64| (span.0 - 2.0..=span.1 + 2.0).contains(&x);
    match lane.cmp(&other.lane) {
        std::cmp::Ordering::Equal => text.0 < other.text.1 + 6.0 && other.text.0 < text.1 + 6.0,
        // This one's line passes the other one's row, or the other way round.
        std::cmp::Ordering::Less => covers(other.text, x),
        std::cmp::Ordering::Greater => covers(text, other.x),
    }
}

/// Rows that labels take, in pixels.
pub(crate) fn lanes_height(placed: &[Placed]) -> f64 {
    placed.iter().map(|label| label.lane + 1).max().unwrap_or(0) as f64 * 14.0
}

/// Draws vertical lines down to `bottom` and their labels, of which the first row begins at `top`; lines without a label
/// begin at `plot`.
pub(crate) fn draw_marks(
    canvas: &mut Canvas,
    marks: &[(f64, String)],
    placed: &[Placed],
    top: f64,
    plot: f64,
    bottom: f64,
) {
    for (x, label) in marks {
        let lane = placed.iter().find(|placed| placed.x == *x && placed.label == *label).map(|placed| placed.lane);
        let from = lane.map_or(plot, |lane| top + 14.0 * lane as f64 + 2.0);
        canvas.line((*x, from), (*x, bottom), "pc-mark");
    }
    for Placed { lane, text, label, .. } in placed {
        canvas.text(text.0, top + 14.0 * *lane as f64 + 11.0, Anchor::Start, "pc-marktext", label);
    }
}

/// What is said of labels that have no place.
pub(crate) fn without_label(count: usize) -> Option<String> {
    (count > 0).then(|| format!("{count} more mark{} without a label", if count == 1 { "" } else { "s" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(at: &[f64]) -> Vec<(f64, String)> {
        at.iter().map(|&x| (x, format!("kill {x}"))).collect()
    }

    #[test]
    fn text_is_broken_at_spaces_and_cut_where_it_does_not_fit() {
        assert_eq!(wrap("one two three", 55.0, 12.0, 3), ["one two", "three"]);
        assert_eq!(wrap("a\nb", 100.0, 12.0, 3), ["a", "b"]);
        let lines = wrap("one two three four five six seven", 55.0, 12.0, 2);
        assert!(lines.len() == 2 && lines[1].ends_with('…'), "{lines:?}");
        let long = wrap("parameterserverparameterserver", 60.0, 12.0, 2);
        assert!(long.len() == 1 && width(&long[0], 12.0) <= 60.0, "{long:?}");
    }

    #[test]
    fn labels_that_would_overlap_are_staggered() {
        let (placed, without) = place_labels(&marks(&[10.0, 20.0, 30.0, 200.0]), 0.0, 400.0);
        assert_eq!(without, 0);
        assert_eq!(placed.iter().map(|label| label.lane).collect::<Vec<_>>(), [0, 1, 2, 0]);
        let (last, _) = place_labels(&marks(&[395.0]), 0.0, 400.0);
        assert!(last[0].text.1 < 395.0, "left of its line at the right end");
    }

    #[test]
    fn labels_without_a_place_are_counted_and_no_two_lie_over_each_other() {
        let at: Vec<f64> = (0..60).map(|index| 5.0 * f64::from(index)).collect();
        let (placed, without) = place_labels(&marks(&at), 0.0, 300.0);
        assert_eq!(placed.len() + without, 60);
        assert!(without > 0 && placed.len() >= 8, "{without}");
        for (index, one) in placed.iter().enumerate() {
            for other in &placed[..index] {
                let apart = one.lane != other.lane || one.text.0 > other.text.1 || other.text.0 > one.text.1;
                assert!(apart, "{one:?} {other:?}");
                let crosses = |line: &Placed, text: &Placed| {
                    line.lane < text.lane && (text.text.0..=text.text.1).contains(&line.x)
                };
                assert!(!crosses(one, other) && !crosses(other, one), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_legend_wraps_and_tells_where_it_ends() {
        let mut canvas = Canvas::default();
        let items: Vec<(String, &str)> = (0..4).map(|_| (String::new(), "parameter server")).collect();
        assert_eq!(legend(&mut canvas, &items, 100.0, 340.0), 100.0 + 18.0 + 20.0);
        assert_eq!(legend(&mut canvas, &[], 100.0, 300.0), 100.0);
    }
}
