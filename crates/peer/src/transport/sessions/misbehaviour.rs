//! Peers and strangers that break the rules, on real connections.

use std::sync::Arc;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId, RunId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::tls;
use super::super::{
    BlobError, BlobSource, CloseReason, Event, Events, FetchError, MAX_MESSAGE_BYTES, Refusal, Rejection, Transport,
    Violation,
};
use super::frame::{self, Farewell, FrameType, header};
use super::handshake::{self, Greeted};
use super::hello::{Channel, Side};
use super::wire::{Purpose, Secured, Stream};
use super::{Admission, Config, MAX_HANDSHAKES, SessionTransport};
use crate::identity::Identity;
use crate::ticket::JoinSecret;

const MAX_BLOB: u64 = 1000;
/// The session number of the misbehaving peer.
const NUMBER: u64 = 7;

struct NoBlobs;

impl BlobSource for NoBlobs {
    fn read(&self, _: &Digest, _: std::ops::Range<u64>, _: u64) -> Result<Bytes, BlobError> {
        Err(BlobError::Unknown)
    }
}

async fn start(seed: u8) -> (SessionTransport, Events) {
    let config = Config {
        identity: Identity::from_seed([seed; 32]),
        run: RunId([1; 32]),
        admission: Admission { secret: Some(JoinSecret::from_bytes([2; 32])), ..Admission::default() },
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: Vec::new(),
        max_blob_bytes: MAX_BLOB,
        max_peers: 4,
        seed: 1,
    };
    tls::bind(config, Arc::new(NoBlobs)).await.unwrap()
}

/// A host, and a member of its run who does what it likes.
struct Attack {
    host: SessionTransport,
    events: Events,
    attacker: SessionTransport,
}

impl Attack {
    async fn new() -> Self {
        let (host, events) = start(1).await;
        Self { host, events, attacker: start(2).await.0 }
    }

    fn attacker_id(&self) -> PeerId {
        self.attacker.shared.peer
    }

    async fn open(&self, channel: Channel) -> Result<Greeted, Rejection> {
        handshake::greet(&self.attacker.shared, self.secured().await?, channel, NUMBER).await
    }

    async fn secured(&self) -> Result<Secured, Rejection> {
        handshake::connect(&self.attacker.shared, self.host.shared.peer, &[self.host.local], Purpose::Control).await
    }

    async fn control(&mut self) -> Stream {
        let greeted = self.open(Channel::Control { replace: true }).await.unwrap();
        while !matches!(self.events.recv().await.unwrap(), Event::Connected { .. }) {}
        greeted.stream
    }

    /// A session whose bulk connection carries blobs from the attacker to the host.
    async fn bulk(&mut self) -> (Stream, Stream) {
        let control = self.control().await;
        (control, self.open(Channel::Bulk { sender: Side::Dialler }).await.unwrap().stream)
    }

    async fn disconnected(&mut self) -> CloseReason {
        loop {
            if let Event::Disconnected { reason, .. } = self.events.recv().await.unwrap() {
                return reason;
            }
        }
    }

    /// The host closes the session for `violation` and says so on `stream`.
    async fn is_caught(&mut self, mut stream: Stream, violation: Violation) {
        let (frame, length) = frame::read_header(&mut stream).await.unwrap();
        let body = frame::read_body(&mut stream, length).await.unwrap();
        assert_eq!(frame, FrameType::Close);
        assert_eq!(frame::decode(frame, &body), Ok(Farewell::Violation(violation.clone())));
        drop(stream);
        assert_eq!(self.disconnected().await, CloseReason::Violated(violation));
    }
}

async fn write(stream: &mut Stream, parts: &[&[u8]]) {
    stream.write_all(&parts.concat()).await.unwrap();
    stream.flush().await.unwrap();
}

fn blob_begin(digest: Digest, length: u64) -> Vec<u8> {
    frame::encode(FrameType::BlobBegin, &(digest, length)).unwrap()
}

#[tokio::test]
async fn a_message_beyond_the_limit_closes_the_connection() {
    let mut attack = Attack::new().await;
    let mut stream = attack.control().await;
    write(&mut stream, &[&header(FrameType::Message, MAX_MESSAGE_BYTES + 1), &[0; 5000]]).await;
    let limit = MAX_MESSAGE_BYTES as u32;
    attack.is_caught(stream, Violation::TooLong { code: 3, length: limit + 1, limit }).await;
}

