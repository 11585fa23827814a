//! What is exported of real ledgers, and when.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::Value;
use opentelemetry::trace::{SpanId, Status};
use peerless_functions::prices::Tariff;
use peerless_peer::tail::LedgerTail;
use peerless_protocol::{Digest, PeerId};
use peerless_store::{Batch, Ledger, RoundRecord, RoundTimes, ledger_path};
use tempfile::TempDir;

use super::*;
use crate::ids::Ids;

/// When the run begins, in microseconds.
const BEGIN: u64 = 1_700_000_000_000_000;
/// How long a round takes, in microseconds.
const ROUND: u64 = 100_000;
const LAST_ROUND: u64 = 1_000_000;
const PEER: PeerId = PeerId([3; 32]);

/// A peer that writes its ledger, and one who reads it.
struct Peer {
    directory: TempDir,
    ledger: Ledger,
    tail: LedgerTail,
    rounds: Rounds,
}

fn rounds() -> Rounds {
    Rounds::new(Spans::new(Ids::from_key([9; 32]), PEER), LAST_ROUND)
}

impl Peer {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&ledger_path(directory.path())).unwrap();
        begin(&mut ledger, BEGIN);
        Self { directory, ledger, tail: LedgerTail::default(), rounds: rounds() }
    }

    fn write(&mut self, batch: Batch) {
        self.ledger.record(&batch).unwrap();
    }

    /// Everything that can be said now.
    fn read(&mut self, end: Option<&Ended>) -> Vec<SpanData> {
        read(&self.directory, &mut self.tail, &mut self.rounds, end)
    }

    /// Everything, from the beginning.
    fn read_anew(&self, end: Option<&Ended>) -> Vec<SpanData> {
        read(&self.directory, &mut LedgerTail::default(), &mut rounds(), end)
    }
}

fn read(directory: &TempDir, tail: &mut LedgerTail, rounds: &mut Rounds, end: Option<&Ended>) -> Vec<SpanData> {
    let mut spans = Vec::new();
    loop {
        let news = tail.read(directory.path(), rounds.limits()).unwrap();
        let more = news.more();
        spans.extend(rounds.take_in(news, end));
        if !more {
            return spans;
        }
    }
}

fn begin(ledger: &mut Ledger, at_us: u64) {
    ledger.begin_session(at_us, &serde_json::to_string(&Tariff::default()).unwrap()).unwrap();
}

/// When a round begins.
fn at(round: u64) -> u64 {
    BEGIN + round * ROUND
}

fn call(session: u64, round: u64, unit: u32, outcome: &str) -> InvocationRecord {
    InvocationRecord {
        id: round * 10 + u64::from(unit),
        round: Some(round),
        unit: Some(unit),
        kind: "gradient".into(),
        platform: "process".into(),
        function: "42".into(),
        outcome: outcome.into(),
        attempt: 1,
        started_at_us: at(round) + 1_000,
        duration_us: 50_000,
        queue_us: 500,
        session: Some(session),
        ..InvocationRecord::default()
    }
}

fn event(round: u64, kind: &str) -> EventRecord {
    let detail = r#"{"peer":"abc","unit":3}"#.to_owned();
    EventRecord { at_us: at(round) + 2_000, round: Some(round), kind: kind.into(), detail }
}

/// What a peer writes after a round with one unit.
fn applied(session: u64, round: u64) -> Batch {
    let record = RoundRecord {
        round,
        at_us: at(round + 1),
        state_digest: Digest::of(&round.to_le_bytes()),
        training_samples: 64,
        training_correct: 32,
        training_loss: Some(0.5),
        evaluation: None,
        times: RoundTimes { compute_us: 60_000, wait_us: 40_000, ..RoundTimes::default() },
        units_computed: 1,
        backup_units: 0,
    };
    Batch {
        round: Some(record),
        invocations: vec![call(session, round, 0, "ok")],
        alive: Some((session, at(round + 1))),
        ..Batch::default()
    }
}

