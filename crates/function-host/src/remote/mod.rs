//! Resources on the network: read in ranges, written whole.

mod ranges;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use peerless_protocol::function::{Failure, FailureKind, Remote};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, RequestBuilder};

use crate::failure::failure;

/// Longest time to reach a server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Longest time without progress of a transfer.
const STALL_LIMIT: Duration = Duration::from_secs(20);

/// Times that a transfer which was cut off goes on from where it was. This is no retry of a task: each
/// time something must have arrived.
const MAX_RESUMPTIONS: usize = 3;

/// An HTTP client that keeps its connections between tasks. Its clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
    reads: Arc<AtomicU32>,
}

impl Client {
    pub(crate) fn new() -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(STALL_LIMIT))
            .timeout_recv_body(Some(STALL_LIMIT))
            .timeout_send_body(Some(STALL_LIMIT))
            // Redirected, a token would reach whoever is redirected to.
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("peerless-function/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), reads: Arc::default() }
    }

    /// Requests to read since this was asked last.
    pub(crate) fn take_reads(&self) -> u32 {
        self.reads.swap(0, Ordering::Relaxed)
    }

    /// A request to read a range, or several, as the header names them.
    fn get(&self, remote: &Remote, range: &str) -> Result<Response<Body>, Failure> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let request = self.agent.get(&remote.url).header("Range", range);
        authorised(request, remote).call().map_err(|error| unreachable("read", remote, &error))
    }

    /// Fills `buffer` with the resource's bytes from `offset` on.
    pub(crate) fn read(&self, remote: &Remote, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let mut filled = 0;
        let mut resumptions = 0;
        while filled < buffer.len() {
            let before = filled;
            let outcome = self.read_some(remote, offset, buffer, &mut filled);
            match outcome {
                Ok(()) => {}
                Err(failure) if failure.kind != FailureKind::Environment => return Err(failure),
                Err(failure) if filled == before || resumptions == MAX_RESUMPTIONS => return Err(failure),
                Err(_) => resumptions += 1,
            }
        }
        Ok(())
    }

    /// One request for what is missing behind `filled`, which is advanced by what came.
    fn read_some(&self, remote: &Remote, offset: u64, buffer: &mut [u8], filled: &mut usize) -> Result<(), Failure> {
        let first = offset + *filled as u64;
        let last = offset + buffer.len() as u64 - 1;
        let mut response = self.get(remote, &format!("bytes={first}-{last}"))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            // Who ignores ranges sends everything: right if that is what was asked for.
            StatusCode::OK if first == 0 => {}
            _ => return Err(refused("read", remote, &mut response)),
        }
        let mut body = response.body_mut().as_reader();
        while *filled < buffer.len() {
            match body.read(&mut buffer[*filled..]) {
                Ok(0) => return Err(environment("read", remote, "the connection ended early")),
                Ok(bytes) => *filled += bytes,
                Err(error) => return Err(environment("read", remote, error)),
            }
        }
        Ok(())
    }

    /// Writes the resource.
    pub(crate) fn write(&self, remote: &Remote, bytes: &[u8]) -> Result<(), Failure> {
        let response = authorised(self.agent.put(&remote.url), remote).send(bytes);
        let mut response = response.map_err(|error| unreachable("write", remote, &error))?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refused("write", remote, &mut response))
    }
}

fn authorised<Any>(request: RequestBuilder<Any>, remote: &Remote) -> RequestBuilder<Any> {
    match &remote.token {
        Some(token) => request.header("Authorization", format!("Bearer {token}")),
        None => request,
    }
}

fn environment(action: &str, remote: &Remote, why: impl std::fmt::Display) -> Failure {
    failure(FailureKind::Environment, format!("cannot {action} {}: {why}", remote.address()))
}

fn unreachable(action: &str, remote: &Remote, error: &ureq::Error) -> Failure {
    match error {
        // These name what is wrong with the task, and the first may quote the URL with its secrets.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            failure(FailureKind::Input, format!("cannot {action} {}: not a URL", remote.address()))
        }
        error => environment(action, remote, error),
    }
}

/// What the server answered, with the beginning of what it said.
fn refused(action: &str, remote: &Remote, response: &mut Response<Body>) -> Failure {
    let status = response.status();
    let mut said = Vec::new();
    // Without the words the status is still told.
    let _ = response.body_mut().as_reader().take(200).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    let overloaded =
        status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    // A presigned URL: the next attempt gets another one, to an object that was written anew.
    let outdated = remote.token.is_none() && matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
    let kind = if overloaded || outdated { FailureKind::Environment } else { FailureKind::Input };
    failure(kind, format!("cannot {action} {}: the server answered {status}: {}", remote.address(), said.trim()))
}
