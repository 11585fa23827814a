//! Axes: ranges, ticks at 1, 2 and 5 times powers of ten, and from values to pixels.

use crate::number::{self, drawable};

/// How values become lengths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equally long.
    #[default]
    Linear,
    /// Equal ratios are equally long. Values that are not positive are not drawn.
    Log10,
}

/// An axis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Axis {
    /// What it shows, with the unit: `time (s)`.
    pub label: String,
    /// How values become lengths.
    pub scale: Scale,
    /// From and to; without it, or where it is empty or cannot be drawn, what the data need.
    pub range: Option<(f64, f64)>,
    /// Whether zero is on the axis in any case. Without meaning for [`Scale::Log10`].
    pub from_zero: bool,
}

impl Axis {
    /// Whether a value has a place on the axis, if its range is wide enough.
    pub(crate) fn takes(&self, value: f64) -> bool {
        drawable(value) && (self.scale == Scale::Linear || value > 0.0)
    }

    /// The axis for these values; about so many ticks fit. `None` without a value. A `rounded` axis ends at ticks.
    pub(crate) fn fit(&self, values: impl IntoIterator<Item = f64>, ticks: usize, rounded: bool) -> Option<Fitted> {
        let (low, high) = match self.range.filter(|&(from, to)| from < to && self.takes(from) && self.takes(to)) {
            Some(range) => range,
            None => self.range_of(values)?,
        };
        let explicit = self.range == Some((low, high));
        Some(match self.scale {
            Scale::Linear => linear(low, high, ticks.max(2), rounded && !explicit),
            Scale::Log10 => logarithmic(low, high, ticks.max(2), rounded && !explicit),
        })
    }

    fn range_of(&self, values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
        let values = values.into_iter().filter(|&value| self.takes(value));
        let (mut low, mut high) = values.fold(None, |range: Option<(f64, f64)>, value| {
            Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        })?;
        if self.from_zero && self.scale == Scale::Linear {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        // One value alone, or values that differ by less than their digits, still need a length.
        if high - low <= 1e-9 * high.abs().max(low.abs()) {
            (low, high) = match self.scale {
                Scale::Log10 => (low / 2.0, high * 2.0),
                Scale::Linear if low == 0.0 => (0.0, 1.0),
                Scale::Linear => (low - 0.5 * low.abs(), high + 0.5 * high.abs()),
            };
        }
        Some((low, high))
    }
}

/// An axis with its range and ticks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fitted {
    low: f64,
    high: f64,
    scale: Scale,
    /// Values with labels.
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Fitted {
    /// Where a value lies, 0 at the low and 1 at the high end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log10 => (value / self.low).log10() / (self.high / self.low).log10(),
        }
    }

    /// Whether a value is between the ends.
    pub(crate) fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The least of 1, 2, 5 times a power of ten that needs no more than so many steps.
fn step(span: f64, steps: usize) -> f64 {
    let raw = span / steps as f64;
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * 0.999_999).unwrap_or(10.0);
    factor * power
}

fn linear(low: f64, high: f64, ticks: usize, rounded: bool) -> Fitted {
    let step = step(high - low, ticks);
    let slack = 1e-6;
    let (first, last) = if rounded {
        ((low / step + slack).floor(), (high / step - slack).ceil())
    } else {
        ((low / step - slack).ceil(), (high / step + slack).floor())
    };
    let count = (last - first).clamp(0.0, 4.0 * ticks as f64) as usize;
    let values = (0..=count).map(|index| (first + index as f64) * step);
    let labelled = values.map(|value| (value, number::tick(value, step))).collect();
    let (low, high) = if rounded { (first * step, last * step) } else { (low, high) };
    Fitted { low, high, scale: Scale::Linear, ticks: labelled }
}