fn names(spans: &[SpanData]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_ref()).collect()
}

fn one<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    let mut named = spans.iter().filter(|span| span.name == name);
    let found = named.next().unwrap();
    assert!(named.next().is_none(), "{spans:#?}");
    found
}

fn attribute(span: &SpanData, name: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key.as_str() == name).map(|pair| pair.value.clone())
}

fn is_error(span: &SpanData) -> bool {
    matches!(span.status, Status::Error { .. })
}

fn sorted(spans: &[SpanData]) -> Vec<String> {
    let mut all: Vec<String> = spans.iter().map(|span| format!("{span:?}")).collect();
    all.sort();
    all
}

#[test]
fn a_round_is_told_once_the_next_is_there_with_its_units_and_invocations_below() {
    let mut peer = Peer::new();
    peer.write(applied(1, 0));
    assert_eq!(names(&peer.read(None)), Vec::<&str>::new());
    peer.write(applied(1, 1));
    let spans = peer.read(None);
    assert_eq!(names(&spans), ["unit", "invocation", "round"]);
    let [round, unit, call] = ["round", "unit", "invocation"].map(|name| one(&spans, name));
    assert_eq!(round.parent_span_id, SpanId::INVALID);
    assert_eq!(unit.parent_span_id, round.span_context.span_id());
    assert_eq!(call.parent_span_id, unit.span_context.span_id());
    let traces: Vec<_> = spans.iter().map(|span| span.span_context.trace_id()).collect();
    assert!(traces.iter().all(|trace| *trace == traces[0]));
    let us = |us: u64| UNIX_EPOCH + Duration::from_micros(us);
    assert_eq!((round.start_time, round.end_time), (us(at(0)), us(at(1))));
    assert_eq!((unit.start_time, unit.end_time), (us(at(0) + 500), us(at(0) + 51_000)), "with the time in the queue");
    assert_eq!((call.start_time, call.end_time), (us(at(0) + 1_000), us(at(0) + 51_000)));
    assert_eq!(attribute(round, "peerless.round.wait_s"), Some(0.04.into()));
    assert_eq!(peer.read(None).len(), 0, "nothing is told twice");
}

#[test]
fn a_failed_attempt_and_its_retry_are_below_one_unit_that_ends_with_the_result() {
    let mut peer = Peer::new();
    let failed = InvocationRecord { error: Some("it died".into()), ..call(1, 0, 0, "died") };
    let retry =
        InvocationRecord { attempt: 2, started_at_us: at(0) + 60_000, duration_us: 20_000, ..call(1, 0, 0, "ok") };
    let hopeless = call(1, 0, 1, "timed-out");
    peer.write(Batch { invocations: vec![failed, retry, hopeless], ..applied(1, 0) });
    let spans = peer.read(Some(&Ended::Finished));
    let units: Vec<&SpanData> = spans.iter().filter(|span| span.name == "unit").collect();
    assert_eq!(units.iter().map(|unit| is_error(unit)).collect::<Vec<_>>(), [false, true]);
    assert_eq!(units[0].end_time, UNIX_EPOCH + Duration::from_micros(at(0) + 80_000));
    assert_eq!(attribute(units[0], "peerless.unit.attempts"), Some(2_i64.into()));
    let calls: Vec<&SpanData> = spans.iter().filter(|span| span.name == "invocation").collect();
    assert_eq!(calls.iter().map(|call| is_error(call)).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(calls[0].status, Status::error("it died"));
    assert_eq!(attribute(calls[2], "error.type"), Some("timed-out".into()));
    assert!(calls[..2].iter().all(|call| call.parent_span_id == units[0].span_context.span_id()));
}

#[test]
fn events_are_told_by_the_span_of_their_round() {
    let mut peer = Peer::new();
    peer.write(Batch { events: vec![event(0, "peer-lost")], ..applied(1, 0) });
    peer.write(applied(1, 1));
    let spans = peer.read(None);
    let events = &one(&spans, "round").events;
    assert_eq!((events.len(), events[0].name.as_ref()), (1, "peer-lost"));
    let said: Vec<String> = events[0].attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    assert_eq!(said, ["peerless.event.peer=abc", "peerless.event.unit=3"]);
}

#[test]
fn an_attempt_that_ends_long_after_its_round_is_below_the_unit_that_was_told() {
    let mut peer = Peer::new();
    (0..3).for_each(|round| peer.write(applied(1, round)));
    let before = peer.read(None);
    let unit = before.iter().find(|span| span.name == "unit").unwrap();
    let late = InvocationRecord { attempt: 1, function: "43".into(), ..call(1, 0, 0, "discarded") };
    peer.write(Batch { invocations: vec![late, call(1, 0, 5, "discarded")], ..Batch::default() });
    peer.write(applied(1, 3));
    let spans = peer.read(None);
    let of_first: Vec<&SpanData> =
        spans.iter().filter(|span| span.span_context.trace_id() == unit.span_context.trace_id()).collect();
    let names: Vec<&str> = of_first.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["unit", "invocation", "invocation"], "the unit that nothing was known of, and no second round");
    assert_eq!(of_first[1].parent_span_id, unit.span_context.span_id());
    assert!(!of_first.iter().any(|span| is_error(span)));
}

