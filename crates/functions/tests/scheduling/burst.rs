//! Which of two platforms a unit goes to.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerless_functions::{
    Burst, Call, FunctionName, FunctionPlatform, Invocation, InvokeError, Meter, Outcome, RetryPolicy, Retrying,
    TaskFailed,
};
use peerless_protocol::UnitKind;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::scripted::{Scripted, unit};
use crate::support::Records;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

struct Bench {
    burst: Arc<Retrying<Arc<Burst>>>,
    remote: Arc<Scripted>,
    records: Arc<Records>,
    /// Whether the remote platform cannot be reached.
    gone: Arc<AtomicBool>,
}

impl Bench {
    /// Two functions here and three elsewhere, with these times.
    fn new(local: Duration, remote: Duration) -> Self {
        let gone = Arc::new(AtomicBool::new(false));
        let reachable = Arc::clone(&gone);
        let unreachable = InvokeError::Unreachable { function: FunctionName::Remote("f".into()), reason: "no".into() };
        let script = move |_| (remote, !reachable.load(Ordering::Relaxed));
        let remote = Scripted::failing_with(unreachable, "remote", 3, script);
        Self { gone, ..Self::with_remote(local, remote, RetryPolicy::default()) }
    }

    /// Two functions here with this time, and those of `remote`.
    fn with_remote(local: Duration, remote: Arc<Scripted>, policy: RetryPolicy) -> Self {
        let local = Scripted::new("local", 2, move |_| (local, true));
        let records = Arc::new(Records::default());
        let burst = Arc::new(Burst::new(local, Arc::clone(&remote) as Arc<dyn FunctionPlatform>));
        let burst = Retrying::new(burst, policy, records.meter());
        Self { burst: Arc::new(burst), remote, records, gone: Arc::default() }
    }

    fn start(&self, invocation: u64) -> JoinHandle<Result<Invocation, TaskFailed>> {
        let burst = Arc::clone(&self.burst);
        tokio::spawn(async move { burst.invoke(&unit(UnitKind::Gradient, invocation, Path::new("/out")), None).await })
    }

    /// So many units at the same time: how many were computed here and elsewhere, and how long it took.
    async fn round(&self, units: u64) -> (usize, usize, Duration) {
        let (before, start) = (self.records.all().len(), Instant::now());
        let mut calls = JoinSet::new();
        for invocation in 0..units {
            let call = self.start(invocation);
            calls.spawn(async move { call.await.unwrap().unwrap() });
        }
        calls.join_all().await;
        let all = self.records.all();
        let computed = |name| all[before..].iter().filter(|record| record.platform == name).count();
        (computed("local"), computed("remote"), start.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_function_of_this_machine_is_free_nothing_goes_elsewhere() {
    let bench = Bench::new(millis(100), millis(10));
    for _ in 0..5 {
        assert_eq!(bench.round(2).await, (2, 0, millis(100)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_for_this_machine_goes_elsewhere_up_to_the_limit_there() {
    let bench = Bench::new(millis(1000), millis(1200));
    assert_eq!(bench.burst.platform().concurrency(), 5);
    assert_eq!(bench.round(5).await, (2, 3, millis(1200)));
    // Learned: the sixth and seventh wait, and are in time here.
    assert_eq!(bench.round(7).await, (4, 3, millis(2000)));
}

#[tokio::test(start_paused = true)]
async fn a_short_wait_is_better_than_a_slow_platform() {
    let bench = Bench::new(millis(100), millis(1000));
    bench.round(5).await;
    assert_eq!(bench.round(6).await, (6, 0, millis(300)));
    let (_, elsewhere, took) = bench.round(100).await;
    // As fast as both together, and the last one elsewhere.
    assert!(elsewhere >= 12 && took <= millis(5400), "{elsewhere} units elsewhere, {took:?}");
}

#[tokio::test(start_paused = true)]
async fn while_the_other_platform_is_gone_this_machine_does_all() {
    let bench = Bench::new(millis(100), millis(100));
    bench.round(5).await;
    bench.gone.store(true, Ordering::Relaxed);
    bench.round(5).await;
    let calls = bench.remote.outputs.lock().unwrap().len();
    assert_eq!(bench.round(5).await, (5, 0, millis(300)));
    assert_eq!(bench.remote.outputs.lock().unwrap().len(), calls);
    bench.gone.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.round(5).await;
    assert_eq!(bench.round(5).await, (2, 3, millis(100)), "it is back");
}

#[tokio::test(start_paused = true)]
async fn a_platform_that_is_busy_half_of_the_time_fails_no_unit() {
    // It is called twice at a time and has one instance, which makes the circuit open and close all the time.
    let busy_until = Mutex::new(Instant::now());
    let script = move |_| {
        let (mut busy_until, now) = (busy_until.lock().unwrap(), Instant::now());
        let free = *busy_until <= now;
        if free {
            *busy_until = now + millis(20);
        }
        (millis(if free { 20 } else { 1 }), free)
    };
    let busy = InvokeError::Throttled { function: FunctionName::Remote("f".into()), retry_after: None };
    let no_failure = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
    let bench = Bench::with_remote(millis(100), Scripted::failing_with(busy, "remote", 2, script), no_failure);
    for _ in 0..5 {
        bench.round(100).await;
    }
    assert!(bench.records.all().iter().any(|record| matches!(record.outcome, Outcome::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_platform_that_never_worked_fails_its_units() {
    let bench = Bench::new(Duration::from_secs(60), millis(1));
    bench.gone.store(true, Ordering::Relaxed);
    let calls: Vec<_> = (0..3).map(|invocation| bench.start(invocation)).collect();
    let mut failed = 0;
    for call in calls {
        failed += usize::from(call.await.unwrap().is_err());
    }
    assert_eq!(failed, 1);
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_are_counted_and_leave_with_their_callers() {
    let bench = Bench::new(millis(1000), millis(1000));
    let mut calls: Vec<_> = (0..7).map(|invocation| bench.start(invocation)).collect();
    tokio::time::sleep(millis(500)).await;
    assert_eq!(bench.burst.platform().snapshot().queued, 2);
    calls.pop().unwrap().abort();
    tokio::time::sleep(millis(1)).await;
    assert_eq!(bench.burst.platform().snapshot().queued, 1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let records = bench.records.all();
    assert_eq!(records.len(), 6);
    let waited = records.iter().map(|record| record.metering.queue_us).max();
    assert_eq!(waited, Some(1_000_000));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait() {
    let bench = Bench::new(millis(1000), millis(1000));
    let calls: Vec<_> = (0..5).map(|invocation| bench.start(invocation)).collect();
    tokio::time::sleep(millis(1)).await;
    let meter: Arc<dyn Meter> = bench.records.meter();
    let task = unit(UnitKind::Gradient, 9, Path::new("/out"));
    let deadline = Some(Instant::now() + millis(100));
    let call = Call { task: &task, attempt: 1, hedge: false, deadline, meter: &meter };
    let late = bench.burst.platform().invoke(call).await;
    assert_eq!(late, Err(InvokeError::DeadlinePassed));
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
