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
use peerless_training::datasets::default_dir;
use rustix::process::{Pid, Signal, kill_process};

const RUN: [&str; 2] = ["--rounds", "60"];
const NAME: &str = "peerless-unit";

/// An emulation of Lambda with the function deployed.
struct Lambda {
    process: Running,
    port: u16,
}

impl Lambda {
    /// `None`, said loudly, where there is no emulation.
    fn start(place: &Workplace) -> Option<Self> {
        let there = Command::new("ministack").arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if there.is_err() {
            skip("ministack is not installed: pip install ministack==1.5.33");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { process: Self::launch(place, port), port })
    }

    fn launch(place: &Workplace, port: u16) -> Running {
        let mut command = Command::new("ministack");
        command.current_dir(place.path()).env("LAMBDA_EXECUTOR", "local").env("GATEWAY_PORT", port.to_string());
        command.env("BIND_HOST", "127.0.0.1").env("TMPDIR", place.path()).stdin(Stdio::null());
        let process = place.start(command);
        wait_until("Lambda listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let deployed = Command::new("python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lambda/deploy.py"))
            .args([&format!("http://127.0.0.1:{port}"), NAME])
            .arg(bootstrap())
            .args([format!("PEERLESS_DATA={}", default_dir().display())])
            .output()
            .unwrap();
        assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
        process
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
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

#[test]
fn functions_on_lambda_give_the_state_of_local_ones() {
    let place = Workplace::for_training();
    let Some(lambda) = Lambda::start(&place) else { return };
    let summary = same_state(place.start(command(&place, &lambda.endpoint(), &["--peers", "3"])), &RUN);
    assert!(summary["functions"]["invocations"].as_u64() >= Some(60 * 4), "{summary:#}");
}

#[test]
fn environments_that_are_killed_and_an_endpoint_that_is_restarted_cost_time_only() {
    let place = Workplace::for_training();
    let Some(mut lambda) = Lambda::start(&place) else { return };
    let training = place.start(command(&place, &lambda.endpoint(), &["--peers", "2"]));
    for steps in [8, 12, 16] {
        place.wait_for_steps("run", 2, steps);
        for pid in environments() {
            // It may have ended by itself in between.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    place.wait_for_steps("run", 2, 25);
    drop(std::mem::replace(&mut lambda.process, place.start(Command::new("true"))));
    lambda.process = Lambda::launch(&place, lambda.port);
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
