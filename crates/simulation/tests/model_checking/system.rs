//! Peers, network and disks, and everything that can happen to them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use peerless_protocol::{
    Config, Crowd, DatasetSpec, Digest, Effect, EvaluationSpec, Input, LearningRate, Member, Message, Mutant, Node,
    PayloadRef, PeerId, RunSpec, SPEC_VERSION, StateMeta, Time,
};
use stateright::{Model, Property};

use crate::process::{Outgoing, Process, TALLY, Violation};
use crate::recovery::Recovery;
use crate::symbols::{PAYLOAD, Symbols};

/// Long enough for messages in flight, too short for anything else.
const SHORT: Duration = Duration::from_millis(25);

/// Ticks after which whoever was silent was asked for an answer, and is suspected; too short for backups.
const SILENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Longer than every wait.
const LONG: Duration = Duration::from_secs(40);

/// How often each fault may happen in one history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// The process dies at any moment; it may start again at any later one.
    pub crashes: u8,
    /// A message or payload is lost.
    pub losses: u8,
    /// A message or payload arrives twice, with anything in between.
    pub duplicates: u8,
    /// A connection breaks while both processes live; it may come back at any later moment.
    pub disconnections: u8,
    /// A live peer is suspected.
    pub suspicions: u8,
    /// A long wait ends early: a unit is backed up although its result is under way, or a peer with the
    /// last state leaves although others need it.
    pub early_timeouts: u8,
}

/// What the peers know at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Everybody is connected with everybody.
    Together,
    /// Everybody knows the last peer alone and shares the round with it, and it dies at once, for good.
    /// So views differ, and sums overlap without one holding the other.
    Strangers,
}

/// One configuration to explore.
pub struct Peers {
    pub count: u8,
    pub faults: Faults,
    pub order: Order,
    pub start: Start,
    pub mutant: Option<Mutant>,
    pub symbols: Symbols,
    pub recovery: Recovery,
    spec: RunSpec,
    keys: Vec<SigningKey>,
    ids: Vec<PeerId>,
    index: BTreeMap<PeerId, u8>,
}

/// How the network treats what is sent on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It arrives in the order in which it was sent, as with TCP. Messages and payloads have a
    /// connection each, so one can overtake the other.
    Kept,
    /// It arrives in any order.
    Any,
}

/// Messages, or payloads, from one peer to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    pub from: u8,
    pub to: u8,
    bulk: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// An encoded message.
    Message(Arc<[u8]>),
    Payload(PayloadRef),
    /// The connection is gone. What did not arrive before it never does.
    Gone,
}

/// What is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Network(BTreeMap<Link, Vec<Content>>);

impl Network {
    fn send(&mut self, link: Link, content: Content, order: Order) {
        let queue = self.0.entry(link).or_default();
        // The same once more is the same: only repeated requests for a payload make it.
        if !queue.contains(&content) {
            queue.push(content);
            if order == Order::Any {
                queue.sort();
            }
        }
    }

    fn take(&mut self, link: Link, content: &Content) {
        self.retain(|other, waiting| other != link || waiting != content);
    }

    fn retain(&mut self, keep: impl Fn(Link, &Content) -> bool) {
        self.0.iter_mut().for_each(|(link, queue)| queue.retain(|content| keep(*link, content)));
        self.0.retain(|_, queue| !queue.is_empty());
    }

    fn contains(&self, link: Link, content: &Content) -> bool {
        self.0.get(&link).is_some_and(|queue| queue.contains(content))
    }

    /// What can arrive next.
    fn next(&self, order: Order) -> impl Iterator<Item = (Link, Content)> {
        self.0.iter().flat_map(move |(link, queue)| {
            let count = if order == Order::Any { queue.len() } else { 1 };
            queue.iter().take(count).map(|content| (*link, content.clone()))
        })
    }

    fn is_quiet_for(&self, peer: u8) -> bool {
        self.0.keys().all(|link| link.to != peer)
    }
}

/// The state of everything.
#[derive(Clone, PartialEq, Hash)]
pub struct System {
    pub peers: Vec<Peer>,
    pub network: Network,
    left: Faults,
    pub violation: Option<Violation>,
}

