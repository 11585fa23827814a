//! Who computes which unit: weighted rendezvous hashing with bounded load.
//!
//! Every peer works the assignment out for itself from its own view. Views may differ; the price is
//! a unit computed twice or a gap that backups close, never a wrong sum.
//!
//! Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
//! IEEE/ACM ToN 6(1), 1998. A peer of weight w takes part with w hashes, which weighs it exactly
//! without the logarithm of the usual formula, whose bits depend on the C library.

use std::collections::BTreeMap;

use crate::ids::{Digest, PeerId};
use crate::mixing::split_mix;
use crate::units::UnitSet;

/// Most functions that count; a peer that announces more is taken as this.
pub const MAX_FUNCTIONS: u32 = 64;

/// The speed of the fastest functions among the peers. A peer that is slower still counts as 1.
pub const EVEN_SPEED: u32 = 16;

/// How much of the work a peer can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Functions that it can run at once.
    pub functions: u32,
    /// How fast each of them is, in parts of [`EVEN_SPEED`].
    pub speed: u32,
}

impl Capacity {
    /// `functions` functions as fast as those of the others.
    pub fn even(functions: u32) -> Self {
        Self { functions, speed: EVEN_SPEED }
    }

    /// In proportion to the units that it computes in a given time.
    fn weight(self) -> u64 {
        u64::from(self.functions.clamp(1, MAX_FUNCTIONS)) * u64::from(self.speed.clamp(1, EVEN_SPEED))
    }

    /// The hashes that it takes part with: its weight in fast functions.
    fn copies(self) -> u32 {
        u32::try_from(self.weight() / u64::from(EVEN_SPEED)).unwrap_or(MAX_FUNCTIONS).max(1)
    }
}

/// The peers to deal units to.
pub type Capacities = BTreeMap<PeerId, Capacity>;

/// Peers in descending preference for `unit` of the round that starts from `state`.
pub fn ranking(state: &Digest, unit: u32, peers: &Capacities) -> Vec<PeerId> {
    let key = word(&state.0) ^ split_mix(u64::from(unit));
    let mut ranked: Vec<(u64, PeerId)> =
        peers.iter().map(|(peer, capacity)| (score(key, peer_word(peer), capacity.copies()), *peer)).collect();
    ranked.sort_by(|a, b| b.cmp(a));
    ranked.into_iter().map(|(_, peer)| peer).collect()
}

/// Deals out `units`: each goes to the first peer of its ranking that does not yet own its share, which is in
/// proportion to its number of functions and their speed. A much slower peer may own none.
pub fn assign(state: &Digest, units: &UnitSet, peers: &Capacities) -> BTreeMap<u32, PeerId> {
    let time = shortest_time(u64::from(units.len()), peers);
    let candidate = |(peer, capacity): (&PeerId, &Capacity)| Candidate {
        peer: *peer,
        word: peer_word(peer),
        copies: capacity.copies(),
        room: room(time, *capacity),
    };
    let mut free: Vec<Candidate> = peers.iter().map(candidate).filter(|candidate| candidate.room > 0).collect();
    let state = word(&state.0);
    let mut owners = BTreeMap::new();
    for unit in units.iter() {
        let key = state ^ split_mix(u64::from(unit));
        // The first of the ranking that has room, without sorting the others: a thousand peers deal out a
        // thousand units in every round.
        let best = (0..free.len()).max_by_key(|&index| (score(key, free[index].word, free[index].copies), index));
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
    copies: u32,
    /// Units that it may still get, at least one.
    room: u64,
}

/// Parts that the time a function of speed 1 takes for a unit is cut into, so that times are whole numbers.
const TICKS: u64 = 1 << 20;

/// Units that a peer gets if all are to be computed in `time` ticks. Shares of the fastest are rounded up, as in
/// Adams' method of dealing out seats, and those of slower peers down, since everyone would wait for their last unit.
fn room(time: u64, capacity: Capacity) -> u64 {
    let share = u128::from(time) * u128::from(capacity.weight());
    let ticks = u128::from(TICKS);
    let units = if capacity.speed >= EVEN_SPEED { share.div_ceil(ticks) } else { share / ticks };
    u64::try_from(units).unwrap_or(u64::MAX)
}

/// The least time, in ticks, for which the rooms of `peers` are enough for `units` units. By bisection.
fn shortest_time(units: u64, peers: &Capacities) -> u64 {
    let enough = |time| peers.values().map(|capacity| room(time, *capacity)).sum::<u64>() >= units;
    // A single peer of the least weight has room for all by then.
    let (mut low, mut high) = (0, units * TICKS);
    while low < high {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle + 1 }
    }
    high
}

fn peer_word(peer: &PeerId) -> u64 {
    word(&peer.0).rotate_left(32)
}

/// The place of a peer in the ranking of what `key` stands for; larger is better.
fn score(key: u64, peer: u64, copies: u32) -> u64 {
    let base = key ^ peer;
    (0..copies).map(|copy| split_mix(base ^ split_mix(u64::from(copy) << 32))).max().unwrap_or(0)
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
        capacities.iter().enumerate().map(|(index, &functions)| (id(index), Capacity::even(functions))).collect()
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
                let share = (44 * peers[&peer].functions).div_ceil(8);
                assert!(load <= share, "{load} units, share {share}");
            }
        }
    }

    /// Loads by speed, of peers with one function each.
    fn loads_by_speed(units: u32, speeds: [u32; 4], round: u8) -> Vec<(u32, u32)> {
        let mut peers = peers(&[1, 1, 1, 1]);
        peers.values_mut().zip(speeds).for_each(|(capacity, speed)| capacity.speed = speed);
        let loads = loads(units, &peers, &Digest::of(&[round]));
        loads.into_iter().map(|(peer, load)| (peers[&peer].speed, load)).collect()
    }

    #[test]
    fn a_slower_peer_gets_as_much_less_as_it_is_slower() {
        for round in 0..20 {
            let loads = loads_by_speed(52, [16, 16, 4, 16], round);
            assert_eq!(loads, [(16, 16), (16, 16), (4, 4), (16, 16)]);
        }
    }

    #[test]
    fn a_peer_that_would_be_waited_for_gets_nothing() {
        for round in 0..20 {
            for (speed, load) in loads_by_speed(4, [16, 16, 2, 16], round) {
                let most = if speed == 16 { 2 } else { 0 };
                assert!(load <= most, "{load} units at speed {speed}");
            }
        }
    }

    #[test]
    fn a_peer_with_three_times_the_capacity_is_ranked_first_three_times_as_often() {
        let peers = peers(&[1, 3]);
        let strong = peers.iter().find(|(_, capacity)| capacity.functions == 3).map(|(peer, _)| *peer).unwrap();
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
