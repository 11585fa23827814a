//! Every way in which an invocation can fail, and which of them are worth another attempt.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use peerless_protocol::function::{Failure, FailureKind};
use thiserror::Error;

use crate::metering::WorkLabel;

/// How a function's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It exited with this code.
    Exit(i32),
    /// This signal ended it (9 is `SIGKILL`, 6 `SIGABRT`, 11 `SIGSEGV`).
    Signal(i32),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a function is called in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FunctionName {
    /// A process of this machine, by its id.
    Process(u32),
    /// A remote one: its URL without secrets, or the name at its platform.
    Remote(String),
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "function {pid}"),
            Self::Remote(name) => write!(f, "the function {name}"),
        }
    }
}

/// What a function did that the function protocol does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtocolViolation {
    /// The line is not a report.
    #[error("expected a report as one line of JSON, got {excerpt:?} ({reason})")]
    NotAReport {
        /// The beginning of the line.
        excerpt: String,
        /// What the JSON decoder found wrong.
        reason: String,
    },
    /// The report is of another invocation.
    #[error("expected the report of invocation {expected}, got that of invocation {found}")]
    WrongInvocation {
        /// The invocation that was asked for.
        expected: u64,
        /// The one that was answered.
        found: u64,
    },
    /// The report is of another kind of work, or a gradient without digest.
    #[error("the report's output does not belong to {expected}")]
    WrongOutput {
        /// What was asked for.
        expected: WorkLabel,
    },
    /// The line does not end.
    #[error("the report is longer than {limit} bytes")]
    LineTooLong {
        /// Most bytes a report may have.
        limit: usize,
    },
}

/// Why an attempt gave no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvokeError {
    /// The task cannot be written as JSON (a path that is not UTF-8).
    #[error("the task cannot be written as JSON: {0}")]
    Encode(String),
    /// The function's program did not start.
    #[error("cannot start the function program {}: {message}", command.display())]
    Spawn {
        /// The program.
        command: PathBuf,
        /// Class of the operating system's error.
        kind: io::ErrorKind,
        /// The operating system's error.
        message: String,
    },
    /// The function ended before it reported.
    #[error("function {function} died ({death}){}", last_words(stderr))]
    Died {
        /// Process id.
        function: u32,
        /// Exit code or signal.
        death: Death,
        /// The last lines it wrote to stderr; may be empty.
        stderr: String,
    },
    /// The function ended because an allocation failed, or it was killed because its cgroup's memory was used up.
    /// Only known where the function's run-time says so on stderr, as those of Rust, C++ and Python do, or
    /// the function has a cgroup; one that the kernel's out-of-memory killer took because the whole machine was
    /// out of memory looks like any other killed by signal 9.
    #[error(
        "function {function} ran out of memory ({death}, {}){}",
        limit.map_or("no limit set".to_owned(), |bytes| format!("limit {bytes} bytes")),
        last_words(stderr)
    )]
    OutOfMemory {
        /// Process id.
        function: u32,
        /// Exit code or signal.
        death: Death,
        /// The memory limit that was in force, in bytes.
        limit: Option<u64>,
        /// The last lines it wrote to stderr.
        stderr: String,
    },
    /// The function took longer than the platform allows and was killed, or given up where it is remote.
    #[error("{function} took longer than the limit of {limit:?}")]
    TimedOut {
        /// Which one.
        function: FunctionName,
        /// The limit.
        limit: Duration,
    },
    /// The call's own deadline passed, in the queue or at work (the function was killed then).
    #[error("the deadline of the call passed before there was a report")]
    DeadlinePassed,
    /// The function does not keep to the function protocol. A process that does not is replaced.
    #[error("{function} broke the function protocol: {violation}")]
    Protocol {
        /// Which one.
        function: FunctionName,
        /// What it did.
        violation: ProtocolViolation,
    },
    /// A remote function could not be reached, or the connection broke before it answered.
    #[error("cannot reach {function}: {reason}")]
    Unreachable {
        /// Which one.
        function: FunctionName,
        /// What the network or TLS says.
        reason: String,
    },
    /// The platform wants fewer calls.
    #[error("{function} is busy{}", asked_pause(*retry_after))]
    Throttled {
        /// Which one.
        function: FunctionName,
        /// How long to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// The platform does not let this peer call the function.
    #[error("{function} denies access ({reason}); check the token or role that this peer calls it with")]
    Denied {
        /// Which one.
        function: FunctionName,
        /// What the platform says.
        reason: String,
    },
    /// There is no such function.
    #[error("there is no such function: {function} ({reason}); check its name, region and URL")]
    Missing {
        /// Which one.
        function: FunctionName,
        /// What the platform says.
        reason: String,
    },
    /// The platform itself failed, or the function died before it answered and the platform says no more.
    #[error("{function} failed without a report: {reason}")]
    Crashed {
        /// Which one.
        function: FunctionName,
        /// What the platform says.
        reason: String,
    },
    /// The platform refused the task.
    #[error("{function} refuses the task: {reason}")]
    Refused {
        /// Which one.
        function: FunctionName,
        /// What the platform says.
        reason: String,
    },
    /// The task is larger than the platform takes.
    #[error("the task has {bytes} bytes, but {function} takes at most {limit}")]
    TaskTooLarge {
        /// Which one.
        function: FunctionName,
        /// Bytes of the task.
        bytes: usize,
        /// Most bytes of a task.
        limit: usize,
    },
    /// As many calls as allowed are waiting for a function already.
    #[error("the queue is full: {limit} tasks wait for a function")]
    QueueFull {
        /// Most calls that may wait.
        limit: usize,
    },
    /// What the task reads could not be offered to the function, or what it wrote did not arrive.
    #[error("{message}")]
    Transfer {
        /// What could not be moved, and why.
        message: String,
        /// Whether it can be moved the next time.
        retryable: bool,
        /// Whether the way by which functions get at tensors seems to be gone for now, whatever is to be moved.
        gone: bool,
    },
    /// The platform was shut down.
    #[error("the platform is shut down")]
    ShutDown,
    /// The function itself reported that the task failed.
    #[error("the function reported a failure: {}", .0.message)]
    Reported(Failure),
}

