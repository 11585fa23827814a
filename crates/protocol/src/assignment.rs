//! Who computes which unit: weighted rendezvous hashing with bounded load.
//!
//! Every peer works the assignment out for itself from its own view. Views may differ; the price is
//! a unit computed twice or a gap that backups close, never a wrong sum.
//!
//! Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
//! IEEE/ACM ToN 6(1), 1998. A peer of weight w takes part with w hashes, which weights it exactly
//! without the logarithm of the usual formula, whose bits depend on the C library.

use std::collections::BTreeMap;

use crate::ids::{Digest, PeerId};
use crate::mixing::split_mix;
use crate::units::UnitSet;

/// Largest weight that counts; a peer that announces more is taken as this.
pub const MAX_CAPACITY: u32 = 64;

/// The peers to deal units to, each with the number of functions it can run at once.
pub type Capacities = BTreeMap<PeerId, u32>;

/// Peers in descending preference for `unit` of the round that starts from `state`.
pub fn ranking(state: &Digest, unit: u32, peers: &Capacities) -> Vec<PeerId> {
    let key = word(&state.0) ^ split_mix(u64::from(unit));
    let mut ranked: Vec<(u64, PeerId)> =
        peers.iter().map(|(peer, &capacity)| (score(key, peer_word(peer), capacity), *peer)).collect();
    ranked.sort_by(|a, b| b.cmp(a));
    ranked.into_iter().map(|(_, peer)| peer).collect()
}

/// Deals out `units`: each goes to the first peer of its ranking that does not yet own its share
/// (units x capacity / total capacity, rounded up).
pub fn assign(state: &Digest, units: &UnitSet, peers: &Capacities) -> BTreeMap<u32, PeerId> {
    let weight = |capacity: u32| u64::from(capacity.clamp(1, MAX_CAPACITY));
    let total: u64 = peers.values().map(|&capacity| weight(capacity)).sum();
    let count = u64::from(units.len());
    let room = |capacity: u32| (count * weight(capacity)).div_ceil(total.max(1));
    let mut free: Vec<Candidate> = peers
        .iter()
        .map(|(peer, &capacity)| Candidate { peer: *peer, word: peer_word(peer), capacity, room: room(capacity) })
        .collect();
    let state = word(&state.0);
    let mut owners = BTreeMap::new();
    for unit in units.iter() {
        let key = state ^ split_mix(u64::from(unit));
        // The first of the ranking that has room, without sorting the others: a thousand peers deal out a
        // thousand units in every round.
        let best = (0..free.len()).max_by_key(|&index| (score(key, free[index].word, free[index].capacity), index));
        let Some(best) = best else { break };
        owners.insert(unit, free[best].peer);
        free[best].room -= 1;
        if free[best].room == 0 {
            // Keeps the order of ids, by which equal scores are told apart.
            free.remove(best);
        }
    }
    owners
}

/// A peer that may get another unit.
struct Candidate {
    peer: PeerId,
    word: u64,
    capacity: u32,
    /// Units that it may still get, at least one.
    room: u64,
}

fn peer_word(peer: &PeerId) -> u64 {
    word(&peer.0).rotate_left(32)
}

/// The place of a peer in the ranking of what `key` stands for; larger is better.
fn score(key: u64, peer: u64, capacity: u32) -> u64 {
    let base = key ^ peer;
    (0..capacity.clamp(1, MAX_CAPACITY))
        .map(|copy| split_mix(base ^ split_mix(u64::from(copy) << 32)))
        .max()
        .unwrap_or(0)
}

fn word(bytes: &[u8; 32]) -> u64 {
    bytes.chunks_exact(8).fold(0, |word, chunk| {
        let mut part = [0; 8];
        part.copy_from_slice(chunk);
        split_mix(word ^ u64::from_le_bytes(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(capacities: &[u32]) -> Capacities {
        let id = |index: usize| PeerId(*blake3::hash(&[index as u8]).as_bytes());
        capacities.iter().enumerate().map(|(index, &capacity)| (id(index), capacity)).collect()
    }

    fn loads(units: u32, peers: &Capacities, state: &Digest) -> BTreeMap<PeerId, u32> {
        let owners = assign(state, &(0..units).collect(), peers);
        assert_eq!(owners.len() as u32, units, "every unit has an owner");
        let mut loads: BTreeMap<PeerId, u32> = peers.keys().map(|peer| (*peer, 0)).collect();
        owners.values().for_each(|owner| *loads.entry(*owner).or_default() += 1);
        loads
    }

    #[test]
    fn four_units_and_four_equal_peers_give_one_each() {
        for round in 0..100_u8 {
            let loads = loads(4, &peers(&[1, 1, 1, 1]), &Digest::of(&[round]));
            assert!(loads.values().all(|&load| load == 1), "{loads:?}");
        }
    }

    #[test]
    fn the_owner_of_a_single_unit_is_the_first_of_its_ranking() {
        let peers = peers(&[1, 2, 1, 5, 3]);
        for round in 0..50_u8 {
            let state = Digest::of(&[round]);
            let owners = assign(&state, &[7].into_iter().collect(), &peers);
            assert_eq!(owners.get(&7), ranking(&state, 7, &peers).first());
        }
    }

    #[test]
    fn nobody_owns_more_than_its_share_rounded_up() {
        let peers = peers(&[1, 2, 5]);
        for round in 0..50_u8 {
            for (peer, load) in loads(44, &peers, &Digest::of(&[round])) {
                let share = (44 * peers[&peer]).div_ceil(8);
                assert!(load <= share, "{load} units, share {share}");
            }
        }
    }

    #[test]
    fn a_peer_with_three_times_the_capacity_is_ranked_first_three_times_as_often() {
        let peers = peers(&[1, 3]);
        let strong = peers.iter().find(|(_, capacity)| **capacity == 3).map(|(peer, _)| *peer).unwrap();
        let state = Digest::of(b"state");
        let first = (0..4000).filter(|&unit| ranking(&state, unit, &peers)[0] == strong).count();
        assert!((2850..3150).contains(&first), "{first} of 4000, expected about 3000");
    }

    #[test]
    fn losing_a_peer_moves_no_ranking_among_the_others() {
        let all = peers(&[1, 1, 1, 1]);
        let mut fewer = all.clone();
        let lost = *all.keys().next().unwrap();
        fewer.remove(&lost);
        let state = Digest::of(b"state");
        for unit in 0..64 {
            let mut expected = ranking(&state, unit, &all);
            expected.retain(|peer| *peer != lost);
            assert_eq!(ranking(&state, unit, &fewer), expected);
        }
    }
}
