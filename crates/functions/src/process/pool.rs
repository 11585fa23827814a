//! The pool: who waits, who is warm, and the task that drives each function.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerless_protocol::function::{Failure, Report};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::ProcessConfig;
use super::child::{Broken, Function};
use super::isolation::Confinement;
use super::keep_warm::{self, KeepWarm};
use super::spawner::Spawner;
use crate::error::{FunctionName, InvokeError, ProtocolViolation};
use crate::metering::{Outcome, Ticket};
use crate::platform::{Call, Counters, FunctionSnapshot, Invocation, PlatformSnapshot};
use crate::queue::Queue;
use crate::report::{Expected, MAX_REPORT_BYTES, parse_report};

/// The platform's name.
pub(super) const PLATFORM: &str = "process";

/// Stands for "no deadline": longer than any process lives, and far from the clock's end.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

type Answer = Result<Invocation, InvokeError>;

/// What the pool's handle and the drivers share.
pub(super) struct Shared {
    config: ProcessConfig,
    confinement: Option<Confinement>,
    spawner: Spawner,
    queue: Queue,
    /// Memory for each core of a machine that is paid for by time.
    bytes_per_core: Option<u64>,
    population: Mutex<Population>,
    stop: watch::Sender<bool>,
    /// Functions that are not reaped yet.
    alive: watch::Sender<usize>,
}

#[derive(Default)]
struct Population {
    closed: bool,
    /// Warm functions, the most recently used last.
    idle: Vec<Idle>,
    /// Whether it is busy, by process id.
    functions: BTreeMap<u32, bool>,
    counters: Counters,
    keep_warm: KeepWarm,
}

/// A warm function. Its driver leaves only after it took itself out of the list, so whoever takes an
/// entry out can rely on the driver to take the job.
struct Idle {
    pid: u32,
    jobs: mpsc::Sender<Job>,
}

/// A call that left the queue. Owned by a driver and not by the caller, so that a caller that goes
/// away leaves a function that finishes its task.
struct Job {
    line: Vec<u8>,
    expected: Expected,
    kill_at: Instant,
    overdue: Overdue,
    ticket: Ticket,
    reply: oneshot::Sender<Answer>,
    permit: OwnedSemaphorePermit,
}

/// Whose limit `kill_at` is.
enum Overdue {
    Platform,
    Call,
}

enum Next {
    Warm(Idle),
    Cold(Resident),
    Closed,
}

impl Shared {
    pub(super) fn new(config: ProcessConfig, confinement: Option<Confinement>) -> Arc<Self> {
        Arc::new(Self {
            queue: Queue::new(config.concurrency, config.queue_limit),
            bytes_per_core: if config.machine_is_paid { keep_warm::bytes_per_core() } else { None },
            config,
            confinement,
            spawner: Spawner::default(),
            population: Mutex::default(),
            stop: watch::Sender::new(false),
            alive: watch::Sender::new(0),
        })
    }

    pub(super) fn concurrency(&self) -> usize {
        self.config.concurrency
    }

    pub(super) async fn invoke(self: &Arc<Self>, call: Call<'_>) -> Answer {
        let mut ticket = Ticket::new(&call, PLATFORM);
        let (line, permit) = match self.admit(&call).await {
            Ok(admitted) => admitted,
            Err(error) => {
                self.count(&ticket, true);
                ticket.refuse(&error);
                return Err(error);
            }
        };
        ticket.leave_queue();
        let (reply, answer) = oneshot::channel();
        let limit = Instant::now() + self.config.time_limit.min(FOREVER);
        let (kill_at, overdue) = match call.deadline {
            Some(deadline) if deadline < limit => (deadline, Overdue::Call),
            _ => (limit, Overdue::Platform),
        };
        self.dispatch(Job { line, expected: Expected::from(&call.task.work), kill_at, overdue, ticket, reply, permit });
        // A driver always answers, unless its runtime goes away with it.
        answer.await.unwrap_or(Err(InvokeError::ShutDown))
    }

    /// Encodes the task and waits for a slot.
    async fn admit(&self, call: &Call<'_>) -> Result<(Vec<u8>, OwnedSemaphorePermit), InvokeError> {
        let mut line = serde_json::to_vec(call.task).map_err(|error| InvokeError::Encode(error.to_string()))?;
        line.push(b'\n');
        Ok((line, self.queue.enter(call.deadline).await?))
    }

