//! A member that sends what no member may send: counted by kind, dropped, and named with its key.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Workplace, wait_until};
use ed25519_dalek::SigningKey;
use peerless_peer::identity::Identity;
use peerless_peer::ticket::Ticket;
use peerless_peer::transport::tls::{self, Admission, Config};
use peerless_peer::transport::{BlobError, BlobSource, Event, Transport};
use peerless_protocol::{
    Contribution, Digest, Heartbeat, Message, PayloadRef, PeerId, RunId, SignedContribution, StateRef, Tally,
    WIRE_VERSION,
};
use rusqlite::Connection;
use serde_json::Value;

/// Samples of a unit: rounds take long enough to be spoken of.
const SAMPLES: u64 = 2000;

/// Far longer than a peer that lives is silent.
const LIMIT: Duration = Duration::from_secs(60);

/// Payloads of LeNet-5: a header and 61,706 sums.
const PAYLOAD_BYTES: u64 = 16 + 8 * 61_706;

/// The kinds that a member can cause by what it sends, each in another way.
const KINDS: [&str; 7] = ["corrupt", "forged", "malformed", "oversized", "replayed", "version", "wrong"];

struct Nothing;

impl BlobSource for Nothing {
    fn read(&self, _: &Digest, _: Range<u64>, _: u64) -> Result<Bytes, BlobError> {
        Err(BlobError::Unknown)
    }
}

/// A contribution of the first unit that is right but for its payload, which nobody has.
fn contribution(run: RunId, peer: PeerId, from: StateRef) -> Contribution {
    Contribution {
        run,
        peer,
        from,
        units: [0].into_iter().collect(),
        shard: None,
        training: Tally { samples: SAMPLES, correct: 1, loss_sum: 1 },
        evaluation: Tally::default(),
        elapsed_us: 1,
        payload: Some(PayloadRef { digest: Digest::of(b"nothing"), bytes: PAYLOAD_BYTES }),
    }
}

/// One of each, for the round under way.
fn wrong_messages(run: RunId, key: &SigningKey, heartbeat: &Heartbeat) -> Vec<Vec<u8>> {
    let me = PeerId(key.verifying_key().to_bytes());
    let encode = |signed: SignedContribution| Message::Contribution(Box::new(signed)).encode();
    let good = contribution(run, me, heartbeat.state);
    let of_another = Contribution { peer: PeerId([3; 32]), ..good.clone() };
    let too_many = Contribution { training: Tally { samples: SAMPLES + 1, ..good.training }, ..good.clone() };
    let late = StateRef { round: u64::from(u32::MAX) + 10, ..heartbeat.state };
    let good = SignedContribution::sign(good, key);
    vec![
        vec![WIRE_VERSION, 250, 250, 250],
        vec![WIRE_VERSION + 1, 0],
        vec![WIRE_VERSION; peerless_protocol::MAX_MESSAGE_BYTES + 1],
        encode(SignedContribution::from_parts(good.contribution.clone(), [7; 64])),
        encode(SignedContribution::sign(of_another, key)),
        encode(SignedContribution::sign(too_many, key)),
        Message::Heartbeat(Heartbeat { state: late, ..*heartbeat }).encode(),
        encode(good.clone()),
        encode(good),
    ]
}

/// Refusals by kind, as the status of the peer tells them of this sender.
fn counts(place: &Workplace, sender: &str) -> BTreeMap<String, u64> {
    let status = place.status("run", "1").unwrap_or_default();
    let refusals = status["refusals"].as_array().cloned().unwrap_or_default();
    let of_sender = refusals.into_iter().filter(|refusal| refusal["peer"] == sender);
    of_sender
        .map(|refusal| (refusal["kind"].as_str().unwrap().to_owned(), refusal["times"].as_u64().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_wrong_message_is_counted_and_its_sender_named() {
    let place = Workplace::for_training();
    let samples = SAMPLES.to_string();
    let arguments = ["peer", "start", "--run-dir", "run", "--rounds", "7", "--batch-size", &samples, "--print-ticket"];
    let host = place.start(place.command(&arguments));
    wait_until("there is a ticket", || host.stdout().ends_with('\n'));
    let ticket: Ticket = host.stdout().trim().parse().unwrap();

    let seed = [42; 32];
    let key = SigningKey::from_bytes(&seed);
    let config = Config {
        identity: Identity::from_seed(seed),
        run: ticket.run(),
        admission: Admission { secret: Some(ticket.secret().clone()), ..Admission::default() },
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: Vec::new(),
        max_blob_bytes: 1 << 20,
        max_peers: 4,
        seed: 1,
    };
    let (member, mut events) = tls::bind(config, Arc::new(Nothing)).await.unwrap();
    let (peer, addresses) = ticket.peers()[0].clone();
    member.dial(peer, addresses);
    let sender = PeerId(key.verifying_key().to_bytes()).to_string();
    // Rounds go on meanwhile, and what is for a round that is over is not looked at: so again and again.
    while !KINDS.iter().all(|kind| counts(&place, &sender).contains_key(*kind)) {
        let event = tokio::time::timeout(LIMIT, events.recv()).await;
        let Some(Event::Message { bytes, .. }) = event.expect("the peer says nothing any more") else { continue };
        let Ok(Message::Heartbeat(heartbeat)) = Message::decode(&bytes) else { continue };
        for message in wrong_messages(ticket.run(), &key, &heartbeat) {
            // A queue that is full is emptied until the next heartbeat.
            let _ = member.send(peer, Bytes::from(message));
        }
        let _ = member.push(peer, Digest::of(b"right"), Bytes::from_static(b"wrong"));
    }
    let status = place.run(&["status", "run"]);
    for kind in KINDS {
        assert!(status.stdout.contains(&format!(" {kind} from {sender}")), "{kind}: {}", status.stdout);
    }
    member.shutdown().await;
    drop((member, events));

    let ended = host.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let log = ended.stderr;
    for kind in KINDS {
        let said = log.lines().filter(|line| line.contains(&sender) && line.contains(&format!("\"{kind}\""))).count();
        assert_eq!(said, 1, "{kind}: {log}");
    }
    let ledger = Connection::open(place.path().join("run/peers/1/ledger.sqlite")).unwrap();
    let recorded: BTreeMap<String, u64> = ledger
        .prepare("SELECT kind, times FROM refusals WHERE peer = ?1")
        .unwrap()
        .query_map([&sender], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(recorded, counts(&place, &sender));
    drop(ledger);
    let finished: Value = place.status("run", "1").unwrap();
    let total: u64 = recorded.values().sum();
    assert!(finished["refused"].as_u64().unwrap() >= total && total >= KINDS.len() as u64, "{finished:#}");
    // None of it has changed the model, and nothing of it is in a cover.
    assert_eq!(place.run(&["verify", "run", "--json"]).json()["verified"], true);
    assert!(fs::read_dir(place.path().join("run/peers")).unwrap().count() == 1);
}
