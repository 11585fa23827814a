//! The virtual machine room: peers, clocks, network, functions and disks, driven by one queue of events.

mod connections;
mod lifecycle;
mod perform;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use peerless_protocol::{Crowd, Digest, Input, Message, Node, PeerId, StateRef, StopReason, Time, Verify};
use peerless_store::Payload;

use crate::adversary::Recorder;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::faults::Fault;
use crate::functions::{Functions, Pool};
use crate::invariants::{Allowance, Invariant, Liveness, MAX_TICKS_AT_ONCE, Progress, STALL, Violation};
use crate::metrics::{Meter, Metrics, Recovery};
use crate::model::Reference;
use crate::network::{Links, Network};
use crate::queue::Queue;
use crate::random::Random;
use crate::signatures::remembering;
use crate::timeline::Line;

/// Coarseness of a peer's timer, as that of real ones: after an input the deadline is looked at only so
/// much later. Saves most of the work of thousands of messages at once.
const TIMER: Duration = Duration::from_millis(1);

/// Changes a peer before it starts; how tests put mistakes in.
pub type Prepare = Arc<dyn Fn(Node) -> Node + Send + Sync>;

/// What a run in the simulator starts with.
#[derive(Clone)]
pub struct Setup {
    /// Peers that all start at time zero and expect each other.
    pub peers: usize,
    /// Peers that may come later, numbered on from there.
    pub joiners: usize,
    /// How the network behaves.
    pub network: Network,
    /// How functions behave.
    pub functions: Functions,
    /// What each peer's clock shows at time zero, in microseconds.
    pub clock_offset: Range<u64>,
    /// How far clocks may be fast or slow, in microseconds per second.
    pub clock_drift_ppm: u32,
    /// How long the write of a state takes, in microseconds.
    pub disk_write: Range<u64>,
    /// How long a peer waits for those that it expects.
    pub gather_at_most: Duration,
    /// Longest time without a new state anywhere while nothing new goes wrong.
    pub stall: Duration,
    /// From how many peers on messages are saved.
    pub crowd: Crowd,
    /// Virtual time from the last fault after which everybody must be at the end.
    pub patience: Duration,
    /// Time after which a peer that gave up is started again, as a service manager does; `None` for never.
    pub restart_after_stop: Option<Duration>,
    /// Whether what happens is written down.
    pub record: bool,
    /// Changes each peer before it starts.
    pub prepare: Option<Prepare>,
    /// A mistake for tests: the disk reports writes as durable when they begin.
    pub disk_reports_too_early: bool,
}

impl Setup {
    /// `peers` peers and nothing that goes wrong.
    pub fn new(peers: usize) -> Self {
        Self {
            peers,
            joiners: 0,
            network: Network::default(),
            functions: Functions::default(),
            clock_offset: 0..1,
            clock_drift_ppm: 0,
            disk_write: 500..3_000,
            gather_at_most: Duration::from_secs(2),
            stall: STALL,
            crowd: Crowd::default(),
            patience: Duration::from_secs(120),
            restart_after_stop: None,
            record: true,
            prepare: None,
            disk_reports_too_early: false,
        }
    }
}

/// How a run in the simulator ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The final state of each peer that reached one, by index.
    pub finished: BTreeMap<usize, Digest>,
    /// Peers that stopped with an error.
    pub stopped: BTreeMap<usize, StopReason>,
    /// Virtual time at the end.
    pub ended: Time,
    /// The first invariant that did not hold; the run ends there.
    pub violation: Option<Violation>,
    /// What it cost.
    pub metrics: Metrics,
    /// Everything that happened, if it was to be recorded.
    pub log: Vec<Line>,
}

/// A payload in a peer's store.
struct Stored {
    payload: Arc<Payload>,
    /// Rounds that the peer had begun when it came.
    since: u64,
    /// The round that it was summed up in here, if so.
    summed: Option<StateRef>,
}

struct Peer {
    key: SigningKey,
    id: PeerId,
    node: Option<Node>,
    /// Distinguishes a process from the one before the crash, whose functions' results are void. Zero
    /// before the first start.
    incarnation: u32,
    frozen: bool,
    /// When the process was last struck or came back, for the timeline.
    struck_at: Time,
    /// What arrived while it stood still.
    held_back: Vec<Event>,
    clock: Clock,
    pool: Pool,
    disk: Disk,
    payloads: BTreeMap<Digest, Stored>,
    failing: BTreeSet<u32>,
    left: bool,
    finished: Option<Digest>,
    stopped: Option<StopReason>,
    /// When the deadline is looked at next.
    wakes: Option<Time>,
    /// Whom it shared its last round with; kept only for the timeline.
    view: BTreeSet<usize>,
    rounds_begun: u64,
    round_began: Time,
    allowance: Allowance,
    progress: Progress,
    meter: Meter,
}