/// What a busy platform asks for, if it asks for anything.
fn asked_pause(retry_after: Option<Duration>) -> String {
    let pause = retry_after.filter(|pause| !pause.is_zero());
    pause.map_or(String::new(), |pause| format!("; it asks for a pause of {pause:?}"))
}

impl InvokeError {
    /// Whether another attempt on this platform can succeed. Whatever befell one process is worth an
    /// attempt on a fresh one (also memory: a warm function may have held on to earlier units').
    /// A full queue is not: retries would go round the bound that it is.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Died { .. } | Self::OutOfMemory { .. } | Self::TimedOut { .. } | Self::Protocol { .. } => true,
            // Networks and other people's machines fail for a while; rights and names do not come back by asking.
            Self::Unreachable { .. } | Self::Throttled { .. } | Self::Crashed { .. } => true,
            Self::Denied { .. } | Self::Missing { .. } | Self::Refused { .. } | Self::TaskTooLarge { .. } => false,
            // The machine may run out of processes or memory for a moment; a program that is missing stays missing.
            Self::Spawn { kind, .. } => matches!(
                kind,
                io::ErrorKind::WouldBlock
                    | io::ErrorKind::OutOfMemory
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::ExecutableFileBusy
            ),
            Self::Reported(failure) => match failure.kind {
                FailureKind::Environment => true,
                FailureKind::Unsupported | FailureKind::Input | FailureKind::Numerics => false,
            },
            Self::Transfer { retryable, .. } => *retryable,
            Self::Encode(_) | Self::DeadlinePassed | Self::QueueFull { .. } | Self::ShutDown => false,
        }
    }

    /// For how long the platform wants to be left alone; `None` if it is not about that.
    pub fn throttled(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } => Some(retry_after.unwrap_or_default()),
            _ => None,
        }
    }

    /// Whether the platform as a whole seems to be gone for now, or the way to it, rather than one function or task.
    pub fn platform_gone(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Denied { .. } | Self::Missing { .. } | Self::Spawn { .. } => true,
            Self::Transfer { gone, .. } => *gone,
            _ => false,
        }
    }

    /// A short name of the error's class, for the ledger.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Encode(_) => "encode",
            Self::Spawn { .. } => "spawn",
            Self::Died { .. } => "died",
            Self::OutOfMemory { .. } => "out-of-memory",
            Self::TimedOut { .. } => "timed-out",
            Self::DeadlinePassed => "deadline-passed",
            Self::Protocol { .. } => "protocol",
            Self::Unreachable { .. } => "unreachable",
            Self::Throttled { .. } => "throttled",
            Self::Denied { .. } => "denied",
            Self::Missing { .. } => "missing",
            Self::Crashed { .. } => "crashed",
            Self::Refused { .. } => "refused",
            Self::TaskTooLarge { .. } => "task-too-large",
            Self::QueueFull { .. } => "queue-full",
            Self::Transfer { .. } => "transfer",
            Self::ShutDown => "shut-down",
            Self::Reported(_) => "reported",
        }
    }
}

fn last_words(stderr: &str) -> String {
    if stderr.is_empty() {
        return String::new();
    }
    format!("; last lines of its stderr:\n{stderr}")
}

/// A task that failed in every attempt allowed, or in one that is not worth repeating.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{work} failed after {attempts} attempt(s): {error}")]
pub struct TaskFailed {
    /// What was to be done.
    pub work: WorkLabel,
    /// Attempts made.
    pub attempts: u32,
    /// The last attempt's error.
    pub error: InvokeError,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(kind: FailureKind) -> InvokeError {
        InvokeError::Reported(Failure { kind, message: "no".into() })
    }

    fn spawn(kind: io::ErrorKind) -> InvokeError {
        InvokeError::Spawn { command: "/f".into(), kind, message: "no".into() }
    }

    #[test]
    fn only_what_can_differ_next_time_is_retried() {
        let died = InvokeError::Died { function: 1, death: Death::Signal(9), stderr: String::new() };
        for error in [died, spawn(io::ErrorKind::WouldBlock), reported(FailureKind::Environment)] {
            assert!(error.retryable(), "{error}");
        }
        for error in [
            spawn(io::ErrorKind::NotFound),
            spawn(io::ErrorKind::PermissionDenied),
            reported(FailureKind::Numerics),
            reported(FailureKind::Input),
            reported(FailureKind::Unsupported),
            InvokeError::QueueFull { limit: 1 },
            InvokeError::DeadlinePassed,
            InvokeError::ShutDown,
        ] {
            assert!(!error.retryable(), "{error}");
        }
    }

    #[test]
    fn a_failed_task_names_unit_round_and_cause() {
        let failed = TaskFailed {
            work: WorkLabel::Unit { round: 7, unit: 3 },
            attempts: 3,
            error: InvokeError::Died { function: 42, death: Death::Exit(3), stderr: "oh no".into() },
        };
        assert_eq!(
            failed.to_string(),
            "unit 3 of round 7 failed after 3 attempt(s): function 42 died (exit code 3); last lines of its stderr:\noh no"
        );
    }
}
