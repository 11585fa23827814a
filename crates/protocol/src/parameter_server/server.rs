//! The server: holds the state, deals units out, forms the next state from the sums that come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::UNSHARDED;
use crate::assignment::Capacities;
use crate::contribution::{ContributionError, PayloadRef, SignedContribution};
use crate::cover::{disjoint_choice, exact_cover};
use crate::ids::{PeerId, RunId};
use crate::message::{Heartbeat, Message};
use crate::node::{
    Config, Effect, Entry, Event, HEARTBEAT_EVERY, Input, LINGER, MAX_UNANNOUNCED, Phase, RefusalKind, Round,
    SUSPECT_AFTER, StateMeta, StopReason, Verify,
};
use crate::pace::Pace;
use crate::state::StateRef;
use crate::time::Time;
use crate::unit_time::{Announced, Stopwatch, UnitTime, capacities};
use crate::units::{UnitKind, UnitSet};

/// What is known of a connected worker.
#[derive(Debug, Clone)]
struct Link {
    heard: Time,
    /// When it was asked for an answer, until it is heard.
    probed: Option<Time>,
    suspected: bool,
    last: Option<Heartbeat>,
    /// How long it takes for a unit, as far as it counts, and what that is measured with.
    unit_time: Announced,
    stopwatch: Stopwatch,
    /// The newest state that was sent to it.
    given: Option<StateRef>,
}

impl Link {
    fn suspect_at(&self) -> Option<Time> {
        let unanswered = self.probed.filter(|_| !self.suspected).map(|at| at + SUSPECT_AFTER / 2);
        unanswered.map(|at| at.max(self.heard + SUSPECT_AFTER))
    }
}

/// The state machine of the parameter server.
pub struct Server {
    config: Config,
    run: RunId,
    me: PeerId,
    state: StateMeta,
    phase: Phase,
    gather_until: Time,
    round: Round,
    workers: BTreeMap<PeerId, Link>,
    /// Who was asked for a unit as a backup.
    asked: BTreeSet<(u32, PeerId)>,
    /// Payloads in the store.
    held: BTreeSet<PayloadRef>,
    pace: Pace,
    next_probe: Time,
    effects: Vec<Effect>,
    verify: Verify,
}

impl Server {
    /// A server that holds `state`. Work begins once the expected workers were heard.
    pub fn new(config: Config, state: StateMeta, now: Time) -> Self {
        let me = PeerId(config.key.verifying_key().to_bytes());
        let run = config.spec.id();
        let round = Round::new(&config.spec, &config.payload, &UNSHARDED, state.state, now, &Capacities::new());
        let gather_until = now + config.gather_at_most;
        Self {
            config,
            run,
            me,
            state,
            phase: if state.finished { Phase::Finished { until: now + LINGER } } else { Phase::Gathering },
            gather_until,
            round,
            workers: BTreeMap::new(),
            asked: BTreeSet::new(),
            held: BTreeSet::new(),
            pace: Pace::default(),
            next_probe: now,
            effects: Vec::new(),
            verify: Arc::new(SignedContribution::verify),
        }
    }

    /// The server's id.
    pub fn id(&self) -> PeerId {
        self.me
    }

    /// The newest state.
    pub fn state(&self) -> StateMeta {
        self.state
    }

