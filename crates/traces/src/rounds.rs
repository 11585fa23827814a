//! Puts the records of one ledger together into rounds, and says when one is complete.
//!
//! A ledger has rounds, invocations and events in tables of their own. A round is complete when every table has been read
//! beyond it. What comes later than that, such as an attempt that was given up, is added to the trace: ids follow from
//! what spans stand for.

use std::collections::BTreeMap;

use opentelemetry_sdk::trace::SpanData;
use peerless_peer::bill::Sessions;
use peerless_peer::tail::{Limits, News};
use peerless_store::{EventRecord, InvocationRecord};

use crate::ids::Place;
use crate::life::{End, Ended, Life, Unapplied};
use crate::made::Made;
use crate::spans::{Attempt, Interval, Round, Spans};

/// Records of a kind that are read at once.
const RECORDS: u32 = 2_000;
/// Rounds, and events, that wait for the other tables before no more are read.
const MAX_WAITING: usize = 4_000;
/// Attempts that wait for their round before they go without it: a round of more units is told in parts.
const MAX_ATTEMPTS: usize = 20_000;

/// What has been read of a round.
#[derive(Debug, Default)]
struct Waiting {
    round: Round,
    attempts: Vec<Attempt>,
    /// When something happened in it.
    extent: Option<Interval>,
}

impl Waiting {
    fn extend(&mut self, interval: Interval) {
        self.extent = Some(self.extent.map_or(interval, |extent| extent.with(interval)));
    }
}

/// How far the tables have been read.
#[derive(Debug, Default)]
struct Fronts {
    rounds: Option<Place>,
    invocations: Option<Place>,
    events: Option<Place>,
}

/// The rounds of one peer.
#[derive(Debug)]
pub struct Rounds {
    spans: Spans,
    waiting: BTreeMap<Place, Waiting>,
    fronts: Fronts,
    life: Option<Life>,
    made: Made,
    last_round: u64,
}

impl Rounds {
    /// Those of a peer whose run is over with the round `last_round` at the latest.
    pub fn new(spans: Spans, last_round: u64) -> Self {
        let (waiting, fronts) = (BTreeMap::new(), Fronts::default());
        Self { spans, waiting, fronts, life: None, made: Made::default(), last_round }
    }

    /// How much is to be read next. Tables that are far ahead of the others wait, except for one record that tells whether
    /// there are more.
    pub fn limits(&self) -> Limits {
        let events: usize = self.waiting.values().map(|waiting| waiting.round.events.len()).sum();
        let unless = |full: bool| if full { 1 } else { RECORDS };
        Limits {
            rounds: unless(self.waiting.len() > MAX_WAITING),
            invocations: RECORDS,
            events: unless(events > MAX_WAITING),
        }
    }

    /// Takes in what is new; the spans of what is complete with it, in the order of rounds. `end` says how the process
    /// ended, if it has: nothing more comes then once everything is read.
    pub fn take_in(&mut self, news: News, end: Option<&Ended>) -> Vec<SpanData> {
        let mut spans = Vec::new();
        let (sessions, more) = (&news.sessions, news.more());
        let unread = [news.more_rounds, news.more_invocations, news.more_events];
        for record in news.rounds {
            let place = Place { session: session_at(sessions, record.at_us), round: record.round };
            self.fronts.rounds = self.fronts.rounds.max(Some(place));
            self.waiting.entry(place).or_default().round.record = Some(record);
        }
        for record in news.invocations {
            self.take_invocation(record, sessions, &mut spans);
        }
        for record in news.events {
            self.take_event(record, sessions);
        }
        let before = self.front(unread);
        self.complete_while(|place| *place < before, sessions, &mut spans);
        if !more {
            self.look_at_end(sessions, end, &mut spans);
        }
        self.relieve(&mut spans);
        spans
    }

    /// The round before which all tables have been read.
    fn front(&self, unread: [bool; 3]) -> Place {
        let fronts = [self.fronts.rounds, self.fronts.invocations, self.fronts.events];
        let least = fronts.into_iter().zip(unread).filter(|(_, unread)| *unread).map(|(front, _)| front).min();
        least.unwrap_or_else(|| fronts.into_iter().max().flatten()).unwrap_or_default()
    }

    fn take_invocation(&mut self, record: InvocationRecord, sessions: &Sessions, spans: &mut Vec<SpanData>) {
        let place = Place { session: record.session.unwrap_or_default(), round: record.round.unwrap_or_default() };
        let attempt = Attempt { cost: sessions.charge(&record).total(), record };
        if attempt.record.round.is_none() {
            return spans.push(self.spans.invocation(place, &attempt));
        }
        self.fronts.invocations = self.fronts.invocations.max(Some(place));
        let waiting = self.waiting.entry(place).or_default();
        waiting.extend(attempt.interval());
        waiting.attempts.push(attempt);
    }

    fn take_event(&mut self, record: EventRecord, sessions: &Sessions) {
        let session = session_at(sessions, record.at_us);
        let mut place = Place { session, round: record.round.unwrap_or_default() };
        self.fronts.events = self.fronts.events.max(Some(place));
        // A span that is made cannot be changed any more: the next one tells of it.
        while self.made.has_round(place) {
            place.round = place.round.saturating_add(1);
        }
        let waiting = self.waiting.entry(place).or_default();
        waiting.extend(Interval { from_us: record.at_us, to_us: record.at_us });
        waiting.round.events.push(record);
    }

