//! Processes that are killed and disks that are full, both real.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use peerless_protocol::RunSpec;
use peerless_store::{
    Batch, CheckpointError, Checkpoints, FileError, LedgerError, Opened, StateOrigin, Store, StoreError, TensorError,
    checkpoints_path,
};
use tempfile::TempDir;

use crate::fixtures::{Random, spec, spec_with, state};

/// Tells the child tests below where to work; without it they do nothing.
const DIRECTORY: &str = "PEERLESS_STORE_TEST_DIRECTORY";

/// Parameters of a state of about 2 MB, so that a kill often hits in the middle of writing one.
const WIDTH: u32 = 60_000;

fn this_test(name: &str) -> [String; 4] {
    let path = std::env::current_exe().unwrap().to_str().unwrap().to_string();
    [path, format!("crashes::{name}"), "--exact".into(), "--ignored".into()]
}

fn adam() -> RunSpec {
    spec_with("adam".parse().unwrap())
}

fn open(directory: &Path) -> Opened {
    Store::open(&directory.join("peer"), &directory.join("tensors"), &adam()).unwrap()
}

#[test]
#[ignore = "a child of killed_peers_resume"]
fn child_trains_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let Opened { mut store, resumed, .. } = open(Path::new(&directory));
    let mut round = resumed.map_or(0, |resumed| resumed.state.header.round + 1);
    loop {
        let state = state(&adam(), WIDTH, round);
        let stored = store.adopt(&state, StateOrigin::Applied).unwrap();
        println!("\nrecorded {round}");
        store.checkpoint(&state, stored.reference.digest).unwrap();
        println!("\ncheckpointed {round}");
        round += 1;
    }
}

/// Reads what the child says until it has said `lines` of it, kills it with signal 9, and reads the
/// rest; returns the last rounds recorded and checkpointed.
fn kill_after(child: &mut Child, lines: u64, pause_us: u64) -> (Option<u64>, Option<u64>) {
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut last = (None, None);
    let mut said = 0;
    for line in output.lines().map_while(Result::ok) {
        let number = |text: &str| Some(text.parse().unwrap());
        if let Some(round) = line.strip_prefix("recorded ") {
            last.0 = number(round);
            said += 1;
        } else if let Some(round) = line.strip_prefix("checkpointed ") {
            last.1 = number(round);
            said += 1;
        }
        if said == lines {
            // Not to wait for anything, but to hit another moment of the next write each time.
            std::thread::sleep(std::time::Duration::from_micros(pause_us));
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    last
}

#[test]
fn killed_peers_resume_from_what_they_last_recorded() {
    const SEED: u64 = 21;
    let directory = TempDir::new().unwrap();
    let mut random = Random(SEED);
    let mut newest = 0;
    for case in 0..15 {
        let [program, arguments @ ..] = this_test("child_trains_until_it_is_killed");
        let mut command = Command::new(program);
        command.args(arguments).arg("--nocapture").env(DIRECTORY, directory.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (recorded, checkpointed) = kill_after(&mut child, 1 + random.below(6), random.below(8000));
        let what = format!("seed {SEED}, case {case}: recorded {recorded:?}, checkpointed {checkpointed:?}");

        let checkpoints = Checkpoints::new(&checkpoints_path(&directory.path().join("peer")), 2);
        let found = checkpoints.load_newest().unwrap();
        assert_eq!(found.skipped, [], "{what}");
        if let Some(checkpointed) = checkpointed {
            let (_, checkpoint) = found.checkpoint.unwrap();
            assert!(checkpoint.reference.round >= checkpointed, "{what}");
            assert_eq!(checkpoint.state, state(&adam(), WIDTH, checkpoint.reference.round), "{what}");
        }

        let opened = open(directory.path());
        let resumed = opened.resumed.unwrap_or_else(|| panic!("{what}: nothing to resume"));
        let round = resumed.state.header.round;
        assert!(round >= recorded.unwrap_or(newest), "{what}: resumed {round}");
        assert_eq!(resumed.state, state(&adam(), WIDTH, round), "{what}");
        for skipped in &opened.skipped {
            assert_eq!(skipped.reason, "the ledger does not know this state", "{what}");
        }
        newest = round;
    }
}

/// Runs a child test on a disk of its own of `size` bytes, in a mount namespace that goes with it.
/// `false` if this machine lets nobody mount.
fn on_small_disk(child: &str, size: u32) -> bool {
    let mount_point = TempDir::new().unwrap();
    let script = format!("mount -t tmpfs -o size={size} tmpfs \"$0\" && exec \"$@\"");
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    for way in ways {
        let mut command = Command::new("unshare");
        command.args(way).args(["sh", "-c", &script]).arg(mount_point.path());
        command.args(this_test(child)).arg("--nocapture").env(DIRECTORY, mount_point.path());
        let Ok(output) = command.output() else { return false };
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("test result: ok. 1 passed") {
            return true;
        }
        assert!(!text.contains("running 1 test"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    false
}

#[test]
fn a_full_disk_is_a_typed_error_and_leaves_what_was_there() {
    if !on_small_disk("child_fills_its_disk", 4 << 20) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no small disk can be mounted here, a full disk was not tested");
    }
}

/// Fills the disk of `directory` up to `left` bytes.
fn fill(directory: &Path, left: u64) -> PathBuf {
    let path = directory.join("ballast");
    let mut file = std::fs::File::create(&path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(left)).unwrap();
    path
}

#[test]
#[ignore = "a child of a_full_disk_is_a_typed_error_and_leaves_what_was_there"]
fn child_fills_its_disk() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let first = state(&adam(), 10_000, 1);
    let second = state(&adam(), 10_000, 2);
    let mut store = open(directory).store;
    let stored = store.adopt(&first, StateOrigin::Applied).unwrap();
    store.checkpoint(&first, stored.reference.digest).unwrap();
    let before = files_of(directory);

    // Room for half a state, or for nothing at all.
    for left in [120_000, 0] {
        let ballast = fill(directory, left);
        let put = store.tensors.put_state(&second);
        assert!(matches!(put, Err(TensorError::File(FileError::Full { .. }))), "{put:?}");
        let checkpoint = store.checkpoint(&second, second.digest());
        let full =
            |error: &StoreError| matches!(error, StoreError::Checkpoint(CheckpointError::File(FileError::Full { .. })));
        assert!(checkpoint.as_ref().is_err_and(full), "{checkpoint:?}");
        std::fs::remove_file(ballast).unwrap();
        assert_eq!(files_of(directory), before);
    }
    let ballast = fill(directory, 0);
    let batch =
        |round| Batch { state: Some((state(&spec(), 4, round).reference(), StateOrigin::Applied)), ..Batch::default() };
    let error = (2..100_000).find_map(|round| store.ledger.record(&batch(round)).err());
    assert!(matches!(error, Some(LedgerError::File(FileError::Full { .. }))), "{error:?}");
    drop(store);
    std::fs::remove_file(ballast).unwrap();

    assert_eq!(open(directory).resumed.unwrap().state, first);
}

/// Tensor and checkpoint files, without the ledger, whose log grows.
fn files_of(directory: &Path) -> Vec<PathBuf> {
    let folders = ["peer/checkpoints", "tensors/states"].map(|name| directory.join(name));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