#[test]
fn the_round_that_a_killed_process_did_not_finish_is_an_error() {
    let mut peer = Peer::new();
    (0..3).for_each(|round| peer.write(applied(1, round)));
    peer.write(Batch { alive: Some((1, at(3) + 7_000)), ..Batch::default() });
    let first = peer.read(Some(&Ended::Early(End::Gone)));
    let failed: Vec<SpanData> = first.iter().filter(|span| is_error(span)).cloned().collect();
    assert_eq!(failed.len(), 1, "{failed:#?}");
    assert_eq!(attribute(&failed[0], "peerless.round"), Some(3_i64.into()));
    assert_eq!(attribute(&failed[0], "peerless.round.applied"), Some(false.into()));
    assert_eq!(failed[0].end_time, UNIX_EPOCH + Duration::from_micros(at(3) + 7_000), "its last sign of life");
    assert_eq!(peer.read(Some(&Ended::Early(End::Gone))).len(), 0, "told once");
    // It was started again, and the round is done.
    begin(&mut peer.ledger, at(10));
    let again = |round| {
        let mut batch = applied(2, round);
        batch.round.iter_mut().for_each(|record| record.at_us += 10 * ROUND);
        batch.alive = Some((2, at(round + 11)));
        batch
    };
    peer.write(again(3));
    peer.write(again(4));
    let spans = peer.read(None);
    let round = one(&spans, "round");
    assert!(!is_error(round) && round.span_context.trace_id() == failed[0].span_context.trace_id());
    assert_ne!(round.span_context.span_id(), failed[0].span_context.span_id());
    // Whoever reads the ledger only now sees the same.
    peer.write(again(5));
    let rest = peer.read(Some(&Ended::Finished));
    let told: Vec<SpanData> = [first, spans, rest].concat();
    assert_eq!(sorted(&peer.read_anew(Some(&Ended::Finished))), sorted(&told));
}

#[test]
fn who_leaves_or_finishes_has_no_error_and_who_fails_says_why() {
    let cases = [
        (Ended::Finished, None),
        (Ended::Early(End::Left), Some(Status::Unset)),
        (Ended::Early(End::Failed(Some("disk full".into()))), Some(Status::error("disk full"))),
    ];
    for (end, wanted) in cases {
        let mut peer = Peer::new();
        peer.write(applied(1, 0));
        let spans = peer.read(Some(&end));
        let rounds: Vec<&SpanData> = spans.iter().filter(|span| span.name == "round").collect();
        assert_eq!(rounds.len(), 1 + usize::from(wanted.is_some()), "{end:?}");
        assert_eq!(rounds.get(1).map(|round| round.status.clone()), wanted, "{end:?}");
    }
}

