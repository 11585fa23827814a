//! A parameter server and its workers in virtual time: what each does when others die, are slow or come back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use peerless_protocol::parameter_server::{Server, Worker};
use peerless_protocol::{
    Config, Crowd, DatasetSpec, Digest, Effect, EvaluationSpec, Event, Input, LearningRate, Member, Membership,
    Message, Participant, PayloadRef, PayloadShape, PeerId, RoundPlan, RunSpec, SPEC_VERSION, StateMeta, StateRef,
    StopReason, Tally, Time, UnitSet, expected_samples,
};

const PAYLOAD_BYTES: u64 = 800;
const LATENCY: Duration = Duration::from_millis(1);
const COMPUTING: Duration = Duration::from_millis(30);
const SERVER: usize = 0;

fn spec(rounds: u64) -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "m".into(),
        dataset: DatasetSpec { name: "d".into(), digest: Digest([0; 32]), train_samples: 640, test_samples: 50 },
        seed: 1,
        units_per_round: 4,
        samples_per_unit: 8,
        rounds,
        optimizer: "sgd".parse().unwrap(),
        learning_rate: LearningRate::constant(0.1),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 3, samples_per_unit: 25 },
        early_stopping: None,
        until_correct: None,
    }
}

fn key(number: usize) -> SigningKey {
    SigningKey::from_bytes(&[number as u8 + 1; 32])
}

fn id(number: usize) -> PeerId {
    PeerId(key(number).verifying_key().to_bytes())
}

/// The state that follows from the one before, and from nothing else.
fn state(round: u64) -> StateRef {
    StateRef { round, digest: Digest::of(&round.to_le_bytes()) }
}

fn sum(from: StateRef, units: &UnitSet) -> PayloadRef {
    let text = format!("{from:?} {units:?}");
    PayloadRef { digest: Digest::of(text.as_bytes()), bytes: PAYLOAD_BYTES }
}

/// Server (number 0) and workers (from 1), a network between them and what they compute with.
struct Cluster {
    spec: RunSpec,
    now: Time,
    queue: BTreeMap<(Time, u64), (usize, u64, Input)>,
    order: u64,
    nodes: Vec<Option<Participant>>,
    /// Lives of each; what was sent to an earlier one is lost.
    lives: Vec<u64>,
    computing: Vec<Duration>,
    failing: BTreeSet<usize>,
    /// Units computed, by round.
    computed: BTreeMap<u64, u32>,
    applied: Vec<u64>,
    events: Vec<Event>,
    finished: BTreeSet<usize>,
    stopped: Option<StopReason>,
}

impl Cluster {
    fn new(workers: usize, rounds: u64) -> Self {
        let mut cluster = Self {
            spec: spec(rounds),
            now: Time(0),
            queue: BTreeMap::new(),
            order: 0,
            nodes: (0..=workers).map(|_| None).collect(),
            lives: vec![0; workers + 1],
            computing: vec![COMPUTING; workers + 1],
            failing: BTreeSet::new(),
            computed: BTreeMap::new(),
            applied: Vec::new(),
            events: Vec::new(),
            finished: BTreeSet::new(),
            stopped: None,
        };
        (0..=workers).for_each(|number| cluster.start(number, 0));
        cluster
    }

    /// Starts a process at this state, and connects it.
    fn start(&mut self, number: usize, round: u64) {
        let config = Config {
            spec: self.spec.clone(),
            key: key(number),
            functions: 1,
            payload: PayloadShape::new(98, 16),
            max_state_bytes: 10_000,
            expected_peers: self.nodes.len() - 1,
            gather_at_most: Duration::from_millis(500),
            membership: Membership::Open,
            crowd: Crowd::default(),
        };
        let meta = self.meta(round);
        let node = if number == SERVER {
            Participant::Server(Box::new(Server::new(config, meta, self.now)))
        } else {
            Participant::Worker(Box::new(Worker::new(config, id(SERVER), meta, self.now)))
        };
        self.nodes[number] = Some(node);
        self.lives[number] += 1;
        let others: Vec<usize> = (0..self.nodes.len()).filter(|&other| self.links(number, other)).collect();
        for other in others {
            for (end, far) in [(number, other), (other, number)] {
                let member = Member { peer: id(far), addresses: Vec::new() };
                self.post(end, LATENCY, Input::Connected(member));
            }
        }
        self.post(number, Duration::ZERO, Input::Tick);
    }

