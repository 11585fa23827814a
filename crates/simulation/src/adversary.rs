//! A member that sends what it should not: damaged, old, oversized and forged messages.
//!
//! The transport authenticates who sends, so an attack always comes from a connected member. Members
//! are trusted with the gradients that they sign; nothing else of what they send may do harm.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use peerless_protocol::{
    Contribution, Digest, Heartbeat, MAX_MEMBERS, MAX_MESSAGE_BYTES, Member, Message, PayloadRef, PeerId, RunId,
    SignedContribution, StateRef, Tally, UnitTime,
};
use serde::Deserialize;

use crate::random::Random;

/// Genuine messages that are remembered, to be damaged or repeated.
const REMEMBERED: usize = 256;

/// Contributions of one flood: more than an honest peer makes in a round of the scenarios.
const FLOOD: u64 = 200;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttackKind {
    /// A genuine message with bits turned over or its end cut off.
    Corrupt,
    /// A genuine message of the same sender once more.
    Replay,
    /// A contribution with the sender's name and another key's signature.
    WrongKey,
    /// Another peer's genuine contribution.
    WrongAuthor,
    /// A contribution of an old state, or of a state that never was.
    WrongState,
    /// A well signed contribution whose content is impossible.
    WrongContent,
    /// Messages, lists and rounds beyond every limit.
    Oversized,
    /// Hundreds of contributions to the next round.
    Flood,
}

impl AttackKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Corrupt,
        Self::Replay,
        Self::WrongKey,
        Self::WrongAuthor,
        Self::WrongState,
        Self::WrongContent,
        Self::Oversized,
        Self::Flood,
    ];

    /// Whether a peer must not do anything but record it.
    pub(crate) fn must_have_no_effect(self) -> bool {
        matches!(self, Self::WrongKey | Self::WrongAuthor | Self::WrongState | Self::WrongContent)
    }
}

/// One attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attack {
    /// What is sent.
    pub kind: AttackKind,
    /// The member that sends it.
    pub from: usize,
    /// Who gets it.
    pub to: usize,
}

impl Attack {
    /// The kind of fault that it is counted as.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            AttackKind::Corrupt => "corrupt message",
            AttackKind::Replay => "replayed message",
            AttackKind::WrongKey => "wrong key",
            AttackKind::WrongAuthor => "wrong author",
            AttackKind::WrongState => "wrong state",
            AttackKind::WrongContent => "wrong content",
            AttackKind::Oversized => "oversized message",
            AttackKind::Flood => "flood",
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            AttackKind::Corrupt => "a damaged message",
            AttackKind::Replay => "an old message again",
            AttackKind::WrongKey => "a contribution signed with another key",
            AttackKind::WrongAuthor => "a contribution of another peer",
            AttackKind::WrongState => "a contribution to another state",
            AttackKind::WrongContent => "a contribution with impossible content",
            AttackKind::Oversized => "something oversized",
            AttackKind::Flood => "hundreds of contributions to the next round",
        };
        write!(f, "p{} sends p{} {what}", self.from, self.to)
    }
}

/// What the network has seen of genuine messages.
#[derive(Default)]
pub(crate) struct Recorder {
    seen: VecDeque<(usize, Arc<Message>)>,
}

impl Recorder {
    pub fn saw(&mut self, from: usize, message: &Arc<Message>, random: &mut Random) {
        // Every fourth, so that old ones are among them.
        if random.chance(25) || self.seen.len() < 8 {
            self.seen.push_back((from, message.clone()));
        }
        if self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
    }

    fn any_of(&self, from: usize, random: &mut Random) -> Option<Arc<Message>> {
        let own: Vec<&Arc<Message>> = self.seen.iter().filter(|(peer, _)| *peer == from).map(|(_, m)| m).collect();
        own.get(random.between(0, own.len() as u64) as usize).map(|message| (*message).clone())
    }

    /// A contribution that `from` made.
    fn own_contribution(&self, from: usize, random: &mut Random) -> Option<SignedContribution> {
        let own = self.contributions().filter(|(peer, _)| *peer == from);
        pick(own.map(|(_, signed)| signed).take(4).collect(), random)
    }

    /// A contribution of another peer to the round that starts from `state`.
    fn others_contribution(&self, from: usize, state: StateRef, random: &mut Random) -> Option<SignedContribution> {
        let others = self.contributions().filter(|(peer, signed)| *peer != from && signed.contribution.from == state);
        pick(others.map(|(_, signed)| signed).collect(), random)
    }

    /// The newest come first.
    fn contributions(&self) -> impl Iterator<Item = (usize, &SignedContribution)> {
        self.seen.iter().rev().filter_map(|(peer, message)| match &**message {
            Message::Contribution(signed) => Some((*peer, &**signed)),
            _ => None,
        })
    }
}

fn pick(found: Vec<&SignedContribution>, random: &mut Random) -> Option<SignedContribution> {
    found.get(random.between(0, found.len() as u64) as usize).map(|signed| (*signed).clone())
}

