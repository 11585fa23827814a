//! The state machine of a peer, fed with whatever connected peers can send, in any order, while its own
//! effects are carried out honestly, late or never.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use peerless_protocol::{Config, Contribution, Crowd, Digest, Effect, Heartbeat, Input, MAX_MEMBERS, MAX_MESSAGE_BYTES, Member, Message, Node, PayloadRef, PeerId, RoundPlan, RunSpec, SignedContribution, StateMeta, StateRef, Tally, Time, UnitKind, UnitSet, UnitTime, expected_samples, Membership};

use crate::fixtures::{self, PAYLOAD};

/// Peers that the fuzzer can speak for: 0 is the peer under test.
const PEERS: u8 = 4;

/// Inputs in one run, so that a run takes no longer than libFuzzer allows.
const MAX_INPUTS: usize = 400;

/// Most effects of one input: a list of members makes a connection of each, and everything else is
/// bounded by units, peers and contributions.
const MAX_EFFECTS: usize = MAX_MEMBERS + 512;

/// Ticks at one point of time after which the peer is said to spin.
const MAX_IDLE_TICKS: usize = 8;

/// Feeds a peer with inputs that are read from `bytes`.
pub fn node(bytes: &[u8]) {
    let mut choices = Unstructured::new(bytes);
    // Few peers, but each way to exchange sums and each way to probe.
    let from = |small| if small { 2 } else { usize::MAX };
    let [sharded, sparse] = choices.arbitrary().unwrap_or_default();
    let mut peer = Driven::new(Crowd { sharded_from: from(sharded), sparse_from: from(sparse) });
    peer.feed(Input::Tick);
    for _ in 0..MAX_INPUTS {
        if choices.is_empty() || peer.step(&mut choices).is_err() {
            break;
        }
    }
}

struct Driven {
    spec: RunSpec,
    node: Node,
    now: Time,
    /// Effects whose answers are outstanding.
    owed: Vec<Effect>,
    /// Payloads in the store.
    held: BTreeSet<PayloadRef>,
    /// Units computed for the round that runs.
    computed: BTreeMap<StateRef, UnitSet>,
}

fn state(round: u64, variant: u8) -> StateRef {
    StateRef { round, digest: Digest::of(&[round as u8, variant]) }
}

fn digest(number: u8) -> Digest {
    Digest::of(&[b'p', number % 8])
}

fn payload(number: u8, shard: Option<u32>) -> PayloadRef {
    PayloadRef { digest: digest(number), bytes: PAYLOAD.bytes(shard) }
}

fn shard(choices: &mut Unstructured<'_>) -> Result<Option<u32>> {
    Ok(if choices.arbitrary()? { Some(choices.int_in_range(0..=PAYLOAD.shards)?) } else { None })
}

impl Driven {
    fn new(crowd: Crowd) -> Self {
        let spec = fixtures::spec();
        let config = Config {
            spec: spec.clone(),
            key: fixtures::key(0),
            functions: 1,
            payload: PAYLOAD,
            max_state_bytes: 10_000,
            expected_peers: 1,
            gather_at_most: Duration::from_secs(5),
            membership: Membership::Open,
            crowd,
        };
        let meta = StateMeta { state: state(0, 0), bytes: 1000, finished: false };
        let node = Node::new(config, meta, Vec::new(), Time(0));
        let (owed, held, computed) = Default::default();
        Self { spec, node, now: Time(0), owed, held, computed }
    }

    fn step(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let peer = fixtures::id(choices.int_in_range(0..=PEERS - 1)?);
        match choices.int_in_range(0..=9)? {
            0 => {
                let member = Member { peer, addresses: addresses(choices)? };
                self.feed(Input::Connected(member));
            }
            1 => self.feed(Input::Disconnected(peer)),
            2 => {
                let payload = payload(choices.arbitrary()?, shard(choices)?);
                self.held.insert(payload);
                self.feed(Input::PayloadHeld(payload));
            }
            3 => self.wait(choices)?,
            4 | 5 => self.answer(choices)?,
            _ => {
                if let Some(message) = self.message(peer, choices)? {
                    self.feed(Input::Message { from: peer, message });
                }
            }
        }
        Ok(())
    }

    /// Lets time pass: to the next deadline, or by any amount.
    fn wait(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        if choices.arbitrary()? {
            self.now = self.now + Duration::from_millis(choices.int_in_range(0..=20_000)?);
        } else if let Some(deadline) = self.node.deadline() {
            self.now = self.now.max(deadline);
        }
        for _ in 0..MAX_IDLE_TICKS {
            self.feed(Input::Tick);
            if self.node.deadline().is_none_or(|deadline| deadline > self.now) {
                return Ok(());
            }
        }
        panic!("the peer asks for ticks without end at {:?}", self.now);
    }

