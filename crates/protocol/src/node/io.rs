//! What goes into the state machine and what comes out.

use std::time::Duration;

use ed25519_dalek::SigningKey;

use crate::contribution::{ContributionError, PayloadRef, SignedContribution};
use crate::ids::{Digest, PeerId};
use crate::message::{Member, Message};
use crate::shard::PayloadShape;
use crate::spec::RunSpec;
use crate::state::{StateRef, Tally};
use crate::unit_time::UnitTime;
use crate::units::{UnitKind, UnitSet};

/// What a peer starts with.
#[derive(Clone)]
pub struct Config {
    /// The run.
    pub spec: RunSpec,
    /// Signs contributions; its public half is the peer's id.
    pub key: SigningKey,
    /// Functions that this peer can run at once; weighs its share of the units.
    pub functions: u32,
    /// The form of the run's exact sums.
    pub payload: PayloadShape,
    /// Largest state that is fetched from others, in bytes.
    pub max_state_bytes: u64,
    /// Other peers that are expected to be there at the start. Work begins when all of them were
    /// heard, or after `gather_at_most`; it only avoids that early peers compute everything alone.
    pub expected_peers: usize,
    /// See `expected_peers`.
    pub gather_at_most: Duration,
    /// From how many peers on messages are saved.
    pub crowd: Crowd,
    /// Whether peers may come and go.
    pub membership: Membership,
}

/// Whether peers may come and go while the run is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Membership {
    /// They may: who is there shares the work.
    #[default]
    Open,
    /// The expected peers, from the first round on, as in the collective operations of MPI, NCCL and Gloo: work begins
    /// when all are there and is dealt out in equal shares, everyone waits for everyone, and when one is lost all
    /// stop. The baseline that fault tolerance is compared with.
    Fixed,
}

/// From how many peers on a peer stops to talk to all others about everything. Chosen automatically;
/// only tests have a reason to set it.
///
/// Peers whose views differ may be on different sides of these numbers: what is sent differs, but
/// everyone understands everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// Peers in the view from which on a round's sum is formed shard by shard. With n peers a peer then
    /// sends 2(n-1)/n payloads in a round and not n-1.
    pub sharded_from: usize,
    /// Connected peers from which on a peer probes a few others at a time and not all.
    pub sparse_from: usize,
}

impl Default for Crowd {
    /// Half of the traffic is saved from 5 peers on, but a shard takes one more hop and each its own
    /// announcement, which pays from 8 peers on. Heartbeats to two dozen peers cost nothing worth saving.
    fn default() -> Self {
        Self { sharded_from: 8, sparse_from: 24 }
    }
}

/// A state and what others need to know to fetch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateMeta {
    /// Number and digest.
    pub state: StateRef,
    /// Length of the encoding in bytes.
    pub bytes: u64,
    /// Whether the run ends with it.
    pub finished: bool,
}