    fn links(&self, a: usize, b: usize) -> bool {
        a != b && (a == SERVER || b == SERVER) && self.nodes[a].is_some() && self.nodes[b].is_some()
    }

    fn kill(&mut self, number: usize) {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|&other| self.links(number, other)).collect();
        self.nodes[number] = None;
        self.lives[number] += 1;
        others.into_iter().for_each(|other| self.post(other, LATENCY, Input::Disconnected(id(number))));
    }

    fn meta(&self, round: u64) -> StateMeta {
        StateMeta { state: state(round), bytes: 1000, finished: round > self.spec.rounds }
    }

    fn post(&mut self, number: usize, after: Duration, input: Input) {
        self.order += 1;
        let at = self.now + after;
        self.queue.insert((at, self.order), (number, self.lives[number], input));
    }

    /// Runs until the condition holds.
    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let give_up = self.now + Duration::from_secs(120);
        while !condition(self) {
            assert!(self.now < give_up, "waited in vain until {what}; applied {:?}", self.applied);
            self.step();
        }
    }

    fn step(&mut self) {
        let deadlines = self.nodes.iter().enumerate();
        let tick = deadlines.filter_map(|(number, node)| Some((node.as_ref()?.deadline()?, number))).min();
        let next = self.queue.first_key_value().map(|(key, _)| key.0);
        let (number, input) = match (next, tick) {
            (Some(at), tick) if tick.is_none_or(|(due, _)| at <= due) => {
                let ((at, _), (number, life, input)) = self.queue.pop_first().unwrap();
                self.now = self.now.max(at);
                if life != self.lives[number] {
                    return;
                }
                (number, input)
            }
            (_, Some((due, number))) => {
                self.now = self.now.max(due);
                (number, Input::Tick)
            }
            _ => panic!("nothing is left to happen; applied {:?}", self.applied),
        };
        let Some(node) = &mut self.nodes[number] else { return };
        for effect in node.handle(self.now, input) {
            self.perform(number, effect);
        }
    }

    fn perform(&mut self, number: usize, effect: Effect) {
        let me = id(number);
        match effect {
            Effect::Send { to, message } => {
                let message = Message::decode(&message.encode()).unwrap();
                self.deliver(to, Input::Message { from: me, message });
            }
            Effect::PushPayload { to, payload } => self.deliver(to, Input::PayloadHeld(payload)),
            Effect::FetchPayload { payload, .. } => self.post(number, 2 * LATENCY, Input::PayloadHeld(payload)),
            Effect::PushState { to, state } => {
                let meta = self.meta(state.round);
                to.into_iter().for_each(|to| self.deliver(to, Input::StateFetched(meta)));
            }
            Effect::FetchState { state, .. } => {
                let meta = self.meta(state.round);
                self.post(number, 2 * LATENCY, Input::StateFetched(meta));
            }
            Effect::Compute { from, unit, .. } => {
                assert_ne!(number, SERVER, "the server computes nothing");
                let input = if self.failing.contains(&number) {
                    Input::UnitFailed { from, unit, cause: "broken".into() }
                } else {
                    *self.computed.entry(from.round).or_default() += 1;
                    Input::UnitComputed { from, unit, tally: self.tally(from.round, unit) }
                };
                let computing = self.computing[number];
                self.post(number, computing, input);
            }
            Effect::Sum { from, units } => {
                let payload = sum(from, &units);
                self.post(number, Duration::ZERO, Input::Summed { from, units, payload });
            }
            Effect::Apply { from, cover } => {
                let mut left = RoundPlan::new(&self.spec, from.round).all();
                for part in &cover {
                    assert!(part.contribution.units.is_subset(&left), "a unit counts twice");
                    left = left.difference(&part.contribution.units);
                }
                assert!(left.is_empty(), "units are missing: {left:?}");
                self.applied.push(from.round);
                let meta = self.meta(from.round + 1);
                self.post(number, LATENCY, Input::Applied { from, meta });
            }
            Effect::Record(event) => self.events.push(event),
            Effect::Finished(meta) => {
                assert_eq!(meta.state, state(self.spec.rounds + 1));
                self.finished.insert(number);
            }
            Effect::Exit => {
                if let Some(node) = &self.nodes[number] {
                    assert_eq!(node.deadline(), None);
                }
                self.kill(number);
            }
            Effect::Stop(reason) => {
                self.stopped = Some(reason);
                self.kill(number);
            }
            Effect::BeginRound { .. } | Effect::Accumulate { .. } | Effect::DropPayloads(_) => {}
            Effect::Connect(_) | Effect::Split { .. } | Effect::Combine { .. } => panic!("not of this topology"),
        }
    }

    fn deliver(&mut self, to: PeerId, input: Input) {
        if let Some(to) = (0..self.nodes.len()).find(|&number| id(number) == to && self.nodes[number].is_some()) {
            self.post(to, LATENCY, input);
        }
    }

    fn tally(&self, round: u64, unit: u32) -> Tally {
        let plan = RoundPlan::new(&self.spec, round);
        let (training, evaluation) = expected_samples(&self.spec, &plan, &[unit].into_iter().collect());
        Tally { samples: training + evaluation, correct: 1, loss_sum: 7 }
    }

    fn finish(&mut self) {
        self.until("all have ended", |cluster| cluster.nodes.iter().all(Option::is_none));
    }

    fn backups(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Backup { .. })).count()
    }
}

