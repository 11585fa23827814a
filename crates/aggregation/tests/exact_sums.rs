//! Sums do not depend on order or grouping, and what cannot be summed leaves them alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use peerless_aggregation::{ConfigError, FixedPoint, SumError, add, subtract};
use proptest::collection::vec;
use proptest::prelude::*;

const GRID: FixedPoint = FixedPoint::DEFAULT;
const SUM_LIMIT: i64 = 1 << 62;

/// Several chunks and a rest.
const LENGTH: usize = 83;

/// Elements of every magnitude that the default grid holds, down to subnormal numbers.
fn element() -> impl Strategy<Value = f32> {
    prop_oneof![-2047.0_f32..2047.0, -1.0_f32..1.0, -1e-9_f32..1e-9, Just(0.0), Just(-0.0), Just(f32::from_bits(1)),]
}

fn gradients() -> impl Strategy<Value = Vec<Vec<f32>>> {
    vec(vec(element(), LENGTH), 1..8)
}

fn sum<'a>(gradients: impl IntoIterator<Item = &'a Vec<f32>>) -> Vec<i64> {
    let mut accumulator = vec![0; LENGTH];
    for gradient in gradients {
        GRID.accumulate(&mut accumulator, gradient, 0).unwrap();
    }
    accumulator
}

/// Rounds the mantissa of an `f32` to a multiple of 2^-bits in integers, ties to even.
fn reference_steps(value: f32, fraction_bits: u32) -> i128 {
    let bits = value.to_bits();
    let exponent = i32::try_from(bits >> 23 & 0xff).unwrap();
    let fraction = i128::from(bits & 0x7f_ffff);
    let (mantissa, scale) = match exponent {
        0 => (fraction, -149),
        _ => (fraction + (1 << 23), exponent - 150),
    };
    let shift = scale + i32::try_from(fraction_bits).unwrap();
    let magnitude = if shift >= 0 {
        mantissa << shift
    } else if shift < -60 {
        0
    } else {
        let unit = 1_i128 << -shift;
        let (whole, rest) = (mantissa / unit, mantissa % unit);
        match (2 * rest).cmp(&unit) {
            std::cmp::Ordering::Less => whole,
            std::cmp::Ordering::Equal => whole + whole % 2,
            std::cmp::Ordering::Greater => whole + 1,
        }
    };
    if value.is_sign_negative() { -magnitude } else { magnitude }
}

