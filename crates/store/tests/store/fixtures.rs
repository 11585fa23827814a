//! A small run to test with.

use peerless_aggregation::{LearningRate, Optimizer};
use peerless_protocol::{DatasetSpec, Digest, EvaluationSpec, Layout, LayoutEntry, Role, RunSpec, SPEC_VERSION, Tally};
use peerless_store::State;

/// Four gradient units of two samples; every second round evaluates ten samples.
pub fn spec() -> RunSpec {
    let spec = RunSpec {
        version: SPEC_VERSION,
        model: "fixture".into(),
        dataset: DatasetSpec {
            name: "fixture".into(),
            digest: Digest::of(b"data"),
            train_samples: 64,
            test_samples: 10,
        },
        seed: 7,
        units_per_round: 4,
        samples_per_unit: 2,
        rounds: 1_000_000,
        optimizer: "momentum".parse().unwrap(),
        learning_rate: LearningRate::constant(0.5),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 2, samples_per_unit: 5 },
        early_stopping: None,
        until_correct: None,
    };
    spec.validate().unwrap();
    spec
}

pub fn spec_with(optimizer: Optimizer) -> RunSpec {
    RunSpec { optimizer, ..spec() }
}

/// A matrix and a vector of parameters, and a buffer: 2 * `width` + 3 + 2 elements.
pub fn layout(width: u32) -> Layout {
    let entry = |name: &str, shape: &[u32], offset, role| LayoutEntry {
        name: name.into(),
        shape: shape.to_vec(),
        offset,
        role,
    };
    let matrix = 2 * u64::from(width);
    Layout {
        entries: vec![
            entry("dense.weight", &[2, width], 0, Role::Parameter),
            entry("dense.bias", &[3], matrix, Role::Parameter),
            entry("norm.mean", &[2], matrix + 3, Role::Buffer),
        ],
    }
}

/// A state whose every element tells its round and place.
pub fn state(spec: &RunSpec, width: u32, round: u64) -> State {
    let layout = layout(width);
    let value = |index: u64| (index as f32).sin() + round as f32;
    let vector = (0..layout.elements()).map(value).collect();
    let mut state = State::initial(spec, layout, vector).unwrap();
    for (number, slot) in state.slots.iter_mut().enumerate() {
        slot.iter_mut().enumerate().for_each(|(index, element)| *element = value(index as u64) * (number + 2) as f32);
    }
    state.header.round = round;
    state.header.steps = round;
    state
}

pub fn tally(samples: u64, correct: u64, loss_sum: i64) -> Tally {
    Tally { samples, correct, loss_sum }
}

/// A small generator for tests (splitmix64); its seed is in the test.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