#[test]
fn a_worker_that_applies_no_rounds_has_them_from_what_it_did() {
    let mut peer = Peer::new();
    (0..3).for_each(|round| peer.write(Batch { round: None, ..applied(1, round) }));
    let spans = peer.read(Some(&Ended::Finished));
    let rounds: Vec<&SpanData> = spans.iter().filter(|span| span.name == "round").collect();
    assert_eq!(rounds.len(), 3);
    for (number, round) in rounds.iter().enumerate() {
        assert_eq!(attribute(round, "peerless.round"), Some((number as i64).into()));
        assert_eq!(round.start_time, UNIX_EPOCH + Duration::from_micros(at(number as u64) + 500));
        assert!(!is_error(round));
    }
}

#[test]
fn a_long_ledger_is_read_in_parts_without_holding_it_and_with_the_same_spans() {
    let mut peer = Peer::new();
    // Many units in each round, so that invocations lag behind rounds.
    let units = 40;
    let mut invocations = 0;
    for round in 0..300 {
        let calls: Vec<InvocationRecord> = (0..units).map(|unit| call(1, round, unit, "ok")).collect();
        invocations += calls.len();
        peer.write(Batch { invocations: calls, events: vec![event(round, "backup")], ..applied(1, round) });
    }
    let (mut held, mut spans) = (0_usize, Vec::new());
    loop {
        let news = peer.tail.read(peer.directory.path(), peer.rounds.limits()).unwrap();
        let more = news.more();
        spans.extend(peer.rounds.take_in(news, Some(&Ended::Finished)));
        held = held.max(peer.rounds.waiting.values().map(|waiting| waiting.attempts.len()).sum());
        if !more {
            break;
        }
    }
    assert!(held <= RECORDS as usize, "{held} attempts were held");
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!((count("round"), count("unit"), count("invocation")), (300, invocations, invocations));
    let rounds = spans.iter().filter(|span| span.name == "round");
    assert!(rounds.clone().all(|round| round.events.len() == 1 && attribute(round, "peerless.round.wait_s").is_some()));
    assert_eq!(sorted(&spans), sorted(&peer.read_anew(Some(&Ended::Finished))));
}

#[test]
fn a_round_of_more_units_than_are_held_is_told_in_parts() {
    let mut peer = Peer::new();
    let units = u32::try_from(MAX_ATTEMPTS).unwrap() + 5_000;
    peer.write(Batch { invocations: (0..units).map(|unit| call(1, 0, unit, "ok")).collect(), ..applied(1, 0) });
    let spans = peer.read(Some(&Ended::Finished));
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!((count("round"), count("unit"), count("invocation")), (1, units as usize, units as usize));
}

#[test]
fn a_good_bye_after_the_final_state_is_no_round() {
    let mut peer = Peer::new();
    peer.write(applied(1, 0));
    peer.write(Batch { events: vec![event(1, "peer-lost")], ..Batch::default() });
    assert_eq!(names(&peer.read(Some(&Ended::Finished))), ["unit", "invocation", "round"]);
    peer.write(Batch { events: vec![event(1, "peer-lost"), event(0, "peer-lost")], ..Batch::default() });
    assert_eq!(names(&peer.read(Some(&Ended::Finished))), Vec::<&str>::new());
}

#[test]
fn work_for_no_round_has_a_trace_of_its_own() {
    let mut peer = Peer::new();
    let ping = InvocationRecord { round: None, unit: None, kind: "ping".into(), ..call(1, 0, 0, "ok") };
    peer.write(Batch { invocations: vec![ping], ..applied(1, 0) });
    let spans = peer.read(Some(&Ended::Finished));
    let ping = one(&spans, "invocation");
    assert_eq!(ping.parent_span_id, SpanId::INVALID);
    assert_ne!(ping.span_context.trace_id(), one(&spans, "round").span_context.trace_id());
}
