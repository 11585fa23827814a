//! Sums over bytes are those over slices, wherever the bytes lie.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use peerless_aggregation::{FixedPoint, SumError, UnitBytes, add_bytes};
use proptest::collection::vec;
use proptest::prelude::*;

const GRID: FixedPoint = FixedPoint::DEFAULT;

/// Two tiles and a rest that is no whole chunk.
const LENGTH: usize = 2 * 4096 + 21;

/// A gradient from few drawn elements, long enough for several tiles.
fn gradient() -> impl Strategy<Value = Vec<f32>> {
    vec(prop_oneof![-2047.0_f32..2047.0, -1e-9_f32..1e-9, Just(-0.0)], 37)
        .prop_map(|drawn| (0..LENGTH).map(|i| drawn[(i * 31 + i / 37) % 37]).collect())
}

/// The bytes behind `shift` others.
fn shifted<const N: usize>(shift: usize, values: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    std::iter::repeat_n(0xa5, shift).chain(values.flatten()).collect()
}

fn bytes_of(shift: usize, gradients: &[Vec<f32>]) -> Vec<Vec<u8>> {
    gradients.iter().map(|gradient| shifted(shift, gradient.iter().map(|e| e.to_le_bytes()))).collect()
}

fn units(shift: usize, gradients: &[Vec<u8>]) -> Vec<UnitBytes<'_>> {
    (0..).zip(gradients).map(|(unit, bytes)| (unit, &bytes[shift..])).collect()
}

fn sums_of(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|sum| i64::from_le_bytes(*sum)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn sums_and_means_over_bytes_are_those_over_slices(
        gradients in vec(gradient(), 1..20),
        start in -1_i64 << 60..1 << 60,
        shift in 0_usize..9,
    ) {
        let bytes = bytes_of(shift, &gradients);
        let units = units(shift, &bytes);
        let mut expected = vec![start; LENGTH];
        let mut sums = shifted(shift, expected.iter().map(|sum| sum.to_le_bytes()));
        for gradient in &gradients {
            GRID.accumulate(&mut expected, gradient, 0).unwrap();
        }
        GRID.accumulate_bytes(&mut sums[shift..], &units).unwrap();
        prop_assert_eq!(sums_of(&sums[shift..]), &*expected);

        let divisor = gradients.len() as u64;
        let (mut mean, mut expected_mean) = (vec![0.0; LENGTH], vec![0.0; LENGTH]);
        GRID.mean_bytes(&sums[shift..], divisor, &mut mean).unwrap();
        GRID.mean(&expected, divisor, &mut expected_mean).unwrap();
        prop_assert_eq!(&mean, &expected_mean);

        let mut average = vec![0; 4 * LENGTH];
        GRID.average_bytes(&units, &mut average).unwrap();
        expected.iter_mut().for_each(|sum| *sum -= start);
        GRID.mean(&expected, divisor, &mut expected_mean).unwrap();
        prop_assert_eq!(average, shifted(0, expected_mean.iter().map(|e| e.to_le_bytes())));
    }

    #[test]
    fn an_element_that_cannot_be_added_is_named_and_changes_nothing(
        gradients in vec(gradient(), 1..12),
        at in 0..LENGTH,
        which in any::<prop::sample::Index>(),
        bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(2048.0), Just(-3e38)],
    ) {
        let mut gradients = gradients;
        let which = which.index(gradients.len());
        gradients[which][at] = bad;
        let bytes = bytes_of(1, &gradients);
        let units = units(1, &bytes);
        let before = shifted(3, (0..LENGTH as i64).map(|sum| (sum << 40).to_le_bytes()));
        let mut sums = before.clone();
        let error = GRID.accumulate_bytes(&mut sums[3..], &units).unwrap_err();
        let named = match error {
            SumError::NotANumber { unit, index } if bad.is_nan() => (unit, index),
            SumError::Infinite { unit, index } if bad.is_infinite() => (unit, index),
            SumError::OutOfRange { unit, index, value, .. } if value == bad => (unit, index),
            other => panic!("{other}"),
        };
        prop_assert_eq!(named, (u32::try_from(which).unwrap(), at));
        prop_assert_eq!(sums, before);
        prop_assert_eq!(GRID.average_bytes(&units, &mut vec![0; 4 * LENGTH]).unwrap_err(), error);
    }
}

#[test]
fn a_sum_that_leaves_its_range_is_refused_and_changes_nothing() {
    let gradients = vec![vec![1.0; LENGTH]; 9];
    let bytes = bytes_of(0, &gradients);
    for (start, fits) in [((1_i64 << 62) - (9 << 40) - 1, true), ((1 << 62) - (9 << 40), false), (i64::MAX, false)] {
        let mut start_sums = vec![0; LENGTH];
        start_sums[LENGTH - 1] = start;
        let before = shifted(0, start_sums.iter().map(|sum| sum.to_le_bytes()));
        let mut sums = before.clone();
        let result = GRID.accumulate_bytes(&mut sums, &units(0, &bytes));
        assert_eq!(result.is_ok(), fits, "{start}: {result:?}");
        if !fits {
            assert!(matches!(result, Err(SumError::Overflow { index, .. }) if index == LENGTH - 1), "{result:?}");
            assert!(sums == before, "{start}");
        }
    }
}

#[test]
fn sums_are_added_whole_or_not_at_all() {
    let bytes = |sums: &[i64]| shifted(1, sums.iter().map(|sum| sum.to_le_bytes()));
    let mut sums = bytes(&[1, -2, (1 << 62) - 1]);
    add_bytes(&mut sums[1..], &bytes(&[i64::from(u32::MAX), -5, 0])[1..]).unwrap();
    assert_eq!(sums_of(&sums[1..]), [1 << 32, -7, (1 << 62) - 1]);
    let error = add_bytes(&mut sums[1..], &bytes(&[1, 1, 1])[1..]).unwrap_err();
    assert_eq!(error, SumError::CombinedOverflow { index: 2 });
    assert_eq!(sums_of(&sums[1..]), [1 << 32, -7, (1 << 62) - 1]);
    let error = add_bytes(&mut sums[1..], &bytes(&[1])[1..]).unwrap_err();
    assert_eq!(error, SumError::LengthMismatch { expected: 3, actual: 1 });
}

#[test]
fn gradients_of_another_length_are_refused() {
    let (mut sums, gradient) = (vec![0; 8 * 5], vec![0; 4 * 5]);
    for wrong in [0, 16, 19, 21, 24] {
        let gradients = [(0, &*gradient), (1, &vec![0; wrong][..])];
        let error = GRID.accumulate_bytes(&mut sums, &gradients).unwrap_err();
        assert_eq!(error, SumError::LengthMismatch { expected: 5, actual: wrong / 4 });
    }
    assert!(GRID.accumulate_bytes(&mut [0; 39], &[(0, &[0; 16])]).is_err());
}
