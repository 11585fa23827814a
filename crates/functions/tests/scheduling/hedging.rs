//! When hedges begin, who wins, and how many there are at most.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use peerless_functions::{
    AttemptId, Call, FunctionPlatform, Hedging, Invocation, InvocationRecord, InvokeError, Meter, Outcome,
};
use peerless_protocol::UnitKind;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::scripted::{Scripted, failure, unit};
use crate::support::Records;

/// Invocations below this are what the platform is learned from.
const ODD: u64 = 1000;
/// An invocation that is still under way when others have ended.
const HANGS: u64 = ODD + 5;
const USUAL: Duration = Duration::from_millis(100);
/// Half as long again as usual: the times of the learned ones do not scatter.
const STRAGGLES: Duration = Duration::from_millis(150);

struct Bench {
    platform: Arc<Hedging<Arc<Scripted>>>,
    scripted: Arc<Scripted>,
    records: Arc<Records>,
    meter: Arc<dyn Meter>,
}

impl Bench {
    /// A platform whose usual calls take [`USUAL`]; the script is for the others.
    fn new(concurrency: usize, script: impl Fn(AttemptId) -> (Duration, bool) + Send + Sync + 'static) -> Self {
        let scripted =
            Scripted::new(
                "scripted",
                concurrency,
                move |id| {
                    if id.invocation < ODD { (USUAL, true) } else { script(id) }
                },
            );
        let records = Arc::new(Records::default());
        let meter = records.meter();
        Self { platform: Arc::new(Hedging::new(Arc::clone(&scripted))), scripted, records, meter }
    }

    async fn learned(self) -> Self {
        for invocation in 0..20 {
            self.invoke(invocation).await.unwrap();
        }
        self
    }

    async fn invoke(&self, invocation: u64) -> Result<Invocation, InvokeError> {
        self.invoke_kind(UnitKind::Gradient, invocation).await
    }

    async fn invoke_kind(&self, kind: UnitKind, invocation: u64) -> Result<Invocation, InvokeError> {
        let task = unit(kind, invocation, Path::new("/out"));
        self.platform.invoke(Call { task: &task, attempt: 1, hedge: false, deadline: None, meter: &self.meter }).await
    }

    /// Whether it was a hedge and how it ended, of each attempt at an invocation.
    fn ends(&self, invocation: u64) -> Vec<(bool, Outcome)> {
        let records = self.records.all().into_iter().filter(|record| record.id.invocation == invocation);
        records.map(|InvocationRecord { id, outcome, .. }| (id.hedge, outcome)).collect()
    }

