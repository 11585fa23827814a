use std::fs;
use std::path::Path;

use peerless_aggregation::FixedPoint;
use peerless_protocol::{Digest, RoundPlan, RunSpec};
use peerless_store::{
    Batch, Cover, LockError, Opened, PayloadFormat, RoundSums, StateOrigin, Store, StoreError, ledger_path, read_spec,
};
use tempfile::TempDir;

use crate::fixtures::{Random, layout, spec, state, tally};

struct Place {
    directory: TempDir,
    tensors: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap(), tensors: TempDir::new().unwrap() }
    }

    fn open(&self) -> Opened {
        self.open_for(&spec()).unwrap()
    }

    fn open_for(&self, spec: &RunSpec) -> Result<Opened, StoreError> {
        Store::open(self.directory.path(), self.tensors.path(), spec)
    }

    fn lose_tensors(&self) {
        fs::remove_dir_all(self.tensors.path().join("states")).unwrap();
    }
}

fn reopened(place: &Place) -> (Option<(u64, bool)>, usize) {
    let opened = place.open();
    if let Some(resumed) = &opened.resumed {
        assert_eq!(resumed.state, state(&spec(), 4, resumed.state.header.round));
        assert_eq!(resumed.stored.reference, resumed.state.reference());
        assert!(resumed.stored.path.exists());
    }
    let resumed = opened.resumed.map(|resumed| (resumed.state.header.round, resumed.checkpoint.is_some()));
    (resumed, opened.skipped.len())
}

#[test]
fn an_empty_store_has_nothing_to_resume() {
    assert_eq!(reopened(&Place::new()), (None, 0));
}

#[test]
fn the_newest_recorded_state_is_resumed() {
    let place = Place::new();
    let mut store = place.open().store;
    for round in 0..6 {
        let state = state(&spec(), 4, round);
        let stored = store.adopt(&state, StateOrigin::Applied).unwrap();
        if round == 3 {
            store.checkpoint(&state, stored.reference.digest).unwrap();
        }
    }
    drop(store);
    assert_eq!(reopened(&place), (Some((5, false)), 0));
    place.lose_tensors();
    // A machine that was switched off has the checkpoint only; now it is a tensor file again.
    assert_eq!(reopened(&place), (Some((3, true)), 0));
    assert_eq!(reopened(&place), (Some((3, false)), 0));
}

#[test]
fn a_state_that_was_stored_but_not_recorded_is_passed_over() {
    let place = Place::new();
    let mut store = place.open().store;
    store.adopt(&state(&spec(), 4, 1), StateOrigin::Initial).unwrap();
    store.tensors.put_state(&state(&spec(), 4, 2)).unwrap();
    drop(store);
    assert_eq!(reopened(&place), (Some((1, false)), 1));
}

#[test]
fn a_checkpoint_newer_than_every_whole_tensor_file_is_resumed() {
    let place = Place::new();
    let mut store = place.open().store;
    store.adopt(&state(&spec(), 4, 1), StateOrigin::Applied).unwrap();
    let newest = state(&spec(), 4, 2);
    let stored = store.adopt(&newest, StateOrigin::Applied).unwrap();
    store.checkpoint(&newest, stored.reference.digest).unwrap();
    drop(store);
    fs::write(&stored.path, b"damaged").unwrap();
    assert_eq!(reopened(&place), (Some((2, true)), 1));
}

#[test]
fn a_damaged_checkpoint_gives_way_to_an_older_tensor_file() {
    let place = Place::new();
    let mut store = place.open().store;
    store.adopt(&state(&spec(), 4, 1), StateOrigin::Applied).unwrap();
    let newest = state(&spec(), 4, 2);
    let stored = store.adopt(&newest, StateOrigin::Applied).unwrap();
    let checkpoint = store.checkpoint(&newest, stored.reference.digest).unwrap();
    drop(store);
    fs::remove_file(&stored.path).unwrap();
    fs::write(checkpoint, b"damaged").unwrap();
    assert_eq!(reopened(&place), (Some((1, false)), 1));
}

#[test]
fn a_state_that_lost_against_that_of_other_peers_is_not_resumed() {
    let place = Place::new();
    let mut store = place.open().store;
    let mut loser = state(&spec(), 4, 2);
    loser.vector[0] = -1.0;
    let stored = store.adopt(&loser, StateOrigin::Applied).unwrap();
    store.checkpoint(&loser, stored.reference.digest).unwrap();
    store.adopt(&state(&spec(), 4, 2), StateOrigin::Fetched).unwrap();
    drop(store);
    let opened = place.open();
    assert_eq!(opened.resumed.unwrap().state, state(&spec(), 4, 2));
    drop(opened.store);
    place.lose_tensors();
    assert_eq!(reopened(&place), (None, 1));
}

