//! The ledger: a SQLite database of what happened and what it cost, which users can query.
//!
//! The write-ahead log is flushed to the device only now and then: a record may be lost with the power
//! but not with the process, and a lost record costs statistics, never the model.

mod audit;
mod invocations;
mod records;

use std::path::{Path, PathBuf};
use std::time::Duration;

use peerless_protocol::{Digest, PeerId, StateRef, UnitSet};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, params};
use thiserror::Error;

use crate::error::FileError;
use crate::hex;

pub use records::{
    Batch, BillingRecord, ContributionProof, ContributionRecord, EvaluationRecord, EventRecord, InvocationRecord,
    InvocationTotals, RefusalRecord, RoundRecord, RoundTimes, SessionRecord, StateOrigin, StateRecord, UnitAttempt,
};

/// Version of the tables; see `ledger/schema.sql`.
pub const LEDGER_VERSION: i64 = 3;

const SCHEMA: &str = include_str!("ledger/schema.sql");

const FROM_VERSION_1: &str = include_str!("ledger/from_version_1.sql");

const FROM_VERSION_2: &str = include_str!("ledger/from_version_2.sql");

/// Kind of the event that a round is applied once more; the detail's `before_at_us` is when it was before.
const ROUND_REDONE: &str = "round-redone";

/// How long a statement waits for another process that holds the database for a moment (a reader that
/// recovers the log, a user's `sqlite3`).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A ledger that cannot be opened, written or read.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// Written by a newer version of the program.
    #[error("ledger {} has version {found}, this program knows versions up to {LEDGER_VERSION}; use the newer peerless that wrote it", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version found.
        found: i64,
    },
    /// The disk is full; the transaction was rolled back.
    #[error(transparent)]
    File(#[from] FileError),
    /// Anything else that SQLite reports.
    #[error("ledger {}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
}

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
}

