use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use peerless_protocol::{Contribution, Digest, PayloadRef, PeerId, SignedContribution, StateRef};
use peerless_store::{
    Batch, BillingRecord, ContributionRecord, EvaluationRecord, EventRecord, InvocationRecord, InvocationTotals,
    LEDGER_VERSION, Ledger, LedgerError, RefusalRecord, RoundRecord, RoundTimes, SessionRecord, StateOrigin,
    StateRecord, UnitAttempt,
};
use rusqlite::Connection;
use tempfile::TempDir;

use super::fixtures::{spec, tally};

fn path(directory: &TempDir) -> PathBuf {
    directory.path().join("ledger.sqlite")
}

fn round(round: u64) -> RoundRecord {
    RoundRecord {
        round,
        at_us: 1_700_000_000_000_000,
        state_digest: Digest::of(&round.to_le_bytes()),
        training_samples: 256,
        training_correct: 200,
        training_loss: Some(0.5),
        evaluation: (round == 2).then_some(EvaluationRecord { samples: 10, correct: 9, loss: Some(0.25) }),
        times: RoundTimes { compute_us: 1, sum_us: 2, transfer_us: 3, update_us: 4, digest_us: 5, wait_us: 6 },
        units_computed: 4,
        backup_units: 1,
    }
}

fn batch(number: u64) -> Batch {
    let peer = PeerId([number as u8; 32]);
    let contribution = |accepted: bool| ContributionRecord {
        round: number,
        at_us: 7,
        peer,
        units: [0, 1, 2, 5, 7, 8].into_iter().collect(),
        samples: 6,
        digest: accepted.then_some(Digest::of(b"payload")),
        accepted,
        proof: None,
    };
    let invocation = |attempt: u32, outcome: &str| InvocationRecord {
        id: u64::from(attempt),
        round: Some(number),
        unit: Some(3),
        kind: "gradient".into(),
        platform: "process".into(),
        function: "4711".into(),
        cold: attempt == 1,
        outcome: outcome.into(),
        attempt,
        duration_us: 1000,
        peak_memory_bytes: u64::from(attempt) << 20,
        error: (outcome != "ok").then(|| "killed by signal 9".into()),
        ..InvocationRecord::default()
    };
    let event = EventRecord { at_us: 9, round: Some(number), kind: "backup".into(), detail: r#"{"unit":3}"#.into() };
    Batch {
        state: Some((StateRef { round: number + 1, digest: Digest::of(&number.to_le_bytes()) }, StateOrigin::Applied)),
        round: Some(round(number)),
        contributions: vec![contribution(true), contribution(false)],
        invocations: vec![invocation(1, "crashed"), invocation(2, "ok")],
        events: vec![event],
        refusals: Vec::new(),
        alive: None,
    }
}

/// A contribution of two units to the round from this state, with numbers beyond those of SQLite.
fn signed(from: StateRef, elapsed_us: u64) -> SignedContribution {
    let key = SigningKey::from_bytes(&[3; 32]);
    let contribution = Contribution {
        run: spec().id(),
        peer: PeerId(key.verifying_key().to_bytes()),
        from,
        units: [0, 3].into_iter().collect(),
        shard: Some(7),
        training: tally(4, 2, -17),
        evaluation: tally(0, 0, 0),
        elapsed_us,
        payload: Some(PayloadRef { digest: Digest::of(b"payload"), bytes: 96 }),
    };
    SignedContribution::sign(contribution, &key)
}

#[test]
fn what_was_recorded_is_found_again_by_a_reader_beside_the_writer() {
    let directory = TempDir::new().unwrap();
    let mut writer = Ledger::open(&path(&directory)).unwrap();
    (0..5).for_each(|number| writer.record(&batch(number)).unwrap());
    let reader = Ledger::open_read_only(&path(&directory)).unwrap();
    assert_eq!(reader.rounds(1, 3).unwrap(), [round(1), round(2), round(3)]);
    assert_eq!(reader.last_round().unwrap(), Some(round(4)));
    assert_eq!(reader.state_digest(3).unwrap(), Some(Digest::of(&2_u64.to_le_bytes())));
    assert_eq!(reader.state_digest(0).unwrap(), None);
    assert_eq!(reader.newest_state().unwrap().map(|state| state.round), Some(5));
    let states = reader.states(2, 2).unwrap();
    assert_eq!(states, [1_u64, 2].map(|number| batch(number).state.unwrap().0));
    let attempt = |round, succeeded| UnitAttempt { round, unit: 3, succeeded };
    assert_eq!(reader.gradient_attempts(1, 1).unwrap(), [attempt(1, false), attempt(1, true)]);
    assert_eq!(reader.gradient_attempts(3, 9).unwrap().len(), 4);
    let totals = InvocationTotals {
        invocations: 10,
        cold_starts: 5,
        failed: 5,
        retried: 5,
        duration_us: 10_000,
        peak_memory_bytes: 2 << 20,
    };
    assert_eq!(reader.invocation_totals().unwrap(), totals);
    assert_eq!(reader.accepted_contributions(&PeerId([3; 32])).unwrap(), 1);
    assert_eq!(reader.backup_units().unwrap(), 5);
    let events = reader.last_events(2).unwrap();
    assert_eq!(events, [batch(3).events[0].clone(), batch(4).events[0].clone()]);
    writer.record(&batch(5)).unwrap();
    assert_eq!(reader.last_round().unwrap(), Some(round(5)));
}

#[test]
fn what_nobody_wanted_any_more_has_not_failed() {
    let directory = TempDir::new().unwrap();
    let mut ledger = Ledger::open(&path(&directory)).unwrap();
    let mut unwanted = batch(1);
    unwanted.invocations.iter_mut().for_each(|invocation| invocation.outcome = "discarded".into());
    ledger.record(&unwanted).unwrap();
    ledger.record(&batch(2)).unwrap();
    let totals = ledger.invocation_totals().unwrap();
    assert_eq!((totals.invocations, totals.failed), (4, 1));
}

#[test]
fn users_can_query_it_with_any_sqlite() {
    let directory = TempDir::new().unwrap();
    Ledger::open(&path(&directory)).unwrap().record(&batch(2)).unwrap();
    let connection = Connection::open(path(&directory)).unwrap();
    let text = |query: &str| connection.query_row(query, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(text("SELECT units FROM contributions LIMIT 1"), "0-2,5,7-8");
    assert_eq!(text("SELECT detail ->> 'unit' || '' FROM events"), "3");
    assert_eq!(text("SELECT round || ' ' || evaluation_correct FROM rounds"), "2 9");
    assert_eq!(text("SELECT error FROM invocations WHERE outcome <> 'ok'"), "killed by signal 9");
}

#[test]
fn a_round_that_is_applied_again_replaces_its_record() {
    let directory = TempDir::new().unwrap();
    let mut ledger = Ledger::open(&path(&directory)).unwrap();
    ledger.record(&batch(1)).unwrap();
    ledger.record(&batch(1)).unwrap();
    assert_eq!(ledger.rounds(0, 10).unwrap(), [round(1)]);
    let accepted: Vec<bool> =
        ledger.contributions(0, 10).unwrap().into_iter().map(|contribution| contribution.accepted).collect();
    assert_eq!(accepted, [false, false, true, false], "the first cover still counts");
    // Invocations were paid for twice.
    assert_eq!(ledger.invocation_totals().unwrap().invocations, 4);
}

#[test]
fn when_a_round_was_applied_before_is_known_after_it_was_applied_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&path(&directory)).unwrap();
    let at = |at_us| Batch { round: Some(RoundRecord { at_us, ..round(3) }), ..Batch::default() };
    [500, 700, 900].into_iter().for_each(|at_us| ledger.record(&at(at_us)).unwrap());
    assert_eq!(ledger.rounds_redone().unwrap(), [(3, 500), (3, 700)]);
    assert_eq!(ledger.round_ends().unwrap(), [(900, 3)]);
}

