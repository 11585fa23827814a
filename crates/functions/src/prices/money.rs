//! Exact money.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// Digits behind the point that a price may have: it is a whole number of picodollars.
const DECIMALS: usize = 12;
/// Steps of [`Money`] in a picodollar: 2^30 · 3^2 · 5^8, so that every price can be charged for every
/// quantity below without a remainder.
const STEPS: u128 = (1 << 30) * 9 * 390_625;
const PICO: u128 = 1_000_000_000_000;
const STEPS_PER_DOLLAR: u128 = STEPS * PICO;

/// Steps for a picodollar per GB-second at 1 MB and 1 ms; a GB has 1,024 MB.
const PER_MB_MS: u128 = STEPS / 1_024_000;
const PER_MILLIONTH: u128 = STEPS / 1_000_000;
const PER_THOUSANDTH: u128 = STEPS / 1_000;
/// A GB of traffic is 2^30 bytes.
const PER_BYTE: u128 = STEPS >> 30;
const PER_MICROSECOND_OF_AN_HOUR: u128 = STEPS / 3_600_000_000;

const _: () = {
    assert!(PER_MB_MS * 1_024_000 == STEPS);
    assert!(PER_MILLIONTH * 1_000_000 == STEPS);
    assert!(PER_BYTE << 30 == STEPS);
    assert!(PER_MICROSECOND_OF_AN_HOUR * 3_600_000_000 == STEPS);
};

/// An amount of US dollars, exact: a whole number of steps of 1 / (10^12 · 2^30 · 3^2 · 5^8) dollars,
/// the common denominator of all that is charged. Sums have no rounding and no order. It saturates at
/// 90 billion dollars, which no budget allows.
///
/// Rejected: f64 (sums depend on their order), and whole femtodollars (a millisecond of a megabyte
/// is not a whole number of them, so that every invocation would be rounded).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(u128);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The difference, or nothing if `other` is more.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// So many times the amount.
    pub fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor.into()))
    }

    /// One of so many equal parts, rounded down to a whole step; all of it for 0 parts.
    pub fn part(self, parts: u64) -> Self {
        Self(self.0 / u128::from(parts.max(1)))
    }

    /// The amount as a price of one thing, rounded down to a picodollar and to the largest price.
    pub fn rounded_down(self) -> Price {
        Price(u64::try_from(self.0 / STEPS).unwrap_or(u64::MAX))
    }

    /// The fraction of `whole` that this is; `None` of nothing.
    pub fn share_of(self, whole: Self) -> Option<f64> {
        (whole.0 > 0).then(|| self.0 as f64 / whole.0 as f64)
    }

    /// In dollars with so many digits behind the point (at most 12), rounded half up.
    pub fn decimal(self, digits: usize) -> String {
        let digits = digits.min(DECIMALS);
        let scale = 10_u128.pow(digits as u32);
        let step = STEPS_PER_DOLLAR / scale;
        let rounded = self.0 / step + u128::from(self.0 % step >= step.div_ceil(2));
        let whole = rounded / scale;
        if digits == 0 { whole.to_string() } else { format!("{whole}.{:0digits$}", rounded % scale) }
    }
}

impl From<Price> for Money {
    fn from(price: Price) -> Self {
        Self(u128::from(price.0) * STEPS)
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// In dollars with a `$`, with six digits behind the point or as many as the precision says.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.decimal(f.precision().unwrap_or(6)))
    }
}

/// In dollars with twelve digits behind the point, as a string: JSON numbers are doubles in most readers.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.decimal(DECIMALS))
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Price::deserialize(deserializer).map(Self::from)
    }
}

/// Dollars for one unit of something, exact: a whole number of picodollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(u64);

/// A text that is no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PriceError {
    /// Not a decimal number.
    #[error("expected dollars as a decimal number such as 0.0928")]
    NotANumber,
    /// Below zero.
    #[error("a price cannot be negative")]
    Negative,
    /// More digits than are kept.
    #[error("a price has at most {DECIMALS} digits behind the point")]
    TooFine,
    /// Beyond what can be counted.
    #[error("a price is at most 18,000,000 dollars")]
    TooLarge,
}

impl Price {
    /// Of memory held for a time, as a price of 1,024 MB for a second.
    pub fn of_memory(self, mb: u32, ms: u64) -> Money {
        self.charge(u128::from(mb) * u128::from(ms), PER_MB_MS)
    }

    /// Of so many things, as a price of a million.
    pub fn of_million(self, count: u64) -> Money {
        self.charge(count.into(), PER_MILLIONTH)
    }

    /// Of so many things, as a price of a thousand.
    pub fn of_thousand(self, count: u64) -> Money {
        self.charge(count.into(), PER_THOUSANDTH)
    }

    /// Of so many bytes, as a price of 2^30.
    pub fn of_bytes(self, bytes: u64) -> Money {
        self.charge(bytes.into(), PER_BYTE)
    }

    /// Of so many microseconds, as a price of an hour.
    pub fn of_microseconds(self, us: u64) -> Money {
        self.charge(us.into(), PER_MICROSECOND_OF_AN_HOUR)
    }

    fn charge(self, quantity: u128, steps: u128) -> Money {
        Money(u128::from(self.0).saturating_mul(quantity).saturating_mul(steps))
    }
}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let numeric = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !numeric(whole) || !numeric(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return Err(PriceError::NotANumber);
        }
        if digits.len() < text.len() {
            return Err(PriceError::Negative);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > DECIMALS {
            return Err(PriceError::TooFine);
        }
        let text = format!("0{whole}{fraction:0<DECIMALS$}");
        text.parse().ok().filter(|&pico| pico <= 18_000_000 * PICO as u64).map(Self).ok_or(PriceError::TooLarge)
    }
}

/// In dollars, with as many digits as it has.
impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (u128::from(self.0) / PICO, u128::from(self.0) % PICO);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{fraction:0DECIMALS$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PriceVisitor)
    }
}

struct PriceVisitor;

impl Visitor<'_> for PriceVisitor {
    type Value = Price;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dollars such as \"0.0928\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Price, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Price, E> {
        // The shortest decimal number that stands for this double is what was written.
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Price, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Price, E> {
        self.visit_str(&number.to_string())
    }
}