    fn complete_while(&mut self, is: impl Fn(&Place) -> bool, sessions: &Sessions, spans: &mut Vec<SpanData>) {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| is(entry.key())) {
            let (place, waiting) = entry.remove_entry();
            self.complete(place, waiting, sessions, spans);
        }
    }

    /// Makes the spans of a round.
    fn complete(&mut self, place: Place, waiting: Waiting, sessions: &Sessions, spans: &mut Vec<SpanData>) {
        let Waiting { round, attempts, extent } = waiting;
        self.children(place, &attempts, spans);
        if self.life.as_ref().is_none_or(|life| life.session() < place.session) {
            self.end_life(&Ended::Early(End::Gone), spans);
            self.life = Some(Life::new(place.session, sessions));
        }
        // Late attempts are below a span that was there before.
        if self.made.has_round(place) && round.record.is_none() {
            return;
        }
        self.made.round(place);
        let life = self.life.as_mut().filter(|life| life.session() == place.session);
        let interval = match (life, &round.record) {
            (Some(life), Some(record)) => {
                let passed = life.pass();
                let interval = life.applied(record, extent);
                spans.extend(passed.map(|passed| self.unapplied(place.session, passed, None)));
                Some(interval)
            }
            (Some(life), None) => {
                let Some(interval) = extent else { return };
                let worked = !attempts.is_empty();
                let passed = life.keep(Unapplied { number: place.round, round, interval, worked });
                return spans.extend(passed.map(|passed| self.unapplied(place.session, passed, None)));
            }
            (None, _) => extent,
        };
        spans.extend(interval.map(|interval| self.spans.round(place, &round, interval, None)));
    }

    fn unapplied(&self, session: u64, unapplied: Unapplied, end: Option<&End>) -> SpanData {
        let Unapplied { number, round, interval, .. } = unapplied;
        self.spans.round(Place { session, round: number }, &round, interval, end)
    }

    /// The spans of attempts and, unless they are made already, of their units.
    fn children(&mut self, place: Place, attempts: &[Attempt], spans: &mut Vec<SpanData>) {
        let mut by_unit: BTreeMap<u32, Vec<&Attempt>> = BTreeMap::new();
        for attempt in attempts {
            by_unit.entry(attempt.record.unit.unwrap_or_default()).or_default().push(attempt);
        }
        for (unit, attempts) in by_unit {
            if self.made.unit(place, unit) {
                spans.extend(self.spans.unit(place, unit, &attempts));
            }
        }
        spans.extend(attempts.iter().map(|attempt| self.spans.invocation(place, attempt)));
    }

    /// Everything there is has been read: rounds of lives that are over are complete.
    fn look_at_end(&mut self, sessions: &Sessions, end: Option<&Ended>, spans: &mut Vec<SpanData>) {
        let newest = sessions.all().last().map_or(0, |session| session.number);
        self.complete_while(|place| end.is_some() || place.session < newest, sessions, spans);
        let Some(life) = &mut self.life else { return };
        life.look(sessions);
        match end {
            _ if life.session() < newest => self.end_life(&Ended::Early(End::Gone), spans),
            Some(end) => self.end_life(end, spans),
            None => {}
        }
    }

    fn end_life(&mut self, end: &Ended, spans: &mut Vec<SpanData>) {
        let Some(mut life) = self.life.take() else { return };
        let session = life.session();
        if let Ended::Early(end) = end
            && let Some(interrupted) = life.interrupted(self.last_round)
        {
            self.made.round(Place { session, round: interrupted.number });
            spans.push(self.unapplied(session, interrupted, Some(end)));
        }
        // Those who have the final state lose one another when they say good-bye: that is no round.
        let over = |kept: &Unapplied| *end == Ended::Finished || kept.number > self.last_round;
        let passed = life.pass().filter(|kept| kept.worked || !over(kept));
        spans.extend(passed.map(|passed| self.unapplied(session, passed, None)));
    }

    /// Lets go of attempts that have waited in too great a number.
    fn relieve(&mut self, spans: &mut Vec<SpanData>) {
        let waiting: usize = self.waiting.values().map(|waiting| waiting.attempts.len()).sum();
        if waiting <= MAX_ATTEMPTS {
            return;
        }
        let take = |(place, waiting): (&Place, &mut Waiting)| (*place, std::mem::take(&mut waiting.attempts));
        let attempts: Vec<(Place, Vec<Attempt>)> = self.waiting.iter_mut().map(take).collect();
        attempts.iter().for_each(|(place, attempts)| self.children(*place, attempts, spans));
    }
}

/// The life that wrote something at this time; 0 if the ledger does not know.
fn session_at(sessions: &Sessions, at_us: u64) -> u64 {
    let session = sessions.all().iter().rfind(|session| session.started_at_us <= at_us);
    session.map_or(0, |session| session.number)
}

#[cfg(test)]
mod tests;
