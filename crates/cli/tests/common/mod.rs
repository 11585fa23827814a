//! Real `peerless` processes in a directory of their own, which is cleaned up whatever happens.
#![allow(dead_code, reason = "every test program uses another part of this")]

pub mod lying;
pub mod proxy;
pub mod redis;
pub mod servers;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use peerless_protocol::Digest;
use peerless_store::{Ledger, ledger_path};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Far longer than anything here takes, so that a hang fails the test and not the machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Tests that train take turns: together they would only make each other slow.
static TURN: Mutex<()> = Mutex::new(());

/// A directory in which commands are run. Dropping it kills the peers that were started below it.
pub struct Workplace {
    directory: TempDir,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The JSON on stdout of a command that succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", self.stdout))
    }

    /// Checks that the command failed with this code and said all of this.
    pub fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {}", self.stderr);
        }
        assert_eq!(self.stdout, "", "a command that fails has no data");
    }
}

/// A command that runs in the background. Killed when dropped.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Workplace {
    /// A directory for commands that do not train.
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), _turn: None }
    }

    /// A directory for commands that train, one test at a time.
    pub fn for_training() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { directory: tempfile::tempdir().unwrap(), _turn: Some(turn) }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A command to be run here.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerless"));
        command.args(arguments).current_dir(self.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// A command to be run here with words such as `ip netns exec NAME` before it.
    pub fn wrapped(&self, wrapper: &[String], arguments: &[&str]) -> Command {
        let Some((first, rest)) = wrapper.split_first() else { return self.command(arguments) };
        let mut command = Command::new(first);
        command.args(rest).arg(env!("CARGO_BIN_EXE_peerless")).args(arguments);
        command.current_dir(self.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.start(self.command(arguments)).wait()
    }

    /// Starts a command.
    pub fn start(&self, mut command: Command) -> Running {
        let output = tempfile::Builder::new().prefix(".output-").tempdir_in(self.path()).unwrap().keep();
        let (stdout, stderr) = (output.join("stdout"), output.join("stderr"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        Running { child: command.spawn().unwrap(), stdout, stderr }
    }

    /// Trains with the watcher in the foreground; its summary.
    pub fn train(&self, arguments: &[&str]) -> Value {
        self.run(&[&["train", "--json"], arguments].concat()).json()
    }

    /// What is here besides the output of commands.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with(".output-")).collect()
    }

    /// The status of a peer of the run directory `run`.
    pub fn status(&self, run: &str, peer: &str) -> Option<Value> {
        let path = self.path().join(run).join("peers").join(peer).join("status.json");
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Steps that a peer of the run directory `run` says to have taken.
    pub fn steps(&self, run: &str, peer: &str) -> u64 {
        self.status(run, peer).and_then(|status| status["steps"].as_u64()).unwrap_or_default()
    }

    /// Kinds of the events in the ledger of a peer of the run directory `run`.
    pub fn events(&self, run: &str, peer: &str) -> Vec<String> {
        let ledger = ledger_path(&self.path().join(run).join("peers").join(peer));
        let events = Ledger::open_read_only(&ledger).and_then(|ledger| ledger.last_events(100_000));
        events.unwrap().into_iter().map(|event| event.kind).collect()
    }

    /// Waits until some peer of `run` has taken `steps` optimizer steps.
    pub fn wait_for_steps(&self, run: &str, peers: usize, steps: u64) {
        wait_until(&format!("{steps} steps"), || {
            let reached = |peer: usize| self.status(run, &peer.to_string())?["steps"].as_u64();
            (1..=peers).filter_map(reached).any(|reached| reached >= steps)
        });
    }

    /// Ids of all processes whose command line names a path below this directory: watchers and peers.
    pub fn processes(&self) -> Vec<Pid> {
        let here = self.path().to_string_lossy().into_owned();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let below = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            !line.is_empty() && (String::from_utf8_lossy(&line).contains(&here) || folder.starts_with(&here))
        };
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(below).filter_map(Pid::from_raw).collect()
    }

    /// Removes what the peers that were started here have in shared memory.
    pub fn remove_tensors(&self) {
        let folders = |path: PathBuf| fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        let runs = folders(self.path().into()).chain(folders(self.path().join("runs")));
        let peers = runs.flat_map(|run| folders(run.path().join("peers")));
        peers.for_each(|peer| remove_tensors(&peer.path()));
    }

    /// Kills everything that was started here: watchers, peers, functions.
    pub fn kill_everything(&self) {
        wait_until("all processes have died", || {
            let processes = self.processes();
            for &pid in &processes {
                // It may have ended by itself in between.
                let _ = kill_process(pid, Signal::KILL);
            }
            processes.is_empty()
        });
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        self.kill_everything();
        self.remove_tensors();
    }
}

/// Checks that a run with these flags ended with the right state everywhere; its summary.
pub fn same_state(training: Running, flags: &[&str]) -> Value {
    let summary = training.wait().json();
    assert_eq!(summary["state_digest"], undisturbed(flags), "{summary:#}");
    let peers = summary["peers"].as_array().unwrap();
    assert!(peers.iter().all(|peer| peer["exit"] == "finished"), "{summary:#}");
    summary
}

/// Checks that the bill has what failed invocations cost, at prices of AWS Lambda where nothing has one.
pub fn bill_shows_failures(place: &Workplace) {
    let bill = place.run(&["cost", "run", "--as", "lambda-x86:1769", "--json"]).json();
    let failed = &bill["wasted"]["failed"];
    assert!(failed["invocations"].as_u64() > Some(0), "{bill:#}");
    assert!(failed["usd"].as_str() > Some("0.000000000000"), "{bill:#}");
}

/// The final state of one peer that nothing happens to, of a run with these flags. Trained once.
pub fn undisturbed(flags: &[&str]) -> String {
    static KNOWN: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let train = || {
        let summary = Workplace::new().train(&[&["--peers", "1"], flags].concat());
        summary["state_digest"].as_str().unwrap().to_owned()
    };
    known.entry(flags.join(" ")).or_insert_with(train).clone()
}

/// Says on the terminal, even if the test passes, that it could not do what its name says.
pub fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    // Unlike that of `eprintln!`, this output is not captured. If nobody can read it, nobody does.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// Removes what a peer with this directory has in shared memory.
fn remove_tensors(peer: &Path) {
    let Ok(real) = peer.canonicalize() else { return };
    let digest = Digest::of(real.as_os_str().as_encoded_bytes()).to_string();
    let _ = fs::remove_dir_all(format!("/dev/shm/peerless-{}", &digest[..32]));
}

impl Running {
    /// Waits until the command ends.
    pub fn wait(mut self) -> Ended {
        let start = Instant::now();
        let code = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status.code(),
                None if start.elapsed() > LIMIT => panic!("still running: {}", self.stderr()),
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        Ended { code, stdout: fs::read_to_string(&self.stdout).unwrap(), stderr: self.stderr() }
    }

    /// Whether the command has not ended yet.
    pub fn is_running(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The state is behind the name, which is in brackets; Z is a process that has ended and was not waited for.
        state.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition that another process brings about.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
