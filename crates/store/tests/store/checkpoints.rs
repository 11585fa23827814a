use std::fs;
use std::path::Path;

use peerless_protocol::{Evaluation, RunSpec};
use peerless_store::{Checkpoint, CheckpointError, Checkpoints, Model, State, export};
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::fixtures::{Random, spec, spec_with, state, tally};

fn checkpoints(directory: &TempDir) -> Checkpoints {
    let checkpoints = Checkpoints::new(directory.path(), 2);
    checkpoints.prepare().unwrap();
    checkpoints
}

fn write(checkpoints: &Checkpoints, spec: &RunSpec, state: &State) -> std::path::PathBuf {
    checkpoints.write(spec, state, state.digest()).unwrap()
}

fn evaluated(spec: &RunSpec, round: u64) -> State {
    let mut state = state(spec, 4, round);
    state.header.evaluation = Some(Evaluation { round, tally: tally(10, 9, 1 << 40) });
    state
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn exactly_the_state_comes_back() {
    for name in ["sgd", "nesterov", "adamw"] {
        let spec = spec_with(name.parse().unwrap());
        let directory = TempDir::new().unwrap();
        let mut state = evaluated(&spec, 6);
        state.vector[2] = f32::NAN;
        let path = write(&checkpoints(&directory), &spec, &state);
        let read = Checkpoint::read(&path).unwrap();
        assert_eq!((read.spec, read.reference), (spec, state.reference()));
        assert_eq!(read.state.encode(), state.encode());
    }
}

#[test]
fn other_readers_find_each_tensor_by_name_and_shape() {
    let spec = spec_with("adam".parse().unwrap());
    let directory = TempDir::new().unwrap();
    let state = evaluated(&spec, 6);
    let bytes = fs::read(write(&checkpoints(&directory), &spec, &state)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 7);
    let tensor = |name: &str| {
        let view = file.tensor(name).unwrap();
        (view.shape().to_vec(), floats(view.data()))
    };
    assert_eq!(tensor("dense.weight"), (vec![2, 4], state.vector[..8].to_vec()));
    assert_eq!(tensor("dense.bias"), (vec![3], state.vector[8..11].to_vec()));
    assert_eq!(tensor("norm.mean"), (vec![2], state.vector[11..].to_vec()));
    assert_eq!(tensor("optimizer.slot0.dense.weight"), (vec![2, 4], state.slots[0][..8].to_vec()));
    assert_eq!(tensor("optimizer.slot1.dense.bias"), (vec![3], state.slots[1][8..].to_vec()));
}

#[test]
fn an_export_holds_the_model_alone_and_says_how_good_it_is() {
    let spec = spec();
    let directory = TempDir::new().unwrap();
    let state = evaluated(&spec, 6);
    let path = directory.path().join("model.safetensors");
    export(&path, &spec, &state).unwrap();
    let bytes = fs::read(&path).unwrap();
    let mut names = SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(String::from).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["dense.bias", "dense.weight", "norm.mean"]);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!(metadata["format"], "pt");
    assert_eq!(metadata["peerless.run"], spec.id().to_string());
    assert_eq!((metadata["peerless.round"].as_str(), metadata["peerless.accuracy"].as_str()), ("6", "0.9"));

    let model = Model::read(&path).unwrap();
    assert_eq!((model.spec, model.header, model.vector), (spec, state.header.clone(), state.vector.clone()));
    assert_eq!(model.state_digest, state.digest());
    let error = Checkpoint::read(&path).unwrap_err();
    assert!(matches!(error, CheckpointError::Malformed { .. }), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_checkpoint_can_be_read_as_a_model() {
    let directory = TempDir::new().unwrap();
    let state = evaluated(&spec(), 6);
    let path = write(&checkpoints(&directory), &spec(), &state);
    assert_eq!(Model::read(&path).unwrap().vector, state.vector);
}

#[test]
fn the_newest_and_the_one_before_it_are_kept() {
    let directory = TempDir::new().unwrap();
    let checkpoints = checkpoints(&directory);
    for round in [2, 900, 10, 1000] {
        write(&checkpoints, &spec(), &state(&spec(), 4, round));
    }
    let rounds: Vec<u64> = checkpoints.list().unwrap().into_iter().map(|(round, _)| round).collect();
    assert_eq!(rounds, [1000, 900]);
    assert_eq!(checkpoints.load_newest().unwrap().checkpoint.unwrap().1.reference.round, 1000);
}

#[test]
fn a_directory_without_checkpoints_has_none() {
    let directory = TempDir::new().unwrap();
    let nowhere = Checkpoints::new(&directory.path().join("nowhere"), 2);
    assert_eq!(nowhere.load_newest().unwrap().checkpoint, None);
}

/// What a crash can leave of the newest checkpoint on a file system that loses what was not flushed.
fn damage(path: &Path, whole: &[u8], damaged: &[u8], checkpoints: &Checkpoints, what: &str) {
    fs::write(path, damaged).unwrap();
    let newest = checkpoints.load_newest().unwrap();
    let (_, checkpoint) = newest.checkpoint.unwrap_or_else(|| panic!("{what}: nothing was found"));
    assert_eq!(checkpoint.reference, state(&spec(), 4, 1).reference(), "{what}");
    let skipped: Vec<&Path> = newest.skipped.iter().map(|skipped| skipped.path.as_path()).collect();
    assert_eq!(skipped, [path], "{what}");
    fs::write(path, whole).unwrap();
}

#[test]
fn a_damaged_newest_checkpoint_is_skipped_for_the_one_before() {
    let directory = TempDir::new().unwrap();
    let checkpoints = checkpoints(&directory);
    write(&checkpoints, &spec(), &state(&spec(), 4, 1));
    let path = write(&checkpoints, &spec(), &state(&spec(), 4, 2));
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        damage(&path, &whole, &whole[..length], &checkpoints, &format!("cut to {length} bytes"));
    }
    let tensors_start = whole.len() - 4 * (13 + 11);
    let mut random = Random(11);
    for case in 0..300 {
        let mut damaged = whole.clone();
        // In the header, some changes leave the state as it was (the accuracy told to people).
        let at = tensors_start + random.below((whole.len() - tensors_start) as u64) as usize;
        damaged[at] ^= 1 + random.below(255) as u8;
        damage(&path, &whole, &damaged, &checkpoints, &format!("seed 11, case {case}: byte {at} changed"));
        damaged[at..].fill(0);
        damage(&path, &whole, &damaged, &checkpoints, &format!("seed 11, case {case}: zeros from {at}"));
    }
    assert_eq!(checkpoints.load_newest().unwrap().checkpoint.unwrap().1.reference.round, 2);
}

#[test]
fn arbitrary_changes_of_the_header_never_give_another_state() {
    let directory = TempDir::new().unwrap();
    let state = state(&spec(), 4, 2);
    let path = write(&checkpoints(&directory), &spec(), &state);
    let whole = fs::read(&path).unwrap();
    let header = whole.len() - 4 * (13 + 11);
    let mut random = Random(12);
    for case in 0..2000 {
        let mut damaged = whole.clone();
        damaged[random.below(header as u64) as usize] = random.next() as u8;
        fs::write(&path, &damaged).unwrap();
        if let Ok(read) = Checkpoint::read(&path) {
            assert_eq!(read.state, state, "seed 12, case {case}");
        }
    }
}

#[test]
fn leftovers_of_a_crash_are_ignored_and_removed() {
    let directory = TempDir::new().unwrap();
    let checkpoints = checkpoints(&directory);
    let state = state(&spec(), 4, 1);
    write(&checkpoints, &spec(), &state);
    let leftover = directory.path().join("round-0000000002.safetensors.tmp");
    fs::write(&leftover, b"half").unwrap();
    assert_eq!(checkpoints.load_newest().unwrap().checkpoint.unwrap().1.state, state);
    checkpoints.prepare().unwrap();
    assert!(!leftover.exists());
}

#[test]
fn a_checkpoint_of_another_version_is_named_as_such() {
    let directory = TempDir::new().unwrap();
    let path = write(&checkpoints(&directory), &spec(), &state(&spec(), 4, 1));
    let bytes = fs::read(&path).unwrap();
    let tensors = bytes.len() - 4 * (13 + 11);
    let header =
        String::from_utf8_lossy(&bytes[8..tensors]).replace(r#""peerless.format":"1""#, r#""peerless.format":"9""#);
    fs::write(&path, [&bytes[..8], header.as_bytes(), &bytes[tensors..]].concat()).unwrap();
    let error = Checkpoint::read(&path).unwrap_err();
    assert!(matches!(&error, CheckpointError::Version { found, .. } if found == "9"), "{error}");
}