    /// Workers connected at present, suspected ones included.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Takes what happened at `now` and returns what to do, in order.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Effect> {
        if self.phase != Phase::Left {
            self.dispatch(now, input);
        }
        std::mem::take(&mut self.effects)
    }

    /// When the next [`Input::Tick`] is due; `None` after the end.
    pub fn deadline(&self) -> Option<Time> {
        let suspicions = self.workers.values().filter_map(Link::suspect_at);
        let next = suspicions.chain([self.next_probe]).min()?;
        match self.phase {
            Phase::Left => None,
            Phase::Gathering => Some(next.min(self.gather_until)),
            Phase::Finished { until } => Some(next.min(until)),
            Phase::Working if self.round.applying => Some(next),
            Phase::Working => {
                let view = self.view();
                let lacking = self.uncovered();
                let backups = lacking.iter().filter_map(|unit| Some(self.next_backup(unit, &view)?.0));
                let fetches = self.round.awaited().filter_map(|entry| entry.fetch_at);
                backups.chain(fetches).chain([next]).min()
            }
        }
    }

    fn dispatch(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected(member) => self.connected(now, member.peer),
            Input::Disconnected(peer) => self.lost(now, peer),
            Input::Message { from, message } => self.message_received(now, from, message),
            Input::PayloadHeld(payload) => self.payload_held(now, payload),
            Input::Applied { from, meta } => self.applied(now, from, meta),
            Input::Tick => self.tick(now),
            Input::Leave => self.leave(),
            // A server computes no units, and takes states from nobody.
            Input::UnitComputed { .. }
            | Input::UnitFailed { .. }
            | Input::Summed { .. }
            | Input::Split { .. }
            | Input::Combined { .. }
            | Input::StateFetched(_)
            | Input::StateUnavailable(_) => {}
        }
    }

    /// The workers that units are dealt to.
    fn view(&self) -> Capacities {
        let round = self.state.state.round;
        let usable = self.workers.iter().filter(|(_, link)| !link.suspected);
        let workers = usable.filter_map(|(peer, link)| Some((*peer, link.last?.functions, link.unit_time.at(round))));
        capacities(&workers.collect::<Vec<_>>())
    }

    fn connected(&mut self, now: Time, peer: PeerId) {
        let (unit_time, stopwatch) = (Announced::default(), Stopwatch::default());
        let link = Link { heard: now, probed: None, suspected: false, last: None, unit_time, stopwatch, given: None };
        self.workers.insert(peer, link);
        self.effects.push(Effect::Record(Event::PeerConnected(peer)));
        self.send(peer, Message::Heartbeat(self.heartbeat()));
    }

    fn lost(&mut self, now: Time, peer: PeerId) {
        if self.workers.remove(&peer).is_some() {
            self.effects.push(Effect::Record(Event::PeerLost(peer)));
            // It may come back without what it was asked.
            self.asked.retain(|(_, asked)| *asked != peer);
            self.round.wanted.retain(|(asked, ..)| *asked != peer);
            self.deal_again(now);
            self.check_exit(now);
        }
    }

    fn message_received(&mut self, now: Time, from: PeerId, message: Message) {
        let Some(link) = self.workers.get_mut(&from) else { return };
        (link.heard, link.probed) = (now, None);
        if std::mem::take(&mut link.suspected) {
            self.effects.push(Effect::Record(Event::PeerHeard(from)));
            self.deal_to(now, from);
        }
        match message {
            Message::Heartbeat(heartbeat) | Message::Probe(heartbeat) => self.heartbeat_received(now, from, heartbeat),
            Message::Contribution(signed) => self.contribution_received(now, from, *signed),
            Message::UnitFailed { from: state, unit, cause } => self.unit_failed(now, from, state, unit, cause),
            Message::Leaving => self.lost(now, from),
            _ => {}
        }
    }

    fn heartbeat_received(&mut self, now: Time, from: PeerId, heartbeat: Heartbeat) {
        let Some(link) = self.workers.get_mut(&from) else { return };
        let new = link.last.replace(heartbeat).is_none();
        if heartbeat.state == self.state.state {
            link.given = Some(heartbeat.state);
        }
        if new {
            self.give_state(&[from]);
            self.deal_to(now, from);
        }
        self.check_gathered(now);
    }

    fn heartbeat(&self) -> Heartbeat {
        let StateMeta { state, bytes, finished } = self.state;
        Heartbeat { state, state_bytes: bytes, functions: 0, unit_time: UnitTime::default(), finished }
    }

    /// Sends the state to those of `workers` that were not sent it yet.
    fn give_state(&mut self, workers: &[PeerId]) {
        let state = self.state.state;
        let mut to = Vec::new();
        for peer in workers {
            let link = self.workers.get_mut(peer).filter(|link| link.given != Some(state));
            if let Some(link) = link {
                link.given = Some(state);
                to.push(*peer);
            }
        }
        if !to.is_empty() {
            self.effects.push(Effect::PushState { to, state });
        }
    }

    fn check_gathered(&mut self, now: Time) {
        let heard = self.view().len();
        if self.phase == Phase::Gathering && (heard >= self.config.expected_peers.max(1) || now >= self.gather_until) {
            self.gather_until = now;
            self.begin_round(now);
        }
    }

    fn begin_round(&mut self, now: Time) {
        self.phase = Phase::Working;
        self.measure_the_overtaken(now);
        let stale = std::mem::take(&mut self.held);
        if !stale.is_empty() {
            self.effects.push(Effect::DropPayloads(stale.into_iter().map(|payload| payload.digest).collect()));
        }
        let view = self.view();
        let Config { spec, payload, .. } = &self.config;
        self.round = Round::new(spec, payload, &UNSHARDED, self.state.state, now, &view);
        self.asked.clear();
        self.effects.push(Effect::BeginRound { from: self.round.from });
        let workers: Vec<PeerId> = self.workers.keys().copied().collect();
        self.give_state(&workers);
        for peer in view.into_keys() {
            let owed = self.round.owed_by(&peer);
            if let Some(link) = self.workers.get_mut(&peer) {
                let new = link.stopwatch.round_began(!owed.is_empty(), self.round.from.round, link.unit_time.last());
                new.into_iter().for_each(|new| link.unit_time.take(new));
            }
            self.give_work(peer, owed);
        }
    }

    fn functions_of(&self, worker: &PeerId) -> u32 {
        self.workers.get(worker).and_then(|link| link.last).map_or(1, |last| last.functions)
    }

    /// Learns how long a unit takes at a worker, as peers do of themselves.
    fn measure(&mut self, worker: PeerId, units: &UnitSet, elapsed: Duration) {
        let functions = self.functions_of(&worker);
        let gradients = units.iter().all(|unit| self.round.plan.kind(unit) == UnitKind::Gradient);
        if let Some(link) = self.workers.get_mut(&worker).filter(|_| gradients) {
            let (round, known) = (self.round.from.round, link.unit_time.last());
            let new = link.stopwatch.measured(elapsed, units.len(), functions, round, known);
            new.into_iter().for_each(|new| link.unit_time.take(new));
        }
    }

    /// Units that others were done with first take at least as long as they were under way.
    fn measure_the_overtaken(&mut self, now: Time) {
        let elapsed = now.since(self.round.began);
        for worker in self.workers.keys().copied().collect::<Vec<_>>() {
            let owed = self.round.owed_by(&worker);
            let delivered = self.round.entries.iter().any(|entry| entry.signed.contribution.peer == worker);
            let functions = self.functions_of(&worker);
            let slow = self.workers.get(&worker).is_some_and(|link| {
                link.stopwatch.would_be_slow(elapsed, owed.len(), functions, link.unit_time.last())
            });
            if slow && !delivered && !owed.is_empty() {
                self.measure(worker, &owed, elapsed);
            }
        }
    }

    fn give_work(&mut self, peer: PeerId, units: UnitSet) {
        if !units.is_empty() {
            let StateMeta { state, bytes, .. } = self.state;
            self.send(peer, Message::Work { from: state, state_bytes: bytes, units });
        }
    }

    /// Gives a worker that has come, or has come back, what it owes: it may not know.
    fn deal_to(&mut self, now: Time, peer: PeerId) {
        if self.is_working() {
            let owed = self.round.owed_by(&peer);
            let missing = self.round.missing();
            self.give_work(peer, owed.iter().filter(|unit| missing.contains(*unit)).collect());
            self.deal_again(now);
            self.make_progress();
        }
    }

    /// Deals out again what nobody in the view owes.
    fn deal_again(&mut self, now: Time) {
        if !self.is_working() {
            return;
        }
        let view = self.view();
        let orphans = self.round.reassign(now, &view);
        self.give_to_debtors(&orphans);
        let failed: Vec<u32> = self.round.failures.keys().copied().collect();
        failed.into_iter().for_each(|unit| self.stop_if_hopeless(unit));
    }

    fn give_to_debtors(&mut self, units: &UnitSet) {
        let mut by_worker: BTreeMap<PeerId, UnitSet> = BTreeMap::new();
        for unit in units.iter() {
            if let Some(debtor) = self.round.debtor(unit).filter(|debtor| self.workers.contains_key(debtor)) {
                by_worker.entry(debtor).or_default().insert(unit);
            }
        }
        by_worker.into_iter().for_each(|(peer, units)| self.give_work(peer, units));
    }

    fn unit_failed(&mut self, now: Time, peer: PeerId, from: StateRef, unit: u32, cause: String) {
        let known = self.round.failures.get(&unit).is_some_and(|failed| failed.contains_key(&peer));
        if !self.is_working_on(from) || unit >= self.round.plan.total() || known {
            return;
        }
        self.effects.push(Effect::Record(Event::UnitFailed { round: from.round, unit, peer, cause: cause.clone() }));
        self.round.failures.entry(unit).or_default().insert(peer, cause);
        let before = self.round.debtor(unit);
        self.round.pass_on(now, unit, &self.view());
        if self.round.debtor(unit) != before {
            self.give_to_debtors(&[unit].into_iter().collect());
        }
        self.stop_if_hopeless(unit);
    }

    fn stop_if_hopeless(&mut self, unit: u32) {
        let view = self.view();
        let missing = !view.is_empty() && self.round.missing().contains(unit);
        if let Some(cause) = self.round.hopeless(unit, &view).filter(|_| missing && self.is_working()) {
            self.broadcast(&Message::Leaving);
            self.phase = Phase::Left;
            let round = self.round.from.round;
            self.effects.push(Effect::Stop(StopReason::UnitFailedEverywhere { round, unit, cause }));
        }
    }

    fn contribution_received(&mut self, now: Time, from: PeerId, signed: SignedContribution) {
        let contribution = &signed.contribution;
        // Late backups and what a worker sends again are usual here, and no sign of a fault.
        let known = self.round.entries.iter().any(|entry| entry.signed == signed);
        if !self.is_working_on(contribution.from) || known {
            return;
        }
        if let Err(error) = self.check(from, &signed) {
            return self.refuse(from, (&error).into(), error.to_string());
        }
        if self.round.is_flooded_by(&from, None) {
            return self.refuse(from, RefusalKind::Flood, "more contributions to a round than it has units".into());
        }
        if let Some(elapsed) = contribution.computing_time() {
            self.pace.computed(elapsed, contribution.units.len(), self.functions_of(&from));
            self.measure(from, &contribution.units, elapsed);
        }
        let ready = contribution.payload.is_none_or(|payload| self.held.contains(&payload));
        let fetch_at = (!ready).then(|| now + self.pace.in_flight());
        self.round.entries.push(Entry { signed, ready, announced: now, fetch_at, asked: false });
        if ready {
            self.accumulate(self.round.entries.len() - 1);
            self.make_progress();
        }
    }

    fn check(&self, from: PeerId, signed: &SignedContribution) -> Result<(), ContributionError> {
        let contribution = &signed.contribution;
        if contribution.peer != from {
            return Err(ContributionError::NotTheSender(contribution.peer));
        }
        if let Some(shard) = contribution.shard {
            return Err(ContributionError::Shard(shard));
        }
        contribution.check(&self.config.spec, self.run, &self.config.payload)?;
        (self.verify)(signed)
    }

    fn payload_held(&mut self, now: Time, payload: PayloadRef) {
        self.held.insert(payload);
        let mut news = false;
        for index in 0..self.round.entries.len() {
            let entry = &mut self.round.entries[index];
            if entry.has(&payload) && entry.arrived(now, &mut self.pace) {
                news = true;
                self.accumulate(index);
            }
        }
        if news {
            self.make_progress();
        }
        self.drop_excess_unannounced();
    }

    /// Payloads may outrun their announcements, but only so many are kept.
    fn drop_excess_unannounced(&mut self) {
        let unannounced: Vec<PayloadRef> = self.held.difference(&self.round.payloads()).copied().collect();
        if unannounced.len() > MAX_UNANNOUNCED {
            unannounced.iter().for_each(|payload| {
                self.held.remove(payload);
            });
            let digests = unannounced.into_iter().map(|payload| payload.digest).collect();
            self.effects.push(Effect::DropPayloads(digests));
        }
    }

    fn accumulate(&mut self, index: usize) {
        let accumulate = self.round.accumulate(index);
        self.effects.extend(accumulate);
    }

    /// Units that no choice of disjoint contributions at hand holds.
    fn uncovered(&self) -> UnitSet {
        let (_, sets) = self.round.ready_sets();
        disjoint_choice(&self.round.plan.all(), &sets).1
    }

    fn make_progress(&mut self) {
        if !self.is_working() {
            return;
        }
        let (indices, sets) = self.round.ready_sets();
        if let Some(chosen) = exact_cover(&self.round.plan.all(), &sets) {
            let cover = chosen.into_iter().map(|choice| self.round.entries[indices[choice]].signed.clone()).collect();
            self.round.applying = true;
            self.effects.push(Effect::Apply { from: self.round.from, cover });
        } else if self.round.missing().is_empty() {
            self.untangle();
        }
    }

    /// Every unit is here, but only in sums that overlap: asks for the sums of just what is missing. What only those
    /// have who are gone is computed by others as backups.
    fn untangle(&mut self) {
        for (peer, units) in self.round.makers_of(self.uncovered(), &self.me) {
            let there = self.workers.contains_key(&peer);
            if there && self.round.wanted.insert((peer, units.clone(), None)) {
                self.send(peer, Message::UnitsWanted { from: self.round.from, units, shard: None });
            }
        }
    }

    fn applied(&mut self, now: Time, from: StateRef, meta: StateMeta) {
        if !self.round.applying || from != self.round.from {
            return;
        }
        self.round.applying = false;
        self.state = meta;
        if !meta.finished {
            return self.begin_round(now);
        }
        self.phase = Phase::Finished { until: now + LINGER };
        // On disk before anybody hears of it: who has it leaves.
        self.effects.push(Effect::Finished(meta));
        let workers: Vec<PeerId> = self.workers.keys().copied().collect();
        self.give_state(&workers);
        let heartbeat = Message::Heartbeat(self.heartbeat());
        self.broadcast(&heartbeat);
        self.check_exit(now);
    }

    fn tick(&mut self, now: Time) {
        if now >= self.next_probe {
            self.next_probe = now + HEARTBEAT_EVERY;
            let probe = Message::Probe(self.heartbeat());
            self.workers.values_mut().for_each(|link| {
                link.probed.get_or_insert(now);
            });
            self.broadcast(&probe);
        }
        self.suspect_the_silent(now);
        self.check_gathered(now);
        if self.is_working() {
            let again = now + self.pace.overdue_after(1, 1);
            let fetches = self.round.late_payloads(now, again);
            self.effects.extend(fetches);
            self.back_up_the_overdue(now);
        }
        self.check_exit(now);
    }

    fn suspect_the_silent(&mut self, now: Time) {
        let silent = |link: &Link| link.suspect_at().is_some_and(|at| at <= now);
        let silent: Vec<PeerId> = self.workers.iter().filter(|(_, link)| silent(link)).map(|(peer, _)| *peer).collect();
        for peer in &silent {
            if let Some(link) = self.workers.get_mut(peer) {
                link.suspected = true;
            }
            self.effects.push(Effect::Record(Event::PeerSuspected(*peer)));
        }
        if !silent.is_empty() {
            self.deal_again(now);
        }
    }

    /// When and by whom a unit is computed in place of its debtor.
    fn next_backup(&self, unit: u32, view: &Capacities) -> Option<(Time, PeerId)> {
        self.round.next_backup(unit, view, &self.pace, |peer| self.asked.contains(&(unit, *peer)))
    }

    fn back_up_the_overdue(&mut self, now: Time) {
        let view = self.view();
        let mut due: BTreeMap<(PeerId, PeerId), UnitSet> = BTreeMap::new();
        for unit in self.uncovered().iter() {
            let next = self.next_backup(unit, &view).filter(|(at, _)| *at <= now);
            if let (Some((_, peer)), Some(instead_of)) = (next, self.round.debtor(unit)) {
                let round = self.round.from.round;
                self.asked.insert((unit, peer));
                self.effects.push(Effect::Record(Event::Backup { round, unit, instead_of }));
                due.entry((peer, instead_of)).or_default().insert(unit);
            }
        }
        due.into_iter().for_each(|((peer, _), units)| self.give_work(peer, units));
    }

    fn is_working(&self) -> bool {
        self.phase == Phase::Working && !self.round.applying
    }

    fn is_working_on(&self, from: StateRef) -> bool {
        self.is_working() && self.round.from == from
    }

    /// Ends once no worker can need the final state from here.
    fn check_exit(&mut self, now: Time) {
        let Phase::Finished { until } = self.phase else { return };
        let gathering = now < self.gather_until;
        if now >= until || !gathering && self.workers.is_empty() {
            self.leave();
        }
    }

    fn leave(&mut self) {
        if self.phase != Phase::Left {
            self.broadcast(&Message::Leaving);
            self.effects.push(Effect::Exit);
            self.phase = Phase::Left;
        }
    }

    fn send(&mut self, to: PeerId, message: Message) {
        self.effects.push(Effect::Send { to, message });
    }

    fn broadcast(&mut self, message: &Message) {
        let all: Vec<PeerId> = self.workers.keys().copied().collect();
        all.into_iter().for_each(|peer| self.send(peer, message.clone()));
    }

    fn refuse(&mut self, from: PeerId, kind: RefusalKind, reason: String) {
        self.effects.push(Effect::Record(Event::Refused { from, kind, reason }));
    }
}
