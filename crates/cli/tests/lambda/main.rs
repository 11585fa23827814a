//! Training with functions on AWS Lambda, as far as an emulation goes that runs the real bootstrap program
//! (`pip install ministack`, executor `local`). Built with the feature `lambda`, after
//! `cargo build --workspace --bins --features peerless-cli/lambda`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

#[path = "../common/mod.rs"]
mod common;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Running, Workplace, same_state, skip, wait_until};
use peerless_protocol::Digest;
use peerless_protocol::function::{Output, Place, Report, Task, Work};
use peerless_store::{InvocationRecord, Ledger, ledger_path};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const RUN: [&str; 2] = ["--rounds", "60"];
const NAME: &str = "peerless-unit";

/// An emulation of Lambda with the function deployed.
struct Lambda {
    process: Running,
    port: u16,
    /// Environments that are reserved for the function, or `-`.
    concurrency: &'static str,
}

impl Lambda {
    /// `None`, said loudly, where there is no emulation.
    fn start(place: &Workplace) -> Option<Self> {
        Self::with_concurrency(place, "-")
    }

    fn with_concurrency(place: &Workplace, concurrency: &'static str) -> Option<Self> {
        let there = Command::new("python3").args(["-c", "import ministack"]).stderr(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            skip("ministack is not installed: pip install ministack==1.5.33");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { process: Self::launch(place, port, concurrency), port, concurrency })
    }

    fn launch(place: &Workplace, port: u16, concurrency: &str) -> Running {
        let mut command = Command::new("python3");
        command
            .arg(script("emulation.py"))
            .current_dir(place.path())
            .env("LAMBDA_EXECUTOR", "local")
            .env("GATEWAY_PORT", port.to_string());
        command.env("BIND_HOST", "127.0.0.1").env("TMPDIR", place.path()).stdin(Stdio::null());
        let process = place.start(command);
        wait_until("Lambda listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        // As in AWS's data centre, the dataset is not there.
        let nowhere = format!("PEERLESS_DATA={}", place.path().join("nowhere").display());
        let bootstrap = bootstrap().display().to_string();
        python("deploy.py", &[&format!("http://127.0.0.1:{port}"), NAME, &bootstrap, concurrency, &nowhere]);
        process
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Invocations and billed milliseconds as the function's own log in CloudWatch has them.
    fn log(&self) -> (u128, u128) {
        let output = python("invocations.py", &[&self.endpoint(), NAME]);
        let (invocations, billed_ms) = output.trim().split_once(' ').unwrap();
        (invocations.parse().unwrap(), billed_ms.parse().unwrap())
    }
}

/// Runs one of the scripts beside this file; its output.
fn python(script: &str, arguments: &[&str]) -> String {
    let done = Command::new("python3").arg(self::script(script)).args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lambda").join(name)
}

/// The function's program, as it is deployed to AWS.
fn bootstrap() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_peerless")).with_file_name("peerless-function");
    assert!(path.exists(), "first: cargo build --workspace --bins --features peerless-cli/lambda");
    path
}

fn command(place: &Workplace, endpoint: &str, more: &[&str]) -> Command {
    let flags = ["train", "--json", "--run-dir", "run", "--lambda", NAME, "--lambda-endpoint", endpoint];
    let mut command = place.command(&[&flags[..], &RUN, more].concat());
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "s3cret").env("AWS_REGION", "us-east-1");
    command
}

/// The processes that run the function's program.
fn environments() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let runs = |pid: &i32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.ends_with("bootstrap")
    };
    pids.filter(runs).filter_map(Pid::from_raw).collect()
}

