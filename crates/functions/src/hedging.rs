//! A second attempt beside one that takes unusually long.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerless_protocol::UnitKind;
use peerless_protocol::function::{Place, Task, Work};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::durations::{ByKind, Window, unit_kind};
use crate::error::InvokeError;
use crate::metering::{AttemptId, InvocationRecord, Meter};
use crate::platform::{BoxFuture, Call, FunctionPlatform, Invocation, PlatformSnapshot};

/// Successes of one kind of work before anything is known about it: below 20 a 95th percentile is the maximum.
const LEARNED_FROM: usize = 20;

/// An attempt is no straggler before this, as scheduling alone may delay it so much.
const FLOOR: Duration = Duration::from_millis(50);

/// Time between two looks for a free function, or for a hedge that is affordable.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Time between two looks while too little is known.
const LEARN_EVERY: Duration = Duration::from_millis(250);

/// What a hedge costs of what each call and each second bring: so at most a tenth of the calls are hedged and,
/// lest one that hangs holds up a round whose other calls have ended, one call every ten seconds.
const HEDGE_COSTS: u32 = 10;

/// A platform whose stragglers are hedged: "The Tail at Scale" (Dean and Barroso, CACM 56(2), 2013).
///
/// When an attempt at a unit is under way for longer than the 95th percentile of the last attempts at such units, and a
/// function is free, a second one is made. The first success is the result, an error waits for the other attempt. Who
/// loses is given up: its function finishes, and is metered as discarded. A hedge that fails, perhaps because the platform
/// has no function for it after all, may be followed by another one. All are the one attempt that
/// [`Retrying`](crate::Retrying) asked for, and have its number; there are never more than two at the same time.
///
/// Only attempts that succeeded in time are learned from. What the losers took, or how long was waited for them, would
/// let the percentile grow with every straggler until nothing is one any more.
pub struct Hedging<P> {
    platform: P,
    state: Mutex<State>,
}

struct State {
    durations: ByKind<Window>,
    credit: Credit,
}

/// Says how many hedges there may be: a token bucket in tenths of a hedge.
struct Credit {
    tenths: u32,
    most: u32,
    /// Up to when the seconds have been counted.
    counted: Instant,
}

impl Credit {
    /// Enough to hedge `functions` stragglers at once.
    fn new(functions: usize, now: Instant) -> Self {
        let most = u32::try_from(functions).unwrap_or(u32::MAX).saturating_mul(HEDGE_COSTS).max(HEDGE_COSTS);
        Self { tenths: most, most, counted: now }
    }

    fn add(&mut self, tenths: u32) {
        self.tenths = self.tenths.saturating_add(tenths).min(self.most);
    }

    fn take(&mut self, now: Instant) -> bool {
        let seconds = now.duration_since(self.counted).as_secs();
        self.counted += Duration::from_secs(seconds);
        self.add(u32::try_from(seconds).unwrap_or(u32::MAX));
        let affordable = self.tenths >= HEDGE_COSTS;
        if affordable {
            self.tenths -= HEDGE_COSTS;
        }
        affordable
    }
}

impl State {
    /// How long an attempt is under way when it is a straggler; `None` while too little is known. Half as long again as
    /// usual is within the scatter of a machine that is shared.
    fn straggles_after(&mut self, kind: UnitKind) -> Option<Duration> {
        let window = self.durations.of(kind);
        if window.len() < LEARNED_FROM {
            return None;
        }
        let (median, slow) = (window.median()?, window.percentile(95)?);
        Some(slow.max(median * 3 / 2).max(FLOOR))
    }
}

impl<P: FunctionPlatform> Hedging<P> {
    /// Hedges what takes long on `platform`.
    pub fn new(platform: P) -> Self {
        let credit = Credit::new(platform.concurrency(), Instant::now());
        Self { platform, state: Mutex::new(State { durations: ByKind::default(), credit }) }
    }

    async fn invoke_unit(&self, call: Call<'_>, kind: UnitKind) -> Result<Invocation, InvokeError> {
        self.state().credit.add(1);
        let first = Departure::new(call.meter);
        let mut first_result = self.platform.invoke(Call { meter: &first.meter, ..call });
        let mut hedge_failed = None;
        loop {
            tokio::select! {
                biased;
                result = &mut first_result => return self.ended(kind, &first, result),
                () = self.straggles(kind, &first, hedge_failed) => {}
            }
            let (platform, task) = (self.platform.name(), call.task.invocation);
            tracing::info!(platform, task, "an invocation takes long and is hedged");
            let mut hedge = Box::pin(self.hedge(call, kind));
            tokio::select! {
                biased;
                result = &mut first_result => return match self.ended(kind, &first, result) {
                    Ok(invocation) => Ok(invocation),
                    // If both fail, the first error counts: it is the one that would have been without a hedge.
                    Err(error) => hedge.await.map_err(|_| error),
                },
                result = &mut hedge => match result {
                    Ok(invocation) => return Ok(invocation),
                    Err(_) => hedge_failed = Some(Instant::now()),
                },
            }
        }
    }

