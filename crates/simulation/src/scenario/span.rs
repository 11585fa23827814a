//! Numbers in scenario files: `4`, `0.5` or `"2..16"`, both ends included.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::random::Random;

/// Numbers from `low` to `high`, both included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Span {
    /// One number.
    pub const fn just(number: f64) -> Self {
        Self { low: number, high: number }
    }

    /// From one to another.
    pub const fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }

    /// A whole number of the span.
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        random.between(self.low as u64, self.high as u64 + 1)
    }

    /// A number of the span in steps of a thousandth: milliseconds drawn as microseconds.
    pub(crate) fn draw_thousandths(&self, random: &mut Random) -> u64 {
        random.between((self.low * 1e3) as u64, (self.high * 1e3) as u64 + 1)
    }

    /// The span in thousandths, as a range that is never empty.
    pub(crate) fn thousandths(&self) -> std::ops::Range<u64> {
        let low = (self.low * 1e3) as u64;
        low..((self.high * 1e3) as u64).max(low) + 1
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no number and no range; write 4, 0.5 or \"2..16\"");
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(wrong);
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        Self { low: number(low)?, high: number(high)? }.checked()
    }
}

impl Span {
    fn checked(self) -> Result<Self, String> {
        if self.low < 0.0 || self.high > 1e12 {
            return Err(format!("{self} is out of range; write numbers from 0 to 10^12"));
        }
        if self.low > self.high {
            return Err(format!("{self} ends before it begins; write the smaller number first"));
        }
        Ok(self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high { write!(f, "{}", self.low) } else { write!(f, "{}..{}", self.low, self.high) }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number such as 4 or 0.5, or a range such as \"2..16\"")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Span, E> {
                Span::just(number as f64).checked().map_err(E::custom)
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Span, E> {
                Span::just(number).checked().map_err(E::custom)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_both_ends_and_nonsense_is_refused_with_what_to_write() {
        assert_eq!("2..16".parse(), Ok(Span::new(2.0, 16.0)));
        assert_eq!("0.5".parse(), Ok(Span::just(0.5)));
        let mut random = Random::new(1);
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| Span::new(2.0, 4.0).draw(&mut random)).collect();
        assert_eq!(drawn, [2, 3, 4].into());
        for text in ["", "x", "5..2", "-1", "1..", "nan"] {
            assert!(text.parse::<Span>().is_err_and(|error| error.contains("write")), "{text:?}");
        }
    }
}