#[test]
fn a_store_in_use_is_refused() {
    let place = Place::new();
    let opened = place.open();
    let error = place.open_for(&spec()).unwrap_err();
    assert!(matches!(error, StoreError::Lock(LockError::InUse { .. })), "{error}");
    drop(opened);
    place.open();
}

#[test]
fn a_store_whose_owner_is_about_to_end_is_waited_for() {
    let place = Place::new();
    let opened = place.open();
    std::thread::scope(|scope| {
        let (ready, asked) = std::sync::mpsc::channel();
        let place = &place;
        let waiting = scope.spawn(move || {
            ready.send(()).unwrap();
            place.open()
        });
        asked.recv().unwrap();
        // Long enough for the other thread to find the lock taken; were it later, the test would only show less.
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(opened);
        waiting.join().unwrap();
    });
}

#[test]
fn a_directory_of_another_run_or_version_is_refused() {
    let place = Place::new();
    assert!(matches!(read_spec(place.directory.path()), Err(StoreError::NotAStore { .. })));
    drop(place.open());
    assert_eq!(read_spec(place.directory.path()).unwrap(), spec());
    let other = RunSpec { seed: 99, ..spec() };
    assert!(matches!(place.open_for(&other), Err(StoreError::OtherRun { .. })));
    for content in ["2\n", "", "0", "something"] {
        fs::write(place.directory.path().join("format"), content).unwrap();
        let error = place.open_for(&spec()).unwrap_err();
        assert!(matches!(error, StoreError::Format { .. }), "{content:?}: {error}");
        assert!(matches!(read_spec(place.directory.path()), Err(StoreError::Format { .. })));
    }
}

#[test]
fn a_ledger_of_a_newer_version_is_refused() {
    let place = Place::new();
    drop(place.open());
    let connection = rusqlite::Connection::open(ledger_path(place.directory.path())).unwrap();
    connection.execute("UPDATE schema SET version = 99", []).unwrap();
    drop(connection);
    assert!(matches!(place.open_for(&spec()), Err(StoreError::Ledger(_))));
}

/// Trains rounds `from.round..until` as one peer with its functions played by this test.
fn train(place: &Place, until: u64) -> Digest {
    let spec = spec();
    let Opened { mut store, resumed, .. } = place.open();
    let mut current = match resumed {
        Some(resumed) => resumed.state,
        None => {
            let state = state(&spec, 4, 0);
            store.adopt(&state, StateOrigin::Initial).unwrap();
            state
        }
    };
    let format = PayloadFormat::new(&spec, &layout(4)).unwrap();
    let mut sums = RoundSums::new(format, 1 << 20);
    while current.header.round < until {
        let round = current.header.round;
        let plan = RoundPlan::new(&spec, round);
        sums.begin(&plan).unwrap();
        store.tensors.remove_outputs_before(round).unwrap();
        for unit in 0..plan.gradient_units {
            let path = store.tensors.outputs().of_unit(round, unit);
            let digest = play_function(&path, &current.vector, round, unit);
            sums.add_unit(unit, &path, digest).unwrap();
        }
        let (digest, _) = sums.sum_of(&plan.all()).unwrap().unwrap();
        let evaluation = (plan.evaluation_units > 0).then(|| tally(10, 5, FixedPoint::LOSS.round_scalar(3.0).unwrap()));
        let cover = Cover::Parts(vec![(plan.all(), digest)]);
        let advanced = store.advance(&mut current, &mut sums, &cover, tally(8, 4, 1), evaluation).unwrap();
        let state = Some((advanced.stored.reference, StateOrigin::Applied));
        store.ledger.record(&Batch { state, ..Batch::default() }).unwrap();
        sums.drop_payloads(&[digest]);
        if round.is_multiple_of(3) {
            store.checkpoint(&current, advanced.stored.reference.digest).unwrap();
        }
    }
    current.digest()
}

/// A gradient that depends on the parameters, the round and the unit.
fn play_function(path: &Path, vector: &[f32], round: u64, unit: u32) -> Digest {
    let mut random = Random(round * 100 + u64::from(unit));
    let mut noise = || (random.below(1000) as f32) / 1e4;
    let bytes: Vec<u8> = vector.iter().flat_map(|element| (element * 0.1 + noise()).to_le_bytes()).collect();
    fs::write(path, &bytes).unwrap();
    Digest::of(&bytes)
}

#[test]
fn a_run_that_was_interrupted_ends_with_the_same_digest() {
    let undisturbed = train(&Place::new(), 20);
    let place = Place::new();
    train(&place, 5);
    train(&place, 12);
    place.lose_tensors();
    train(&place, 14);
    assert_eq!(train(&place, 20), undisturbed);
}
