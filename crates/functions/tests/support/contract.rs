//! What every platform must keep to, whatever it runs functions with. Each clause is a function over
//! a [`Factory`]; `contract_tests!` makes a test of each.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use peerless_functions::{
    FunctionPlatform, Invocation, InvocationRecord, InvokeError, Outcome, ProtocolViolation, RetryPolicy, Retrying,
    TaskFailed,
};
use peerless_protocol::function::{FailureKind, Output};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::task::task;
use super::{Records, appears, eventually};

/// What a clause asks of the platform that it is given.
pub struct Wanted<'a> {
    pub concurrency: usize,
    pub queue_limit: usize,
    pub time_limit: Duration,
    /// For the functions' `PEERLESS_SCRIPT_DIR`.
    pub folder: &'a Path,
}

/// Makes a platform that runs the scripted function.
pub type Factory<'a> = &'a dyn Fn(&Wanted<'_>) -> Arc<dyn FunctionPlatform>;

/// A platform under test.
pub struct Bench {
    pub folder: TempDir,
    pub records: Arc<Records>,
    pub functions: Arc<Retrying<Arc<dyn FunctionPlatform>>>,
}

impl Bench {
    pub fn new(factory: Factory<'_>, concurrency: usize) -> Self {
        Self::with(factory, |wanted| Wanted { concurrency, ..wanted })
    }

    pub fn with(factory: Factory<'_>, adjust: impl for<'a> Fn(Wanted<'a>) -> Wanted<'a>) -> Self {
        let folder = TempDir::new().unwrap();
        let wanted =
            Wanted { concurrency: 1, queue_limit: 100, time_limit: Duration::from_secs(60), folder: folder.path() };
        let platform = factory(&adjust(wanted));
        Self::around(platform, folder)
    }

    pub fn around(platform: Arc<dyn FunctionPlatform>, folder: TempDir) -> Self {
        let records = Arc::new(Records::default());
        let policy = RetryPolicy { base_delay: Duration::from_millis(1), ..RetryPolicy::default() };
        let functions = Arc::new(Retrying::new(platform, policy, records.meter()));
        Self { folder, records, functions }
    }

    pub fn platform(&self) -> &Arc<dyn FunctionPlatform> {
        self.functions.platform()
    }

    pub async fn invoke(&self, model: &str, invocation: u64) -> Result<Invocation, TaskFailed> {
        self.functions.invoke(&task(model, invocation), None).await
    }

    pub fn start(&self, model: &'static str, invocation: u64) -> JoinHandle<Result<Invocation, TaskFailed>> {
        let functions = Arc::clone(&self.functions);
        tokio::spawn(async move { functions.invoke(&task(model, invocation), None).await })
    }

    pub async fn started(&self, invocation: u64) {
        appears(&self.folder.path().join(format!("started-{invocation}"))).await;
    }

    pub fn release(&self) {
        fs::write(self.folder.path().join("release"), "").unwrap();
    }

    pub async fn queued(&self, count: usize) {
        eventually(&format!("{count} calls are queued"), || self.platform().snapshot().queued == count).await;
    }

    /// Whether functions are processes that the platform itself starts, reuses and ends.
    pub fn owns_processes(&self) -> bool {
        self.platform().shares_files()
    }

    /// The attempts at one invocation, in order.
    pub fn attempts(&self, invocation: u64) -> Vec<InvocationRecord> {
        self.records.all().into_iter().filter(|record| record.id.invocation == invocation).collect()
    }

    pub async fn is_usable(&self) {
        let invocation = self.invoke("ping", 1_000_000).await.expect("the platform works on");
        assert_eq!(invocation.output, Output::Pong);
    }
}

/// Whether a function ended before it reported, as far as the platform can tell.
fn died(error: &InvokeError) -> bool {
    matches!(error, InvokeError::Died { .. } | InvokeError::Crashed { .. })
}

pub async fn it_scales_from_zero_and_reuses_warm_functions(factory: Factory<'_>) {
    let bench = Bench::new(factory, 2);
    assert_eq!(bench.platform().snapshot(), Default::default());
    let first = bench.invoke("ping", 1).await.unwrap();
    if !bench.owns_processes() {
        return assert_eq!(bench.platform().snapshot().busy, 0);
    }
    let second = bench.invoke("ping", 2).await.unwrap();
    assert!(first.metering.cold && !second.metering.cold);
    assert_eq!(first.metering.function, second.metering.function);
    let snapshot = bench.platform().snapshot();
    assert_eq!((snapshot.warm, snapshot.busy, snapshot.counters.cold_starts), (1, 0, 1));
}

pub async fn the_most_recently_used_function_comes_first(factory: Factory<'_>) {
    let bench = Bench::new(factory, 2);
    if !bench.owns_processes() {
        return;
    }
    let held = bench.start("hold", 1);
    bench.started(1).await;
    let quick = bench.invoke("ping", 2).await.unwrap().metering.function;
    bench.release();
    let last = held.await.unwrap().unwrap().metering.function;
    assert_ne!(quick, last);
    for invocation in 3..6 {
        assert_eq!(bench.invoke("ping", invocation).await.unwrap().metering.function, last);
    }
}

pub async fn no_more_functions_work_than_allowed_and_the_rest_waits(factory: Factory<'_>) {
    let bench = Bench::new(factory, 2);
    let calls: Vec<_> = (0..5).map(|invocation| bench.start("hold", invocation)).collect();
    bench.queued(3).await;
    eventually("two functions are at work", || bench.platform().snapshot().busy == 2).await;
    let most = if bench.owns_processes() { 2 } else { 0 };
    assert_eq!(bench.platform().snapshot().functions.len(), most);
    bench.release();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    if !bench.owns_processes() {
        return;
    }
    assert_eq!(bench.platform().snapshot().counters.cold_starts, 2);
    let waited = bench.records.all().iter().filter(|record| !record.metering.cold).count();
    assert_eq!(waited, 3);
}

pub async fn waiting_calls_are_served_in_order(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    let mut calls = vec![bench.start("hold", 0)];
    bench.started(0).await;
    for invocation in 1..6 {
        calls.push(bench.start("ping", invocation));
        bench.queued(invocation as usize).await;
    }
    bench.release();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let order: Vec<u64> = bench.records.all().iter().map(|record| record.id.invocation).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

pub async fn a_full_queue_refuses_without_retries(factory: Factory<'_>) {
    let bench = Bench::with(factory, |wanted| Wanted { queue_limit: 1, ..wanted });
    let held = bench.start("hold", 1);
    bench.started(1).await;
    let waiting = bench.start("ping", 2);
    bench.queued(1).await;
    let refused = bench.invoke("ping", 3).await.unwrap_err();
    assert_eq!((refused.error, refused.attempts), (InvokeError::QueueFull { limit: 1 }, 1));
    bench.release();
    held.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(bench.attempts(3).len(), 1);
}

pub async fn a_function_that_dies_once_costs_one_retry(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    bench.invoke("crash-once", 7).await.unwrap();
    let attempts = bench.attempts(7);
    assert_eq!(attempts.len(), 2);
    assert!(matches!(&attempts[0].outcome, Outcome::Failed(error) if died(error)), "{:?}", attempts[0]);
    assert_eq!((attempts[1].id.attempt, &attempts[1].outcome), (2, &Outcome::Succeeded));
    if !bench.owns_processes() {
        return;
    }
    assert_ne!(attempts[0].metering.function, attempts[1].metering.function);
    let counters = bench.platform().snapshot().counters;
    assert_eq!((counters.invocations, counters.failed, counters.retried, counters.cold_starts), (2, 1, 1, 2));
}

pub async fn a_function_that_always_dies_fails_after_all_attempts(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    let failed = bench.invoke("abort", 1).await.unwrap_err();
    assert_eq!(failed.attempts, 3);
    assert!(died(&failed.error), "{failed}");
    let attempts: Vec<u32> = bench.attempts(1).iter().map(|record| record.id.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    bench.is_usable().await;
}

pub async fn a_hanging_function_is_killed_at_the_time_limit(factory: Factory<'_>) {
    let limit = Duration::from_millis(200);
    let bench = Bench::with(factory, |wanted| Wanted { time_limit: limit, ..wanted });
    let failed = bench.invoke("sleep", 1).await.unwrap_err();
    assert_eq!(failed.attempts, 3);
    assert!(matches!(failed.error, InvokeError::TimedOut { limit: l, .. } if l == limit), "{failed}");
    assert_eq!(bench.platform().snapshot().functions, []);
    bench.is_usable().await;
}

pub async fn a_deadline_ends_the_work_and_the_wait(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    let deadline = Instant::now() + Duration::from_millis(300);
    let (working, waiting) = (task("sleep", 1), task("ping", 2));
    let (working, waiting) = tokio::join!(
        bench.functions.invoke(&working, Some(deadline)),
        // Polled second, so that it waits.
        bench.functions.invoke(&waiting, Some(deadline)),
    );
    for failed in [working.unwrap_err(), waiting.unwrap_err()] {
        assert_eq!((failed.error, failed.attempts), (InvokeError::DeadlinePassed, 1));
    }
    assert_eq!(bench.records.all().len(), 2);
    bench.is_usable().await;
}

pub async fn garbage_is_a_protocol_violation_and_costs_the_function(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    for (invocation, model) in ["garbage", "wrong-kind", "other-invocation", "endless-line"].into_iter().enumerate() {
        let failed = bench.invoke(model, invocation as u64).await.unwrap_err();
        let InvokeError::Protocol { violation, .. } = &failed.error else { panic!("{model}: {failed}") };
        let fits = match violation {
            ProtocolViolation::NotAReport { excerpt, .. } => {
                model == "garbage" && excerpt.contains("this is no report")
            }
            ProtocolViolation::WrongInvocation { expected, found } => {
                model == "other-invocation" && *found == expected + 1
            }
            ProtocolViolation::WrongOutput { .. } => model == "wrong-kind",
            ProtocolViolation::LineTooLong { .. } => model == "endless-line",
        };
        assert!(fits, "{model}: {failed}");
        let mut functions: Vec<_> =
            bench.attempts(invocation as u64).iter().map(|record| record.metering.function).collect();
        functions.dedup();
        let expected = if bench.owns_processes() { 3 } else { 1 };
        assert_eq!(functions.len(), expected, "each attempt has a function of its own");
    }
    bench.is_usable().await;
}

pub async fn a_second_answer_never_becomes_another_tasks_result(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    for invocation in 0..20 {
        bench.invoke("twice", invocation).await.unwrap();
    }
    bench.is_usable().await;
    for record in bench.records.all() {
        let stale = matches!(
            record.outcome,
            Outcome::Failed(InvokeError::Protocol { violation: ProtocolViolation::WrongInvocation { .. }, .. })
        );
        assert!(record.outcome == Outcome::Succeeded || stale, "{record:?}");
    }
}

pub async fn a_reported_failure_is_retried_only_if_the_environment_failed(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    for (model, kind, attempts) in
        [("fail-numerics", FailureKind::Numerics, 1), ("fail-environment", FailureKind::Environment, 3)]
    {
        let failed = bench.invoke(model, attempts).await.unwrap_err();
        assert!(matches!(&failed.error, InvokeError::Reported(failure) if failure.kind == kind), "{failed}");
        assert_eq!(u64::from(failed.attempts), attempts);
        assert_eq!(bench.attempts(attempts).len() as u64, attempts);
    }
    // The function did as it should: it stays.
    if bench.owns_processes() {
        assert_eq!(bench.platform().snapshot().counters.cold_starts, 1);
    }
}

pub async fn a_cancelled_call_leaves_the_queue(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    let held = bench.start("hold", 1);
    bench.started(1).await;
    let waiting = bench.start("ping", 2);
    bench.queued(1).await;
    waiting.abort();
    bench.queued(0).await;
    bench.release();
    held.await.unwrap().unwrap();
    bench.is_usable().await;
    assert_eq!(bench.attempts(2), [], "nothing ran, so there is nothing to account for");
}

pub async fn a_cancelled_call_lets_its_function_finish_and_discards_the_report(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    let held = bench.start("hold", 1);
    bench.started(1).await;
    held.abort();
    assert!(held.await.unwrap_err().is_cancelled());
    assert_eq!(bench.platform().snapshot().busy, 1);
    bench.release();
    bench.is_usable().await;
    let attempts = bench.attempts(1);
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].outcome, Outcome::Discarded);
    if bench.owns_processes() {
        assert_eq!(bench.platform().snapshot().counters.cold_starts, 1, "the function was kept");
    }
}

pub async fn a_cancelled_call_does_not_outlive_the_time_limit(factory: Factory<'_>) {
    let bench = Bench::with(factory, |wanted| Wanted { time_limit: Duration::from_secs(1), ..wanted });
    let asleep = bench.start("sleep", 1);
    appears(&bench.folder.path().join("asleep-1")).await;
    asleep.abort();
    bench.is_usable().await;
    let attempts = bench.attempts(1);
    assert_eq!(attempts.len(), 1);
    assert!(matches!(attempts[0].outcome, Outcome::Failed(InvokeError::TimedOut { .. })), "{attempts:?}");
}

pub async fn every_attempt_is_metered_once_with_what_it_took(factory: Factory<'_>) {
    let bench = Bench::new(factory, 3);
    let models = ["ping", "abort", "fail-numerics", "garbage", "exit-3", "ping"];
    let calls: Vec<_> = (0..30).map(|n| bench.start(models[n % models.len()], n as u64)).collect();
    for call in calls {
        let _either = call.await.unwrap();
    }
    let mut expected = Vec::new();
    for (n, model) in (0..30).map(|n| (n as u64, models[n % models.len()])) {
        let attempts = if ["ping", "fail-numerics"].contains(&model) { 1 } else { 3 };
        expected.extend((1..=attempts).map(|attempt| (n, attempt)));
    }
    let records = bench.records.all();
    let mut metered: Vec<(u64, u32)> = records.iter().map(|record| (record.id.invocation, record.id.attempt)).collect();
    metered.sort_unstable();
    assert_eq!(metered, expected);
    for record in &records {
        let metering = &record.metering;
        assert_eq!(record.platform, bench.platform().name());
        assert_eq!(metering.function.is_some(), bench.owns_processes(), "{record:?}");
        assert!(metering.bytes_in > 100 && metering.started_unix_us > 0, "{record:?}");
        let reported = !matches!(&record.outcome, Outcome::Failed(error)
            if died(error) || matches!(error, InvokeError::Protocol { .. }));
        assert_eq!(metering.compute_us > 0, reported, "{record:?}");
        assert_eq!(metering.peak_memory_bytes > 0, reported, "{record:?}");
        assert!(!reported || metering.duration_us >= metering.compute_us, "{record:?}");
    }
    let counters = bench.platform().snapshot().counters;
    assert_eq!(counters.invocations, records.len() as u64);
    assert_eq!(counters.retried, metered.iter().filter(|(_, attempt)| *attempt > 1).count() as u64);
    let failed = records.iter().filter(|record| matches!(record.outcome, Outcome::Failed(_))).count();
    assert_eq!(counters.failed, failed as u64);
    let cold = records.iter().filter(|record| record.metering.cold).count();
    assert_eq!(counters.cold_starts, cold as u64);
}

pub async fn shutdown_ends_calls_and_functions_and_refuses_more(factory: Factory<'_>) {
    let bench = Bench::new(factory, 1);
    let working = bench.start("hold", 1);
    bench.started(1).await;
    let waiting = bench.start("ping", 2);
    bench.queued(1).await;
    bench.platform().shutdown().await;
    assert_eq!(bench.platform().snapshot().functions, []);
    for call in [working, waiting] {
        assert_eq!(call.await.unwrap().unwrap_err().error, InvokeError::ShutDown);
    }
    assert_eq!(bench.invoke("ping", 3).await.unwrap_err().error, InvokeError::ShutDown);
    assert_eq!(bench.records.all().len(), 3);
}

/// Makes a test of every clause, with the factory given and perhaps an attribute for each.
macro_rules! contract_tests {
    ($factory:expr $(, #[$attribute:meta])?) => {
        $crate::support::contract::contract_tests!(@each $factory, ($(#[$attribute])?);
            it_scales_from_zero_and_reuses_warm_functions
            the_most_recently_used_function_comes_first
            no_more_functions_work_than_allowed_and_the_rest_waits
            waiting_calls_are_served_in_order
            a_full_queue_refuses_without_retries
            a_function_that_dies_once_costs_one_retry
            a_function_that_always_dies_fails_after_all_attempts
            a_hanging_function_is_killed_at_the_time_limit
            a_deadline_ends_the_work_and_the_wait
            garbage_is_a_protocol_violation_and_costs_the_function
            a_second_answer_never_becomes_another_tasks_result
            a_reported_failure_is_retried_only_if_the_environment_failed
            a_cancelled_call_leaves_the_queue
            a_cancelled_call_lets_its_function_finish_and_discards_the_report
            a_cancelled_call_does_not_outlive_the_time_limit
            every_attempt_is_metered_once_with_what_it_took
            shutdown_ends_calls_and_functions_and_refuses_more
        );
    };
    (@each $factory:expr, $attribute:tt; $($clause:ident)*) => {
        $($crate::support::contract::contract_tests!(@one $factory, $attribute, $clause);)*
    };
    (@one $factory:expr, ($(#[$attribute:meta])?), $clause:ident) => {
            $(#[$attribute])?
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                $crate::support::contract::$clause(&$factory).await;
            }
    };
}
pub(crate) use contract_tests;