/// Something that is on its way to a peer.
enum Event {
    Fault(Fault),
    Input { to: usize, incarnation: u32, input: Input },
    Message { to: usize, incarnation: u32, from: usize, message: Arc<Message> },
    Payload { to: usize, incarnation: u32, payload: Arc<Payload> },
    Dial { from: usize, incarnation: u32, to: usize, tries: u32 },
    Reset { to: usize, incarnation: u32, gone: usize, gone_incarnation: u32 },
    StateArrives { to: usize, incarnation: u32, state: StateRef, donors: Vec<usize> },
}

/// A run in the simulator.
pub struct World {
    setup: Setup,
    reference: Arc<Reference>,
    random: Random,
    now: Time,
    queue: Queue<Event>,
    deadlines: BTreeSet<(Time, usize)>,
    peers: Vec<Peer>,
    index: BTreeMap<PeerId, usize>,
    links: Links,
    /// For each ordered pair of peers, the incarnation of the second that the first is connected to.
    connected: Vec<u32>,
    dialling: BTreeSet<(usize, usize)>,
    /// The last message that was encoded: a broadcast is many sends of one message.
    encoded: Option<(Message, Arc<Message>, u64)>,
    recorder: Option<Recorder>,
    verify: Verify,
    faults_pending: usize,
    last_fault: Time,
    running: usize,
    liveness: Liveness,
    recovery: Recovery,
    metrics: Metrics,
    violation: Option<Violation>,
    log: Vec<Line>,
}

impl World {
    /// A world in which the peers of `setup` do the run of `reference`. Everything follows from `seed`.
    pub fn new(setup: Setup, reference: Arc<Reference>, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let all = setup.peers + setup.joiners;
        let peers: Vec<Peer> = (0..all).filter_map(|index| Peer::new(index, &setup, &reference, &mut random)).collect();
        let index = peers.iter().enumerate().map(|(index, peer)| (peer.id, index)).collect();
        let mut world = Self {
            links: Links::new(setup.network.clone(), seed),
            reference,
            random,
            now: Time(0),
            queue: Queue::new(),
            deadlines: BTreeSet::new(),
            connected: vec![0; all * all],
            dialling: BTreeSet::new(),
            peers,
            index,
            encoded: None,
            recorder: None,
            verify: remembering(),
            faults_pending: 0,
            last_fault: Time(0),
            running: 0,
            liveness: Liveness::default(),
            recovery: Recovery::default(),
            metrics: Metrics::default(),
            violation: None,
            log: Vec::new(),
            setup,
        };
        (0..world.setup.peers).for_each(|peer| world.start(peer));
        world
    }

    /// Lets a fault happen at `at`.
    pub fn schedule(&mut self, at: Time, fault: Fault) {
        self.faults_pending += 1;
        self.last_fault = self.last_fault.max(at);
        if matches!(fault, Fault::Attack(_)) && self.recorder.is_none() {
            self.recorder = Some(Recorder::default());
        }
        self.queue.push(at, Event::Fault(fault));
    }

    /// Runs until no peer is up and no fault is to come, or until an invariant does not hold.
    pub fn run(mut self) -> Outcome {
        while self.violation.is_none() && (self.running > 0 || self.faults_pending > 0) {
            let event = self.queue.next_at();
            let deadline = self.deadlines.first().copied();
            match (event, deadline) {
                (Some(at), Some((wakes, _))) if at <= wakes => self.next_event(),
                (_, Some((wakes, peer))) => self.wake(wakes, peer),
                (Some(_), None) => self.next_event(),
                (None, None) => break,
            }
        }
        self.into_outcome()
    }

    fn advance(&mut self, at: Time) {
        self.now = self.now.max(at);
        self.check(None, Invariant::Liveness, |world| {
            world.liveness.check(world.now, world.setup.stall, || world.is_busy())
        });
        if self.faults_pending == 0 && self.now.since(self.last_fault) > self.setup.patience {
            self.check(None, Invariant::Liveness, Self::all_at_the_end);
        }
    }

    /// Notes the first violation, which ends the run.
    fn check(
        &mut self,
        peer: Option<usize>,
        invariant: Invariant,
        check: impl FnOnce(&mut Self) -> Result<(), String>,
    ) {
        if let Err(what) = check(self)
            && self.violation.is_none()
        {
            self.note(peer, |_| format!("VIOLATION of {invariant}: {what}"));
            self.violation = Some(Violation { invariant, at: self.now, peer, what });
        }
    }

