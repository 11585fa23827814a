//! What a launched program can do, tried by real processes. Each protection alone, and what still works under it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use peerless_sandbox::{CgroupLimits, Cgroups, Controller, FilePolicy, Policy, Support};
use tempfile::TempDir;

const LAUNCHER: &str = env!("CARGO_BIN_EXE_sandbox-launcher");
const PROBE: &str = include_str!("programs/probe.py");
/// That of the system, which every policy lets a program read.
const PYTHON: &str = "/usr/bin/python3";

const EPERM: &str = "1";
const EACCES: &str = "13";

/// Whether the test can be made here; says so where it cannot.
fn possible(needs: &[(&str, bool)]) -> bool {
    let needs = [&[("the program /usr/bin/python3", Path::new(PYTHON).exists())], needs].concat();
    let missing: Vec<&str> = needs.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        // Unlike that of `eprintln!`, this output is not captured.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {} is missing", missing.join(" and "));
    }
    missing.is_empty()
}

fn landlock() -> (&'static str, bool) {
    ("landlock with all that came until Linux 6.12", Support::get().signals)
}

fn seccomp() -> (&'static str, bool) {
    ("seccomp", Support::get().system_calls.is_ok())
}

/// Starts `program` under the policy, by the words that come before.
fn start(before: &[&str], policy: &Policy, program: &[&str]) -> Output {
    let launcher: Vec<&str> = [before, &[LAUNCHER]].concat();
    let mut command = Command::new(launcher[0]);
    command.args(&launcher[1..]).args(policy.to_arguments().unwrap()).args(program).output().unwrap()
}

/// What the probe says about its attempt.
fn attempt(policy: &Policy, what: &str, argument: &str) -> String {
    let output = start(&[], policy, &[PYTHON, "-I", "-S", "-c", PROBE, what, argument]);
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(!said.is_empty(), "{what} {argument}: {}", String::from_utf8_lossy(&output.stderr));
    said
}

fn nothing() -> Policy {
    Policy::default()
}

fn calls() -> Policy {
    Policy { refuse_system_calls: true, ..Policy::default() }
}

/// A folder that may be read, one that may be written and one that is nobody's business, with a file in each.
struct Folders {
    all: TempDir,
}

impl Folders {
    fn new() -> Self {
        let all = TempDir::new().unwrap();
        for name in ["read", "write", "other"] {
            fs::create_dir(all.path().join(name)).unwrap();
            fs::write(all.path().join(name).join("file"), "secret").unwrap();
            fs::copy("/bin/true", all.path().join(name).join("program")).unwrap();
        }
        Self { all }
    }

    fn path(&self, name: &str) -> String {
        self.all.path().join(name).to_str().unwrap().to_owned()
    }

    fn policy(&self) -> Policy {
        let folder = |name: &str| vec![PathBuf::from(self.path(name))];
        Policy { files: Some(FilePolicy { read: folder("read"), write: folder("write") }), ..Policy::default() }
    }
}

#[test]
fn files_that_are_not_named_cannot_be_read() {
    let folders = Folders::new();
    if !possible(&[landlock()]) {
        return;
    }
    let policy = folders.policy();
    assert_eq!(attempt(&nothing(), "read", &folders.path("other/file")), "ok 6");
    for path in ["other/file", "read/../other/file"] {
        assert_eq!(attempt(&policy, "read", &folders.path(path)), EACCES, "{path}");
    }
    for path in ["/etc/shadow", "/etc/passwd", "/proc/1/environ", "/proc/1/cmdline"] {
        assert_eq!(attempt(&policy, "read", path), EACCES, "{path}");
    }
    for folder in ["/", "/root", "/tmp", "/dev/shm"] {
        assert_eq!(attempt(&policy, "list", folder), EACCES, "{folder}");
    }
    assert_eq!(attempt(&policy, "read", &folders.path("read/file")), "ok 6");
    assert_eq!(attempt(&policy, "read", &folders.path("write/file")), "ok 6");
}