    /// Carries out one of the effects that are owed an answer.
    fn answer(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        if self.owed.is_empty() {
            return Ok(());
        }
        let fails = choices.ratio(1, 8)?;
        let index = choices.choose_index(self.owed.len())?;
        let input = match self.owed.swap_remove(index) {
            Effect::Compute { from, unit, .. } if fails => Input::UnitFailed { from, unit, cause: "é".repeat(600) },
            Effect::Compute { from, unit, .. } => {
                self.computed.entry(from).or_default().insert(unit);
                Input::UnitComputed { from, unit, tally: self.tally(from, unit, choices)? }
            }
            Effect::Sum { from, units } => {
                let payload = payload(choices.arbitrary()?, None);
                self.held.insert(payload);
                Input::Summed { from, units, payload }
            }
            Effect::Split { from, units } => {
                let number = choices.arbitrary()?;
                let shards: Vec<PayloadRef> = (0..PAYLOAD.shards).map(|shard| payload(number, Some(shard))).collect();
                self.held.extend(&shards);
                Input::Split { from, units, shards }
            }
            Effect::Combine { from, shard, .. } => {
                let payload = payload(choices.arbitrary()?, Some(shard));
                self.held.insert(payload);
                Input::Combined { from, shard, payload }
            }
            Effect::Apply { from, .. } => {
                let next = from.round + 1;
                let meta = StateMeta { state: state(next, 0), bytes: 1000, finished: next > self.spec.rounds };
                Input::Applied { from, meta }
            }
            Effect::FetchState { state, .. } if fails => Input::StateUnavailable(state),
            Effect::FetchState { state, bytes, .. } => {
                Input::StateFetched(StateMeta { state, bytes, finished: state.round > self.spec.rounds })
            }
            other => unreachable!("{other:?} is owed no answer"),
        };
        self.feed(input);
        Ok(())
    }

    fn tally(&self, from: StateRef, unit: u32, choices: &mut Unstructured<'_>) -> Result<Tally> {
        let plan = RoundPlan::new(&self.spec, from.round);
        let (training, evaluation) = expected_samples(&self.spec, &plan, &[unit].into_iter().collect());
        // A function of this peer may report any loss.
        let loss_sum = if choices.ratio(1, 16)? { choices.arbitrary()? } else { 1 << 38 };
        Ok(Tally { samples: training + evaluation, correct: 1, loss_sum })
    }

