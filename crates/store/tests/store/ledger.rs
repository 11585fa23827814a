use std::path::PathBuf;

use peerless_protocol::{Digest, PeerId, StateRef};
use peerless_store::{
    Batch, ContributionRecord, EvaluationRecord, EventRecord, InvocationRecord, InvocationTotals, Ledger, LedgerError,
    RoundRecord, RoundTimes, StateOrigin, UnitAttempt,
};
use rusqlite::Connection;
use tempfile::TempDir;

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
    }
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
    // Invocations were paid for twice.
    assert_eq!(ledger.invocation_totals().unwrap().invocations, 4);
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
    set(1);
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
