//! Processes that start, stop, stand still and go on; what faults do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::SigningKey;
use peerless_protocol::{Config, Digest, Effect, Input, Member, Membership, Message, Node, PeerId, RoundPlan, Time};

use super::{Event, Peer, Setup, World};
use crate::adversary::{Attack, Attacker};
use crate::clock::Clock;
use crate::disk::{Disk, DiskFate};
use crate::faults::Fault;
use crate::functions::Pool;
use crate::invariants::{Allowance, Invariant, Progress, check_effects, check_footprint};
use crate::metrics::Meter;
use crate::model::{Reference, reference_to};
use crate::random::Random;

/// Largest state that a peer takes from others, in bytes.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// Microseconds from the death of a process until the others see their connections break.
const RESET_AFTER: u64 = 200;

impl Peer {
    pub(super) fn new(index: usize, setup: &Setup, reference: &Reference, random: &mut Random) -> Option<Self> {
        let (key, id) = key(index);
        let drift = i64::from(setup.clock_drift_ppm);
        let drift_ppm = random.between(0, 2 * drift as u64 + 1) as i64 - drift;
        let offset = random.between(setup.clock_offset.start, setup.clock_offset.end);
        let mut disk = Disk::new(reference.state(0)?.clone());
        disk.reports_too_early = setup.disk_reports_too_early;
        Some(Self {
            key,
            id,
            node: None,
            incarnation: 0,
            frozen: false,
            struck_at: Time(0),
            held_back: Vec::new(),
            clock: Clock { offset, drift_ppm: drift_ppm as i32 },
            pool: Pool::new(&setup.functions, random),
            disk,
            payloads: BTreeMap::new(),
            failing: BTreeSet::new(),
            left: false,
            finished: None,
            stopped: None,
            wakes: None,
            view: BTreeSet::new(),
            rounds_begun: 0,
            round_began: Time(0),
            allowance: Allowance::default(),
            progress: Progress::default(),
            meter: Meter::default(),
        })
    }
}

/// The key of the peer with this number. Making one costs more than a round, so they are kept for the
/// life of the process.
fn key(index: usize) -> (SigningKey, PeerId) {
    static KEYS: Mutex<Vec<(SigningKey, PeerId)>> = Mutex::new(Vec::new());
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    while keys.len() <= index {
        let key = SigningKey::from_bytes(Digest::of(format!("simulated peer {}", keys.len()).as_bytes()).as_bytes());
        let id = PeerId(key.verifying_key().to_bytes());
        keys.push((key, id));
    }
    keys[index].clone()
}

impl World {
    pub(super) fn start(&mut self, peer: usize) {
        let Some(kept) = self.peers[peer].disk.newest().cloned() else { return };
        let expected = if peer < self.setup.peers { self.setup.peers - 1 } else { 1 };
        let config = Config {
            spec: self.reference.spec().clone(),
            key: self.peers[peer].key.clone(),
            functions: self.peers[peer].pool.capacity(),
            payload: self.reference.shape(),
            max_state_bytes: MAX_STATE_BYTES,
            expected_peers: expected,
            gather_at_most: self.setup.gather_at_most,
            membership: Membership::Open,
            crowd: self.setup.crowd,
        };
        let (now, addresses) = (self.peers[peer].clock.at(self.now), vec![Self::address(peer)]);
        let node = Node::new(config, kept.meta, addresses, now).with_verification(self.verify.clone());
        let node = match &self.setup.prepare {
            Some(prepare) => prepare(node),
            None => node,
        };
        let round = kept.meta.state.round;
        let this = &mut self.peers[peer];
        this.incarnation += 1;
        this.node = Some(node);
        (this.frozen, this.struck_at) = (false, self.now);
        this.view.clear();
        (this.round_began, this.allowance) = (self.now, Allowance::default());
        self.running += 1;
        self.note(Some(peer), |_| format!("starts from the state of round {round}"));
        self.check(Some(peer), Invariant::ProgressKept, |world| world.peers[peer].progress.started(round));
        self.liveness.reached(self.now, round);
        self.call_others(peer);
        let now = self.now;
        self.wake_at(peer, now);
    }

    /// Where a peer listens: an address that no other has.
    pub(super) fn address(peer: usize) -> std::net::SocketAddr {
        let [.., high, low] = (peer as u32).to_be_bytes();
        std::net::SocketAddr::from(([127, 1, high, low], 4000))
    }

    pub(super) fn member(&self, peer: usize) -> Member {
        Member { peer: self.peers[peer].id, addresses: vec![Self::address(peer)] }
    }

