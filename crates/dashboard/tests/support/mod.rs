//! Run directories as peers leave them, and a client that speaks raw HTTP.
#![allow(dead_code, reason = "every test program uses another part of this")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use peerless_dashboard::{Dashboard, DashboardOptions, Limits, Token};
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::unix_us;
use peerless_peer::ticket::JoinSecret;
use peerless_protocol::{DatasetSpec, Digest, EvaluationSpec, PeerId, RunSpec, SPEC_VERSION};
use peerless_store::{
    Batch, EvaluationRecord, EventRecord, InvocationRecord, Ledger, RoundRecord, RoundTimes, ledger_path,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

pub const ROUNDS: u64 = 100;
/// When the run of the tests began.
pub const BEGIN: u64 = 1_700_000_000_000_000;

/// A run directory, and processes that stand for living peers.
pub struct Place {
    pub directory: TempDir,
    processes: Vec<Child>,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        RunDirectory::create(&directory.path().join("run"), spec(), JoinSecret::from_bytes([7; 32]), BEGIN).unwrap();
        fs::write(directory.path().join("peer"), "read line\n").unwrap();
        Self { directory, processes: Vec::new() }
    }

    pub fn run(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn peer_directory(&self, name: &str) -> PathBuf {
        let path = self.run().join("peers").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The id of a process that is taken for a peer's.
    pub fn process(&mut self) -> u32 {
        let mut command = Command::new("sh");
        command.arg("peer").current_dir(self.directory.path()).stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let id = child.id();
        self.processes.push(child);
        // It has its command line a moment after it is started.
        while fs::read(format!("/proc/{id}/cmdline")).unwrap().split(|&byte| byte == 0).nth(1) != Some(b"peer") {
            std::thread::yield_now();
        }
        id
    }

    pub fn kill(&mut self, id: u32) {
        let process = self.processes.iter_mut().find(|process| process.id() == id).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Writes the status of a peer, changed by `change`.
    pub fn status(&self, name: &str, pid: u32, round: u64, change: impl FnOnce(&mut Value)) {
        let mut status = json!({
            "version": 1, "run": spec().id(), "peer": id(name), "name": name, "pid": pid, "phase": "training",
            "steps": round, "round": round, "state_digest": Digest::of(&round.to_le_bytes()), "fingerprint": null,
            "addresses": [], "neighbours": 2, "training_loss": 0.5,
            "evaluation": {"round": 0, "samples": 10, "correct": 1, "accuracy": 0.1, "loss": 2.3},
            "finish_reason": null, "rounds_applied": round, "contributions": round, "backup_units": 0,
            "functions": {"processes": [{"pid": 1, "busy": true}, {"pid": 2, "busy": false}], "invocations": 1,
                "cold_starts": 1, "failed": 0, "retried": 0},
            "error": null, "updated_unix_us": unix_us(), "training_since_unix_us": BEGIN, "finished_unix_us": null,
        });
        change(&mut status);
        let path = self.peer_directory(name).join("status.json");
        fs::write(path.with_extension("tmp"), status.to_string()).unwrap();
        fs::rename(path.with_extension("tmp"), path).unwrap();
    }

    pub fn ledger(&self, name: &str) -> Ledger {
        Ledger::open(&ledger_path(&self.peer_directory(name))).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub fn spec() -> RunSpec {
    let dataset =
        DatasetSpec { name: "mnist".into(), digest: Digest::of(b"data"), train_samples: 60_000, test_samples: 10_000 };
    let json = json!({
        "version": SPEC_VERSION, "model": "lenet5", "dataset": dataset, "seed": 1, "units_per_round": 4,
        "samples_per_unit": 64, "rounds": ROUNDS,
        "optimizer": serde_json::to_value("sgd".parse::<peerless_protocol::Optimizer>().unwrap()).unwrap(),
        "learning_rate": {"base": 0.1, "warm_up_rounds": 0, "schedule": "constant"},
        "clip_norm": null, "fraction_bits": 40,
        "evaluation": EvaluationSpec { every_rounds: 5, samples_per_unit: 250 },
        "early_stopping": null, "until_correct": null,
    });
    serde_json::from_value(json).unwrap()
}

/// The key of a peer with this name.
pub fn id(name: &str) -> PeerId {
    PeerId(Digest::of(name.as_bytes()).0)
}

/// A round that was applied `ms` after the run began, with one unit here.
pub fn round(round: u64, ms: u64) -> Batch {
    let invocation = InvocationRecord {
        id: round,
        round: Some(round),
        unit: Some(0),
        kind: "gradient".into(),
        platform: "process".into(),
        function: "1".into(),
        cold: round == 0,
        outcome: "ok".into(),
        attempt: 1,
        started_at_us: BEGIN + 1_000 * ms,
        duration_us: 10_000,
        session: Some(1),
        ..InvocationRecord::default()
    };
    let record = RoundRecord {
        round,
        at_us: BEGIN + 1_000 * ms,
        state_digest: Digest::of(&round.to_le_bytes()),
        training_samples: 256,
        training_correct: 200,
        training_loss: Some(2.0 / (round + 1) as f64),
        evaluation: round.is_multiple_of(5).then_some(EvaluationRecord {
            samples: 10_000,
            correct: 9_000,
            loss: Some(0.25),
        }),
        times: RoundTimes {
            compute_us: 20_000,
            sum_us: 200,
            transfer_us: 300,
            update_us: 80,
            digest_us: 300,
            wait_us: 900,
        },
        units_computed: 1,
        backup_units: 0,
    };
    Batch {
        round: Some(record),
        invocations: vec![invocation],
        alive: Some((1, BEGIN + 1_000 * ms)),
        ..Batch::default()
    }
}

pub fn event(ms: u64, round: u64, kind: &str, detail: Value) -> EventRecord {
    EventRecord { at_us: BEGIN + 1_000 * ms, round: Some(round), kind: kind.into(), detail: detail.to_string() }
}

/// A dashboard that is served until this is dropped.
pub struct Served {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub fn new(place: &Place) -> Self {
        Self::with(place, Limits::default(), None)
    }

    pub fn with(place: &Place, limits: Limits, token: Option<Token>) -> Self {
        let (send, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let options = DashboardOptions { run: place.run(), listen: ([127, 0, 0, 1], 0).into(), token, limits };
        let serve = async move {
            let dashboard = Dashboard::listen(options).unwrap();
            send.send(dashboard.address()).unwrap();
            let stop = async {
                let _ = stopped.await;
            };
            dashboard.serve(stop).await.unwrap();
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(serve));
        Self { address: address.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends a request with these header lines, and reads the answer to its end.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let mut stream = self.connect();
        let host = format!("Host: {}", self.address);
        let host = if headers.iter().any(|line| line.starts_with("Host:")) { "X-No: 1" } else { host.as_str() };
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        write!(stream, "{method} {path} HTTP/1.1\r\n{host}\r\n{headers}Connection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Answer::parse(&text)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[])
    }

    /// Begins to watch.
    pub fn events(&self) -> Events {
        let mut stream = self.connect();
        write!(stream, "GET /events?width=400&wide=800 HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).unwrap();
        Events { stream, text: String::new() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).unwrap_or("0").parse().unwrap();
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A stream of events.
pub struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    /// The next event: its name and data.
    pub fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(event) = self.take() {
                return Some(event);
            }
            let mut bytes = [0; 4096];
            let length = self.stream.read(&mut bytes).unwrap();
            if length == 0 {
                return None;
            }
            self.text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    }

    fn take(&mut self) -> Option<(String, Value)> {
        let begin = self.text.find("event: ")?;
        let end = begin + self.text[begin..].find("\n\n")?;
        // Chunks of the transfer encoding may begin within an event only if it is longer than a chunk.
        let event: String = self.text[begin..end].to_owned();
        self.text.drain(..end + 2);
        let (name, data) = event.strip_prefix("event: ")?.split_once('\n')?;
        let data: String = data.strip_prefix("data: ")?.to_owned();
        Some((name.to_owned(), serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error} in {data}"))))
    }
}

/// Three peers, of which the second died.
pub fn three_peers(place: &mut Place) -> [u32; 3] {
    let pids = [place.process(), place.process(), place.process()];
    for (name, pid) in ["1", "2", "3"].into_iter().zip(pids) {
        let mut ledger = place.ledger(name);
        ledger.begin_session(BEGIN, "{}").unwrap();
        let last = if name == "2" { 10 } else { 20 };
        for number in 0..last {
            let mut batch = round(number, 100 * (number + 1));
            // Each peer computes another unit.
            batch.invocations[0].unit = name.parse().ok();
            ledger.record(&batch).unwrap();
        }
        if name != "2" {
            let late = u64::from(name == "3") * 4;
            let lost = event(1_010 + late, 10, "peer-lost", json!({ "peer": id("2") }));
            ledger.record(&Batch { events: vec![lost], ..Batch::default() }).unwrap();
        }
        place.status(name, pid, last, |_| {});
    }
    place.kill(pids[1]);
    pids
}

pub fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
}
