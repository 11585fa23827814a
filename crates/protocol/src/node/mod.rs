//! A peer's part in a run, as a state machine without I/O: [`Node::handle`] takes what happened and
//! returns what to do.
//!
//! Safety needs none of the machinery in here to be right about who lives: a state is only ever
//! formed from a cover (every unit exactly once) of contributions computed from the very same
//! state. Views, deadlines and suspicions only decide who computes what and when.

#[cfg(feature = "model-checking")]
mod abstraction;
mod catch_up;
mod exchange;
mod footprint;
mod io;
mod membership;
mod round;
mod shards;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use exchange::MAX_UNANNOUNCED;
pub use footprint::Footprint;
pub use io::{Config, Crowd, Effect, Event, Input, Membership, RefusalKind, StateMeta, StopReason};
pub use membership::{HEARTBEAT_EVERY, SUSPECT_AFTER};
pub(crate) use round::{Entry, Own, Round};
pub(crate) use work::truncated;

use crate::assignment::Capacity;
use crate::contribution::{ContributionError, PayloadRef, SignedContribution};
use crate::ids::{Digest, PeerId, RunId};
use crate::message::{Heartbeat, Message};
use crate::pace::Pace;
use crate::state::StateRef;
use crate::time::Time;
use crate::unit_time::{Announced, Stopwatch};
use crate::units::UnitSet;

/// How long a peer that has the final state stays for others that have not.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// What is known of a connected peer.
#[derive(Debug, Clone)]
struct Neighbour {
    heard: Time,
    /// When it was asked for an answer, until it is heard.
    probed: Option<Time>,
    /// Whether it was not more than a round behind when it last said how far it is.
    current: bool,
    /// Whether it was given the list of members.
    told_members: bool,
    last: Option<Heartbeat>,
    unit_time: Announced,
    suspected: bool,
    /// Its newest state could not be had: until then it does not count as being ahead.
    doubted_until: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for the peers that are expected at the start.
    Gathering,
    Working,
    /// The final state is reached; others may need it.
    Finished {
        until: Time,
    },
    Left,
}

/// A state under way, and who is asked for it.
#[derive(Debug, Clone)]
struct Fetching {
    state: StateRef,
    donors: Vec<PeerId>,
}

/// What tells whether a contribution is signed by its author, as [`SignedContribution::verify`] does.
pub type Verify = Arc<dyn Fn(&SignedContribution) -> Result<(), ContributionError> + Send + Sync>;

/// The state machine of one peer.
#[cfg_attr(feature = "model-checking", derive(Clone))]
pub struct Node {
    config: Config,
    run: RunId,
    me: PeerId,
    state: StateMeta,
    phase: Phase,
    gather_until: Time,
    round: Round,
    neighbours: BTreeMap<PeerId, Neighbour>,
    members: BTreeMap<PeerId, Vec<SocketAddr>>,
    /// Contributions to the round after this one.
    early: Vec<(PeerId, SignedContribution)>,
    /// Payloads in the store.
    held: BTreeSet<PayloadRef>,
    /// Those of them that no contribution had announced when the round began.
    unannounced: BTreeSet<PayloadRef>,
    /// Digests of recent rounds' states by peer.
    history: BTreeMap<u64, BTreeMap<PeerId, Digest>>,
    fetching: Option<Fetching>,
    behind_since: Option<Time>,
    pace: Pace,
    /// How long a unit takes here, as announced.
    unit_time: Announced,
    stopwatch: Stopwatch,
    next_heartbeat: Time,
    /// Whom to probe next: the first peer after this one.
    probe_after: PeerId,
    effects: Vec<Effect>,
    verify: Verify,
    #[cfg(feature = "mutants")]
    pub(crate) mutant: Option<crate::mutant::Mutant>,
}

impl Node {
    /// A peer that holds `state` and listens on `addresses`. Work begins with the first
    /// [`Input::Tick`], which is due at once.
    pub fn new(config: Config, state: StateMeta, addresses: Vec<SocketAddr>, now: Time) -> Self {
        let me = PeerId(config.key.verifying_key().to_bytes());
        let run = config.spec.id();
        let alone = BTreeMap::from([(me, Capacity::even(config.functions))]);
        let round = Round::new(&config.spec, &config.payload, &config.crowd, state.state, now, &alone);
        let phase = if state.finished { Phase::Finished { until: now + LINGER } } else { Phase::Gathering };
        let gather_until = now + config.gather_at_most;
        let mut node = Self {
            config,
            run,
            me,
            state,
            phase,
            gather_until,
            round,
            neighbours: BTreeMap::new(),
            members: BTreeMap::from([(me, addresses)]),
            early: Vec::new(),
            held: BTreeSet::new(),
            unannounced: BTreeSet::new(),
            history: BTreeMap::new(),
            fetching: None,
            behind_since: None,
            pace: Pace::default(),
            unit_time: Announced::default(),
            stopwatch: Stopwatch::default(),
            next_heartbeat: now,
            probe_after: me,
            effects: Vec::new(),
            verify: Arc::new(SignedContribution::verify),
            #[cfg(feature = "mutants")]
            mutant: None,
        };
        node.observe_state(now, me, state.state);
        node
    }