#[test]
fn only_folders_for_outputs_can_be_written_and_nothing_there_executed() {
    let folders = Folders::new();
    if !possible(&[landlock()]) {
        return;
    }
    let policy = folders.policy();
    for folder in ["read", "other"] {
        for what in ["write", "truncate"] {
            assert_eq!(attempt(&policy, what, &folders.path(&format!("{folder}/file"))), EACCES, "{what} {folder}");
        }
        assert_eq!(attempt(&policy, "replace", &folders.path(&format!("{folder}/new"))), EACCES, "{folder}");
        assert_eq!(fs::read_to_string(folders.path(&format!("{folder}/file"))).unwrap(), "secret");
    }
    assert_eq!(attempt(&policy, "replace", &folders.path("write/new")), "ok");
    assert_eq!(attempt(&policy, "write", &folders.path("write/file")), "ok");
    // Whoever opens an output must not be led elsewhere or made to wait.
    assert_eq!(attempt(&policy, "link", &folders.path("write/link")), EACCES);
    assert_eq!(attempt(&policy, "pipe", &folders.path("write/pipe")), EACCES);
    assert_eq!(attempt(&nothing(), "pipe", &folders.path("write/pipe")), "ok");
    assert_eq!(attempt(&nothing(), "execute", &folders.path("write/program")), "ok 0");
    assert_eq!(attempt(&policy, "execute", &folders.path("write/program")), EACCES);
    assert_eq!(attempt(&policy, "execute", &folders.path("read/program")), "ok 0");
}

#[test]
fn landlock_alone_refuses_tcp_abstract_sockets_and_signals_to_others() {
    let folders = Folders::new();
    if !possible(&[landlock()]) {
        return;
    }
    let policy = folders.policy();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port().to_string();
    let name = format!("peerless-test-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let me = std::process::id().to_string();
    for (what, argument, error) in
        [("connect", &port, EACCES), ("listen", &port, EACCES), ("abstract", &name, EPERM), ("signal", &me, EPERM)]
    {
        assert_eq!(attempt(&nothing(), what, argument), "ok", "{what}");
        assert_eq!(attempt(&policy, what, argument), error, "{what}");
    }
}

#[test]
fn system_calls_that_no_computation_needs_are_refused() {
    let folders = Folders::new();
    if !possible(&[seccomp()]) {
        return;
    }
    let me = std::process::id().to_string();
    for (what, argument) in [
        ("socket", ""),
        ("connect", "1"),
        ("ptrace", &me),
        ("mount", &folders.path("other")),
        ("unshare", ""),
        // io_uring_setup, which has this number on every processor.
        ("call", "425"),
    ] {
        assert_eq!(attempt(&calls(), what, argument), EPERM, "{what} {argument}");
    }
    // clone3: libraries take clone then.
    assert_eq!(attempt(&calls(), "call", "435"), "38");
    if cfg!(target_arch = "x86_64") {
        // socket by its number in x32.
        assert_eq!(attempt(&calls(), "call", "0x40000029"), EPERM);
    }
    if rustix::process::geteuid().is_root() {
        assert_eq!(attempt(&nothing(), "mount", &folders.path("other")), "ok 0");
        assert_eq!(attempt(&nothing(), "socket", ""), "ok");
    }
}

#[test]
fn what_programs_in_any_language_do_still_works() {
    let folders = Folders::new();
    if !possible(&[landlock(), seccomp()]) {
        return;
    }
    let policy = Policy { refuse_system_calls: true, open_files: Some(256), ..folders.policy() };
    for what in ["helper", "pair", "numbers", "files", "limits"] {
        assert!(attempt(&policy, what, "").starts_with("ok"), "{what}");
    }
    let output = start(&[], &policy, &["/bin/sh", "-c", "echo $$ > /dev/null; printf %s \"$1\"", "sh", "a b"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"a b"[..]));
}

#[test]
fn no_descriptor_but_the_three_is_passed_on() {
    if !possible(&[]) {
        return;
    }
    let inherit = ["/bin/sh", "-c", "exec 7</etc/hostname 9>&1; exec \"$@\"", "sh"];
    let files = [PYTHON, "-I", "-S", "-c", PROBE, "files"];
    let unrestricted = Command::new(inherit[0]).args(&inherit[1..]).args(files).output().unwrap();
    let unrestricted = String::from_utf8(unrestricted.stdout).unwrap();
    assert!(unrestricted.contains(" 7") && unrestricted.contains(" 9"), "{unrestricted}");
    let output = start(&inherit, &nothing(), &files);
    // The fourth is the list itself.
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "ok 0 1 2 3");
}

