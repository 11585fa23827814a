//! When idle processes end on a machine that is paid for by time.

use std::sync::Arc;

use peerless_functions::{Call, FunctionPlatform, ProcessConfig, ProcessPool};
use peerless_protocol::UnitKind;
use tempfile::TempDir;

use crate::scripted::unit;
use crate::support::{Records, eventually};

/// A function that says that it has all memory there is; how many functions were started for two units, and ended.
async fn started_and_ended(machine_is_paid: bool) -> (u64, u64) {
    let folder = TempDir::new().unwrap();
    let config =
        ProcessConfig { concurrency: 1, machine_is_paid, ..ProcessConfig::new(crate::hedged_processes::FUNCTION) };
    let pool = ProcessPool::new(config).unwrap();
    let meter = Arc::new(Records::default()).meter();
    for invocation in 0..3 {
        let mut task = unit(UnitKind::Gradient, invocation, &folder.path().join("r0"));
        task.spec.model = "large-unit".into();
        let call = Call { task: &task, attempt: 1, hedge: false, deadline: None, meter: &meter };
        pool.invoke(call).await.unwrap();
    }
    if machine_is_paid {
        eventually("the function is ended", || pool.snapshot().warm == 0).await;
    }
    let counters = pool.snapshot().counters;
    pool.shutdown().await;
    (counters.cold_starts, counters.reaped)
}

#[tokio::test]
async fn a_function_that_is_dear_to_keep_is_ended_at_once_where_the_machine_is_paid() {
    assert_eq!(started_and_ended(false).await, (1, 0));
    let (started, ended) = started_and_ended(true).await;
    assert!(started >= 1 && ended == started, "{started} started, {ended} ended");
}
