//! Bulk connections: blobs one way, requests for them the other way.
//!
//! A pushed blob goes in pieces, and between two pieces the answer to a fetch may pass, so that a
//! joiner is not kept waiting by the payloads of a round.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::super::{BlobError, CloseReason, Event, FetchError, FetchRefusal, Rejection, Violation};
use super::frame::{self, CHUNK_BYTES, Farewell, FrameType, FrameWriter, ReadError};
use super::handshake::finish;
use super::session::{Answer, Fetch, Push};
use super::wire::Stream;
use super::{FETCH_QUEUE, Shared, is_fetchable, lock};

/// Most answers of one connection that are in memory and not yet written.
const REPLY_QUEUE: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct BlobBegin {
    digest: Digest,
    length: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FetchRequest {
    id: u64,
    digest: Digest,
    start: u64,
    end: u64,
    total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct FetchRefused {
    id: u64,
    refusal: FetchRefusal,
}

struct Reply {
    id: u64,
    answer: Result<Bytes, FetchRefusal>,
}

/// Runs the connection on which this side sends blobs.
pub(super) async fn send_blobs(shared: Arc<Shared>, stream: Stream, mut pushes: mpsc::Receiver<Push>) -> CloseReason {
    let (mut reader, writer) = tokio::io::split(stream);
    let mut writer = FrameWriter::new(writer, &shared.sent);
    let (reply, mut replies) = mpsc::channel(REPLY_QUEUE);
    let reason = tokio::select! {
        reason = serve(&shared, &mut reader, reply) => reason.unwrap_or_else(CloseReason::from),
        Err(error) = write_blobs(&mut writer, &mut pushes, &mut replies) => error.into(),
    };
    if let CloseReason::Violated(violation) = &reason {
        finish(reader, writer, Farewell::Violation(violation.clone())).await;
    }
    reason
}

/// Answers requests until the other side ends it: returns why.
async fn serve<R: AsyncRead + Unpin>(
    shared: &Shared,
    reader: &mut R,
    replies: mpsc::Sender<Reply>,
) -> Result<CloseReason, ReadError> {
    loop {
        let (frame, length) = frame::read_header(reader).await?;
        let body = match frame {
            FrameType::FetchRequest | FrameType::Close => frame::read_body(reader, length).await?,
            _ => return Err(frame.unexpected().into()),
        };
        if frame == FrameType::Close {
            return Ok(frame::decode::<Farewell>(frame, &body)?.into());
        }
        let request: FetchRequest = frame::decode(frame, &body)?;
        let reply = Reply { id: request.id, answer: answer(shared, request).await };
        // Waits when the other side asks faster than it reads. It fails only when the writer has.
        let _ = replies.send(reply).await;
    }
}

async fn answer(shared: &Shared, request: FetchRequest) -> Result<Bytes, FetchRefusal> {
    let FetchRequest { digest, start, end, total, .. } = request;
    let range = start..end;
    if !is_fetchable(&range, total) {
        return Err(FetchRefusal::Range);
    }
    let source = Arc::clone(&shared.source);
    let read = tokio::task::spawn_blocking(move || source.read(&digest, range, total)).await;
    match read {
        Ok(Ok(bytes)) if bytes.len() as u64 == end - start => Ok(bytes),
        Ok(Err(BlobError::Unknown)) => Err(FetchRefusal::Unknown),
        Ok(Err(BlobError::OtherLength { total })) => Err(FetchRefusal::OtherLength { total }),
        Ok(Err(BlobError::Read(error))) => {
            tracing::warn!(%digest, error, "cannot read a blob that a peer asks for");
            Err(FetchRefusal::Read)
        }
        Ok(Ok(_)) | Err(_) => Err(FetchRefusal::Read),
    }
}

async fn write_blobs<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    pushes: &mut mpsc::Receiver<Push>,
    replies: &mut mpsc::Receiver<Reply>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            Some(reply) = replies.recv() => write_reply(writer, reply).await?,
            Some(push) = pushes.recv() => write_push(writer, push, replies).await?,
            else => return Ok(()),
        }
    }
}