#[test]
fn limits_are_set_and_never_raised() {
    if !possible(&[]) {
        return;
    }
    let policy = Policy { open_files: Some(256), ..nothing() };
    assert_eq!(attempt(&policy, "limits", ""), "ok ((0, 0), (256, 256))");
    assert_eq!(attempt(&policy, "privileges", ""), "ok 1");
    let fewer = ["/bin/sh", "-c", "ulimit -n 100; exec \"$@\"", "sh"];
    let output = start(&fewer, &policy, &[PYTHON, "-I", "-S", "-c", PROBE, "limits"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "ok ((0, 0), (100, 100))");
}

#[test]
fn a_launcher_that_fails_says_why_and_has_the_exit_code_of_env() {
    let other = Policy { parent: Some(std::process::id() + 1), ..nothing() };
    let no_group = Policy { cgroups: vec!["/nowhere/tasks".into()], ..nothing() };
    let folder = TempDir::new().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let plain = plain.to_str().unwrap();
    for (policy, program, code, words) in [
        (&other, "/bin/true", 125, "the parent is gone"),
        (&no_group, "/bin/true", 125, "/nowhere/tasks"),
        (&nothing(), plain, 126, "Permission denied"),
        (&nothing(), "/nowhere/program", 127, "cannot run /nowhere/program"),
    ] {
        let output = start(&[], policy, &[program]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    }
    let mine = Policy { parent: Some(std::process::id()), ..nothing() };
    assert_eq!(start(&[], &mine, &["/bin/true"]).status.code(), Some(0));
    for arguments in [&[][..], &["{}"], &["{}", "--", "/bin/true"], &["nonsense", "--", "/bin/true"]] {
        let output = Command::new(LAUNCHER).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
    }
}

#[test]
fn a_launched_program_is_in_its_group_from_the_start_and_the_group_goes_with_its_members() {
    let cgroups = Cgroups::get();
    let has = [Controller::Memory, Controller::Cpu, Controller::Pids].map(|controller| cgroups.has(controller));
    if !possible(&[("a place for groups with memory, cpu and pids", has == [true; 3])]) {
        return;
    }
    let limits = CgroupLimits { memory_bytes: Some(200 << 20), cpu_quota_us: Some(5000), processes: Some(8) };
    let group = cgroups.create(&limits).unwrap();
    let folders = group.folders().to_vec();
    let name = folders[0].file_name().unwrap().to_str().unwrap().to_owned();
    let policy = Policy { cgroups: group.joins().to_vec(), ..nothing() };
    let seen = attempt(&policy, "groups", "");
    assert_eq!(seen.lines().filter(|line| line.ends_with(&name)).count(), folders.len(), "{seen}");
    assert_eq!(attempt(&nothing(), "forks", "12"), "ok");
    assert_eq!(attempt(&policy, "forks", "12"), "11", "more processes than the group may have");
    let mut left = Command::new(LAUNCHER);
    let mut left = left.args(policy.to_arguments().unwrap()).args(["/bin/sleep", "600"]).spawn().unwrap();
    let in_group = || fs::read_to_string(folders[0].join("cgroup.procs")).unwrap().contains(&left.id().to_string());
    while !in_group() {
        std::thread::yield_now();
    }
    drop(group);
    assert!(!left.wait().unwrap().success(), "what is in a group that is removed is killed");
    assert!(!folders.iter().any(|folder| folder.exists()), "{folders:?}");
}