impl Ledger {
    /// Opens or creates the ledger for writing. One process at a time writes; any number read.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut ledger = Self::connect(path, flags)?;
        ledger.run(|connection| {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")
        })?;
        // The row of the version before stays: it tells that older rows may lack what this version adds.
        let upgrade: &[&str] = match ledger.version()? {
            None => &[SCHEMA],
            Some(1) => &[FROM_VERSION_1, FROM_VERSION_2],
            Some(2) => &[FROM_VERSION_2],
            Some(_) => &[],
        };
        if !upgrade.is_empty() {
            ledger.transact(|transaction| {
                upgrade.iter().try_for_each(|statements| transaction.execute_batch(statements))?;
                transaction.execute("INSERT INTO schema VALUES (?1)", [LEDGER_VERSION])?;
                Ok(())
            })?;
        }
        ledger.check_version()?;
        Ok(ledger)
    }

    /// Opens an existing ledger for reading, while a peer writes it or not.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn open_read_only(path: &Path) -> Result<Self, LedgerError> {
        let ledger = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        ledger.check_version()?;
        Ok(ledger)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, LedgerError> {
        // The connection is used by one thread at a time, which the borrow checker sees to.
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| named(path, error))?;
        let ledger = Self { connection, path: path.to_path_buf() };
        ledger.run(|connection| connection.busy_timeout(BUSY_TIMEOUT))?;
        Ok(ledger)
    }

    /// The version of the tables; `None` in an empty database.
    fn version(&self) -> Result<Option<i64>, LedgerError> {
        self.run(|connection| {
            if !connection.table_exists(None, "schema")? {
                return Ok(None);
            }
            connection.query_row("SELECT max(version) FROM schema", [], |row| row.get(0))
        })
    }

    fn check_version(&self) -> Result<(), LedgerError> {
        match self.version()? {
            Some(found) if found > LEDGER_VERSION => Err(LedgerError::Newer { path: self.path.clone(), found }),
            _ => Ok(()),
        }
    }

    /// Records a batch in one transaction.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing of the batch is then recorded.
    pub fn record(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        self.transact(|transaction| {
            if let Some((state, origin)) = &batch.state {
                insert_state(transaction, state, *origin)?;
            }
            if let Some(round) = &batch.round {
                note_redone(transaction, round)?;
                insert_round(transaction, round)?;
                supersede_contributions(transaction, round.round)?;
            }
            insert_contributions(transaction, &batch.contributions)?;
            invocations::insert(transaction, &batch.invocations)?;
            insert_events(transaction, &batch.events)?;
            add_refusals(transaction, &batch.refusals)?;
            batch.alive.map_or(Ok(()), |(session, at_us)| invocations::prolong_session(transaction, session, at_us))
        })
    }

    /// Digest of the state that this peer last held for `round`.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn state_digest(&self, round: u64) -> Result<Option<Digest>, LedgerError> {
        self.run(|connection| {
            let mut query = connection.prepare_cached("SELECT digest FROM states WHERE round = ?1")?;
            query.query_row([int(round)], |row| digest(row, 0)).optional()
        })
    }

    /// The newest state that this peer held.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn newest_state(&self) -> Result<Option<StateRef>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT round, digest FROM states ORDER BY round DESC LIMIT 1";
            connection.prepare_cached(query)?.query_row([], state_ref).optional()
        })
    }

    /// The applied rounds from `first` on, at most `limit` of them.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn rounds(&self, first: u64, limit: u32) -> Result<Vec<RoundRecord>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT round, at_us, state_digest, training_samples, training_correct, training_loss,
                evaluation_samples, evaluation_correct, evaluation_loss, compute_us, sum_us, transfer_us,
                update_us, digest_us, wait_us, units_computed, backup_units
                FROM rounds WHERE round >= ?1 ORDER BY round LIMIT ?2";
            let mut query = connection.prepare_cached(query)?;
            query.query_map(params![int(first), limit], round_record)?.collect()
        })
    }

    /// The newest applied round.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn last_round(&self) -> Result<Option<RoundRecord>, LedgerError> {
        let newest = self.run(|connection| {
            let newest = connection.query_row("SELECT max(round) FROM rounds", [], |row| row.get::<_, Option<i64>>(0));
            newest.map(|round| round.map(i64::cast_unsigned))
        })?;
        match newest {
            Some(round) => Ok(self.rounds(round, 1)?.pop()),
            None => Ok(None),
        }
    }

    /// The states from `first` on that this peer held, at most `limit` of them.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn states(&self, first: u64, limit: u32) -> Result<Vec<StateRef>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT round, digest FROM states WHERE round >= ?1 ORDER BY round LIMIT ?2";
            connection.prepare_cached(query)?.query_map(params![int(first), limit], state_ref)?.collect()
        })
    }

    /// The last `limit` events, oldest first.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn last_events(&self, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT at_us, round, kind, detail FROM
                (SELECT rowid AS number, * FROM events ORDER BY rowid DESC LIMIT ?1) ORDER BY number";
            connection.prepare_cached(query)?.query_map([limit], event_record)?.collect()
        })
    }

    /// The events behind row `row` with their rows, at most `limit` of them, in the order in which they were recorded.
    /// Rows count from 1, and none is ever changed.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn events_after(&self, row: u64, limit: u32) -> Result<Vec<(u64, EventRecord)>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT at_us, round, kind, detail, rowid FROM events WHERE rowid > ?1 ORDER BY rowid LIMIT ?2";
            let event = |row: &Row<'_>| Ok((unsigned(row, 4)?, event_record(row)?));
            connection.prepare_cached(query)?.query_map(params![int(row), limit], event)?.collect()
        })
    }

    /// The newest rows of events and of invocations, 0 where there are none. They become less only when the power fails
    /// before they are on the device.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn newest_rows(&self) -> Result<(u64, u64), LedgerError> {
        self.run(|connection| {
            let query =
                "SELECT (SELECT coalesce(max(rowid), 0) FROM events), (SELECT coalesce(max(rowid), 0) FROM invocations)";
            connection.prepare_cached(query)?.query_row([], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))
        })
    }

    /// Contributions that `peer` announced and that were part of an applied cover.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn accepted_contributions(&self, peer: &PeerId) -> Result<u64, LedgerError> {
        self.run(|connection| {
            let query = "SELECT count(*) FROM contributions WHERE peer = ?1 AND accepted";
            connection.query_row(query, [peer.to_string()], |row| unsigned(row, 0))
        })
    }

    /// Units that this peer computed in place of their owners, over all rounds.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn backup_units(&self) -> Result<u64, LedgerError> {
        self.run(|connection| {
            let query = "SELECT coalesce(sum(backup_units), 0) FROM rounds";
            connection.query_row(query, [], |row| unsigned(row, 0))
        })
    }

    fn run<T>(&self, operation: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        operation(&self.connection).map_err(|error| named(&self.path, error))
    }

    fn transact(
        &mut self,
        operation: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), LedgerError> {
        let path = &self.path;
        let transaction = self.connection.transaction();
        let committed = transaction.and_then(|transaction| {
            operation(&transaction)?;
            transaction.commit()
        });
        committed.map_err(|error| named(path, error))
    }
}

fn named(path: &Path, error: rusqlite::Error) -> LedgerError {
    let path = path.to_path_buf();
    if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
        return LedgerError::File(FileError::Full { action: "write", path });
    }
    LedgerError::Sqlite { path, source: error }
}

fn insert_state(transaction: &Transaction<'_>, state: &StateRef, origin: StateOrigin) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO states VALUES (?1, ?2, ?3)")?;
    insert.execute(params![int(state.round), state.digest.to_string(), origin.name()])?;
    Ok(())
}

/// A round that was applied before is applied again: its row is replaced, so when it was applied first goes to the events.
fn note_redone(transaction: &Transaction<'_>, record: &RoundRecord) -> rusqlite::Result<()> {
    let mut note = transaction.prepare_cached(
        "INSERT INTO events SELECT ?1, round, ?2, json_object('before_at_us', at_us) FROM rounds WHERE round = ?3",
    )?;
    note.execute(params![int(record.at_us), ROUND_REDONE, int(record.round)])?;
    Ok(())
}