/// One peer: its process, if it runs, and its disk, which outlives it.
#[derive(Clone)]
pub struct Peer {
    pub process: Option<Arc<Process>>,
    /// States on the disk, the newest last.
    pub disk: Vec<StateMeta>,
    /// Ended for good.
    pub left: bool,
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        (&self.process, self.left, &self.disk) == (&other.process, other.left, &other.disk)
    }
}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.process.hash(state);
        self.left.hash(state);
        self.disk.iter().for_each(|meta| meta.state.hash(state));
    }
}

#[derive(Clone, PartialEq, Eq)]
pub enum Action {
    Deliver(Link, Content),
    /// It arrives, and will arrive again.
    DeliverAndKeep(Link, Content),
    Lose(Link, Content),
    /// A function has computed the unit.
    Compute {
        peer: u8,
        unit: u32,
    },
    /// The store has formed the next state.
    Apply {
        peer: u8,
    },
    /// The fetch of a state ends, well if a donor that runs has it.
    FetchState {
        peer: u8,
    },
    Connect {
        one: u8,
        other: u8,
    },
    /// The periodic heartbeat of `of` arrives.
    Hear {
        peer: u8,
        of: u8,
    },
    /// Time for messages in flight passes: payloads that were announced are asked for, and the state of
    /// who is ahead is.
    WaitShort {
        peer: u8,
    },
    /// More time than any wait takes passes, while all others give signs of life.
    WaitLong {
        peer: u8,
    },
    Suspect {
        peer: u8,
        of: u8,
    },
    /// `torn`: the newest state did not reach the disk.
    Crash {
        peer: u8,
        torn: bool,
    },
    Disconnect {
        one: u8,
        other: u8,
    },
    Restart {
        peer: u8,
    },
}

impl Peers {
    pub fn new(count: u8, units: u32, rounds: u64, order: Order, faults: Faults) -> Self {
        let keys: Vec<SigningKey> = (0..count).map(|peer| SigningKey::from_bytes(&[peer + 1; 32])).collect();
        let ids: Vec<PeerId> = keys.iter().map(|key| PeerId(key.verifying_key().to_bytes())).collect();
        let index = ids.iter().zip(0..).map(|(id, index)| (*id, index)).collect();
        let symbols = Symbols::new(rounds, units);
        Self {
            count,
            faults,
            order,
            start: Start::Together,
            mutant: None,
            symbols,
            recovery: Recovery::default(),
            spec: spec(units, rounds),
            keys,
            ids,
            index,
        }
    }

    pub fn starting(self, start: Start) -> Self {
        Self { start, ..self }
    }

    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    /// All peers connected, with the initial state, at work on round 0; or [`Start::Strangers`].
    fn start(&self) -> System {
        let initial = self.symbols.meta(self.symbols.serial[0]);
        let peer =
            |index| Peer { process: Some(Arc::new(self.process(index, initial))), disk: vec![initial], left: false };
        let peers = (0..self.count).map(peer).collect();
        let mut system = System { peers, network: Network::default(), left: self.faults, violation: None };
        let last = self.count - 1;
        let together = |&(_, other): &(u8, u8)| self.start == Start::Together || other == last;
        let pairs: Vec<(u8, u8)> = self.pairs().filter(together).collect();
        pairs.iter().for_each(|&(one, other)| self.connect(&mut system, one, other));
        for (one, other) in pairs {
            self.hear(&mut system, one, other);
            self.hear(&mut system, other, one);
        }
        if self.start == Start::Strangers {
            (0..last).for_each(|peer| self.wait(&mut system, peer, &[LONG], None));
            self.end(&mut system, last, true);
        }
        system
    }

    fn process(&self, peer: u8, state: StateMeta) -> Process {
        let config = Config {
            spec: self.spec.clone(),
            key: self.keys[usize::from(peer)].clone(),
            capacity: 1,
            payload: PAYLOAD,
            max_state_bytes: 10_000,
            expected_peers: usize::from(self.count) - 1,
            gather_at_most: Duration::from_secs(2),
            crowd: Crowd::default(),
        };
        let node = Node::new(config, state, Vec::new(), Time(0));
        Process::new(match self.mutant {
            Some(mutant) => node.with_mutant(mutant),
            None => node,
        })
    }

    pub fn pairs(&self) -> impl Iterator<Item = (u8, u8)> + use<> {
        let count = self.count;
        (0..count).flat_map(move |one| (one + 1..count).map(move |other| (one, other)))
    }

    fn id(&self, peer: u8) -> PeerId {
        self.ids[usize::from(peer)]
    }

