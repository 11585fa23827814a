//! What the store adds to a round, for LeNet-5 (61,706 parameters) and a model of ResNet-18's size.
//!
//! Files are on shared memory where there is some, as in a run. The plain copy of the same bytes tells
//! what the machine can do.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot go on fails")]

use std::fs;
use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use peerless_aggregation::LearningRate;
use peerless_protocol::{
    DatasetSpec, Digest, EvaluationSpec, Layout, LayoutEntry, PeerId, Role, RoundPlan, RunSpec, SPEC_VERSION, StateRef,
    Tally,
};
use peerless_store::{
    Batch, ContributionProof, ContributionRecord, InvocationRecord, Ledger, PayloadFormat, RoundRecord, RoundSums,
    RoundTimes, RoundTotals, State, StateOrigin, TensorStore, apply,
};
use tempfile::TempDir;

const SIZES: [(&str, u32); 2] = [("61706", 61_706), ("11M", 11_000_000)];

fn spec(optimizer: &str) -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "bench".into(),
        dataset: DatasetSpec {
            name: "bench".into(),
            digest: Digest::of(b""),
            train_samples: 1 << 20,
            test_samples: 10_000,
        },
        seed: 1,
        units_per_round: 4,
        samples_per_unit: 64,
        rounds: u64::from(u32::MAX),
        optimizer: optimizer.parse().unwrap(),
        learning_rate: LearningRate::constant(1e-3),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: u64::from(u32::MAX), samples_per_unit: 1000 },
        early_stopping: None,
        until_correct: None,
    }
}

fn state(spec: &RunSpec, elements: u32) -> State {
    let name = "weight".into();
    let entry = LayoutEntry { name, shape: vec![elements], offset: 0, role: Role::Parameter };
    State::initial(spec, Layout { entries: vec![entry] }, vec![0.25; elements as usize]).unwrap()
}

fn directory() -> TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { TempDir::new_in(shared).unwrap() } else { TempDir::new().unwrap() }
}

fn sums(criterion: &mut Criterion) {
    let directory = directory();
    for (name, elements) in SIZES {
        let spec = spec("momentum");
        let format = PayloadFormat::new(&spec, &state(&spec, elements).header.layout).unwrap();
        let bytes: Vec<u8> = (0..elements).flat_map(|index| (index as f32 * 1e-8).to_le_bytes()).collect();
        let path = directory.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let digest = Digest::of(&bytes);
        let plan = RoundPlan { gradient_units: 16_384, evaluation_units: 0 };

        let mut group = criterion.benchmark_group(format!("gradient of {name}"));
        group.sample_size(20).throughput(Throughput::Bytes(bytes.len() as u64));
        let mut copy = vec![0; bytes.len()];
        group.bench_function("copy", |bencher| bencher.iter(|| copy.copy_from_slice(black_box(&bytes))));
        group.bench_function("blake3", |bencher| bencher.iter(|| Digest::of(black_box(&bytes))));
        let mut sums = RoundSums::new(format, u64::MAX);
        sums.begin(&plan).unwrap();
        // Each time another unit from the same file.
        let mut unit = 0;
        group.bench_function("add_unit", |bencher| {
            bencher.iter(|| {
                sums.add_unit(unit % 4096, &path, digest).unwrap();
                unit += 1;
                if unit % 4096 == 0 {
                    sums = RoundSums::new(format, u64::MAX);
                    sums.begin(&plan).unwrap();
                }
            });
        });
        group.finish();
    }
}

fn states(criterion: &mut Criterion) {
    for (name, elements) in SIZES {
        let spec = spec("momentum");
        let directory = directory();
        let (mut tensors, _) = TensorStore::open(directory.path(), &spec, 4).unwrap();
        let mut state = state(&spec, elements);
        let mut group = criterion.benchmark_group(format!("state of {name}, momentum"));
        group.sample_size(20).throughput(Throughput::Bytes(state.encoded_len()));
        group.bench_function("digest", |bencher| bencher.iter(|| black_box(&state).digest()));
        group.bench_function("put_state (digest and file)", |bencher| {
            bencher.iter(|| {
                state.header.round += 1;
                tensors.put_state(&state).unwrap()
            });
        });
        group.finish();
    }
}

fn transitions(criterion: &mut Criterion) {
    for (name, elements) in SIZES {
        for optimizer in ["sgd", "momentum", "adam"] {
            let spec = spec(optimizer);
            let mut state = state(&spec, elements);
            let sum: Vec<i64> = (0..i64::from(elements)).collect();
            let mut scratch = Vec::new();
            let mut group = criterion.benchmark_group(format!("apply to {name}"));
            group.sample_size(20).throughput(Throughput::Elements(elements.into()));
            group.bench_function(optimizer, |bencher| {
                bencher.iter(|| {
                    let totals = RoundTotals {
                        gradient_sum: Some(black_box(&sum)),
                        gradient_units: 4,
                        training: Tally { samples: 256, correct: 0, loss_sum: 0 },
                        evaluation: None,
                    };
                    apply(&spec, &mut state, &totals, &mut scratch).unwrap();
                });
            });
            group.finish();
        }
    }
}

fn ledger(criterion: &mut Criterion) {
    let directory = TempDir::new().unwrap();
    let mut ledger = Ledger::open(&directory.path().join("ledger.sqlite")).unwrap();
    let mut round = 0;
    let mut batch = || {
        round += 1;
        let digest = Digest::of(b"state");
        let contribution = |peer| ContributionRecord {
            round,
            at_us: 1,
            peer: PeerId([peer; 32]),
            units: [u32::from(peer)].into_iter().collect(),
            samples: 64,
            digest: Some(digest),
            accepted: true,
            proof: Some(ContributionProof {
                from: digest,
                shard: None,
                training: Tally::default(),
                evaluation: Tally::default(),
                elapsed_us: 1,
                payload_bytes: 1,
                signature: [7; 64],
            }),
        };
        let invocation = |unit| InvocationRecord {
            round: Some(round),
            unit: Some(unit),
            kind: "gradient".into(),
            platform: "process".into(),
            function: "12345".into(),
            outcome: "ok".into(),
            attempt: 1,
            ..InvocationRecord::default()
        };
        Batch {
            state: Some((StateRef { round, digest }, StateOrigin::Applied)),
            round: Some(RoundRecord {
                round,
                at_us: 1,
                state_digest: digest,
                training_samples: 256,
                training_correct: 200,
                training_loss: Some(0.5),
                evaluation: None,
                times: RoundTimes::default(),
                units_computed: 1,
                backup_units: 0,
            }),
            contributions: (0..4).map(contribution).collect(),
            invocations: (0..2).map(invocation).collect(),
            events: Vec::new(),
            alive: None,
            refusals: Vec::new(),
        }
    };
    criterion.bench_function("ledger, one round", |bencher| {
        bencher.iter_batched(&mut batch, |batch| ledger.record(&batch).unwrap(), BatchSize::SmallInput);
    });
}

criterion_group!(benches, sums, states, transitions, ledger);
criterion_main!(benches);
