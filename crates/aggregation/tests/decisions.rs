//! Learning rates at the edges of their schedules, plateaus and early stopping.

use peerless_aggregation::{ConfigError, Decisions, EarlyStopping, Evaluation, LearningRate, Schedule, Verdict};

/// One unit of loss on the loss grid.
const ONE: i64 = 1 << 40;

fn rates(learning_rate: &LearningRate, rounds: impl IntoIterator<Item = u64>) -> Vec<f32> {
    let decisions = Decisions::default();
    rounds.into_iter().map(|round| learning_rate.rate(round, &decisions)).collect()
}

fn scheduled(warm_up_rounds: u64, schedule: Schedule) -> LearningRate {
    LearningRate { base: 1.0, warm_up_rounds, schedule }
}

fn plateau(patience: u32) -> LearningRate {
    scheduled(0, Schedule::ReduceOnPlateau { factor: 0.5, patience, min_delta: 0.25, minimum_fraction: 0.2 })
}

#[test]
fn a_constant_rate_stays() {
    assert_eq!(rates(&LearningRate::constant(0.1), [0, 1, u64::MAX]), [0.1, 0.1, 0.1]);
}

#[test]
fn warm_up_rises_linearly_to_the_base_rate() {
    let learning_rate = scheduled(4, Schedule::Constant);
    assert_eq!(rates(&learning_rate, 0..6), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
}

#[test]
fn steps_drop_the_rate_exactly_at_their_rounds() {
    let learning_rate = scheduled(0, Schedule::Step { every_rounds: 10, factor: 0.5 });
    assert_eq!(rates(&learning_rate, [0, 9, 10, 19, 20, u64::MAX]), [1.0, 1.0, 0.5, 0.5, 0.25, 0.0]);
}

#[test]
fn a_cosine_starts_after_warm_up_and_ends_at_its_minimum() {
    let learning_rate = scheduled(2, Schedule::Cosine { total_rounds: 10, minimum_fraction: 0.1 });
    let rates = rates(&learning_rate, [0, 1, 2, 4, 6, 8, 10, 11, u64::MAX]);
    // 0.1 + 0.45 * (1 + cos(k * pi / 4)), k = 0 to 4, with half the square root of 2.
    let expected = [0.5, 1.0, 1.0, 0.868_198, 0.55, 0.231_802, 0.1, 0.1, 0.1];
    for (rate, expected) in rates.iter().zip(expected) {
        assert!((rate - expected).abs() < 1e-6, "{rate} is not {expected}");
    }
}

/// A platform with another cosine or power would not reproduce runs. The values were computed with 60
/// decimal digits and rounded once.
#[test]
fn rates_have_the_same_bits_everywhere() {
    let cosine = Schedule::Cosine { total_rounds: 937, minimum_fraction: 0.013 };
    let step = Schedule::Step { every_rounds: 7, factor: 0.97 };
    let bits = |schedule| -> Vec<u32> {
        let rates = rates(&scheduled(5, schedule), [3, 100, 500, 900]);
        rates.into_iter().map(f32::to_bits).collect()
    };
    assert_eq!(bits(cosine), [0x3f4c_cccd, 0x3f79_93dd, 0x3eea_aaf3, 0x3c89_e5da]);
    assert_eq!(bits(step), [0x3f4c_cccd, 0x3f27_2047, 0x3deb_925a, 0x3ca6_063f]);
}

#[test]
fn schedules_out_of_range_are_refused_by_name() {
    let cosine = |total_rounds, minimum_fraction| Schedule::Cosine { total_rounds, minimum_fraction };
    let step = |every_rounds, factor| Schedule::Step { every_rounds, factor };
    let plateau =
        |factor, patience, min_delta| Schedule::ReduceOnPlateau { factor, patience, min_delta, minimum_fraction: 0.0 };
    for (schedule, expected) in [
        (step(0, 0.5), "every_rounds"),
        (step(1, 0.0), "factor"),
        (step(1, f64::NAN), "factor"),
        (cosine(2, 0.0), "total_rounds"),
        (cosine(3, 1.1), "minimum_fraction"),
        (plateau(1.0, 1, 0.0), "factor"),
        (plateau(0.5, 0, 0.0), "patience"),
        (plateau(0.5, 1, -0.1), "min_delta"),
        (plateau(0.5, 1, f64::NAN), "min_delta"),
    ] {
        let Err(ConfigError::OutOfRange { name, .. }) = scheduled(2, schedule).validate() else {
            panic!("{schedule:?} is accepted");
        };
        assert_eq!(name, expected);
    }
    assert!(scheduled(2, cosine(3, 0.0)).validate().is_ok());
    for base in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(LearningRate::constant(base).validate().is_err(), "{base}");
    }
    let never = EarlyStopping { patience: 0, min_delta: 0.0 };
    assert!(never.validate().is_err());
}

