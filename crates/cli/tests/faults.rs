//! Faults of real processes beyond kill -9: whatever happens, the final state is that of the undisturbed
//! run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ended, Running, Workplace, skip, undisturbed, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;

const RUN: [&str; 2] = ["--rounds", "60"];

/// Long enough to go on well after a second of silence, however quick the machine is.
const LONG_RUN: [&str; 2] = ["--rounds", "300"];

/// Starts a peer in the run directory `run`. The first one makes the run.
fn start(place: &Workplace, name: &str, expect: &str, wrapper: &[&str], flags: &[&str]) -> Running {
    let wrapper: Vec<String> = wrapper.iter().map(|&word| word.to_owned()).collect();
    let peer = ["peer", "start", "--run-dir", "run", "--functions", "1", "--name", name, "--expect", expect];
    let running = place.start(place.wrapped(&wrapper, &[&peer[..], flags].concat()));
    wait_until("the run is there", || place.path().join("run/run.json").exists());
    running
}

/// Checks that a peer has ended with the final state, and that it is the right one.
fn finished(place: &Workplace, name: &str, ended: &Ended, flags: &[&str]) {
    assert_eq!(ended.code, Some(0), "peer {name}: {}", ended.stderr);
    let status = place.status("run", name).unwrap();
    assert_eq!(status["phase"], "finished", "{status:#}");
    assert_eq!(status["state_digest"], undisturbed(flags), "peer {name}");
}

