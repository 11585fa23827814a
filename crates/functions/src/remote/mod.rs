//! Functions on other machines: what calling them has in common, whatever the way.

mod endpoints;
mod http;
#[cfg(feature = "lambda")]
mod lambda;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerless_protocol::function::Report;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

pub use self::http::{HttpConfig, HttpConfigError, HttpPlatform};
#[cfg(feature = "lambda")]
pub use self::lambda::{LambdaConfig, LambdaConfigError, LambdaPlatform};
use crate::error::{FunctionName, InvokeError};
use crate::metering::{Billing, Outcome, Ticket};
use crate::platform::{BoxFuture, Call, Counters, Invocation, PlatformSnapshot};
use crate::queue::Queue;
use crate::report::{Expected, MAX_REPORT_BYTES, parse_report};

/// One way to call a function.
pub(crate) trait Door: Send + Sync + 'static {
    /// Name of the platform in records.
    fn platform(&self) -> &'static str;

    /// Most bytes of a task.
    fn task_limit(&self) -> usize;

    /// Sends a task and waits for the answer, at most [`MAX_REPORT_BYTES`]. A hedge goes to another machine than the call
    /// beside it, if the door has several and can tell. It is dropped when it takes
    /// too long.
    fn call(&self, task: Vec<u8>, hedge: bool) -> BoxFuture<'_, Answer>;

    /// What the functions behind it are called together.
    fn name(&self) -> FunctionName;

    /// What is billed for a call that was sent and given up before its answer came.
    fn given_up(&self) -> Billing {
        Billing::default()
    }
}

/// What a remote function answered.
pub(crate) struct Answer {
    /// The report's bytes.
    pub(crate) body: Result<Vec<u8>, InvokeError>,
    /// Who answered, or should have.
    pub(crate) function: FunctionName,
    /// What the platform says that it bills; zeros where it says nothing.
    pub(crate) billing: Billing,
}

/// How many calls at a time, and how long.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) concurrency: usize,
    pub(crate) queue: usize,
    pub(crate) time: Duration,
}

/// Calls of remote functions: queue, limits, metering.
pub(crate) struct Calls<D> {
    shared: Arc<Shared<D>>,
}

struct Shared<D> {
    door: D,
    limits: Limits,
    queue: Queue,
    totals: Mutex<Totals>,
    stop: watch::Sender<bool>,
    /// Calls at work.
    busy: watch::Sender<usize>,
}

#[derive(Default)]
struct Totals {
    counters: Counters,
    closed: bool,
}

/// Where the result of a call is sent.
type Reply = oneshot::Sender<Result<Invocation, InvokeError>>;

/// A call that left the queue. On a task of its own, so that a caller who goes away leaves a call that
/// is seen to its end: it costs all the same, and has to be metered.
struct Job {
    task: Vec<u8>,
    expected: Expected,
    give_up_at: Instant,
    overdue: InvokeError,
    ticket: Ticket,
    reply: Reply,
}

impl<D: Door> Calls<D> {
    pub(crate) fn new(door: D, limits: Limits) -> Self {
        let queue = Queue::new(limits.concurrency, limits.queue);
        let (stop, busy) = (watch::Sender::new(false), watch::Sender::new(0));
        Self { shared: Arc::new(Shared { door, limits, queue, totals: Mutex::default(), stop, busy }) }
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.shared.limits.concurrency
    }

