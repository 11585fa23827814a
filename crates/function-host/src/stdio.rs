//! The front door for the local pool: one JSON document a line, tasks in, reports out.

use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use peerless_protocol::function::{FUNCTION_PROTOCOL, FailureKind, Report, Task};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Deserialize;
use thiserror::Error;

use crate::failure::failure;
use crate::host::{Host, Options, report, unsupported_version};

/// Longest line that is read, in bytes. Specs have at most 16 KiB and tasks hold no tensors, so a
/// longer one is not a task.
pub const MAX_LINE_BYTES: u64 = 1 << 20;

/// Why a function stops before its stdin ends.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A line that names no invocation, so that no report could be matched with it.
    #[error("received a line that is not a task: {0}")]
    NotATask(#[source] serde_json::Error),
    /// A line that is too long.
    #[error("received a line of more than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// A line without an end: its sender died while it wrote.
    #[error("stdin ended in the middle of a line")]
    Incomplete,
    /// Tasks can no longer be read or reports no longer be written.
    #[error("the connection with the peer failed: {0}")]
    Io(#[from] io::Error),
    /// A report that has no JSON form.
    #[error("a report could not be encoded: {0}")]
    Encode(#[source] serde_json::Error),
}

impl ServeError {
    /// The code with which the process should end: 2 when the other side broke the function
    /// protocol, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotATask(_) | Self::TooLong => 2,
            Self::Incomplete | Self::Io(_) | Self::Encode(_) => 1,
        }
    }
}

/// Serves tasks from stdin until it ends.
///
/// # Errors
/// [`ServeError`]; what cannot be done is not an error but a report of a failure.
pub fn run_stdio(options: Options) -> Result<(), ServeError> {
    if !peerless_training::use_threads(options.threads) {
        tracing::warn!(threads = options.threads, "the number of threads was already set");
    }
    end_with_the_reader_of_stdout()?;
    serve(io::stdin().lock(), io::stdout().lock(), &mut Host::new(options))
}

/// Ends the process, in the middle of a unit too, as soon as nobody can read its reports any more: a
/// peer that was killed must not leave functions at work behind. The end of stdin alone is no reason,
/// since tasks may still wait to be done. (An isolated function is killed by the kernel then, too; this is for all
/// others.)
fn end_with_the_reader_of_stdout() -> Result<(), ServeError> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    let watch = move || {
        // Asked for no event, poll only returns for an error: here, that the other end is closed.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        while let Ok(0) | Err(Errno::INTR) = poll(&mut watched, None) {}
        std::process::exit(1);
    };
    std::thread::Builder::new().name("reader-watch".into()).spawn(watch)?;
    Ok(())
}

/// Serves tasks from any source. Every line gets one report, in order, unless it ends the service.
///
/// # Errors
/// As [`run_stdio`].
pub fn serve(mut tasks: impl BufRead, mut reports: impl Write, host: &mut Host) -> Result<(), ServeError> {
    let mut line = Vec::new();
    while read_line(&mut tasks, &mut line)? {
        let mut report = serde_json::to_vec(&answer(&line, host)?).map_err(ServeError::Encode)?;
        report.push(b'\n');
        reports.write_all(&report)?;
        reports.flush()?;
    }
    Ok(())
}

/// Reads a line, without its end, into `line`; false at the end of the source.
fn read_line(source: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, ServeError> {
    line.clear();
    source.take(MAX_LINE_BYTES + 1).read_until(b'\n', line)?;
    match line.pop() {
        None => Ok(false),
        Some(b'\n') => Ok(true),
        Some(_) if line.len() as u64 >= MAX_LINE_BYTES => Err(ServeError::TooLong),
        Some(_) => Err(ServeError::Incomplete),
    }
}

/// The fields that tasks of all versions have.
#[derive(Deserialize)]
struct Envelope {
    version: u16,
    invocation: u64,
}

/// Does the task of one line.
pub(crate) fn answer(line: &[u8], host: &mut Host) -> Result<Report, ServeError> {
    let start = Instant::now();
    let envelope: Envelope = serde_json::from_slice(line).map_err(ServeError::NotATask)?;
    if envelope.version != FUNCTION_PROTOCOL {
        return Ok(report(envelope.invocation, Err(unsupported_version(envelope.version)), start));
    }
    match serde_json::from_slice::<Task>(line) {
        Ok(task) => Ok(host.handle(&task)),
        Err(error) => {
            let failure = failure(FailureKind::Unsupported, format!("the task cannot be read: {error}"));
            Ok(report(envelope.invocation, Err(failure), start))
        }
    }
}