fn kill_environments() {
    for pid in environments() {
        // It may have ended by itself in between.
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[test]
fn functions_on_lambda_give_the_state_of_local_ones() {
    let place = Workplace::for_training();
    let Some(lambda) = Lambda::start(&place) else { return };
    let summary = same_state(place.start(command(&place, &lambda.endpoint(), &["--peers", "3"])), &RUN);
    assert!(summary["functions"]["invocations"].as_u64() >= Some(60 * 4), "{summary:#}");
}

/// Dollars with twelve digits.
fn dollars(pico: u128) -> String {
    format!("{}.{:012}", pico / 1_000_000_000_000, pico % 1_000_000_000_000)
}

/// $0.20 for a million requests, in 10^-12 dollars.
const REQUEST: u128 = 200_000;

/// Checks the bill against one made by hand from the function's own log; it and the number of invocations.
fn billed_as_logged(place: &Workplace, lambda: &Lambda) -> (Value, u128) {
    let (invocations, billed_ms) = lambda.log();
    let bill = place.run(&["cost", "run", "--json"]).json();
    assert_eq!(bill["total"]["requests_usd"], dollars(invocations * REQUEST), "{bill:#}");
    // $0.0000166667 for a second of a GB, in 10^-12 dollars for a millisecond of an MB: 166,667 / 10,240; rounded half up.
    let compute = (billed_ms * 1769 * 166_667 * 2 / 10_240).div_ceil(2);
    assert_eq!(bill["total"]["compute_usd"], dollars(compute), "{bill:#}");
    assert_eq!(bill["total"]["estimated_invocations"], 0, "{bill:#}");
    (bill, invocations)
}

#[test]
fn every_invocation_in_lambdas_own_log_is_billed_and_no_other() {
    let place = Workplace::for_training();
    let Some(lambda) = Lambda::start(&place) else { return };
    same_state(place.start(command(&place, &lambda.endpoint(), &["--peers", "2"])), &RUN);
    let (bill, invocations) = billed_as_logged(&place, &lambda);
    assert!(invocations >= 60 * 4, "{invocations}");
    assert_ne!(bill["total"]["compute_usd"], dollars(0));
}

#[test]
fn invocations_that_fail_are_billed_as_logged_and_count_as_waste() {
    let place = Workplace::for_training();
    let Some(lambda) = Lambda::start(&place) else { return };
    // Units so long that environments are seldom idle; only then does an invocation die with its environment.
    let long = ["--batch-size", "512"];
    let training = place.start(command(&place, &lambda.endpoint(), &[&["--peers", "2"], &long[..]].concat()));
    for steps in (8..56).step_by(4) {
        place.wait_for_steps("run", 2, steps);
        if failed_attempts(&place) > 0 {
            break;
        }
        kill_environments();
    }
    let summary = same_state(training, &[&RUN[..], &long].concat());
    assert!(summary["functions"]["failed"].as_u64() > Some(0), "{summary:#}");
    let (bill, _) = billed_as_logged(&place, &lambda);
    assert!(bill["wasted"]["failed"]["usd"].as_str() > Some(dollars(REQUEST).as_str()), "{bill:#}");
}

#[test]
fn a_storm_of_refusals_costs_time_only() {
    let place = Workplace::for_training();
    let Some(lambda) = Lambda::with_concurrency(&place, "1") else { return };
    let flags = ["--peers", "2", "--functions", "4"];
    let summary = same_state(place.start(command(&place, &lambda.endpoint(), &flags)), &RUN);
    let throttled: u64 = ["1", "2"].map(|peer| throttled(&place, peer)).iter().sum();
    assert!(throttled > 10, "{throttled} of {summary:#}");
    billed_as_logged(&place, &lambda);
}

/// Attempts that were refused, as the peer's ledger has them.
fn throttled(place: &Workplace, peer: &str) -> u64 {
    attempts(place, peer, |outcome| outcome == "throttled")
}

/// Attempts of both peers that were neither successful nor refused, as far as their ledgers have them.
fn failed_attempts(place: &Workplace) -> u64 {
    let failed = |outcome: &str| !["ok", "discarded", "throttled"].contains(&outcome);
    ["1", "2"].map(|peer| attempts(place, peer, failed)).iter().sum()
}

fn attempts(place: &Workplace, peer: &str, counts: impl Fn(&str) -> bool) -> u64 {
    let ledger = Ledger::open_read_only(&ledger_path(&place.path().join("run/peers").join(peer))).unwrap();
    let mut found = 0;
    let mut count = |invocation: InvocationRecord| found += u64::from(counts(&invocation.outcome));
    ledger.visit_invocations(&mut count).unwrap();
    found
}

#[test]
fn environments_that_are_killed_and_an_endpoint_that_is_restarted_cost_time_only() {
    let place = Workplace::for_training();
    let Some(mut lambda) = Lambda::start(&place) else { return };
    let training = place.start(command(&place, &lambda.endpoint(), &["--peers", "2"]));
    for steps in [8, 12, 16] {
        place.wait_for_steps("run", 2, steps);
        kill_environments();
    }
    place.wait_for_steps("run", 2, 25);
    drop(std::mem::replace(&mut lambda.process, place.start(Command::new("true"))));
    lambda.process = Lambda::launch(&place, lambda.port, lambda.concurrency);
    let summary = same_state(training, &RUN);
    assert!(summary["functions"]["failed"].as_u64() > Some(0), "{summary:#}");
}

#[test]
fn a_function_that_is_not_there_and_a_missing_region_are_named() {
    let place = Workplace::for_training();
    let Some(lambda) = Lambda::start(&place) else { return };
    let flags = ["train", "--peers", "1", "--rounds", "2", "--lambda-endpoint", &lambda.endpoint(), "--lambda"];
    let credentials = |command: &mut Command| {
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "s3cret");
    };
    let mut missing = place.command(&[&flags[..], &["nothing-here"]].concat());
    credentials(missing.env("AWS_REGION", "us-east-1"));
    let ended = place.start(missing).wait();
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("there is no such function: the function nothing-here"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    let mut nowhere = place.command(&[&flags[..], &[NAME]].concat());
    credentials(
        nowhere.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION").env("AWS_EC2_METADATA_DISABLED", "true"),
    );
    let ended = place.start(nowhere).wait();
    assert!(ended.stderr.contains("no AWS region is configured"), "{}", ended.stderr);
}

/// Digests of what a local function computes for the units of an exported round.
fn computed_here(place: &Workplace, folder: &Path, tasks: &[Task]) -> Vec<Option<Digest>> {
    let mut local = String::new();
    for task in tasks {
        let mut task = task.clone();
        if let Work::Unit { unit, parameters, output, dataset, .. } = &mut task.work {
            parameters.place = Place::Path(folder.join("parameters.f32"));
            *output = Place::Path(folder.join(format!("local-{unit}")));
            dataset.clear();
        }
        local += &serde_json::to_string(&task).unwrap();
        local += "\n";
    }
    std::fs::write(folder.join("local.jsonl"), local).unwrap();
    let mut function = place.command(&["function"]);
    function.stdin(std::fs::File::open(folder.join("local.jsonl")).unwrap());
    let done = function.output().unwrap();
    let reports = String::from_utf8(done.stdout).unwrap();
    let digest = |line: &str| match serde_json::from_str::<Report>(line).unwrap().outcome {
        Ok(Output::Unit { digest, .. }) => digest,
        other => panic!("{other:?}"),
    };
    reports.lines().map(digest).collect()
}

#[test]
fn a_round_as_a_state_machine_gives_the_gradients_of_local_functions() {
    let place = Workplace::for_training();
    let Some(lambda) = Lambda::start(&place) else { return };
    let limited = ["--function-price", "lambda-x86:1769", "--budget", "0.0003", "--run-dir", "run"];
    place.run(&[&["train", "--peers", "1", "--rounds", "500"], &limited[..]].concat()).failed(9, &["budget"]);
    let endpoint = lambda.endpoint();
    let bucket = ["--bucket", "s3://models/team", "--bucket-endpoint", &endpoint];
    let flags = ["deploy", "step-functions", "run", "--function", NAME, "-o", "round", "--json"];
    let mut export = place.command(&[&flags[..], &bucket].concat());
    // With these the emulation checks what is signed.
    export.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let summary = place.start(export).wait().json();
    let folder = place.path().join("round");
    let tasks: Vec<Task> = serde_json::from_slice(&std::fs::read(folder.join("tasks.json")).unwrap()).unwrap();
    assert_eq!(summary["units"], tasks.len());
    let key = |name: &str| summary["tasks_key"].as_str().unwrap().replace("tasks.json", name);
    let mut objects: Vec<String> =
        ["tasks.json", "parameters.f32"].map(|name| format!("{}={}", key(name), folder.join(name).display())).into();
    let dataset = peerless_training::datasets::files("mnist", &peerless_training::datasets::default_dir()).unwrap();
    objects.extend(dataset.iter().map(|(name, path)| format!("team/datasets/mnist/{name}={}", path.display())));
    let units = tasks.len().to_string();
    let prefix = key("tasks.json").replace("/tasks.json", "");
    let mut arguments = vec![endpoint.as_str(), folder.to_str().unwrap(), "models", &prefix, &units];
    arguments.extend(objects.iter().map(String::as_str));
    python("step_functions.py", &arguments);
    let here = computed_here(&place, &folder, &tasks);
    assert_eq!(here.len(), tasks.len());
    for (unit, digest) in here.into_iter().enumerate() {
        let there = std::fs::read(folder.join(format!("units/{unit}.f32"))).unwrap();
        assert_eq!(Some(Digest::of(&there)), digest, "unit {unit}");
    }
}