    fn feed(&self, system: &mut System, peer: u8, input: Input) {
        self.feed_all(system, peer, [(Duration::ZERO, input)]);
    }

    /// Feeds a peer and puts what it does to others into the network.
    fn feed_all(&self, system: &mut System, peer: u8, inputs: impl IntoIterator<Item = (Duration, Input)>) {
        let Some(process) = &mut system.peers[usize::from(peer)].process else { return };
        let (outgoing, violation) = Arc::make_mut(process).feed(&self.symbols, inputs);
        system.violation = system.violation.or(violation);
        outgoing.into_iter().for_each(|outgoing| self.carry(system, peer, outgoing));
    }

    fn carry(&self, system: &mut System, peer: u8, outgoing: Outgoing) {
        let (from, to, content) = match outgoing {
            Outgoing::Message { to, message } => (peer, self.index[&to], Content::Message(message.encode().into())),
            Outgoing::Push { to, payload } => (peer, self.index[&to], Content::Payload(payload)),
            Outgoing::Fetch { from, payload } => (self.index[&from], peer, Content::Payload(payload)),
            Outgoing::Exit => return self.end(system, peer, true),
        };
        let holds = |payload| system.process(from).is_some_and(|process| process.held.contains(payload));
        let (bulk, sent) = match &content {
            Content::Payload(payload) => (true, holds(payload)),
            Content::Message(_) | Content::Gone => (false, true),
        };
        if sent && self.linked(system, from, to) {
            system.network.send(Link { from, to, bulk }, content, self.order);
        }
    }

    /// Whether both ends have the connection.
    pub fn linked(&self, system: &System, one: u8, other: u8) -> bool {
        let knows = |a: u8, b: u8| system.process(a).is_some_and(|process| process.knows(self.id(b)));
        knows(one, other) && knows(other, one) && !self.breaking(system, one, other)
    }

    fn breaking(&self, system: &System, one: u8, other: u8) -> bool {
        let gone = |from, to| system.network.contains(Link { from, to, bulk: false }, &Content::Gone);
        gone(one, other) || gone(other, one)
    }

    /// Whether a connection can be made: both run, and neither believes to have one.
    pub fn connectable(&self, system: &System, one: u8, other: u8) -> bool {
        let free = |a: u8, b: u8| system.process(a).is_some_and(|process| !process.knows(self.id(b)));
        free(one, other) && free(other, one) && !self.breaking(system, one, other)
    }

    fn connect(&self, system: &mut System, one: u8, other: u8) {
        for (peer, of) in [(one, other), (other, one)] {
            let member = Member { peer: self.id(of), addresses: Vec::new() };
            self.feed(system, peer, Input::Connected(member));
        }
    }

    fn hear(&self, system: &mut System, peer: u8, of: u8) {
        let Some(message) = system.process(of).map(Process::heartbeat) else { return };
        self.feed(system, peer, Input::Message { from: self.id(of), message });
    }

    /// Lets time pass for a peer, with a tick at each of `ticks`, before which everybody in reach but
    /// `silent` gives a sign of life.
    fn wait(&self, system: &mut System, peer: u8, ticks: &[Duration], silent: Option<u8>) {
        let Some(process) = system.process(peer) else { return };
        let heard: Vec<u8> = (0..self.count)
            .filter(|&of| Some(of) != silent && process.knows(self.id(of)) && !process.suspected.contains(&self.id(of)))
            .collect();
        // Without an effect but being heard.
        let sign = |of: &u8| Input::Message { from: self.id(*of), message: Message::Spec(Vec::new()) };
        let inputs = ticks.iter().flat_map(|&at| {
            heard.iter().map(sign).chain([Input::Tick]).map(move |input| (at, input)).collect::<Vec<_>>()
        });
        self.feed_all(system, peer, inputs);
    }

    fn deliver(&self, system: &mut System, link: Link, content: &Content) {
        let from = self.id(link.from);
        let input = match content {
            Content::Message(bytes) => match Message::decode(bytes) {
                Ok(message) => Input::Message { from, message },
                Err(_) => {
                    system.violation = Some(super::STOPS);
                    return;
                }
            },
            Content::Payload(payload) => {
                if let Some(process) = &mut system.peers[usize::from(link.to)].process {
                    Arc::make_mut(process).held.insert(*payload);
                }
                Input::PayloadHeld(*payload)
            }
            Content::Gone => {
                system.network.retain(|other, _| (other.from, other.to) != (link.from, link.to));
                Input::Disconnected(from)
            }
        };
        self.feed(system, link.to, input);
    }