#[test]
fn a_batch_is_recorded_whole_or_not_at_all() {
    let directory = TempDir::new().unwrap();
    let mut ledger = Ledger::open(&path(&directory)).unwrap();
    let mut bad = batch(1);
    bad.events[0].detail = "{not json".into();
    assert!(matches!(ledger.record(&bad), Err(LedgerError::Sqlite { .. })));
    assert_eq!(ledger.last_round().unwrap(), None);
    assert_eq!(ledger.newest_state().unwrap(), None);
}

#[test]
fn a_ledger_of_a_newer_version_is_refused_and_unchanged() {
    let directory = TempDir::new().unwrap();
    Ledger::open(&path(&directory)).unwrap();
    let set = |version: i64| {
        let connection = Connection::open(path(&directory)).unwrap();
        connection.execute("UPDATE schema SET version = ?1", [version]).unwrap();
    };
    set(99);
    let error = Ledger::open(&path(&directory)).unwrap_err();
    assert!(matches!(error, LedgerError::Newer { found: 99, .. }), "{error}");
    assert!(matches!(Ledger::open_read_only(&path(&directory)), Err(LedgerError::Newer { .. })));
    set(LEDGER_VERSION);
    Ledger::open(&path(&directory)).unwrap();
}

#[test]
fn what_is_no_ledger_is_refused() {
    let directory = TempDir::new().unwrap();
    std::fs::write(path(&directory), b"something else, and long enough to be looked at").unwrap();
    assert!(matches!(Ledger::open(&path(&directory)), Err(LedgerError::Sqlite { .. })));
    let missing = directory.path().join("missing");
    assert!(matches!(Ledger::open_read_only(&missing), Err(LedgerError::Sqlite { .. })));
    assert!(!missing.exists());
}

