//! A stand-in for a model: a few numbers whose "gradients" are hashes of state and unit.
//!
//! Sums, optimizer and state encoding are the real ones, so that a digest here means what it means
//! outside. Since a state is a function of the one before it, the whole run is computed once, serially,
//! and peers are given what is in this [`Reference`]: a simulated peer forms sums and compares, and the
//! same bits go in, so the same state comes out.

use std::ops::Range;
use std::sync::Arc;

use peerless_aggregation::{FixedPoint, LearningRate, Optimizer, Schedule};
use peerless_protocol::{
    DatasetSpec, Digest, EvaluationSpec, Layout, LayoutEntry, MAX_SHARDS, PayloadRef, PayloadShape, Role, RoundPlan,
    RunSpec, SPEC_VERSION, StateMeta, StateRef, Tally, UnitKind, UnitSet, expected_samples,
};
use peerless_store::{Payload, PayloadFormat, RoundTotals, State, apply};

use crate::random::Random;

/// Elements of the stand-in's flat vector, unless a scenario says otherwise.
pub const DEFAULT_ELEMENTS: usize = 6;

/// A run of a few small rounds with evaluations in between.
pub fn small_spec(units_per_round: u32, rounds: u64) -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "stand-in".into(),
        dataset: DatasetSpec {
            name: "stand-in".into(),
            digest: Digest::of(b"stand-in"),
            train_samples: units_per_round * 80,
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

/// A state with what is asked of it again and again.
#[derive(Debug)]
pub(crate) struct Kept {
    pub state: State,
    pub meta: StateMeta,
}

impl Kept {
    fn new(state: State) -> Arc<Self> {
        let finished = state.header.finished.is_some();
        let meta = StateMeta { state: state.reference(), bytes: state.encoded_len(), finished };
        Arc::new(Self { state, meta })
    }
}

/// What one round of the serial run consists of.
#[derive(Debug)]
struct ReferenceRound {
    plan: RoundPlan,
    state: Arc<Kept>,
    /// The gradient of each gradient unit on the grid.
    gradients: Vec<Vec<i64>>,
    tallies: Vec<Tally>,
}

/// A run computed by one process without any protocol.
#[derive(Debug)]
pub struct Reference {
    spec: RunSpec,
    format: PayloadFormat,
    rounds: Vec<ReferenceRound>,
    last: Arc<Kept>,
}

/// Exact totals of a round: what the next state is formed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Totals {
    pub sums: Vec<i64>,
    pub training: Tally,
    pub evaluation: Tally,
}

impl Totals {
    /// Of nothing.
    pub fn zero(elements: usize) -> Self {
        Self { sums: vec![0; elements], training: Tally::default(), evaluation: Tally::default() }
    }
}

impl Reference {
    /// Computes the run of `spec` with a model of `elements` numbers.
    ///
    /// # Errors
    /// Says what is wrong with the spec.
    pub fn new(spec: RunSpec, elements: usize) -> Result<Self, String> {
        spec.validate().map_err(|error| error.to_string())?;
        let shape = vec![u32::try_from(elements).map_err(|_| format!("{elements} elements are too many"))?];
        let entry = LayoutEntry { name: "w".into(), shape, offset: 0, role: Role::Parameter };
        let vector = (0..elements).map(|index| (index % 16) as f32 * 0.25 - 0.5).collect();
        let layout = Layout { entries: vec![entry] };
        let format = PayloadFormat::new(&spec, &layout).map_err(|error| error.to_string())?.with_shards(MAX_SHARDS);
        let mut state = State::initial(&spec, layout, vector).map_err(|error| error.to_string())?;
        let mut rounds = Vec::new();
        while state.header.finished.is_none() {
            let round = ReferenceRound::new(&spec, state.clone(), elements)?;
            let totals = round.totals(&round.plan.all(), elements).ok_or("the totals overflow")?;
            next_state(&spec, &mut state, &round.plan, &totals)?;
            rounds.push(round);
        }
        Ok(Self { spec, format, rounds, last: Kept::new(state) })
    }

    /// The run.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// The digest of each round's state, the last one is the final state's.
    pub fn digests(&self) -> Vec<Digest> {
        (0..=self.last_round()).filter_map(|round| self.digest(round)).collect()
    }

    /// The digest of the final state.
    pub fn final_digest(&self) -> Digest {
        self.last.meta.state.digest
    }

    /// The number of the final state.
    pub fn last_round(&self) -> u64 {
        self.rounds.len() as u64
    }

    /// The digest of the state of `round`; `None` beyond the end.
    pub fn digest(&self, round: u64) -> Option<Digest> {
        self.state(round).map(|kept| kept.meta.state.digest)
    }

