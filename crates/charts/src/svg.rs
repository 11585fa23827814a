//! SVG text.

use std::fmt::Write;

/// Text as it may stand in HTML and SVG, in elements and in quoted attributes. Control characters that XML forbids become
/// spaces.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Where a text's position is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// The inside of an `<svg>` element.
#[derive(Debug, Default)]
pub(crate) struct Canvas {
    body: String,
}

impl Canvas {
    /// One line of text with its baseline at `y`.
    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.push(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"));
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(&format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"));
    }

    /// A rectangle filled with the pattern of this id, which says what it is when it is pointed at. The class must not
    /// have a fill: a style sheet wins over the attribute.
    pub(crate) fn bar(&mut self, corner: (f64, f64), size: (f64, f64), class: &str, fill: &str, title: &str) {
        let ((x, y), (width, height)) = (corner, size);
        let title = escape(title);
        self.push(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" class=\"{class}\" fill=\"url(#{fill})\">\
             <title>{title}</title></rect>",
            width.max(0.0)
        ));
    }

    /// SVG as it is.
    pub(crate) fn push(&mut self, svg: &str) {
        self.body.push_str(svg);
        self.body.push('\n');
    }

    /// The whole element. `description` is what somebody hears who does not see it, besides the title.
    pub(crate) fn finish(&self, width: f64, height: f64, title: &str, description: &str) -> String {
        let mut svg = String::new();
        let label = escape(&format!("{title}. {description}"));
        let title = escape(title);
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"pc\" role=\"img\" aria-label=\"{label}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\">\n\
             <title>{title}</title>\n{}</svg>",
            self.body
        );
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a='1'>\"&\u{0}\n"), "&lt;b a=&#39;1&#39;&gt;&quot;&amp;  ");
        let mut canvas = Canvas::default();
        canvas.text(0.0, 0.0, Anchor::Start, "c", "</text><script>");
        let svg = canvas.finish(10.0, 10.0, "<script>", "\"onload=");
        assert!(!svg.contains("<script>") && !svg.contains("\"onload="), "{svg}");
    }
}
