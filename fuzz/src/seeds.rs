//! The seeds in `seeds/`: made here, and run through their targets.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use peerless_peer::ticket::{JoinSecret, Ticket};
use peerless_protocol::function::{
    FUNCTION_PROTOCOL, Failure, FailureKind, Output, Place, Report, Task, TensorRef, Work,
};
use peerless_protocol::{Digest, Heartbeat, Member, Message, PeerId, StateRef, Tally, UnitKind, UnitSet, UnitTime};
use peerless_store::{Checkpoints, PayloadFormat, export};

use crate::fixtures;

/// Set to write the seeds instead of comparing them.
const WRITE: &str = "PEERLESS_WRITE_SEEDS";

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 13] = [
    ("message", crate::message),
    ("run_spec", crate::run_spec),
    ("contribution", crate::contribution),
    ("node", crate::node),
    ("greeting", crate::greeting),
    ("frames", crate::frames),
    ("bulk", crate::bulk),
    ("ticket", crate::ticket),
    ("state", crate::state),
    ("payload", crate::payload),
    ("checkpoint", crate::checkpoint),
    ("function_report", crate::function_report),
    ("function_task", crate::function_task),
];

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target)
}

fn state(round: u64) -> StateRef {
    StateRef { round, digest: Digest::of(&[round as u8]) }
}

fn units(units: &[u32]) -> UnitSet {
    units.iter().copied().collect()
}

fn messages() -> Vec<Vec<u8>> {
    let heartbeat = Heartbeat {
        state: state(3),
        state_bytes: 1000,
        functions: 2,
        unit_time: UnitTime { us: 12_000, from_round: 5 },
        finished: false,
    };
    let addresses = vec!["10.1.2.3:4000".parse().unwrap(), "[2001:db8::1]:4000".parse().unwrap()];
    let member = Member { peer: PeerId([3; 32]), addresses };
    let contribution = fixtures::contribution(1, state(0), units(&[0, 2]), None, Digest([5; 32]));
    let messages = [
        Message::Heartbeat(heartbeat),
        Message::Probe(heartbeat),
        Message::Silent(PeerId([3; 32])),
        Message::MembersWanted,
        Message::Contribution(Box::new(contribution)),
        Message::UnitsWanted { from: state(1), units: units(&[1, 63, 64]), shard: Some(3) },
        Message::UnitFailed { from: state(2), unit: 1, cause: "out of memory".into() },
        Message::Members(vec![member]),
        Message::Leaving,
        Message::SpecWanted,
        Message::Spec(fixtures::spec().encode()),
        Message::Work { from: state(4), state_bytes: 1000, units: units(&[0, 1]) },
    ];
    messages.iter().map(Message::encode).collect()
}

fn frame(code: u8, body: &[u8]) -> Vec<u8> {
    [&[code][..], &(body.len() as u32).to_le_bytes(), body].concat()
}

fn greetings() -> Vec<Vec<u8>> {
    let addresses: Vec<std::net::SocketAddr> = vec!["0.0.0.0:4000".parse().unwrap()];
    // Version, run, instance, session, channel, addresses, proof.
    let control = postcard::to_stdvec(&([4_u8; 32], 1_u64, 2_u64, (0_u8, true), &addresses, Some([9_u8; 32]))).unwrap();
    let bulk = postcard::to_stdvec(&([4_u8; 32], 1_u64, 2_u64, (1_u8, 1_u8), &addresses, None::<[u8; 32]>)).unwrap();
    let hello = |body: &[u8]| [&1_u16.to_le_bytes()[..], body].concat();
    let spki = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let key = [&spki[..], fixtures::id(0).as_bytes()].concat();
    vec![hello(&control), hello(&bulk), frame(1, &hello(&control)), frame(2, &[1]), key]
}

fn blobs() -> Vec<Vec<u8>> {
    let blob = b"sixteen bytes long or so, pushed in two pieces";
    let begin = postcard::to_stdvec(&(Digest::of(blob), blob.len() as u64)).unwrap();
    let pushed = [frame(4, &begin), frame(5, &blob[..20]), frame(5, &blob[20..])].concat();
    let answer = frame(7, &[&1_u64.to_le_bytes()[..], &[7; 8]].concat());
    let refused = frame(8, &postcard::to_stdvec(&(2_u64, 0_u8)).unwrap());
    let request = frame(6, &postcard::to_stdvec(&(5_u64, Digest::of(blob), 0_u64, 20_u64, blob.len() as u64)).unwrap());
    vec![pushed, [answer, refused, frame(9, &[0])].concat(), [request.clone(), request].concat()]
}

