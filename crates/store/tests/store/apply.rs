use peerless_aggregation::{EarlyStopping, FixedPoint, LearningRate, Schedule};
use peerless_protocol::{Evaluation, FinishReason, RunSpec};
use peerless_store::{ApplyError, RoundTotals, State, apply};

use crate::fixtures::{layout, spec, spec_with, state, tally};

const TRAINING: peerless_protocol::Tally = peerless_protocol::Tally { samples: 8, correct: 3, loss_sum: 1 << 40 };

/// Sums of four units that each report `gradient` everywhere.
fn sum_of_four(gradient: f32, elements: usize) -> Vec<i64> {
    let mut sums = vec![0; elements];
    for unit in 0..4 {
        FixedPoint::DEFAULT.accumulate(&mut sums, &vec![gradient; elements], unit).unwrap();
    }
    sums
}

fn totals(sum: &[i64]) -> RoundTotals<'_> {
    RoundTotals { gradient_sum: Some(sum), gradient_units: 4, training: TRAINING, evaluation: None }
}

fn start(spec: &RunSpec) -> State {
    State::initial(spec, layout(4), (0..13).map(|index| index as f32).collect()).unwrap()
}

#[test]
fn a_momentum_step_is_what_hand_computation_gives() {
    let spec = spec();
    let mut state = start(&spec);
    let sum = sum_of_four(0.25, 13);
    apply(&spec, &mut state, &totals(&sum), &mut Vec::new()).unwrap();
    // Velocity 0.9 * 0 + 0.25, step 0.5 * 0.25; the two buffers become the mean.
    let expected: Vec<f32> = (0..11).map(|index| index as f32 - 0.125).chain([0.25, 0.25]).collect();
    assert_eq!(state.vector, expected);
    assert_eq!(state.slots, vec![vec![0.25; 11]]);
    assert_eq!((state.header.round, state.header.steps), (1, 1));
    assert_eq!((state.header.training, state.header.evaluation, state.header.finished), (TRAINING, None, None));

    apply(&spec, &mut state, &totals(&sum), &mut Vec::new()).unwrap();
    // Velocity 0.9 * 0.25 + 0.25 = 0.475.
    assert_eq!(state.vector[1], 0.875 - 0.5 * (0.9_f32 * 0.25 + 0.25));
}

#[test]
fn clipping_scales_the_whole_mean_gradient_to_the_norm() {
    let spec = RunSpec { clip_norm: Some(1.0), ..spec_with("sgd".parse().unwrap()) };
    let mut state = start(&spec);
    let mut sum = vec![0; 13];
    FixedPoint::DEFAULT
        .accumulate(&mut sum, &[3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 100.0, 0.0], 0)
        .unwrap();
    sum.iter_mut().for_each(|sum| *sum *= 4);
    apply(&spec, &mut state, &totals(&sum), &mut Vec::new()).unwrap();
    // Norm 5 over the parameters alone: the buffer's 100 does not count and is not scaled.
    assert_eq!(&state.vector[..3], &[0.0 - 0.5 * (3.0 * 0.2_f32), 1.0 - 0.5 * (4.0 * 0.2_f32), 2.0]);
    assert_eq!(state.vector[11], 100.0);
}

#[test]
fn a_large_model_gets_the_same_step_with_and_without_clipping_that_does_nothing() {
    // Without clipping the model is worked through in pieces; the bits must not tell.
    let plain = spec_with("adamw".parse().unwrap());
    let clipped = RunSpec { clip_norm: Some(1e9), ..plain.clone() };
    let mut first = state(&plain, 40_000, 3);
    let mut second = first.clone();
    let sum: Vec<i64> = (0..first.vector.len() as i64).map(|index| (index - 40_000) << 20).collect();
    apply(&plain, &mut first, &totals(&sum), &mut Vec::new()).unwrap();
    apply(&clipped, &mut second, &totals(&sum), &mut vec![7.0; 5]).unwrap();
    assert_eq!(first.encode(), second.encode());
}

#[test]
fn the_learning_rate_is_that_of_the_step_number() {
    let schedule = Schedule::Step { every_rounds: 1, factor: 0.5 };
    let learning_rate = LearningRate { base: 1.0, warm_up_rounds: 0, schedule };
    let spec = RunSpec { learning_rate, ..spec_with("sgd".parse().unwrap()) };
    let mut state = start(&spec);
    let sum = sum_of_four(1.0, 13);
    apply(&spec, &mut state, &totals(&sum), &mut Vec::new()).unwrap();
    apply(&spec, &mut state, &totals(&sum), &mut Vec::new()).unwrap();
    assert_eq!(state.vector[5], 5.0 - 1.0 - 0.5);
}

