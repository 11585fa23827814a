//! The `process` platform with real processes: the contract of all platforms, and what is its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's panics are its failures")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use peerless_functions::{
    Death, FunctionPlatform, InvocationRecord, InvokeError, Outcome, ProcessConfig, ProcessPool, WorkLabel,
};
use rustix::process::{Pid, Signal, kill_process};
use support::contract::{Bench, Wanted};
use support::{appears, eventually};
use tempfile::TempDir;

const FUNCTION: &str = env!("CARGO_BIN_EXE_scripted-function");
const PARENT: &str = env!("CARGO_BIN_EXE_pool-parent");

fn config(wanted: &Wanted<'_>) -> ProcessConfig {
    ProcessConfig {
        env: vec![("PEERLESS_SCRIPT_DIR".into(), wanted.folder.into())],
        concurrency: wanted.concurrency,
        queue_limit: wanted.queue_limit,
        time_limit: wanted.time_limit,
        ..ProcessConfig::new(FUNCTION)
    }
}

fn factory(wanted: &Wanted<'_>) -> Arc<dyn FunctionPlatform> {
    Arc::new(ProcessPool::new(config(wanted)).unwrap())
}

mod contract {
    crate::support::contract::contract_tests!(crate::factory);
}

/// A pool whose configuration differs from the usual one.
fn bench(adjust: impl Fn(&mut ProcessConfig)) -> Bench {
    let adjusted = |wanted: &Wanted<'_>| -> Arc<dyn FunctionPlatform> {
        let mut config = config(wanted);
        adjust(&mut config);
        Arc::new(ProcessPool::new(config).unwrap())
    };
    Bench::new(&adjusted, 1)
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

fn only_function(bench: &Bench) -> u32 {
    let functions = bench.platform().snapshot().functions;
    assert_eq!(functions.len(), 1);
    functions[0].pid
}

