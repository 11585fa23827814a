//! PUT of an output: gathered beside its place, valid only when it is whole.

use std::fs::OpenOptions;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_RANGE};
use hyper::{Request, Response, StatusCode};
use peerless_protocol::Digest;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::counters::Counters;
use super::grants::{Destination, Permission};
use super::pieces::Pieces;
use super::refusal::Refusal;
use crate::data_path::OutputSize;

/// Takes the body as the output of a permission. Whatever stops it before the end, an error or the
/// client, leaves nothing behind, and the output can be sent again.
pub(super) async fn upload(
    permission: &Arc<Permission>,
    request: Request<Incoming>,
    stall: Duration,
    counters: &Counters,
) -> Result<Response<Pieces>, Refusal> {
    let write = permission.begin_write()?;
    let Some(destination) = &permission.rights.output else {
        return Err(Refusal::internal("there is no place for the output"));
    };
    check_head(&request, destination.size)?;
    let unwritable = |error: std::io::Error| {
        tracing::warn!(path = %destination.partial.display(), %error, "an output cannot be written");
        Refusal::internal("the output cannot be written")
    };
    let created = OpenOptions::new().write(true).create(true).truncate(true).open(&destination.partial);
    let mut file = File::from_std(created.map_err(unwritable)?);
    let mut body = request.into_body();
    let mut hasher = blake3::Hasher::new();
    let mut written = 0_u64;
    loop {
        let chunk = tokio::select! {
            biased;
            () = permission.ended() => return Err(Refusal::new(StatusCode::FORBIDDEN, "this attempt is over")),
            chunk = timeout(stall, next_chunk(&mut body)) => chunk,
        };
        let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "nothing of the body came for too long");
        let Some(bytes) = chunk.map_err(late)?? else { break };
        written = written.saturating_add(bytes.len() as u64);
        counters.received(bytes.len());
        if written > destination.size.limit() {
            return Err(too_large());
        }
        hasher.update(&bytes);
        file.write_all(&bytes).await.map_err(unwritable)?;
    }
    check_length(destination, written)?;
    file.flush().await.map_err(unwritable)?;
    if !write.complete(Digest(*hasher.finalize().as_bytes())) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this attempt is over"));
    }
    let mut response = Response::new(Pieces::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn too_large() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the output is longer than the task's")
}

fn too_short() -> Refusal {
    Refusal::bad_request("the output is shorter than the task's")
}

/// Refuses before anything of the body is asked for.
fn check_head(request: &Request<Incoming>, size: OutputSize) -> Result<(), Refusal> {
    if request.headers().contains_key(CONTENT_RANGE) {
        return Err(Refusal::bad_request("outputs are written whole"));
    }
    if request.headers().contains_key(CONTENT_ENCODING) {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "outputs are not encoded"));
    }
    match (request.body().size_hint().exact(), size) {
        (Some(announced), _) if announced > size.limit() => Err(too_large()),
        (Some(announced), OutputSize::Exactly(expected)) if announced < expected => Err(too_short()),
        _ => Ok(()),
    }
}

fn check_length(destination: &Destination, written: u64) -> Result<(), Refusal> {
    if destination.size.allows(written) { Ok(()) } else { Err(too_short()) }
}

/// The next bytes of a body; `None` at its end, trailers aside.
async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Err(_)) => return Err(Refusal::bad_request("the body was cut off or is malformed")),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}
