//! One running peer: the real state machine, what it waits for, and its store.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use peerless_protocol::{
    Effect, Event, Heartbeat, Input, Message, Node, PayloadRef, PeerId, StateMeta, StateRef, Tally, Time,
};

use crate::symbols::{Symbols, sum};

/// What a peer does to others, as seen from the network.
pub enum Outgoing {
    Message { to: PeerId, message: Message },
    Push { to: PeerId, payload: PayloadRef },
    Fetch { from: PeerId, payload: PayloadRef },
    Exit,
}

/// A violated property, by its name.
pub type Violation = &'static str;

/// Each unit has one sample in the model.
pub const TALLY: Tally = Tally { samples: 1, correct: 0, loss_sum: 0 };

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
    pub fn new(node: Node) -> Self {
        let (owed, held, suspected) = Default::default();
        Self { node, owed, held, suspected, fingerprint: 0 }
    }

    pub fn is_finished(&self) -> bool {
        self.node.state().finished
    }

    pub fn knows(&self, peer: PeerId) -> bool {
        self.node.neighbours().any(|neighbour| *neighbour == peer)
    }

    /// What this peer says of itself from time to time.
    pub fn heartbeat(&self) -> Message {
        let StateMeta { state, bytes, finished } = self.node.state();
        Message::Heartbeat(Heartbeat { state, state_bytes: bytes, capacity: 1, finished })
    }

    /// Feeds inputs, each when so much time has passed since everything before. Returns what goes out, and
    /// a violated property if there is one.
    pub fn feed(
        &mut self,
        symbols: &Symbols,
        inputs: impl IntoIterator<Item = (Duration, Input)>,
    ) -> (Vec<Outgoing>, Option<Violation>) {
        let mut now = Time(0);
        let before = self.node.state().state.round;
        let (mut outgoing, mut violation) = (Vec::new(), None);
        let mut inputs: VecDeque<(Duration, Input)> = inputs.into_iter().collect();
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
                    violation = violation.or(self.perform(symbols, effect, &mut outgoing));
                }
            }
        }
        if self.node.state().state.round < before {
            violation = Some(super::GOES_BACK);
        }
        self.settle(now);
        (outgoing, violation)
    }

    fn perform(&mut self, symbols: &Symbols, effect: Effect, outgoing: &mut Vec<Outgoing>) -> Option<Violation> {
        match effect {
            // A heartbeat is `Action::Hear`, which can come at any time; addresses are not modelled.
            Effect::Send {
                message: Message::Heartbeat(_) | Message::Probe(_) | Message::Members(_) | Message::MembersWanted,
                ..
            }
            | Effect::Connect(_) => {}
            Effect::Send { to, message } => outgoing.push(Outgoing::Message { to, message }),
            Effect::PushPayload { to, payload } => outgoing.push(Outgoing::Push { to, payload }),
            Effect::FetchPayload { from, payload } => outgoing.push(Outgoing::Fetch { from, payload }),
            Effect::Accumulate { payload, .. } if !self.held.contains(&payload) => {
                return Some(super::NOT_HELD);
            }
            Effect::Apply { from, ref cover } => {
                let payloads = cover.iter().filter_map(|part| part.contribution.payload);
                if !payloads.into_iter().all(|payload| self.held.contains(&payload)) {
                    return Some(super::NOT_HELD);
                }
                if !symbols.apply(from, cover).exactly_once {
                    return Some(super::EXACTLY_ONCE);
                }
                self.owed.push(effect);
            }
            Effect::Compute { .. } | Effect::FetchState { .. } => self.owed.push(effect),
            Effect::DropPayloads(digests) => self.held.retain(|payload| !digests.contains(&payload.digest)),
            Effect::Record(event) => return self.record(&event),
            Effect::Exit => outgoing.push(Outgoing::Exit),
            // So few peers exchange whole sums.
            Effect::Stop(_) | Effect::Split { .. } | Effect::Combine { .. } => return Some(super::STOPS),
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

    /// Brings the peer into its canonical form: without time, without what it no longer waits for.
    fn settle(&mut self, now: Time) {
        self.node.forget_time(now);
        let current: StateRef = self.node.state().state;
        // Results of a round that is over are ignored, whenever they come.
        self.owed.retain(|effect| match effect {
            Effect::Compute { from, .. } | Effect::Apply { from, .. } => *from == current,
            _ => true,
        });
        self.owed.sort_by_cached_key(|effect| format!("{effect:?}"));
        let mut hasher = DefaultHasher::new();
        self.node.fingerprint(&mut hasher);
        format!("{:?}", (&self.owed, &self.held, &self.suspected)).hash(&mut hasher);
        self.fingerprint = hasher.finish();
    }
}
