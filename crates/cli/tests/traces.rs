//! Traces of real runs, as a collector gets them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use common::{Workplace, same_state, wait_until};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use peerless_store::{InvocationRecord, Ledger, RoundRecord, ledger_path};
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};

const LONG: [&str; 2] = ["--rounds", "160"];
const SHORT: [&str; 2] = ["--rounds", "40"];

/// What a collector does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Takes,
    /// Takes the bytes and never answers.
    Stalls,
    /// Answers so many with this status, and takes the others.
    Refuses(u16, usize),
}

/// A span, and the resource that it came with.
#[derive(Debug, Clone, PartialEq)]
struct Got {
    resource: BTreeMap<String, Value>,
    span: Span,
}

/// Answers as a collector of OTLP over HTTP does.
struct Collector {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    manner: Manner,
    got: Vec<Got>,
    heads: Vec<String>,
    stalled: Vec<TcpStream>,
}

impl Collector {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { manner, got: Vec::new(), heads: Vec::new(), stalled: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { address, state }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn got(&self) -> Vec<Got> {
        self.state.lock().unwrap().got.clone()
    }

    fn requests(&self) -> usize {
        self.state.lock().unwrap().heads.len()
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some((head, body)) = request(&mut reader) {
        let mut state = state.lock().unwrap();
        state.heads.push(head);
        let status = match state.manner {
            Manner::Stalls => return state.stalled.push(stream.try_clone().unwrap()),
            Manner::Refuses(status, left) if left > 0 => {
                state.manner = Manner::Refuses(status, left - 1);
                status
            }
            Manner::Takes | Manner::Refuses(..) => {
                state.got.extend(spans(&body));
                200
            }
        };
        drop(state);
        let mut stream = stream;
        if write!(stream, "HTTP/1.1 {status} S\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn spans(body: &[u8]) -> Vec<Got> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut all = Vec::new();
    for of_resource in request.resource_spans {
        let resource = attributes(&of_resource.resource.unwrap().attributes);
        let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        all.extend(spans.map(|span| Got { resource: resource.clone(), span }));
    }
    all
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, Value> {
    let value = |value: &Option<AnyValue>| value.clone().unwrap().value.unwrap();
    pairs.iter().map(|pair| (pair.key.clone(), value(&pair.value))).collect()
}

fn text(value: &str) -> Option<Value> {
    Some(Value::StringValue(value.to_owned()))
}

impl Got {
    fn get(&self, name: &str) -> Option<Value> {
        attributes(&self.span.attributes).remove(name)
    }

    fn is(&self, name: &str) -> bool {
        self.span.name == name
    }

    fn of(&self, peer: &str) -> bool {
        self.resource.get("peerless.peer") == text(peer).as_ref()
    }

    fn failed(&self) -> Option<&str> {
        let status = self.span.status.as_ref()?;
        (status.code == StatusCode::Error as i32).then_some(status.message.as_str())
    }

    fn id(&self) -> (Vec<u8>, Vec<u8>) {
        (self.span.trace_id.clone(), self.span.span_id.clone())
    }
}

/// Rounds and invocations in the ledger of a peer of the run directory `run`.
fn ledger(place: &Workplace, peer: &str) -> (Vec<RoundRecord>, Vec<InvocationRecord>) {
    let ledger = Ledger::open_read_only(&ledger_path(&place.path().join("run/peers").join(peer))).unwrap();
    let mut invocations = Vec::new();
    ledger.visit_invocations(|record| invocations.push(record)).unwrap();
    (ledger.rounds(0, 100_000).unwrap(), invocations)
}

/// The process that sends traces of a run that was started here.
fn exporter(place: &Workplace) -> Option<Pid> {
    let is_exporter = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        line.split(|&byte| byte == 0).nth(1) == Some(b"trace")
    };
    place.processes().into_iter().find(is_exporter)
}

/// Checks that each span has the parent that it must have, in the same trace.
fn parents_are_right(got: &[Got]) {
    let by_id: BTreeMap<_, &Got> = got.iter().map(|got| (got.id(), got)).collect();
    for child in got {
        let parent = by_id.get(&(child.span.trace_id.clone(), child.span.parent_span_id.clone()));
        let wanted = match child.span.name.as_str() {
            "unit" => Some("round"),
            "invocation" if child.get("peerless.unit").is_some() => Some("unit"),
            _ => None,
        };
        assert_eq!(parent.map(|parent| parent.span.name.as_str()), wanted, "{child:#?}");
        let Some(parent) = parent else {
            assert!(child.span.parent_span_id.is_empty(), "{child:#?}");
            continue;
        };
        assert_eq!(parent.resource, child.resource);
        assert!(parent.span.start_time_unix_nano <= child.span.start_time_unix_nano, "{parent:#?} {child:#?}");
        assert_eq!(parent.get("peerless.round"), child.get("peerless.round"));
    }
}

/// Checks that everything in the ledger of a peer is there, each once.
fn is_all_of(place: &Workplace, peer: &str, got: &[Got]) {
    let got: Vec<&Got> = got.iter().filter(|got| got.of(peer)).collect();
    let (rounds, invocations) = ledger(place, peer);
    let applied = got.iter().filter(|got| got.get("peerless.round.applied") == Some(Value::BoolValue(true)));
    let digests: Vec<Value> = applied.map(|got| got.get("peerless.round.state_digest").unwrap()).collect();
    assert_eq!(digests.len(), rounds.len(), "peer {peer}");
    assert!(rounds.iter().all(|round| digests.contains(&text(&round.state_digest.to_string()).unwrap())));
    let calls: Vec<&&Got> = got.iter().filter(|got| got.is("invocation")).collect();
    assert_eq!(calls.len(), invocations.len(), "peer {peer}");
    for record in &invocations {
        let begin = record.started_at_us * 1_000;
        let call = calls.iter().find(|got| {
            let function = text(&record.function).filter(|_| !record.function.is_empty());
            got.span.start_time_unix_nano == begin && got.get("faas.invoked_name") == function
        });
        let call = call.unwrap_or_else(|| panic!("{record:#?}"));
        assert_eq!(call.span.end_time_unix_nano, begin + record.duration_us * 1_000);
        assert_eq!(call.span.kind, SpanKind::Client as i32);
        assert_eq!(call.get("faas.coldstart"), Some(Value::BoolValue(record.cold)));
        let failed = !["ok", "discarded"].contains(&record.outcome.as_str());
        assert_eq!(call.failed().is_some(), failed, "{record:#?}");
        assert_eq!(call.get("error.type"), failed.then(|| text(&record.outcome).unwrap()));
    }
}

fn ids(got: &[Got]) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    got.iter().map(Got::id).collect()
}

#[test]
fn each_round_is_a_trace_of_all_peers_and_tells_of_what_was_killed() {
    let place = Workplace::for_training();
    let collector = Collector::start(Manner::Takes);
    let train = ["train", "--json", "--peers", "2", "--run-dir", "run", "--otlp", &collector.url()];
    let faults = ["--fault", "kill-function:2@10", "--fault", "kill:2@20", "--fault", "restart:2@40"];
    same_state(place.start(place.command(&[&train[..], &LONG, &faults].concat())), &LONG);
    let got = collector.got();
    assert_eq!(ids(&got).len(), got.len(), "no span came twice");
    parents_are_right(&got);
    ["1", "2"].into_iter().for_each(|peer| is_all_of(&place, peer, &got));
    // Both peers' parts of a round are in one trace, and nothing else is.
    let rounds = got.iter().filter(|got| got.is("round"));
    let mut traces: BTreeMap<i64, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for round in rounds.clone() {
        let Some(Value::IntValue(number)) = round.get("peerless.round") else { panic!("{round:#?}") };
        traces.entry(number).or_default().insert(round.span.trace_id.clone());
    }
    assert_eq!(traces.keys().copied().collect::<Vec<_>>(), (0..=160).collect::<Vec<_>>());
    assert!(traces.values().all(|traces| traces.len() == 1), "{traces:?}");
    assert_eq!(traces.values().flatten().collect::<BTreeSet<_>>().len(), traces.len());
    // What was killed.
    let failed: Vec<&Got> = got.iter().filter(|got| got.failed().is_some()).collect();
    assert!(failed.iter().any(|got| got.get("error.type") == text("died")), "{failed:#?}");
    let interrupted: Vec<&&Got> = failed.iter().filter(|got| got.is("round")).collect();
    assert_eq!(interrupted.len(), 1, "{interrupted:#?}");
    assert!(interrupted[0].of("2") && interrupted[0].failed().unwrap().contains("ended"), "{interrupted:#?}");
    let told = |got: &Got| got.of("1") && got.span.events.iter().any(|event| event.name == "peer-lost");
    assert!(rounds.clone().any(told), "the other peer has noticed");
    // Once more, from what is there: the same spans.
    let again = Collector::start(Manner::Takes);
    let exported = place.run(&["trace", "run", "--otlp", &again.url()]);
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    let spans = again.got();
    assert_eq!(ids(&spans), ids(&got));
    parents_are_right(&spans);
}

#[test]
fn a_collector_that_stalls_and_an_exporter_that_is_killed_change_nothing() {
    let place = Workplace::for_training();
    let collector = Collector::start(Manner::Stalls);
    let train = ["train", "--json", "--peers", "2", "--otlp", &collector.url(), "--run-dir"];
    let training = place.start(place.command(&[&train[..], &["run"], &SHORT].concat()));
    wait_until("spans are sent", || collector.requests() > 0);
    same_state(training, &SHORT);
    let training = place.start(place.command(&[&train[..], &["other"], &LONG].concat()));
    place.wait_for_steps("other", 2, 3);
    kill_process(exporter(&place).unwrap(), Signal::KILL).unwrap();
    same_state(training, &LONG);
}

#[test]
fn a_collector_that_fails_for_a_while_gets_everything_in_the_end() {
    let place = Workplace::for_training();
    place.train(&[&["--peers", "2", "--run-dir", "run"], &SHORT[..]].concat());
    // More often than the library tries.
    let collector = Collector::start(Manner::Refuses(503, 5));
    let mut command = place.command(&["trace", "run", "--follow", "--otlp", &collector.url()]);
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20s3cr3t").env("OTEL_SERVICE_NAME", "mine");
    let followed = place.start(command).wait();
    assert_eq!(followed.code, Some(0), "{}", followed.stderr);
    assert_eq!(followed.stderr.matches("answers with HTTP status 503").count(), 1, "{}", followed.stderr);
    assert!(
        followed.stderr.contains("takes spans again") && !followed.stderr.contains("s3cr3t"),
        "{}",
        followed.stderr
    );
    let got = collector.got();
    ["1", "2"].into_iter().for_each(|peer| is_all_of(&place, peer, &got));
    assert!(got.iter().all(|got| got.resource.get("service.name") == text("mine").as_ref()));
    let heads = collector.state.lock().unwrap().heads.clone();
    assert!(heads.iter().all(|head| head.starts_with("POST /v1/traces ")), "{heads:?}");
    assert!(heads.iter().all(|head| head.to_lowercase().contains("authorization: bearer s3cr3t")), "{heads:?}");
}

#[test]
fn a_collector_that_takes_nothing_is_named_without_its_secrets() {
    let place = Workplace::for_training();
    place.train(&[&["--peers", "1", "--run-dir", "run"], &SHORT[..]].concat());
    let refusing = Collector::start(Manner::Refuses(401, usize::MAX));
    let url = format!("{}/s3cr3t/?key=s3cr3t", refusing.url());
    let refused = place.run(&["trace", "run", "--otlp", &url]);
    refused.failed(1, &["HTTP status 401", &refusing.address.to_string(), "OTEL_EXPORTER_OTLP_HEADERS"]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = place.run(&["trace", "run", "--otlp", &format!("http://{closed}/s3cr3t")]);
    gone.failed(1, &["does not answer", &closed.to_string(), "4318"]);
    assert!(
        !refused.stderr.contains("s3cr3t") && !gone.stderr.contains("s3cr3t"),
        "{} {}",
        refused.stderr,
        gone.stderr
    );
}

#[test]
fn a_url_that_holds_a_secret_is_refused_before_anything_begins() {
    let place = Workplace::new();
    for url in ["http://user:s3cr3t@localhost:4318", "localhost:4318", "ftp://localhost/s3cr3t"] {
        let refused = place.run(&["train", "--otlp", url]);
        refused.failed(2, &["the collector's URL"]);
        assert!(!refused.stderr.contains("s3cr3t"), "{}", refused.stderr);
    }
    assert_eq!(place.files(), Vec::<String>::new(), "nothing was begun");
    place.run(&["trace"]).failed(1, &["there is no run"]);
}
