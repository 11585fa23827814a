//! Isolated function processes: the contract of all platforms under isolation, and what they are kept from.
//!
//! What each protection alone refuses is tested in `crates/sandbox`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's panics are its failures")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use peerless_functions::{
    ConfigError, Death, FunctionPlatform, InvokeError, Isolation, IsolationLevel, ProcessConfig, ProcessPool,
};
use peerless_sandbox::{Cgroups, Controller, Support};
use rustix::process::{Pid, Signal, kill_process};
use support::contract::{Bench, Wanted};
use support::eventually;
use tempfile::TempDir;

const FUNCTION: &str = env!("CARGO_BIN_EXE_scripted-function");
const LAUNCHER: &str = env!("CARGO_BIN_EXE_function-launcher");
const PARENT: &str = env!("CARGO_BIN_EXE_pool-parent");

fn isolation(folder: &Path) -> Isolation {
    Isolation {
        launcher: (LAUNCHER.into(), Vec::new()),
        level: IsolationLevel::Full,
        required: false,
        read: Vec::new(),
        write: vec![folder.to_owned()],
        cpu_by_memory: true,
    }
}

fn config(wanted: &Wanted<'_>) -> ProcessConfig {
    ProcessConfig {
        env: vec![("PEERLESS_SCRIPT_DIR".into(), wanted.folder.into())],
        concurrency: wanted.concurrency,
        queue_limit: wanted.queue_limit,
        time_limit: wanted.time_limit,
        isolation: Some(Box::new(isolation(wanted.folder))),
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

/// Whether the test can be made here; says so where it cannot.
fn possible(what: &str, there: bool) -> bool {
    if !there {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        // Unlike that of `eprintln!`, this output is not captured.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {what} is missing");
    }
    there
}

fn full() -> bool {
    possible("landlock or seccomp", Support::get().missing().is_empty())
}

fn groups(controllers: &[Controller]) -> bool {
    possible("a place for cgroups", controllers.iter().all(|&controller| Cgroups::get().has(controller)))
}

/// What becomes of a function's attempt.
async fn attempt(bench: &Bench, what: &str, argument: &str) -> String {
    bench.invoke(&format!("attempt {what} {argument}"), 1).await.unwrap();
    fs::read_to_string(bench.folder.path().join("outcome")).unwrap()
}

#[tokio::test]
async fn a_function_gets_its_own_files_and_nothing_else() {
    if !full() {
        return;
    }
    let place = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for name in ["read", "write", "temporary"] {
        fs::create_dir(place.path().join(name)).unwrap();
        fs::write(place.path().join(name).join("file"), "").unwrap();
    }
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let none = bench(|config| config.isolation = None);
    let isolated = bench(|config| {
        config.allow(Path::new(&path("read")), Path::new(&path("write")), Path::new(&path("temporary")))
    });
    for (what, argument, allowed) in [
        ("read", "/etc/passwd", false),
        ("read", &path("read/file"), true),
        ("read", FUNCTION, true),
        ("write", &path("outside"), false),
        ("write", &path("read/file"), false),
        ("write", &path("write/file"), true),
        ("temporary", "file", true),
        ("connect", &address, false),
        ("execute", "/bin/true", true),
        ("execute", PARENT, false),
    ] {
        if what != "temporary" {
            assert_eq!(attempt(&none, what, argument).await, "done", "{what} {argument} without isolation");
        }
        let outcome = attempt(&isolated, what, argument).await;
        assert_eq!(outcome, if allowed { "done" } else { "PermissionDenied" }, "{what} {argument}");
    }
    assert!(place.path().join("temporary/file").exists(), "temporary files are in a folder of their own");
}

#[tokio::test]
async fn with_limits_only_a_function_reads_what_its_user_reads_but_keeps_no_descriptors() {
    let bench = bench(|config| config.isolation.as_mut().unwrap().level = IsolationLevel::Limits);
    assert_eq!(attempt(&bench, "read", "/etc/passwd").await, "done");
    let pid = bench.platform().snapshot().functions[0].pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t0"), "{status}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().nth(4);
    assert_eq!(
        limits.lines().find(|line| line.starts_with("Max open files")).map(|line| line.contains(" 256 ")),
        Some(true)
    );
    assert_eq!(limit("Max core file size"), Some("0"), "{limits}");
}

#[tokio::test]
async fn what_is_denied_is_explained() {
    let bench = bench(|_| ());
    let failed = bench.invoke("report-denied", 1).await.unwrap_err();
    assert!(failed.to_string().contains("--function-read"), "{failed}");
    // A script whose interpreter it may not execute.
    let script = bench.folder.path().join("script");
    fs::copy(FUNCTION, bench.folder.path().join("interpreter")).unwrap();
    fs::write(&script, format!("#!{}\n", bench.folder.path().join("interpreter").display())).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if !full() {
        return;
    }
    let adjusted = |wanted: &Wanted<'_>| -> Arc<dyn FunctionPlatform> {
        Arc::new(ProcessPool::new(ProcessConfig { command: script.clone(), ..config(wanted) }).unwrap())
    };
    let failed = Bench::new(&adjusted, 1).invoke("ping", 1).await.unwrap_err();
    let InvokeError::Died { death, stderr, .. } = &failed.error else { panic!("{failed}") };
    assert_eq!(*death, Death::Exit(126));
    assert!(stderr.contains("Permission denied") && stderr.contains("--function-read"), "{stderr}");
}

#[tokio::test]
async fn a_missing_program_is_an_error_without_retries() {
    let bench = bench(|config| config.command = "/nowhere/function".into());
    let failed = bench.invoke("ping", 1).await.unwrap_err();
    assert!(matches!(&failed.error, InvokeError::Spawn { .. }), "{failed}");
    assert_eq!(failed.attempts, 1);
}

#[test]
fn isolation_that_is_required_and_cannot_be_had_is_refused() {
    let folder = TempDir::new().unwrap();
    let required = Isolation { required: true, ..isolation(folder.path()) };
    let missing = required.missing(true);
    let config = ProcessConfig {
        memory_limit_bytes: Some(1 << 30),
        isolation: Some(Box::new(required)),
        ..ProcessConfig::new(FUNCTION)
    };
    match ProcessPool::new(config) {
        Ok(_) => assert_eq!(missing, Vec::<String>::new()),
        Err(error) => assert!(matches!(error, ConfigError::Isolation { .. }) && !missing.is_empty(), "{error}"),
    }
}

/// The folders of the only function's groups with this controller in their path or, in version 2, of its group.
fn group_of(pid: u32, controller: &str) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let named = controllers.split(',').any(|name| name == controller);
        (named || (controllers.is_empty() && path.contains("/peerless-"))).then(|| path.trim_start_matches('/'))
    });
    let path = path.unwrap_or_else(|| panic!("no group with {controller} in {groups}"));
    let version_1 = Path::new("/sys/fs/cgroup").join(controller).join(path);
    if version_1.exists() { version_1 } else { Path::new("/sys/fs/cgroup").join(path) }
}

