//! The virtual machine room: peers, clock, network, functions, disks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use peerless_protocol::{
    Config, Digest, Effect, Input, Member, Message, Node, PayloadRef, PeerId, RunSpec, SignedContribution, StateMeta,
    StateRef, StopReason, Time, UnitSet,
};
use peerless_store::{Payload, State};

use crate::faults::{Fault, Network};
use crate::model;
use crate::random::Random;

/// States that a peer keeps for others, as the real store does.
const KEPT_STATES: usize = 4;

/// Ticks in a row at one point of time after which a peer is said to spin.
const MAX_IDLE_TICKS: u32 = 10_000;

/// How a run in the simulator ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The final state of each peer that reached one, by index.
    pub finished: BTreeMap<usize, Digest>,
    /// Peers that stopped with an error.
    pub stopped: BTreeMap<usize, StopReason>,
    /// Virtual time at the end.
    pub ended: Time,
    /// Units computed by functions, duplicates included.
    pub units_computed: u64,
    /// Everything that happened, one line each.
    pub log: Vec<String>,
}

struct Peer {
    key: SigningKey,
    node: Option<Node>,
    /// Distinguishes a process from the one before the crash, whose functions' results are void.
    incarnation: u64,
    frozen: bool,
    /// Survives crashes.
    disk: Vec<State>,
    /// Does not.
    payloads: BTreeMap<Digest, Payload>,
    failing: BTreeSet<u32>,
    unit_time: u64,
    finished: Option<Digest>,
    stopped: Option<StopReason>,
}

enum Delivery {
    Input { to: usize, incarnation: u64, input: Input },
    Payload { to: usize, incarnation: u64, payload: Payload },
    Fault(Fault),
}

/// A run in the simulator.
pub struct World {
    spec: RunSpec,
    serial: Vec<Digest>,
    network: Network,
    random: Random,
    now: Time,
    sequence: u64,
    queue: BTreeMap<(Time, u64), Delivery>,
    peers: Vec<Peer>,
    index: BTreeMap<PeerId, usize>,
    cut: BTreeSet<usize>,
    units_computed: u64,
    idle_ticks: u32,
    log: Vec<String>,
}

impl World {
    /// `peers` peers that all start at time zero. Everything follows from `seed`.
    pub fn new(spec: RunSpec, peers: usize, network: Network, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let serial = model::serial_digests(&spec);
        let disk = vec![model::initial_state(&spec)];
        let new_peer = |index: usize, random: &mut Random| Peer {
            key: SigningKey::from_bytes(Digest::of(&[index as u8, 17]).as_bytes()),
            node: None,
            incarnation: 0,
            frozen: false,
            disk: disk.clone(),
            payloads: BTreeMap::new(),
            failing: BTreeSet::new(),
            unit_time: random.between(5_000, 30_000),
            finished: None,
            stopped: None,
        };
        let peers: Vec<Peer> = (0..peers).map(|index| new_peer(index, &mut random)).collect();
        let id = |peer: &Peer| PeerId(peer.key.verifying_key().to_bytes());
        let index = peers.iter().enumerate().map(|(index, peer)| (id(peer), index)).collect();
        let mut world = Self {
            spec,
            serial,
            network,
            random,
            now: Time(0),
            sequence: 0,
            queue: BTreeMap::new(),
            peers,
            index,
            cut: BTreeSet::new(),
            units_computed: 0,
            idle_ticks: 0,
            log: Vec::new(),
        };
        (0..world.peers.len()).for_each(|peer| world.start(peer));
        world
    }

    /// Lets a fault happen at `at`.
    pub fn schedule(&mut self, at: Time, fault: Fault) {
        self.enqueue(at, Delivery::Fault(fault));
    }

