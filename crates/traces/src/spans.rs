//! Records of a ledger as spans.

mod attributes;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use peerless_functions::prices::Money;
use peerless_peer::waste::Fate;
use peerless_protocol::PeerId;
use peerless_store::{EventRecord, InvocationRecord, RoundRecord};

use crate::ids::{Ids, Place};
use crate::life::End;
use attributes::short;

/// Most events that one span carries; what is beyond is counted.
const MAX_EVENTS: usize = 128;

/// From when to when, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// When it began.
    pub from_us: u64,
    /// When it ended.
    pub to_us: u64,
}

impl Interval {
    /// The call of a function, from when on the work waited for one.
    fn of_work(record: &InvocationRecord) -> Self {
        Self { from_us: record.started_at_us.saturating_sub(record.queue_us), to_us: of_call(record).to_us }
    }

    /// Both, and what is between them.
    pub fn with(self, other: Self) -> Self {
        Self { from_us: self.from_us.min(other.from_us), to_us: self.to_us.max(other.to_us) }
    }
}

fn of_call(record: &InvocationRecord) -> Interval {
    Interval { from_us: record.started_at_us, to_us: record.started_at_us.saturating_add(record.duration_us) }
}

/// An attempt at a unit, and what it cost.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What the ledger says.
    pub record: InvocationRecord,
    /// By the prices that applied.
    pub cost: Money,
}

/// A peer's round as far as it was written down.
#[derive(Debug, Default)]
pub struct Round {
    /// That it was applied.
    pub record: Option<RoundRecord>,
    /// What happened meanwhile.
    pub events: Vec<EventRecord>,
}

impl Attempt {
    /// From when on it was wanted, until it was over.
    pub fn interval(&self) -> Interval {
        Interval::of_work(&self.record)
    }
}

/// Makes the spans of one peer.
#[derive(Debug, Clone)]
pub struct Spans {
    ids: Ids,
    peer: PeerId,
    scope: InstrumentationScope,
}

impl Spans {
    /// Those of this peer.
    pub fn new(ids: Ids, peer: PeerId) -> Self {
        let scope = InstrumentationScope::builder("peerless-traces").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { ids, peer, scope }
    }

    /// A round, the root of what a peer did in it. `end` if its process ended before it was applied.
    pub fn round(&self, place: Place, round: &Round, interval: Interval, end: Option<&End>) -> SpanData {
        let mut span = self.span("round", Some(place.round), self.ids.round(&self.peer, place), interval);
        span.attributes = attributes::of_round(place.round, round.record.as_ref());
        let dropped = round.events.len().saturating_sub(MAX_EVENTS);
        span.events.events = round.events.iter().take(MAX_EVENTS).map(event).collect();
        span.events.dropped_count = u32::try_from(dropped).unwrap_or(u32::MAX);
        span.status = match end {
            None | Some(End::Left) => Status::Unset,
            Some(End::Failed(Some(error))) => Status::error(short(error)),
            Some(End::Failed(None) | End::Gone) => {
                Status::error("the peer's process ended before it had applied this round")
            }
        };
        span
    }

    /// What a peer did for one unit: from the first attempt to the first result, as an attempt that nobody waits for any
    /// more may take long. `None` without attempts.
    pub fn unit(&self, place: Place, unit: u32, attempts: &[&Attempt]) -> Option<SpanData> {
        let records = || attempts.iter().map(|attempt| &attempt.record);
        let all = records().map(Interval::of_work).reduce(Interval::with)?;
        let result = records().filter(|record| Fate::of(&record.outcome) == Fate::Used);
        let to_us = result.map(|record| of_call(record).to_us).min().unwrap_or(all.to_us);
        let id = self.ids.unit(&self.peer, place, unit);
        let mut span = self.span("unit", Some(place.round), id, Interval { to_us, ..all });
        span.parent_span_id = self.ids.round(&self.peer, place);
        let kind = records().next().map(|record| record.kind.as_str()).unwrap_or_default();
        span.attributes = attributes::of_unit(place.round, unit, kind, attempts.len());
        if records().all(|record| Fate::of(&record.outcome) == Fate::Failed) {
            span.status = Status::error("every attempt failed");
        }
        Some(span)
    }

    /// One attempt, below its unit if it has one.
    pub fn invocation(&self, place: Place, attempt: &Attempt) -> SpanData {
        let record = &attempt.record;
        let id = self.ids.invocation(&self.peer, place, record);
        let mut span = self.span("invocation", record.round, id, of_call(record));
        span.span_kind = SpanKind::Client;
        if let Some(unit) = record.unit {
            span.parent_span_id = self.ids.unit(&self.peer, place, unit);
        }
        span.attributes = attributes::of_invocation(attempt);
        if Fate::of(&record.outcome) == Fate::Failed {
            span.status = Status::error(short(record.error.as_deref().unwrap_or(&record.outcome)));
        }
        span
    }

    fn span(&self, name: &'static str, round: Option<u64>, id: SpanId, interval: Interval) -> SpanData {
        let trace = self.ids.trace(round);
        SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: time(interval.from_us),
            end_time: time(interval.to_us),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn event(record: &EventRecord) -> Event {
    let attributes: Vec<KeyValue> = attributes::of_event(record);
    Event::new(record.kind.clone(), time(record.at_us), attributes, 0)
}

fn time(us: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us)
}
