//! Reading a whole ledger back, to check it.

use peerless_protocol::{PeerId, StateRef, Tally, UnitSet};
use rusqlite::types::Type;
use rusqlite::{Row, params};

use super::records::{ContributionProof, ContributionRecord, EventRecord, RefusalRecord, StateOrigin, StateRecord};
use super::{Ledger, LedgerError, digest, int, unsigned};
use crate::hex;

/// Columns that version 1 did not have.
const PROOF: &str = "state_digest, training_samples, training_correct, training_loss_sum, evaluation_samples,
    evaluation_correct, evaluation_loss_sum, elapsed_us, payload_bytes, shard, signature";
const NO_PROOF: &str = "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL";

/// Version 1 left the contributions of earlier applications of a round as they were.
const ACCEPTED_IN_VERSION_1: &str =
    "accepted AND at_us IS (SELECT at_us FROM rounds WHERE rounds.round = contributions.round)";

/// Most units that the text of one row may name; a round has less.
const MAX_UNITS: u32 = 2 * peerless_protocol::MAX_UNITS;

impl Ledger {
    /// From now on all queries see the ledger as it is at the first of them, though a peer may go on
    /// writing it. For connections that are opened for reading, and dropped soon.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn hold(&self) -> Result<(), LedgerError> {
        self.run(|connection| connection.execute_batch("BEGIN"))
    }

    /// Whether every contribution was written with its signature: false if version 1 began the ledger.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn keeps_all_signatures(&self) -> Result<bool, LedgerError> {
        self.run(|connection| connection.query_row("SELECT min(version) >= 2 FROM schema", [], |row| row.get(0)))
    }

    /// States and their origins from round `first` on, at most `limit` of them, by round.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn state_records(&self, first: u64, limit: u32) -> Result<Vec<StateRecord>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT round, digest, origin FROM states WHERE round >= ?1 ORDER BY round LIMIT ?2";
            connection.prepare_cached(query)?.query_map(params![int(first), limit], state_record)?.collect()
        })
    }

    /// Contributions to rounds from `first` on and before `end`, by round; superseded ones too.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn contributions(&self, first: u64, end: u64) -> Result<Vec<ContributionRecord>, LedgerError> {
        let old = self.version()?.is_none_or(|version| version < 2);
        let (accepted, proof) = if old { (ACCEPTED_IN_VERSION_1, NO_PROOF) } else { ("accepted", PROOF) };
        self.run(|connection| {
            let query = format!(
                "SELECT round, at_us, peer, units, samples, digest, {accepted}, {proof} FROM contributions
                 WHERE round >= ?1 AND round < ?2 ORDER BY round, rowid"
            );
            connection.prepare_cached(&query)?.query_map([int(first), int(end)], contribution_record)?.collect()
        })
    }

    /// The last `limit` events of a kind, oldest first.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn events_of(&self, kind: &str, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT at_us, round, kind, detail FROM
                (SELECT rowid AS number, * FROM events WHERE kind = ?1 ORDER BY rowid DESC LIMIT ?2) ORDER BY number";
            connection.prepare_cached(query)?.query_map(params![kind, limit], super::event_record)?.collect()
        })
    }

    /// Messages and blobs of others that were not used.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn refused(&self) -> Result<u64, LedgerError> {
        if self.version()?.is_none_or(|version| version < 2) {
            return Ok(0);
        }
        let query = "SELECT coalesce(sum(times), 0) FROM refusals";
        self.run(|connection| connection.query_row(query, [], |row| unsigned(row, 0)))
    }

    /// How often what was refused, by sender and kind; at most `limit` rows, the most frequent ones.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn refusals(&self, limit: u32) -> Result<Vec<RefusalRecord>, LedgerError> {
        if self.version()?.is_none_or(|version| version < 2) {
            return Ok(Vec::new());
        }
        self.run(|connection| {
            let query = "SELECT peer, kind, times, first_at_us, last_at_us, reason FROM refusals
                ORDER BY times DESC, peer, kind LIMIT ?1";
            connection.prepare_cached(query)?.query_map([limit], refusal_record)?.collect()
        })
    }
}

fn state_record(row: &Row<'_>) -> rusqlite::Result<StateRecord> {
    let reference = StateRef { round: unsigned(row, 0)?, digest: digest(row, 1)? };
    let name: String = row.get(2)?;
    let origin = StateOrigin::named(&name).ok_or_else(|| malformed(2, format!("{name:?} is no origin of a state")))?;
    Ok(StateRecord { reference, origin })
}

fn contribution_record(row: &Row<'_>) -> rusqlite::Result<ContributionRecord> {
    let units: String = row.get(3)?;
    Ok(ContributionRecord {
        round: unsigned(row, 0)?,
        at_us: unsigned(row, 1)?,
        peer: peer(row, 2)?,
        units: parse_units(&units).ok_or_else(|| malformed(3, format!("{units:?} names no units")))?,
        samples: unsigned(row, 4)?,
        digest: row.get::<_, Option<String>>(5)?.map(|_| digest(row, 5)).transpose()?,
        accepted: row.get(6)?,
        proof: row.get::<_, Option<String>>(17)?.map(|text| contribution_proof(row, &text)).transpose()?,
    })
}

fn contribution_proof(row: &Row<'_>, signature: &str) -> rusqlite::Result<ContributionProof> {
    let bits = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let tally = |first: usize| {
        Ok::<_, rusqlite::Error>(Tally {
            samples: bits(first)?,
            correct: bits(first + 1)?,
            loss_sum: row.get(first + 2)?,
        })
    };
    let signature = hex::decode(signature).and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
    Ok(ContributionProof {
        from: digest(row, 7)?,
        training: tally(8)?,
        evaluation: tally(11)?,
        elapsed_us: bits(14)?,
        payload_bytes: bits(15)?,
        shard: row.get(16)?,
        signature: signature.ok_or_else(|| malformed(17, "the signature is not 64 bytes in hexadecimal".into()))?,
    })
}

fn refusal_record(row: &Row<'_>) -> rusqlite::Result<RefusalRecord> {
    Ok(RefusalRecord {
        peer: peer(row, 0)?,
        kind: row.get(1)?,
        times: unsigned(row, 2)?,
        at_us: (unsigned(row, 3)?, unsigned(row, 4)?),
        reason: row.get(5)?,
    })
}

fn peer(row: &Row<'_>, column: usize) -> rusqlite::Result<PeerId> {
    digest(row, column).map(|digest| PeerId(digest.0))
}

fn malformed(column: usize, what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.into())
}

/// The inverse of `unit_ranges`.
fn parse_units(text: &str) -> Option<UnitSet> {
    let mut units = UnitSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MAX_UNITS {
            return None;
        }
        (first..=last).for_each(|unit| units.insert(unit));
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_survive_being_written_and_read() {
        let units: UnitSet = [0, 1, 2, 5, 63, 64, 65, 900].into_iter().collect();
        assert_eq!(parse_units(&super::super::unit_ranges(&units)), Some(units));
    }

    #[test]
    fn text_that_names_no_units_is_refused() {
        for text in ["", "a", "3-1", "1,,2", "-1", "0-99999999", "1-"] {
            assert_eq!(parse_units(text), None, "{text:?}");
        }
    }
}