proptest! {
    #[test]
    fn any_order_gives_the_same_sum((gradients, shuffled) in gradients()
        .prop_flat_map(|gradients| (Just(gradients.clone()), Just(gradients).prop_shuffle())))
    {
        prop_assert_eq!(sum(&gradients), sum(&shuffled));
    }

    #[test]
    fn any_grouping_gives_the_same_sum(gradients in gradients(), cuts in vec(any::<bool>(), 8)) {
        let mut grouped = vec![0; LENGTH];
        let mut group = vec![0; LENGTH];
        for (gradient, cut) in gradients.iter().zip(cuts) {
            GRID.accumulate(&mut group, gradient, 0).unwrap();
            if cut {
                add(&mut grouped, &group).unwrap();
                group.fill(0);
            }
        }
        add(&mut grouped, &group).unwrap();
        prop_assert_eq!(grouped, sum(&gradients));
    }

    #[test]
    fn subtracting_a_sum_undoes_adding_it(gradients in gradients(), taken_back in gradients()) {
        let (kept, taken_back) = (sum(&gradients), sum(&taken_back));
        let mut accumulator = kept.clone();
        add(&mut accumulator, &taken_back).unwrap();
        subtract(&mut accumulator, &taken_back).unwrap();
        prop_assert_eq!(accumulator, kept);
    }

    #[test]
    fn elements_are_rounded_to_the_nearest_step_ties_to_even(
        bits in any::<u32>(), fraction_bits in 8_u32..=44)
    {
        let grid = FixedPoint::new(fraction_bits).unwrap();
        let value = f32::from_bits(bits);
        let mut accumulator = [0];
        let in_range = f64::from(value) >= -grid.limit() && f64::from(value) < grid.limit();
        prop_assert_eq!(grid.accumulate(&mut accumulator, &[value], 0).is_ok(), in_range);
        if in_range {
            prop_assert_eq!(i128::from(accumulator[0]), reference_steps(value, fraction_bits));
        }
    }

    #[test]
    fn ties_are_rounded_to_even(steps in -(1_i32 << 22)..(1 << 22), fraction_bits in 8_u32..=44) {
        let grid = FixedPoint::new(fraction_bits).unwrap();
        let tie = ((f64::from(steps) + 0.5) / (1_u64 << fraction_bits) as f64) as f32;
        let mut accumulator = [0];
        grid.accumulate(&mut accumulator, &[tie], 0).unwrap();
        let even = if steps % 2 == 0 { steps } else { steps + 1 };
        prop_assert_eq!(accumulator[0], i64::from(even));
        prop_assert_eq!(reference_steps(tie, fraction_bits), i128::from(even));
    }

    #[test]
    fn an_element_that_cannot_be_summed_is_named_and_changes_nothing(
        mut gradient in vec(element(), LENGTH),
        before in vec(-(1_i64 << 61)..(1 << 61), LENGTH),
        index in 0..LENGTH,
        later in 0..LENGTH,
        bad in prop_oneof![
            Just(f32::NAN), Just(-f32::NAN), Just(f32::from_bits(0x7f80_0001)),
            Just(f32::INFINITY), Just(f32::NEG_INFINITY),
            Just(2048.0), Just(-2048.001), Just(f32::MAX), Just(f32::MIN),
        ],
        unit in any::<u32>())
    {
        gradient[index.max(later)] = f32::NAN;
        gradient[index] = bad;
        let mut accumulator = before.clone();
        let error = GRID.accumulate(&mut accumulator, &gradient, unit).unwrap_err();
        let expected = if bad.is_nan() {
            SumError::NotANumber { unit, index }
        } else if bad.is_infinite() {
            SumError::Infinite { unit, index }
        } else {
            SumError::OutOfRange { unit, index, value: bad, limit: 2048.0 }
        };
        prop_assert_eq!(error, expected);
        prop_assert_eq!(accumulator, before);
    }

    #[test]
    fn an_overflow_names_the_unit_and_the_element_and_changes_nothing(
        gradient in vec(0.5_f32..1000.0, LENGTH),
        index in 0..LENGTH,
        negative in any::<bool>(),
        unit in any::<u32>())
    {
        let sign = if negative { -1 } else { 1 };
        let gradient: Vec<f32> = gradient.iter().map(|element| element * sign as f32).collect();
        let mut before = vec![0; LENGTH];
        before[index] = sign * (SUM_LIMIT - 1);
        let mut accumulator = before.clone();
        let error = GRID.accumulate(&mut accumulator, &gradient, unit).unwrap_err();
        prop_assert_eq!(error, SumError::Overflow { unit, index });
        prop_assert_eq!(accumulator, before);
    }

    #[test]
    fn combining_sums_is_exact_or_an_error_that_changes_nothing(
        pairs in vec((any::<i64>(), any::<i64>()), 1..40), halve in any::<bool>())
    {
        // Arbitrary pairs nearly always overflow somewhere, quarters never do.
        let scale = |value: i64| if halve { value / 4 } else { value };
        let before: Vec<i64> = pairs.iter().map(|pair| scale(pair.0)).collect();
        let other: Vec<i64> = pairs.iter().map(|pair| scale(pair.1)).collect();
        type Exact = fn(i128, i128) -> i128;
        for (combine, exact) in [
            (add as fn(&mut [i64], &[i64]) -> _, (|a, b| a + b) as Exact),
            (subtract, |a, b| a - b),
        ] {
            let inside = |total: i128| (-i128::from(SUM_LIMIT)..i128::from(SUM_LIMIT)).contains(&total);
            let totals: Vec<i128> = before.iter().zip(&other)
                .map(|(&a, &b)| exact(a.into(), b.into())).collect();
            let bad = before.iter().zip(&totals)
                .position(|(&sum, &total)| !inside(sum.into()) || !inside(total));
            let mut accumulator = before.clone();
            match (combine(&mut accumulator, &other), bad) {
                (Ok(()), None) => {
                    let actual: Vec<i128> = accumulator.iter().map(|&sum| sum.into()).collect();
                    prop_assert_eq!(actual, totals);
                }
                (Err(error), Some(index)) => {
                    prop_assert_eq!(error, SumError::CombinedOverflow { index });
                    prop_assert_eq!(accumulator, before.clone());
                }
                (result, bad) => prop_assert!(false, "{:?} where {:?} is bad", result, bad),
            }
        }
    }
}

