//! This machine first, and another platform for what it would be too late for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peerless_protocol::UnitKind;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until};

use crate::breaker::CircuitBreaker;
use crate::durations::{ByKind, Window, unit_kind};
use crate::error::InvokeError;
use crate::metering::{AttemptId, InvocationRecord, Meter, micros};
use crate::platform::{BoxFuture, Call, FunctionPlatform, Invocation, PlatformSnapshot};

/// Most calls that wait for either platform; others wait in the queue of the local one, which has its own limit.
const MOST_WAITING: usize = 1024;

/// Two platforms as one: units go to the functions of this machine as long as one is free. When all are at work, a unit
/// waits for one of them only as long as that is sooner than having it computed elsewhere; both times are learned. Other
/// work, which is little, stays here.
///
/// While the other platform is gone, nothing goes there. As with [`Fallback`](crate::Fallback), one that has never done
/// anything fails its units instead.
pub struct Burst {
    local: Side,
    remote: Side,
    breaker: CircuitBreaker,
    waiting: AtomicUsize,
}

/// One of the platforms.
struct Side {
    platform: Arc<dyn FunctionPlatform>,
    /// One permit for each function, so that calls do not have to choose a queue before a function is free.
    functions: Semaphore,
    durations: Mutex<ByKind<Window>>,
}

/// Where a call goes. Without a permit it is turned away there, and metered: too late, or one too many.
enum Way<'a> {
    Local(Option<SemaphorePermit<'a>>),
    Remote(SemaphorePermit<'a>),
}

impl Side {
    fn new(platform: Arc<dyn FunctionPlatform>) -> Self {
        Self { functions: Semaphore::new(platform.concurrency()), platform, durations: Mutex::default() }
    }

    fn usual(&self, kind: UnitKind) -> Option<Duration> {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).of(kind).median()
    }

    fn learn(&self, kind: UnitKind, began: Instant, result: &Result<Invocation, InvokeError>) {
        if result.is_ok() {
            self.durations.lock().unwrap_or_else(PoisonError::into_inner).of(kind).push(began.elapsed());
        }
    }
}

impl Burst {
    /// `local` first, `remote` when that is sooner. Both must see the same files, or have ways around that.
    pub fn new(local: Arc<dyn FunctionPlatform>, remote: Arc<dyn FunctionPlatform>) -> Self {
        let (local, remote) = (Side::new(local), Side::new(remote));
        Self { local, remote, breaker: CircuitBreaker::default(), waiting: AtomicUsize::new(0) }
    }

    async fn invoke_unit(&self, call: Call<'_>, kind: UnitKind) -> Result<Invocation, InvokeError> {
        let came = Instant::now();
        let way = self.way(kind, call.deadline).await;
        let meter: Arc<dyn Meter> =
            Arc::new(Waited { meter: Arc::clone(call.meter), queue_us: micros(came.elapsed()) });
        let call = Call { meter: &meter, ..call };
        let began = Instant::now();
        match way {
            Way::Local(_function) => {
                let result = self.local.platform.invoke(call).await;
                self.local.learn(kind, began, &result);
                result
            }
            Way::Remote(_function) => match self.breaker.call(&*self.remote.platform, call).await {
                Some(result) => {
                    self.remote.learn(kind, began, &result);
                    result
                }
                // It is gone: no function of this machine was free, so the call waits for one there.
                None => self.local.platform.invoke(call).await,
            },
        }
    }

    async fn way(&self, kind: UnitKind, deadline: Option<Instant>) -> Way<'_> {
        if let Ok(function) = self.local.functions.try_acquire() {
            return Way::Local(Some(function));
        }
        let Some(place) = Place::take(&self.waiting) else { return Way::Local(None) };
        let elsewhere = async {
            sleep(self.patience(kind, place.ahead)).await;
            self.remote.functions.acquire().await
        };
        let too_late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            function = self.local.functions.acquire() => Way::Local(function.ok()),
            function = elsewhere => function.map_or(Way::Local(None), Way::Remote),
            () = too_late => Way::Local(None),
        }
    }

    /// How long to wait for a function of this machine before another one is sooner: not at all if so many are ahead that
    /// it will not be in time anyway, or nothing is known of either.
    fn patience(&self, kind: UnitKind, ahead: usize) -> Duration {
        let (Some(local), Some(remote)) = (self.local.usual(kind), self.remote.usual(kind)) else {
            return Duration::ZERO;
        };
        let sooner_by = remote.saturating_sub(local);
        let turns = (ahead + 1) as f64 / self.local.platform.concurrency().max(1) as f64;
        if local.mul_f64(turns) > sooner_by { Duration::ZERO } else { sooner_by }
    }
}

impl FunctionPlatform for Burst {
    fn name(&self) -> &'static str {
        self.remote.platform.name()
    }

    fn concurrency(&self) -> usize {
        self.local.platform.concurrency() + self.remote.platform.concurrency()
    }

    fn shares_files(&self) -> bool {
        self.local.platform.shares_files() && self.remote.platform.shares_files()
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        match unit_kind(&call.task.work) {
            Some(kind) => Box::pin(self.invoke_unit(call, kind)),
            None => self.local.platform.invoke(call),
        }
    }

    fn snapshot(&self) -> PlatformSnapshot {
        let both = self.local.platform.snapshot() + self.remote.platform.snapshot();
        PlatformSnapshot { queued: both.queued + self.waiting.load(Ordering::Relaxed), ..both }
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // Those who wait go on to the local platform, which turns them away.
            self.local.functions.close();
            self.remote.functions.close();
            tokio::join!(self.local.platform.shutdown(), self.remote.platform.shutdown());
        })
    }
}

/// A call that waits, until it does not, however that ends.
struct Place<'a> {
    waiting: &'a AtomicUsize,
    /// Calls that waited already.
    ahead: usize,
}

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self { waiting, ahead: waiting.fetch_add(1, Ordering::Relaxed) };
        (place.ahead < MOST_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds to a record the time before the call came to a platform.
struct Waited {
    meter: Arc<dyn Meter>,
    queue_us: u64,
}

impl Meter for Waited {
    fn record(&self, mut record: InvocationRecord) {
        record.metering.queue_us += self.queue_us;
        self.meter.record(record);
    }

    fn began(&self, attempt: AttemptId) {
        self.meter.began(attempt);
    }
}