#[tokio::test]
async fn frames_that_have_no_place_close_the_connection() {
    let mut attack = Attack::new().await;
    let mut stream = attack.control().await;
    write(&mut stream, &[&[99, 0, 0, 0, 0]]).await;
    attack.is_caught(stream, Violation::UnknownFrame { code: 99 }).await;

    let mut stream = attack.control().await;
    write(&mut stream, &[&header(FrameType::BlobData, 1), &[0]]).await;
    attack.is_caught(stream, Violation::Unexpected { code: 5 }).await;

    let mut stream = attack.control().await;
    write(&mut stream, &[&header(FrameType::Close, 3), &[9, 9, 9]]).await;
    attack.is_caught(stream, Violation::Malformed { code: 9 }).await;
}

#[tokio::test]
async fn a_peer_that_says_goodbye_has_not_lost_its_connection() {
    let mut attack = Attack::new().await;
    let mut stream = attack.control().await;
    write(&mut stream, &[&frame::encode(FrameType::Close, &Farewell::Goodbye).unwrap()]).await;
    assert_eq!(attack.disconnected().await, CloseReason::Goodbye);
}

#[tokio::test]
async fn a_blob_longer_than_allowed_or_announced_closes_the_connection() {
    let mut attack = Attack::new().await;
    let (_control, mut stream) = attack.bulk().await;
    write(&mut stream, &[&blob_begin(Digest([0; 32]), MAX_BLOB + 1)]).await;
    attack.is_caught(stream, Violation::BlobTooLong { length: MAX_BLOB + 1, limit: MAX_BLOB }).await;

    let (_control, mut stream) = attack.bulk().await;
    write(&mut stream, &[&blob_begin(Digest([0; 32]), 10), &header(FrameType::BlobData, 11), &[0; 11]]).await;
    attack.is_caught(stream, Violation::BlobOverrun { length: 10 }).await;
}

#[tokio::test]
async fn pieces_out_of_place_close_the_connection() {
    let mut attack = Attack::new().await;
    let (_control, mut stream) = attack.bulk().await;
    write(&mut stream, &[&header(FrameType::BlobData, 1), &[0]]).await;
    attack.is_caught(stream, Violation::Unexpected { code: 5 }).await;

    let (_control, mut stream) = attack.bulk().await;
    let begin = blob_begin(Digest([0; 32]), 10);
    write(&mut stream, &[&begin, &begin]).await;
    attack.is_caught(stream, Violation::BlobInBlob).await;
}

#[tokio::test]
async fn a_corrupt_blob_is_reported_and_not_delivered() {
    let mut attack = Attack::new().await;
    let (_control, mut stream) = attack.bulk().await;
    let (right, wrong) = (b"right".as_slice(), b"wrong".as_slice());
    let digest = Digest::of(right);
    for blob in [wrong, right] {
        write(&mut stream, &[&blob_begin(digest, 5), &header(FrameType::BlobData, 5), blob]).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(match attack.events.recv().await.unwrap() {
            Event::Rejected { peer, reason, .. } => (peer, Err(reason)),
            Event::Payload { from, bytes, .. } => (Some(from), Ok(bytes)),
            event => panic!("{event:?}"),
        });
    }
    let from = Some(attack.attacker_id());
    assert!(seen.contains(&(from, Err(Rejection::CorruptPayload { digest }))), "{seen:?}");
    assert!(seen.contains(&(from, Ok(Bytes::from_static(right)))), "{seen:?}");
}