#[tokio::test]
async fn a_quarter_of_the_memory_of_a_core_is_a_quarter_of_a_core() {
    if !groups(&[Controller::Cpu, Controller::Memory]) {
        return;
    }
    let quota = async |cpu_by_memory: bool| {
        let bench = bench(|config| {
            config.memory_limit_bytes = Some((1769 << 20) / 4);
            config.isolation.as_mut().unwrap().cpu_by_memory = cpu_by_memory;
        });
        bench.is_usable().await;
        let pid = bench.platform().snapshot().functions[0].pid;
        let memory = group_of(pid, "memory");
        let limit = fs::read_to_string(memory.join("memory.limit_in_bytes"));
        let limit = limit.or_else(|_| fs::read_to_string(memory.join("memory.max"))).unwrap();
        assert_eq!(limit.trim(), "463732736", "rounded to pages");
        if !cpu_by_memory {
            return None;
        }
        let cpu = group_of(pid, "cpu");
        let read = |file: &str| fs::read_to_string(cpu.join(file)).map(|text| text.trim().to_owned());
        let version_1 =
            || Ok::<_, std::io::Error>(format!("{} {}", read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?));
        let quota = version_1().or_else(|_| read("cpu.max")).unwrap();
        bench.platform().shutdown().await;
        eventually("the groups are gone", || !cpu.exists() && !memory.exists()).await;
        Some(quota)
    };
    assert_eq!(quota(true).await.as_deref(), Some("5000 20000"));
    assert_eq!(quota(false).await, None);
}

#[tokio::test]
async fn a_function_whose_group_is_out_of_memory_is_killed_and_reported_and_the_next_one_works() {
    if !groups(&[Controller::Memory]) || !possible("/dev/shm", Path::new("/dev/shm").is_dir()) {
        return;
    }
    let limit = 64 << 20;
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    let bench = bench(|config| {
        config.memory_limit_bytes = Some(limit);
        config.env = vec![("PEERLESS_SCRIPT_DIR".into(), shared.path().into())];
        config.isolation.as_mut().unwrap().write.push(shared.path().to_owned());
    });
    let failed = bench.invoke("fill-shared-memory", 1).await.unwrap_err();
    let InvokeError::OutOfMemory { death, limit: reported, .. } = &failed.error else { panic!("{failed}") };
    assert_eq!((*death, *reported), (Death::Signal(9), Some(limit)));
    assert!(failed.to_string().contains("ran out of memory"), "{failed}");
    fs::remove_file(shared.path().join("filled")).unwrap();
    bench.is_usable().await;
}

#[tokio::test]
async fn functions_that_do_not_end_with_their_peer_are_killed_with_it() {
    let folder = TempDir::new().unwrap();
    let mut parent = Command::new(PARENT);
    let parent = parent.arg(FUNCTION).arg(folder.path()).arg(LAUNCHER).stdout(Stdio::piped());
    let mut parent = parent.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3, "{line}");
    kill_process(Pid::from_raw(parent.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
    parent.wait().unwrap();
    eventually("the functions are gone", || !pids.iter().any(|&pid| is_running(pid))).await;
}

/// Whether the process runs; zombies do not count.
fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}
