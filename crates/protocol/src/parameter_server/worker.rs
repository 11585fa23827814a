//! A worker: takes states from the server, computes the units that it is given, sends their exact sum.

use std::time::Duration;

use super::UNSHARDED;
use crate::contribution::{PayloadRef, SignedContribution};
use crate::ids::{PeerId, RunId};
use crate::message::{Heartbeat, MAX_CAUSE_BYTES, Message};
use crate::node::{Config, Effect, Entry, Event, Input, Own, RefusalKind, Round, StateMeta, truncated};
use crate::state::{StateRef, Tally};
use crate::time::Time;
use crate::unit_time::UnitTime;
use crate::units::{RoundPlan, UnitSet};

/// How long a state that the server has announced may take to come by itself, besides the time for its bytes. The
/// push is only lost with the connection or when queues are full.
const PATIENCE: Duration = Duration::from_millis(250);

/// Bytes of a state that are waited for in a microsecond: 10 MB/s, slower than networks on which training pays.
const BYTES_PER_US: u64 = 10;

/// Longest time without a tick.
const IDLE: Duration = Duration::from_secs(1);

/// A state that the server has and this worker has not.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    state: StateRef,
    bytes: u64,
    since: Time,
    /// Whether the server was asked for it.
    fetching: bool,
}

/// The state machine of one worker.
pub struct Worker {
    config: Config,
    run: RunId,
    me: PeerId,
    server: PeerId,
    connected: bool,
    state: StateMeta,
    /// Units in the hands of this worker, and what it has sent of them.
    round: Round,
    /// Whether the store was told of the round.
    begun: bool,
    /// Units to be computed from a state that is still to come.
    work: Option<(StateRef, UnitSet)>,
    wanted: Option<Wanted>,
    /// The newest state that came and was not gone on from.
    arrived: Option<StateMeta>,
    next_tick: Time,
    left: bool,
    effects: Vec<Effect>,
}

impl Worker {
    /// A worker of `server` that holds `state`; the server may have it take another one.
    pub fn new(config: Config, server: PeerId, state: StateMeta, now: Time) -> Self {
        let me = PeerId(config.key.verifying_key().to_bytes());
        let run = config.spec.id();
        let round = round(&config, state.state, now);
        Self {
            config,
            run,
            me,
            server,
            connected: false,
            state,
            round,
            begun: false,
            work: None,
            wanted: None,
            arrived: None,
            next_tick: now,
            left: false,
            effects: Vec::new(),
        }
    }

    /// This worker's id.
    pub fn id(&self) -> PeerId {
        self.me
    }

    /// The server's id.
    pub fn server(&self) -> PeerId {
        self.server
    }

    /// The state that it works from.
    pub fn state(&self) -> StateMeta {
        self.state
    }

