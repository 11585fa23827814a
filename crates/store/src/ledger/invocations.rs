//! Invocations, and the sessions that they were part of: what a bill is made of.

use rusqlite::{Row, Transaction, params};

use super::records::{BillingRecord, InvocationRecord, InvocationTotals, SessionRecord, UnitAttempt};
use super::{Ledger, LedgerError, ROUND_REDONE, int, unsigned};

/// Columns that versions 1 and 2 did not have.
const BILLING: &str = "session, memory_mb, billed_ms, init_us, requests, tensor_bytes_in, tensor_bytes_out,
    bucket_puts, bucket_gets";
const NO_BILLING: &str = "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL";

impl Ledger {
    /// Begins a session; its number.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn begin_session(&mut self, started_at_us: u64, tariff: &str) -> Result<u64, LedgerError> {
        self.run(|connection| {
            let insert =
                "INSERT INTO sessions (started_at_us, last_at_us, tariff) VALUES (?1, ?1, ?2) RETURNING number";
            connection.query_row(insert, params![int(started_at_us), tariff], |row| unsigned(row, 0))
        })
    }

    /// All sessions, by number; none before version 3.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn sessions(&self) -> Result<Vec<SessionRecord>, LedgerError> {
        if self.version()?.is_none_or(|version| version < 3) {
            return Ok(Vec::new());
        }
        self.run(|connection| {
            let query = "SELECT number, started_at_us, last_at_us, tariff FROM sessions ORDER BY number";
            connection.prepare_cached(query)?.query_map([], session_record)?.collect()
        })
    }

    /// Shows all invocations to `visit`, in the order in which they were recorded.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn visit_invocations(&self, mut visit: impl FnMut(InvocationRecord)) -> Result<(), LedgerError> {
        self.visit_invocations_after(0, u32::MAX, |_, record| visit(record))
    }

    /// Shows the invocations behind row `row` to `visit`, with their rows, at most `limit` of them, in the order in which
    /// they were recorded. Rows count from 1, and none is ever changed.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn visit_invocations_after(
        &self,
        row: u64,
        limit: u32,
        mut visit: impl FnMut(u64, InvocationRecord),
    ) -> Result<(), LedgerError> {
        let billing = if self.version()?.is_none_or(|version| version < 3) { NO_BILLING } else { BILLING };
        self.run(|connection| {
            let query = format!(
                "SELECT id, round, unit, kind, platform, function, cold, outcome, attempt, started_at_us, duration_us,
                queue_us, peak_memory_bytes, bytes_in, bytes_out, error, {billing}, rowid FROM invocations
                WHERE rowid > ?1 ORDER BY rowid LIMIT ?2"
            );
            let mut query = connection.prepare_cached(&query)?;
            let mut rows = query.query(params![int(row), limit])?;
            while let Some(row) = rows.next()? {
                visit(unsigned(row, 25)?, invocation_record(row)?);
            }
            Ok(())
        })
    }

    /// When the applied rounds were applied, in microseconds since the Unix epoch, and their numbers, by time.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn round_ends(&self) -> Result<Vec<(u64, u64)>, LedgerError> {
        self.run(|connection| {
            let mut query = connection.prepare_cached("SELECT at_us, round FROM rounds ORDER BY at_us, round")?;
            query.query_map([], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?.collect()
        })
    }

    /// Rounds that were applied again, each as often as that was, with when they were applied before, in microseconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn rounds_redone(&self) -> Result<Vec<(u64, u64)>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT round, json_extract(detail, '$.before_at_us') FROM events
                WHERE kind = ?1 AND round IS NOT NULL ORDER BY rowid";
            let mut query = connection.prepare_cached(query)?;
            query.query_map([ROUND_REDONE], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?.collect()
        })
    }

    /// The attempts at gradient units of the rounds `first` to `last`, by round.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn gradient_attempts(&self, first: u64, last: u64) -> Result<Vec<UnitAttempt>, LedgerError> {
        self.run(|connection| {
            let query = "SELECT round, unit, outcome FROM invocations
                WHERE kind = 'gradient' AND unit IS NOT NULL AND round BETWEEN ?1 AND ?2 ORDER BY round";
            let attempt = |row: &Row<'_>| {
                Ok(UnitAttempt {
                    round: unsigned(row, 0)?,
                    unit: row.get(1)?,
                    succeeded: row.get::<_, String>(2)? == "ok",
                })
            };
            connection.prepare_cached(query)?.query_map(params![int(first), int(last)], attempt)?.collect()
        })
    }

    /// Totals over all invocations.
    ///
    /// # Errors
    /// [`LedgerError`]; see its variants.
    pub fn invocation_totals(&self) -> Result<InvocationTotals, LedgerError> {
        self.run(|connection| {
            let query = "SELECT count(*), coalesce(sum(cold), 0), coalesce(sum(outcome NOT IN ('ok', 'discarded')), 0),
                coalesce(sum(attempt > 1), 0), coalesce(sum(duration_us), 0),
                coalesce(max(peak_memory_bytes), 0) FROM invocations";
            connection.query_row(query, [], |row| {
                Ok(InvocationTotals {
                    invocations: unsigned(row, 0)?,
                    cold_starts: unsigned(row, 1)?,
                    failed: unsigned(row, 2)?,
                    retried: unsigned(row, 3)?,
                    duration_us: unsigned(row, 4)?,
                    peak_memory_bytes: unsigned(row, 5)?,
                })
            })
        })
    }
}