fn logarithmic(low: f64, high: f64, ticks: usize, rounded: bool) -> Fitted {
    let (low, high) = if rounded { (step(low, 1).min(low), step(high, 1)) } else { (low, high) };
    let low = if rounded { floor_125(low) } else { low };
    let inside = |value: &f64| (low * 0.999_999..=high * 1.000_001).contains(value);
    let decades = || (low.log10().floor() as i32..=high.log10().ceil() as i32).map(|power| 10f64.powi(power));
    let fine: Vec<f64> = decades().flat_map(|ten| [ten, 2.0 * ten, 5.0 * ten]).filter(inside).collect();
    let coarse: Vec<f64> = decades().filter(inside).collect();
    let values = if fine.len() <= ticks + 1 || coarse.len() < 2 { fine } else { coarse };
    let every = values.len().div_ceil(ticks + 1).max(1);
    let labelled = values.into_iter().step_by(every).map(|value| (value, number::short(value))).collect();
    Fitted { low, high, scale: Scale::Log10, ticks: labelled }
}

/// The largest of 1, 2, 5 times a power of ten that is not above `value`.
fn floor_125(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [5.0, 2.0].into_iter().map(|factor| factor * power).find(|&tick| tick <= value * 1.000_001).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, values: &[f64]) -> Vec<String> {
        let fitted = axis.fit(values.iter().copied(), 5, true).unwrap();
        fitted.ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_at_one_two_and_five_times_powers_of_ten() {
        let axis = Axis::default();
        assert_eq!(labels(&axis, &[0.0, 9.3]), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(&axis, &[0.1, 0.98]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&axis, &[-30.0, 30.0]), ["\u{2212}40", "\u{2212}20", "0", "20", "40"]);
        assert_eq!(labels(&axis, &[0.0, 0.000_004]).first().unwrap(), "0.000000");
    }

    #[test]
    fn an_axis_from_zero_holds_zero_and_one_that_is_not_may_leave_it_out() {
        let axis = Axis { from_zero: true, ..Axis::default() };
        assert_eq!(labels(&axis, &[97.0, 99.0]).first().unwrap(), "0");
        assert_eq!(labels(&Axis::default(), &[97.0, 99.0]).first().unwrap(), "97.0");
    }

    #[test]
    fn a_logarithmic_axis_has_decades_or_finer_steps() {
        let axis = Axis { scale: Scale::Log10, ..Axis::default() };
        assert_eq!(labels(&axis, &[1.0, 16.0]), ["1", "2", "5", "10", "20"]);
        assert_eq!(labels(&axis, &[0.001, 1000.0]).len(), 4, "every second decade");
        assert!(axis.fit([0.0, -1.0], 5, true).is_none());
        let fitted = axis.fit([1.0, 100.0], 5, true).unwrap();
        assert!((fitted.place(10.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_range_that_is_given_wins_unless_it_is_empty() {
        let axis = |range| Axis { range: Some(range), ..Axis::default() };
        let fitted = axis((0.0, 1.0)).fit([7.0], 5, true).unwrap();
        assert!(fitted.holds(1.0) && !fitted.holds(7.0));
        for range in [(1.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0), (0.0, f64::INFINITY)] {
            assert!(axis(range).fit([7.0], 5, true).unwrap().holds(7.0), "{range:?}");
        }
    }

    #[test]
    fn any_values_have_finitely_many_ticks_and_places() {
        let cases: [&[f64]; 7] = [
            &[0.0],
            &[5.0],
            &[-1e-12],
            &[1e300, -1e300],
            &[1e-308, 2e-308],
            &[1.0, 1.0 + 1e-15],
            &[f64::NAN, 3.0, f64::INFINITY],
        ];
        for scale in [Scale::Linear, Scale::Log10] {
            for values in cases {
                let axis = Axis { scale, ..Axis::default() };
                let Some(fitted) = axis.fit(values.iter().copied(), 6, true) else { continue };
                assert!(fitted.ticks.len() <= 30, "{values:?}: {}", fitted.ticks.len());
                for &value in values.iter().filter(|&&value| axis.takes(value)) {
                    assert!(fitted.place(value).is_finite(), "{values:?}");
                }
            }
        }
    }
}