    fn dispatch(self: &Arc<Self>, mut job: Job) {
        loop {
            match self.next_function() {
                Next::Warm(idle) => {
                    job.ticket.assign(idle.pid, false);
                    match idle.jobs.try_send(job) {
                        Ok(()) => return,
                        // The runtime that drove this function is gone.
                        Err(refused) => job = refused.into_inner(),
                    }
                }
                Next::Cold(resident) => return self.start(resident, job),
                Next::Closed => return self.settle(job, Exchange::failed(InvokeError::ShutDown), None),
            }
        }
    }

    fn next_function(self: &Arc<Self>) -> Next {
        let mut population = self.population();
        if population.closed {
            return Next::Closed;
        }
        if let Some(idle) = population.idle.pop() {
            population.functions.insert(idle.pid, true);
            return Next::Warm(idle);
        }
        // Under the lock, so that shutdown either refuses this function or waits for it.
        self.alive.send_modify(|alive| *alive += 1);
        Next::Cold(Resident { shared: Arc::clone(self), pid: None })
    }

    fn start(self: &Arc<Self>, mut resident: Resident, mut job: Job) {
        match Function::spawn(&self.config, self.confinement.as_ref(), &self.spawner) {
            Ok(function) => {
                job.ticket.assign(function.pid(), true);
                resident.adopt(function.pid());
                let (sender, jobs) = mpsc::channel(1);
                let driver = Driver { function, resident, jobs };
                tokio::spawn(driver.run(sender, job));
            }
            Err(error) => {
                drop(resident);
                self.settle(job, Exchange::failed(error), None);
            }
        }
    }

    /// Meters the job, makes the function (if it is still good) and the slot available, and answers:
    /// in this order, so that a caller that has its answer finds the record and the warm function.
    fn settle(&self, mut job: Job, exchange: Exchange, warm: Option<Idle>) {
        job.ticket.transferred(job.line.len(), exchange.bytes_out);
        let result = exchange.result.and_then(|report| {
            job.ticket.reported(&report);
            report.outcome.map_err(|failure| InvokeError::Reported(self.explained(failure)))
        });
        let outcome = Outcome::of(&result, job.reply.is_closed());
        self.count(&job.ticket, outcome.is_failure());
        let metering = job.ticket.finish(outcome);
        let mut population = self.population();
        if result.is_ok() && job.expected.is_gradient() {
            population.keep_warm.observe(&metering);
        }
        if let Some(idle) = warm {
            population.functions.insert(idle.pid, false);
            population.idle.push(idle);
        }
        drop(population);
        drop(job.permit);
        // Fails when the caller is gone.
        let _discarded = job.reply.send(result.map(|output| Invocation { output, metering, elsewhere: None }));
    }

    /// A failure that isolation may be the cause of says so.
    fn explained(&self, mut failure: Failure) -> Failure {
        if let Some(hint) = self.confinement.as_ref().and_then(|it| it.explain(&failure.message, None)) {
            failure.message += &format!(" ({hint})");
        }
        failure
    }

    fn count(&self, ticket: &Ticket, failed: bool) {
        self.population().counters.count(ticket.id(), failed);
    }

    /// How long a function may idle from now on.
    fn idle_limit(&self) -> Duration {
        let most = self.config.idle_timeout.min(FOREVER);
        let affordable = self.bytes_per_core.and_then(|bytes| self.population().keep_warm.limit(bytes));
        affordable.map_or(most, |limit| limit.min(most))
    }

    /// Takes a function that ends out of the warm ones; false when a job is on its way to it.
    fn retire(&self, pid: u32, reaped: bool) -> bool {
        let mut population = self.population();
        let Some(index) = population.idle.iter().position(|idle| idle.pid == pid) else {
            return false;
        };
        population.idle.remove(index);
        population.counters.reaped += u64::from(reaped);
        true
    }

    pub(super) fn snapshot(&self) -> PlatformSnapshot {
        let population = self.population();
        let functions = population.functions.iter();
        PlatformSnapshot {
            warm: population.idle.len(),
            busy: population.functions.values().filter(|busy| **busy).count(),
            queued: self.queue.waiting(),
            functions: functions.map(|(&pid, &busy)| FunctionSnapshot { pid, busy }).collect(),
            counters: population.counters,
        }
    }

    pub(super) fn close(&self) {
        self.population().closed = true;
        self.queue.close();
        self.stop.send_replace(true);
    }

