//! What the fuzz targets do with their bytes. Here and not in the targets themselves, so that
//! `cargo test` runs the seeds through all of them without libFuzzer.
//!
//! A target fails by panicking: on a panic of the code under test, and where a property does not hold.

mod fixtures;
mod node;
#[cfg(test)]
mod seeds;
mod store;

use data_encoding::Specification;
use peerless_functions::fuzzing::read_report;
use peerless_peer::ticket::Ticket;
use peerless_peer::transport::{fuzzing as sessions, tls};
use peerless_protocol::function::Task;
use peerless_protocol::{Contribution, Message, RoundPlan, RunSpec, SignedContribution, expected_samples};

pub use node::node;
pub use store::{checkpoint, payload, state};

/// A message of a member: decoding, and that what was decoded survives being sent on.
pub fn message(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}

/// A run spec, and that one which passes its checks can be planned without overflow.
pub fn run_spec(bytes: &[u8]) {
    let Ok(spec) = RunSpec::decode(bytes) else { return };
    assert_eq!(RunSpec::decode(&spec.encode()).as_ref(), Ok(&spec));
    let _ = spec.rounds_per_epoch();
    for round in [0, 1, spec.evaluation.every_rounds, spec.rounds - 1, spec.rounds, spec.rounds + 1] {
        let plan = RoundPlan::new(&spec, round);
        let all = plan.all();
        let (training, evaluation) = expected_samples(&spec, &plan, &all);
        assert_eq!(training, u64::from(plan.gradient_units) * u64::from(spec.samples_per_unit));
        assert_eq!(evaluation, if plan.evaluation_units > 0 { u64::from(spec.dataset.test_samples) } else { 0 });
    }
}

/// A contribution: the checks of what it claims, its signature, and that a signed one verifies and one
/// that was changed afterwards does not.
pub fn contribution(bytes: &[u8]) {
    let spec = fixtures::spec();
    if let Ok(signed) = postcard::from_bytes::<SignedContribution>(bytes) {
        let _ = signed.contribution.check(&spec, spec.id(), &fixtures::PAYLOAD);
        let _ = signed.verify();
    }
    let Ok(mut contribution) = postcard::from_bytes::<Contribution>(bytes) else { return };
    contribution.run = spec.id();
    contribution.peer = fixtures::id(0);
    if contribution.check(&spec, spec.id(), &fixtures::PAYLOAD).is_ok() {
        let plan = RoundPlan::new(&spec, contribution.from.round);
        assert!(!contribution.units.is_empty() && contribution.units.is_subset(&plan.all()));
    }
    let mut signed = SignedContribution::sign(contribution, &fixtures::key(0));
    assert_eq!(signed.verify(), Ok(()));
    signed.contribution.training.correct ^= 1;
    assert!(signed.verify().is_err(), "a changed contribution keeps its signature");
}

/// The greeting behind the TLS handshake, and the public key shown in it.
pub fn greeting(bytes: &[u8]) {
    sessions::greeting(bytes);
    tls::read_public_key(bytes);
}

/// Frames of a connection for messages, and the bodies of all types.
pub fn frames(bytes: &[u8]) {
    sessions::frames(bytes);
}

/// A connection on which another peer sends blobs.
pub fn bulk(bytes: &[u8]) {
    sessions::bulk(bytes);
}

/// A pasted ticket: the text as it is, and a text whose checksum is right.
pub fn ticket(bytes: &[u8]) {
    let mut texts: Vec<String> = std::str::from_utf8(bytes).map(str::to_owned).into_iter().collect();
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    let base32 = specification.encoding().expect("valid");
    let body = [bytes, &blake3::hash(bytes).as_bytes()[..4]].concat();
    texts.push(format!("peerless1{}", base32.encode(&body)));
    for text in texts {
        if let Ok(ticket) = text.parse::<Ticket>() {
            assert_eq!(ticket.encode().and_then(|text| text.parse()), Ok(ticket));
        }
    }
}

/// What a function program writes to its stdout, taken as the answer to each kind of work.
pub fn function_report(line: &[u8]) {
    read_report(line);
}

/// What a function program reads from its stdin.
pub fn function_task(line: &[u8]) {
    if let Ok(task) = serde_json::from_slice::<Task>(line) {
        let again = serde_json::to_vec(&task).expect("a task has a JSON form");
        let _ = task.spec.validate();
        assert!(serde_json::from_slice::<Task>(&again).is_ok(), "a task is not read back");
    }
}
