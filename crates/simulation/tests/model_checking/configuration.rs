//! What is explored: how many peers, what they know, and what may go wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use peerless_protocol::{
    Config, Crowd, DatasetSpec, Digest, EvaluationSpec, Heartbeat, LearningRate, Membership, Mutant, Node, PayloadRef,
    PeerId, RunSpec, SPEC_VERSION, StateMeta, StateRef, Time, UnitTime,
};

use crate::network::{Network, Order};
use crate::process::{Process, Reactions, Stimulus, Violation};
use crate::recovery::Recovery;
use crate::symbols::{PAYLOAD, Symbols};
use crate::system::{Peer, System};

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
    /// Whether states that differ only in what can no longer make a difference are taken for one.
    pub merging: bool,
    pub symbols: Symbols,
    pub recovery: Recovery,
    pub reactions: Reactions,
    pub first_violation: OnceLock<(u64, Violation)>,
    started: Mutex<BTreeMap<(u8, StateRef), Arc<Process>>>,
    spec: RunSpec,
    keys: Vec<SigningKey>,
    ids: Vec<PeerId>,
    index: BTreeMap<PeerId, u8>,
}

impl Peers {
    pub fn new(count: u8, units: u32, rounds: u64, order: Order, faults: Faults) -> Self {
        Self::with_keys(1, count, units, rounds, order, faults)
    }

    /// Two peers whose views differ: [`Start::Strangers`]. With these keys one shares the units 0 and 1 with the third,
    /// and the other 1 and 2.
    pub fn strangers(faults: Faults) -> Self {
        Self { start: Start::Strangers, ..Self::with_keys(5, 3, 3, 1, Order::Kept, faults) }
    }

    fn with_keys(first: u8, count: u8, units: u32, rounds: u64, order: Order, faults: Faults) -> Self {
        let keys: Vec<SigningKey> = (first..first + count).map(|key| SigningKey::from_bytes(&[key; 32])).collect();
        let ids: Vec<PeerId> = keys.iter().map(|key| PeerId(key.verifying_key().to_bytes())).collect();
        let index = ids.iter().zip(0..).map(|(id, index)| (*id, index)).collect();
        Self {
            count,
            faults,
            order,
            start: Start::Together,
            mutant: None,
            merging: true,
            symbols: Symbols::new(rounds, units),
            recovery: Recovery::default(),
            reactions: Reactions::default(),
            first_violation: OnceLock::new(),
            started: Mutex::default(),
            spec: spec(units, rounds),
            keys,
            ids,
            index,
        }
    }

    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    /// The same without merging, and without what was found with it.
    pub fn without_merging(self) -> Self {
        let (recovery, reactions, started) = Default::default();
        Self { merging: false, recovery, reactions, started, ..self }
    }

    /// All peers connected, with the initial state, at work on round 0; or [`Start::Strangers`].
    pub fn start(&self) -> System {
        let initial = self.symbols.meta(self.symbols.serial[0]);
        let peer = |index| Peer { process: Some(self.started(index, initial)), disk: vec![initial], left: false };
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
            (0..last).for_each(|peer| self.happens(&mut system, peer, &Stimulus::WaitsLong));
            self.end(&mut system, last, true);
        }
        system
    }

    /// A process that begins with `state`.
    pub fn started(&self, peer: u8, state: StateMeta) -> Arc<Process> {
        let mut started = self.started.lock().expect("no panic under the lock");
        let process = started.entry((peer, state.state)).or_insert_with(|| Arc::new(self.process(peer, state)));
        Arc::clone(process)
    }

    fn process(&self, peer: u8, state: StateMeta) -> Process {
        let config = Config {
            spec: self.spec.clone(),
            key: self.keys[usize::from(peer)].clone(),
            functions: 1,
            payload: PAYLOAD,
            max_state_bytes: 10_000,
            expected_peers: usize::from(self.count) - 1,
            gather_at_most: Duration::from_secs(2),
            membership: Membership::Open,
            crowd: Crowd::default(),
        };
        let node = Node::new(config, state, Vec::new(), Time(0));
        let node = match self.mutant {
            Some(mutant) => node.with_mutant(mutant),
            None => node,
        };
        Process::new(self, node)
    }

    pub fn pairs(&self) -> impl Iterator<Item = (u8, u8)> + use<> {
        let count = self.count;
        (0..count).flat_map(move |one| (one + 1..count).map(move |other| (one, other)))
    }

    pub fn id(&self, peer: u8) -> PeerId {
        self.ids[usize::from(peer)]
    }

    pub fn index(&self, peer: &PeerId) -> u8 {
        self.index[peer]
    }

    /// What a peer that has `state` says of itself from time to time.
    pub fn heartbeat(&self, state: StateRef) -> Heartbeat {
        let StateMeta { state, bytes, finished } = self.symbols.meta(state);
        Heartbeat { state, state_bytes: bytes, functions: 1, unit_time: UnitTime::default(), finished }
    }

    /// Whether a payload is of a round before `round`, so that a peer which is there has no use for it. Mutants may
    /// have one.
    pub fn is_over(&self, payload: &PayloadRef, round: u64) -> bool {
        self.merging && self.mutant.is_none() && self.symbols.round_of(payload).is_some_and(|of| of < round)
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