    async fn hedge(&self, call: Call<'_>, kind: UnitKind) -> Result<Invocation, InvokeError> {
        let (task, elsewhere) = beside(call.task);
        let departure = Departure::new(call.meter);
        let result = self.platform.invoke(Call { task: &task, hedge: true, meter: &departure.meter, ..call }).await;
        if result.as_ref().is_err_and(|error| error.throttled().is_some()) {
            // It has not been one.
            self.state().credit.add(HEDGE_COSTS);
        }
        self.ended(kind, &departure, result).map(|invocation| Invocation { elsewhere, ..invocation })
    }

    /// Learns from an attempt that has ended.
    fn ended(
        &self,
        kind: UnitKind,
        departure: &Departure,
        result: Result<Invocation, InvokeError>,
    ) -> Result<Invocation, InvokeError> {
        if let (Ok(_), Some(left)) = (&result, departure.left()) {
            self.state().durations.of(kind).push(left.elapsed());
        }
        result
    }

    /// Ends when the attempt is a straggler, counted from when its last hedge failed, a function is free for another one,
    /// and there are not too many hedges.
    async fn straggles(&self, kind: UnitKind, departure: &Departure, hedge_failed: Option<Instant>) {
        let left = hedge_failed.unwrap_or(departure.leaves().await);
        loop {
            let straggles_after = self.state().straggles_after(kind);
            let wait = match straggles_after.map(|after| after.saturating_sub(left.elapsed())) {
                None => LEARN_EVERY,
                Some(wait) if wait > Duration::ZERO => wait,
                Some(_) if self.has_free_function() && self.state().credit.take(Instant::now()) => return,
                Some(_) => LOOK_EVERY,
            };
            sleep(wait).await;
        }
    }

    fn has_free_function(&self) -> bool {
        let snapshot = self.platform.snapshot();
        snapshot.queued == 0 && snapshot.busy < self.platform.concurrency()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: FunctionPlatform> FunctionPlatform for Hedging<P> {
    fn name(&self) -> &'static str {
        self.platform.name()
    }

    fn concurrency(&self) -> usize {
        self.platform.concurrency()
    }

    fn shares_files(&self) -> bool {
        self.platform.shares_files()
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        match unit_kind(&call.task.work) {
            Some(kind) => Box::pin(self.invoke_unit(call, kind)),
            None => self.platform.invoke(call),
        }
    }

    fn snapshot(&self) -> PlatformSnapshot {
        self.platform.snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        self.platform.shutdown()
    }
}

/// The task for a second attempt, with another file to write to and its name: what the first one writes late must not
/// take the place of what the caller was given.
fn beside(task: &Task) -> (Task, Option<PathBuf>) {
    let mut task = task.clone();
    let Work::Unit { output: Place::Path(path), .. } = &mut task.work else { return (task, None) };
    let mut name = OsString::from(std::mem::take(path));
    name.push(".hedge");
    *path = name.into();
    let elsewhere = path.clone();
    (task, Some(elsewhere))
}

/// Finds out when an attempt leaves the queue.
struct Departure {
    meter: Arc<dyn Meter>,
    left: watch::Receiver<Option<Instant>>,
}

impl Departure {
    fn new(meter: &Arc<dyn Meter>) -> Self {
        let (sender, left) = watch::channel(None);
        Self { meter: Arc::new(Observed { meter: Arc::clone(meter), left: sender }), left }
    }

    fn left(&self) -> Option<Instant> {
        *self.left.borrow()
    }

    async fn leaves(&self) -> Instant {
        let mut left = self.left.clone();
        // Fails only when the sender is gone, and that is in `self`.
        match left.wait_for(Option::is_some).await.ok().and_then(|left| *left) {
            Some(left) => left,
            None => std::future::pending().await,
        }
    }
}

/// A meter that tells when its attempt begins.
struct Observed {
    meter: Arc<dyn Meter>,
    left: watch::Sender<Option<Instant>>,
}

impl Meter for Observed {
    fn record(&self, record: InvocationRecord) {
        self.meter.record(record);
    }

    fn began(&self, attempt: AttemptId) {
        self.left.send_replace(Some(Instant::now()));
        self.meter.began(attempt);
    }
}