    /// The process ends: what is under way to it is lost, what it sent may still arrive before its end
    /// is noticed.
    fn end(&self, system: &mut System, peer: u8, left: bool) {
        let slot = &mut system.peers[usize::from(peer)];
        slot.process = None;
        slot.left = left;
        system.network.retain(|link, _| link.to != peer);
        for other in 0..self.count {
            if system.process(other).is_some_and(|process| process.knows(self.id(peer))) {
                system.network.send(Link { from: peer, to: other, bulk: false }, Content::Gone, self.order);
            }
        }
    }

    fn disconnect(&self, system: &mut System, one: u8, other: u8) {
        for (from, to) in [(one, other), (other, one)] {
            system.network.send(Link { from, to, bulk: false }, Content::Gone, self.order);
        }
    }

    fn apply(&self, system: &mut System, peer: u8) {
        let Some((effect, from)) = system.take_owed(peer, |effect| match effect {
            Effect::Apply { from, .. } => Some(*from),
            _ => None,
        }) else {
            return;
        };
        let Effect::Apply { cover, .. } = effect else { return };
        let meta = self.symbols.apply(from, &cover).meta;
        system.peers[usize::from(peer)].disk.push(meta);
        self.feed(system, peer, Input::Applied { from, meta });
    }

    fn fetch_state(&self, system: &mut System, peer: u8) {
        let Some((effect, state)) = system.take_owed(peer, |effect| match effect {
            Effect::FetchState { state, .. } => Some(*state),
            _ => None,
        }) else {
            return;
        };
        let Effect::FetchState { donors, .. } = effect else { return };
        let found = donors.iter().map(|donor| self.index[donor]).find_map(|donor| {
            let meta = system.peers[usize::from(donor)].disk.iter().find(|meta| meta.state == state);
            meta.filter(|_| self.linked(system, peer, donor)).copied()
        });
        let input = match found {
            Some(meta) => {
                system.peers[usize::from(peer)].disk.push(meta);
                Input::StateFetched(meta)
            }
            None => Input::StateUnavailable(state),
        };
        self.feed(system, peer, input);
    }

    fn compute(&self, system: &mut System, peer: u8, unit: u32) {
        let Some((_, from)) = system.take_owed(peer, |effect| match effect {
            Effect::Compute { from, unit: owed, .. } if *owed == unit => Some(*from),
            _ => None,
        }) else {
            return;
        };
        self.feed(system, peer, Input::UnitComputed { from, unit, tally: TALLY });
    }

    fn restart(&self, system: &mut System, peer: u8) {
        let newest = system.peers[usize::from(peer)].disk.last().copied();
        let Some(newest) = newest else { return };
        system.peers[usize::from(peer)].process = Some(Arc::new(self.process(peer, newest)));
        self.feed(system, peer, Input::Tick);
    }

    /// What can happen without a fault, in the order in which [`Recovery`] lets it happen.
    pub fn progress(&self, system: &System, actions: &mut Vec<Action>) {
        actions.extend(system.network.next(self.order).map(|(link, content)| Action::Deliver(link, content)));
        let running = (0..self.count).filter_map(|peer| Some((peer, system.process(peer)?)));
        for (peer, process) in running {
            actions.extend(process.owed.iter().filter_map(|effect| match effect {
                Effect::Compute { unit, .. } => Some(Action::Compute { peer, unit: *unit }),
                Effect::Apply { .. } => Some(Action::Apply { peer }),
                Effect::FetchState { .. } => Some(Action::FetchState { peer }),
                _ => None,
            }));
        }
        let pairs = self.pairs().filter(|&(one, other)| self.connectable(system, one, other));
        actions.extend(pairs.map(|(one, other)| Action::Connect { one, other }));
        let linked = self.pairs().filter(|&(one, other)| self.linked(system, one, other));
        actions.extend(
            linked.flat_map(|(one, other)| {
                [Action::Hear { peer: one, of: other }, Action::Hear { peer: other, of: one }]
            }),
        );
        let running = (0..self.count).filter(|&peer| system.process(peer).is_some());
        actions.extend(running.map(|peer| Action::WaitShort { peer }));
    }