    /// Runs until every live peer is done, or until `limit`.
    ///
    /// # Panics
    /// If a peer applies something that is not a cover, forms a state other than the serial run's, or
    /// asks to be woken again and again at one point of time.
    pub fn run(mut self, limit: Time) -> Outcome {
        while self.now < limit && self.peers.iter().any(|peer| peer.node.is_some()) {
            let queued = self.queue.keys().next().copied();
            match (queued, self.next_deadline()) {
                (Some((at, _)), Some((deadline, _))) if at <= deadline => self.deliver_next(),
                (_, Some((deadline, peer))) => self.tick(deadline, peer),
                (Some(_), None) => self.deliver_next(),
                (None, None) => break,
            }
        }
        let collect = |(index, peer): (usize, &Peer)| Some((index, peer.finished?));
        let stops = |(index, peer): (usize, &Peer)| Some((index, peer.stopped.clone()?));
        Outcome {
            finished: self.peers.iter().enumerate().filter_map(collect).collect(),
            stopped: self.peers.iter().enumerate().filter_map(stops).collect(),
            ended: self.now,
            units_computed: self.units_computed,
            log: self.log,
        }
    }

    fn tick(&mut self, deadline: Time, peer: usize) {
        self.idle_ticks = if deadline > self.now { 0 } else { self.idle_ticks + 1 };
        assert!(self.idle_ticks < MAX_IDLE_TICKS, "peer {peer} asks for ticks without end\n{}", self.log.join("\n"));
        self.now = self.now.max(deadline);
        self.feed(peer, Input::Tick);
    }

    fn next_deadline(&self) -> Option<(Time, usize)> {
        let running = self.peers.iter().enumerate().filter(|(_, peer)| !peer.frozen);
        running.filter_map(|(index, peer)| Some((peer.node.as_ref()?.deadline()?, index))).min()
    }

    fn deliver_next(&mut self) {
        let Some(((at, _), delivery)) = self.queue.pop_first() else { return };
        self.now = self.now.max(at);
        match delivery {
            Delivery::Fault(fault) => self.inflict(fault),
            Delivery::Input { to, incarnation, input } if self.is_running(to, incarnation) => self.feed(to, input),
            Delivery::Payload { to, incarnation, payload } if self.is_running(to, incarnation) => {
                let digest = payload.digest();
                self.peers[to].payloads.insert(digest, payload);
                self.feed(to, Input::PayloadHeld(digest));
            }
            // A frozen process handles what arrived when it goes on; a dead one never does.
            delivery => self.postpone(delivery),
        }
    }

    fn is_running(&self, peer: usize, incarnation: u64) -> bool {
        self.peers[peer].incarnation == incarnation && !self.peers[peer].frozen
    }

    fn postpone(&mut self, delivery: Delivery) {
        let (to, incarnation) = match &delivery {
            Delivery::Input { to, incarnation, .. } | Delivery::Payload { to, incarnation, .. } => (*to, *incarnation),
            Delivery::Fault(_) => return,
        };
        if self.peers[to].incarnation == incarnation && self.peers[to].frozen {
            self.enqueue(self.now + Duration::from_millis(50), delivery);
        }
    }