fn insert_round(transaction: &Transaction<'_>, record: &RoundRecord) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT OR REPLACE INTO rounds VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?;
    let evaluation = record.evaluation;
    let times = &record.times;
    insert.execute(params![
        int(record.round),
        int(record.at_us),
        record.state_digest.to_string(),
        int(record.training_samples),
        int(record.training_correct),
        record.training_loss,
        evaluation.map(|evaluation| int(evaluation.samples)),
        evaluation.map(|evaluation| int(evaluation.correct)),
        evaluation.and_then(|evaluation| evaluation.loss),
        int(times.compute_us),
        int(times.sum_us),
        int(times.transfer_us),
        int(times.update_us),
        int(times.digest_us),
        int(times.wait_us),
        record.units_computed,
        record.backup_units,
    ])?;
    Ok(())
}

fn state_ref(row: &Row<'_>) -> rusqlite::Result<StateRef> {
    Ok(StateRef { round: unsigned(row, 0)?, digest: digest(row, 1)? })
}

fn round_record(row: &Row<'_>) -> rusqlite::Result<RoundRecord> {
    let evaluation = match row.get::<_, Option<i64>>(6)? {
        Some(samples) => {
            Some(EvaluationRecord { samples: samples.cast_unsigned(), correct: unsigned(row, 7)?, loss: row.get(8)? })
        }
        None => None,
    };
    Ok(RoundRecord {
        round: unsigned(row, 0)?,
        at_us: unsigned(row, 1)?,
        state_digest: digest(row, 2)?,
        training_samples: unsigned(row, 3)?,
        training_correct: unsigned(row, 4)?,
        training_loss: row.get(5)?,
        evaluation,
        times: RoundTimes {
            compute_us: unsigned(row, 9)?,
            sum_us: unsigned(row, 10)?,
            transfer_us: unsigned(row, 11)?,
            update_us: unsigned(row, 12)?,
            digest_us: unsigned(row, 13)?,
            wait_us: unsigned(row, 14)?,
        },
        units_computed: row.get(15)?,
        backup_units: row.get(16)?,
    })
}

/// A round that is applied again has another cover than before.
fn supersede_contributions(transaction: &Transaction<'_>, round: u64) -> rusqlite::Result<()> {
    let mut update =
        transaction.prepare_cached("UPDATE contributions SET accepted = 0 WHERE round = ?1 AND accepted")?;
    update.execute([int(round)])?;
    Ok(())
}

fn insert_contributions(transaction: &Transaction<'_>, records: &[ContributionRecord]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO contributions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?;
    for record in records {
        // What is signed is kept bit for bit: a member may claim numbers beyond SQLite's.
        let bits = |of: fn(&ContributionProof) -> u64| record.proof.as_ref().map(|proof| of(proof).cast_signed());
        let proof = record.proof.as_ref();
        insert.execute(params![
            int(record.round),
            int(record.at_us),
            record.peer.to_string(),
            unit_ranges(&record.units),
            int(record.samples),
            record.digest.map(|digest| digest.to_string()),
            record.accepted,
            proof.map(|proof| proof.from.to_string()),
            bits(|proof| proof.training.samples),
            bits(|proof| proof.training.correct),
            proof.map(|proof| proof.training.loss_sum),
            bits(|proof| proof.evaluation.samples),
            bits(|proof| proof.evaluation.correct),
            proof.map(|proof| proof.evaluation.loss_sum),
            bits(|proof| proof.elapsed_us),
            bits(|proof| proof.payload_bytes),
            proof.and_then(|proof| proof.shard),
            proof.map(|proof| hex::encode(&proof.signature)),
        ])?;
    }
    Ok(())
}

fn add_refusals(transaction: &Transaction<'_>, records: &[RefusalRecord]) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO refusals VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (peer, kind) DO UPDATE SET times = times + excluded.times, last_at_us = excluded.last_at_us",
    )?;
    for record in records {
        let (first, last) = record.at_us;
        let peer = record.peer.to_string();
        add.execute(params![peer, record.kind, int(record.times), int(first), int(last), record.reason])?;
    }
    Ok(())
}

fn insert_events(transaction: &Transaction<'_>, records: &[EventRecord]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4)")?;
    for record in records {
        insert.execute(params![int(record.at_us), record.round.map(int), record.kind, record.detail])?;
    }
    Ok(())
}

fn event_record(row: &Row<'_>) -> rusqlite::Result<EventRecord> {
    Ok(EventRecord {
        at_us: unsigned(row, 0)?,
        round: row.get::<_, Option<i64>>(1)?.map(i64::cast_unsigned),
        kind: row.get(2)?,
        detail: row.get(3)?,
    })
}

/// Units as people write them: `0-3,7`.
fn unit_ranges(units: &UnitSet) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for unit in units.iter() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == unit => *last = unit,
            _ => ranges.push((unit, unit)),
        }
    }
    let texts = ranges.into_iter().map(
        |(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        },
    );
    texts.collect::<Vec<_>>().join(",")
}

/// SQLite has no unsigned 64-bit integers; nothing that is recorded comes near the limit.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or_default())
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