fn tickets() -> Vec<Vec<u8>> {
    let peers = vec![(PeerId([3; 32]), vec!["10.1.2.3:4000".parse().unwrap()])];
    let ticket = Ticket::new(fixtures::spec().id(), JoinSecret::from_bytes([2; 32]), peers.clone()).unwrap();
    let body = postcard::to_stdvec(&(fixtures::spec().id(), [2_u8; 32], peers)).unwrap();
    vec![ticket.encode().unwrap().into_bytes(), body]
}

fn checkpoints() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let (spec, state) = (fixtures::spec(), fixtures::state());
    let checkpoints = Checkpoints::new(folder.path(), 1);
    let path = checkpoints.write(&spec, &state, state.digest()).unwrap();
    let model = folder.path().join("model.safetensors");
    export(&model, &spec, &state).unwrap();
    vec![canonical(&fs::read(path).unwrap()), canonical(&fs::read(model).unwrap())]
}

/// The metadata of a checkpoint lies in a hash map, whose order differs from run to run.
fn canonical(file: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let mut json = serde_json::to_vec(&header).unwrap();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json, &file[8 + length..]].concat()
}

fn reports() -> Vec<Vec<u8>> {
    let tally = Tally { samples: 2, correct: 1, loss_sum: 1 << 40 };
    let digest = Digest([1; 32]);
    let outcomes = [
        Ok(Output::Pong),
        Ok(Output::Unit { tally, digest: Some(digest) }),
        Ok(Output::Unit { tally, digest: None }),
        Ok(Output::Initialised { layout: fixtures::layout(), digest, fingerprint: digest }),
        Err(Failure { kind: FailureKind::Input, message: "no such file".into() }),
    ];
    let report =
        |outcome| Report { invocation: 7, outcome, duration_us: 10, peak_memory_bytes: 20, cold: false, reads: None };
    outcomes.into_iter().map(|outcome| serde_json::to_vec(&report(outcome)).unwrap()).collect()
}

fn tasks() -> Vec<Vec<u8>> {
    let spec = fixtures::spec();
    let parameters = TensorRef { place: Place::Path("/p".into()), offset: 64, elements: 11, digest: None };
    let unit = Work::Unit {
        round: 1,
        unit: 2,
        unit_kind: UnitKind::Gradient,
        parameters,
        output: Place::Path("/o".into()),
        dataset: BTreeMap::new(),
    };
    let task = |work| Task { version: FUNCTION_PROTOCOL, invocation: 7, run: spec.id(), spec: spec.clone(), work };
    [Work::Ping, Work::Initialise { output: Place::Path("/o".into()) }, unit]
        .map(task)
        .iter()
        .map(|task| serde_json::to_vec(task).unwrap())
        .collect()
}

/// Choices that lead somewhere: connect, hear, answer what is owed, wait.
fn histories() -> Vec<Vec<u8>> {
    let history = |seed: u64| {
        let words = (0..96).map(|word| Digest::of(&[seed, word].map(u64::to_le_bytes).concat()).0[0]);
        words.collect::<Vec<u8>>()
    };
    (0..4).map(history).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let format = PayloadFormat::new(&fixtures::spec(), &fixtures::layout()).unwrap();
    match target {
        "message" => messages(),
        "run_spec" => vec![fixtures::spec().encode()],
        "contribution" => {
            let signed = fixtures::contribution(0, state(0), units(&[0, 2]), None, Digest([5; 32]));
            let evaluation = fixtures::contribution(1, state(4), units(&[0, 1]), None, Digest([5; 32]));
            [signed, evaluation].iter().map(|signed| postcard::to_stdvec(signed).unwrap()).collect()
        }
        "node" => histories(),
        "greeting" => greetings(),
        "frames" => [greetings(), blobs()].concat(),
        "bulk" => blobs(),
        "ticket" => tickets(),
        "state" => vec![fixtures::state().encode()],
        "payload" => vec![format.encode(&[-1; 11]).unwrap().as_bytes().to_vec()],
        "checkpoint" => checkpoints(),
        "function_report" => reports(),
        "function_task" => tasks(),
        other => panic!("no seeds for {other}"),
    }
}

#[test]
fn the_seeds_are_those_that_the_formats_of_today_give() {
    for (target, _) in TARGETS {
        for (number, seed) in seeds(target).into_iter().enumerate() {
            let path = folder(target).join(format!("seed-{number}"));
            if std::env::var_os(WRITE).is_some() {
                fs::create_dir_all(folder(target)).unwrap();
                fs::write(&path, &seed).unwrap();
            }
            let found = fs::read(&path).unwrap_or_default();
            assert!(found == seed, "{} is not of today's format: run the tests with {WRITE}=1", path.display());
        }
    }
}

#[test]
fn every_seed_and_every_former_crash_passes_its_target() {
    for (target, run) in TARGETS {
        let mut files: Vec<PathBuf> = fs::read_dir(folder(target)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{target} has no seeds");
        for file in files {
            println!("{}", file.display());
            run(&fs::read(file).unwrap());
        }
    }
}
