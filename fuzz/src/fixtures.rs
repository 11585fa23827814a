//! One small run that all targets share, so that bytes can get past the checks for run and layout.

use ed25519_dalek::SigningKey;
use peerless_aggregation::{LearningRate, Optimizer};
use peerless_protocol::{
    Contribution, DatasetSpec, Digest, EvaluationSpec, Layout, LayoutEntry, PayloadRef, PayloadShape, PeerId, Role,
    RoundPlan, RunSpec, SPEC_VERSION, SignedContribution, StateRef, Tally, UnitKind, UnitSet, expected_samples,
};
#[cfg(test)]
use peerless_store::State;

/// The form of every payload of the run.
pub const PAYLOAD: PayloadShape = PayloadShape { elements: 11, header_bytes: 16, shards: 4 };

/// Three gradient units a round, four rounds, an evaluation of two units every second round.
pub fn spec() -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "fixture".into(),
        dataset: DatasetSpec {
            name: "fixture".into(),
            digest: Digest::of(b"data"),
            train_samples: 64,
            test_samples: 10,
        },
        seed: 7,
        units_per_round: 3,
        samples_per_unit: 2,
        rounds: 4,
        optimizer: Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 },
        learning_rate: LearningRate::constant(0.5),
        clip_norm: Some(1.0),
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 2, samples_per_unit: 5 },
        early_stopping: None,
        until_correct: None,
    }
}

/// A matrix and a vector of parameters, and a buffer: 11 elements.
pub fn layout() -> Layout {
    let entry = |name: &str, shape: &[u32], offset, role| LayoutEntry {
        name: name.into(),
        shape: shape.to_vec(),
        offset,
        role,
    };
    Layout {
        entries: vec![
            entry("dense.weight", &[2, 3], 0, Role::Parameter),
            entry("dense.bias", &[3], 6, Role::Parameter),
            entry("norm.mean", &[2], 9, Role::Buffer),
        ],
    }
}

/// The state that round 0 of the run starts from.
#[cfg(test)]
pub fn state() -> State {
    let vector = (0..11_u8).map(|index| f32::from(index) * 0.25).collect();
    State::initial(&spec(), layout(), vector).expect("the fixture is valid")
}

/// The key of the peer with this number.
pub fn key(peer: u8) -> SigningKey {
    SigningKey::from_bytes(Digest::of(&[peer]).as_bytes())
}

/// The id of the peer with this number.
pub fn id(peer: u8) -> PeerId {
    PeerId(key(peer).verifying_key().to_bytes())
}

/// What an honest peer would announce.
pub fn contribution(
    peer: u8,
    from: StateRef,
    units: UnitSet,
    shard: Option<u32>,
    payload: Digest,
) -> SignedContribution {
    let spec = spec();
    let plan = RoundPlan::new(&spec, from.round);
    let (training, evaluation) = expected_samples(&spec, &plan, &units);
    let tally = |samples| Tally { samples, correct: samples, loss_sum: 1 << 38 };
    let gradient = units.iter().any(|unit| plan.kind(unit) == UnitKind::Gradient);
    let contribution = Contribution {
        run: spec.id(),
        peer: id(peer),
        from,
        units,
        shard,
        training: tally(training),
        evaluation: tally(evaluation),
        elapsed_us: 1_000,
        payload: gradient.then_some(PayloadRef { digest: payload, bytes: PAYLOAD.bytes(shard) }),
    };
    SignedContribution::sign(contribution, &key(peer))
}