    /// Length of every payload in bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.format.bytes() as u64
    }

    pub(crate) fn state(&self, round: u64) -> Option<&Arc<Kept>> {
        if round == self.last_round() { Some(&self.last) } else { self.round(round).map(|round| &round.state) }
    }

    pub(crate) fn plan(&self, round: u64) -> RoundPlan {
        RoundPlan::new(&self.spec, round)
    }

    pub(crate) fn tally(&self, from: StateRef, unit: u32) -> Option<Tally> {
        self.round(from.round)?.tallies.get(unit as usize).copied()
    }

    /// The exact sum of the gradient units among `units`; `None` without any.
    pub(crate) fn payload(&self, from: StateRef, units: &UnitSet) -> Option<Payload> {
        let round = self.round(from.round)?;
        let any = units.iter().any(|unit| round.plan.kind(unit) == UnitKind::Gradient);
        let totals = round.totals(units, self.format.elements()).filter(|_| any)?;
        self.format.encode(&totals.sums).ok()
    }

    /// The form of the run's payloads.
    pub(crate) fn shape(&self) -> PayloadShape {
        self.format.shape()
    }

    /// The elements of a shard.
    pub(crate) fn range(&self, shard: u32) -> Range<usize> {
        self.format.range(shard)
    }

    /// The exact sum of the gradient units among `units` in shards; empty without any.
    pub(crate) fn shards(&self, from: StateRef, units: &UnitSet) -> Vec<Payload> {
        let Some(whole) = self.payload(from, units) else { return Vec::new() };
        let cut = |shard| self.format.shard(shard).encode(&whole.sums()[self.format.range(shard)]).ok();
        (0..self.format.shape().shards).filter_map(cut).collect()
    }

    /// The payload of one shard's sums.
    pub(crate) fn encode_shard(&self, shard: u32, totals: &Totals) -> Result<Payload, String> {
        self.format.shard(shard).encode(&totals.sums).map_err(|error| error.to_string())
    }

    /// A payload that is well formed and the sum of nothing.
    pub(crate) fn fabricated_payload(&self, random: &mut Random) -> Option<Payload> {
        let sums: Vec<i64> = (0..self.format.elements()).map(|_| (random.bits() >> 20) as i64).collect();
        self.format.encode(&sums).ok()
    }

    /// The state that `totals` make of the state of `round`.
    ///
    /// # Errors
    /// Says why they are not those of a whole round.
    pub(crate) fn next(&self, round: u64, totals: &Totals) -> Result<Arc<Kept>, String> {
        let from = self.round(round).ok_or_else(|| format!("round {round} is beyond the end"))?;
        if from.totals(&from.plan.all(), self.format.elements()).as_ref() == Some(totals) {
            return self.state(round + 1).cloned().ok_or_else(|| "there is no next state".into());
        }
        let mut state = from.state.state.clone();
        next_state(&self.spec, &mut state, &from.plan, totals)?;
        Ok(Kept::new(state))
    }

    fn round(&self, round: u64) -> Option<&ReferenceRound> {
        self.rounds.get(usize::try_from(round).ok()?)
    }
}

impl ReferenceRound {
    fn new(spec: &RunSpec, state: State, elements: usize) -> Result<Self, String> {
        let state = Kept::new(state);
        let from = state.meta.state;
        let plan = RoundPlan::new(spec, from.round);
        let gradients = (0..plan.gradient_units).map(|unit| on_grid(spec, &gradient(from, unit, elements), unit));
        let gradients = gradients.collect::<Result<_, _>>()?;
        let tallies = (0..plan.total()).map(|unit| tally(spec, &plan, from, unit)).collect();
        Ok(Self { plan, state, gradients, tallies })
    }

    fn totals(&self, units: &UnitSet, elements: usize) -> Option<Totals> {
        let mut totals = Totals::zero(elements);
        for unit in units.iter() {
            let tally = *self.tallies.get(unit as usize)?;
            match self.gradients.get(unit as usize) {
                Some(gradient) => {
                    peerless_aggregation::add(&mut totals.sums, gradient).ok()?;
                    totals.training = totals.training.checked_add(tally)?;
                }
                None => totals.evaluation = totals.evaluation.checked_add(tally)?,
            }
        }
        Some(totals)
    }
}

/// What a function computes: depends on the state and the unit, and on nothing else.
fn gradient(from: StateRef, unit: u32, elements: usize) -> Vec<f32> {
    let mut random = unit_random(from, unit);
    (0..elements).map(|_| (random.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn on_grid(spec: &RunSpec, gradient: &[f32], unit: u32) -> Result<Vec<i64>, String> {
    let grid = FixedPoint::new(spec.fraction_bits).map_err(|error| error.to_string())?;
    let mut sums = vec![0; gradient.len()];
    grid.accumulate(&mut sums, gradient, unit).map_err(|error| error.to_string())?;
    Ok(sums)
}

fn tally(spec: &RunSpec, plan: &RoundPlan, from: StateRef, unit: u32) -> Tally {
    let mut random = unit_random(from, unit);
    let (training, evaluation) = expected_samples(spec, plan, &[unit].into_iter().collect());
    let samples = training + evaluation;
    Tally { samples, correct: random.between(0, samples + 1), loss_sum: random.between(0, 1 << 40) as i64 }
}

fn unit_random(from: StateRef, unit: u32) -> Random {
    let mut word = [0; 8];
    word.copy_from_slice(&from.digest.0[..8]);
    Random::new(u64::from_le_bytes(word) ^ from.round ^ (u64::from(unit) << 32))
}

fn next_state(spec: &RunSpec, state: &mut State, plan: &RoundPlan, totals: &Totals) -> Result<(), String> {
    let totals = RoundTotals {
        gradient_sum: (plan.gradient_units > 0).then_some(totals.sums.as_slice()),
        gradient_units: plan.gradient_units,
        training: totals.training,
        evaluation: (plan.evaluation_units > 0).then_some(totals.evaluation),
    };
    apply(spec, state, &totals, &mut Vec::new()).map_err(|error| error.to_string())
}

/// The name of a payload's bytes.
pub(crate) fn reference_to(payload: &Payload) -> PayloadRef {
    PayloadRef { digest: payload.digest(), bytes: payload.as_bytes().len() as u64 }
}
