//! What peers ask for is done here: one arm per effect.

use std::sync::Arc;
use std::time::Duration;

use peerless_protocol::{Effect, Input, Message, PayloadRef, PeerId, SignedContribution, StateMeta, StateRef, UnitSet};
use peerless_store::Payload;

use super::{Event, Stored, World};
use crate::disk::DiskFate;
use crate::faults::Fault;
use crate::invariants::{Allowance, Invariant, MAX_PAYLOAD_AGE, check_cover, check_shards, check_size, check_state};
use crate::model::{Kept, Totals, reference_to};

/// What the store takes to form a sum, and to apply a round, in microseconds.
const SUM: u64 = 100;
const APPLY: u64 = 200;

/// Time that a peer waits for a donor that does not answer.
const DONOR_SILENT: u64 = 500_000;

impl World {
    pub(super) fn perform(&mut self, peer: usize, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(peer, to, message),
            Effect::Connect(member) => self.call_member(peer, &member),
            Effect::PushPayload { to, payload } => self.transfer(Some(peer), self.index.get(&to).copied(), payload),
            Effect::FetchPayload { from, payload } => {
                self.transfer(self.index.get(&from).copied(), Some(peer), payload);
            }
            // Only servers push states, and there is none here.
            Effect::PushState { .. } => {}
            Effect::BeginRound { from } => self.begin_round(peer, from),
            Effect::Compute { from, unit, .. } => self.compute(peer, from, unit),
            Effect::Sum { from, units } => self.sum(peer, from, units),
            Effect::Split { from, units } => self.split(peer, from, units),
            Effect::Combine { from, shard, cover } => self.combine(peer, from, shard, &cover),
            Effect::Accumulate { payload, .. } => {
                let held = self.peers[peer].payloads.contains_key(&payload.digest);
                let missing = || Err("accumulates a payload that is not in its store".into());
                self.check(Some(peer), Invariant::ExactCover, |_| if held { Ok(()) } else { missing() });
            }
            Effect::Apply { from, cover } => self.apply(peer, from, &cover),
            Effect::FetchState { state, donors, .. } => self.fetch_state(peer, state, &donors),
            Effect::DropPayloads(digests) => digests.iter().for_each(|digest| {
                self.peers[peer].payloads.remove(digest);
            }),
            Effect::Record(event) => self.record(peer, &event),
            Effect::Finished(meta) => {
                self.note(Some(peer), |_| "has the final state".into());
                self.peers[peer].finished = Some(meta.state.digest);
                self.disturbed();
            }
            Effect::Exit => {
                self.note(Some(peer), |_| "ends".into());
                self.stop(peer);
            }
            Effect::Stop(reason) => {
                self.note(Some(peer), |_| format!("gives up: {reason}"));
                self.peers[peer].stopped = Some(reason);
                self.give_up(peer);
            }
        }
    }

    fn give_up(&mut self, peer: usize) {
        self.stop(peer);
        if let Some(wait) = self.setup.restart_after_stop {
            self.schedule(self.now + wait, Fault::Restart(peer, DiskFate::Kept));
        }
    }

    fn send(&mut self, from: usize, to: PeerId, message: Message) {
        let Some((message, bytes)) = self.encode(from, message) else { return };
        self.peers[from].meter.control.add(bytes);
        if !matches!(*message, Message::Leaving) {
            self.check_number(from);
        }
        let Some(&to) = self.index.get(&to) else { return };
        if let Some(recorder) = &mut self.recorder {
            recorder.saw(from, &message, &mut self.random);
        }
        let incarnation = self.peers[to].incarnation;
        if self.connection(from, to) != incarnation || incarnation == 0 {
            return;
        }
        for delay in self.links.deliveries(from, to, &mut self.random).into_iter().flatten() {
            let at = self.now + Duration::from_micros(delay);
            self.queue.push(at, Event::Message { to, incarnation, from, message: message.clone() });
        }
    }

    /// Encodes and decodes a message as the wire would; the same message to the next receiver costs only
    /// a comparison.
    fn encode(&mut self, from: usize, message: Message) -> Option<(Arc<Message>, u64)> {
        if let Some((last, decoded, bytes)) = self.encoded.as_ref().filter(|(last, ..)| *last == message) {
            debug_assert_eq!(*last, **decoded);
            return Some((decoded.clone(), *bytes));
        }
        let bytes = message.encode();
        self.check(Some(from), Invariant::MessageBounds, |_| check_size(&message, bytes.len()));
        match Message::decode(&bytes) {
            Ok(decoded) => {
                let decoded = Arc::new(decoded);
                self.encoded = Some((message, decoded.clone(), bytes.len() as u64));
                Some((decoded, bytes.len() as u64))
            }
            Err(error) => {
                let what = format!("sends a message that nobody can read: {error}");
                self.check(Some(from), Invariant::MessageBounds, |_| Err(what));
                None
            }
        }
    }

    fn check_number(&mut self, from: usize) {
        let Some(round) = self.peers[from].node.as_ref().map(|node| node.state().state.round) else { return };
        let plan = self.reference.plan(round);
        let passed = self.now.since(self.peers[from].round_began);
        let receivers = self.peers.len() - 1;
        let shards = self.shards(&plan);
        self.check(Some(from), Invariant::MessageBounds, |world| {
            world.peers[from].allowance.sent(&plan, shards, receivers, passed)
        });
    }

    /// A payload on its way, if the sender has it.
    fn transfer(&mut self, from: Option<usize>, to: Option<usize>, payload: PayloadRef) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let stored = self.peers[from].payloads.get(&payload.digest).filter(|_| self.is_up(from));
        let Some(stored) = stored.map(|stored| stored.payload.clone()) else { return };
        self.peers[from].meter.payload.add(payload.bytes);
        let incarnation = self.peers[to].incarnation;
        if self.connection(from, to) != incarnation || incarnation == 0 {
            return;
        }
        let transmission = self.links.transmission(payload.bytes);
        if let [Some(delay), _] = self.links.deliveries(from, to, &mut self.random) {
            let at = self.now + Duration::from_micros(delay * 2 + transmission);
            self.queue.push(at, Event::Payload { to, incarnation, payload: stored });
        }
    }

    pub(super) fn payload_arrives(&mut self, peer: usize, payload: Arc<Payload>) {
        let reference = reference_to(&payload);
        self.store(peer, payload, None);
        self.feed(peer, Input::PayloadHeld(reference));
    }

    fn store(&mut self, peer: usize, payload: Arc<Payload>, summed: Option<StateRef>) {
        let since = self.peers[peer].rounds_begun;
        self.peers[peer].payloads.insert(payload.digest(), Stored { payload, since, summed });
    }

    fn begin_round(&mut self, peer: usize, from: StateRef) {
        let this = &mut self.peers[peer];
        this.rounds_begun += 1;
        this.round_began = self.now;
        this.allowance = Allowance::default();
        this.pool.abandon();
        this.payloads.retain(|_, stored| stored.summed.is_none_or(|round| round == from));
        self.metrics.peer_rounds += 1;
        self.metrics.end_round(&mut this.meter);
        let begun = this.rounds_begun;
        let stale = this.payloads.values().filter(|stored| stored.since + MAX_PAYLOAD_AGE < begun).count();
        self.note_view(peer);
        self.check(Some(peer), Invariant::ProgressKept, |world| world.peers[peer].progress.begun(from.round));
        self.check(Some(peer), Invariant::MemoryBounds, |_| match stale {
            0 => Ok(()),
            _ => Err(format!("still keeps {stale} payloads {MAX_PAYLOAD_AGE} rounds after they came")),
        });
        self.check_memory(peer);
    }

    fn compute(&mut self, peer: usize, from: StateRef, unit: u32) {
        let Some(tally) = self.reference.tally(from, unit) else { return };
        self.metrics.units += 1;
        let this = &mut self.peers[peer];
        let fails = this.failing.contains(&unit);
        let completion = this.pool.invoke(self.now, fails, &self.setup.functions, &mut self.random);
        let input = match completion.cause {
            Some(cause) => Input::UnitFailed { from, unit, cause: cause.into() },
            None => Input::UnitComputed { from, unit, tally },
        };
        self.later(peer, completion.at.0 - self.now.0, input);
    }

    fn sum(&mut self, peer: usize, from: StateRef, units: UnitSet) {
        let Some(payload) = self.reference.payload(from, &units) else {
            let what = format!("asks for the sum of units {units:?} without a gradient among them");
            return self.check(Some(peer), Invariant::ExactCover, |_| Err(what));
        };
        let reference = reference_to(&payload);
        self.store(peer, Arc::new(payload), Some(from));
        self.later(peer, SUM, Input::Summed { from, units, payload: reference });
    }

    fn apply(&mut self, peer: usize, from: StateRef, cover: &[SignedContribution]) {
        let plan = self.reference.plan(from.round);
        let stored = &self.peers[peer].payloads;
        let held = |digest: &_| stored.get(digest).map(|stored| stored.payload.sums());
        let shape = self.reference.shape();
        let totals = if cover.iter().any(|signed| signed.contribution.shard.is_some()) {
            check_shards(&plan, from, cover, held, &shape)
        } else {
            check_cover(&plan, from, cover, held, Totals::zero(shape.elements as usize))
        };
        let next = totals.and_then(|totals| self.reference.next(from.round, &totals));
        match next {
            Ok(kept) => {
                let meta = self.keep(peer, kept);
                self.later(peer, APPLY, Input::Applied { from, meta });
            }
            Err(what) => self.check(Some(peer), Invariant::ExactCover, |_| Err(what)),
        }
    }

    fn split(&mut self, peer: usize, from: StateRef, units: UnitSet) {
        let shards: Vec<_> = self.reference.shards(from, &units).into_iter().map(Arc::new).collect();
        if shards.is_empty() {
            let what = format!("asks for the sum of units {units:?} without a gradient among them");
            return self.check(Some(peer), Invariant::ExactCover, |_| Err(what));
        }
        let references = shards.iter().map(|shard| reference_to(shard)).collect();
        shards.into_iter().for_each(|shard| self.store(peer, shard, Some(from)));
        self.later(peer, SUM, Input::Split { from, units, shards: references });
    }

    fn combine(&mut self, peer: usize, from: StateRef, shard: u32, cover: &[SignedContribution]) {
        let plan = self.reference.plan(from.round);
        let range = self.reference.range(shard);
        let stored = &self.peers[peer].payloads;
        let held = |digest: &_| {
            let sums = stored.get(digest)?.payload.sums();
            if sums.len() == range.len() { Some(sums) } else { sums.get(range.clone()) }
        };
        let sum = check_cover(&plan, from, cover, held, Totals::zero(range.len()));
        match sum.and_then(|totals| self.reference.encode_shard(shard, &totals)) {
            Ok(payload) => {
                let reference = reference_to(&payload);
                self.store(peer, Arc::new(payload), Some(from));
                self.later(peer, SUM, Input::Combined { from, shard, payload: reference });
            }
            Err(what) => self.check(Some(peer), Invariant::ExactCover, |_| Err(what)),
        }
    }

    /// Puts a state on a peer's disk.
    fn keep(&mut self, peer: usize, kept: Arc<Kept>) -> StateMeta {
        let meta = kept.meta;
        let write = self.random.between(self.setup.disk_write.start, self.setup.disk_write.end);
        self.peers[peer].disk.write(kept, self.now, self.now + Duration::from_micros(write));
        self.peers[peer].allowance.new_state();
        self.liveness.reached(self.now, meta.state.round);
        self.recovery.reached(self.now, peer, meta.state.round);
        self.metrics.rounds = self.metrics.rounds.max(meta.state.round);
        self.check(Some(peer), Invariant::OneState, |world| check_state(&world.reference, meta.state));
        meta
    }

    fn fetch_state(&mut self, peer: usize, state: StateRef, donors: &[PeerId]) {
        let donors = donors.iter().filter_map(|donor| self.index.get(donor).copied()).collect();
        self.ask_donor(peer, state, donors);
    }

    /// Asks the first of `donors`; the state, or the lack of it, arrives after a while.
    fn ask_donor(&mut self, peer: usize, state: StateRef, donors: Vec<usize>) {
        let Some(&donor) = donors.first() else { return self.later(peer, 0, Input::StateUnavailable(state)) };
        let passes = self.links.open(donor, peer) && self.links.open(peer, donor);
        let wait = match self.peers[donor].disk.find(state) {
            _ if !self.is_up(donor) || !passes => DONOR_SILENT,
            Some(kept) => self.links.transmission(kept.meta.bytes),
            None => 0,
        };
        let delay = self.links.delay(peer, donor, &mut self.random) + self.links.delay(donor, peer, &mut self.random);
        let incarnation = self.peers[peer].incarnation;
        let at = self.now + Duration::from_micros(delay * 2 + wait);
        self.queue.push(at, Event::StateArrives { to: peer, incarnation, state, donors });
    }

    /// The end of an attempt to take a state from the first of `donors`, which may have died meanwhile.
    pub(super) fn state_arrives(&mut self, peer: usize, state: StateRef, mut donors: Vec<usize>) {
        let donor = donors.remove(0);
        let passes = self.links.open(donor, peer) && self.links.open(peer, donor);
        match self.peers[donor].disk.find(state).cloned().filter(|_| passes && self.is_up(donor)) {
            Some(kept) => {
                self.metrics.states.add(kept.meta.bytes);
                let meta = self.keep(peer, kept);
                self.note(Some(peer), |_| format!("has the state of round {} from p{donor}", meta.state.round));
                self.feed(peer, Input::StateFetched(meta));
            }
            None => self.ask_donor(peer, state, donors),
        }
    }
}
