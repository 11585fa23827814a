//! Metering: what each attempt took, for the ledger.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peerless_protocol::function::{Report, Work};

use crate::error::InvokeError;
use crate::platform::Call;
use crate::prices::Usage;

/// What an invocation is about, without its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkLabel {
    /// Initial parameters.
    Initialise,
    /// A unit, gradient or evaluation.
    Unit {
        /// Its round.
        round: u64,
        /// Its number within the round.
        unit: u32,
    },
    /// Nothing.
    Ping,
}

impl From<&Work> for WorkLabel {
    fn from(work: &Work) -> Self {
        match *work {
            Work::Initialise { .. } => Self::Initialise,
            Work::Unit { round, unit, .. } => Self::Unit { round, unit },
            Work::Ping => Self::Ping,
        }
    }
}

impl fmt::Display for WorkLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialise => write!(f, "initialisation"),
            Self::Unit { round, unit } => write!(f, "unit {unit} of round {round}"),
            Self::Ping => write!(f, "ping"),
        }
    }
}

/// Names an attempt within one life of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The task's `invocation`.
    pub invocation: u64,
    /// Which attempt at the task, counted from 1.
    pub attempt: u32,
    /// Whether it is the second of two at the same time.
    pub hedge: bool,
}

impl From<&Call<'_>> for AttemptId {
    fn from(call: &Call<'_>) -> Self {
        Self { invocation: call.task.invocation, attempt: call.attempt, hedge: call.hedge }
    }
}

/// What one attempt took. Bytes are those of task and report; tensors travel by reference and are
/// counted where they are moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metering {
    /// Process id of the function; absent when the attempt failed before it had one.
    pub function: Option<u32>,
    /// Whether the function was started for this attempt.
    pub cold: bool,
    /// When the attempt left the queue, in microseconds since the Unix epoch.
    pub started_unix_us: u64,
    /// Time in the queue, in microseconds.
    pub queue_us: u64,
    /// From leaving the queue to the end, including the start of a cold function, in microseconds.
    pub duration_us: u64,
    /// Time spent on the task as the function reports it, in microseconds; 0 without a report.
    pub compute_us: u64,
    /// Largest resident set of the function as it reports it, in bytes; 0 without a report.
    pub peak_memory_bytes: u64,
    /// Requests that the function made to read from the network, if it reported them.
    pub reads: Option<u32>,
    /// Bytes of the task.
    pub bytes_in: u64,
    /// Bytes of the report.
    pub bytes_out: u64,
    /// What the platform bills for it.
    pub billing: Billing,
}

/// What a platform bills for an attempt, and the tensors that it moved; zeros where nobody bills anything and
/// files are shared, as with processes of this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Billing {
    /// Memory that the function is configured with, in MB of 2^20 bytes.
    pub memory_mb: u32,
    /// Billed time in milliseconds, as the platform rounds it, with the time to initialise where it bills that.
    pub billed_ms: u64,
    /// Time to initialise a cold function as the platform reports it, in microseconds.
    pub init_us: u64,
    /// Requests that are billed: 1, or 0 for an attempt that was throttled or never came to a function.
    pub requests: u32,
    /// Bytes of tensors that the function fetched by reference.
    pub tensor_bytes_in: u64,
    /// Bytes of tensors that the function sent.
    pub tensor_bytes_out: u64,
    /// Objects written to a bucket, by function and peer.
    pub bucket_puts: u32,
    /// Objects read from a bucket, by function and peer.
    pub bucket_gets: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Succeeded,
    /// When nobody waited for it any more, with a result or by the end of the platform: cost without use.
    Discarded,
    /// With an error.
    Failed(InvokeError),
}

impl Outcome {
    /// How an attempt ended that came to `result`, for a caller who may be gone.
    pub(crate) fn of<T>(result: &Result<T, InvokeError>, caller_is_gone: bool) -> Self {
        match result {
            Ok(_) | Err(InvokeError::ShutDown) if caller_is_gone => Self::Discarded,
            Ok(_) => Self::Succeeded,
            Err(error) => Self::Failed(error.clone()),
        }
    }