#[tokio::test]
async fn an_answer_of_another_length_than_asked_closes_the_connection() {
    let mut attack = Attack::new().await;
    let (_control, mut stream) = attack.bulk().await;
    let host = attack.host.shared.clone();
    let from = attack.attacker_id();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let fetch = super::session::Fetch { digest: Digest([3; 32]), range: 0..10, total: 10, answer };
    assert!(host.registry.with_session(from, |session| session.fetches.try_send(fetch).is_ok()).unwrap());
    let (frame, length) = frame::read_header(&mut stream).await.unwrap();
    assert_eq!(frame, FrameType::FetchRequest);
    frame::read_body(&mut stream, length).await.unwrap();
    // An answer that nobody waits for is dropped; then the first request is answered too shortly.
    for id in [55u64, 1] {
        write(&mut stream, &[&header(FrameType::FetchReply, 12), &id.to_le_bytes(), &[0; 4]]).await;
    }
    attack.is_caught(stream, Violation::FetchLength { asked: 10, found: 4 }).await;
    assert!(answered.await.is_err(), "the fetch was answered");
    assert_eq!(attack.host.fetch(from, Digest([3; 32]), 0..10, 10).await, Err(FetchError::NotConnected));
}

#[tokio::test]
async fn a_bulk_connection_needs_its_session_and_comes_once() {
    let mut attack = Attack::new().await;
    let bulk = Channel::Bulk { sender: Side::Dialler };
    assert_eq!(attack.open(bulk).await.err(), Some(Rejection::ByThem(Refusal::NoSession)));
    let _streams = attack.bulk().await;
    assert_eq!(attack.open(bulk).await.err(), Some(Rejection::ByThem(Refusal::AlreadyConnected)));
    let second = attack.open(Channel::Control { replace: false }).await;
    assert_eq!(second.err(), Some(Rejection::ByThem(Refusal::AlreadyConnected)));
}

#[tokio::test]
async fn garbage_on_an_admitted_connection_ends_it_and_nothing_else() {
    let mut attack = Attack::new().await;
    for seed in 0..60u64 {
        let mut garbage = [0; 400];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut garbage);
        // A frame type that exists and a short length, so that bodies are reached too.
        garbage[0] %= 12;
        garbage[2..5].fill(0);
        let (mut control, mut bulk) = attack.bulk().await;
        let target = if seed % 2 == 0 { &mut control } else { &mut bulk };
        write(target, &[&garbage]).await;
        drop((control, bulk));
        attack.disconnected().await;
    }
}

#[tokio::test]
async fn garbage_before_and_inside_tls_is_turned_away() {
    let mut attack = Attack::new().await;
    for seed in 0..20u64 {
        let mut garbage = [0; 300];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut garbage);
        if seed % 2 == 0 {
            let mut tcp = TcpStream::connect(attack.host.local).await.unwrap();
            tcp.write_all(&garbage).await.unwrap();
        } else {
            let mut tls = attack.secured().await.unwrap().stream;
            write(&mut tls, &[&garbage]).await;
        }
        let event = attack.events.recv().await.unwrap();
        assert!(matches!(event, Event::Rejected { reason: Rejection::Handshake(_), .. }), "seed {seed}: {event:?}");
    }
    let _control = attack.control().await;
}

#[tokio::test]
async fn another_transport_version_is_refused_with_both_numbers() {
    let mut attack = Attack::new().await;
    let mut tls = attack.secured().await.unwrap().stream;
    write(&mut tls, &[&header(FrameType::Hello, 4), &[9, 0, 1, 2]]).await;
    let (frame, length) = frame::read_header(&mut tls).await.unwrap();
    let body = frame::read_body(&mut tls, length).await.unwrap();
    let refusal = Refusal::Version { offered: 9, spoken: 1 };
    assert_eq!((frame, frame::decode(frame, &body)), (FrameType::Refuse, Ok(refusal.clone())));
    drop(tls);
    let event = attack.events.recv().await.unwrap();
    assert!(matches!(event, Event::Rejected { reason: Rejection::ByUs(reason), .. } if reason == refusal));
}

/// The clock stands still and jumps to the next timer when nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn silent_strangers_are_shown_out_and_members_get_in_behind_them() {
    let (host, mut events) = start(1).await;
    let mut strangers = Vec::new();
    for _ in 0..MAX_HANDSHAKES + 40 {
        strangers.push(TcpStream::connect(host.local).await.unwrap());
    }
    let (member, _member_events) = start(2).await;
    member.dial(host.shared.peer, vec![host.local]);
    while !matches!(events.recv().await.unwrap(), Event::Connected { .. }) {}
    let first = &mut strangers[0];
    assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0, "the connection is still open");
}