    fn hedges(&self) -> usize {
        self.scripted.outputs.lock().unwrap().iter().filter(|(id, _)| id.hedge).count()
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_straggler_gets_a_second_attempt_and_the_first_success_wins() {
    let bench = Bench::new(2, |id| (if id.hedge { USUAL } else { seconds(10) }, true)).learned().await;
    let start = Instant::now();
    let won = bench.invoke(ODD).await.unwrap();
    assert_eq!(start.elapsed(), STRAGGLES + USUAL);
    assert_eq!(won.elsewhere.as_deref(), Some(Path::new("/out.hedge")), "the straggler may yet write to /out");
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(bench.ends(ODD), [(true, Outcome::Succeeded), (false, Outcome::Discarded)]);
}

#[tokio::test(start_paused = true)]
async fn a_straggler_that_is_faster_than_its_hedge_wins() {
    let bench = Bench::new(2, |id| (if id.hedge { seconds(10) } else { 2 * STRAGGLES }, true)).learned().await;
    let start = Instant::now();
    let won = bench.invoke(ODD).await.unwrap();
    assert_eq!((start.elapsed(), won.elsewhere), (2 * STRAGGLES, None));
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(bench.ends(ODD), [(false, Outcome::Succeeded), (true, Outcome::Discarded)]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_before_the_platform_is_known() {
    let bench = Bench::new(2, |_| (seconds(10), true));
    for invocation in 0..19 {
        bench.invoke(invocation).await.unwrap();
    }
    bench.invoke(ODD).await.unwrap();
    assert_eq!(bench.hedges(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_does_not_wait_behind_others() {
    let bench = Arc::new(Bench::new(2, |id| (if id.hedge { USUAL } else { seconds(5) }, true)).learned().await);
    let other = Arc::clone(&bench);
    let other = tokio::spawn(async move { other.invoke(ODD + 1).await.unwrap() });
    tokio::time::sleep(seconds(2)).await;
    let hedged = bench.hedges();
    assert_eq!(hedged, 1, "one function was free");
    other.await.unwrap();
    let both = tokio::join!(bench.invoke(ODD + 2), bench.invoke(ODD + 3), async {
        tokio::time::sleep(seconds(4)).await;
        assert_eq!(bench.hedges(), hedged, "no function is free");
    });
    assert!(both.0.is_ok() && both.1.is_ok());
}

#[tokio::test(start_paused = true)]
async fn time_in_the_queue_makes_no_straggler() {
    let bench = Arc::new(Bench::new(1, |_| (USUAL, true)).learned().await);
    let mut calls = JoinSet::new();
    for invocation in ODD..ODD + 10 {
        let bench = Arc::clone(&bench);
        calls.spawn(async move { bench.invoke(invocation).await.unwrap() });
    }
    calls.join_all().await;
    assert_eq!(bench.hedges(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_straggler_that_fails_waits_for_its_hedge() {
    let script = |id: AttemptId| if id.hedge { (seconds(5), true) } else { (seconds(1), false) };
    let bench = Bench::new(2, script).learned().await;
    assert!(bench.invoke(ODD).await.unwrap().elsewhere.is_some());
    assert_eq!(bench.ends(ODD), [(false, Outcome::Failed(failure())), (true, Outcome::Succeeded)]);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_fails_leaves_the_straggler_and_may_be_followed_by_another() {
    let script = |id: AttemptId| if id.hedge { (seconds(2), false) } else { (seconds(5), true) };
    let bench = Bench::new(2, script).learned().await;
    assert_eq!(bench.invoke(ODD).await.unwrap().elsewhere, None);
    let failed = (true, Outcome::Failed(failure()));
    assert_eq!(bench.ends(ODD), [failed.clone(), failed, (false, Outcome::Succeeded)]);
}

#[tokio::test(start_paused = true)]
async fn if_both_fail_the_attempt_has_failed_once() {
    let bench = Bench::new(2, |_| (seconds(1), false)).learned().await;
    assert_eq!(bench.invoke(ODD).await, Err(failure()));
    assert_eq!(bench.ends(ODD).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_time_is_not_hedged() {
    let bench = Bench::new(2, |_| (USUAL, false)).learned().await;
    assert_eq!(bench.invoke(ODD).await, Err(failure()));
    assert_eq!(bench.hedges(), 0);
}

#[tokio::test(start_paused = true)]
async fn evaluations_are_no_stragglers_among_gradients() {
    let bench = Bench::new(2, |_| (seconds(1), true)).learned().await;
    for invocation in ODD..ODD + 25 {
        bench.invoke_kind(UnitKind::Evaluation, invocation).await.unwrap();
    }
    assert_eq!(bench.hedges(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_platform_with_many_stragglers_is_not_called_twice_as_often() {
    // One in three hangs, and so does its hedge: nothing that it could learn from.
    let bench = Bench::new(2, |id| (if id.invocation % 3 == 0 { seconds(1) } else { USUAL }, true)).learned().await;
    let start = Instant::now();
    let calls = 600;
    for invocation in 0..calls {
        bench.invoke(ODD + invocation).await.unwrap();
    }
    let affordable = 2 + calls / 10 + start.elapsed().as_secs() / 10 + 1;
    let hedges = bench.hedges() as u64;
    assert!(hedges > 2 && hedges <= affordable, "{hedges} hedges, affordable are {affordable}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_hedged_in_the_end_although_all_hedges_are_used_up() {
    let script = |id: AttemptId| match id.invocation {
        HANGS if id.hedge => (USUAL, true),
        HANGS => (seconds(1000), true),
        _ => (2 * STRAGGLES, true),
    };
    let bench = Bench::new(2, script).learned().await;
    for invocation in ODD..HANGS {
        bench.invoke(invocation).await.unwrap();
    }
    let start = Instant::now();
    bench.invoke(HANGS).await.unwrap();
    assert!((seconds(1)..seconds(11)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_gives_up_both() {
    let bench = Bench::new(2, |_| (seconds(10), true)).learned().await;
    let gone = tokio::time::timeout(seconds(1), bench.invoke(ODD)).await;
    assert!(gone.is_err());
    tokio::time::sleep(seconds(20)).await;
    assert_eq!(bench.ends(ODD), [(false, Outcome::Discarded), (true, Outcome::Discarded)]);
}