#[test]
fn a_contribution_is_read_back_with_a_signature_that_still_holds() {
    let directory = TempDir::new().unwrap();
    let mut ledger = Ledger::open(&path(&directory)).unwrap();
    let from = StateRef { round: 5, digest: Digest::of(b"state") };
    let signed = signed(from, u64::MAX);
    let contributions = vec![ContributionRecord::of(&signed, 11)];
    ledger.record(&Batch { contributions: contributions.clone(), ..Batch::default() }).unwrap();
    let read = ledger.contributions(5, 6).unwrap();
    assert_eq!(read, contributions);
    assert_eq!(read[0].signed(spec().id()), Some(signed));
    assert_eq!(read[0].signed(spec().id()).unwrap().verify(), Ok(()));
    for column in ["digest", "state_digest", "peer"] {
        let connection = Connection::open(path(&directory)).unwrap();
        let change = format!("UPDATE contributions SET {column} = ?1");
        connection.execute(&change, [Digest::of(column.as_bytes()).to_string()]).unwrap();
        let changed = ledger.contributions(5, 6).unwrap().pop().unwrap().signed(spec().id()).unwrap();
        assert!(changed.verify().is_err(), "{column}");
    }
}

#[test]
fn a_row_that_holds_no_contribution_is_an_error() {
    let directory = TempDir::new().unwrap();
    let mut ledger = Ledger::open(&path(&directory)).unwrap();
    let from = StateRef { round: 5, digest: Digest::of(b"state") };
    let contributions = vec![ContributionRecord::of(&signed(from, 7), 11)];
    ledger.record(&Batch { contributions, ..Batch::default() }).unwrap();
    for (column, value) in [("signature", "12"), ("units", "9-1"), ("units", "0-4000000000"), ("peer", "me")] {
        let connection = Connection::open(path(&directory)).unwrap();
        let change = |value: &str| connection.execute(&format!("UPDATE contributions SET {column} = ?1"), [value]);
        let before: String =
            connection.query_row(&format!("SELECT {column} FROM contributions"), [], |row| row.get(0)).unwrap();
        change(value).unwrap();
        assert!(matches!(ledger.contributions(0, 9), Err(LedgerError::Sqlite { .. })), "{column} {value}");
        change(&before).unwrap();
    }
    assert_eq!(ledger.contributions(0, 9).unwrap().len(), 1);
}

#[test]
fn refusals_are_added_up_by_sender_and_kind() {
    let directory = TempDir::new().unwrap();
    let mut ledger = Ledger::open(&path(&directory)).unwrap();
    let refusal = |kind: &str, times, at_us| RefusalRecord {
        peer: PeerId([7; 32]),
        kind: kind.into(),
        times,
        at_us,
        reason: format!("at {}", at_us.0),
    };
    for refusals in
        [vec![refusal("replayed", 1, (1, 1)), refusal("malformed", 9, (1, 4))], vec![refusal("replayed", 4, (5, 8))]]
    {
        ledger.record(&Batch { refusals, ..Batch::default() }).unwrap();
    }
    let expected =
        [refusal("malformed", 9, (1, 4)), RefusalRecord { reason: "at 1".into(), ..refusal("replayed", 5, (1, 8)) }];
    assert_eq!(ledger.refusals(10).unwrap(), expected);
    assert_eq!(ledger.refusals(1).unwrap(), expected[..1]);
}

/// The tables as version 1 made them.
const VERSION_1: &str = include_str!("ledger_version_1.sql");