fn pid(status: &Value) -> Pid {
    Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_peer_that_is_stopped_for_longer_than_every_deadline_is_suspected_and_catches_up() {
    let place = Workplace::for_training();
    let arguments = [&["train", "--json", "--peers", "3", "--run-dir", "run"], &LONG_RUN[..]].concat();
    let watcher = place.start(place.command(&arguments));
    place.wait_for_steps("run", 3, 5);
    let stopped = pid(&place.status("run", "2").unwrap());
    kill_process(stopped, Signal::STOP).unwrap();
    wait_until("it is suspected", || place.events("run", "1").iter().any(|kind| kind == "peer-suspected"));
    let steps = place.steps("run", "1");
    place.wait_for_steps("run", 1, steps + 5);
    kill_process(stopped, Signal::CONT).unwrap();
    let summary = watcher.wait().json();
    let expected = undisturbed(&LONG_RUN);
    assert_eq!(summary["state_digest"], expected, "{summary:#}");
    let peers = summary["peers"].as_array().unwrap();
    assert!(peers.iter().all(|peer| peer["exit"] == "finished" && peer["state_digest"] == expected));
    assert!(place.events("run", "2").iter().any(|kind| kind == "catch-up"), "it was far behind");
}

/// A small file system that goes with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Leaves no room.
    fn fill(&self) {
        while fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.0.join("filler"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, &[7; 4096]))
            .is_ok()
        {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, as a test that fails may leave a peer that has files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_peer_whose_disk_is_full_ends_with_an_error_the_others_go_on_and_it_comes_back_when_there_is_room() {
    const LONG: [&str; 2] = ["--rounds", "150"];
    let place = Workplace::for_training();
    let first = start(&place, "1", "1", &[], &LONG);
    let Some(disk) = SmallDisk::mount(&place.path().join("run/peers/2")) else {
        return skip("no small file system can be mounted here");
    };
    let second = start(&place, "2", "1", &[], &["--checkpoint-every", "1"]);
    wait_until("both train", || ["1", "2"].iter().all(|peer| place.steps("run", peer) >= 5));
    disk.fill();
    let ended = second.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let full = ended.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(full.contains("run/peers/2/") && full.contains("full"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    let steps = place.steps("run", "1");
    wait_until("the other one goes on", || place.steps("run", "1") > steps + 2);
    disk.make_room();
    let second = start(&place, "2", "0", &[], &[]);
    finished(&place, "1", &first.wait(), &LONG);
    finished(&place, "2", &second.wait(), &LONG);
}

/// Checks a peer that may have run out of file descriptors: it went on to the right state, or it ended
/// with an error that says what it ran out of.
fn survived_or_said_why(place: &Workplace, ended: &Ended, what: &str) {
    assert!(!ended.stderr.contains("panicked"), "{what}: {}", ended.stderr);
    if ended.code == Some(0) {
        return finished(place, "2", ended, &RUN);
    }
    let error = ended.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    let said = ["Too many open files", "os error 24", "unable to open database file"];
    assert!(said.iter().any(|reason| error.contains(reason)), "{what}: {:?} {}", ended.code, ended.stderr);
}

#[test]
fn a_peer_that_may_open_few_files_says_so_or_ends_with_the_same_state() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return skip("`prlimit` (util-linux) is missing");
    }
    let place = Workplace::for_training();
    let first = start(&place, "1", "0", &[], &["--rounds", "60", "--checkpoint-every", "1"]);
    for limit in [8, 14, 20, 26] {
        let wrapper = ["prlimit", &format!("--nofile={limit}")];
        let second = start(&place, "2", "1", &wrapper, &[]);
        // One that can work must not keep the next one from being tried.
        wait_until("it has ended or trains", || !alive(&second) || place.steps("run", "2") > 0);
        second.signal(Signal::TERM);
        let ended = second.wait();
        if ended.code != Some(0) {
            survived_or_said_why(&place, &ended, &format!("{limit} files"));
        }
    }
    finished(&place, "1", &first.wait(), &RUN);
}

#[test]
fn a_peer_that_runs_out_of_files_while_it_trains_says_so_or_ends_with_the_same_state() {
    let place = Workplace::for_training();
    let first = start(&place, "1", "1", &[], &RUN);
    let second = start(&place, "2", "1", &[], &["--checkpoint-every", "1"]);
    wait_until("both train", || ["1", "2"].iter().all(|peer| place.steps("run", peer) >= 5));
    // Fewer than it has open: what is open stays, and nothing more can be opened.
    let limit = Rlimit { current: Some(4), maximum: Some(4) };
    prlimit(Some(second.pid()), Resource::Nofile, limit).unwrap();
    survived_or_said_why(&place, &second.wait(), "no more files");
    finished(&place, "1", &first.wait(), &RUN);
}

/// Whether a process that was started here has not ended.
fn alive(process: &Running) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid().as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn twenty_peers_on_one_machine_end_with_the_same_state() {
    let place = Workplace::for_training();
    let run = ["--rounds", "12", "--units-per-round", "20", "--batch-size", "8"];
    let summary = place.train(&[&["--peers", "20"], &run[..]].concat());
    let peers = summary["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 20);
    let digest = undisturbed(&run);
    assert!(peers.iter().all(|peer| peer["exit"] == "finished" && peer["state_digest"] == digest), "{summary:#}");
    assert_eq!(summary["state_digest"], digest);
}

#[test]
fn recovery_is_measured_and_all_states_are_compared() {
    let place = Workplace::for_training();
    let arguments =
        ["bench", "recovery", "--fault", "kill", "--fault", "function", "--repetitions", "1", "--peers", "2"];
    let reports = place.run(&[&arguments[..], &["--json"]].concat()).json();
    let [kill, function] = &reports.as_array().unwrap()[..] else { panic!("{reports:#}") };
    assert_eq!((&kill["fault"], &function["fault"]), (&"kill".into(), &"function".into()));
    for report in [kill, function] {
        assert_eq!(report["gap_ms"]["all"].as_array().map(Vec::len), Some(1), "{reports:#}");
        assert!(report["normal_round_ms"].as_f64() > Some(0.0), "{reports:#}");
        assert!(report["states_compared"].as_u64() > Some(30), "{reports:#}");
    }
    assert!(kill["back_ms"]["worst"].as_f64() > Some(0.0) && function["back_ms"].is_null(), "{reports:#}");
    assert!(place.processes().is_empty(), "peers are left behind");
}

#[test]
fn a_soak_finds_no_difference_to_an_undisturbed_run() {
    let place = Workplace::for_training();
    let report = place.run(&["soak", "--for", "6s", "--peers", "3", "--seed", "3", "--json"]).json();
    assert_eq!(report["differences"], Value::Array(Vec::new()), "{report:#}");
    assert!(report["undisturbed_rounds"].as_u64() > Some(5), "{report:#}");
    let faults = report["faults"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    assert!(faults >= 3, "{report:#}");
    assert!(place.processes().is_empty(), "peers are left behind");
}
