//! Faults that proptest draws and shrinks.

use peerless_simulation::{Cut, DiskFate, Fault};
use proptest::prelude::*;

/// Up to four faults within the first seconds, each with its time in microseconds, among `peers` peers.
pub fn faults(peers: usize) -> impl Strategy<Value = Vec<(u64, Fault)>> {
    // Peer 0 is never crashed, so that somebody is there at the end.
    let victim = 1..peers.max(2);
    let one = (0..3_000_000_u64, 0..8_u8, victim).prop_map(|(at, kind, peer)| match kind {
        0 => vec![(at, Fault::Crash(peer))],
        1 => vec![(at, Fault::Crash(peer)), (at + 300_000, Fault::Restart(peer, DiskFate::Torn))],
        2 => vec![(at, Fault::Crash(peer)), (at + 50_000, Fault::Restart(peer, DiskFate::Lost))],
        3 | 4 => vec![(at, Fault::Freeze(peer)), (at + 1_500_000, Fault::Thaw(peer))],
        5 => vec![(at, Fault::Freeze(0)), (at + 400_000, Fault::Thaw(0))],
        6 => vec![(at, Fault::Cut(at as u32, Cut::both_ways([peer]))), (at + 1_000_000, Fault::Mend(at as u32))],
        _ => vec![(at, Fault::UnitFails(peer, (at % 6) as u32))],
    });
    prop::collection::vec(one, 0..5).prop_map(|faults| faults.concat())
}