#[test]
fn a_ledger_of_version_1_is_read_as_it_is_and_upgraded_when_it_is_written() {
    let directory = TempDir::new().unwrap();
    let connection = Connection::open(path(&directory)).unwrap();
    connection.execute_batch(VERSION_1).unwrap();
    drop(connection);
    let reader = Ledger::open_read_only(&path(&directory)).unwrap();
    let read = reader.contributions(0, 10).unwrap();
    assert_eq!(
        read.iter().map(|row| (row.accepted, row.proof.is_some())).collect::<Vec<_>>(),
        [(false, false), (true, false)]
    );
    assert!(!reader.keeps_all_signatures().unwrap());
    assert_eq!(reader.refusals(10).unwrap(), []);
    let reference = StateRef { round: 4, digest: Digest([0x44; 32]) };
    assert_eq!(reader.state_records(0, 10).unwrap(), [StateRecord { reference, origin: StateOrigin::Applied }]);

    let mut writer = Ledger::open(&path(&directory)).unwrap();
    let contributions = vec![ContributionRecord::of(&signed(reference, 7), 11)];
    writer.record(&Batch { contributions: contributions.clone(), ..Batch::default() }).unwrap();
    let read = writer.contributions(0, 10).unwrap();
    // The round had been applied twice, of which version 1 kept both covers.
    assert_eq!(read.iter().map(|row| row.accepted).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(read[2..], contributions);
    assert!(!writer.keeps_all_signatures().unwrap(), "some rows are older");
    drop(Ledger::open(&path(&directory)).unwrap());
}

#[test]
fn a_new_ledger_keeps_all_signatures() {
    let directory = TempDir::new().unwrap();
    assert!(Ledger::open(&path(&directory)).unwrap().keeps_all_signatures().unwrap());
}

fn invocations(ledger: &Ledger) -> Vec<InvocationRecord> {
    let mut found = Vec::new();
    ledger.visit_invocations(|record| found.push(record)).unwrap();
    found
}

#[test]
fn sessions_and_what_was_billed_in_them_are_found_again() {
    let directory = TempDir::new().unwrap();
    let mut ledger = Ledger::open(&path(&directory)).unwrap();
    assert_eq!(ledger.begin_session(100, r#"{"machine":null}"#).unwrap(), 1);
    assert_eq!(ledger.begin_session(200, "{}").unwrap(), 2);
    let billing = BillingRecord {
        memory_mb: 1769,
        billed_ms: 41,
        init_us: 17_000,
        requests: 1,
        tensor_bytes_in: 4,
        tensor_bytes_out: 5,
        bucket_puts: 6,
        bucket_gets: 7,
    };
    let record = InvocationRecord { session: Some(2), billing, ..batch(1).invocations[0].clone() };
    let at = |at_us| Batch { alive: Some((2, at_us)), invocations: vec![record.clone()], ..Batch::default() };
    ledger.record(&at(300)).unwrap();
    ledger.record(&at(250)).unwrap();
    assert_eq!(invocations(&ledger), [record.clone(), record]);
    let session = |number, started_at_us, last_at_us, tariff: &str| SessionRecord {
        number,
        started_at_us,
        last_at_us,
        tariff: tariff.into(),
    };
    let expected = [session(1, 100, 100, r#"{"machine":null}"#), session(2, 200, 300, "{}")];
    assert_eq!(ledger.sessions().unwrap(), expected, "a clock that was set back shortens no session");
    assert!(ledger.begin_session(400, "no json").is_err());
}

/// Tables as version 2 made them.
const VERSION_2: &str = include_str!("ledger_version_2.sql");

#[test]
fn invocations_of_old_ledgers_are_read_before_and_after_an_upgrade() {
    for (version, tables) in [(1, VERSION_1), (2, VERSION_2)] {
        let directory = TempDir::new().unwrap();
        let connection = Connection::open(path(&directory)).unwrap();
        connection.execute_batch(tables).unwrap();
        if version == 2 {
            connection.execute("INSERT INTO schema VALUES (2)", []).unwrap();
        }
        let row = "INSERT INTO invocations VALUES (7, 3, 2, 'gradient', 'process', '4711', 1, 'ok', 1, 11, 12, 13, 14,
            15, 16, NULL)";
        connection.execute(row, []).unwrap();
        drop(connection);
        let expected = InvocationRecord {
            id: 7,
            round: Some(3),
            unit: Some(2),
            kind: "gradient".into(),
            platform: "process".into(),
            function: "4711".into(),
            cold: true,
            outcome: "ok".into(),
            attempt: 1,
            started_at_us: 11,
            duration_us: 12,
            queue_us: 13,
            peak_memory_bytes: 14,
            bytes_in: 15,
            bytes_out: 16,
            ..InvocationRecord::default()
        };
        let reader = Ledger::open_read_only(&path(&directory)).unwrap();
        assert_eq!(invocations(&reader), std::slice::from_ref(&expected), "version {version}");
        assert_eq!(reader.sessions().unwrap(), []);

        let mut writer = Ledger::open(&path(&directory)).unwrap();
        assert_eq!(writer.begin_session(5, "{}").unwrap(), 1);
        let new = InvocationRecord { id: 8, session: Some(1), ..expected.clone() };
        let batch = Batch { invocations: vec![new.clone()], alive: Some((1, 6)), ..Batch::default() };
        writer.record(&batch).unwrap();
        assert_eq!(invocations(&writer), [expected, new], "version {version}");
        assert_eq!(writer.keeps_all_signatures().unwrap(), version == 2);
        drop(Ledger::open(&path(&directory)).unwrap());
        // A reader that was open before the upgrade goes on.
        assert_eq!(invocations(&reader).len(), 2);
    }
}
