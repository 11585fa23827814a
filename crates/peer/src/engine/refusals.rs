//! What was received and not used: counted by sender and kind, said once, and bounded whoever sends.

use std::collections::BTreeMap;

use peerless_protocol::{MessageError, PeerId, RefusalKind};
use peerless_store::{RefusalRecord, SumsError};

use crate::status::{PeerStatus, RefusalStatus};
use crate::transport::{CloseReason, Rejection, Violation};

/// Most pairs of sender and kind that are told apart. A member can come with as many keys as it likes.
const MAX_ENTRIES: usize = 1024;

/// Entries that the status shows.
const MAX_SHOWN: usize = 16;

/// Longest reason that is kept, in characters: some quote what was sent.
const MAX_REASON_CHARS: usize = 200;

/// Counts refusals.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    entries: BTreeMap<(PeerId, RefusalKind), Entry>,
    total: u64,
}

#[derive(Debug)]
struct Entry {
    times: u64,
    /// Those of them that no record holds yet.
    unrecorded: u64,
    /// When the first and the last of those came, in microseconds since the Unix epoch.
    at_us: (u64, u64),
    reason: String,
}

impl Refusals {
    /// Takes a refusal; says so in the log if it is the first of its sender and kind.
    pub fn count(&mut self, from: PeerId, kind: RefusalKind, reason: &str, at_us: u64) {
        self.total += 1;
        let full = self.entries.len() >= MAX_ENTRIES;
        if let Some(entry) = self.entries.get_mut(&(from, kind)) {
            if entry.unrecorded == 0 {
                entry.at_us.0 = at_us;
            }
            entry.at_us.1 = at_us;
            entry.times += 1;
            entry.unrecorded += 1;
            return;
        }
        if full {
            // In the total, and nowhere else.
            return;
        }
        tracing::warn!(peer = %from, kind = kind.name(), reason, "refused; more of this peer and kind are only counted");
        let reason = reason.chars().take(MAX_REASON_CHARS).collect();
        self.entries.insert((from, kind), Entry { times: 1, unrecorded: 1, at_us: (at_us, at_us), reason });
    }

    /// What the ledger does not have yet.
    pub fn take_records(&mut self) -> Vec<RefusalRecord> {
        let unrecorded = self.entries.iter_mut().filter(|(_, entry)| entry.unrecorded > 0);
        let record = |((peer, kind), entry): (&(PeerId, RefusalKind), &mut Entry)| RefusalRecord {
            peer: *peer,
            kind: kind.name().into(),
            times: std::mem::take(&mut entry.unrecorded),
            at_us: entry.at_us,
            reason: entry.reason.clone(),
        };
        unrecorded.map(record).collect()
    }

    /// Shows the counts, the largest ones first.
    pub fn describe(&self, status: &mut PeerStatus) {
        if status.refused == self.total {
            return;
        }
        let entry = |((peer, kind), entry): (&(PeerId, RefusalKind), &Entry)| RefusalStatus {
            peer: *peer,
            kind: kind.name().into(),
            times: entry.times,
            reason: entry.reason.clone(),
        };
        let mut shown: Vec<RefusalStatus> = self.entries.iter().map(entry).collect();
        shown.sort_by_key(|refusal| std::cmp::Reverse(refusal.times));
        shown.truncate(MAX_SHOWN);
        (status.refused, status.refusals) = (self.total, shown);
    }
}

/// The kind of a message that cannot be decoded.
pub(super) fn of_message(error: &MessageError) -> RefusalKind {
    match error {
        MessageError::TooLarge(_) | MessageError::TooMany(_) => RefusalKind::Oversized,
        MessageError::Version(_) => RefusalKind::Version,
        MessageError::Malformed(_) => RefusalKind::Malformed,
    }
}

/// The kind of a payload that is not used, unless that is this peer's own matter.
pub(super) fn of_payload(error: &SumsError) -> Option<RefusalKind> {
    match error {
        SumsError::Payload(_) | SumsError::ForeignPayload { .. } => Some(RefusalKind::Wrong),
        SumsError::Memory { .. } => Some(RefusalKind::Flood),
        _ => None,
    }
}

/// The kind of what a peer did to have its connection closed, if it did anything.
pub(super) fn of_close(reason: &CloseReason) -> Option<RefusalKind> {
    let CloseReason::Violated(violation) = reason else { return None };
    Some(match violation {
        Violation::TooLong { .. } | Violation::BlobTooLong { .. } | Violation::BlobOverrun { .. } => {
            RefusalKind::Oversized
        }
        Violation::UnknownFrame { .. }
        | Violation::Unexpected { .. }
        | Violation::Malformed { .. }
        | Violation::BlobInBlob
        | Violation::FetchLength { .. } => RefusalKind::Malformed,
    })
}

/// The kind of a rejection that an admitted peer is to blame for.
pub(super) fn of_rejection(reason: &Rejection) -> Option<RefusalKind> {
    matches!(reason, Rejection::CorruptPayload { .. }).then_some(RefusalKind::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_to_the_ledger_once() {
        let mut refusals = Refusals::default();
        let peer = PeerId([1; 32]);
        (0..3).for_each(|at| refusals.count(peer, RefusalKind::Forged, "a reason", at));
        refusals.count(peer, RefusalKind::Replayed, "another", 3);
        let times = |records: Vec<RefusalRecord>| {
            records.into_iter().map(|record| (record.kind, record.times, record.at_us)).collect::<Vec<_>>()
        };
        let first = times(refusals.take_records());
        assert_eq!(first, [("forged".to_owned(), 3, (0, 2)), ("replayed".to_owned(), 1, (3, 3))]);
        assert_eq!(refusals.take_records(), []);
        refusals.count(peer, RefusalKind::Forged, "a reason", 9);
        assert_eq!(times(refusals.take_records()), [("forged".to_owned(), 1, (9, 9))]);
    }

    #[test]
    fn senders_without_number_take_bounded_memory() {
        let mut refusals = Refusals::default();
        for number in 0..5000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            refusals.count(PeerId(key), RefusalKind::Malformed, &"x".repeat(10_000), 1);
        }
        assert_eq!((refusals.entries.len(), refusals.total), (MAX_ENTRIES, 5000));
        assert!(refusals.take_records().iter().all(|record| record.reason.len() <= MAX_REASON_CHARS));
    }
}
