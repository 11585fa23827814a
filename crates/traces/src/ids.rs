//! Ids of traces and spans. They follow from what they stand for, so that exporters on several machines put the peers'
//! spans into the same traces, and a second export has the same spans as the first.

use opentelemetry::{SpanId, TraceId};
use peerless_peer::run_directory::RunDirectory;
use peerless_protocol::PeerId;
use peerless_store::InvocationRecord;

/// What the key is derived for.
const KEY: &str = "peerless 2026-11 ids of traces and spans";

/// A round at a peer in one life of its process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The life; 0 in ledgers that do not know lives yet. First: all rounds of a life are before those of the next one.
    pub session: u64,
    /// The round. A life that begins at an older state has rounds that an earlier one had, too.
    pub round: u64,
}

/// Makes the ids of one run.
#[derive(Debug, Clone)]
pub struct Ids {
    key: [u8; 32],
}

impl Ids {
    /// Those of a run. The run's id alone would not do: a spec that is trained twice has it twice. What is different each
    /// time, and known to all peers, is the join secret; nobody gets from the ids back to it.
    pub fn of(run: &RunDirectory) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(KEY);
        hasher.update(run.secret().as_bytes()).update(&run.spec().id().0);
        Self { key: hasher.finalize().into() }
    }

    /// Those of a run with this key.
    #[cfg(test)]
    pub fn from_key(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The trace of a round, or of the work that belongs to none.
    pub fn trace(&self, round: Option<u64>) -> TraceId {
        let round = round.map(u64::to_le_bytes);
        let bytes = self.hash("trace", round.as_ref().map_or(&[], |round| &round[..]));
        TraceId::from_bytes(first(&bytes))
    }

    /// A peer's round.
    pub fn round(&self, peer: &PeerId, place: Place) -> SpanId {
        self.span("round", peer, place, &[])
    }

    /// What a peer did for a unit.
    pub fn unit(&self, peer: &PeerId, place: Place, unit: u32) -> SpanId {
        self.span("unit", peer, place, &unit.to_le_bytes())
    }

    /// One attempt of a peer. Retries share the number of the invocation, hedges that of the attempt, too.
    pub fn invocation(&self, peer: &PeerId, place: Place, record: &InvocationRecord) -> SpanId {
        let attempt = u64::from(record.attempt);
        let mut bytes: Vec<u8> =
            [record.id, attempt, record.started_at_us].iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.extend(record.function.as_bytes());
        self.span("invocation", peer, place, &bytes)
    }

    fn span(&self, kind: &str, peer: &PeerId, place: Place, what: &[u8]) -> SpanId {
        let place = [place.session.to_le_bytes(), place.round.to_le_bytes()].concat();
        SpanId::from_bytes(first(&self.hash(kind, &[&peer.0[..], &place, what].concat())))
    }

    fn hash(&self, kind: &str, what: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The zero keeps a kind apart from what follows it.
        hasher.update(kind.as_bytes()).update(&[0]).update(what);
        hasher.finalize().into()
    }
}

fn first<const N: usize>(bytes: &[u8; 32]) -> [u8; N] {
    std::array::from_fn(|index| bytes[index])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ids(key: u8) -> Ids {
        Ids::from_key([key; 32])
    }

    #[test]
    fn each_thing_has_an_id_of_its_own_that_is_always_the_same() {
        let (one, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let place = Place { session: 1, round: 2 };
        let record =
            InvocationRecord { id: 7, attempt: 1, started_at_us: 5, function: "12".into(), ..Default::default() };
        let all = |ids: &Ids| {
            vec![
                ids.round(&one, place),
                ids.round(&other, place),
                ids.round(&one, Place { session: 2, round: 2 }),
                ids.round(&one, Place { session: 1, round: 3 }),
                ids.unit(&one, place, 0),
                ids.unit(&one, place, 1),
                ids.invocation(&one, place, &record),
                ids.invocation(&one, place, &InvocationRecord { attempt: 2, ..record.clone() }),
                // A hedge shares the number of the attempt.
                ids.invocation(&one, place, &InvocationRecord { function: "13".into(), ..record.clone() }),
            ]
        };
        let distinct: BTreeSet<[u8; 8]> =
            all(&ids(1)).into_iter().chain(all(&ids(2))).map(|id| id.to_bytes()).collect();
        assert_eq!(distinct.len(), 18);
        assert_eq!(all(&ids(1)), all(&ids(1)));
    }

    #[test]
    fn peers_share_the_trace_of_a_round_and_no_run_has_that_of_another() {
        let traces = [ids(1).trace(Some(1)), ids(1).trace(Some(2)), ids(1).trace(None), ids(2).trace(Some(1))];
        assert_eq!(traces.iter().map(|id| id.to_bytes()).collect::<BTreeSet<_>>().len(), 4);
        assert_eq!(ids(1).trace(Some(1)), traces[0]);
    }
}