async fn write_push<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    push: Push,
    replies: &mut mpsc::Receiver<Reply>,
) -> io::Result<()> {
    let begin = BlobBegin { digest: push.digest, length: push.blob.len() as u64 };
    writer.write(&frame::encode(FrameType::BlobBegin, &begin)?, &[]).await?;
    for piece in push.blob.chunks(CHUNK_BYTES) {
        writer.write(&frame::header(FrameType::BlobData, piece.len()), piece).await?;
        // Without it, a blob would keep its thread until the kernel's buffer is full: tens of
        // milliseconds in which a heartbeat may wait for the thread.
        tokio::task::yield_now().await;
        if let Ok(reply) = replies.try_recv() {
            write_reply(writer, reply).await?;
        }
    }
    Ok(())
}

async fn write_reply<W: AsyncWrite + Unpin>(writer: &mut FrameWriter<W>, reply: Reply) -> io::Result<()> {
    match reply.answer {
        Ok(bytes) => {
            let id = reply.id.to_le_bytes();
            let head = [&frame::header(FrameType::FetchReply, id.len() + bytes.len())[..], &id].concat();
            writer.write(&head, &bytes).await
        }
        Err(refusal) => {
            let refused = FetchRefused { id: reply.id, refusal };
            writer.write(&frame::encode(FrameType::FetchRefused, &refused)?, &[]).await
        }
    }
}

/// Runs the connection on which the other side sends blobs.
pub(super) async fn receive_blobs(
    shared: Arc<Shared>,
    peer: PeerId,
    remote: SocketAddr,
    stream: Stream,
    mut fetches: mpsc::Receiver<Fetch>,
) -> CloseReason {
    let (mut reader, writer) = tokio::io::split(stream);
    let mut writer = FrameWriter::new(writer, &shared.sent);
    let waiting = Waiting::default();
    let receiver = Receiver { shared: &shared, peer, waiting: &waiting, incoming: None };
    let reason = tokio::select! {
        reason = receiver.run(&mut reader, |rejection| {
            shared.events.report(Some(peer), remote, rejection);
        }) => reason.unwrap_or_else(CloseReason::from),
        Err(error) = write_requests(&mut writer, &mut fetches, &waiting) => error.into(),
    };
    if let CloseReason::Violated(violation) = &reason {
        finish(reader, writer, Farewell::Violation(violation.clone())).await;
    }
    reason
}

/// The fetches that wait for their answer, by request id.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, (Range<u64>, Answer)>>);

impl Waiting {
    /// Adds a fetch, unless too many wait already.
    fn add(&self, id: u64, fetch: Fetch) -> Option<FetchRequest> {
        let mut waiting = lock(&self.0);
        if waiting.len() >= FETCH_QUEUE {
            waiting.retain(|_, (_, answer)| !answer.is_closed());
        }
        let Fetch { digest, range, total, answer } = fetch;
        if waiting.len() >= FETCH_QUEUE {
            let _ = answer.send(Err(FetchError::Busy));
            return None;
        }
        let request = FetchRequest { id, digest, start: range.start, end: range.end, total };
        waiting.insert(id, (range, answer));
        Some(request)
    }

    /// Hands an answer to who waits for it, if anybody still does.
    fn answer(&self, id: u64, answer: Result<Bytes, FetchError>) -> Result<(), Violation> {
        let Some((range, waiting)) = lock(&self.0).remove(&id) else { return Ok(()) };
        if let Ok(bytes) = &answer {
            let (asked, found) = (range.end - range.start, bytes.len() as u64);
            if asked != found {
                return Err(Violation::FetchLength { asked, found });
            }
        }
        let _ = waiting.send(answer);
        Ok(())
    }
}

async fn write_requests<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    fetches: &mut mpsc::Receiver<Fetch>,
    waiting: &Waiting,
) -> io::Result<()> {
    let mut id = 0;
    while let Some(fetch) = fetches.recv().await {
        // A fetch whose caller has given up is not worth a request.
        if fetch.answer.is_closed() {
            continue;
        }
        id += 1;
        if let Some(request) = waiting.add(id, fetch) {
            writer.write(&frame::encode(FrameType::FetchRequest, &request)?, &[]).await?;
        }
    }
    Ok(())
}

/// A pushed blob that is not complete yet.
struct Incoming {
    begin: BlobBegin,
    bytes: Vec<u8>,
    hasher: blake3::Hasher,
}

struct Receiver<'a> {
    shared: &'a Shared,
    peer: PeerId,
    waiting: &'a Waiting,
    incoming: Option<Incoming>,
}