    /// The same peer, which has signatures checked by `verify`. For those who can tell without computing:
    /// the simulator, whose peers all check the same signatures, remembers the answers.
    #[must_use]
    pub fn with_verification(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// This peer's id.
    pub fn id(&self) -> PeerId {
        self.me
    }

    /// The newest state.
    pub fn state(&self) -> StateMeta {
        self.state
    }

    /// Peers connected at present, suspected ones included.
    pub fn neighbours(&self) -> impl Iterator<Item = &PeerId> {
        self.neighbours.keys()
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
        let mut next = self.suspicion_at().map_or(self.next_heartbeat, |at| at.min(self.next_heartbeat));
        match self.phase {
            Phase::Left => return None,
            Phase::Gathering if self.fetching.is_none() => next = next.min(self.gather_until),
            Phase::Finished { until } => next = next.min(until),
            Phase::Working if !self.round.applying => next = next.min(self.next_work().unwrap_or(next)),
            Phase::Gathering | Phase::Working => {}
        }
        Some(next)
    }

    fn next_work(&self) -> Option<Time> {
        let view = self.view();
        let uncovered = if self.round.sharding.active { UnitSet::new() } else { self.uncovered() };
        let backups = uncovered.iter().filter_map(|unit| self.round.backup_at(unit, &self.me, &view, &self.pace));
        let fetches = self.round.awaited().filter_map(|entry| entry.fetch_at);
        let patience = self.behind_since.filter(|_| self.fetching.is_none()).map(|since| since + self.pace.in_flight());
        // A doubt that ends meanwhile is seen at the next heartbeat.
        let backups = backups.filter(|_| self.ahead(Time(u64::MAX)).is_empty());
        backups.chain(fetches).chain(patience).chain(self.chase_at()).min()
    }

    fn dispatch(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected(member) => self.connected(now, member),
            Input::Disconnected(peer) => self.lost(now, peer),
            Input::Message { from, message } => self.message_received(now, from, message),
            Input::PayloadHeld(payload) => self.payload_held(now, payload),
            Input::UnitComputed { from, unit, tally } => self.unit_computed(now, from, unit, tally),
            Input::UnitFailed { from, unit, cause } => self.unit_failed_here(now, from, unit, &cause),
            Input::Summed { from, units, payload } => self.summed(now, from, units, payload),
            Input::Split { from, units, shards } => self.split(now, from, &units, &shards),
            Input::Combined { from, shard, payload } => self.combined(now, from, shard, payload),
            Input::Applied { from, meta } => self.applied(now, from, meta),
            Input::StateFetched(meta) => self.state_fetched(now, meta),
            Input::StateUnavailable(state) => self.state_unavailable(now, state),
            Input::Tick => self.tick(now),
            Input::Leave => self.leave(),
        }
    }

    fn message_received(&mut self, now: Time, from: PeerId, message: Message) {
        if !self.neighbours.contains_key(&from) {
            return;
        }
        self.heard(now, from);
        match message {
            Message::Heartbeat(heartbeat) => self.heartbeat_received(now, from, heartbeat),
            Message::Probe(heartbeat) => {
                self.send(from, Message::Heartbeat(self.heartbeat()));
                self.heartbeat_received(now, from, heartbeat);
            }
            Message::Silent(peer) => self.rumour_of_silence(now, peer),
            Message::Contribution(signed) => self.contribution_received(now, from, *signed),
            Message::UnitsWanted { from: state, units, shard } => self.units_wanted(now, from, state, units, shard),
            Message::UnitFailed { from: state, unit, cause } => self.unit_failed(now, from, state, unit, cause),
            Message::Members(members) => self.members_received(members),
            Message::MembersWanted => self.members_wanted(from),
            Message::Leaving => self.lost(now, from),
            Message::SpecWanted => self.send(from, Message::Spec(self.config.spec.encode())),
            // Only workers of a server are given work.
            Message::Spec(_) | Message::Work { .. } => {}
        }
    }

    fn tick(&mut self, now: Time) {
        if now >= self.next_heartbeat {
            self.say_alive(now);
        }
        self.suspect_the_silent(now);
        self.check_gathered(now);
        self.check_behind(now);
        if self.phase == Phase::Working && !self.round.applying {
            self.fetch_late_payloads(now);
            self.back_up_the_overdue(now);
            self.chase(now);
        }
        self.check_exit(now);
    }

    fn is_fixed(&self) -> bool {
        self.config.membership == Membership::Fixed
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn send(&mut self, to: PeerId, message: Message) {
        self.emit(Effect::Send { to, message });
    }

    fn broadcast(&mut self, message: &Message) {
        let all: Vec<PeerId> = self.neighbours.keys().copied().collect();
        all.into_iter().for_each(|peer| self.send(peer, message.clone()));
    }

    fn refuse(&mut self, from: PeerId, kind: RefusalKind, reason: String) {
        self.emit(Effect::Record(Event::Refused { from, kind, reason }));
    }
}