/// Something that happened outside. Inputs about a round that is over are ignored, so the shell
/// may deliver them late.
#[derive(Debug, Clone)]
pub enum Input {
    /// An authenticated connection to a peer exists. `addresses` is where it listens.
    Connected(Member),
    /// The last connection to a peer is gone.
    Disconnected(PeerId),
    /// A decoded message from an authenticated peer.
    Message {
        /// The sender.
        from: PeerId,
        /// The message.
        message: Message,
    },
    /// A payload is in the store, its digest and length checked.
    PayloadHeld(PayloadRef),
    /// A unit's result is in the store.
    UnitComputed {
        /// The state it was computed from.
        from: StateRef,
        /// The unit.
        unit: u32,
        /// Totals over its samples.
        tally: Tally,
    },
    /// Every attempt at a unit failed on this peer.
    UnitFailed {
        /// The state it was to be computed from.
        from: StateRef,
        /// The unit.
        unit: u32,
        /// Why, for people.
        cause: String,
    },
    /// Answer to [`Effect::Sum`]: the payload is in the store.
    Summed {
        /// The state of the round.
        from: StateRef,
        /// The units.
        units: UnitSet,
        /// The sum.
        payload: PayloadRef,
    },
    /// Answer to [`Effect::Split`]: the shards are in the store.
    Split {
        /// The state of the round.
        from: StateRef,
        /// The units.
        units: UnitSet,
        /// Their sum in shards, in order.
        shards: Vec<PayloadRef>,
    },
    /// Answer to [`Effect::Combine`]: the payload is in the store.
    Combined {
        /// The state of the round.
        from: StateRef,
        /// The shard.
        shard: u32,
        /// The sum of all units of the round in this shard.
        payload: PayloadRef,
    },
    /// Answer to [`Effect::Apply`]: the next state is in the store.
    Applied {
        /// The state that the round started from.
        from: StateRef,
        /// The next state.
        meta: StateMeta,
    },
    /// Answer to [`Effect::FetchState`], or pushed by the server: the state is in the store, its digest checked.
    StateFetched(StateMeta),
    /// Answer to [`Effect::FetchState`]: no donor had it.
    StateUnavailable(StateRef),
    /// The time of [`Node::deadline`](super::Node::deadline) has come.
    Tick,
    /// The user asks this peer to leave.
    Leave,
}

/// Something to be done outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message; losing it is allowed.
    Send {
        /// The receiver.
        to: PeerId,
        /// The message.
        message: Message,
    },
    /// Dial a peer and keep it connected.
    Connect(Member),
    /// Push a payload of the store to a peer; losing it is allowed.
    PushPayload {
        /// The receiver.
        to: PeerId,
        /// The payload.
        payload: PayloadRef,
    },
    /// Push a state of the store to workers; losing it is allowed.
    PushState {
        /// The receivers.
        to: Vec<PeerId>,
        /// The state.
        state: StateRef,
    },
    /// Ask a peer for a payload that was announced but did not arrive.
    FetchPayload {
        /// The contribution's author.
        from: PeerId,
        /// The payload.
        payload: PayloadRef,
    },
    /// Work on a round begins: what the store keeps of earlier rounds' sums may go.
    BeginRound {
        /// The state that the round starts from.
        from: StateRef,
    },
    /// Have a function compute a unit and put the result into the store.
    Compute {
        /// The state to compute from.
        from: StateRef,
        /// The unit.
        unit: u32,
        /// Gradient or evaluation.
        kind: UnitKind,
    },
    /// Form the exact sum of units that were computed here.
    Sum {
        /// The state of the round.
        from: StateRef,
        /// The units, all of them [`Input::UnitComputed`] before.
        units: UnitSet,
    },
    /// Form the exact sum of units that were computed here, and cut it into the run's shards.
    Split {
        /// The state of the round.
        from: StateRef,
        /// The units, all of them [`Input::UnitComputed`] before.
        units: UnitSet,
    },
    /// Form one shard of the sum of the whole round.
    Combine {
        /// The state of the round.
        from: StateRef,
        /// The shard.
        shard: u32,
        /// Contributions to this shard, or to the whole vector, that hold each unit exactly once; every
        /// payload is in the store.
        cover: Vec<SignedContribution>,
    },
    /// Add a payload to the round's total. Only a head start: [`Effect::Apply`] has the last word on
    /// what the total consists of.
    Accumulate {
        /// The state of the round.
        from: StateRef,
        /// The units that it is the sum of.
        units: UnitSet,
        /// The payload, in the store.
        payload: PayloadRef,
    },
    /// Form the next state from a cover. Units still being computed for the round are not needed.
    Apply {
        /// The state to start from.
        from: StateRef,
        /// Contributions that hold each unit exactly once, in every shard; every payload is in the store.
        /// Either all of them are to the whole vector, or there is exactly one to each shard.
        cover: Vec<SignedContribution>,
    },
    /// Take a state from other peers.
    FetchState {
        /// The state.
        state: StateRef,
        /// Length of its encoding in bytes.
        bytes: u64,
        /// Who has or had it.
        donors: Vec<PeerId>,
    },
    /// Forget payloads that are no longer needed.
    DropPayloads(Vec<Digest>),
    /// Write an event to ledger and log.
    Record(Event),
    /// The run is over and the final state is in the store; others may still need it from here.
    Finished(StateMeta),
    /// Nothing is left to do: the process may end.
    Exit,
    /// The run cannot go on.
    Stop(StopReason),
}

