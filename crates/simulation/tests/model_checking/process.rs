//! One running peer: the real state machine, what it waits for, and its store.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerless_protocol::{
    Effect, Event, Input, Member, Message, Node, PayloadRef, PeerId, StateMeta, StateRef, Tally, Time,
};

use crate::configuration::Peers;
use crate::hashing::hash_of;
use crate::network::{Content, Letter};
use crate::symbols::sum;

/// Long enough for messages in flight, too short for anything else.
const SHORT: Duration = Duration::from_millis(25);

/// Ticks after which whoever was silent was asked for an answer, and is suspected; too short for backups.
const SILENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Longer than every wait.
const LONG: Duration = Duration::from_secs(40);

/// Each unit has one sample in the model.
const TALLY: Tally = Tally { samples: 1, correct: 0, loss_sum: 0 };

/// A violated property, by its name.
pub type Violation = &'static str;

/// What happens to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stimulus {
    Starts,
    Connected(u8),
    Arrives(u8, Content),
    /// The heartbeat of a peer that has this state.
    Hears(u8, StateRef),
    WaitsShort,
    WaitsLong,
    /// Waits for signs of life of one peer in vain.
    Suspects(u8),
    Computes(u32),
    Applies,
    Fetches {
        found: bool,
    },
}

/// What a peer does to others, as seen from the network.
pub enum Outgoing {
    Send { to: u8, content: Content },
    Fetch { from: u8, payload: PayloadRef },
    Exit,
}

/// What becomes of a peer to which something happens.
pub struct Reaction {
    pub process: Arc<Process>,
    pub outgoing: Vec<Outgoing>,
    /// A state that is on the disk now.
    pub stored: Option<StateMeta>,
    pub violation: Option<Violation>,
}

/// All that was seen to become of peers. The same happens to the same peer in thousands of states of the system, as
/// these differ in other peers and in what is under way.
#[derive(Default)]
pub struct Reactions {
    known: Mutex<HashMap<(u64, u64), Arc<Reaction>>>,
    processes: Mutex<HashMap<u64, Arc<Process>>>,
}

impl Reactions {
    pub fn of(&self, peers: &Peers, process: &Process, stimulus: &Stimulus) -> Arc<Reaction> {
        let key = (process.fingerprint, hash_of(stimulus));
        if let Some(known) = self.known.lock().expect("no panic under the lock").get(&key) {
            return Arc::clone(known);
        }
        let mut reaction = process.react(peers, stimulus);
        let fingerprint = reaction.process.fingerprint;
        let mut processes = self.processes.lock().expect("no panic under the lock");
        reaction.process = Arc::clone(processes.entry(fingerprint).or_insert(reaction.process));
        let reaction = Arc::new(reaction);
        self.known.lock().expect("no panic under the lock").insert(key, Arc::clone(&reaction));
        reaction
    }

    /// How many different processes and reactions were seen.
    pub fn count(&self) -> (usize, usize) {
        let processes = self.processes.lock().expect("no panic under the lock").len();
        (processes, self.known.lock().expect("no panic under the lock").len())
    }
}

#[derive(Clone)]
pub struct Process {
    pub node: Node,
    /// Effects whose answers are outstanding: units, the next state, a state of others.
    pub owed: Vec<Effect>,
    pub held: BTreeSet<PayloadRef>,
    /// Connected peers that are suspected.
    pub suspected: BTreeSet<PeerId>,
    /// Of everything above: computed once, as an action changes one peer only.
    fingerprint: u64,
}

impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Hash for Process {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl Process {
    pub fn new(peers: &Peers, node: Node) -> Self {
        let (owed, held, suspected) = Default::default();
        let mut process = Self { node, owed, held, suspected, fingerprint: 0 };
        process.settle(peers, Time(0));
        process
    }

    pub fn is_finished(&self) -> bool {
        self.node.state().finished
    }

    pub fn knows(&self, peer: PeerId) -> bool {
        self.node.neighbours().any(|neighbour| *neighbour == peer)
    }

    pub fn is_suspicious(&self) -> bool {
        !self.suspected.is_empty()
    }

    fn react(&self, peers: &Peers, stimulus: &Stimulus) -> Reaction {
        let mut process = self.clone();
        let (inputs, stored) = process.inputs(peers, stimulus);
        let (outgoing, violation) = process.feed(peers, inputs);
        Reaction { process: Arc::new(process), outgoing, stored, violation }
    }

    /// What the node is told, each when so much time has passed since everything before, and a state that the disk
    /// has from now on.
    fn inputs(&mut self, peers: &Peers, stimulus: &Stimulus) -> (Vec<(Duration, Input)>, Option<StateMeta>) {
        let (input, stored) = match *stimulus {
            Stimulus::Starts => (Some(Input::Tick), None),
            Stimulus::Connected(of) => {
                (Some(Input::Connected(Member { peer: peers.id(of), addresses: Vec::new() })), None)
            }
            Stimulus::Arrives(from, ref content) => (self.arriving(peers.id(from), content), None),
            Stimulus::Hears(of, state) => {
                let message = Message::Heartbeat(peers.heartbeat(state));
                (Some(Input::Message { from: peers.id(of), message }), None)
            }
            Stimulus::WaitsShort => return (self.waiting(&[SHORT], None), None),
            Stimulus::WaitsLong => return (self.waiting(&[LONG], None), None),
            Stimulus::Suspects(of) => return (self.waiting(&SILENCE, Some(peers.id(of))), None),
            Stimulus::Computes(unit) => (self.computing(unit), None),
            Stimulus::Applies => self.applying(peers),
            Stimulus::Fetches { found } => self.fetching(peers, found),
        };
        (input.map(|input| (Duration::ZERO, input)).into_iter().collect(), stored)
    }

    fn arriving(&mut self, from: PeerId, content: &Content) -> Option<Input> {
        match content {
            Content::Message(letter) => letter.open().map(|message| Input::Message { from, message }),
            Content::Payload(payload) => {
                self.held.insert(*payload);
                Some(Input::PayloadHeld(*payload))
            }
            Content::Gone => Some(Input::Disconnected(from)),
        }
    }

    /// Lets time pass, with a tick at each of `ticks`, before which everybody in reach but `silent` gives a sign of
    /// life.
    fn waiting(&self, ticks: &[Duration], silent: Option<PeerId>) -> Vec<(Duration, Input)> {
        let heard = self.node.neighbours().filter(|of| Some(**of) != silent && !self.suspected.contains(of));
        // Without an effect but being heard.
        let sign = |of: &PeerId| Input::Message { from: *of, message: Message::Spec(Vec::new()) };
        let inputs: Vec<Input> = heard.map(sign).chain([Input::Tick]).collect();
        ticks.iter().flat_map(|&at| inputs.iter().cloned().map(move |input| (at, input))).collect()
    }

    fn computing(&mut self, unit: u32) -> Option<Input> {
        let (_, from) = self.take_owed(|effect| match effect {
            Effect::Compute { from, unit: owed, .. } if *owed == unit => Some(*from),
            _ => None,
        })?;
        Some(Input::UnitComputed { from, unit, tally: TALLY })
    }

    fn applying(&mut self, peers: &Peers) -> (Option<Input>, Option<StateMeta>) {
        let Some((Effect::Apply { from, cover }, ())) =
            self.take_owed(|effect| matches!(effect, Effect::Apply { .. }).then_some(()))
        else {
            return (None, None);
        };
        let meta = peers.symbols.apply(from, &cover).meta;
        (Some(Input::Applied { from, meta }), Some(meta))
    }

    fn fetching(&mut self, peers: &Peers, found: bool) -> (Option<Input>, Option<StateMeta>) {
        let Some((_, state)) = self.take_owed(|effect| match effect {
            Effect::FetchState { state, .. } => Some(*state),
            _ => None,
        }) else {
            return (None, None);
        };
        if !found {
            return (Some(Input::StateUnavailable(state)), None);
        }
        let meta = peers.symbols.meta(state);
        (Some(Input::StateFetched(meta)), Some(meta))
    }

    /// Takes the first effect that `wanted` finds what it looks for in.
    fn take_owed<T>(&mut self, wanted: impl Fn(&Effect) -> Option<T>) -> Option<(Effect, T)> {
        let owed = self.owed.iter().enumerate();
        let (index, found) = owed.filter_map(|(index, effect)| Some((index, wanted(effect)?))).next()?;
        Some((self.owed.remove(index), found))
    }

    /// Feeds inputs. Returns what goes out, and a violated property if there is one.
    fn feed(&mut self, peers: &Peers, inputs: Vec<(Duration, Input)>) -> (Vec<Outgoing>, Option<Violation>) {
        let mut now = Time(0);
        let before = self.node.state().state.round;
        let (mut outgoing, mut violation) = (Vec::new(), None);
        let mut inputs: VecDeque<(Duration, Input)> = inputs.into();
        while let Some((elapsed, input)) = inputs.pop_front() {
            now = Time(0) + elapsed;
            for effect in self.node.handle(now, input) {
                // Sums are formed at once: nothing can happen between a sum and its announcement
                // that could not happen before or after both.
                if let Effect::Sum { from, units } = effect {
                    let payload = sum(from, &units);
                    self.held.insert(payload);
                    inputs.push_front((elapsed, Input::Summed { from, units, payload }));
                } else {
                    violation = violation.or(self.perform(peers, effect, &mut outgoing));
                }
            }
        }
        if self.node.state().state.round < before {
            violation = Some(super::GOES_BACK);
        }
        self.settle(peers, now);
        (outgoing, violation)
    }

    fn perform(&mut self, peers: &Peers, effect: Effect, outgoing: &mut Vec<Outgoing>) -> Option<Violation> {
        match effect {
            // A heartbeat is `Action::Hear`, which can come at any time; addresses are not modelled.
            Effect::Send {
                message: Message::Heartbeat(_) | Message::Probe(_) | Message::Members(_) | Message::MembersWanted,
                ..
            }
            | Effect::Connect(_) => {}
            Effect::Send { to, message } => {
                let content = Content::Message(Letter::new(&message));
                outgoing.push(Outgoing::Send { to: peers.index(&to), content });
            }
            Effect::PushPayload { to, payload } => {
                outgoing.push(Outgoing::Send { to: peers.index(&to), content: Content::Payload(payload) });
            }
            Effect::FetchPayload { from, payload } => {
                outgoing.push(Outgoing::Fetch { from: peers.index(&from), payload });
            }
            Effect::Accumulate { payload, .. } if !self.held.contains(&payload) => {
                return Some(super::NOT_HELD);
            }
            Effect::Apply { from, ref cover } => {
                let payloads = cover.iter().filter_map(|part| part.contribution.payload);
                if !payloads.into_iter().all(|payload| self.held.contains(&payload)) {
                    return Some(super::NOT_HELD);
                }
                if !peers.symbols.apply(from, cover).exactly_once {
                    return Some(super::EXACTLY_ONCE);
                }
                self.owed.push(effect);
            }
            Effect::Compute { .. } | Effect::FetchState { .. } => self.owed.push(effect),
            Effect::DropPayloads(digests) => self.held.retain(|payload| !digests.contains(&payload.digest)),
            Effect::Record(event) => return self.record(&event),
            Effect::Exit => outgoing.push(Outgoing::Exit),
            // So few peers exchange whole sums, and only servers push states.
            Effect::Stop(_) | Effect::Split { .. } | Effect::Combine { .. } | Effect::PushState { .. } => {
                return Some(super::STOPS);
            }
            Effect::Sum { .. } | Effect::Accumulate { .. } | Effect::BeginRound { .. } | Effect::Finished(_) => {}
        }
        None
    }

    fn record(&mut self, event: &Event) -> Option<Violation> {
        match event {
            Event::PeerSuspected(peer) => {
                self.suspected.insert(*peer);
            }
            Event::PeerHeard(peer) | Event::PeerLost(peer) | Event::PeerConnected(peer) => {
                self.suspected.remove(peer);
            }
            Event::Divergence { .. } => return Some(super::ONE_STATE),
            _ => {}
        }
        None
    }

    /// Brings the peer into its canonical form: without time, without what it no longer waits for, and without what
    /// can no longer make a difference.
    fn settle(&mut self, peers: &Peers, now: Time) {
        self.node.forget_time(now);
        let current: StateRef = self.node.state().state;
        let is_over = |payload: &PayloadRef| peers.is_over(payload, current.round);
        if peers.merging {
            self.node.forget_the_dead(is_over);
        }
        self.held.retain(|payload| !is_over(payload));
        // Results of a round that is over are ignored, whenever they come.
        let applying = peers.merging && self.node.is_applying();
        self.owed.retain(|effect| match effect {
            Effect::Compute { from, .. } => *from == current && !applying,
            Effect::Apply { from, .. } => *from == current,
            _ => true,
        });
        self.owed.sort_by_cached_key(|effect| format!("{effect:?}"));
        let mut hasher = DefaultHasher::new();
        self.node.id().hash(&mut hasher);
        self.node.fingerprint(&mut hasher);
        format!("{:?}", (&self.owed, &self.held, &self.suspected)).hash(&mut hasher);
        self.fingerprint = hasher.finish();
    }
}