    /// The deadline of a peer may have come.
    fn wake(&mut self, wakes: Time, peer: usize) {
        self.advance(wakes);
        self.deadlines.remove(&(wakes, peer));
        self.peers[peer].wakes = None;
        for tick in 0.. {
            match self.deadline(peer) {
                Some(due) if due > self.now => return self.wake_at(peer, due),
                Some(_) if tick < MAX_TICKS_AT_ONCE && self.violation.is_none() => self.feed(peer, Input::Tick),
                Some(_) => {
                    let what = format!("asks to be woken at once, {tick} times in a row");
                    return self.check(Some(peer), Invariant::NoSpinning, |_| Err(what));
                }
                None => return,
            }
        }
    }

    /// When a running peer wants to be woken.
    fn deadline(&self, peer: usize) -> Option<Time> {
        let peer = &self.peers[peer];
        let due = peer.node.as_ref().filter(|_| !peer.frozen)?.deadline()?;
        Some(peer.clock.reaches(due))
    }

    fn wake_at(&mut self, peer: usize, at: Time) {
        if let Some(before) = self.peers[peer].wakes.replace(at) {
            self.deadlines.remove(&(before, peer));
        }
        self.deadlines.insert((at, peer));
    }

    /// Looks at a peer's deadline soon, as an input may have changed it.
    fn wake_soon(&mut self, peer: usize) {
        let soon = self.now + TIMER;
        if self.peers[peer].wakes.is_none_or(|wakes| wakes > soon) {
            self.wake_at(peer, soon);
        }
    }

    fn next_event(&mut self) {
        let Some((at, event)) = self.queue.pop() else { return };
        self.advance(at);
        if let Event::Fault(fault) = event {
            self.faults_pending -= 1;
            return self.inflict(fault);
        }
        let (to, incarnation) = event.receiver();
        let peer = &mut self.peers[to];
        if peer.incarnation != incarnation || peer.node.is_none() {
            return;
        }
        if peer.frozen {
            peer.held_back.push(event);
            return;
        }
        self.deliver(event);
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Fault(_) => {}
            Event::Input { to, input, .. } => self.feed(to, input),
            Event::Message { to, from, message, .. } => {
                let from = self.peers[from].id;
                self.feed(to, Input::Message { from, message: (*message).clone() });
            }
            Event::Payload { to, payload, .. } => self.payload_arrives(to, payload),
            Event::Dial { from, to, tries, .. } => self.dial(from, to, tries),
            Event::Reset { to, gone, gone_incarnation, .. } => self.reset(to, gone, gone_incarnation),
            Event::StateArrives { to, state, donors, .. } => self.state_arrives(to, state, donors),
        }
    }

    /// Lets a peer handle an input and does what it asks for.
    fn feed(&mut self, peer: usize, input: Input) {
        let effects = self.handle(peer, input);
        self.perform_all(peer, effects);
    }

    fn handle(&mut self, peer: usize, input: Input) -> Vec<peerless_protocol::Effect> {
        let now = self.peers[peer].clock.at(self.now);
        self.peers[peer].node.as_mut().map(|node| node.handle(now, input)).unwrap_or_default()
    }

    fn perform_all(&mut self, peer: usize, effects: Vec<peerless_protocol::Effect>) {
        let incarnation = self.peers[peer].incarnation;
        for effect in effects {
            if self.violation.is_none() && self.peers[peer].incarnation == incarnation {
                self.perform(peer, effect);
            }
        }
        if self.peers[peer].node.is_some() {
            self.wake_soon(peer);
        }
    }

    /// Delivers an input to the peer's present process after `delay` microseconds.
    fn later(&mut self, to: usize, delay: u64, input: Input) {
        let incarnation = self.peers[to].incarnation;
        self.queue.push(self.now + Duration::from_micros(delay), Event::Input { to, incarnation, input });
    }

    fn is_up(&self, peer: usize) -> bool {
        self.peers[peer].node.is_some() && !self.peers[peer].frozen
    }
}

impl Event {
    /// The process that gets it; the one that dials for a call.
    fn receiver(&self) -> (usize, u32) {
        match self {
            Self::Fault(_) => (0, 0),
            Self::Input { to, incarnation, .. }
            | Self::Message { to, incarnation, .. }
            | Self::Payload { to, incarnation, .. }
            | Self::Dial { from: to, incarnation, .. }
            | Self::Reset { to, incarnation, .. }
            | Self::StateArrives { to, incarnation, .. } => (*to, *incarnation),
        }
    }
}
