//! The function as a real HTTP server, and with tensors on the network.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod store;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use peerless_aggregation::{LearningRate, Optimizer};
use peerless_function_host::{Host, Options};
use peerless_protocol::function::{
    FUNCTION_PROTOCOL, Failure, FailureKind, Output, Place, Remote, Report, Task, TensorRef, Work,
};
use peerless_protocol::{Digest, EvaluationSpec, RunSpec, SPEC_VERSION, UnitKind};
use peerless_training::Model;
use peerless_training::datasets::{PullOptions, dataset, default_dir, pull};
use rustix::process::{Pid, Signal, kill_process};
use store::Store;
use tempfile::TempDir;

struct Server {
    process: Child,
    url: String,
    /// For temporary files.
    folder: Arc<TempDir>,
}

impl Server {
    fn start(token: &str) -> Self {
        Self::with(token, Arc::new(tempfile::tempdir().unwrap()))
    }

    fn with(token: &str, folder: Arc<TempDir>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerless-function"));
        command.env("PORT", "0").env("PEERLESS_FUNCTION_TOKEN", token).env("PEERLESS_DATA", data());
        command.env("TMPDIR", folder.path());
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let (_, port) = line.trim().rsplit_once(':').unwrap();
        Self { process, url: format!("http://127.0.0.1:{port}"), folder }
    }

    /// Status and body of a POST.
    fn post(&self, path: &str, token: &str, body: &[u8]) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.post(format!("{}{path}", self.url)).header("Authorization", format!("Bearer {token}"));
        let mut response = request.send(body).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn invoke(&self, task: &Task) -> Report {
        let (status, body) = self.post("/invoke", "", &serde_json::to_vec(task).unwrap());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn data() -> PathBuf {
    pull("mnist", &PullOptions::default(), &mut |_| ()).unwrap();
    default_dir()
}

fn spec() -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "lenet5".to_owned(),
        dataset: dataset("mnist").unwrap().spec(),
        seed: 11,
        units_per_round: 4,
        samples_per_unit: 16,
        rounds: 10,
        optimizer: Optimizer::Sgd { weight_decay: 0.0 },
        learning_rate: LearningRate::constant(0.1),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 5, samples_per_unit: 100 },
        early_stopping: None,
        until_correct: None,
    }
}

fn task(invocation: u64, work: Work) -> Task {
    Task { version: FUNCTION_PROTOCOL, invocation, run: spec().id(), spec: spec(), work }
}

fn unit(unit: u32, parameters: TensorRef, output: Place) -> Work {
    Work::Unit { round: 0, unit, unit_kind: UnitKind::Gradient, parameters, output, dataset: BTreeMap::new() }
}

/// The model's initial values as bytes.
fn initial() -> Vec<u8> {
    let values = Model::named("lenet5").unwrap().initial_values(11).unwrap();
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn at(store: &Store, path: &str, bytes: &[u8]) -> TensorRef {
    let place = Place::Remote(Remote { url: format!("{}{path}", store.url), token: Some("t0ken".into()) });
    TensorRef { place, offset: 0, elements: bytes.len() as u64 / 4, digest: Some(Digest::of(bytes)) }
}

/// Units 0 and 1 computed with files.
fn by_files(bytes: &[u8]) -> Vec<Digest> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("parameters");
    fs::write(&path, bytes).unwrap();
    let elements = bytes.len() as u64 / 4;
    let parameters = TensorRef { place: Place::Path(path), offset: 0, elements, digest: None };
    let mut host = Host::new(Options { data_dir: data(), cache_dir: None, threads: 1, ..Options::default() });
    let compute = |number| {
        let output = Place::Path(folder.path().join("gradient"));
        digest(host.handle(&task(1, unit(number, parameters.clone(), output))).outcome)
    };
    (0..2).map(compute).collect()
}

fn digest(outcome: Result<Output, Failure>) -> Digest {
    match outcome {
        Ok(Output::Unit { digest: Some(digest), .. }) => digest,
        other => panic!("{other:?}"),
    }
}

fn output(store: &Store, path: &str) -> Place {
    Place::Remote(Remote { url: format!("{}{path}", store.url), token: Some("t0ken".into()) })
}

#[test]
fn tasks_over_http_get_reports_and_only_the_first_is_cold() {
    let server = Server::start("");
    for (invocation, cold) in [(1, true), (2, false), (3, false)] {
        let report = server.invoke(&task(invocation, Work::Ping));
        assert_eq!((report.invocation, report.cold, report.outcome), (invocation, cold, Ok(Output::Pong)));
    }
}

#[test]
fn who_has_no_token_may_ask_for_its_health_and_nothing_else() {
    let server = Server::start("s3cret");
    let ping = serde_json::to_vec(&task(1, Work::Ping)).unwrap();
    assert_eq!(server.post("/", "s3cret", &ping).0, 200);
    for wrong in ["", "s3cre", "s3cret2", "S3CRET"] {
        assert_eq!(server.post("/", wrong, &ping).0, 401);
        assert_eq!(server.post("/invoke", wrong, &ping).0, 401);
    }
    assert_eq!(ureq::get(format!("{}/health", server.url)).call().unwrap().status(), 200);
}