    pub(super) async fn shutdown(&self) {
        self.close();
        let mut alive = self.alive.subscribe();
        // Fails only when the sender is gone, and that is in `self`.
        let _all_gone = alive.wait_for(|alive| *alive == 0).await;
    }

    fn population(&self) -> MutexGuard<'_, Population> {
        self.population.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A function's entry in the population, from before its start until after its end.
struct Resident {
    shared: Arc<Shared>,
    pid: Option<u32>,
}

impl Resident {
    fn adopt(&mut self, pid: u32) {
        self.pid = Some(pid);
        let mut population = self.shared.population();
        population.functions.insert(pid, true);
        population.counters.cold_starts += 1;
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let mut population = self.shared.population();
        if let Some(pid) = self.pid {
            population.functions.remove(&pid);
            population.idle.retain(|idle| idle.pid != pid);
        }
        self.shared.alive.send_modify(|alive| *alive -= 1);
    }
}

/// What came of sending a job to a function.
struct Exchange {
    result: Result<Report, InvokeError>,
    bytes_out: usize,
    reusable: bool,
}

impl Exchange {
    fn failed(error: InvokeError) -> Self {
        Self { result: Err(error), bytes_out: 0, reusable: false }
    }
}

/// Owns one function for its life. Fields are dropped in this order: the process is gone before its
/// entry is.
struct Driver {
    function: Function,
    resident: Resident,
    jobs: mpsc::Receiver<Job>,
}

impl Driver {
    async fn run(mut self, sender: mpsc::Sender<Job>, first: Job) {
        let shared = Arc::clone(&self.resident.shared);
        let pid = self.function.pid();
        let mut stop = shared.stop.subscribe();
        let mut job = first;
        loop {
            let exchange = self.work(&job, &mut stop).await;
            if !exchange.reusable {
                self.function.kill().await;
                drop(self);
                return shared.settle(job, exchange, None);
            }
            let jobs = sender.clone();
            shared.settle(job, exchange, Some(Idle { pid, jobs }));
            match self.idle(&mut stop).await {
                Some(next) => job = next,
                None => {
                    self.function.kill().await;
                    return;
                }
            }
        }
    }

    async fn work(&mut self, job: &Job, stop: &mut watch::Receiver<bool>) -> Exchange {
        let shared = &self.resident.shared;
        let function = self.function.pid();
        let name = FunctionName::Process(function);
        let protocol = |violation| InvokeError::Protocol { function: name.clone(), violation };
        let answered = tokio::select! {
            biased;
            answered = self.function.exchange(&job.line) => answered.map(|line| {
                (parse_report(line, job.ticket.id().invocation, &job.expected), line.len())
            }),
            () = sleep_until(job.kill_at) => return Exchange::failed(match job.overdue {
                Overdue::Call => InvokeError::DeadlinePassed,
                Overdue::Platform => InvokeError::TimedOut { function: name, limit: shared.config.time_limit },
            }),
            _ = stop.wait_for(|stop| *stop) => return Exchange::failed(InvokeError::ShutDown),
        };
        match answered {
            Ok((report, bytes_out)) => {
                let surplus = self.function.has_surplus();
                if surplus {
                    tracing::warn!(function, "a function wrote more than its report and is replaced");
                }
                Exchange { reusable: report.is_ok() && !surplus, result: report.map_err(protocol), bytes_out }
            }
            Err(Broken::LineTooLong) => {
                let limit = MAX_REPORT_BYTES;
                Exchange::failed(protocol(ProtocolViolation::LineTooLong { limit }))
            }
            Err(Broken::Silent) => {
                let (limit, confinement) = (shared.config.memory_limit_bytes, shared.confinement.as_ref());
                Exchange::failed(self.function.autopsy(limit, confinement).await)
            }
        }
    }

    /// Waits for the next job; `None` when the function is to end.
    async fn idle(&mut self, stop: &mut watch::Receiver<bool>) -> Option<Job> {
        let shared = Arc::clone(&self.resident.shared);
        let pid = self.function.pid();
        let expires = Instant::now() + shared.idle_limit();
        let reaped = tokio::select! {
            job = self.jobs.recv() => return job,
            why = self.function.misbehaves() => {
                tracing::warn!(function = pid, "an idle function {why} and is replaced");
                false
            }
            () = sleep_until(expires) => true,
            _ = stop.wait_for(|stop| *stop) => false,
        };
        if shared.retire(pid, reaped) {
            return None;
        }
        self.jobs.recv().await
    }
}
