//! Numbers and names as people read them, safe in HTML.

pub use peerless_charts::escape;

/// Longest text from elsewhere that is shown, in characters.
const LONGEST: usize = 400;

/// Text from elsewhere, cut and escaped.
pub fn safe(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return escape(text);
    }
    let cut: String = text.chars().take(LONGEST).collect();
    format!("{}…", escape(&cut))
}

/// A number with thin spaces between thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A fraction as a percentage.
pub fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}

/// `40 s`, `3 min 20 s`, `2 h 5 min`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..172_800 => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
        _ => format!("{} days", whole / 86_400),
    }
}

/// One of two words for a number.
pub fn plural<'a>(number: u64, one: &'a str, several: &'a str) -> &'a str {
    if number == 1 { one } else { several }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_exact_as_anyone_wants_to_know() {
        let texts = [0.25, 42.4, 200.0, 7_500.0, 400_000.0, f64::INFINITY, -1.0].map(seconds);
        assert_eq!(texts, ["0.2 s", "42 s", "3 min 20 s", "2 h 5 min", "4 days", "–", "–"]);
    }

    #[test]
    fn text_from_elsewhere_is_cut_before_it_is_escaped() {
        assert_eq!(safe("<b>&\"'"), "&lt;b&gt;&amp;&quot;&#39;");
        let long = safe(&"<".repeat(1_000));
        assert_eq!(long, format!("{}…", "&lt;".repeat(LONGEST)));
    }
}