fn session_record(row: &Row<'_>) -> rusqlite::Result<SessionRecord> {
    Ok(SessionRecord {
        number: unsigned(row, 0)?,
        started_at_us: unsigned(row, 1)?,
        last_at_us: unsigned(row, 2)?,
        tariff: row.get(3)?,
    })
}

fn invocation_record(row: &Row<'_>) -> rusqlite::Result<InvocationRecord> {
    let optional = |column: usize| row.get::<_, Option<i64>>(column).map(|value| value.map(i64::cast_unsigned));
    let long = |column: usize| row.get::<_, Option<i64>>(column).map(|value| value.unwrap_or_default().max(0) as u64);
    let short = |column: usize| row.get::<_, Option<u32>>(column).map(Option::unwrap_or_default);
    Ok(InvocationRecord {
        id: unsigned(row, 0)?,
        round: optional(1)?,
        unit: row.get(2)?,
        kind: row.get(3)?,
        platform: row.get(4)?,
        function: row.get(5)?,
        cold: row.get(6)?,
        outcome: row.get(7)?,
        attempt: row.get(8)?,
        started_at_us: unsigned(row, 9)?,
        duration_us: unsigned(row, 10)?,
        queue_us: unsigned(row, 11)?,
        peak_memory_bytes: unsigned(row, 12)?,
        bytes_in: unsigned(row, 13)?,
        bytes_out: unsigned(row, 14)?,
        error: row.get(15)?,
        session: optional(16)?,
        billing: BillingRecord {
            memory_mb: short(17)?,
            billed_ms: long(18)?,
            init_us: long(19)?,
            requests: short(20)?,
            tensor_bytes_in: long(21)?,
            tensor_bytes_out: long(22)?,
            bucket_puts: short(23)?,
            bucket_gets: short(24)?,
        },
    })
}

/// A session that wrote something was alive. Clocks may be set back.
pub(super) fn prolong_session(transaction: &Transaction<'_>, session: u64, at_us: u64) -> rusqlite::Result<()> {
    let mut update =
        transaction.prepare_cached("UPDATE sessions SET last_at_us = max(last_at_us, ?2) WHERE number = ?1")?;
    update.execute([int(session), int(at_us)])?;
    Ok(())
}

pub(super) fn insert(transaction: &Transaction<'_>, records: &[InvocationRecord]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO invocations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
         ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
    )?;
    for record in records {
        insert.execute(params![
            int(record.id),
            record.round.map(int),
            record.unit,
            record.kind,
            record.platform,
            record.function,
            record.cold,
            record.outcome,
            record.attempt,
            int(record.started_at_us),
            int(record.duration_us),
            int(record.queue_us),
            int(record.peak_memory_bytes),
            int(record.bytes_in),
            int(record.bytes_out),
            record.error,
            record.session.map(int),
            record.billing.memory_mb,
            int(record.billing.billed_ms),
            int(record.billing.init_us),
            record.billing.requests,
            int(record.billing.tensor_bytes_in),
            int(record.billing.tensor_bytes_out),
            record.billing.bucket_puts,
            record.billing.bucket_gets,
        ])?;
    }
    Ok(())
}