/// Who attacks, and what it knows.
pub(crate) struct Attacker<'a> {
    pub recorder: &'a Recorder,
    pub key: &'a SigningKey,
    pub index: usize,
    /// The state that the victim is working on.
    pub victim: StateRef,
    /// A sum of nothing that anybody computed; the victim has got it already.
    pub fabricated: PayloadRef,
}

/// What the victim's transport gets: bytes.
pub(crate) type Wire = Vec<u8>;

impl Attacker<'_> {
    /// The bytes of an attack; nothing if there is nothing yet to make it of.
    pub fn wires(&self, kind: AttackKind, random: &mut Random) -> Vec<Wire> {
        let message = match kind {
            AttackKind::Corrupt => {
                let bytes = self.recorder.any_of(self.index, random).map(|message| message.encode());
                return bytes.map(|bytes| damage(bytes, random)).into_iter().collect();
            }
            AttackKind::Oversized => return vec![oversized(random)],
            AttackKind::Flood => return self.flood(random),
            AttackKind::Replay => self.recorder.any_of(self.index, random).map(|message| (*message).clone()),
            AttackKind::WrongAuthor => {
                self.recorder.others_contribution(self.index, self.victim, random).map(contribution)
            }
            AttackKind::WrongKey => self.genuine(random).map(|signed| {
                let claimed = Contribution { from: self.victim, ..self.lie(signed.contribution) };
                contribution(SignedContribution::sign(claimed, &SigningKey::from_bytes(&[0x66; 32])))
            }),
            AttackKind::WrongState => self.genuine(random).map(|signed| {
                let claimed = Contribution { from: self.other_state(random), ..self.lie(signed.contribution) };
                contribution(SignedContribution::sign(claimed, self.key))
            }),
            AttackKind::WrongContent => self.genuine(random).map(|signed| {
                let claimed = Contribution { from: self.victim, ..signed.contribution };
                contribution(SignedContribution::sign(impossible(claimed, random), self.key))
            }),
        };
        message.map(|message| message.encode()).into_iter().collect()
    }

    fn genuine(&self, random: &mut Random) -> Option<SignedContribution> {
        self.recorder.own_contribution(self.index, random)
    }

    /// Another payload than the genuine one.
    fn lie(&self, contribution: Contribution) -> Contribution {
        let payload = contribution.payload.map(|_| self.fabricated);
        Contribution { payload, ..contribution }
    }

    fn other_state(&self, random: &mut Random) -> StateRef {
        match random.between(0, 3) {
            0 => StateRef { digest: Digest([9; 32]), ..self.victim },
            1 => StateRef { round: self.victim.round.saturating_sub(1), digest: Digest([8; 32]) },
            _ => StateRef { round: self.victim.round + 2, digest: self.victim.digest },
        }
    }

    /// Distinct contributions to the round after the victim's, all of them well signed.
    fn flood(&self, random: &mut Random) -> Vec<Wire> {
        let Some(signed) = self.genuine(random) else { return Vec::new() };
        let from = StateRef { round: self.victim.round + 1, digest: Digest([7; 32]) };
        let one = |elapsed_us| {
            let claimed = Contribution { from, elapsed_us, ..signed.contribution.clone() };
            contribution(SignedContribution::sign(claimed, self.key)).encode()
        };
        (0..FLOOD).map(one).collect()
    }
}

fn contribution(signed: SignedContribution) -> Message {
    Message::Contribution(Box::new(signed))
}

fn impossible(contribution: Contribution, random: &mut Random) -> Contribution {
    let training = Tally { samples: contribution.training.samples + 1, ..contribution.training };
    match random.between(0, 4) {
        0 => Contribution { run: RunId([5; 32]), ..contribution },
        1 => Contribution { units: (20_000..20_003).collect(), ..contribution },
        2 => Contribution { training, ..contribution },
        _ => {
            let payload = PayloadRef { digest: Digest([4; 32]), bytes: 1 << 50 };
            Contribution { payload: Some(payload), ..contribution }
        }
    }
}

fn damage(mut bytes: Wire, random: &mut Random) -> Wire {
    if random.chance(20) {
        bytes.truncate(random.between(0, bytes.len() as u64) as usize);
        return bytes;
    }
    for _ in 0..random.between(1, 4) {
        let at = random.between(0, bytes.len() as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << random.between(0, 8);
        }
    }
    bytes
}

fn oversized(random: &mut Random) -> Wire {
    let digest = Digest([3; 32]);
    match random.between(0, 4) {
        0 => vec![1; MAX_MESSAGE_BYTES + 1],
        1 => Message::Members(vec![Member { peer: PeerId([2; 32]), addresses: Vec::new() }; MAX_MEMBERS + 1]).encode(),
        2 => {
            let state = StateRef { round: u64::MAX, digest };
            let unit_time = UnitTime { us: u32::MAX, from_round: u64::MAX };
            let functions = u32::MAX;
            let heartbeat = Heartbeat { state, state_bytes: u64::MAX, functions, unit_time, finished: true };
            Message::Heartbeat(heartbeat).encode()
        }
        _ => {
            let from = StateRef { round: 0, digest };
            Message::UnitFailed { from, unit: u32::MAX, cause: "x".repeat(5000) }.encode()
        }
    }
}