/// Why a run cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// No peer can compute a unit.
    #[error("unit {unit} of round {round} failed on every peer; the last cause: {cause}")]
    UnitFailedEverywhere {
        /// The round.
        round: u64,
        /// The unit.
        unit: u32,
        /// The cause as the last peer reported it.
        cause: String,
    },
    /// A peer of a [fixed membership](Membership::Fixed) is gone.
    #[error("worker {} is lost, and nobody takes its place", .0.short())]
    WorkerLost(PeerId),
    /// The losses of a round are too large for their exact sum.
    #[error(
        "the losses of round {round} are too large to be summed: the model has diverged; use a smaller learning rate"
    )]
    LossOverflow {
        /// The round.
        round: u64,
    },
}

/// Something worth remembering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection came up.
    PeerConnected(PeerId),
    /// The last connection to a peer went down, or it said good-bye.
    PeerLost(PeerId),
    /// A connected peer is silent.
    PeerSuspected(PeerId),
    /// A suspected peer was heard again.
    PeerHeard(PeerId),
    /// This peer computes a unit that another one owes.
    Backup {
        /// The round.
        round: u64,
        /// The unit.
        unit: u32,
        /// Who owes it.
        instead_of: PeerId,
    },
    /// A unit failed at some peer.
    UnitFailed {
        /// The round.
        round: u64,
        /// The unit.
        unit: u32,
        /// Where.
        peer: PeerId,
        /// Why.
        cause: String,
    },
    /// This peer has measured how long it takes for a unit, and tells the others.
    UnitTime(UnitTime),
    /// This peer is behind and takes a state from others.
    CatchUp {
        /// The round of the own state.
        from: u64,
        /// The state to be taken.
        to: StateRef,
    },
    /// Peers hold different states for one round.
    Divergence {
        /// The round.
        round: u64,
        /// This peer's digest.
        own: Digest,
        /// The digest that counts: held by more peers, or the smaller one in a tie.
        winner: Digest,
        /// A peer whose digest differs from this peer's.
        peer: PeerId,
    },
    /// Something received was not used.
    Refused {
        /// The sender.
        from: PeerId,
        /// What is wrong with it.
        kind: RefusalKind,
        /// Why.
        reason: String,
    },
}

/// What is wrong with something received; refusals are counted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// Bytes that are no message.
    Malformed,
    /// Of another version of the program.
    Version,
    /// Longer than allowed.
    Oversized,
    /// Without the signature of the author that it names.
    Forged,
    /// In the right form, with content that cannot be.
    Wrong,
    /// Received before. A few are usual when a connection is replaced.
    Replayed,
    /// More than anyone needs to send.
    Flood,
    /// A blob that does not have its digest.
    Corrupt,
}

impl RefusalKind {
    /// Its name in ledger, log and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Oversized => "oversized",
            Self::Forged => "forged",
            Self::Wrong => "wrong",
            Self::Replayed => "replayed",
            Self::Flood => "flood",
            Self::Corrupt => "corrupt",
        }
    }
}

impl From<&ContributionError> for RefusalKind {
    fn from(error: &ContributionError) -> Self {
        match error {
            ContributionError::NotTheSender(_) | ContributionError::Signature => Self::Forged,
            ContributionError::OtherRun(_)
            | ContributionError::Units
            | ContributionError::Payload
            | ContributionError::Shard(_)
            | ContributionError::Samples { .. } => Self::Wrong,
        }
    }
}