    /// The process is no more. Others notice by their connections.
    pub(super) fn stop(&mut self, peer: usize) {
        let this = &mut self.peers[peer];
        if this.node.take().is_none() {
            return;
        }
        let gone_incarnation = this.incarnation;
        this.frozen = false;
        this.struck_at = self.now;
        this.payloads.clear();
        this.held_back.clear();
        this.pool.abandon();
        self.running -= 1;
        self.metrics.end_round(&mut this.meter);
        self.recovery.gone(peer);
        self.disturbed();
        for other in 0..self.peers.len() {
            if self.connection(other, peer) == gone_incarnation {
                self.reset_later(other, peer, gone_incarnation, RESET_AFTER);
            }
            self.disconnect(peer, other);
        }
    }

    pub(super) fn reset_later(&mut self, to: usize, gone: usize, gone_incarnation: u32, delay: u64) {
        let incarnation = self.peers[to].incarnation;
        let at = self.now + std::time::Duration::from_micros(delay);
        self.queue.push(at, Event::Reset { to, incarnation, gone, gone_incarnation });
    }

    pub(super) fn inflict(&mut self, fault: Fault) {
        if let Some(kind) = fault.kind().filter(|_| self.applies(&fault)) {
            *self.metrics.faults.entry(kind).or_default() += 1;
        }
        if !matches!(fault, Fault::Attack(_)) && self.applies(&fault) {
            self.note(None, |_| format!("FAULT: {fault}"));
        }
        match fault {
            Fault::Crash(peer) => self.crash(peer),
            Fault::Restart(peer, fate) if self.peers[peer].node.is_none() => self.restart(peer, fate),
            Fault::Join(peer) if self.peers[peer].incarnation == 0 => self.start(peer),
            Fault::Freeze(peer) if self.is_up(peer) => {
                self.struck(peer);
                (self.peers[peer].frozen, self.peers[peer].struck_at) = (true, self.now);
            }
            Fault::Thaw(peer) if self.peers[peer].frozen => self.thaw(peer),
            Fault::Cut(id, cut) => self.links.cut(id, cut),
            Fault::Mend(id) => self.links.mend(id),
            Fault::Slow(peer, factor) => self.peers[peer].pool.slowdown = factor.max(1),
            Fault::UnitFails(peer, unit) => {
                self.peers[peer].failing.insert(unit);
            }
            Fault::UnitWorks(peer, unit) => {
                self.peers[peer].failing.remove(&unit);
            }
            Fault::Leave(peer) if self.is_up(peer) => {
                self.peers[peer].left = true;
                self.feed(peer, Input::Leave);
            }
            Fault::Attack(attack) => self.attack(attack),
            Fault::Restart(..) | Fault::Join(_) | Fault::Freeze(_) | Fault::Thaw(_) | Fault::Leave(_) => {}
        }
        self.disturbed();
    }

    /// Whether a fault changes anything: a peer that is down does not crash.
    fn applies(&self, fault: &Fault) -> bool {
        match fault {
            Fault::Crash(peer) => self.peers[*peer].node.is_some(),
            Fault::Restart(peer, _) => self.peers[*peer].node.is_none() && !self.peers[*peer].left,
            Fault::Freeze(peer) | Fault::Leave(peer) => self.is_up(*peer),
            Fault::Thaw(peer) => self.peers[*peer].frozen,
            Fault::Join(peer) => self.peers[*peer].incarnation == 0,
            _ => true,
        }
    }

    fn crash(&mut self, peer: usize) {
        if self.peers[peer].node.is_some() {
            let durable = self.peers[peer].disk.reported_durable(self.now);
            self.peers[peer].progress.crashed(durable);
            self.struck(peer);
            self.stop(peer);
        }
    }

    fn restart(&mut self, peer: usize, fate: DiskFate) {
        let reference = self.reference.clone();
        let (Some(initial), false) = (reference.state(0), self.peers[peer].left) else { return };
        if fate == DiskFate::Lost {
            self.peers[peer].progress.crashed(0);
        }
        let died = self.peers[peer].struck_at;
        self.peers[peer].disk.crash(died, fate, reference.spec(), initial);
        self.recovery.back(peer);
        self.start(peer);
    }

    /// Starts to watch how a fault at `peer` is noticed and overcome.
    fn struck(&mut self, peer: usize) {
        let running: BTreeSet<usize> =
            (0..self.peers.len()).filter(|&other| other != peer && self.is_working(other)).collect();
        let incarnation = self.peers[peer].incarnation;
        let connected = running.iter().copied().filter(|&other| self.connection(other, peer) == incarnation).collect();
        let round = self.newest_round();
        self.recovery.struck(self.now, peer, round, connected, running);
    }

    fn thaw(&mut self, peer: usize) {
        (self.peers[peer].frozen, self.peers[peer].struck_at) = (false, self.now);
        self.recovery.back(peer);
        for event in std::mem::take(&mut self.peers[peer].held_back) {
            self.queue.push(self.now, event);
        }
        self.wake_soon(peer);
    }

