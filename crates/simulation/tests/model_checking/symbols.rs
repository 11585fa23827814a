//! Symbolic tensors: a payload stands for the set of unit results that it is the sum of, and a state
//! for the state before it and the *multiset* of unit results that were added. So a unit counted
//! twice, left out or computed from another state gives another digest, as real sums would.

use std::collections::BTreeMap;

use peerless_protocol::{Digest, PayloadRef, PayloadShape, SignedContribution, StateMeta, StateRef, UnitSet};

/// The form that all payloads are said to have.
pub const PAYLOAD: PayloadShape = PayloadShape { elements: 1, header_bytes: 16, shards: 1 };

/// The result of a unit: the state it was computed from, and its number.
type UnitResult = (StateRef, u32);

/// What digests stand for in a run of `rounds` rounds of `units` units.
pub struct Symbols {
    /// The states of the serial run.
    pub serial: Vec<StateRef>,
    pub all: UnitSet,
    payloads: BTreeMap<Digest, Vec<UnitResult>>,
}

/// What a cover makes of a state.
pub struct Applied {
    pub meta: StateMeta,
    /// Whether every unit of the round is in it exactly once, and nothing else.
    pub exactly_once: bool,
}

impl Symbols {
    pub fn new(rounds: u64, units: u32) -> Self {
        let all: UnitSet = (0..units).collect();
        let mut serial = vec![StateRef { round: 0, digest: Digest::of(b"initial") }];
        let mut payloads = BTreeMap::new();
        for round in 0..rounds as usize {
            let from = serial[round];
            serial.push(next(from, &all.iter().map(|unit| (from, unit)).collect::<Vec<_>>()));
            for bits in 1_u32..1 << units {
                let subset: UnitSet = (0..units).filter(|unit| bits >> unit & 1 == 1).collect();
                payloads.insert(sum(from, &subset).digest, subset.iter().map(|unit| (from, unit)).collect());
            }
        }
        Self { serial, all, payloads }
    }

    pub fn rounds(&self) -> u64 {
        self.serial.len() as u64 - 1
    }

    pub fn meta(&self, state: StateRef) -> StateMeta {
        StateMeta { state, bytes: 1000, finished: state.round >= self.rounds() }
    }

    /// The round that a sum belongs to.
    pub fn round_of(&self, payload: &PayloadRef) -> Option<u64> {
        self.payloads.get(&payload.digest)?.first().map(|(from, _)| from.round)
    }

    pub fn apply(&self, from: StateRef, cover: &[SignedContribution]) -> Applied {
        let payloads = cover.iter().filter_map(|part| part.contribution.payload);
        let unknown = |digest: Digest| vec![(StateRef { round: u64::MAX, digest }, 0)];
        let parts = payloads.map(|payload| {
            let known = self.payloads.get(&payload.digest).cloned();
            known.unwrap_or_else(|| unknown(payload.digest))
        });
        let mut results: Vec<UnitResult> = parts.flatten().collect();
        results.sort();
        let exactly_once = results.iter().copied().eq(self.all.iter().map(|unit| (from, unit)));
        Applied { meta: self.meta(next(from, &results)), exactly_once }
    }
}

/// The exact sum of units of the round that starts from `from`.
pub fn sum(from: StateRef, units: &UnitSet) -> PayloadRef {
    let text = format!("{:?} {units:?}", from.digest.0);
    PayloadRef { digest: Digest::of(text.as_bytes()), bytes: PAYLOAD.bytes(None) }
}

fn next(from: StateRef, results: &[UnitResult]) -> StateRef {
    let results: Vec<_> = results.iter().map(|(state, unit)| (state.digest.0, unit)).collect();
    let text = format!("{:?} {results:?}", from.digest.0);
    StateRef { round: from.round + 1, digest: Digest::of(text.as_bytes()) }
}