fn rounds(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn undisturbed_every_unit_is_computed_once_and_all_end_with_the_final_state() {
    let mut cluster = Cluster::new(3, 7);
    cluster.finish();
    assert_eq!(cluster.applied, rounds(0..=7));
    assert_eq!(cluster.finished, (0..=3).collect());
    for (round, computed) in &cluster.computed {
        assert_eq!(*computed, RoundPlan::new(&cluster.spec, *round).total(), "round {round}");
    }
    assert_eq!(cluster.backups(), 0);
}

#[test]
fn units_of_a_worker_that_dies_go_to_the_others_at_once() {
    let mut cluster = Cluster::new(3, 7);
    cluster.until("round 2 is under way", |cluster| cluster.computed.get(&2) >= Some(&4));
    let before = cluster.now;
    cluster.kill(2);
    cluster.until("the round is applied", |cluster| cluster.applied.contains(&2));
    assert!(cluster.now.since(before) < 3 * COMPUTING, "no deadline is waited for");
    cluster.finish();
    assert_eq!(cluster.applied, rounds(0..=7));
    assert_eq!(cluster.finished, [0, 1, 3].into());
}

#[test]
fn a_worker_that_comes_late_or_back_takes_part() {
    let mut cluster = Cluster::new(2, 9);
    cluster.kill(2);
    cluster.until("round 3 is applied", |cluster| cluster.applied.contains(&3));
    cluster.start(2, 1);
    cluster.finish();
    assert_eq!(cluster.applied, rounds(0..=9));
    assert_eq!(cluster.finished, [0, 1, 2].into());
}

#[test]
fn without_any_worker_the_server_waits_for_one() {
    let mut cluster = Cluster::new(1, 5);
    cluster.until("round 2 is under way", |cluster| cluster.computed.contains_key(&2));
    cluster.kill(1);
    let back = cluster.now + Duration::from_secs(20);
    cluster.until("time has passed", |cluster| cluster.now >= back);
    cluster.start(1, 0);
    cluster.finish();
    assert_eq!(cluster.applied, rounds(0..=5));
}

#[test]
fn a_slow_worker_is_backed_up_by_others() {
    let mut cluster = Cluster::new(3, 9);
    cluster.until("deadlines are learned", |cluster| cluster.applied.contains(&2));
    cluster.computing[3] = Duration::from_secs(100);
    let before = cluster.now;
    cluster.finish();
    assert_eq!(cluster.applied, rounds(0..=9));
    assert!(cluster.backups() > 0);
    assert!(cluster.now.since(before) < Duration::from_secs(20), "{:?}", cluster.now.since(before));
}

#[test]
fn a_server_that_comes_back_with_an_older_state_has_the_rounds_since_done_again() {
    let mut cluster = Cluster::new(3, 9);
    for (killed_at, checkpoint) in [(5, 3), (8, 6)] {
        cluster.until("rounds are done", |cluster| cluster.applied.contains(&killed_at));
        cluster.kill(SERVER);
        let boot = cluster.now + Duration::from_secs(3);
        cluster.until("the boot is over", |cluster| cluster.now >= boot);
        cluster.start(SERVER, checkpoint);
    }
    cluster.finish();
    assert_eq!(cluster.applied, [rounds(0..=5), rounds(3..=8), rounds(6..=9)].concat());
    assert_eq!(cluster.finished, (0..=3).collect());
}

#[test]
fn what_workers_have_computed_of_the_round_is_not_lost_with_a_server_that_comes_back_in_the_same_round() {
    let mut cluster = Cluster::new(2, 9);
    cluster.until("round 4 is under way", |cluster| cluster.computed.get(&4) == Some(&4));
    cluster.kill(SERVER);
    let boot = cluster.now + Duration::from_secs(3);
    cluster.until("the boot is over", |cluster| cluster.now >= boot);
    cluster.start(SERVER, 4);
    cluster.finish();
    assert_eq!(cluster.applied, rounds(0..=9));
    assert_eq!(cluster.computed[&4], 4, "their sums are sent again");
}

#[test]
fn a_unit_that_fails_on_one_worker_is_computed_by_another() {
    let mut cluster = Cluster::new(2, 5);
    cluster.failing.insert(1);
    cluster.finish();
    assert_eq!(cluster.applied, rounds(0..=5));
    assert_eq!(cluster.stopped, None);
}

#[test]
fn a_unit_that_fails_on_every_worker_ends_the_run_for_all() {
    let mut cluster = Cluster::new(2, 5);
    cluster.failing.extend([1, 2]);
    cluster.finish();
    assert!(matches!(&cluster.stopped, Some(StopReason::UnitFailedEverywhere { cause, .. }) if cause == "broken"));
    assert!(cluster.finished.is_empty());
}

#[test]
fn a_state_that_is_not_pushed_is_asked_for() {
    let mut cluster = Cluster::new(1, 2);
    cluster.kill(SERVER);
    let worker = |cluster: &mut Cluster, input| {
        let now = cluster.now;
        cluster.nodes[1].as_mut().unwrap().handle(now, input)
    };
    let member = Member { peer: id(SERVER), addresses: Vec::new() };
    worker(&mut cluster, Input::Connected(member));
    let units: UnitSet = [0, 1].into_iter().collect();
    let work = Message::Work { from: state(1), state_bytes: 1000, units };
    let effects = worker(&mut cluster, Input::Message { from: id(SERVER), message: work });
    assert_eq!(effects, [], "it is under way");
    cluster.now = cluster.nodes[1].as_ref().unwrap().deadline().unwrap();
    let mut effects = worker(&mut cluster, Input::Tick);
    if effects.is_empty() {
        cluster.now = cluster.nodes[1].as_ref().unwrap().deadline().unwrap();
        effects = worker(&mut cluster, Input::Tick);
    }
    assert_eq!(effects, [Effect::FetchState { state: state(1), bytes: 1000, donors: vec![id(SERVER)] }]);
    let meta = cluster.meta(1);
    let effects = worker(&mut cluster, Input::StateFetched(meta));
    let computing = effects.iter().filter(|effect| matches!(effect, Effect::Compute { .. })).count();
    assert_eq!((effects.first(), computing), (Some(&Effect::BeginRound { from: state(1) }), 2));
}

#[test]
fn only_the_server_gives_work_and_only_of_rounds_that_there_are() {
    let mut cluster = Cluster::new(1, 2);
    let now = cluster.now;
    let worker = cluster.nodes[1].as_mut().unwrap();
    let units = |units: &[u32]| units.iter().copied().collect::<UnitSet>();
    let work = |units| Message::Work { from: state(0), state_bytes: 1000, units };
    let from_another = Input::Message { from: id(7), message: work(units(&[0])) };
    assert_eq!(worker.handle(now, from_another), []);
    for refused in [work(units(&[999])), work(units(&[]))] {
        let effects = worker.handle(now, Input::Message { from: id(SERVER), message: refused });
        assert!(matches!(effects[..], [Effect::Record(Event::Refused { .. })]), "{effects:?}");
    }
    let huge = Message::Work { from: state(1), state_bytes: 10_001, units: units(&[0]) };
    let effects = worker.handle(now, Input::Message { from: id(SERVER), message: huge });
    assert!(matches!(effects[..], [Effect::Record(Event::Refused { .. })]), "{effects:?}");
}