impl Receiver<'_> {
    /// Reads blobs and answers until the other side ends it: returns why.
    async fn run<R: AsyncRead + Unpin>(
        mut self,
        reader: &mut R,
        report: impl Fn(Rejection),
    ) -> Result<CloseReason, ReadError> {
        loop {
            let (frame, length) = frame::read_header(reader).await?;
            match frame {
                FrameType::BlobBegin => self.begin(&frame::read_body(reader, length).await?)?,
                FrameType::BlobData => self.piece(reader, length).await?,
                FrameType::FetchReply => self.reply(frame::read_body(reader, length).await?)?,
                FrameType::FetchRefused => {
                    let body = frame::read_body(reader, length).await?;
                    let refused: FetchRefused = frame::decode(frame, &body)?;
                    self.waiting.answer(refused.id, Err(FetchError::Refused(refused.refusal)))?;
                }
                FrameType::Close => {
                    let body = frame::read_body(reader, length).await?;
                    return Ok(frame::decode::<Farewell>(frame, &body)?.into());
                }
                _ => return Err(frame.unexpected().into()),
            }
            self.deliver_complete(&report).await;
        }
    }

    fn begin(&mut self, body: &[u8]) -> Result<(), Violation> {
        let begin: BlobBegin = frame::decode(FrameType::BlobBegin, body)?;
        let limit = self.shared.max_blob_bytes;
        if begin.length > limit {
            return Err(Violation::BlobTooLong { length: begin.length, limit });
        }
        if self.incoming.is_some() {
            return Err(Violation::BlobInBlob);
        }
        self.incoming = Some(Incoming { begin, bytes: Vec::new(), hasher: blake3::Hasher::new() });
        Ok(())
    }

    async fn piece<R: AsyncRead + Unpin>(&mut self, reader: &mut R, length: usize) -> Result<(), ReadError> {
        let Some(incoming) = &mut self.incoming else { return Err(FrameType::BlobData.unexpected().into()) };
        let (before, announced) = (incoming.bytes.len(), incoming.begin.length);
        if (before + length) as u64 > announced {
            return Err(Violation::BlobOverrun { length: announced }.into());
        }
        frame::read_onto(reader, &mut incoming.bytes, length, announced as usize).await?;
        incoming.hasher.update(&incoming.bytes[before..]);
        tokio::task::yield_now().await;
        Ok(())
    }

    fn reply(&mut self, body: Vec<u8>) -> Result<(), Violation> {
        let id = *body.first_chunk().ok_or(FrameType::FetchReply.malformed())?;
        let bytes = Bytes::from(body).slice(frame::REPLY_HEAD_BYTES..);
        self.waiting.answer(u64::from_le_bytes(id), Ok(bytes))
    }

    async fn deliver_complete(&mut self, report: &impl Fn(Rejection)) {
        let complete = |incoming: &mut Incoming| incoming.bytes.len() as u64 == incoming.begin.length;
        let Some(incoming) = self.incoming.take_if(complete) else { return };
        let digest = incoming.begin.digest;
        if incoming.hasher.finalize() != blake3::Hash::from_bytes(digest.0) {
            report(Rejection::CorruptPayload { digest });
            return;
        }
        let event = Event::Payload { from: self.peer, digest, bytes: incoming.bytes.into() };
        self.shared.events.deliver(event).await;
    }
}

/// Feeds both ends of a bulk connection with what the other side sends; see [`super::fuzzing`].
#[cfg(fuzzing)]
pub(super) async fn fuzz(shared: &Shared, bytes: &[u8]) {
    let waiting = Waiting::default();
    for id in 0..4 {
        let (answer, _) = tokio::sync::oneshot::channel();
        let fetch = Fetch { digest: Digest([0; 32]), range: 0..id * 8, total: 64, answer };
        assert!(waiting.add(id, fetch).is_some(), "four fetches may wait");
    }
    let receiver = Receiver { shared, peer: shared.peer, waiting: &waiting, incoming: None };
    let _ = receiver.run(&mut &bytes[..], |_| {}).await;
    let (mut requests, (replies, mut written)) = (bytes, mpsc::channel(REPLY_QUEUE));
    tokio::select! {
        _ = serve(shared, &mut requests, replies) => {}
        () = async { while written.recv().await.is_some() {} } => {}
    }
}