#[test]
fn an_evaluation_belongs_to_the_state_that_the_round_starts_from() {
    let spec = spec();
    let mut state = state(&spec, 4, 2);
    let sum = sum_of_four(0.25, 13);
    let tally = tally(10, 9, 5 << 40);
    apply(&spec, &mut state, &RoundTotals { evaluation: Some(tally), ..totals(&sum) }, &mut Vec::new()).unwrap();
    assert_eq!(state.header.evaluation, Some(Evaluation { round: 2, tally }));
    assert_eq!(state.header.decisions.evaluations, 1);
    assert_eq!((state.header.round, state.header.finished), (3, None));
}

#[test]
fn reaching_the_accuracy_keeps_the_parameters_that_reached_it() {
    let spec = RunSpec { until_correct: Some(9), ..spec() };
    let before = state(&spec, 4, 2);
    let sum = sum_of_four(0.25, 13);
    let evaluated = |correct| {
        let mut state = before.clone();
        let evaluation = Some(tally(10, correct, 5 << 40));
        apply(&spec, &mut state, &RoundTotals { evaluation, ..totals(&sum) }, &mut Vec::new()).unwrap();
        state
    };
    assert_eq!(evaluated(8).header.finished, None);
    let state = evaluated(9);
    assert_eq!(state.header.finished, Some(FinishReason::Accuracy));
    assert_eq!((&state.vector, &state.slots), (&before.vector, &before.slots));
    assert_eq!((state.header.round, state.header.steps), (3, 2));
}

#[test]
fn early_stopping_ends_the_run_after_its_patience() {
    let early_stopping = Some(EarlyStopping { patience: 1, min_delta: 0.0 });
    let spec = RunSpec { early_stopping, ..spec() };
    let mut state = state(&spec, 4, 2);
    let sum = sum_of_four(0.25, 13);
    let evaluate = |state: &mut State| {
        let evaluation = Some(tally(10, 1, 5 << 40));
        apply(&spec, state, &RoundTotals { evaluation, ..totals(&sum) }, &mut Vec::new()).unwrap();
    };
    evaluate(&mut state);
    assert_eq!(state.header.finished, None);
    apply(&spec, &mut state, &totals(&sum), &mut Vec::new()).unwrap();
    let before = state.vector.clone();
    evaluate(&mut state);
    assert_eq!(state.header.finished, Some(FinishReason::EarlyStopping));
    assert_eq!(state.vector, before);
}

#[test]
fn the_last_round_only_evaluates() {
    let spec = RunSpec { rounds: 5, ..spec() };
    let mut state = state(&spec, 4, 5);
    state.header.training = TRAINING;
    let before = state.clone();
    let totals = RoundTotals {
        gradient_sum: None,
        gradient_units: 0,
        training: tally(0, 0, 0),
        evaluation: Some(tally(10, 4, 1)),
    };
    apply(&spec, &mut state, &totals, &mut Vec::new()).unwrap();
    assert_eq!(state.header.finished, Some(FinishReason::Rounds));
    assert_eq!((state.header.round, state.header.steps), (6, 5));
    assert_eq!(state.header.training, TRAINING);
    assert_eq!((&state.vector, &state.slots), (&before.vector, &before.slots));
    let again = apply(&spec, &mut state, &totals, &mut Vec::new());
    assert!(matches!(again, Err(ApplyError::Finished { round: 6, reason: FinishReason::Rounds })), "{again:?}");
}

#[test]
fn totals_of_another_round_are_refused_and_change_nothing() {
    let spec = spec();
    let sum = sum_of_four(0.25, 13);
    let right = totals(&sum);
    let wrong = [
        RoundTotals { gradient_sum: None, ..right },
        RoundTotals { gradient_sum: Some(&sum[1..]), ..right },
        RoundTotals { gradient_units: 3, ..right },
        RoundTotals { training: tally(7, 0, 0), ..right },
        RoundTotals { evaluation: Some(tally(10, 0, 0)), ..right },
    ];
    for (number, totals) in wrong.iter().enumerate() {
        let mut state = state(&spec, 4, 1);
        let before = state.clone();
        assert!(apply(&spec, &mut state, totals, &mut Vec::new()).is_err(), "case {number}");
        assert_eq!(state, before, "case {number}");
    }
    let mut state = state(&spec, 4, 2);
    let missing = apply(&spec, &mut state, &right, &mut Vec::new());
    assert_eq!(missing.unwrap_err().to_string(), "round 2 has such units, but an evaluation is missing");
    let few = RoundTotals { evaluation: Some(tally(9, 0, 0)), ..right };
    assert!(matches!(
        apply(&spec, &mut state, &few, &mut Vec::new()),
        Err(ApplyError::Count { found: 9, expected: 10, .. })
    ));
}
