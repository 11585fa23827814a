//! Numbers for people.

/// Magnitude beyond which values are not drawn: differences of such values would overflow.
const MAX_MAGNITUDE: f64 = 1e300;

/// Whether a value can be drawn.
pub(crate) fn drawable(value: f64) -> bool {
    value.is_finite() && value.abs() <= MAX_MAGNITUDE
}

/// A tick's label: as many digits behind the point as the step between ticks needs.
pub(crate) fn tick(value: f64, step: f64) -> String {
    let largest = value.abs().max(step.abs());
    if largest >= 1e15 || (step != 0.0 && step.abs() < 1e-7) {
        return exponent(value);
    }
    let (scale, suffix) = match step.abs() {
        s if s >= 1e9 => (1e9, " G"),
        s if s >= 1e6 => (1e6, " M"),
        _ => (1.0, ""),
    };
    let step = step.abs() / scale;
    // One part in 1000 keeps 0.1 (a little more than a tenth in binary) from having two digits.
    let digits = if step > 0.0 { (-(step * 1.001).log10().floor()).clamp(0.0, 8.0) as usize } else { 2 };
    let text = fixed(value / scale, digits);
    if value == 0.0 { text } else { text + suffix }
}

/// A value with about three significant digits.
pub(crate) fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 {
        return "0".to_owned();
    }
    if !(1e-7..1e15).contains(&magnitude) {
        return exponent(value);
    }
    let digits = (2.0 - magnitude.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = fixed(value, digits);
    if digits > 0 { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn exponent(value: f64) -> String {
    format!("{value:.1e}").replace(".0e", "e")
}

/// With commas between thousands.
fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (whole, part) = text.split_once('.').map_or((text.as_str(), None), |(whole, part)| (whole, Some(part)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    // What rounds to zero has no sign.
    let sign = if value < 0.0 && text.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) { "\u{2212}" } else { "" };
    match part {
        Some(part) => format!("{sign}{grouped}.{part}"),
        None => format!("{sign}{grouped}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_the_digits_of_their_step() {
        let cases = [
            (0.3, 0.1, "0.3"),
            (0.25, 0.05, "0.25"),
            (20.0, 5.0, "20"),
            (12_000.0, 2000.0, "12,000"),
            (3e6, 1e6, "3 M"),
            (0.0, 1e6, "0"),
            (-0.5, 0.5, "\u{2212}0.5"),
            (-0.0, 1.0, "0"),
            (2e-9, 1e-9, "2e-9"),
            (0.0002, 0.0001, "0.0002"),
        ];
        for (value, step, text) in cases {
            assert_eq!(tick(value, step), text);
        }
    }

    #[test]
    fn values_have_three_significant_digits() {
        let cases =
            [(0.0, "0"), (1.0, "1"), (1.2345, "1.23"), (1234.5, "1,234"), (0.000_123_4, "0.000123"), (9e-9, "9e-9")];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }
}