    /// Whether it was an error.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// One attempt, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvocationRecord {
    /// Which attempt at which task.
    pub id: AttemptId,
    /// What was to be done.
    pub work: WorkLabel,
    /// Name of the platform.
    pub platform: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What it took.
    pub metering: Metering,
}

impl InvocationRecord {
    /// What there is to charge for.
    pub fn usage(&self) -> Usage {
        let Metering { duration_us, billing, .. } = self.metering;
        Usage {
            memory_mb: billing.memory_mb,
            billed_ms: billing.billed_ms,
            requests: billing.requests,
            duration_us,
            tensor_bytes_out: billing.tensor_bytes_out,
            bucket_puts: billing.bucket_puts,
            bucket_gets: billing.bucket_gets,
        }
    }
}

/// Takes the record of each attempt. It is called before the caller gets the result, on the task
/// that drives the function: it must not block (send to a channel, say).
pub trait Meter: Send + Sync {
    /// Takes one record.
    fn record(&self, record: InvocationRecord);

    /// An attempt has left the queue and begins to cost. Its record follows, with whatever outcome.
    fn began(&self, _attempt: AttemptId) {}
}

impl<F: Fn(InvocationRecord) + Send + Sync> Meter for F {
    fn record(&self, record: InvocationRecord) {
        self(record);
    }
}

/// Measures one attempt and hands over its record. An attempt that its caller takes back out of the
/// queue drops its ticket: nothing ran, so there is nothing to account for.
pub(crate) struct Ticket {
    meter: Arc<dyn Meter>,
    record: InvocationRecord,
    clock: Instant,
}

impl Ticket {
    pub(crate) fn new(call: &Call<'_>, platform: &'static str) -> Self {
        Self {
            meter: Arc::clone(call.meter),
            record: InvocationRecord {
                id: AttemptId::from(call),
                work: WorkLabel::from(&call.task.work),
                platform,
                outcome: Outcome::Succeeded,
                metering: Metering {
                    function: None,
                    cold: false,
                    started_unix_us: unix_us(),
                    queue_us: 0,
                    duration_us: 0,
                    compute_us: 0,
                    peak_memory_bytes: 0,
                    reads: None,
                    bytes_in: 0,
                    bytes_out: 0,
                    billing: Billing::default(),
                },
            },
            clock: Instant::now(),
        }
    }

    pub(crate) fn id(&self) -> AttemptId {
        self.record.id
    }

    pub(crate) fn leave_queue(&mut self) {
        self.record.metering.queue_us = micros(self.clock.elapsed());
        self.record.metering.started_unix_us = unix_us();
        self.clock = Instant::now();
        self.meter.began(self.record.id);
    }

    pub(crate) fn assign(&mut self, function: u32, cold: bool) {
        self.record.metering.function = Some(function);
        self.record.metering.cold = cold;
    }

    pub(crate) fn transferred(&mut self, bytes_in: usize, bytes_out: usize) {
        self.record.metering.bytes_in = bytes_in as u64;
        self.record.metering.bytes_out = bytes_out as u64;
    }

    pub(crate) fn billed(&mut self, billing: Billing) {
        self.record.metering.billing = billing;
    }

    pub(crate) fn reported(&mut self, report: &Report) {
        self.record.metering.compute_us = report.duration_us;
        self.record.metering.peak_memory_bytes = report.peak_memory_bytes;
        self.record.metering.reads = report.reads;
    }

    /// Ends the attempt in the queue.
    pub(crate) fn refuse(mut self, error: &InvokeError) {
        self.record.metering.queue_us = micros(self.clock.elapsed());
        self.hand_over(Outcome::Failed(error.clone()));
    }

    /// Ends the attempt after the queue.
    pub(crate) fn finish(mut self, outcome: Outcome) -> Metering {
        self.record.metering.duration_us = micros(self.clock.elapsed());
        let metering = self.record.metering;
        self.hand_over(outcome);
        metering
    }

    fn hand_over(mut self, outcome: Outcome) {
        self.record.outcome = outcome;
        self.meter.record(self.record);
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
}