    pub(crate) async fn invoke(&self, call: Call<'_>) -> Result<Invocation, InvokeError> {
        let shared = &self.shared;
        let mut ticket = Ticket::new(&call, shared.door.platform());
        let admitted = match shared.encode(&call) {
            Ok(task) => shared.queue.enter(call.deadline).await.map(|permit| (task, permit)),
            Err(error) => Err(error),
        };
        let (task, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return Err(shared.refuse(ticket, error)),
        };
        if !shared.begin() {
            return Err(shared.refuse(ticket, InvokeError::ShutDown));
        }
        ticket.leave_queue();
        let limit = Instant::now() + shared.limits.time;
        let (give_up_at, overdue) = match call.deadline {
            Some(deadline) if deadline < limit => (deadline, InvokeError::DeadlinePassed),
            _ => (limit, InvokeError::TimedOut { function: shared.door.name(), limit: shared.limits.time }),
        };
        let (reply, answer) = oneshot::channel();
        let expected = Expected::from(&call.task.work);
        let job = Job { task, expected, give_up_at, overdue, ticket, reply };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let (reply, result) = shared.work(job).await;
            drop(permit);
            shared.busy.send_modify(|busy| *busy -= 1);
            // Last, so that who has an answer finds the call at its end. Fails when the caller is gone.
            let _discarded = reply.send(result);
        });
        // The task always answers, unless its runtime goes away with it.
        answer.await.unwrap_or(Err(InvokeError::ShutDown))
    }

    pub(crate) fn snapshot(&self) -> PlatformSnapshot {
        let counters = self.shared.totals().counters;
        let busy = *self.shared.busy.borrow();
        PlatformSnapshot { warm: 0, busy, queued: self.shared.queue.waiting(), functions: Vec::new(), counters }
    }

    pub(crate) async fn shutdown(&self) {
        self.shared.close();
        let mut busy = self.shared.busy.subscribe();
        // Fails only when the sender is gone, and that is in `self`.
        let _all_ended = busy.wait_for(|busy| *busy == 0).await;
    }
}

impl<D> Drop for Calls<D> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<D> Shared<D> {
    fn close(&self) {
        self.totals().closed = true;
        self.queue.close();
        self.stop.send_replace(true);
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call as being at work, under the lock, so that shutdown either refuses it or waits for it.
    fn begin(&self) -> bool {
        let totals = self.totals();
        if !totals.closed {
            self.busy.send_modify(|busy| *busy += 1);
        }
        !totals.closed
    }

    fn refuse(&self, ticket: Ticket, error: InvokeError) -> InvokeError {
        self.count(&ticket, false, true);
        ticket.refuse(&error);
        error
    }

    fn count(&self, ticket: &Ticket, cold: bool, failed: bool) {
        let counters = &mut self.totals().counters;
        counters.cold_starts += u64::from(cold);
        counters.count(ticket.id(), failed);
    }
}

impl<D: Door> Shared<D> {
    fn encode(&self, call: &Call<'_>) -> Result<Vec<u8>, InvokeError> {
        let task = serde_json::to_vec(call.task).map_err(|error| InvokeError::Encode(error.to_string()))?;
        let (bytes, limit) = (task.len(), self.door.task_limit());
        if bytes > limit {
            return Err(InvokeError::TaskTooLarge { function: self.door.name(), bytes, limit });
        }
        Ok(task)
    }

    fn unanswered(&self, why: InvokeError) -> Answer {
        Answer { body: Err(why), function: self.door.name(), billing: self.door.given_up() }
    }

    /// Has the job done; its result, and where to send it.
    async fn work(&self, job: Job) -> (Reply, Result<Invocation, InvokeError>) {
        let Job { task, expected, give_up_at, overdue, mut ticket, reply } = job;
        let (bytes_in, hedge) = (task.len(), ticket.id().hedge);
        let mut stop = self.stop.subscribe();
        let answered = tokio::select! {
            biased;
            answer = self.door.call(task, hedge) => answer,
            () = sleep_until(give_up_at) => self.unanswered(overdue),
            _ = stop.wait_for(|stop| *stop) => self.unanswered(InvokeError::ShutDown),
        };
        ticket.transferred(bytes_in, answered.body.as_ref().map_or(0, Vec::len));
        ticket.billed(answered.billing);
        let result = report(answered, &ticket, &expected);
        if let Ok(report) = &result {
            ticket.reported(report);
        }
        let cold = result.as_ref().is_ok_and(|report| report.cold);
        let result = result.and_then(|report| report.outcome.map_err(InvokeError::Reported));
        let outcome = Outcome::of(&result, reply.is_closed());
        self.count(&ticket, cold, outcome.is_failure());
        let metering = ticket.finish(outcome);
        (reply, result.map(|output| Invocation { output, metering, elsewhere: None }))
    }
}

fn report(answer: Answer, ticket: &Ticket, expected: &Expected) -> Result<Report, InvokeError> {
    let body = answer.body?;
    let report = parse_report(&body, ticket.id().invocation, expected);
    report.map_err(|violation| InvokeError::Protocol { function: answer.function, violation })
}