    fn message(&self, sender: PeerId, choices: &mut Unstructured<'_>) -> Result<Option<Message>> {
        let from = self.some_state(choices)?;
        Ok(Some(match choices.int_in_range(0..=9)? {
            0..=2 => Message::Heartbeat(Heartbeat {
                state: from,
                state_bytes: if choices.ratio(1, 8)? { choices.arbitrary()? } else { 1000 },
                functions: choices.arbitrary()?,
                unit_time: UnitTime { us: choices.arbitrary()?, from_round: choices.int_in_range(0..=20)? },
                finished: choices.arbitrary()?,
            }),
            3..=5 => Message::Contribution(Box::new(self.contribution(sender, from, choices)?)),
            6 => Message::UnitsWanted { from, units: units(choices)?, shard: shard(choices)? },
            7 => Message::UnitFailed { from, unit: choices.int_in_range(0..=8)?, cause: "no".into() },
            8 => {
                let count = choices.int_in_range(0..=40)?;
                let member = |choices: &mut Unstructured<'_>| {
                    Ok(Member { peer: PeerId(choices.arbitrary()?), addresses: addresses(choices)? })
                };
                Message::Members((0..count).map(|_| member(choices)).collect::<Result<_>>()?)
            }
            _ => {
                let length = choices.int_in_range(0..=300)?.min(choices.len());
                return Ok(Message::decode(choices.bytes(length)?).ok());
            }
        }))
    }

    fn contribution(
        &self,
        sender: PeerId,
        from: StateRef,
        choices: &mut Unstructured<'_>,
    ) -> Result<SignedContribution> {
        let author = choices.int_in_range(0..=PEERS * 2 - 1)?;
        // Mostly the sender itself, as only its own contributions are taken.
        let number = (0..PEERS).find(|&peer| author >= PEERS && fixtures::id(peer) == sender).unwrap_or(author % PEERS);
        let honest =
            fixtures::contribution(number, from, units(choices)?, shard(choices)?, digest(choices.arbitrary()?));
        if choices.ratio(3, 4)? {
            return Ok(honest);
        }
        let tally = |choices: &mut Unstructured<'_>| -> Result<Tally> {
            Ok(Tally {
                samples: choices.int_in_range(0..=20)?,
                correct: choices.arbitrary()?,
                loss_sum: choices.arbitrary()?,
            })
        };
        let changed = Contribution {
            training: Tally { samples: honest.contribution.training.samples, ..tally(choices)? },
            evaluation: tally(choices)?,
            elapsed_us: choices.arbitrary()?,
            ..honest.contribution.clone()
        };
        if choices.ratio(1, 4)? {
            // Under a signature of something else.
            let mut forged = honest;
            forged.contribution = changed;
            return Ok(forged);
        }
        Ok(SignedContribution::sign(changed, &fixtures::key(number)))
    }

    /// Mostly a state near the peer's own; seldom one that no run has.
    fn some_state(&self, choices: &mut Unstructured<'_>) -> Result<StateRef> {
        let own = self.node.state().state;
        Ok(match choices.int_in_range(0..=11)? {
            0..=5 => own,
            6 | 7 => state(own.round + 1, 0),
            8 => state(own.round.saturating_sub(1), 0),
            9 => state(choices.int_in_range(0..=6)?, 0),
            10 => state(own.round, choices.int_in_range(0..=2)?),
            _ => StateRef { round: choices.arbitrary()?, digest: Digest(choices.arbitrary()?) },
        })
    }

    fn feed(&mut self, input: Input) {
        let effects = self.node.handle(self.now, input);
        assert!(effects.len() <= MAX_EFFECTS, "{} effects of one input", effects.len());
        for effect in effects {
            self.perform(effect);
        }
        // A deadline can be asked for at any moment.
        let _ = self.node.deadline();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send { message, .. } => {
                let bytes = message.encode();
                assert!(bytes.len() <= MAX_MESSAGE_BYTES, "a message of {} bytes", bytes.len());
                assert_eq!(Message::decode(&bytes), Ok(message), "a message that others cannot read");
            }
            Effect::PushPayload { payload, .. } | Effect::Accumulate { payload, .. } => {
                assert!(self.held.contains(&payload), "uses a payload that is not held");
            }
            Effect::Compute { from, unit, kind } => {
                let plan = RoundPlan::new(&self.spec, from.round);
                assert!(unit < plan.total() && plan.kind(unit) == kind, "unit {unit} is none of the round");
                self.owed.push(effect);
            }
            Effect::Sum { from, ref units } | Effect::Split { from, ref units } => {
                let computed = self.computed.get(&from).is_some_and(|computed| units.is_subset(computed));
                assert!(computed && !units.is_empty(), "sums units that were not computed");
                self.owed.push(effect);
            }
            Effect::Combine { from, shard, ref cover } => {
                assert!(shard < PAYLOAD.shards, "a shard that the run does not have");
                self.check_cover(from, cover);
                self.owed.push(effect);
            }
            Effect::Apply { from, ref cover } => {
                self.check_parts(from, cover);
                self.owed.push(effect);
            }
            Effect::FetchState { ref donors, bytes, .. } => {
                assert!(!donors.is_empty() && bytes <= 10_000, "fetches from nobody, or too much");
                self.owed.push(effect);
            }
            Effect::DropPayloads(digests) => self.held.retain(|payload| !digests.contains(&payload.digest)),
            Effect::PushState { .. } => panic!("pushes a state, which only servers do"),
            Effect::Connect(member) => assert_ne!(member.peer, self.node.id(), "dials itself"),
            Effect::FetchPayload { .. }
            | Effect::BeginRound { .. }
            | Effect::Record(_)
            | Effect::Finished(_)
            | Effect::Exit
            | Effect::Stop(_) => {}
        }
    }

    /// Either whole sums that are a cover, or the total of each shard.
    fn check_parts(&self, from: StateRef, parts: &[SignedContribution]) {
        let shards: Vec<u32> = parts.iter().filter_map(|part| part.contribution.shard).collect();
        if shards.is_empty() {
            return self.check_cover(from, parts);
        }
        assert_eq!(shards.len(), parts.len(), "whole sums and shards in one cover");
        let distinct: BTreeSet<u32> = shards.iter().copied().collect();
        assert!(distinct.into_iter().eq(0..PAYLOAD.shards) && shards.len() == PAYLOAD.shards as usize);
        parts.iter().for_each(|part| self.check_cover(from, std::slice::from_ref(part)));
    }

    fn check_cover(&self, from: StateRef, cover: &[SignedContribution]) {
        let plan = RoundPlan::new(&self.spec, from.round);
        let mut seen = UnitSet::new();
        for part in cover {
            assert_eq!(part.verify(), Ok(()), "a forged contribution in a cover");
            let part = &part.contribution;
            assert_eq!((part.run, part.from), (self.spec.id(), from), "a contribution to something else");
            assert!(part.units.is_disjoint(&seen), "a unit is in the cover twice");
            seen = seen.union(&part.units);
            let gradient = part.units.iter().any(|unit| plan.kind(unit) == UnitKind::Gradient);
            let held = part.payload.is_some_and(|payload| self.held.contains(&payload));
            assert_eq!(gradient, held, "a payload of the cover is not held");
        }
        assert_eq!(seen, plan.all(), "a unit is missing from the cover");
    }
}

fn units(choices: &mut Unstructured<'_>) -> Result<UnitSet> {
    let bits: u8 = choices.arbitrary()?;
    let mut units: UnitSet = (0..5).filter(|unit| bits >> unit & 1 == 1).collect();
    if choices.ratio(1, 16)? {
        units.insert(choices.arbitrary()?);
    }
    Ok(units)
}

fn addresses(choices: &mut Unstructured<'_>) -> Result<Vec<SocketAddr>> {
    let count = choices.int_in_range(0..=9)?;
    (0..count)
        .map(|_| Ok(SocketAddr::new(IpAddr::V6(choices.arbitrary::<[u8; 16]>()?.into()), choices.arbitrary()?)))
        .collect()
}
