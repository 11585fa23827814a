//! The `lambda` platform with an emulation of AWS Lambda (`pip install ministack`, executor `local`) that runs a real
//! bootstrap program: the contract of all platforms, and what is its own. Built with the feature `lambda`; without the
//! emulation the tests say that they are skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's panics are its failures")]

#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerless_functions::{
    BoxFuture, Call, FunctionPlatform, Invocation, InvokeError, LambdaConfig, LambdaPlatform, PlatformSnapshot,
};
use support::contract::Wanted;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

/// An emulation of AWS, for one test.
struct Emulation {
    process: Child,
    endpoint: String,
    folder: TempDir,
}

impl Emulation {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command.arg(script("emulation.py")).current_dir(folder.path()).env("TMPDIR", folder.path());
        command.env("LAMBDA_EXECUTOR", "local").env("GATEWAY_PORT", port.to_string()).env("BIND_HOST", "127.0.0.1");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let emulation = Self { process, endpoint: format!("http://127.0.0.1:{port}"), folder };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "the emulation does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        emulation
    }

    /// Deploys the scripted function.
    fn deploy(&self, name: &str, script_folder: &Path) {
        let bootstrap = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lambda/bootstrap");
        let function = format!("PEERLESS_SCRIPTED_FUNCTION={}", env!("CARGO_BIN_EXE_scripted-function"));
        let folder = format!("PEERLESS_SCRIPT_DIR={}", script_folder.display());
        let mut command = Command::new("python3");
        command.arg(script("deploy.py")).args([&self.endpoint, name]).arg(bootstrap).args(["-", &function, &folder]);
        let done = command.current_dir(self.folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// One of the scripts that the tests of the command have, too.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/tests/lambda").join(name)
}

/// The platform with the emulation that it calls.
struct Emulated {
    platform: LambdaPlatform,
    _emulation: Emulation,
}

impl FunctionPlatform for Emulated {
    fn name(&self) -> &'static str {
        self.platform.name()
    }

    fn concurrency(&self) -> usize {
        self.platform.concurrency()
    }

    fn shares_files(&self) -> bool {
        self.platform.shares_files()
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        self.platform.invoke(call)
    }

    fn snapshot(&self) -> PlatformSnapshot {
        self.platform.snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        self.platform.shutdown()
    }
}

fn factory(wanted: &Wanted<'_>) -> Arc<dyn FunctionPlatform> {
    let emulation = Emulation::start();
    emulation.deploy("scripted", wanted.folder);
    let config = LambdaConfig {
        endpoint: Some(emulation.endpoint.clone()),
        concurrency: wanted.concurrency,
        queue_limit: wanted.queue_limit,
        time_limit: wanted.time_limit,
        ..LambdaConfig::new("scripted")
    };
    let platform = block_in_place(|| Handle::current().block_on(LambdaPlatform::new(config))).unwrap();
    Arc::new(Emulated { platform, _emulation: emulation })
}

mod contract {
    crate::support::contract::contract_tests!(crate::factory, #[ignore = "needs the environment that another test sets"]);
}

/// In a process of its own, since credentials come from the environment.
#[test]
fn lambda_keeps_to_the_contract_of_all_platforms() {
    let there = Command::new("python3").args(["-c", "import ministack"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        // Unlike that of `eprintln!`, this output is not captured.
        let _ = writeln!(std::io::stderr(), "SKIPPED: ministack is not installed: pip install ministack==1.5.33");
        return;
    }
    let mut clauses = Command::new(std::env::current_exe().unwrap());
    clauses.args(["contract::", "--ignored", "--test-threads", "2"]);
    clauses.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_REGION", "us-east-1");
    let done = clauses.output().unwrap();
    let output = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && !output.contains("running 0 tests"), "{output}");
    println!("{output}");
}
