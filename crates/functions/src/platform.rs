//! What every platform offers.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use peerless_protocol::function::{Output, Task};
use tokio::time::Instant;

use crate::error::InvokeError;
use crate::metering::{AttemptId, Meter, Metering};

/// A boxed future, so that platforms can be used as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One attempt at a task.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The work. Its `invocation` names it in records. A call that is given up may leave a function
    /// at work for a while, so a second call for the same unit needs another output file.
    pub task: &'a Task,
    /// Which attempt, counted from 1.
    pub attempt: u32,
    /// Whether it is the second of two at the same time, see [`Hedging`](crate::Hedging). Both have the same number.
    pub hedge: bool,
    /// When the result is of no use any more; bounds the queue and the work. The platform's own time
    /// limit holds besides.
    pub deadline: Option<Instant>,
    /// Takes the attempt's record.
    pub meter: &'a Arc<dyn Meter>,
}

/// A successful attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// The result, of the kind that the task asked for.
    pub output: Output,
    /// What it took.
    pub metering: Metering,
    /// The file with what was written, if it is another one than the task names: that of a hedge.
    pub elsewhere: Option<PathBuf>,
}

/// Runs functions.
///
/// Contract, tested for every platform by one suite:
/// - an attempt is metered exactly once, before its caller gets the result; also a failed one, and
///   one whose caller went away while the function was at work;
/// - a dropped call leaves the queue at once if it was waiting; a function at work finishes within
///   its limits and its report is discarded;
/// - a function that died, hung or broke the protocol is replaced, and costs no other call;
/// - there are never more functions at work than `concurrency`, and none at all before the first call.
pub trait FunctionPlatform: Send + Sync {
    /// Name in records, such as `process`.
    fn name(&self) -> &'static str;

    /// Most functions at work at the same time.
    fn concurrency(&self) -> usize;

    /// Whether functions see the files of this process, so that tasks may name paths. For others every
    /// place in a task must be [`Place::Remote`](peerless_protocol::function::Place::Remote).
    fn shares_files(&self) -> bool;

    /// Makes one attempt. Calls beyond `concurrency` wait in the order in which they came.
    ///
    /// # Errors
    /// Any [`InvokeError`]. Platforms make no further attempt: see [`Retrying`](crate::Retrying).
    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>>;

    /// What the platform is doing now.
    fn snapshot(&self) -> PlatformSnapshot;

    /// Refuses new calls, ends waiting and running ones with [`InvokeError::ShutDown`] and returns
    /// when no function is left.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

impl<P: FunctionPlatform + ?Sized> FunctionPlatform for Arc<P> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn concurrency(&self) -> usize {
        (**self).concurrency()
    }

    fn shares_files(&self) -> bool {
        (**self).shares_files()
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        (**self).invoke(call)
    }

    fn snapshot(&self) -> PlatformSnapshot {
        (**self).snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        (**self).shutdown()
    }
}

/// A moment of a platform.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformSnapshot {
    /// Functions that wait for work.
    pub warm: usize,
    /// Functions at work.
    pub busy: usize,
    /// Calls that wait for a function.
    pub queued: usize,
    /// The functions, by ascending process id.
    pub functions: Vec<FunctionSnapshot>,
    /// Totals since the platform was created.
    pub counters: Counters,
}

impl std::ops::Add for PlatformSnapshot {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            warm: self.warm + other.warm,
            busy: self.busy + other.busy,
            queued: self.queued + other.queued,
            functions: [self.functions, other.functions].concat(),
            counters: self.counters + other.counters,
        }
    }
}

/// One function of a [`PlatformSnapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionSnapshot {
    /// Process id.
    pub pid: u32,
    /// Whether it is at work.
    pub busy: bool,
}

impl Counters {
    /// Counts an attempt that ended.
    pub(crate) fn count(&mut self, attempt: AttemptId, failed: bool) {
        self.invocations += 1;
        self.failed += u64::from(failed);
        self.retried += u64::from(attempt.attempt > 1 && !attempt.hedge);
        self.hedged += u64::from(attempt.hedge);
    }
}

impl std::ops::Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            invocations: self.invocations + other.invocations,
            cold_starts: self.cold_starts + other.cold_starts,
            failed: self.failed + other.failed,
            retried: self.retried + other.retried,
            hedged: self.hedged + other.hedged,
            reaped: self.reaped + other.reaped,
        }
    }
}

/// A platform's health in totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attempts that ended, failed ones included.
    pub invocations: u64,
    /// Functions started.
    pub cold_starts: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that were not the first at their task.
    pub retried: u64,
    /// Attempts that ended and were the second of two at the same time.
    pub hedged: u64,
    /// Functions ended because they were idle for too long.
    pub reaped: u64,
}
