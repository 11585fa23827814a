use std::fs;

use peerless_protocol::{Digest, RunSpec, StateRef};
use peerless_store::{LockError, State, StateError, TensorError, TensorStore};
use tempfile::TempDir;

use crate::fixtures::{Random, spec, state};

fn open(directory: &TempDir) -> TensorStore {
    let (store, skipped) = TensorStore::open(directory.path(), &spec(), 4).unwrap();
    assert_eq!(skipped, []);
    store
}

#[test]
fn functions_find_the_vector_at_path_and_offset() {
    let directory = TempDir::new().unwrap();
    let state = state(&spec(), 4, 5);
    let stored = open(&directory).put_state(&state).unwrap();
    assert_eq!(stored.reference, state.reference());
    let bytes = fs::read(&stored.path).unwrap();
    assert_eq!((bytes.len() as u64, Digest::of(&bytes)), (stored.size, stored.reference.digest));
    let start = stored.vector_offset as usize;
    let first = f32::from_le_bytes(bytes[start..start + 4].try_into().unwrap());
    assert_eq!((first, stored.elements), (state.vector[0], 13));
}

#[test]
fn only_the_last_states_are_kept_and_open_ones_stay_readable() {
    let directory = TempDir::new().unwrap();
    let mut store = open(&directory);
    let first = store.put_state(&state(&spec(), 4, 0)).unwrap();
    let served = store.state_file(&first.reference.digest).unwrap();
    for round in 1..6 {
        store.put_state(&state(&spec(), 4, round)).unwrap();
    }
    let rounds: Vec<u64> = store.states().map(|stored| stored.reference.round).collect();
    assert_eq!(rounds, [2, 3, 4, 5]);
    assert_eq!(fs::read_dir(directory.path().join("states")).unwrap().count(), 4);
    assert!(!first.path.exists());
    assert!(matches!(store.load(&first.reference.digest), Err(TensorError::NotKept { .. })));
    let mut bytes = vec![0; served.size() as usize];
    served.read_exact_at(0, &mut bytes).unwrap();
    assert_eq!(Digest::of(&bytes), first.reference.digest);
    assert!(served.read_exact_at(1, &mut bytes).is_err());
}

#[test]
fn a_state_put_twice_is_kept_once() {
    let directory = TempDir::new().unwrap();
    let mut store = open(&directory);
    let state = state(&spec(), 4, 0);
    assert_eq!(store.put_state(&state).unwrap(), store.put_state(&state).unwrap());
    assert_eq!(store.states().count(), 1);
    assert_eq!(store.load(&state.digest()).unwrap(), state);
}

