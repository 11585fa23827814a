//! A stand-in for a model: a few numbers whose "gradients" are hashes of state and unit.

use peerless_aggregation::{FixedPoint, LearningRate, Optimizer, Schedule};
use peerless_protocol::{
    DatasetSpec, Digest, EvaluationSpec, Layout, LayoutEntry, Role, RoundPlan, RunSpec, SPEC_VERSION, StateRef, Tally,
    UnitKind, UnitSet, expected_samples,
};
use peerless_store::{Payload, PayloadFormat, RoundTotals, State, apply};

use crate::random::Random;

/// Elements of the stand-in's flat vector.
const ELEMENTS: usize = 6;

/// A run of a few small rounds with evaluations in between.
pub fn small_spec(units_per_round: u32, rounds: u64) -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "stand-in".into(),
        dataset: DatasetSpec {
            name: "stand-in".into(),
            digest: Digest::of(b"stand-in"),
            train_samples: 640,
            test_samples: 50,
        },
        seed: 7,
        units_per_round,
        samples_per_unit: 8,
        rounds,
        optimizer: Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 },
        learning_rate: LearningRate { base: 0.1, warm_up_rounds: 2, schedule: Schedule::Constant },
        clip_norm: Some(1.0),
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 3, samples_per_unit: 20 },
        early_stopping: None,
        until_correct: None,
    }
}

/// The digests of all states of a run computed by one process without any protocol.
pub fn serial_digests(spec: &RunSpec) -> Vec<Digest> {
    let mut state = initial_state(spec);
    let mut digests = vec![state.digest()];
    while state.header.finished.is_none() {
        let from = StateRef { round: state.header.round, digest: state.digest() };
        let plan = RoundPlan::new(spec, from.round);
        let payload = exact_sum(spec, &state, from, &plan.all());
        let (training, evaluation) = tallies(spec, from, &plan.all());
        next_state(spec, &mut state, payload.as_ref(), training, evaluation);
        digests.push(state.digest());
    }
    digests
}

pub(crate) fn initial_state(spec: &RunSpec) -> State {
    let entry = LayoutEntry { name: "w".into(), shape: vec![ELEMENTS as u32], offset: 0, role: Role::Parameter };
    let vector = (0..ELEMENTS).map(|index| index as f32 * 0.25 - 0.5).collect();
    State::initial(spec, Layout { entries: vec![entry] }, vector).expect("the stand-in is valid")
}

pub(crate) fn payload_format(spec: &RunSpec, state: &State) -> PayloadFormat {
    PayloadFormat::new(spec, &state.header.layout).expect("the stand-in is valid")
}

/// What a function computes: depends on the state and the unit, and on nothing else.
fn gradient(from: StateRef, unit: u32) -> Vec<f32> {
    let mut random = unit_random(from, unit);
    (0..ELEMENTS).map(|_| (random.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

pub(crate) fn tally(spec: &RunSpec, from: StateRef, unit: u32) -> Tally {
    let plan = RoundPlan::new(spec, from.round);
    let mut random = unit_random(from, unit);
    let (training, evaluation) = expected_samples(spec, &plan, &[unit].into_iter().collect());
    let samples = training + evaluation;
    Tally { samples, correct: random.between(0, samples + 1), loss_sum: random.between(0, 1 << 40) as i64 }
}

fn unit_random(from: StateRef, unit: u32) -> Random {
    let mut word = [0; 8];
    word.copy_from_slice(&from.digest.0[..8]);
    Random::new(u64::from_le_bytes(word) ^ from.round ^ (u64::from(unit) << 32))
}

/// The exact sum of the gradient units among `units`.
pub(crate) fn exact_sum(spec: &RunSpec, state: &State, from: StateRef, units: &UnitSet) -> Option<Payload> {
    let plan = RoundPlan::new(spec, from.round);
    let format = payload_format(spec, state);
    let gradients: Vec<u32> = units.iter().filter(|unit| plan.kind(*unit) == UnitKind::Gradient).collect();
    if gradients.is_empty() {
        return None;
    }
    let mut sums = vec![0; ELEMENTS];
    for unit in gradients {
        let grid = FixedPoint::new(spec.fraction_bits).expect("the stand-in is valid");
        grid.accumulate(&mut sums, &gradient(from, unit), unit).expect("stand-in gradients are small");
    }
    Some(encode(&format, &sums))
}

fn encode(format: &PayloadFormat, sums: &[i64]) -> Payload {
    let mut bytes = format.zeros().as_bytes().to_vec();
    let header = bytes.len() - sums.len() * 8;
    let body = sums.iter().flat_map(|sum| sum.to_le_bytes());
    bytes[header..].iter_mut().zip(body).for_each(|(byte, new)| *byte = new);
    let digest = Digest::of(&bytes);
    Payload::decode(&bytes, format, digest).expect("encoded by the same format")
}

/// The sum of several payloads.
pub(crate) fn add_payloads(spec: &RunSpec, state: &State, payloads: &[&Payload]) -> Option<Payload> {
    let mut sums = vec![0; ELEMENTS];
    for payload in payloads {
        peerless_aggregation::add(&mut sums, payload.sums()).expect("stand-in gradients are small");
    }
    (!payloads.is_empty()).then(|| encode(&payload_format(spec, state), &sums))
}

pub(crate) fn tallies(spec: &RunSpec, from: StateRef, units: &UnitSet) -> (Tally, Tally) {
    let plan = RoundPlan::new(spec, from.round);
    let mut totals = (Tally::default(), Tally::default());
    for unit in units.iter() {
        let total = match plan.kind(unit) {
            UnitKind::Gradient => &mut totals.0,
            UnitKind::Evaluation => &mut totals.1,
        };
        *total = total.checked_add(tally(spec, from, unit)).expect("stand-in losses are small");
    }
    totals
}

pub(crate) fn next_state(spec: &RunSpec, state: &mut State, sum: Option<&Payload>, training: Tally, evaluation: Tally) {
    let plan = RoundPlan::new(spec, state.header.round);
    let totals = RoundTotals {
        gradient_sum: sum.map(Payload::sums),
        gradient_units: plan.gradient_units,
        training,
        evaluation: (plan.evaluation_units > 0).then_some(evaluation),
    };
    apply(spec, state, &totals, &mut Vec::new()).expect("a cover gives the totals of the whole round");
}
