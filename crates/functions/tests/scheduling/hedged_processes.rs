//! The contract of all platforms with hedges on, and a real process that is stopped.

use std::fs;
use std::sync::Arc;

use peerless_functions::{Call, FunctionPlatform, Hedging, Invocation, Outcome, ProcessConfig, ProcessPool};
use peerless_protocol::UnitKind;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::scripted::unit;
use crate::support::contract::Wanted;
use crate::support::{Records, eventually};

pub const FUNCTION: &str = env!("CARGO_BIN_EXE_scripted-function");

fn factory(wanted: &Wanted<'_>) -> Arc<dyn FunctionPlatform> {
    let config = ProcessConfig {
        env: vec![("PEERLESS_SCRIPT_DIR".into(), wanted.folder.into())],
        concurrency: wanted.concurrency,
        queue_limit: wanted.queue_limit,
        time_limit: wanted.time_limit,
        ..ProcessConfig::new(FUNCTION)
    };
    Arc::new(Hedging::new(ProcessPool::new(config).unwrap()))
}

mod contract {
    crate::support::contract::contract_tests!(super::factory);
}

#[tokio::test]
async fn a_function_that_is_stopped_costs_a_hedge_and_its_late_gradient_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let platform =
        Hedging::new(ProcessPool::new(ProcessConfig { concurrency: 2, ..ProcessConfig::new(FUNCTION) }).unwrap());
    let records = Arc::new(Records::default());
    let meter = records.meter();
    let output = |invocation: u64| folder.path().join(format!("r{invocation}"));
    let invoke = async |invocation: u64| -> Invocation {
        let task = unit(UnitKind::Gradient, invocation, &output(invocation));
        platform.invoke(Call { task: &task, attempt: 1, hedge: false, deadline: None, meter: &meter }).await.unwrap()
    };
    for invocation in 0..20 {
        invoke(invocation).await;
    }
    let function = records.all()[19].metering.function.unwrap();
    let send = |signal| kill_process(Pid::from_raw(function as i32).unwrap(), signal).unwrap();
    send(Signal::STOP);
    let won = invoke(20).await;
    assert_ne!(won.metering.function, Some(function));
    let written = won.elsewhere.unwrap();
    fs::remove_file(&written).unwrap();
    send(Signal::CONT);
    eventually("the first attempt ends", || platform.snapshot().busy == 0).await;
    let last = records.all().pop().unwrap();
    assert_eq!((last.id.invocation, last.id.hedge, last.outcome), (20, false, Outcome::Discarded));
    assert!(output(20).exists() && !written.exists(), "each attempt has a file of its own");
    assert_eq!(platform.snapshot().counters.hedged, 1);
    platform.shutdown().await;
}