#[test]
fn a_plateau_lowers_the_rate_after_its_patience_down_to_the_minimum() {
    let learning_rate = plateau(2);
    let mut decisions = Decisions::default();
    let mut observe = |quarters: i64| {
        decisions.observe(quarters * ONE / 4, 1, &learning_rate, None);
        learning_rate.rate(0, &decisions)
    };
    // Mean losses in quarters; less than a quarter lower is no improvement, nor is exactly a quarter.
    assert_eq!(observe(40), 1.0);
    assert_eq!(observe(39), 1.0);
    assert_eq!(observe(41), 0.5);
    // The reference is still 40: 38 improves on it and starts the count anew.
    assert_eq!(observe(40), 0.5);
    assert_eq!(observe(38), 0.5);
    assert_eq!(observe(38), 0.5);
    assert_eq!(observe(38), 0.25);
    assert_eq!(observe(38), 0.25);
    assert_eq!(observe(38), 0.2);
    assert_eq!(observe(38), 0.2);
}

#[test]
fn a_run_stops_early_after_its_patience_and_stays_stopped() {
    let early = EarlyStopping { patience: 2, min_delta: 0.0 };
    let rate = LearningRate::constant(0.1);
    let mut decisions = Decisions::default();
    let mut observe = |loss| decisions.observe(loss * ONE, 10, &rate, Some(&early));
    assert_eq!(observe(30), Verdict::Continue);
    assert_eq!(observe(30), Verdict::Continue);
    assert_eq!(observe(29), Verdict::Continue);
    assert_eq!(observe(30), Verdict::Continue);
    assert_eq!(observe(29), Verdict::StopEarly);
    assert_eq!(observe(1), Verdict::StopEarly);
    assert_eq!(decisions.verdict(), Verdict::StopEarly);
}

#[test]
fn without_a_rule_a_run_never_stops_early() {
    let mut decisions = Decisions::default();
    for loss in 1..100 {
        let verdict = decisions.observe(loss * ONE, 1, &LearningRate::constant(0.1), None);
        assert_eq!(verdict, Verdict::Continue);
    }
    assert_eq!(decisions.evaluations_since_best, 98);
}

#[test]
fn means_over_different_sample_counts_are_compared_exactly() {
    let rate = LearningRate::constant(0.1);
    let best_after = |evaluations: &[(i64, u64)]| {
        let mut decisions = Decisions::default();
        for &(loss_sum, samples) in evaluations {
            decisions.observe(loss_sum, samples, &rate, None);
        }
        decisions.best.map(|best| (best.loss_sum, best.samples))
    };
    // Equal as fractions: the first stays. In f64 a third and its multiples can differ.
    assert_eq!(best_after(&[(1, 3), (2, 6), (5, 15)]), Some((1, 3)));
    // Differ by less than f64 resolves.
    let large = (1 << 61) + 1;
    assert_eq!(best_after(&[(large, 3), (large - 1, 3)]), Some((large - 1, 3)));
    assert_eq!(best_after(&[(large, 3), (2 * large - 1, 6)]), Some((2 * large - 1, 6)));
    // Extremes neither wrap nor panic.
    assert_eq!(best_after(&[(i64::MAX, 1), (i64::MIN, u64::MAX), (i64::MIN, 1)]), Some((i64::MIN, 1)));
}

#[test]
fn an_evaluation_of_no_samples_changes_nothing() {
    let mut decisions = Decisions::default();
    let verdict = decisions.observe(-ONE, 0, &plateau(1), None);
    assert_eq!(verdict, Verdict::Continue);
    assert_eq!(decisions, Decisions::default());
}

#[test]
fn the_mean_loss_is_given_for_reading() {
    let evaluation = Evaluation { loss_sum: 5 * ONE, samples: 4 };
    assert_eq!(evaluation.mean_loss(), 1.25);
}

#[test]
fn a_restart_between_any_two_evaluations_changes_no_decision() {
    let rate = plateau(2);
    let early = EarlyStopping { patience: 4, min_delta: 0.1 };
    let losses = [9, 7, 7, 8, 6, 6, 6, 6, 6, 5];
    let run = |restarting: bool| {
        let mut decisions = Decisions::default();
        let mut history = vec![];
        for loss in losses {
            let verdict = decisions.observe(loss * ONE, 8, &rate, Some(&early));
            if restarting {
                let stored = postcard::to_allocvec(&decisions).unwrap();
                decisions = postcard::from_bytes(&stored).unwrap();
            }
            history.push((verdict, rate.rate(0, &decisions).to_bits(), decisions.clone()));
        }
        history
    };
    let history = run(false);
    assert_eq!(history, run(true));
    assert_eq!(history[7].0, Verdict::Continue);
    assert_eq!(history[8].0, Verdict::StopEarly);
}