    fn faults(&self, system: &System, actions: &mut Vec<Action>) {
        let left = system.left;
        let lossy = || system.network.next(self.order).filter(|(_, content)| *content != Content::Gone);
        if left.losses > 0 {
            actions.extend(lossy().map(|(link, content)| Action::Lose(link, content)));
        }
        if left.duplicates > 0 {
            actions.extend(lossy().map(|(link, content)| Action::DeliverAndKeep(link, content)));
        }
        let linked: Vec<(u8, u8)> = self.pairs().filter(|&(one, other)| self.linked(system, one, other)).collect();
        if left.disconnections > 0 {
            actions.extend(linked.iter().map(|&(one, other)| Action::Disconnect { one, other }));
        }
        if left.suspicions > 0 {
            let both = linked.iter().flat_map(|&(one, other)| [(one, other), (other, one)]);
            actions.extend(both.map(|(peer, of)| Action::Suspect { peer, of }));
        }
        for peer in 0..self.count {
            let slot = &system.peers[usize::from(peer)];
            match &slot.process {
                Some(_) if left.crashes > 0 => {
                    actions.push(Action::Crash { peer, torn: false });
                    actions.extend((slot.disk.len() > 1).then_some(Action::Crash { peer, torn: true }));
                }
                None if !slot.left => actions.push(Action::Restart { peer }),
                _ => {}
            }
        }
    }
}

impl System {
    pub fn process(&self, peer: u8) -> Option<&Process> {
        self.peers[usize::from(peer)].process.as_deref()
    }

    /// Whether every peer has the last state, on a disk at least.
    pub fn is_done(&self) -> bool {
        self.peers.iter().all(|peer| peer.left || peer.disk.last().is_some_and(|meta| meta.finished))
    }

    /// A peer with the last state takes no part in any round: what comes for one changes nothing there.
    fn forget_what_is_ignored(&mut self) {
        let finished =
            |peer: u8| self.peers[usize::from(peer)].process.as_ref().is_some_and(|process| process.is_finished());
        let (finished, _): (Vec<u8>, Vec<u8>) = (0..self.peers.len() as u8).partition(|peer| finished(*peer));
        self.network.retain(|link, content| !finished.contains(&link.to) || *content == Content::Gone);
    }

    /// Takes the first effect that `wanted` finds what it looks for in.
    fn take_owed<T>(&mut self, peer: u8, wanted: impl Fn(&Effect) -> Option<T>) -> Option<(Effect, T)> {
        let process = self.peers[usize::from(peer)].process.as_mut()?;
        let (index, found) =
            process.owed.iter().enumerate().find_map(|(index, effect)| Some((index, wanted(effect)?)))?;
        Some((Arc::make_mut(process).owed.remove(index), found))
    }

    /// Whether nothing is under way to `peer` and it waits for nothing of its own.
    fn is_quiet_for(&self, peer: u8) -> bool {
        let owed = self.process(peer).is_some_and(|process| !process.owed.is_empty());
        !owed && self.network.is_quiet_for(peer)
    }
}

impl Model for Peers {
    type State = System;
    type Action = Action;

    fn init_states(&self) -> Vec<System> {
        vec![self.start()]
    }

    fn actions(&self, system: &System, actions: &mut Vec<Action>) {
        // What follows a violation is of no interest, and nothing follows when everybody is done.
        if system.violation.is_some() || system.is_done() {
            return;
        }
        self.progress(system, actions);
        let running = (0..self.count).filter(|&peer| system.process(peer).is_some());
        actions.extend(running.map(|peer| Action::WaitLong { peer }));
        self.faults(system, actions);
    }