#[test]
fn what_is_no_task_is_refused_and_the_server_goes_on() {
    let server = Server::start("");
    assert_eq!(server.post("/", "", b"this is no task").0, 400);
    assert_eq!(server.post("/", "", &vec![b' '; (1 << 20) + 1]).0, 413);
    assert_eq!(server.post("/elsewhere", "", b"{}").0, 404);
    let (status, body) = server.post("/", "", br#"{"version":99,"invocation":5}"#);
    let failure = serde_json::from_str::<Report>(&body).unwrap().outcome.unwrap_err();
    assert_eq!((status, failure.kind), (200, FailureKind::Unsupported));
    server.invoke(&task(1, Work::Ping));
}

#[test]
fn the_server_ends_when_it_is_asked_to() {
    let mut server = Server::start("");
    server.invoke(&task(1, Work::Ping));
    kill_process(Pid::from_child(&server.process), Signal::TERM).unwrap();
    assert!(server.process.wait().unwrap().success());
}

#[test]
fn units_with_tensors_on_the_network_have_the_same_bits_and_fetch_a_state_once() {
    let (store, server, bytes) = (Store::start("t0ken"), Server::start(""), initial());
    store.put("/state", &bytes);
    for (number, expected) in (0..).zip(by_files(&bytes)) {
        let path = format!("/gradient-{number}");
        let report = server.invoke(&task(9, unit(number, at(&store, "/state", &bytes), output(&store, &path))));
        assert_eq!(digest(report.outcome), expected);
        assert_eq!(Digest::of(&store.get(&path).unwrap()), expected);
    }
    assert_eq!(store.reads("/state"), 1);
}

#[test]
fn a_function_that_takes_the_place_of_one_that_died_finds_the_state_on_its_machine() {
    let (store, server, bytes) = (Store::start("t0ken"), Server::start(""), initial());
    store.put("/state", &bytes);
    let work = || unit(0, at(&store, "/state", &bytes), output(&store, "/gradient"));
    let first = digest(server.invoke(&task(1, work())).outcome);
    let folder = Arc::clone(&server.folder);
    drop(server);
    let report = Server::with("", folder).invoke(&task(2, work()));
    assert_eq!((report.reads, store.reads("/state")), (Some(0), 1));
    assert_eq!(digest(report.outcome), first);
}

#[test]
fn a_transfer_that_is_cut_goes_on_where_it_was() {
    let (store, server, bytes) = (Store::start("t0ken"), Server::start(""), initial());
    store.put("/cut-in-half/state", &bytes);
    let work = unit(0, at(&store, "/cut-in-half/state", &bytes), output(&store, "/gradient"));
    assert_eq!(digest(server.invoke(&task(1, work)).outcome), by_files(&bytes)[0]);
    assert!(store.reads("/cut-in-half/state") > 1);
    // Half of what is left is a little more each time, but never all of it.
    assert!(store.bytes_read("/cut-in-half/state") <= bytes.len() as u64);
}

#[test]
fn what_goes_wrong_on_the_network_is_reported_without_secrets() {
    let (store, server, bytes) = (Store::start("t0ken"), Server::start(""), initial());
    store.put("/state", &bytes);
    store.put("/busy/state", &bytes);
    let good = at(&store, "/state", &bytes);
    let damaged = TensorRef { digest: Some(Digest([7; 32])), ..good.clone() };
    let unchecked = TensorRef { digest: None, ..good.clone() };
    let place = |url: String| Place::Remote(Remote { url, token: Some("wr0ng".into()) });
    let denied = TensorRef { place: place(format!("{}/state?signature=s1gned", store.url)), ..good.clone() };
    let nonsense = TensorRef { place: place("http://[/?signature=s1gned".into()), ..good.clone() };
    let gone = TensorRef { place: place("http://127.0.0.1:1/state?signature=s1gned".into()), ..good.clone() };
    let to = |path| output(&store, path);
    let cases = [
        (damaged, to("/gradient"), FailureKind::Environment, "instead of 0707"),
        (unchecked, to("/gradient"), FailureKind::Unsupported, "have no digest"),
        (at(&store, "/missing", &bytes), to("/gradient"), FailureKind::Input, "404"),
        (at(&store, "/busy/state", &bytes), to("/gradient"), FailureKind::Environment, "503"),
        (denied, to("/gradient"), FailureKind::Input, "401"),
        (nonsense, to("/gradient"), FailureKind::Input, "not a URL"),
        (gone, to("/gradient"), FailureKind::Environment, "refused"),
        (good.clone(), to("/full/gradient"), FailureKind::Input, "413"),
        (good.clone(), place(format!("{}/gradient?signature=s1gned", store.url)), FailureKind::Input, "401"),
    ];
    for (parameters, output, kind, message) in cases {
        let failure = server.invoke(&task(1, unit(0, parameters, output))).outcome.unwrap_err();
        assert_eq!(failure.kind, kind, "{}", failure.message);
        assert!(failure.message.contains(message), "{}", failure.message);
        for secret in ["t0ken", "wr0ng", "s1gned"] {
            assert!(!failure.message.contains(secret), "{}", failure.message);
        }
    }
    let report = server.invoke(&task(1, unit(0, good, to("/gradient"))));
    assert_eq!(digest(report.outcome), by_files(&bytes)[0]);
}