#[test]
fn two_thousand_extreme_gradients_fit_and_then_overflow_is_detected() {
    let gradient = [-2048.0];
    let mut accumulator = [0];
    for unit in 0..2048 {
        GRID.accumulate(&mut accumulator, &gradient, unit).unwrap();
    }
    assert_eq!(accumulator, [-SUM_LIMIT]);
    assert_eq!(GRID.accumulate(&mut accumulator, &gradient, 2048), Err(SumError::Overflow { unit: 2048, index: 0 }));
}

#[test]
fn vectors_of_different_length_are_refused() {
    let mismatch = Err(SumError::LengthMismatch { expected: 2, actual: 1 });
    assert_eq!(GRID.accumulate(&mut [0, 0], &[1.0], 0), mismatch);
    assert_eq!(add(&mut [0, 0], &[1]), mismatch);
    assert_eq!(subtract(&mut [0, 0], &[1]), mismatch);
    assert_eq!(GRID.mean(&[0, 0], 1, &mut [0.0]), mismatch);
}

#[test]
fn the_mean_of_equal_gradients_is_that_gradient() {
    let gradient = [0.1_f32, -3.25, 1e-7, 0.0];
    for divisor in 1..=50 {
        let mut accumulator = [0; 4];
        for unit in 0..divisor {
            GRID.accumulate(&mut accumulator, &gradient, unit).unwrap();
        }
        let mut mean = [0.0; 4];
        GRID.mean(&accumulator, divisor.into(), &mut mean).unwrap();
        let step = 1.0 / (1_u64 << 40) as f32;
        for (mean, element) in mean.iter().zip(gradient) {
            let off_grid = element.abs() < 1e-4;
            assert!(
                *mean == element || off_grid && (mean - element).abs() <= step / 2.0,
                "{mean} is not {element} for {divisor} units"
            );
        }
    }
}

#[test]
fn the_mean_rounds_the_sum_then_the_quotient_then_to_f32() {
    let sum = (1_i64 << 61) + 12_345_678_901;
    let mut mean = [0.0];
    GRID.mean(&[sum], 7, &mut mean).unwrap();
    let expected = (sum as f64 / (1_u64 << 40) as f64 / 7.0) as f32;
    assert_eq!(mean[0].to_bits(), expected.to_bits());
}

#[test]
fn a_mean_over_nothing_is_refused() {
    assert_eq!(GRID.mean(&[0], 0, &mut [0.0]), Err(SumError::ZeroDivisor));
}

#[test]
fn grids_outside_8_to_44_bits_are_refused_also_when_deserialized() {
    for bits in [0, 7, 45, u32::MAX] {
        assert!(matches!(FixedPoint::new(bits), Err(ConfigError::OutOfRange { .. })));
        let encoded = postcard::to_allocvec(&bits).unwrap();
        assert!(postcard::from_bytes::<FixedPoint>(&encoded).is_err());
    }
    let encoded = postcard::to_allocvec(&FixedPoint::new(44).unwrap()).unwrap();
    let grid: FixedPoint = postcard::from_bytes(&encoded).unwrap();
    assert_eq!(grid.fraction_bits(), 44);
}

#[test]
fn scalars_are_rounded_ties_to_even_and_come_back() {
    let step = GRID.to_f64(1);
    assert_eq!(GRID.round_scalar(2.5 * step), Ok(2));
    assert_eq!(GRID.round_scalar(-3.5 * step), Ok(-4));
    assert_eq!(GRID.round_scalar(147.25), Ok(589 << 38));
    assert_eq!(GRID.to_f64(589 << 38), 147.25);
}

#[test]
fn scalars_without_a_place_on_the_grid_are_refused() {
    for value in [f64::NAN, f64::INFINITY, -f64::INFINITY, 4_194_304.0, 1e300] {
        assert!(matches!(GRID.round_scalar(value), Err(SumError::Scalar { limit: 4_194_304.0, .. })));
    }
    assert!(GRID.round_scalar(-4_194_303.5).is_ok());
}

#[test]
fn errors_say_which_unit_and_element() {
    let error = GRID.accumulate(&mut [0, 0], &[1.0, f32::NAN], 3).unwrap_err();
    assert_eq!(error.to_string(), "gradient of unit 3 is not a number at element 1");
}