#[tokio::test]
async fn kill_9_during_a_task_costs_one_retry() {
    let bench = bench(|_| ());
    let held = bench.start("hold", 1);
    bench.started(1).await;
    let killed = only_function(&bench);
    kill(killed);
    eventually("the second attempt is at work", || {
        let functions = bench.platform().snapshot().functions;
        functions.len() == 1 && functions[0].pid != killed
    })
    .await;
    bench.release();
    held.await.unwrap().unwrap();
    let attempts = bench.attempts(1);
    assert_eq!(attempts.len(), 2);
    let died = InvokeError::Died { function: killed, death: Death::Signal(9), stderr: String::new() };
    assert_eq!(attempts[0].outcome, Outcome::Failed(died));
    assert_eq!(attempts[1].outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn kill_9_of_an_idle_function_costs_nothing() {
    let bench = bench(|_| ());
    bench.is_usable().await;
    let killed = only_function(&bench);
    kill(killed);
    eventually("the dead function is noticed", || bench.platform().snapshot().functions.is_empty()).await;
    assert!(!process_exists(killed));
    bench.invoke("ping", 2).await.unwrap();
    assert_eq!(bench.attempts(2).len(), 1);
}

#[tokio::test]
async fn a_function_that_exits_after_its_report_is_replaced() {
    let bench = bench(|_| ());
    for invocation in 0..10 {
        bench.invoke("exit-when-idle", invocation).await.unwrap();
    }
    bench.is_usable().await;
}

#[tokio::test]
async fn exit_code_signal_and_last_words_are_in_the_error() {
    let bench = bench(|_| ());
    let failed = bench.invoke("exit-3", 1).await.unwrap_err();
    let InvokeError::Died { death, stderr, .. } = &failed.error else { panic!("{failed}") };
    assert_eq!((*death, stderr.as_str()), (Death::Exit(3), "giving up\nfor good"));
    assert_eq!(failed.work, WorkLabel::Ping);
    let failed = bench.invoke("abort", 2).await.unwrap_err();
    assert!(matches!(failed.error, InvokeError::Died { death: Death::Signal(6), .. }), "{failed}");
}

#[tokio::test]
async fn endless_complaints_on_stderr_stay_bounded() {
    let bench = bench(|_| ());
    let failed = bench.invoke("stderr", 1).await.unwrap_err();
    let InvokeError::Died { death, stderr, .. } = &failed.error else { panic!("{failed}") };
    assert_eq!(*death, Death::Exit(4));
    assert!(stderr.ends_with("x\nlast words") && stderr.contains("complaint 99999"), "{stderr}");
    assert!(stderr.len() < 10_000);
}

#[tokio::test]
async fn the_memory_limit_ends_a_greedy_function_and_says_so() {
    let limit = 256 << 20;
    let bench = bench(|config| config.memory_limit_bytes = Some(limit));
    let failed = bench.invoke("allocate", 1).await.unwrap_err();
    let InvokeError::OutOfMemory { limit: reported, stderr, .. } = &failed.error else { panic!("{failed}") };
    assert_eq!(*reported, Some(limit));
    assert!(stderr.contains("memory allocation of"), "{stderr}");
    assert!(!stderr.contains("allocated"), "{stderr}");
    bench.is_usable().await;
}

#[tokio::test]
async fn a_function_sees_the_reduced_environment() {
    let bench = bench(|config| config.env.push(("EXTRA".into(), "1".into())));
    bench.invoke("environment", 1).await.unwrap();
    let seen = fs::read_to_string(bench.folder.path().join("environment")).unwrap();
    let names: Vec<&str> = seen.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let given = ["PATH", "PEERLESS_SCRIPT_DIR", "RAYON_NUM_THREADS", "GLIBC_TUNABLES", "EXTRA"];
    for name in given {
        assert!(names.contains(&name), "{name} is missing in {seen}");
    }
    let allowed = ["HOME", "XDG_CACHE_HOME", "PEERLESS_DATA", "LANG", "LC_ALL", "RUST_LOG", "RUST_BACKTRACE"];
    assert!(names.iter().all(|name| given.contains(name) || allowed.contains(name)), "{seen}");
}

#[tokio::test]
async fn what_a_function_started_is_killed_with_it() {
    let bench = bench(|config| config.time_limit = Duration::from_secs(1));
    let failed = bench.invoke("grandchild", 1).await.unwrap_err();
    assert!(matches!(failed.error, InvokeError::TimedOut { .. }), "{failed}");
    let started = fs::read_to_string(bench.folder.path().join("grandchild")).unwrap();
    let started: u32 = started.parse().unwrap();
    eventually("the grandchild is gone", || !is_running(started)).await;
}

#[tokio::test]
async fn a_missing_program_is_an_error_without_retries() {
    let bench = bench(|config| config.command = "/nowhere/function".into());
    let failed = bench.invoke("ping", 1).await.unwrap_err();
    assert!(matches!(&failed.error, InvokeError::Spawn { .. }), "{failed}");
    assert_eq!(failed.attempts, 1);
    let records = bench.records.all();
    assert!(matches!(&records[..], [InvocationRecord { outcome: Outcome::Failed(_), .. }]), "{records:?}");
    assert_eq!(bench.platform().snapshot().functions, []);
}

#[tokio::test]
async fn idle_functions_are_reaped_to_zero_and_come_back() {
    let bench = bench(|config| config.idle_timeout = Duration::from_millis(50));
    bench.is_usable().await;
    let pids = bench.platform().snapshot().functions;
    eventually("the pool is empty", || bench.platform().snapshot().functions.is_empty()).await;
    assert!(pids.iter().all(|function| !process_exists(function.pid)));
    assert_eq!(bench.platform().snapshot().counters.reaped, 1);
    bench.invoke("ping", 2).await.unwrap();
    assert!(bench.attempts(2)[0].metering.cold);
}

/// Starts one busy and one warm function; gives their process ids.
async fn one_busy_one_warm(bench: &Bench) -> Vec<u32> {
    let busy = bench.start("sleep", 1);
    appears(&bench.folder.path().join("asleep-1")).await;
    bench.invoke("ping", 2).await.unwrap();
    // The call's handle is dropped, the call goes on.
    drop(busy);
    let pids: Vec<u32> = bench.platform().snapshot().functions.iter().map(|function| function.pid).collect();
    assert!(pids.len() == 2 && pids.iter().all(|&pid| process_exists(pid)));
    pids
}

#[tokio::test]
async fn nothing_is_left_after_shutdown() {
    let bench = bench(|config| config.concurrency = 2);
    let pids = one_busy_one_warm(&bench).await;
    bench.platform().shutdown().await;
    assert!(!pids.iter().any(|&pid| process_exists(pid)), "a process or zombie is left");
}

#[tokio::test]
async fn nothing_is_left_after_the_pool_is_dropped() {
    let folder = TempDir::new().unwrap();
    let wanted = Wanted { concurrency: 2, queue_limit: 9, time_limit: Duration::from_secs(60), folder: folder.path() };
    let pool = Arc::new(ProcessPool::new(config(&wanted)).unwrap());
    let bench = Bench::around(pool, folder);
    bench.invoke("ping", 1).await.unwrap();
    let pid = only_function(&bench);
    drop(bench);
    eventually("the function is gone", || !process_exists(pid)).await;
}

#[test]
fn nothing_is_left_after_the_runtime_is_dropped() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bench = bench(|config| config.concurrency = 2);
    let pids = runtime.block_on(one_busy_one_warm(&bench));
    drop(runtime);
    assert!(!pids.iter().any(|&pid| process_exists(pid)), "a process or zombie is left");
    assert_eq!(bench.platform().snapshot().functions, []);
}

#[tokio::test]
async fn functions_go_away_with_a_parent_that_is_killed_with_9() {
    let folder = TempDir::new().unwrap();
    let mut parent = Command::new(PARENT).arg(FUNCTION).arg(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3, "{line}");
    assert!(pids.iter().all(|&pid| is_running(pid)));
    kill(parent.id());
    parent.wait().unwrap();
    eventually("the functions are gone", || !pids.iter().any(|&pid| is_running(pid))).await;
}

/// Whether the process runs. Orphans are reaped by the system's first process, which may not care:
/// zombies do not count.
fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// Whether the process runs or is a zombie that its parent has yet to reap.
fn process_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