    fn enqueue(&mut self, at: Time, delivery: Delivery) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), delivery);
    }

    fn later(&mut self, to: usize, delay: u64, input: Input) {
        let incarnation = self.peers[to].incarnation;
        let at = self.now + Duration::from_micros(delay);
        self.enqueue(at, Delivery::Input { to, incarnation, input });
    }

    fn note(&mut self, peer: usize, what: &str) {
        self.log.push(format!("{:>9} µs  peer {peer}  {what}", self.now.0));
    }

    fn start(&mut self, peer: usize) {
        let state = self.peers[peer].disk.last().expect("a disk is never empty").clone();
        let config = Config {
            spec: self.spec.clone(),
            key: self.peers[peer].key.clone(),
            capacity: 1,
            payload_bytes: model::payload_format(&self.spec, &state).bytes() as u64,
            max_state_bytes: 1 << 20,
            expected_peers: self.peers.len() - 1,
            gather_at_most: Duration::from_secs(2),
        };
        let node = Node::new(config, meta(&state), Vec::new(), self.now);
        self.peers[peer].incarnation += 1;
        self.peers[peer].node = Some(node);
        self.peers[peer].frozen = false;
        self.note(peer, &format!("starts at round {}", state.header.round));
        let others: Vec<usize> =
            (0..self.peers.len()).filter(|&other| other != peer && self.peers[other].node.is_some()).collect();
        for other in others {
            self.later(peer, 300, Input::Connected(self.member(other)));
            self.later(other, 300, Input::Connected(self.member(peer)));
        }
    }

    fn member(&self, peer: usize) -> Member {
        Member { peer: self.id(peer), addresses: Vec::new() }
    }

    fn id(&self, peer: usize) -> PeerId {
        PeerId(self.peers[peer].key.verifying_key().to_bytes())
    }

    fn stop(&mut self, peer: usize) {
        self.peers[peer].node = None;
        self.peers[peer].incarnation += 1;
        self.peers[peer].payloads.clear();
        let gone = self.id(peer);
        for other in (0..self.peers.len()).filter(|&other| other != peer) {
            self.later(other, 200, Input::Disconnected(gone));
        }
    }

    fn inflict(&mut self, fault: Fault) {
        self.log.push(format!("{:>9} µs  fault   {fault:?}", self.now.0));
        match fault {
            Fault::Crash(peer) => self.stop(peer),
            Fault::Restart(peer) if self.peers[peer].node.is_none() => self.start(peer),
            Fault::RestartEmpty(peer) if self.peers[peer].node.is_none() => {
                self.peers[peer].disk = vec![model::initial_state(&self.spec)];
                self.start(peer);
            }
            Fault::Restart(_) | Fault::RestartEmpty(_) => {}
            Fault::Freeze(peer) => self.peers[peer].frozen = true,
            Fault::Thaw(peer) => self.peers[peer].frozen = false,
            Fault::Partition(side) => self.cut = side.into_iter().collect(),
            Fault::Heal => self.cut.clear(),
            Fault::UnitFails(peer, unit) => {
                self.peers[peer].failing.insert(unit);
            }
        }
    }

    fn feed(&mut self, peer: usize, input: Input) {
        let now = self.now;
        let Some(node) = &mut self.peers[peer].node else { return };
        for effect in node.handle(now, input) {
            self.perform(peer, effect);
        }
    }

    fn passes(&mut self, from: usize, to: usize) -> bool {
        let apart = self.cut.contains(&from) != self.cut.contains(&to);
        !apart && self.peers[to].node.is_some() && !self.random.chance(self.network.loss_percent)
    }

    fn delay(&mut self) -> u64 {
        self.random.between(self.network.delay.start, self.network.delay.end)
    }

    fn perform(&mut self, peer: usize, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(peer, self.index[&to], message),
            Effect::PushPayload { to, payload } => self.transfer(peer, self.index[&to], payload),
            Effect::FetchPayload { from, payload } => self.transfer(self.index[&from], peer, payload),
            Effect::Compute { from, unit, .. } => self.compute(peer, from, unit),
            Effect::Sum { from, units } => self.sum(peer, from, units),
            Effect::Apply { from, cover } => self.apply(peer, from, &cover),
            Effect::FetchState { state, donors, .. } => self.fetch_state(peer, state, &donors),
            Effect::DropPayloads(digests) => digests.iter().for_each(|digest| {
                self.peers[peer].payloads.remove(digest);
            }),
            Effect::Accumulate { payload, .. } => {
                assert!(
                    self.peers[peer].payloads.contains_key(&payload.digest),
                    "accumulates a payload that is not held"
                );
            }
            Effect::Record(event) => self.note(peer, &format!("{event:?}")),
            Effect::Finished(meta) => {
                self.note(peer, "finished");
                self.peers[peer].finished = Some(meta.state.digest);
            }
            Effect::Exit => self.stop(peer),
            Effect::Stop(reason) => {
                self.peers[peer].stopped = Some(reason);
                self.stop(peer);
            }
            Effect::Connect(_) | Effect::BeginRound { .. } => {}
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let copies = 1 + u32::from(self.random.chance(self.network.duplicate_percent));
        for _ in 0..copies {
            if self.passes(from, to) {
                let bytes = message.encode();
                let message = Message::decode(&bytes).expect("an encoded message decodes");
                let (delay, from) = (self.delay(), self.id(from));
                self.later(to, delay, Input::Message { from, message });
            }
        }
    }

    fn transfer(&mut self, from: usize, to: usize, payload: PayloadRef) {
        let Some(payload) = self.peers[from].payloads.get(&payload.digest).cloned() else { return };
        if self.passes(from, to) {
            let at = self.now + Duration::from_micros(self.delay() * 2);
            let incarnation = self.peers[to].incarnation;
            self.enqueue(at, Delivery::Payload { to, incarnation, payload });
        }
    }

    fn compute(&mut self, peer: usize, from: StateRef, unit: u32) {
        let base = self.peers[peer].unit_time;
        let time = self.random.between(base, base * 2);
        let input = if self.peers[peer].failing.contains(&unit) {
            Input::UnitFailed { from, unit, cause: "function crashed".into() }
        } else {
            self.units_computed += 1;
            Input::UnitComputed { from, unit, tally: model::tally(&self.spec, from, unit) }
        };
        self.later(peer, time, input);
    }

    fn sum(&mut self, peer: usize, from: StateRef, units: UnitSet) {
        let state = self.state(peer, from).expect("sums are asked for the current state").clone();
        let payload = model::exact_sum(&self.spec, &state, from, &units).expect("sums are asked for gradient units");
        let reference = PayloadRef { digest: payload.digest(), bytes: payload.as_bytes().len() as u64 };
        self.peers[peer].payloads.insert(reference.digest, payload);
        self.later(peer, 100, Input::Summed { from, units, payload: reference });
    }

    fn state(&self, peer: usize, state: StateRef) -> Option<&State> {
        self.peers[peer].disk.iter().find(|kept| kept.reference() == state)
    }

    fn apply(&mut self, peer: usize, from: StateRef, cover: &[SignedContribution]) {
        let mut state = self.state(peer, from).expect("the current state is on the disk").clone();
        let plan = peerless_protocol::RoundPlan::new(&self.spec, from.round);
        let mut seen = UnitSet::new();
        let (mut training, mut evaluation) = (Default::default(), Default::default());
        let mut payloads = Vec::new();
        for part in cover.iter().map(|signed| &signed.contribution) {
            assert!(part.units.is_disjoint(&seen), "a unit is in the cover twice");
            assert_eq!(part.from, from, "a contribution to another round is in the cover");
            seen = seen.union(&part.units);
            training = part.training.checked_add(training).expect("small");
            evaluation = part.evaluation.checked_add(evaluation).expect("small");
            payloads.extend(part.payload.map(|payload| self.peers[peer].payloads[&payload.digest].clone()));
        }
        assert_eq!(seen, plan.all(), "a unit is missing from the cover");
        let sum = model::add_payloads(&self.spec, &state, &payloads.iter().collect::<Vec<_>>());
        model::next_state(&self.spec, &mut state, sum.as_ref(), training, evaluation);
        assert_eq!(state.digest(), self.serial[state.header.round as usize], "not the state of the serial run");
        let meta = self.keep(peer, state);
        self.later(peer, 200, Input::Applied { from, meta });
    }

    fn keep(&mut self, peer: usize, state: State) -> StateMeta {
        let meta = meta(&state);
        let disk = &mut self.peers[peer].disk;
        disk.push(state);
        let excess = disk.len().saturating_sub(KEPT_STATES);
        disk.drain(..excess);
        meta
    }

    fn fetch_state(&mut self, peer: usize, state: StateRef, donors: &[PeerId]) {
        let donors: Vec<usize> = donors.iter().map(|donor| self.index[donor]).collect();
        let donor = donors.into_iter().find(|&donor| {
            let apart = self.cut.contains(&donor) != self.cut.contains(&peer);
            let up = self.peers[donor].node.is_some() && !self.peers[donor].frozen;
            !apart && up && self.state(donor, state).is_some()
        });
        let input = match donor.and_then(|donor| self.state(donor, state).cloned()) {
            Some(state) => Input::StateFetched(self.keep(peer, state)),
            None => Input::StateUnavailable(state),
        };
        self.later(peer, 2_000, input);
    }
}

fn meta(state: &State) -> StateMeta {
    StateMeta { state: state.reference(), bytes: state.encoded_len(), finished: state.header.finished.is_some() }
}