    fn next_state(&self, last: &System, action: Action) -> Option<System> {
        let mut next = last.clone();
        match action {
            Action::Deliver(link, content) => {
                next.network.take(link, &content);
                self.deliver(&mut next, link, &content);
            }
            Action::DeliverAndKeep(link, content) => {
                next.left.duplicates -= 1;
                self.deliver(&mut next, link, &content);
            }
            Action::Lose(link, content) => {
                next.left.losses -= 1;
                next.network.take(link, &content);
            }
            Action::Compute { peer, unit } => self.compute(&mut next, peer, unit),
            Action::Apply { peer } => self.apply(&mut next, peer),
            Action::FetchState { peer } => self.fetch_state(&mut next, peer),
            Action::Connect { one, other } => self.connect(&mut next, one, other),
            Action::Hear { peer, of } => self.hear(&mut next, peer, of),
            Action::WaitShort { peer } => self.wait(&mut next, peer, &[SHORT], None),
            Action::WaitLong { peer } => {
                if !last.is_quiet_for(peer) || last.process(peer).is_some_and(Process::is_finished) {
                    next.left.early_timeouts = next.left.early_timeouts.checked_sub(1)?;
                }
                self.wait(&mut next, peer, &[LONG], None);
                if next.peers == last.peers {
                    return None;
                }
            }
            Action::Suspect { peer, of } => {
                next.left.suspicions -= 1;
                self.wait(&mut next, peer, &SILENCE, Some(of));
            }
            Action::Crash { peer, torn } => {
                next.left.crashes -= 1;
                if torn {
                    next.peers[usize::from(peer)].disk.pop();
                }
                self.end(&mut next, peer, false);
            }
            Action::Disconnect { one, other } => {
                next.left.disconnections -= 1;
                self.disconnect(&mut next, one, other);
            }
            Action::Restart { peer } => self.restart(&mut next, peer),
        }
        next.forget_what_is_ignored();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties()
    }
}

fn spec(units: u32, rounds: u64) -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "m".into(),
        dataset: DatasetSpec { name: "d".into(), digest: Digest([0; 32]), train_samples: 640, test_samples: 1 },
        seed: 1,
        units_per_round: units,
        samples_per_unit: 1,
        // Beyond the last round of the model, so that all of its rounds have gradients.
        rounds: rounds + 5,
        optimizer: "sgd".parse().expect("an optimizer"),
        learning_rate: LearningRate::constant(0.1),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 1000, samples_per_unit: 1 },
        early_stopping: None,
        until_correct: None,
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (units, rounds, order) = (self.symbols.all.len(), self.symbols.rounds(), self.order);
        let Faults { crashes, losses, duplicates, disconnections, suspicions, early_timeouts } = self.faults;
        let faults = [
            (crashes, "crash"),
            (losses, "loss"),
            (duplicates, "duplicate"),
            (disconnections, "disconnection"),
            (suspicions, "wrong suspicion"),
            (early_timeouts, "early time-out"),
        ];
        let faults: Vec<String> =
            faults.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
        let faults = if faults.is_empty() { "no fault".to_owned() } else { faults.join(", ") };
        write!(
            f,
            "{} peers, {units} units, {rounds} rounds, order {order:?}, start {:?}, {faults}",
            self.count, self.start
        )
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deliver(link, content) => write!(f, "{} gets {content} of {}", link.to, link.from),
            Self::DeliverAndKeep(link, content) => {
                write!(f, "{} gets {content} of {}, not for the last time", link.to, link.from)
            }
            Self::Lose(link, content) => write!(f, "{content} from {} to {} is lost", link.from, link.to),
            Self::Compute { peer, unit } => write!(f, "{peer} has computed unit {unit}"),
            Self::Apply { peer } => write!(f, "{peer} has applied its cover"),
            Self::FetchState { peer } => write!(f, "{peer} ends fetching a state"),
            Self::Connect { one, other } => write!(f, "{one} and {other} connect"),
            Self::Hear { peer, of } => write!(f, "{peer} hears a heartbeat of {of}"),
            Self::WaitShort { peer } => write!(f, "{peer} has waited for messages in flight"),
            Self::WaitLong { peer } => write!(f, "{peer} has waited for the overdue"),
            Self::Suspect { peer, of } => write!(f, "{peer} suspects {of}"),
            Self::Crash { peer, torn: false } => write!(f, "{peer} crashes"),
            Self::Crash { peer, torn: true } => write!(f, "{peer} crashes before its last state is on the disk"),
            Self::Disconnect { one, other } => write!(f, "{one} and {other} are cut off from each other"),
            Self::Restart { peer } => write!(f, "{peer} starts again"),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(payload) => write!(f, "the payload {}", payload.digest.short()),
            Self::Gone => f.write_str("the end"),
            Self::Message(bytes) => match Message::decode(bytes) {
                Ok(Message::Contribution(signed)) => {
                    let units: Vec<u32> = signed.contribution.units.iter().collect();
                    write!(f, "the contribution {units:?} to round {}", signed.contribution.from.round)
                }
                Ok(Message::UnitsWanted { units, .. }) => {
                    write!(f, "the wish for {:?}", units.iter().collect::<Vec<_>>())
                }
                Ok(Message::Leaving) => f.write_str("the farewell"),
                _ => f.write_str("a message"),
            },
        }
    }
}