    /// Whether the server is connected.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Takes what happened at `now` and returns what to do, in order.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Effect> {
        if !self.left {
            self.dispatch(now, input);
        }
        std::mem::take(&mut self.effects)
    }

    /// When the next [`Input::Tick`] is due; `None` after the end.
    pub fn deadline(&self) -> Option<Time> {
        let fetch_at = self.wanted.filter(|wanted| !wanted.fetching).map(|wanted| fetch_at(&wanted));
        (!self.left).then(|| fetch_at.map_or(self.next_tick, |at| at.min(self.next_tick)))
    }

    fn dispatch(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected(member) if member.peer == self.server => self.connected(),
            Input::Disconnected(peer) if peer == self.server => self.disconnected(),
            Input::Message { from, message } if from == self.server => self.message_received(now, message),
            Input::UnitComputed { from, unit, tally } => self.unit_computed(now, from, unit, tally),
            Input::UnitFailed { from, unit, cause } => self.unit_failed(now, from, unit, &cause),
            Input::Summed { from, units, payload } if from == self.state.state => {
                self.contribute(now, &units, Some(payload));
            }
            Input::StateFetched(meta) => self.state_fetched(now, meta),
            Input::StateUnavailable(state) => {
                if let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.state == state) {
                    (wanted.since, wanted.fetching) = (now, false);
                }
            }
            Input::Tick => self.tick(now),
            Input::Leave => self.leave(),
            // Of others than the server, or what only those who form states are told.
            Input::Connected(_)
            | Input::Disconnected(_)
            | Input::Message { .. }
            | Input::PayloadHeld(_)
            | Input::Summed { .. }
            | Input::Split { .. }
            | Input::Combined { .. }
            | Input::Applied { .. } => {}
        }
    }

    fn connected(&mut self) {
        self.connected = true;
        self.effects.push(Effect::Record(Event::PeerConnected(self.server)));
        self.say_alive();
    }

    /// Another server may come, with another state: what this one said is worth nothing any more. Units that are
    /// being computed go on: they are still good if the state is the same.
    fn disconnected(&mut self) {
        self.connected = false;
        (self.work, self.wanted) = (None, None);
        self.effects.push(Effect::Record(Event::PeerLost(self.server)));
    }

    fn message_received(&mut self, now: Time, message: Message) {
        match message {
            Message::Heartbeat(heartbeat) => self.expect(now, heartbeat.state, heartbeat.state_bytes),
            Message::Probe(heartbeat) => {
                self.say_alive();
                self.expect(now, heartbeat.state, heartbeat.state_bytes);
            }
            Message::Work { from, state_bytes, units } => self.work_given(now, from, state_bytes, units),
            Message::UnitsWanted { from, units, shard: None } => self.units_wanted(now, from, units),
            Message::Leaving => self.leave(),
            _ => {}
        }
    }

    /// The server works from this state.
    fn expect(&mut self, now: Time, state: StateRef, bytes: u64) {
        if bytes > self.config.max_state_bytes || state.round > self.config.spec.rounds + 1 {
            let reason = format!("state of round {} with {bytes} bytes, which the run does not have", state.round);
            let from = self.server;
            self.effects.push(Effect::Record(Event::Refused { from, kind: RefusalKind::Wrong, reason }));
        } else if state == self.state.state {
            self.wanted = None;
        } else if let Some(meta) = self.arrived.take_if(|meta| meta.state == state) {
            self.adopt(now, meta);
        } else if self.wanted.is_none_or(|wanted| wanted.state != state) {
            self.wanted = Some(Wanted { state, bytes, since: now, fetching: false });
        }
    }

    fn work_given(&mut self, now: Time, from: StateRef, bytes: u64, units: UnitSet) {
        let plan = RoundPlan::new(&self.config.spec, from.round);
        if units.is_empty() || !units.is_valid(plan.total()) {
            let reason = format!("units that round {} does not have", from.round);
            let from = self.server;
            self.effects.push(Effect::Record(Event::Refused { from, kind: RefusalKind::Wrong, reason }));
            return;
        }
        self.expect(now, from, bytes);
        if from == self.state.state {
            self.compute(now, &units);
            return;
        }
        let before = self.work.take().filter(|(state, _)| *state == from);
        self.work = Some((from, before.map(|(_, before)| before.union(&units)).unwrap_or(units)));
    }

    /// Goes on from a state of the server: a newer one, or the one before a crash of the server took the others.
    fn adopt(&mut self, now: Time, meta: StateMeta) {
        self.state = meta;
        (self.wanted, self.arrived) = (None, None);
        if meta.finished {
            self.effects.push(Effect::Finished(meta));
            self.say_alive();
            self.leave();
            return;
        }
        self.round = round(&self.config, meta.state, now);
        self.begin_round();
        if let Some((_, units)) = self.work.take_if(|(from, _)| *from == meta.state) {
            self.compute(now, &units);
        }
    }

    fn begin_round(&mut self) {
        self.begun = true;
        self.effects.push(Effect::BeginRound { from: self.state.state });
    }

    fn state_fetched(&mut self, now: Time, meta: StateMeta) {
        let wanted = self.wanted.is_some_and(|wanted| wanted.state == meta.state);
        if wanted || meta.state.round > self.state.state.round {
            self.adopt(now, meta);
        } else if meta.state != self.state.state {
            // It may have outrun the message that says to go back to it.
            self.arrived = Some(meta);
        }
    }

    /// Computes units, to be sent as one sum. What was sent before is sent again: the server would not ask if it
    /// had it.
    fn compute(&mut self, now: Time, units: &UnitSet) {
        if !self.begun {
            self.begin_round();
        }
        let asked = |signed: &SignedContribution| !signed.contribution.units.is_disjoint(units);
        let sent = self.round.entries.iter().map(|entry| &entry.signed);
        let again: Vec<SignedContribution> = sent.filter(|signed| asked(signed)).cloned().collect();
        again.iter().for_each(|signed| self.offer(signed));
        let failed: UnitSet = units.iter().filter(|unit| self.round.own.get(unit) == Some(&Own::Failed)).collect();
        failed.iter().for_each(|unit| self.report_failure(unit));
        let computing = self.round.compute_together(now, units);
        self.effects.extend(computing);
    }

    fn unit_computed(&mut self, now: Time, from: StateRef, unit: u32, tally: Tally) {
        if from == self.state.state && self.round.computed_here(now, unit, tally) {
            self.sum_complete_groups(now);
        }
    }

    fn unit_failed(&mut self, now: Time, from: StateRef, unit: u32, cause: &str) {
        if from != self.state.state {
            return;
        }
        self.round.failed_here(unit);
        let cause = truncated(cause, MAX_CAUSE_BYTES);
        self.round.failures.entry(unit).or_default().insert(self.me, cause);
        self.report_failure(unit);
        self.sum_complete_groups(now);
    }

    fn report_failure(&mut self, unit: u32) {
        let causes = self.round.failures.get(&unit);
        let cause = causes.and_then(|causes| causes.get(&self.me)).cloned().unwrap_or_default();
        self.send(Message::UnitFailed { from: self.state.state, unit, cause });
    }

    fn sum_complete_groups(&mut self, now: Time) {
        for units in self.round.take_complete_groups() {
            self.sum(now, units);
        }
    }

    fn sum(&mut self, now: Time, units: UnitSet) {
        if self.round.has_gradient(&units) {
            self.effects.push(Effect::Sum { from: self.state.state, units });
        } else {
            self.contribute(now, &units, None);
        }
    }

    fn units_wanted(&mut self, now: Time, from: StateRef, units: UnitSet) {
        let known = from == self.state.state && !units.is_empty() && units.is_subset(&self.round.computed());
        if known && self.round.takes_request_of(self.server) {
            self.sum(now, units);
        }
    }

    fn contribute(&mut self, now: Time, units: &UnitSet, payload: Option<PayloadRef>) {
        let Some(mut contribution) = self.round.contribution_of(self.run, self.me, units) else {
            let cause = "the sum of the samples' losses does not fit";
            units.iter().for_each(|unit| self.unit_failed(now, self.state.state, unit, cause));
            return;
        };
        contribution.payload = payload;
        let signed = SignedContribution::sign(contribution, &self.config.key);
        self.offer(&signed);
        self.round.entries.push(Entry::ready(signed, now));
    }

    fn offer(&mut self, signed: &SignedContribution) {
        self.send(Message::Contribution(Box::new(signed.clone())));
        if let Some(payload) = signed.contribution.payload {
            self.effects.push(Effect::PushPayload { to: self.server, payload });
        }
    }

    fn tick(&mut self, now: Time) {
        self.next_tick = now + IDLE;
        let server = self.server;
        let late = self.wanted.as_mut().filter(|wanted| !wanted.fetching && fetch_at(wanted) <= now);
        if let Some(wanted) = late {
            wanted.fetching = true;
            let Wanted { state, bytes, .. } = *wanted;
            self.effects.push(Effect::FetchState { state, bytes, donors: vec![server] });
        }
    }

    fn say_alive(&mut self) {
        let StateMeta { state, bytes, finished } = self.state;
        // How fast it is the server measures.
        let (functions, unit_time) = (self.config.functions, UnitTime::default());
        self.send(Message::Heartbeat(Heartbeat { state, state_bytes: bytes, functions, unit_time, finished }));
    }

    fn send(&mut self, message: Message) {
        // Without a connection nobody hears it; a server that comes asks anew.
        if self.connected {
            self.effects.push(Effect::Send { to: self.server, message });
        }
    }

    fn leave(&mut self) {
        self.send(Message::Leaving);
        self.effects.push(Effect::Exit);
        self.left = true;
    }
}

/// A round of which this worker owes nothing yet.
fn round(config: &Config, from: StateRef, now: Time) -> Round {
    Round::new(&config.spec, &config.payload, &UNSHARDED, from, now, &Default::default())
}

fn fetch_at(wanted: &Wanted) -> Time {
    wanted.since + PATIENCE + Duration::from_micros(wanted.bytes / BYTES_PER_US)
}
