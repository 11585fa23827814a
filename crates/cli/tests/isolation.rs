//! Runs whose functions are isolated, as they are by default: the model is the same, and the functions have nothing that
//! they need not have.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Running, Workplace, skip, undisturbed, wait_until};
use peerless_sandbox::{CgroupLimits, Cgroups, Controller, Support};
use rustix::process::Signal;

const RUN: [&str; 2] = ["--rounds", "60"];

/// A peer in the run directory `run`, with secrets in its environment.
fn start(place: &Workplace, flags: &[&str]) -> Running {
    let peer = ["peer", "start", "--run-dir", "run", "--name", "1", "--functions", "1"];
    let mut command = place.command(&[&peer[..], &RUN[..], flags].concat());
    for (name, value) in [
        ("AWS_SECRET_ACCESS_KEY", "hidden-key"),
        ("PEERLESS_FUNCTION_TOKEN", "hidden-token"),
        ("PEERLESS_REDIS_PASSWORD", "hidden-password"),
        ("WANTED", "seen"),
    ] {
        command.env(name, value);
    }
    place.start(command)
}

/// The only function of the only peer, once it works.
fn function(place: &Workplace) -> u32 {
    place.wait_for_steps("run", 1, 2);
    let mut found = None;
    wait_until("a function is there", || {
        let pid = place.status("run", "1").and_then(|status| status["functions"]["processes"][0]["pid"].as_u64());
        found = pid.and_then(|pid| u32::try_from(pid).ok());
        found.is_some_and(|pid| Path::new(&format!("/proc/{pid}/environ")).exists())
    });
    found.unwrap()
}

fn environment(pid: u32) -> Vec<String> {
    let environment = String::from_utf8(fs::read(format!("/proc/{pid}/environ")).unwrap()).unwrap();
    environment.split('\0').filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

#[test]
fn an_isolated_function_has_no_secrets_no_privileges_and_no_files_of_its_peer() {
    let place = Workplace::for_training();
    let peer = start(&place, &["--function-env", "WANTED", "--function-env", "NOT_SET"]);
    let pid = function(&place);
    let environment = environment(pid);
    assert!(!environment.iter().any(|entry| entry.contains("hidden")), "{environment:?}");
    assert!(environment.contains(&"WANTED=seen".to_owned()), "{environment:?}");
    let temporary = environment.iter().find_map(|entry| entry.strip_prefix("TMPDIR="));
    assert!(temporary.is_some_and(|path| path.ends_with("run/peers/1/functions-tmp")), "{environment:?}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    if Support::get().system_calls.is_ok() {
        // Ours, after whatever filters this machine has.
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
    let files: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|file| !file.to_string_lossy().starts_with("pipe:"))
        .collect();
    assert!(!files.iter().any(|file| file.starts_with(place.path())), "{files:?}");
    let ended = peer.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(place.status("run", "1").unwrap()["state_digest"], undisturbed(&RUN));
}

#[test]
fn the_state_does_not_depend_on_the_isolation() {
    for level in ["none", "limits"] {
        let place = Workplace::for_training();
        let summary = place.train(&[&["--peers", "2", "--function-isolation", level], &RUN[..]].concat());
        assert_eq!(summary["state_digest"], undisturbed(&RUN), "{level}");
    }
}

#[test]
fn isolation_that_this_machine_lacks_is_a_warning_or_if_asked_for_an_error_with_a_hint() {
    let place = Workplace::for_training();
    let complete = Support::get().missing().is_empty()
        && [Controller::Memory, Controller::Cpu, Controller::Pids].iter().all(|&c| Cgroups::get().has(c));
    let full = ["train", "--peers", "1", "--rounds", "2", "--function-isolation", "full", "--function-memory", "1G"];
    let ended = place.run(&full);
    if complete {
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(!ended.stderr.contains("warning: "), "{}", ended.stderr);
    } else {
        ended.failed(1, &["this machine lacks", "hint: without --function-isolation"]);
    }
    place.run(&["train", "--function-read", "/nowhere/at/all"]).failed(1, &["/nowhere/at/all"]);
    place.run(&["train", "--function-isolation", "some"]).failed(2, &["full", "limits", "none"]);
}

/// Answers ENOSYS to landlock's three system calls, as older kernels and some containers do, and becomes the program.
const WITHOUT_LANDLOCK: &str = "
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x25, 1, 0, 446), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
program = struct.pack('HxxxxxxP', 5, ctypes.addressof(code))
libc = ctypes.CDLL(None)
sys.exit('no filter') if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program) else os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_machine_without_landlock_is_told_once_and_trains_all_the_same() {
    let wrapper = ["/usr/bin/python3", "-c", WITHOUT_LANDLOCK].map(str::to_owned);
    if !Path::new(&wrapper[0]).exists() || Support::get().system_calls.is_err() {
        return skip("python3 or seccomp is missing");
    }
    let place = Workplace::for_training();
    let train = ["train", "--json", "--peers", "2"];
    let ended = place.start(place.wrapped(&wrapper, &[&train[..], &RUN[..]].concat())).wait();
    assert_eq!(ended.stderr.matches("landlock").count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("warning: functions run without landlock"), "{}", ended.stderr);
    assert_eq!(ended.json()["state_digest"], undisturbed(&RUN));
    let full = [&train[..], &["--function-isolation", "full"]].concat();
    let ended = place.start(place.wrapped(&wrapper, &full)).wait();
    ended.failed(1, &["this machine lacks landlock", "hint: without --function-isolation"]);
}

#[test]
fn groups_of_functions_whose_peer_was_killed_are_removed_by_the_next_one() {
    let cgroups = Cgroups::get();
    if !cgroups.has(Controller::Pids) {
        return skip("no cgroups can be made here");
    }
    let mine = cgroups.create(&CgroupLimits { processes: Some(10), ..CgroupLimits::default() }).unwrap();
    let base = mine.folders()[0].parent().unwrap();
    let groups_of = |peer: u32| {
        let names = fs::read_dir(base).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(&format!("peerless-{peer}-"))).count()
    };
    let place = Workplace::for_training();
    let peer = start(&place, &[]);
    let killed = peer.pid().as_raw_nonzero().get().cast_unsigned();
    let orphan = function(&place);
    assert_eq!(groups_of(killed), 1);
    peer.signal(Signal::KILL);
    peer.wait();
    wait_until("the function died with its peer", || {
        let stat = fs::read_to_string(format!("/proc/{orphan}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    });
    assert_eq!(groups_of(killed), 1, "nobody is there to remove it");
    let second = start(&place, &[]);
    let second_id = second.pid().as_raw_nonzero().get().cast_unsigned();
    let ended = second.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!((groups_of(killed), groups_of(second_id)), (0, 0));
    assert_eq!(place.status("run", "1").unwrap()["state_digest"], undisturbed(&RUN));
}
