//! What a peer keeps does not grow with the length of the run, nor with what a member sends.
//!
//! Why: a run takes days, and payloads are as large as the model. Whatever is kept for one round too
//! long is kept for ever, and shows only after hours outside. Here it shows after a few rounds.

use peerless_protocol::{Footprint, MAX_MEMBERS, RoundPlan};

/// Rounds that a peer may have begun since a payload arrived: one for a payload of the next round, one
/// for a payload that nobody announced, and the round in which it came.
pub(crate) const MAX_PAYLOAD_AGE: u64 = 3;

/// Contributions per peer beyond one per unit, as in the protocol.
const SPARE: usize = 8;

/// Early contributions per peer and shard, as in the protocol.
const PER_SHARD: usize = 4;

/// Payloads that nobody announced, as in the protocol, and those of the round before.
const UNANNOUNCED: usize = 64;

/// The same where payloads are shards.
const UNANNOUNCED_SHARDS: usize = 4096;

/// Rounds whose digests are compared, as in the protocol: eight back to the own one, and eight ahead.
const HISTORY: usize = 16;

/// Compares what a peer keeps with its limits. `plan` is that of the larger of the round under way and
/// the next one, `others` the number of peers that it was ever connected with;
/// `shards` are those that sums are exchanged in, `most_shards` those that they could be exchanged in.
pub(crate) fn check_footprint(
    found: &Footprint,
    plan: &RoundPlan,
    shards: u32,
    most_shards: u32,
    others: usize,
) -> Result<(), String> {
    let per_peer = plan.total() as usize + SPARE;
    // To the whole vector, and to each shard.
    let contributions = (others + 1) * per_peer * (1 + shards as usize);
    let early = (others + 1) * (per_peer + PER_SHARD * most_shards as usize);
    let unannounced = if shards > 0 { UNANNOUNCED_SHARDS } else { UNANNOUNCED };
    let limits = [
        ("contributions", found.contributions, contributions),
        ("early contributions", found.early, early.min(8192)),
        ("rounds of history", found.history, HISTORY),
        ("members", found.members, MAX_MEMBERS + 1),
        ("payloads", found.payloads, found.contributions + found.early + contributions + unannounced),
    ];
    match limits.into_iter().find(|(_, found, limit)| found > limit) {
        Some((what, found, limit)) => Err(format!("keeps {found} {what}, the bound is {limit}")),
        None => Ok(()),
    }
}
