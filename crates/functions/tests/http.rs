//! The `http` platform with a real server process: the contract of all platforms, and what is its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's panics are its failures")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use peerless_functions::{
    BoxFuture, Call, FunctionPlatform, HttpConfig, HttpConfigError, HttpPlatform, Invocation, InvokeError, Outcome,
    PlatformSnapshot,
};
use support::contract::{Bench, Wanted};
use tempfile::TempDir;

/// A server that ends with the test.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path, token: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scripted-server"));
        command.arg(env!("CARGO_BIN_EXE_scripted-function")).env("PEERLESS_SCRIPT_DIR", folder);
        if let Some(token) = token {
            command.env("PEERLESS_SCRIPT_TOKEN", token);
        }
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { process, url: url.trim().to_owned() }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The platform with the server that it calls.
struct Served {
    platform: HttpPlatform,
    _server: Server,
}

impl FunctionPlatform for Served {
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
    let server = Server::start(wanted.folder, None);
    let config = HttpConfig {
        concurrency: wanted.concurrency,
        queue_limit: wanted.queue_limit,
        time_limit: wanted.time_limit,
        ..HttpConfig::new(vec![server.url.clone()])
    };
    Arc::new(Served { platform: HttpPlatform::new(config).unwrap(), _server: server })
}

mod contract {
    crate::support::contract::contract_tests!(crate::factory);
}

fn platform(config: HttpConfig) -> Bench {
    Bench::around(Arc::new(HttpPlatform::new(config).unwrap()), TempDir::new().unwrap())
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_more_often_than_one_that_fails() {
    let bench = Bench::new(&factory, 1);
    bench.invoke("throttle-twice", 1).await.unwrap();
    let attempts = bench.attempts(1);
    let outcomes: Vec<&str> = attempts.iter().map(|record| class(&record.outcome)).collect();
    assert_eq!(outcomes, ["throttled", "throttled", "ok"]);
    let failed = bench.invoke("throttle", 2).await.unwrap_err();
    assert!(matches!(failed.error, InvokeError::Throttled { retry_after: None, .. }), "{failed}");
    assert!(failed.attempts > 3, "{failed}");
}

fn class(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Succeeded => "ok",
        Outcome::Discarded => "discarded",
        Outcome::Failed(error) => error.class(),
    }
}

#[tokio::test]
async fn what_cannot_be_had_by_asking_again_is_asked_for_once() {
    let bench = Bench::new(&factory, 1);
    for (model, class) in [("missing", "missing"), ("redirect", "refused")] {
        let failed = bench.invoke(model, 1).await.unwrap_err();
        assert_eq!((failed.error.class(), failed.attempts), (class, 1), "{failed}");
    }
    bench.is_usable().await;
}

#[tokio::test]
async fn a_token_is_sent_and_never_shown() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(folder.path(), Some("s3cret-token"));
    let config = |token: &str| HttpConfig { token: Some(token.into()), ..HttpConfig::new(vec![server.url.clone()]) };
    platform(config("s3cret-token")).invoke("ping", 1).await.unwrap();
    let failed = platform(config("an0ther-token")).invoke("ping", 1).await.unwrap_err();
    assert!(matches!(failed.error, InvokeError::Denied { .. }), "{failed}");
    let shown = format!("{failed} {failed:?} {:?}", config("an0ther-token"));
    assert!(!shown.contains("0ther"), "{shown}");
    assert_eq!(HttpPlatform::new(config("two\nlines")).err(), Some(HttpConfigError::Token));
}

#[tokio::test]
async fn a_connection_that_breaks_in_an_answer_costs_one_retry() {
    let bench = Bench::new(&factory, 1);
    bench.invoke("cut-once", 1).await.unwrap();
    let attempts = bench.attempts(1);
    assert_eq!(attempts.len(), 2);
    assert!(matches!(attempts[0].outcome, Outcome::Failed(InvokeError::Unreachable { .. })), "{attempts:?}");
}

#[tokio::test]
async fn a_server_that_dies_is_left_alone_while_another_one_works() {
    let folder = TempDir::new().unwrap();
    let mut servers = [Server::start(folder.path(), None), Server::start(folder.path(), None)];
    let urls = servers.iter().map(|server| server.url.clone()).collect();
    let bench = platform(HttpConfig { concurrency: 1, ..HttpConfig::new(urls) });
    bench.invoke("ping", 0).await.unwrap();
    servers[0].kill();
    for invocation in 1..20 {
        bench.invoke("ping", invocation).await.unwrap();
    }
    let failures = bench.records.all().len() - 20;
    assert!((1..=3).contains(&failures), "{failures} calls went to the dead server");
}

#[tokio::test]
async fn nobody_there_is_an_error_that_says_so() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bench = platform(HttpConfig::new(vec![format!("http://{unused}/compute")]));
    let failed = bench.invoke("ping", 1).await.unwrap_err();
    assert!(matches!(failed.error, InvokeError::Unreachable { .. }) && failed.error.platform_gone(), "{failed}");
    let text = failed.to_string();
    assert!(text.contains(&unused.to_string()) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused() {
    assert_eq!(HttpPlatform::new(HttpConfig::new(vec![])).err(), Some(HttpConfigError::NoUrl));
    for url in ["", "localhost:80", "ftp://host", "http://", "http://user:hunter2@host", "/path"] {
        let error = HttpPlatform::new(HttpConfig::new(vec![url.into()])).err().expect(url);
        assert!(matches!(error, HttpConfigError::Url { .. }), "{url}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let missing = HttpConfig { authorities: Some("/nowhere.pem".into()), ..HttpConfig::new(vec!["http://h".into()]) };
    assert!(matches!(HttpPlatform::new(missing).err(), Some(HttpConfigError::Pem { .. })));
    let none = HttpConfig { concurrency: 0, time_limit: Duration::MAX, ..HttpConfig::new(vec!["http://h".into()]) };
    assert_eq!(HttpPlatform::new(none).err(), Some(HttpConfigError::Concurrency));
}