#[test]
fn a_restart_adopts_whole_states_and_removes_everything_else() {
    let directory = TempDir::new().unwrap();
    let (kept, damaged) = {
        let mut store = open(&directory);
        let damaged = store.put_state(&state(&spec(), 4, 7)).unwrap();
        let kept = store.put_state(&state(&spec(), 4, 8)).unwrap();
        fs::write(store.outputs().of_unit(8, 0), b"half a grad").unwrap();
        (kept, damaged)
    };
    let states = directory.path().join("states");
    fs::write(states.join("put-9.tmp"), b"half a state").unwrap();
    fs::write(states.join("unrelated"), b"something").unwrap();
    let mut bytes = fs::read(&damaged.path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged.path, bytes).unwrap();

    let (store, skipped) = TensorStore::open(directory.path(), &spec(), 4).unwrap();
    assert_eq!(store.states().collect::<Vec<_>>(), [&kept]);
    let mut paths: Vec<_> = skipped.iter().map(|skipped| skipped.path.clone()).collect();
    paths.sort();
    assert_eq!(paths, [damaged.path, states.join("unrelated")]);
    assert_eq!(fs::read_dir(states).unwrap().count(), 1);
    let units: Vec<_> = walk(&directory.path().join("units"));
    assert_eq!(units, Vec::<std::path::PathBuf>::new());
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn states_of_another_run_are_not_adopted() {
    let directory = TempDir::new().unwrap();
    open(&directory).put_state(&state(&spec(), 4, 7)).unwrap();
    let other = RunSpec { seed: 99, ..spec() };
    let (store, skipped) = TensorStore::open(directory.path(), &other, 4).unwrap();
    assert_eq!((store.states().count(), skipped.len()), (0, 1));
}

#[test]
fn a_directory_in_use_is_refused_with_its_owner() {
    let directory = TempDir::new().unwrap();
    let _store = open(&directory);
    let error = TensorStore::open(directory.path(), &spec(), 4).unwrap_err();
    let owner = std::process::id().to_string();
    assert!(matches!(&error, TensorError::Lock(LockError::InUse { owner: found, .. }) if *found == owner), "{error}");
}

#[test]
fn outputs_are_unique_and_removed_when_their_round_is_over() {
    let directory = TempDir::new().unwrap();
    let mut store = open(&directory);
    let outputs = [
        store.outputs().of_unit(3, 1),
        store.outputs().of_unit(3, 1),
        store.outputs().of_unit(4, 1),
        store.outputs().of_initial_parameters(),
    ];
    for output in &outputs {
        fs::OpenOptions::new().write(true).create_new(true).open(output).unwrap();
    }
    store.remove_outputs_before(4).unwrap();
    let present: Vec<bool> = outputs.iter().map(|output| output.exists()).collect();
    assert_eq!(present, [false, false, true, false]);
}

#[test]
fn outputs_of_a_killed_predecessor_cannot_be_mistaken_for_new_ones() {
    let directory = TempDir::new().unwrap();
    let old = open(&directory).outputs().of_unit(3, 1);
    let new = open(&directory).outputs().of_unit(3, 1);
    assert_ne!(old, new);
    assert!(fs::write(old, b"late").is_err());
}

#[test]
fn a_fetched_state_is_verified_and_kept() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut donor = open(&there);
    let state = state(&spec(), 4, 9);
    let reference = donor.put_state(&state).unwrap().reference;
    let served = donor.state_file(&reference.digest).unwrap();
    let mut store = open(&here);
    let import = store.begin_import(reference, served.size()).unwrap();
    // Pieces from several donors arrive in any order.
    let mut pieces: Vec<u64> = (0..served.size()).step_by(50).collect();
    let mut random = Random(3);
    while !pieces.is_empty() {
        let offset = pieces.swap_remove(random.below(pieces.len() as u64) as usize);
        let mut piece = vec![0; 50.min(served.size() - offset) as usize];
        served.read_exact_at(offset, &mut piece).unwrap();
        import.write_at(offset, &piece).unwrap();
    }
    let outside = import.write_at(served.size() - 1, b"xx");
    assert!(matches!(outside, Err(TensorError::OutOfRange { .. })), "{outside:?}");
    let (fetched, stored) = store.finish_import(import).unwrap();
    assert_eq!(fetched, state);
    assert_eq!(store.states().collect::<Vec<_>>(), [&stored]);
    assert_eq!(store.load(&reference.digest).unwrap(), state);
}

#[test]
fn a_fetched_state_with_a_gap_or_a_lie_is_removed() {
    let directory = TempDir::new().unwrap();
    let mut store = open(&directory);
    let state = state(&spec(), 4, 9);
    let bytes = state.encode();
    let mut lie: State = state.clone();
    lie.vector[0] += 1.0;
    let mut gap = bytes.clone();
    gap[bytes.len() - 8..].fill(0);
    for bytes in [lie.encode(), gap] {
        let import = store.begin_import(state.reference(), bytes.len() as u64).unwrap();
        import.write_at(0, &bytes).unwrap();
        let error = store.finish_import(import).unwrap_err();
        assert!(matches!(error, TensorError::State { source: StateError::OtherState { .. }, .. }), "{error}");
    }
    let reference = StateRef { round: 1, digest: Digest::of(b"") };
    assert!(matches!(store.begin_import(reference, u64::MAX), Err(TensorError::OutOfRange { .. })));
    assert_eq!(fs::read_dir(directory.path().join("states")).unwrap().count(), 0);
}