    /// Who is there, or who is to be waited for, has changed.
    pub(super) fn disturbed(&mut self) {
        let working = (0..self.peers.len()).filter(|&peer| self.is_working(peer));
        let rounds = working.filter_map(|peer| self.peers[peer].node.as_ref());
        let best = rounds.map(|node| node.state().state.round).max().unwrap_or(0);
        self.liveness.disturbed(self.now, best);
    }

    /// The newest round among the peers that are up.
    pub(super) fn newest_round(&self) -> u64 {
        let up = self.peers.iter().filter(|peer| !peer.frozen).filter_map(|peer| peer.node.as_ref());
        up.map(|node| node.state().state.round).max().unwrap_or(0)
    }

    fn is_working(&self, peer: usize) -> bool {
        self.is_up(peer) && self.peers[peer].finished.is_none()
    }

    pub(super) fn is_busy(&self) -> bool {
        (0..self.peers.len()).any(|peer| self.is_working(peer))
    }

    pub(super) fn all_at_the_end(&mut self) -> Result<(), String> {
        let late = (0..self.peers.len()).find(|&peer| self.is_working(peer));
        let patience = self.setup.patience.as_secs_f64();
        late.map_or(Ok(()), |peer| {
            let round = self.peers[peer].node.as_ref().map_or(0, |node| node.state().state.round);
            Err(format!("p{peer} is at round {round} {patience} s after the last fault"))
        })
    }

    fn attack(&mut self, attack: Attack) {
        let Attack { kind, from, to } = attack;
        let Some(victim) = self.peers[to].node.as_ref().map(|node| node.state().state) else { return };
        let connected = self.connection(to, from) == self.peers[from].incarnation;
        let reference = self.reference.clone();
        let Some(fabricated) = reference.fabricated_payload(&mut self.random) else { return };
        if !connected || !self.is_up(to) || from == to {
            return;
        }
        let Some(recorder) = &self.recorder else { return };
        let fabricated_ref = reference_to(&fabricated);
        let attacker =
            Attacker { recorder, key: &self.peers[from].key, index: from, victim, fabricated: fabricated_ref };
        let wires = attacker.wires(kind, &mut self.random);
        for wire in wires {
            match Message::decode(&wire) {
                Ok(message) => {
                    self.give_payload_of(&message, to, &fabricated);
                    self.strike(attack, message);
                }
                Err(error) => {
                    self.metrics.refused += 1;
                    self.note(Some(to), |_| format!("refuses what p{from} sent: {error}"));
                }
            }
        }
    }

    /// An attacker sends the payload first, so that only the checks of the contribution are in the way.
    fn give_payload_of(&mut self, message: &Message, to: usize, fabricated: &peerless_store::Payload) {
        let Message::Contribution(signed) = message else { return };
        let Some(wanted) = signed.contribution.payload else { return };
        let known = self.peers.iter().find_map(|peer| peer.payloads.get(&wanted.digest)).map(|s| s.payload.clone());
        let payload = if wanted.digest == fabricated.digest() { Some(Arc::new(fabricated.clone())) } else { known };
        if let Some(payload) = payload {
            self.payload_arrives(to, payload);
        }
    }

    fn strike(&mut self, attack: Attack, message: Message) {
        let Attack { kind, from, to } = attack;
        let from = self.peers[from].id;
        let effects = self.handle(to, Input::Message { from, message });
        let used = effects.iter().any(|effect| !matches!(effect, Effect::Record(_)));
        if used || effects.is_empty() {
            self.note(Some(to), |_| format!("{attack}; {}", if used { "it is used" } else { "it is ignored" }));
        }
        if kind.must_have_no_effect() {
            self.check(Some(to), Invariant::NothingForged, |_| check_effects(&effects));
        }
        self.perform_all(to, effects);
        self.check_memory(to);
    }

    /// Shards that sums may be exchanged in: none if there are too few peers for it.
    pub(super) fn shards(&self, plan: &RoundPlan) -> u32 {
        if self.peers.len() < self.setup.crowd.sharded_from { 0 } else { plan.shards(&self.reference.shape()) }
    }

    pub(super) fn check_memory(&mut self, peer: usize) {
        let Some(node) = &self.peers[peer].node else { return };
        let (footprint, round) = (node.footprint(), node.state().state.round);
        let plans = [self.reference.plan(round), self.reference.plan(round + 1)];
        let plan = if plans[0].total() >= plans[1].total() { plans[0] } else { plans[1] };
        let others = self.peers.len();
        self.check(Some(peer), Invariant::MemoryBounds, |world| {
            check_footprint(&footprint, &plan, world.shards(&plan), plan.shards(&world.reference.shape()), others)
        });
    }
}
